use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, Body, HttpClient, StatusCode};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use keyward_core::{Code, Error, Result, VaultHost, address};
use url::Url;

use crate::egress::VAULT_DEADLINE;
use crate::gate::Gate;
use crate::request::{Request, RequestBody, Response, Target};
use crate::{Egress, failure, parse_retry_after};

/// The largest answer of a vault: a page of 25, or a certificate with its chain, is far below.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// The id under which Key Vault's own log knows a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");

/// The Azure SDK's way to one vault, and to nowhere else.
///
/// A request whose scheme, host or port is another than the vault's is refused before anything is sent, with or without
/// a token (a `nextLink` comes from outside). One try has one deadline of 10 s and an answer at most 1 MiB. What the
/// vault says about throttling closes the vault's gate for every caller. No retries: those are the provider's.
pub struct VaultTransport {
    egress: Arc<Egress>,
    host: VaultHost,
    origin: Option<Url>,
    gate: Arc<Gate>,
}

impl VaultTransport {
    pub(crate) fn new(egress: Arc<Egress>, host: VaultHost, gate: Arc<Gate>) -> Self {
        let origin = Url::parse(&format!("https://{host}/")).ok();
        Self { egress, host, origin, gate }
    }

    /// Sends one request and reads the answer whole, whatever its status.
    ///
    /// # Errors
    /// `KW_ORIGIN_REFUSED`, `KW_VAULT_THROTTLED` while the vault's gate stays closed, `KW_VAULT_PROTOCOL` for a
    /// redirect or an answer that is not JSON where it should be, and what [`Egress::send`] says.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response> {
        self.check_origin(url)?;
        headers.entry(REQUEST_ID).or_insert_with(request_id);
        let mut request = Request::new(Target::Vault, method, url.clone());
        request.headers = headers;
        request.body = if body.is_empty() { RequestBody::Empty } else { RequestBody::Plain(body) };
        request.deadline = VAULT_DEADLINE;
        request.max_response = ANSWER_LIMIT;

        let pass = self.gate.enter().await?;
        let response = self.egress.exchange(request, Some(pass.gate())).await?;
        match response.status {
            429 | 503 => {
                let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
                self.gate.refused(response.status, parse_retry_after(header, self.egress.clock().wall()));
            }
            _ => self.gate.accepted(),
        }
        drop(pass);
        self.sensible(response)
    }

    fn check_origin(&self, url: &Url) -> Result<()> {
        let same = self.origin.as_ref().is_some_and(|own| {
            own.scheme() == url.scheme()
                && own.host() == url.host()
                && own.port_or_known_default() == url.port_or_known_default()
        });
        if same {
            return Ok(());
        }
        let message = format!(
            "a request meant for {} was to go to {}; nothing was sent",
            self.host,
            address::show(url),
        );
        Err(Error::new(Code::OriginRefused, message))
    }

    fn sensible(&self, mut response: Response) -> Result<Response> {
        let protocol = |what: &str| Error::new(Code::VaultProtocol, format!("{} answered {what}", self.host));
        if (300..400).contains(&response.status) {
            return Err(protocol("with a redirect, which is never followed; a proxy may be in the way"));
        }
        if response.body.is_empty() || response.is_json() {
            return Ok(response);
        }
        if response.is_success() {
            return Err(protocol("with something that is not JSON; a proxy may be in the way"));
        }
        // The status still counts; the words of whoever wrote this body do not.
        response.body = Bytes::new();
        Ok(response)
    }
}

#[async_trait]
impl HttpClient for VaultTransport {
    async fn execute_request(
        &self,
        request: &azure_core::http::Request,
    ) -> azure_core::Result<AsyncRawResponse> {
        let sent = async {
            let method = Method::from_bytes(request.method().as_ref().as_bytes())
                .map_err(|_| Error::new(Code::Internal, "the SDK asked for an unknown method"))?;
            let Body::Bytes(body) = request.body() else {
                return Err(Error::new(Code::Internal, "the SDK asked to stream a request"));
            };
            self.send(method, request.url(), outgoing(request.headers())?, body.clone()).await
        };
        let response = sent.await.map_err(into_azure)?;
        let status = StatusCode::from(response.status);
        Ok(AsyncRawResponse::from_bytes(status, incoming(&response.headers), response.body))
    }
}

impl fmt::Debug for VaultTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultTransport({})", self.host)
    }
}

/// The error of ours that an error of the SDK carries, if it came from the transport or a credential of ours.
#[must_use]
pub fn recover(error: &azure_core::Error) -> Option<Error> {
    let error: &(dyn StdError + 'static) = error;
    failure::ours(error)
}

/// `Other`, so that no policy of the SDK takes it for something to try again.
fn into_azure(error: Error) -> azure_core::Error {
    azure_core::Error::with_error(ErrorKind::Other, error, "the request was not completed")
}

fn outgoing(headers: &Headers) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let bad = || Error::new(Code::Internal, "the SDK set a header that HTTP does not allow");
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value.as_str()).map_err(|_| bad())?;
        value.set_sensitive(name == http::header::AUTHORIZATION);
        map.insert(name, value);
    }
    Ok(map)
}

/// Headers that are not text are left out; of several with one name the first counts.
fn incoming(map: &HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for name in map.keys() {
        if let Some(value) = map.get(name).and_then(|value| value.to_str().ok()) {
            headers.insert(name.as_str().to_owned(), value.to_owned());
        }
    }
    headers
}

/// A random UUID (RFC 9562 version 4).
fn request_id() -> HeaderValue {
    let id = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let group = |shift: u32, mask: u128| (id >> shift) & mask;
    let text = format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        group(96, 0xffff_ffff),
        group(80, 0xffff),
        group(64, 0xffff),
        group(48, 0xffff),
        group(0, 0xffff_ffff_ffff),
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("00000000-0000-4000-8000-000000000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        for _ in 0..100 {
            let id = request_id();
            let id = id.to_str().unwrap();
            assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn an_error_of_ours_survives_the_way_through_the_sdk() {
        let error =
            into_azure(Error::new(Code::OriginRefused, "nothing was sent")).with_context("wrapped again");
        assert_eq!(recover(&error).unwrap().code(), Code::OriginRefused);
        assert!(recover(&azure_core::Error::with_message(ErrorKind::Other, "theirs")).is_none());
    }
}
