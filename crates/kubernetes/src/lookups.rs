//! What the injector looks up about one pod.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::api::{Api, Ask, Failure};

/// A pod waits for this answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The API server's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1
    pub major: u32,
    /// 36
    pub minor: u32,
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// One key of a ConfigMap; `None` when there is no such ConfigMap or key.
pub(crate) async fn config_map(
    api: &Api,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, Failure> {
    let ask = Ask { verb: "get", resource: "configmaps", group: "" };
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    match api.get::<ConfigMap>(ask, &path, PATIENCE).await {
        Ok(mut map) => Ok(map.data.remove(key)),
        Err(failure) if failure.is_absent() => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[derive(Deserialize)]
struct VersionInfo {
    major: String,
    minor: String,
}

pub(crate) async fn version(api: &Api) -> Result<Version, Failure> {
    let ask = Ask { verb: "get", resource: "/version", group: "" };
    let info: VersionInfo = api.get(ask, "/version", PATIENCE).await?;
    // Some distributions write "36+".
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
    Ok(Version { major: number(&info.major), minor: number(&info.minor) })
}
