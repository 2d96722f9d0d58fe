use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use keyward_core::{Code, Error, Result, SecretBytes, address};
use url::{Host, Url};

use crate::client::Client;

/// What a request is for: the closed set of labels in metrics, and which code a broken answer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A vault's data plane.
    Vault,
    /// Entra's token endpoint or the cluster's token proxy.
    Token,
    /// The instance metadata service, or App Service's identity endpoint.
    Imds,
    /// An application that wants to be told of changes.
    Notify,
    /// A collector of traces.
    Otlp,
}

impl Target {
    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::Token => "token",
            Self::Imds => "imds",
            Self::Notify => "notify",
            Self::Otlp => "otlp",
        }
    }

    /// The code of an answer that makes no sense.
    #[must_use]
    pub fn protocol_code(self) -> Code {
        match self {
            Self::Vault => Code::VaultProtocol,
            Self::Token | Self::Imds => Code::TokenProtocol,
            Self::Notify => Code::NotifyFailed,
            Self::Otlp => Code::Connect,
        }
    }
}

/// Where a request may use plain HTTP. Everything else is HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlainHttp {
    /// Nowhere.
    Never,
    /// To a metadata service on `localhost` or a loopback, link-local or private address, written as such.
    MetadataService,
    /// To `localhost` or a loopback address, written as such.
    Loopback,
}

/// What a request carries.
#[derive(Clone, Default)]
pub enum RequestBody {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes that are no secret.
    Plain(Bytes),
    /// Bytes that are wiped once sent, such as a form with an assertion.
    Secret(SecretBytes),
}

impl RequestBody {
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::Plain(bytes) => bytes,
            Self::Secret(secret) => Bytes::from_owner(secret),
        }
    }
}

/// A server that is trusted by its own CA instead of the public roots, reached directly: the cluster's token proxy.
///
/// Made by [`crate::Egress::trust`]; keep it as long as its connections are worth keeping.
#[derive(Clone)]
pub struct Trust(pub(crate) Arc<Client>);

/// One HTTP request. There is no `Debug`: headers and body may hold credentials.
#[derive(Clone)]
pub struct Request {
    /// What it is for.
    pub target: Target,
    /// The method.
    pub method: Method,
    /// The absolute URL; user and password in it are refused, a fragment is dropped.
    pub url: Url,
    /// The headers. `Host` and `Content-Length` follow from the rest; `User-Agent` is added when absent.
    pub headers: HeaderMap,
    /// The body.
    pub body: RequestBody,
    /// From the call to the last byte of the answer.
    pub deadline: Duration,
    /// The largest body accepted in the answer, bytes.
    pub max_response: usize,
    /// Whether plain HTTP is allowed.
    pub plain_http: PlainHttp,
    /// Set for a server with a CA of its own.
    pub trust: Option<Trust>,
}

impl Request {
    /// A request without headers and body, over HTTPS only, with 10 s and 64 KiB for the answer.
    #[must_use]
    pub fn new(target: Target, method: Method, url: Url) -> Self {
        Self {
            target,
            method,
            url,
            headers: HeaderMap::new(),
            body: RequestBody::Empty,
            deadline: Duration::from_secs(10),
            max_response: 64 * 1024,
            plain_http: PlainHttp::Never,
            trust: None,
        }
    }

    /// Adds or replaces a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Whether it goes over plain HTTP, once it has been checked that it may.
    pub(crate) fn is_plain(&self) -> Result<bool> {
        let host = self.url.host().ok_or_else(|| refused(&self.url, "names no host"))?;
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return Err(refused(&self.url, "holds a user name or password"));
        }
        if self.url.scheme() == "https" {
            return Ok(false);
        }
        let allowed = self.url.scheme() == "http"
            && self.trust.is_none()
            && match self.plain_http {
                PlainHttp::Never => false,
                PlainHttp::MetadataService => is_near(&host, false),
                PlainHttp::Loopback => is_near(&host, true),
            };
        if allowed { Ok(true) } else { Err(refused(&self.url, "must be https")) }
    }
}

fn refused(url: &Url, why: &str) -> Error {
    Error::new(Code::AddressRefused, format!("the URL {}/… {why}", address::show(url)))
}

fn is_near(host: &Host<&str>, loopback_only: bool) -> bool {
    let address = match host {
        Host::Domain(name) => return name.eq_ignore_ascii_case("localhost"),
        Host::Ipv4(address) => IpAddr::V4(*address),
        Host::Ipv6(address) => IpAddr::V6(*address).to_canonical(),
    };
    address.is_loopback()
        || !loopback_only
            && match address {
                IpAddr::V4(address) => address.is_link_local() || address.is_private(),
                IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unique_local(),
            }
}

/// An answer, read whole. There is no `Debug`: the body may hold a value or a token.
#[derive(Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, wiped when the last holder lets go.
    pub body: Bytes,
}

impl Response {
    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the body is declared to be JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(is_json)
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(url: &str, plain_http: PlainHttp) -> Result<bool> {
        let mut request = Request::new(Target::Imds, Method::GET, Url::parse(url).unwrap());
        request.plain_http = plain_http;
        request.is_plain()
    }

    #[test]
    fn plain_http_goes_nowhere_unless_asked_for() {
        assert_eq!(plain("http://127.0.0.1/", PlainHttp::Never).unwrap_err().code(), Code::AddressRefused);
        assert!(!plain("https://127.0.0.1/", PlainHttp::Never).unwrap());
        assert!(plain("ftp://127.0.0.1/", PlainHttp::Loopback).is_err());
    }

    #[test]
    fn a_metadata_service_is_a_near_address_or_localhost() {
        for near in [
            "http://169.254.169.254/",
            "http://127.0.0.1:41741/msi/token",
            "http://localhost:1/",
            "http://172.16.0.2:8081/",
            "http://[::1]/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
        ] {
            assert!(plain(near, PlainHttp::MetadataService).unwrap(), "{near}");
        }
        for far in [
            "http://203.0.113.9/",
            "http://imds.example/",
            "http://[2001:db8::1]/",
            "http://localhost.evil.example/",
        ] {
            assert!(plain(far, PlainHttp::MetadataService).is_err(), "{far}");
        }
    }

    #[test]
    fn loopback_means_loopback() {
        assert!(plain("http://127.3.2.1/", PlainHttp::Loopback).unwrap());
        for far in ["http://169.254.169.254/", "http://10.0.0.1/", "http://0.0.0.0/"] {
            assert!(plain(far, PlainHttp::Loopback).is_err(), "{far}");
        }
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_repeating_it() {
        let error = plain("https://user:hunter2@a.example/", PlainHttp::Never).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn json_is_recognised_with_parameters_and_suffixes() {
        assert!(
            is_json("application/json; charset=utf-8")
                && is_json("Application/JSON")
                && is_json("application/problem+json")
        );
        assert!(!is_json("text/html") && !is_json("application/jsonp"));
    }
}
