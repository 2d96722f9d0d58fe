use keyward_core::config::injector::{Injection, ManagedIdentity};
use keyward_core::{Code, Error, Result};

use super::Facts;
use crate::admission::annotations::{CLIENT_ID, TENANT_ID};
use crate::admission::pod::Pod;
use crate::admission::wish::Wish;

/// As whom the sidecar asks.
pub(super) struct Identity {
    /// By an identity of the node instead of the pod's token.
    pub(super) managed: bool,
    pub(super) client_id: Option<String>,
    pub(super) tenant_id: Option<String>,
}

/// # Errors
/// `KW_IDENTITY_MISSING` when nobody says who the pod is, `KW_NODE_IDENTITY_REFUSED` when the administrator has not listed
/// the pod for the identity of the node that it asks for.
pub(super) fn of(
    pod: Pod<'_>,
    namespace: &str,
    wish: &Wish,
    injection: &Injection,
    facts: &Facts,
) -> Result<Identity> {
    let account = pod.service_account();
    if wish.managed_identity {
        let asked = ManagedIdentity {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            client_id: wish.client_id.clone(),
        };
        if !injection.managed_identity.contains(&asked) {
            let which = asked.client_id.as_deref().unwrap_or("the system-assigned identity");
            return Err(Error::new(
                Code::NodeIdentityRefused,
                format!(
                    "the administrator has not listed service account {namespace}/{account} for {which} under \
                     managedIdentity; use workload identity instead"
                ),
            ));
        }
        return Ok(Identity { managed: true, client_id: asked.client_id, tenant_id: None });
    }
    let known = |said: &Option<String>, account_says: &Option<String>, annotation: &str, own: &str| {
        said.clone().or_else(|| account_says.clone()).ok_or_else(|| {
            Error::new(
                Code::IdentityMissing,
                format!(
                    "nobody says as whom the pod reads: annotate service account {namespace}/{account} with {annotation}, \
                     or the pod with {own}"
                ),
            )
        })
    };
    Ok(Identity {
        managed: false,
        client_id: Some(known(
            &wish.client_id,
            &facts.client_id,
            "azure.workload.identity/client-id",
            CLIENT_ID,
        )?),
        tenant_id: Some(known(
            &wish.tenant_id,
            &facts.tenant_id,
            "azure.workload.identity/tenant-id",
            TENANT_ID,
        )?),
    })
}
