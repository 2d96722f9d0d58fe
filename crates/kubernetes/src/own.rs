//! The injector's own objects: the Secret with its certificate, the Lease that says who renews it, and the webhook
//! configuration that tells the API server where to ask and whom to trust. All three are made by the chart; here they are read and
//! changed, each change on the condition that nobody else made one meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::api::{Api, Ask, Failure, Metadata};
use crate::names;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is made.
    Done,
    /// Someone else changed the object first: read again.
    Overtaken,
}

/// What the API server is told about a webhook.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    /// Whom to trust, PEM; `None` where someone else says so.
    pub bundle: Option<&'a [u8]>,
    /// The path to ask at, which is a secret between the API server and the injector.
    pub path: &'a str,
}

/// A Secret as it was read.
pub struct OwnSecret {
    /// Its contents, decoded.
    pub data: BTreeMap<String, Zeroizing<Vec<u8>>>,
    resource_version: String,
}

/// The objects of one injector.
#[derive(Clone)]
pub struct OwnObjects {
    api: Api,
    namespace: String,
}

impl OwnObjects {
    pub(crate) fn new(api: Api, namespace: &str) -> Result<Self> {
        names::check("namespace", namespace)?;
        Ok(Self { api, namespace: namespace.to_owned() })
    }

    /// Reads a Secret of our own.
    ///
    /// # Errors
    /// `KW_KUBERNETES_FORBIDDEN` when it is missing or may not be read, `KW_KUBERNETES_UNAVAILABLE` without an answer.
    pub async fn secret(&self, name: &str) -> Result<OwnSecret> {
        let ask = Ask { verb: "get", resource: "secrets", group: "" };
        let secret: Secret = self.api.get(ask, &self.path("/api/v1", "secrets", name)?, PATIENCE).await?;
        let decoded = secret.data.into_iter().filter_map(|(key, text)| {
            let text = Zeroizing::new(text);
            Some((key, Zeroizing::new(STANDARD.decode(text.as_bytes()).ok()?)))
        });
        Ok(OwnSecret { data: decoded.collect(), resource_version: secret.metadata.resource_version })
    }

    /// Puts `data` into a Secret, beside what else it holds.
    ///
    /// # Errors
    /// As [`OwnObjects::secret`].
    pub async fn fill_secret(
        &self,
        name: &str,
        read: &OwnSecret,
        data: &BTreeMap<String, Zeroizing<Vec<u8>>>,
    ) -> Result<Change> {
        let ask = Ask { verb: "patch", resource: "secrets", group: "" };
        let data: serde_json::Map<_, _> =
            data.iter().map(|(key, value)| (key.clone(), json!(STANDARD.encode(value.as_slice())))).collect();
        let body = json!({"metadata": {"resourceVersion": read.resource_version}, "data": data});
        changed(self.api.patch(ask, &self.path("/api/v1", "secrets", name)?, &body, PATIENCE).await)
    }

