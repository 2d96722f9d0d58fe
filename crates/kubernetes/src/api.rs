//! Requests to the API server, bounded in time and size, and what their failures mean.

mod lines;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use keyward_core::{Code, Error};
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use lines::Lines;

/// The largest answer that is read: some objects, each at most 1.5 MiB in the server's own store.
const LARGEST: usize = 8 * 1024 * 1024;

/// What of a refusal's own words is kept for debug logs, bytes.
const DETAIL: usize = 300;

/// What of an object's metadata is read where its name is known.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    /// The condition of a change.
    #[serde(default)]
    pub(crate) resource_version: String,
}

/// What a request needs the right for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) group: &'static str,
}

impl Ask {
    fn right(self) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group };
        format!("`{} {}` in the API group {group}", self.verb, self.resource)
    }
}

/// Why a request did not do what it should.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The server's answer; `None` when there was none.
    pub(crate) status: Option<StatusCode>,
    /// What users read.
    pub(crate) error: Error,
    special: Option<Special>,
}

/// What only some callers care for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    TooLarge,
    NamespaceEnds,
    Occupied,
}

impl Failure {
    pub(crate) fn is_absent(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// The answer was larger than what is read.
    pub(crate) fn is_too_large(&self) -> bool {
        self.special == Some(Special::TooLarge)
    }

    /// Nothing can be created in a namespace that is going away.
    pub(crate) fn is_of_ending_namespace(&self) -> bool {
        self.special == Some(Special::NamespaceEnds)
    }

    /// The same for a name that is another's, who is expected to go: the policies of the chart let a node change what it
    /// has written, and nothing else.
    pub(crate) fn of_another(self) -> Self {
        match self.status {
            Some(StatusCode::FORBIDDEN | StatusCode::UNPROCESSABLE_ENTITY) => {
                Self { special: Some(Special::Occupied), ..self }
            }
            _ => self,
        }
    }

    /// Whether the name is taken by what may not be changed; see [`Self::of_another`].
    pub(crate) fn is_occupied(&self) -> bool {
        self.special == Some(Special::Occupied)
    }

    pub(crate) fn is_conflict(&self) -> bool {
        self.status == Some(StatusCode::CONFLICT)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE)
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        self.error.kind().is_transient()
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// The API server.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
}

impl Api {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        ask: Ask,
        path: &str,
        patience: Duration,
    ) -> Result<T, Failure> {
        self.json(ask, request(Method::GET, path, None, ask)?, patience).await
    }

    pub(crate) async fn create(
        &self,
        ask: Ask,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, Failure> {
        self.json(ask, request(Method::POST, path, Some(("application/json", body)), ask)?, patience).await
    }

    /// A merge patch: what is not named stays, `null` removes.
    pub(crate) async fn patch(
        &self,
        ask: Ask,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let body = Some(("application/merge-patch+json", body));
        self.json(ask, request(Method::PATCH, path, body, ask)?, patience).await
    }

    /// Opens a watch; `patience` is for the answer's head, the lines come as they come.
    pub(crate) async fn watch(&self, ask: Ask, path: &str, patience: Duration) -> Result<Lines, Failure> {
        let request = request(Method::GET, path, None, ask)?;
        let response = within(ask, patience, self.send(ask, request)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(Lines::new(response.into_body(), ask));
        }
        let body = within(ask, patience, read(ask, response)).await?;
        Err(refused(ask, status, &body))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        ask: Ask,
        request: Request<Body>,
        patience: Duration,
    ) -> Result<T, Failure> {
        let (status, body) = within(ask, patience, async {
            let response = self.send(ask, request).await?;
            let status = response.status();
            Ok((status, read(ask, response).await?))
        })
        .await?;
        if !status.is_success() {
            return Err(refused(ask, status, &body));
        }
        serde_json::from_slice(&body).map_err(|e| senseless(ask, &position(&e)))
    }

    async fn send(&self, ask: Ask, request: Request<Body>) -> Result<Response<Body>, Failure> {
        self.client.send(request).await.map_err(|e| unreachable(ask, &chain(&e)))
    }
}

fn request(
    method: Method,
    path: &str,
    body: Option<(&str, &Value)>,
    ask: Ask,
) -> Result<Request<Body>, Failure> {
    let builder = Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
    let request = match body {
        Some((kind, value)) => builder
            .header(header::CONTENT_TYPE, kind)
            .body(Body::from(serde_json::to_vec(value).unwrap_or_default())),
        None => builder.body(Body::empty()),
    };
    request.map_err(|e| Failure {
        status: None,
        error: Error::new(Code::Internal, format!("the request {} cannot be written", ask.right())).detail(e),
        special: None,
    })
}

async fn within<T>(
    ask: Ask,
    patience: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or_else(|_| Err(unreachable(ask, &format!("no answer within {} s", patience.as_secs()))))
}

async fn read(ask: Ask, response: Response<Body>) -> Result<Bytes, Failure> {
    Limited::new(response.into_body(), LARGEST)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|e| {
            let special = e.is::<LengthLimitError>().then_some(Special::TooLarge);
            Failure { special, ..unreachable(ask, &e.to_string()) }
        })
}

