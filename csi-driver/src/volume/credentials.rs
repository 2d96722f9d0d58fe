use keyward_core::{Code, Error, Result, SecretBytes};
use keyward_identity::{Credential, PodToken, parse_assertion_claims, parse_service_account_tokens};

use crate::plan::Way;
use crate::request::{Pod, Wanted};

/// What a pod brought with its last publish. There is no `Debug`.
#[derive(Clone, Default)]
pub(crate) struct Presented {
    tokens: Vec<PodToken>,
    secret: Option<SecretBytes>,
}

impl Presented {
    /// Takes what a request brings, from where kubelet puts it.
    ///
    /// # Errors
    /// `KW_IDENTITY_FILE` when kubelet's token document is none.
    pub(crate) fn of(wanted: &Wanted, tokens_in_secrets: bool) -> Result<Self> {
        let tokens = wanted.tokens(tokens_in_secrets).map(|text| parse_service_account_tokens(text.expose()));
        Ok(Self {
            tokens: tokens.transpose()?.unwrap_or_default(),
            secret: wanted.principal.as_ref().map(|principal| principal.secret.clone()),
        })
    }
}

/// The credential that a way needs, if it is the pod's own. Whether it is genuine, the exchange will tell.
///
/// # Errors
/// `KW_TOKEN_MISSING` naming the audience to request; `KW_CLAIMS_MISMATCH` when the token names somebody else than the
/// volume context does; `KW_IDENTITY_MISSING` without a client secret.
pub(crate) fn credential(way: &Way, presented: &Presented, pod: &Pod) -> Result<Credential> {
    match way {
        Way::Token { audiences, .. } => {
            let find = |audience: &&str| presented.tokens.iter().find(|token| token.audience == **audience);
            let token = audiences.iter().find_map(find).ok_or_else(|| {
                let wanted = audiences.first().copied().unwrap_or_default();
                Error::new(
                    Code::TokenMissing,
                    format!("kubelet passed no token with the audience {wanted}; add `{{audience: {wanted}}}` to tokenRequests of the CSIDriver object"),
                )
            })?;
            check_claims(&token.token, pod)?;
            Ok(Credential::ServiceAccountToken(token.token.clone()))
        }
        Way::Secret { .. } => match &presented.secret {
            Some(secret) => Ok(Credential::ClientSecret(secret.clone())),
            None => Err(Error::new(
                Code::IdentityMissing,
                "the volume's nodePublishSecretRef brings no client secret; its Secret needs clientid and clientsecret",
            )),
        },
        Way::Managed { .. } => Ok(Credential::None),
    }
}

/// The names that kubelet wrote over the volume's attributes must be those in the token.
fn check_claims(token: &SecretBytes, pod: &Pod) -> Result<()> {
    let mismatch = |what: &str| {
        Error::new(
            Code::ClaimsMismatch,
            format!(
                "the token that was passed belongs to another {what} than the volume of pod {}/{}",
                pod.namespace, pod.name
            ),
        )
    };
    let claims = parse_assertion_claims(token.expose()).ok_or_else(|| {
        Error::new(Code::ClaimsMismatch, "what was passed as a service account token is none")
    })?;
    // Every token that kubelet passes is bound to its pod and says so; one that does not is not from there.
    let names = |claim: &Option<String>, own: &str| claim.as_deref() == Some(own);
    if !names(&claims.namespace, &pod.namespace) || !names(&claims.service_account, &pod.service_account) {
        return Err(mismatch("service account"));
    }
    let same = |claim: &Option<String>, own: &str| claim.as_deref().is_none_or(|claim| claim == own);
    if !same(&claims.pod_uid, &pod.uid) || !same(&claims.pod_name, &pod.name) {
        return Err(mismatch("pod"));
    }
    Ok(())
}
