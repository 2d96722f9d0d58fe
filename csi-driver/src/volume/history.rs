use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use keyward_core::{ObjectRef, Provider, Result, VersionInfo};

use crate::plan::Plan;
use crate::state::Known;

/// Versions of one object that are looked at: a history asks for far fewer.
const MOST: usize = 500;

/// The version lists that a plan's histories are made of, by the object's identifier.
#[derive(Clone, Default)]
pub(crate) struct Histories(BTreeMap<String, Arc<Vec<VersionInfo>>>);

impl Histories {
    /// Lists the versions of every object with a history.
    ///
    /// # Errors
    /// What the provider says, with the object.
    pub(crate) async fn list(plan: &Plan, provider: &Arc<dyn Provider>) -> Result<Self> {
        let lists = plan.histories().map(|object| async move {
            // A pinned version is where a history begins; the list is of the object.
            let all = ObjectRef::new(object.host().clone(), object.collection(), object.name(), None)?;
            let versions = provider.versions(&all, MOST).await?;
            Ok((object.to_string(), Arc::new(versions)))
        });
        join_all(lists).await.into_iter().collect::<Result<_>>().map(Self)
    }

    pub(crate) fn of(&self, object: &ObjectRef) -> Option<Arc<Vec<VersionInfo>>> {
        self.0.get(&object.to_string()).cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the record of the volume.
    pub(crate) fn write(&self) -> BTreeMap<String, Vec<Known>> {
        self.0
            .iter()
            .map(|(object, versions)| (object.clone(), versions.iter().map(Known::of).collect()))
            .collect()
    }

    /// From the record of the volume.
    pub(crate) fn read(record: &BTreeMap<String, Vec<Known>>) -> Self {
        let lists = record.iter().map(|(object, versions)| {
            (object.clone(), Arc::new(versions.iter().filter_map(Known::info).collect()))
        });
        Self(lists.collect())
    }
}