/// What an answer other than success means. The server's own words stay out of what users read.
pub(crate) fn refused(ask: Ask, status: StatusCode, body: &[u8]) -> Failure {
    let (right, number) = (ask.right(), status.as_u16());
    let error = match number {
        401 => Error::new(
            Code::KubernetesForbidden,
            format!(
                "the Kubernetes API does not accept our credentials for {right}; check the service account's token"
            ),
        ),
        403 => Error::new(
            Code::KubernetesForbidden,
            format!("the Kubernetes API refuses {right}; grant it to the driver's service account"),
        ),
        404 => Error::new(
            Code::KubernetesForbidden,
            format!("the Kubernetes API does not know what {right} asks for"),
        ),
        400..=428 | 430..=499 if status != StatusCode::REQUEST_TIMEOUT => {
            Error::new(Code::Internal, format!("the Kubernetes API answers {number} to {right}"))
        }
        _ => {
            Error::new(Code::KubernetesUnavailable, format!("the Kubernetes API answers {number} to {right}"))
        }
    };
    const ENDS: &[u8] = b"NamespaceTerminating";
    let special = body.windows(ENDS.len()).any(|words| words == ENDS).then_some(Special::NamespaceEnds);
    // A server that refuses a Secret may repeat what is in it.
    let kept = if ask.resource == "secrets" { 0 } else { body.len().min(DETAIL) };
    let words = String::from_utf8_lossy(body.get(..kept).unwrap_or_default()).into_owned();
    Failure { status: Some(status), error: error.detail(words), special }
}

/// No usable answer.
pub(crate) fn unreachable(ask: Ask, detail: &str) -> Failure {
    let error = Error::new(
        Code::KubernetesUnavailable,
        format!("the Kubernetes API cannot be reached for {}", ask.right()),
    );
    Failure { status: None, error: error.detail(crate::names::cut(detail, DETAIL)), special: None }
}

fn senseless(ask: Ask, detail: &str) -> Failure {
    let error = Error::new(
        Code::KubernetesUnavailable,
        format!("the answer of the Kubernetes API to {} makes no sense", ask.right()),
    );
    Failure { status: None, error: error.detail(detail), special: None }
}

/// Where parsing stopped, without the words that it stopped at.
fn position(error: &serde_json::Error) -> String {
    format!("line {} column {}", error.line(), error.column())
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_refusal_are_kept_for_debugging_but_never_those_about_a_secret() {
        let words = |resource| {
            let ask = Ask { verb: "patch", resource, group: "" };
            let failure = refused(ask, StatusCode::UNPROCESSABLE_ENTITY, b"invalid: canary");
            assert!(!failure.error.to_string().contains("canary"));
            failure.error.internal_detail().unwrap_or_default().to_owned()
        };
        assert_eq!(words("nodes"), "invalid: canary");
        assert_eq!(words("secrets"), "");
    }
}
