use std::sync::Arc;

use azure_core::error::ErrorKind;
use azure_core::http::pager::{PagerContinuation, PagerOptions};
use azure_core::http::policies::Policy;
use azure_core::http::{
    ClientMethodOptions, ClientOptions, Context, HttpClient, RetryOptions, Transport, Url, UserAgentOptions,
};
use azure_security_keyvault_certificates::models::{
    CertificateClientGetCertificateOptions, CertificateClientListCertificatePropertiesOptions,
    CertificateClientListCertificatePropertiesVersionsOptions,
};
use azure_security_keyvault_certificates::{CertificateClient, CertificateClientOptions};
use azure_security_keyvault_keys::models::{
    KeyClientGetKeyOptions, KeyClientListKeyPropertiesOptions, KeyClientListKeyPropertiesVersionsOptions,
};
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions};
use azure_security_keyvault_secrets::models::{
    SecretClientGetSecretOptions, SecretClientListSecretPropertiesOptions,
    SecretClientListSecretPropertiesVersionsOptions,
};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use futures::StreamExt;
use keyward_core::{Code, Collection, Error, ObjectRef, Result};

use super::pipeline::{Answer, Gatekeeper, Pocket, sdk_failure};
use super::session::Session;

/// The official clients of one vault, behind one transport and one [`Gatekeeper`].
pub(super) struct Clients {
    secrets: SecretClient,
    keys: KeyClient,
    certificates: CertificateClient,
}

/// What to list.
#[derive(Clone, Copy)]
pub(super) enum Listing<'a> {
    /// The objects of a collection.
    Objects(Collection),
    /// The versions of an object.
    Versions(&'a ObjectRef),
}

impl Clients {
    pub(super) fn new(
        session: &Arc<Session>,
        transport: Arc<dyn HttpClient>,
        api_version: &str,
        verify: bool,
    ) -> Result<Self> {
        let gatekeeper: Arc<dyn Policy> = Arc::new(Gatekeeper::new(Arc::clone(session)));
        let client_options = || ClientOptions {
            per_try_policies: vec![Arc::clone(&gatekeeper)],
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::clone(&transport))),
            user_agent: UserAgentOptions { application_id: Some("keyward".to_owned()) },
            ..Default::default()
        };
        let endpoint = session.endpoint.as_str();
        let credential = || Arc::new(session.in_hand.clone());
        let secrets = SecretClientOptions {
            api_version: api_version.to_owned(),
            client_options: client_options(),
            verify_challenge_resource: Some(verify),
        };
        let keys = KeyClientOptions {
            api_version: api_version.to_owned(),
            client_options: client_options(),
            verify_challenge_resource: Some(verify),
        };
        let certificates = CertificateClientOptions {
            api_version: api_version.to_owned(),
            client_options: client_options(),
            verify_challenge_resource: Some(verify),
        };
        let refused = |error: azure_core::Error| sdk_failure(&error);
        Ok(Self {
            secrets: SecretClient::new(endpoint, credential(), Some(secrets)).map_err(refused)?,
            keys: KeyClient::new(endpoint, credential(), Some(keys)).map_err(refused)?,
            certificates: CertificateClient::new(endpoint, credential(), Some(certificates))
                .map_err(refused)?,
        })
    }

    /// Gets an object at its pinned or current version. Its name and version were validated when the reference was
    /// made, which matters because the SDK puts them into the path as they are.
    pub(super) async fn get(&self, object: &ObjectRef) -> Result<Answer> {
        let (name, version) = (object.name(), object.version().map(ToString::to_string));
        pocketed(|method_options| async move {
            match object.collection() {
                Collection::Secrets => {
                    let options = SecretClientGetSecretOptions {
                        method_options,
                        secret_version: version,
                        ..Default::default()
                    };
                    self.secrets.get_secret(name, Some(options)).await.map(drop)
                }
                Collection::Keys => {
                    let options = KeyClientGetKeyOptions { method_options, key_version: version };
                    self.keys.get_key(name, Some(options)).await.map(drop)
                }
                Collection::Certificates => {
                    let options = CertificateClientGetCertificateOptions {
                        method_options,
                        certificate_version: version,
                    };
                    self.certificates.get_certificate(name, Some(options)).await.map(drop)
                }
            }
        })
        .await
    }

    /// Gets one page: the first, or the one that `link` leads to.
    pub(super) async fn page(&self, listing: Listing<'_>, link: Option<&Url>) -> Result<Answer> {
        let continuation = link.cloned().map(PagerContinuation::Link);
        pocketed(|method| async move {
            let method_options = PagerOptions { context: method.context, continuation };
            match listing {
                Listing::Objects(Collection::Secrets) => {
                    let options =
                        SecretClientListSecretPropertiesOptions { method_options, ..Default::default() };
                    first(self.secrets.list_secret_properties(Some(options))?.into_pages()).await
                }
                Listing::Objects(Collection::Keys) => {
                    let options = KeyClientListKeyPropertiesOptions { method_options, ..Default::default() };
                    first(self.keys.list_key_properties(Some(options))?.into_pages()).await
                }
                Listing::Objects(Collection::Certificates) => {
                    let options = CertificateClientListCertificatePropertiesOptions {
                        method_options,
                        ..Default::default()
                    };
                    first(self.certificates.list_certificate_properties(Some(options))?.into_pages()).await
                }
                Listing::Versions(object) => {
                    let name = object.name();
                    match object.collection() {
                        Collection::Secrets => {
                            let options = SecretClientListSecretPropertiesVersionsOptions {
                                method_options,
                                ..Default::default()
                            };
                            let pager = self.secrets.list_secret_properties_versions(name, Some(options))?;
                            first(pager.into_pages()).await
                        }
                        Collection::Keys => {
                            let options = KeyClientListKeyPropertiesVersionsOptions {
                                method_options,
                                ..Default::default()
                            };
                            let pager = self.keys.list_key_properties_versions(name, Some(options))?;
                            first(pager.into_pages()).await
                        }
                        Collection::Certificates => {
                            let options = CertificateClientListCertificatePropertiesVersionsOptions {
                                method_options,
                                ..Default::default()
                            };
                            let pager = self
                                .certificates
                                .list_certificate_properties_versions(name, Some(options))?;
                            first(pager.into_pages()).await
                        }
                    }
                }
            }
        })
        .await
    }
}

/// Runs one call of the SDK and takes its answer out of the pocket.
async fn pocketed<F>(call: impl FnOnce(ClientMethodOptions<'static>) -> F) -> Result<Answer>
where
    F: Future<Output = azure_core::Result<()>>,
{
    let pocket = Arc::new(Pocket::default());
    let context = Context::new().with_value(Arc::clone(&pocket));
    call(ClientMethodOptions { context }).await.map_err(|error| sdk_failure(&error))?;
    pocket.take().ok_or_else(|| Error::new(Code::Internal, "the Key Vault client made no request"))
}

/// The first page of a pager. It never goes on by itself: the SDK sees no link to a next page.
async fn first<P>(
    mut pages: impl futures::Stream<Item = azure_core::Result<P>> + Unpin,
) -> azure_core::Result<()> {
    let missing = || azure_core::Error::with_message(ErrorKind::Other, "no page");
    pages.next().await.ok_or_else(missing)?.map(drop)
}
