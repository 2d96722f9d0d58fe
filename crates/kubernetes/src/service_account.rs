use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::api::{Api, Ask, Failure};

/// A pod waits for this answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a service account says about its identity in Azure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceAccountFacts {
    /// `azure.workload.identity/client-id`.
    pub client_id: Option<String>,
    /// `azure.workload.identity/tenant-id`.
    pub tenant_id: Option<String>,
}

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub(crate) async fn get(
    api: &Api,
    namespace: &str,
    name: &str,
) -> Result<Option<ServiceAccountFacts>, Failure> {
    let ask = Ask { verb: "get", resource: "serviceaccounts", group: "" };
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}");
    let account: Account = match api.get(ask, &path, PATIENCE).await {
        Ok(account) => account,
        Err(failure) if failure.is_absent() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let mut annotations = account.metadata.annotations;
    let mut take = |key: &str| {
        annotations.remove(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    Ok(Some(ServiceAccountFacts {
        client_id: take("azure.workload.identity/client-id"),
        tenant_id: take("azure.workload.identity/tenant-id"),
    }))
}
