use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Method};
use keyward_core::backoff::RetryPolicy;
use keyward_core::{Clock, Code, Error, Result};
use keyward_egress::{Egress, PlainHttp, Request, Response, Target, parse_retry_after};
use url::Url;

use crate::exchange::{Exchange, Issued};
use crate::response::{ANSWER_LIMIT, parse_token_error, parse_token_response};
use crate::retry::{Again, Attempt, Failed, until_done};
use crate::settings::{ManagedEndpoint, Selector};

/// One try, from the call to the last byte; the connection alone gets 2 s from egress.
const DEADLINE: Duration = Duration::from_secs(10);

/// 404, 408, 429, 5xx and time-outs: three more tries, the first after a second or two, as Microsoft's guidance asks.
pub(crate) const POLICY: RetryPolicy = RetryPolicy {
    attempts: 4,
    base: Duration::from_secs(2),
    cap: Duration::from_secs(10),
    budget: Duration::from_secs(25),
};

/// Tokens of managed identities, from the metadata service or App Service. Never through a proxy.
pub(crate) struct Managed {
    endpoint: ManagedEndpoint,
    /// With everything but the resource.
    url: Url,
    selected: &'static str,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
}

impl Managed {
    pub(crate) fn new(
        selector: Selector,
        endpoint: ManagedEndpoint,
        egress: Arc<Egress>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (address, version, resource_id) = match &endpoint {
            ManagedEndpoint::Imds { base_url } => {
                let path = format!("{}/metadata/identity/oauth2/token", base_url.trim_end_matches('/'));
                (path, "2018-02-01", "msi_res_id")
            }
            ManagedEndpoint::AppService { endpoint, .. } => (endpoint.clone(), "2019-08-01", "mi_res_id"),
        };
        let mut url = Url::parse(&address)
            .map_err(|_| Error::new(Code::ConfigInvalid, "the metadata service's address is not a URL"))?;
        let selected = match &selector {
            Selector::System => "",
            Selector::ClientId(_) => "client_id",
            Selector::ObjectId(_) => "object_id",
            Selector::ResourceId(_) => resource_id,
        };
        url.query_pairs_mut().append_pair("api-version", version);
        if let Selector::ClientId(id) | Selector::ObjectId(id) | Selector::ResourceId(id) = &selector {
            url.query_pairs_mut().append_pair(selected, id);
        }
        Ok(Self { endpoint, url, selected, egress, clock })
    }

    fn request(&self, resource: &str) -> Result<Request> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("resource", resource);
        let request = Request::new(Target::Imds, Method::GET, url);
        let mut request = match &self.endpoint {
            ManagedEndpoint::Imds { .. } => {
                request.header(HeaderName::from_static("metadata"), HeaderValue::from_static("true"))
            }
            ManagedEndpoint::AppService { header, .. } => {
                let mut value = HeaderValue::from_bytes(header.expose())
                    .map_err(|_| Error::new(Code::ConfigInvalid, "IDENTITY_HEADER cannot be a header"))?;
                value.set_sensitive(true);
                request.header(HeaderName::from_static("x-identity-header"), value)
            }
        };
        request.plain_http = PlainHttp::MetadataService;
        request.deadline = DEADLINE;
        request.max_response = ANSWER_LIMIT;
        Ok(request)
    }

    fn unreachable(&self, error: &Error) -> Failed {
        let address = self.url.host_str().unwrap_or("?");
        let what = match &self.endpoint {
            ManagedEndpoint::Imds { .. } => format!(
                "the metadata service at {address} cannot be reached; this is no Azure machine, or a network policy blocks it"
            ),
            ManagedEndpoint::AppService { .. } => {
                format!("the identity endpoint at {address} cannot be reached; check IDENTITY_ENDPOINT")
            }
        };
        // Nobody is there: a second try would only delay that news.
        Failed::never(Error::new(Code::TokenUnavailable, what).detail(error))
    }

    fn refused(&self, response: &Response) -> Failed {
        let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
        let wait = parse_retry_after(header, self.clock.wall());
        let status = response.status;
        let transient = |code, what: &str| {
            Error::new(code, format!("the metadata service {what} (status {status})")).retry_after(wait)
        };
        match status {
            429 => Failed::policy(transient(Code::TokenThrottled, "asks to slow down")),
            404 | 408 | 500..=599 => Failed::policy(transient(Code::TokenUnavailable, "fails")),
            410 => Failed {
                error: transient(Code::TokenUnavailable, "is being updated"),
                again: Again::Updating,
            },
            400 => Failed::never(self.bad_request(response)),
            300..=399 => Failed::never(Error::new(
                Code::TokenProtocol,
                format!(
                    "the metadata service answered with a redirect (status {status}), which is never followed"
                ),
            )),
            _ => Failed::never(Error::new(
                Code::TokenRefused,
                format!(
                    "the metadata service refused the token request (status {status}); check IDENTITY_HEADER or who may reach the service"
                ),
            )),
        }
    }

    /// 400 covers a wrong resource, an identity that is not assigned, and several among which none was chosen.
    fn bad_request(&self, response: &Response) -> Error {
        let said = parse_token_error(&response.body);
        match (said.error.as_deref(), self.selected) {
            (Some("invalid_resource"), _) => Error::new(
                Code::TokenRefused,
                "the metadata service does not know the vault's resource (invalid_resource); check the cloud",
            ),
            (_, "") => Error::new(
                Code::IdentityNotAssigned,
                "no identity could be chosen on this machine: assign one, or name one of several by its client id",
            ),
            (_, selected) => Error::new(
                Code::IdentityNotAssigned,
                format!("no identity with this {selected} is assigned to this machine"),
            ),
        }
    }
}

