#![expect(clippy::arithmetic_side_effects, reason = "counts of versions, which a listing bounds")]

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::{ObjectRef, Provider, Result, VersionInfo};

use crate::plan::Plan;
use crate::state::Known;

/// Versions of one object that are looked at: a history asks for far fewer.
const MOST: usize = 500;

/// The version lists that a plan's histories are made of, by the object's identifier.
#[derive(Clone, Default)]
pub(crate) struct Histories {
    lists: BTreeMap<String, Arc<Vec<VersionInfo>>>,
    /// For the lists, as long as they are held.
    _charge: Option<Arc<Charge>>,
}

/// Bytes that one version in a list costs, roughly.
const VERSION: usize = 160;

impl Histories {
    /// Lists the versions of every object with a history. They are charged before they are asked for.
    ///
    /// # Errors
    /// What the provider says, with the object; `KW_NO_SPACE`.
    pub(crate) async fn list(plan: &Plan, provider: &Arc<dyn Provider>, account: &Account) -> Result<Self> {
        let mut charge = account.charge(Kind::Cached, plan.histories().count() * MOST * VERSION)?;
        let lists = plan.histories().map(|object| async move {
            // A pinned version is where a history begins; the list is of the object.
            let all = ObjectRef::new(object.host().clone(), object.collection(), object.name(), None)?;
            let versions = provider.versions(&all, MOST).await?;
            Ok((object.to_string(), Arc::new(versions)))
        });
        let lists: BTreeMap<_, _> = join_all(lists).await.into_iter().collect::<Result<_>>()?;
        charge.resize(Self::cost(&lists))?;
        Ok(Self { lists, _charge: Some(Arc::new(charge)) })
    }

    pub(crate) fn of(&self, object: &ObjectRef) -> Option<Arc<Vec<VersionInfo>>> {
        self.lists.get(&object.to_string()).cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// For the record of the volume.
    pub(crate) fn write(&self) -> BTreeMap<String, Vec<Known>> {
        self.lists
            .iter()
            .map(|(object, versions)| (object.clone(), versions.iter().map(Known::of).collect()))
            .collect()
    }

    /// From the record of the volume, which is charged and never refused.
    pub(crate) fn read(record: &BTreeMap<String, Vec<Known>>, account: &Account) -> Self {
        let lists: BTreeMap<_, _> = record
            .iter()
            .map(|(object, versions)| {
                (object.clone(), Arc::new(versions.iter().filter_map(Known::info).collect()))
            })
            .collect();
        let charge = account.take(Kind::Cached, Self::cost(&lists));
        Self { lists, _charge: Some(Arc::new(charge)) }
    }

    fn cost(lists: &BTreeMap<String, Arc<Vec<VersionInfo>>>) -> usize {
        lists.values().map(|versions| versions.len() * VERSION).sum()
    }
}