    /// Takes or renews a Lease for `holder`; `false` when someone else holds it.
    ///
    /// # Errors
    /// As [`OwnObjects::secret`], of Leases.
    #[expect(clippy::indexing_slicing, reason = "the object is made here")]
    pub async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        for_how_long: Duration,
        now: OffsetDateTime,
    ) -> Result<bool> {
        let path = self.path("/apis/coordination.k8s.io/v1", "leases", name)?;
        let group = "coordination.k8s.io";
        let lease: Lease =
            self.api.get(Ask { verb: "get", resource: "leases", group }, &path, PATIENCE).await?;
        if !lease.spec.is_free_for(holder, now) {
            return Ok(false);
        }
        let micro = time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
        );
        let stamp = now.to_offset(time::UtcOffset::UTC).format(micro).map_err(|error| {
            Error::new(keyward_core::Code::Internal, "the time cannot be written").detail(error)
        })?;
        let mut spec = json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": for_how_long.as_secs().max(1),
            "renewTime": stamp,
        });
        if lease.spec.holder_identity.as_deref() != Some(holder) {
            let transitions = lease.spec.lease_transitions.unwrap_or(0).saturating_add(1);
            spec["acquireTime"] = json!(stamp);
            spec["leaseTransitions"] = json!(transitions);
        }
        let body = json!({"metadata": {"resourceVersion": lease.metadata.resource_version}, "spec": spec});
        let ask = Ask { verb: "patch", resource: "leases", group };
        changed(self.api.patch(ask, &path, &body, PATIENCE).await).map(|change| change == Change::Done)
    }

    /// Gives a Lease back, so that nobody waits for it to lapse.
    ///
    /// # Errors
    /// As [`OwnObjects::hold_lease`].
    pub async fn release_lease(&self, name: &str, holder: &str) -> Result<()> {
        let path = self.path("/apis/coordination.k8s.io/v1", "leases", name)?;
        let group = "coordination.k8s.io";
        let lease: Lease =
            self.api.get(Ask { verb: "get", resource: "leases", group }, &path, PATIENCE).await?;
        if lease.spec.holder_identity.as_deref() == Some(holder) {
            let body = json!({
                "metadata": {"resourceVersion": lease.metadata.resource_version},
                "spec": {"holderIdentity": ""},
            });
            let ask = Ask { verb: "patch", resource: "leases", group };
            changed(self.api.patch(ask, &path, &body, PATIENCE).await)?;
        }
        Ok(())
    }

    /// Makes every entry of a MutatingWebhookConfiguration say exactly what `told` says. Nothing is written when they do
    /// already.
    ///
    /// # Errors
    /// As [`OwnObjects::secret`], of MutatingWebhookConfigurations.
    pub async fn tell(&self, webhook: &str, told: Told<'_>) -> Result<Change> {
        names::check("webhook configuration", webhook)?;
        let group = "admissionregistration.k8s.io";
        let path = format!("/apis/{group}/v1/mutatingwebhookconfigurations/{webhook}");
        let ask = Ask { verb: "get", resource: "mutatingwebhookconfigurations", group };
        let configuration: Configuration = self.api.get(ask, &path, PATIENCE).await?;
        let mut webhooks = configuration.webhooks;
        let mut differs = false;
        for entry in &mut webhooks {
            let Some(client) = entry.get_mut("clientConfig").and_then(Value::as_object_mut) else { continue };
            if let Some(bundle) = told.bundle {
                differs |= set(client, "caBundle", STANDARD.encode(bundle));
            }
            if let Some(service) = client.get_mut("service").and_then(Value::as_object_mut) {
                differs |= set(service, "path", told.path.to_owned());
            }
        }
        if !differs {
            return Ok(Change::Done);
        }
        // A merge patch replaces a list as a whole, so it is sent as it was read, and only if it still is what was read.
        let version = configuration.metadata.resource_version;
        let body = json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks});
        let ask = Ask { verb: "patch", ..ask };
        changed(self.api.patch(ask, &path, &body, PATIENCE).await)
    }

    fn path(&self, api: &str, resource: &str, name: &str) -> Result<String> {
        names::check(resource, name)?;
        Ok(format!("{api}/namespaces/{}/{resource}/{name}", self.namespace))
    }
}

fn changed(result: std::result::Result<Value, Failure>) -> Result<Change> {
    match result {
        Ok(_) => Ok(Change::Done),
        Err(failure) if failure.is_conflict() => Ok(Change::Overtaken),
        Err(failure) => Err(failure.into()),
    }
}

/// Sets a text of a mapping; whether it was another before.
fn set(map: &mut serde_json::Map<String, Value>, key: &str, value: String) -> bool {
    let value = Value::String(value);
    if map.get(key) == Some(&value) {
        return false;
    }
    map.insert(key.to_owned(), value);
    true
}

/// A MutatingWebhookConfiguration. Its entries are raw JSON, so that what we do not know survives.
#[derive(Deserialize)]
struct Configuration {
    metadata: Metadata,
    #[serde(default)]
    webhooks: Vec<Value>,
}

#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Lease {
    metadata: Metadata,
    #[serde(default)]
    spec: LeaseSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct LeaseSpec {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<u32>,
    lease_transitions: Option<u32>,
    renew_time: Option<String>,
}

impl LeaseSpec {
    /// Nobody's, ours, or one that its holder has let lapse. What cannot be read counts as lapsed.
    fn is_free_for(&self, holder: &str, now: OffsetDateTime) -> bool {
        match self.holder_identity.as_deref() {
            None | Some("") => true,
            Some(other) if other == holder => true,
            Some(_) => {
                let renewed =
                    self.renew_time.as_deref().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
                let lasts = time::Duration::seconds(self.lease_duration_seconds.unwrap_or(0).into());
                // A moment that is out of range never comes, and is as good as none.
                renewed.and_then(|renewed| renewed.checked_add(lasts)).is_none_or(|until| until <= now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_free_when_nobody_holds_it_when_it_is_ours_and_when_it_has_lapsed() {
        let now = OffsetDateTime::parse("2026-11-26T12:00:30Z", &Rfc3339).unwrap();
        let held = |holder: &str, renewed: &str| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(30),
            lease_transitions: None,
            renew_time: Some(renewed.to_owned()),
        };
        assert!(LeaseSpec::default().is_free_for("us", now));
        assert!(held("", "2026-11-26T12:00:29.000000Z").is_free_for("us", now));
        assert!(held("us", "2026-11-26T12:00:29.000000Z").is_free_for("us", now));
        assert!(!held("them", "2026-11-26T12:00:00.500000Z").is_free_for("us", now));
        assert!(held("them", "2026-11-26T12:00:00.000000Z").is_free_for("us", now));
        assert!(held("them", "never").is_free_for("us", now));
        assert!(held("them", "9999-12-31T23:59:59Z").is_free_for("us", now), "no such moment");
    }
}