#[async_trait]
impl Exchange for Managed {
    async fn exchange(&self, resource: &str) -> Result<Issued> {
        until_done(&POLICY, self, resource).await
    }
}

#[async_trait]
impl Attempt for Managed {
    async fn attempt(&self, resource: &str) -> std::result::Result<Issued, Failed> {
        let request = self.request(resource).map_err(Failed::never)?;
        match self.egress.send(request).await {
            Ok(response) if response.status == 200 => {
                parse_token_response(&response.body, self.clock.wall()).map_err(Failed::policy)
            }
            Ok(response) => Err(self.refused(&response)),
            Err(error) if error.code() == Code::Connect => Err(self.unreachable(&error)),
            Err(error) if error.code() == Code::Timeout => Err(Failed::policy(error)),
            Err(error) => Err(Failed::never(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::SystemClock;
    use keyward_core::observe::Silent;
    use keyward_egress::EgressSettings;

    fn managed(selector: Selector) -> Managed {
        let clock = Arc::new(SystemClock);
        let egress = Egress::new(EgressSettings::default(), clock.clone(), Arc::new(Silent)).unwrap();
        Managed::new(selector, ManagedEndpoint::imds(), egress, clock).unwrap()
    }

    fn answer(status: u16, body: &'static str) -> (Code, Again) {
        let response = Response { status, headers: http::HeaderMap::new(), body: body.into() };
        let failed = managed(Selector::ClientId("c".to_owned())).refused(&response);
        (failed.error.code(), failed.again)
    }

    #[test]
    fn each_status_is_retried_as_documented() {
        for status in [404, 408, 500, 503, 504] {
            assert_eq!(answer(status, ""), (Code::TokenUnavailable, Again::Policy), "{status}");
        }
        assert_eq!(answer(429, ""), (Code::TokenThrottled, Again::Policy));
        assert_eq!(answer(410, ""), (Code::TokenUnavailable, Again::Updating));
        assert_eq!(answer(302, ""), (Code::TokenProtocol, Again::Never));
        for status in [401, 403, 405] {
            assert_eq!(answer(status, ""), (Code::TokenRefused, Again::Never), "{status}");
        }
        assert_eq!(answer(400, r#"{"error":"invalid_request"}"#), (Code::IdentityNotAssigned, Again::Never));
        assert_eq!(answer(400, r#"{"error":"invalid_resource"}"#), (Code::TokenRefused, Again::Never));
    }

    #[test]
    fn the_request_is_the_documented_one() {
        let request = managed(Selector::ResourceId("/s/x y".to_owned()))
            .request("https://vault.azure.net")
            .ok()
            .unwrap();
        assert_eq!(
            request.url.as_str(),
            "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&msi_res_id=%2Fs%2Fx+y&resource=https%3A%2F%2Fvault.azure.net"
        );
        assert_eq!(request.headers["metadata"], "true");
        assert!(!request.headers.contains_key("x-identity-header"));
    }
}
