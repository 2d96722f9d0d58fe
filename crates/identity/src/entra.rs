use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Method, header};
use keyward_core::backoff::RetryPolicy;
use keyward_core::{Clock, Code, Error, Result, SecretBytes};
use keyward_egress::{Egress, Request, RequestBody, Target, Trust};
use parking_lot::Mutex;
use url::Url;

use crate::exchange::Issued;
use crate::file;
use crate::proof::ProofSource;
use crate::response::{ANSWER_LIMIT, parse_token_response};
use crate::retry::{Attempt, Failed, until_done};
use crate::settings::CaSource;
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
    client_id: String,
    /// `https://login.microsoftonline.com/TENANT/oauth2/v2.0/token`
    endpoint: Url,
    proxy: Option<Proxy>,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
    /// The token proxy's trust, with the CA that it was made from.
    trust: Mutex<Option<(Vec<u8>, Trust)>>,
}

/// What the token proxy is known by.
struct Proxy {
    ca: Option<CaSource>,
    sni_name: Option<String>,
}

/// What proves who we are, and what to say about it when it is refused.
struct Proof {
    form: Form,
    claims: Option<AssertionClaims>,
}

impl Entra {
    pub(crate) fn new(
        client_id: String,
        tenant_id: &str,
        authority_host: &str,
        egress: Arc<Egress>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let endpoint = format!("{}/{tenant_id}/oauth2/v2.0/token", authority_host.trim_end_matches('/'));
        let endpoint = Url::parse(&endpoint)
            .map_err(|_| Error::new(Code::ConfigInvalid, "the token endpoint is not a URL"))?;
        Ok(Self { client_id, endpoint, proxy: None, egress, clock, trust: Mutex::new(None) })
    }

    /// The same through the cluster's token proxy, whose address was given as the authority.
    pub(crate) fn through_proxy(self, ca: Option<CaSource>, sni_name: Option<String>) -> Self {
        Self { proxy: Some(Proxy { ca, sni_name }), ..self }
    }

    /// A fresh token for `resource`, proved from `source`, with the retries that Entra asks for.
    pub(crate) async fn exchange(&self, source: &ProofSource, resource: &str) -> Result<Issued> {
        until_done(&POLICY, &Try { entra: self, source }, resource).await
    }

    async fn attempt(&self, source: &ProofSource, resource: &str) -> std::result::Result<Issued, Failed> {
        let trust = self.trust().await.map_err(Failed::never)?;
        let Proof { form, claims } = self.proof(source, resource).await.map_err(Failed::never)?;
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
        Err(refusal::of_answer(&response, claims.as_ref(), source.may_change(), self.clock.wall()))
    }

    async fn proof(&self, source: &ProofSource, resource: &str) -> Result<Proof> {
        let form = form(&self.client_id, resource);
        match source {
            ProofSource::TokenFile(path) => {
                let what = "the federated token";
                let assertion = file::read_trimmed(path, what, "AZURE_FEDERATED_TOKEN_FILE").await?;
                Ok(federated(form, &assertion))
            }
            ProofSource::Token(assertion) => Ok(federated(form, assertion)),
            ProofSource::SecretFile(path) => {
                let secret = file::read_trimmed(path, "the client secret", "identity.secretFile").await?;
                Ok(Proof { form: form.secret("client_secret", &secret), claims: None })
            }
            ProofSource::Secret(secret) => {
                Ok(Proof { form: form.secret("client_secret", secret), claims: None })
            }
            ProofSource::CertificateFile { path, password_file, send_chain } => {
                let what = "the client certificate";
                let content = file::read(path, what, "identity.certificateFile").await?;
                let password = match password_file {
                    Some(path) => {
                        let what = "the certificate's password";
                        Some(file::read_trimmed(path, what, "identity.certificatePasswordFile").await?)
                    }
                    None => None,
                };
                let assertion = self.sign(content, password, *send_chain).await?;
                Ok(Proof { form: asserted(form, &assertion), claims: None })
            }
        }
    }

    /// Off the async threads: opening a PFX derives keys.
    async fn sign(
        &self,
        content: SecretBytes,
        password: Option<SecretBytes>,
        send_chain: bool,
    ) -> Result<SecretBytes> {
        let (client_id, audience) = (self.client_id.clone(), self.endpoint.to_string());
        let now = self.clock.wall();
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
        let Some(Proxy { ca, sni_name }) = &self.proxy else { return Ok(None) };
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

fn federated(form: Form, assertion: &SecretBytes) -> Proof {
    Proof { form: asserted(form, assertion), claims: parse_assertion_claims(assertion.expose()) }
}

fn asserted(form: Form, assertion: &SecretBytes) -> Form {
    form.field("client_assertion_type", JWT_BEARER).secret("client_assertion", assertion)
}

fn form(client_id: &str, resource: &str) -> Form {
    Form::default()
        .field("grant_type", "client_credentials")
        .field("client_id", client_id)
        .field("scope", &format!("{}/.default", resource.trim_end_matches('/')))
}

/// One exchange with one proof.
struct Try<'a> {
    entra: &'a Entra,
    source: &'a ProofSource,
}

#[async_trait]
impl Attempt for Try<'_> {
    async fn attempt(&self, resource: &str) -> std::result::Result<Issued, Failed> {
        self.entra.attempt(self.source, resource).await
    }
}
