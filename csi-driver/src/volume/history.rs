#![expect(clippy::arithmetic_side_effects, reason = "counts of versions, which a listing bounds")]

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::{ObjectRef, Provider, Result, VersionInfo};

use crate::plan::Plan;
use crate::request::Pod;
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
    /// Lists the versions of every object with a history, on behalf of the pod. They are charged before they are asked
    /// for.
    ///
    /// # Errors
    /// What the provider says, with the object; `KW_NO_SPACE`.
    pub(crate) async fn list(
        plan: &Plan,
        provider: &Arc<dyn Provider>,
        account: &Account,
        pod: &Pod,
    ) -> Result<Self> {
        let mut charge = account.charge(Kind::Cached, plan.histories().count() * MOST * VERSION)?;
        let lists = plan.histories().map(|object| async move {
            // A pinned version is where a history begins; the list is of the object.
            let all = ObjectRef::new(object.host().clone(), object.collection(), object.name(), None)?;
            let versions = provider.versions(&all, MOST).await?;
            Ok((object.to_string(), Arc::new(versions)))
        });
        let lists = pod.asks().scope(join_all(lists)).await;
        let lists: BTreeMap<_, _> = lists.into_iter().collect::<Result<_>>()?;
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use keyward_core::config::node::parse;
    use keyward_core::{Collection, FetchRequest, Fetched, ObjectMetadata, Priority, VaultHost};
    use parking_lot::Mutex;

    use super::*;
    use crate::identities;
    use crate::plan::{Basis, ClassText};
    use crate::request::{Asked, Source};

    /// Notes on whose behalf it is asked.
    #[derive(Default)]
    struct Noting(Mutex<Vec<Option<Arc<str>>>>);

    impl Noting {
        fn note(&self) {
            self.0.lock().push(Priority::current().asker());
        }
    }

    #[async_trait]
    impl Provider for Noting {
        fn name(&self) -> &'static str {
            "noting"
        }

        async fn fetch(&self, _: &FetchRequest) -> Result<Fetched> {
            unreachable!("nothing is read")
        }

        async fn list(&self, _: &VaultHost, _: Collection, _: usize) -> Result<Vec<ObjectMetadata>> {
            unreachable!("nothing is listed")
        }

        async fn versions(&self, _: &ObjectRef, _: usize) -> Result<Vec<VersionInfo>> {
            self.note();
            Ok(Vec::new())
        }

        fn list_cost(&self, _: usize) -> usize {
            1
        }

        async fn prepare(&self, _: &VaultHost) {
            self.note();
        }

        async fn warm_up(&self, _: &VaultHost) {
            self.note();
        }
    }

    #[tokio::test]
    async fn what_a_pod_makes_the_driver_look_up_takes_the_share_of_that_pod() {
        let pod = Pod {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: "uid-1".to_owned(),
            service_account: "web".to_owned(),
        };
        let parameters = [
            ("keyvaultName", "shop"),
            ("tenantId", "11111111-2222-3333-4444-555555555555"),
            ("clientID", "22222222-2222-3333-4444-555555555555"),
            ("objects", "array:\n- |\n  objectName: a\n  objectType: secret\n  objectVersionHistory: 2\n"),
        ];
        let basis = Basis {
            source: Source::Class("shop".to_owned()),
            asked: Asked::default(),
            group: None,
            principal: None,
            class: Some(ClassText {
                name: "shop".to_owned(),
                provider: "azure".to_owned(),
                parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            }),
            account: None,
        };
        let plan = Plan::make(&basis, &pod, &parse(b"{}").unwrap()).unwrap();
        let noting = Arc::<Noting>::default();
        let provider: Arc<dyn Provider> = noting.clone();
        assert!(Histories::list(&plan, &provider, &Account::unlimited(), &pod).await.is_ok());
        identities::prepare(&provider, plan.hosts(), &pod).await;
        assert_eq!(*noting.0.lock(), [Some("pod uid-1".into()), Some("pod uid-1".into())]);
    }
}
