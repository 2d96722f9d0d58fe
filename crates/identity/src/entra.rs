use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Method, header};
use keyward_core::backoff::RetryPolicy;
use keyward_core::{Clock, Code, Error, Result, SecretBytes};
use keyward_egress::{Egress, Request, RequestBody, Target, Trust};
use parking_lot::Mutex;
use url::Url;

use crate::exchange::{Exchange, Issued};
use crate::file;
use crate::response::{ANSWER_LIMIT, parse_token_response};
use crate::retry::{Attempt, Failed, until_done};
use crate::settings::{CaSource, IdentitySettings};
use crate::{AssertionClaims, parse_assertion_claims, parse_certificate};

mod form;
mod refusal;

use form::Form;

/// One try, from the call to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);

/// Within one exchange; a longer outage is the cache's business.
const POLICY: RetryPolicy = RetryPolicy {
    attempts: 3,
    base: Duration::from_millis(500),
    cap: Duration::from_secs(5),
    budget: Duration::from_secs(10),
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Client credentials at Entra's v2 token endpoint (RFC 6749 §4.4, RFC 7523), or at the proxy that stands for it.
pub(crate) struct Entra {
    settings: IdentitySettings,
    /// `https://login.microsoftonline.com/TENANT/oauth2/v2.0/token`
    endpoint: Url,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
    /// The token proxy's trust, with the CA that it was made from.
    trust: Mutex<Option<(Vec<u8>, Trust)>>,
}

/// What proves who we are, and what to say about it when it is refused.
struct Proof {
    form: Form,
    claims: Option<AssertionClaims>,
}

impl Entra {
    pub(crate) fn new(
        settings: IdentitySettings,
        egress: Arc<Egress>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (base, tenant) = match &settings {
            IdentitySettings::IdentityBinding { proxy_url, tenant_id, .. } => (proxy_url, tenant_id),
            IdentitySettings::WorkloadIdentity { authority_host, tenant_id, .. }
            | IdentitySettings::ServicePrincipalSecret { authority_host, tenant_id, .. }
            | IdentitySettings::ServicePrincipalCertificate { authority_host, tenant_id, .. } => {
                (authority_host, tenant_id)
            }
            IdentitySettings::ManagedIdentity { .. } => {
                return Err(Error::new(Code::Internal, "a managed identity does not ask Entra"));
            }
        };
        let endpoint = Url::parse(&format!("{}/{tenant}/oauth2/v2.0/token", base.trim_end_matches('/')))
            .map_err(|_| Error::new(Code::ConfigInvalid, "the token endpoint is not a URL"))?;
        Ok(Self { settings, endpoint, egress, clock, trust: Mutex::new(None) })
    }

    async fn proof(&self, resource: &str) -> Result<Proof> {
        match &self.settings {
            IdentitySettings::WorkloadIdentity { client_id, token_file, .. }
            | IdentitySettings::IdentityBinding { client_id, token_file, .. } => {
                let what = "the federated token";
                let assertion = file::read_trimmed(token_file, what, "AZURE_FEDERATED_TOKEN_FILE").await?;
                let claims = parse_assertion_claims(assertion.expose());
                let form = form(client_id, resource)
                    .field("client_assertion_type", JWT_BEARER)
                    .secret("client_assertion", &assertion);
                Ok(Proof { form, claims })
            }
            IdentitySettings::ServicePrincipalSecret { client_id, secret_file, .. } => {
                let secret =
                    file::read_trimmed(secret_file, "the client secret", "identity.secretFile").await?;
                Ok(Proof { form: form(client_id, resource).secret("client_secret", &secret), claims: None })
            }
            IdentitySettings::ServicePrincipalCertificate {
                client_id,
                certificate_file,
                password_file,
                send_chain,
                ..
            } => {
                let what = "the client certificate";
                let content = file::read(certificate_file, what, "identity.certificateFile").await?;
                let password = match password_file {
                    Some(path) => {
                        let what = "the certificate's password";
                        Some(file::read_trimmed(path, what, "identity.certificatePasswordFile").await?)
                    }
                    None => None,
                };
                let assertion = self.sign(client_id.clone(), content, password, *send_chain).await?;
                let form = form(client_id, resource)
                    .field("client_assertion_type", JWT_BEARER)
                    .secret("client_assertion", &assertion);
                Ok(Proof { form, claims: None })
            }
            IdentitySettings::ManagedIdentity { .. } => {
                Err(Error::new(Code::Internal, "a managed identity has no proof of its own"))
            }
        }
    }

    /// Off the async threads: opening a PFX derives keys.
    async fn sign(
        &self,
        client_id: String,
        content: SecretBytes,
        password: Option<SecretBytes>,
        send_chain: bool,
    ) -> Result<SecretBytes> {
        let (audience, now) = (self.endpoint.to_string(), self.clock.wall());
        let signing = tokio::task::spawn_blocking(move || {
            let password = password.as_ref().map(|password| {
                password
                    .expose_str()
                    .ok_or_else(|| Error::new(Code::IdentityFile, "the certificate's password is not text"))
            });
            let certificate = parse_certificate(content.expose(), password.transpose()?)?;
            certificate.assertion(&client_id, &audience, now, send_chain)
        });
        signing.await.map_err(|_| Error::new(Code::Internal, "signing was interrupted"))?
    }

    /// The token proxy's trust, made anew when its CA has changed.
    async fn trust(&self) -> Result<Option<Trust>> {
        let IdentitySettings::IdentityBinding { ca, sni_name, .. } = &self.settings else { return Ok(None) };
        let pem = match ca {
            Some(CaSource::File(path)) => {
                let ca = file::read(path, "the token proxy's CA", "AZURE_KUBERNETES_CA_FILE").await?;
                Some(ca.expose().to_vec())
            }
            Some(CaSource::Data(data)) => Some(data.clone().into_bytes()),
            None => None,
        };
        let seen = pem.clone().unwrap_or_default();
        let mut cached = self.trust.lock();
        match &*cached {
            Some((made_from, trust)) if *made_from == seen => Ok(Some(trust.clone())),
            _ => {
                let trust = self.egress.trust(pem.as_deref(), sni_name.as_deref())?;
                *cached = Some((seen, trust.clone()));
                Ok(Some(trust))
            }
        }
    }
}

fn form(client_id: &str, resource: &str) -> Form {
    Form::default()
        .field("grant_type", "client_credentials")
        .field("client_id", client_id)
        .field("scope", &format!("{}/.default", resource.trim_end_matches('/')))
}

#[async_trait]
impl Exchange for Entra {
    async fn exchange(&self, resource: &str) -> Result<Issued> {
        until_done(&POLICY, self, resource).await
    }
}

#[async_trait]
impl Attempt for Entra {
    async fn attempt(&self, resource: &str) -> std::result::Result<Issued, Failed> {
        let trust = self.trust().await.map_err(Failed::never)?;
        let Proof { form, claims } = self.proof(resource).await.map_err(Failed::never)?;
        let mut request = Request::new(Target::Token, Method::POST, self.endpoint.clone())
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            .header(header::ACCEPT, HeaderValue::from_static("application/json"));
        request.body = RequestBody::Secret(form.into_body());
        request.deadline = DEADLINE;
        request.max_response = ANSWER_LIMIT;
        request.trust = trust;
        let response = self.egress.send(request).await.map_err(refusal::of_connection)?;
        if response.status == 200 {
            return parse_token_response(&response.body, self.clock.wall()).map_err(Failed::policy);
        }
        Err(refusal::of_answer(&response, claims.as_ref(), self.clock.wall()))
    }
}
