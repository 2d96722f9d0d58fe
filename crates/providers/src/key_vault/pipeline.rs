//! Our place in the SDK's pipeline: after it has signed a request, before the transport.

use std::fmt;
use std::sync::Arc;

use azure_core::http::headers::{AUTHORIZATION, CONTENT_TYPE, Headers, WWW_AUTHENTICATE};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, AsyncResponseBody, Context, Request, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use keyward_core::{Code, Error};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::refusal::{Asked, refusal};
use super::session::Session;

/// Where a call finds the answer's body: it does not pass through the SDK, which would copy it into buffers that
/// nobody wipes, and would parse listings by its own, stricter rules.
#[derive(Default)]
pub(super) struct Pocket(Mutex<Option<Answer>>);

/// A successful answer.
pub(super) struct Answer {
    pub(super) body: Bytes,
    pub(super) request_id: Option<String>,
}

impl Pocket {
    pub(super) fn take(&self) -> Option<Answer> {
        self.0.lock().take()
    }
}

/// Answers the SDK's first, unsigned request from the challenge that is known already, so that no client and no
/// concurrent call goes to the vault for a 401 of its own; tries once more with a fresh token after a real 401; turns
/// refusals into our errors before the SDK can quote them.
pub(super) struct Gatekeeper {
    session: Arc<Session>,
}

impl Gatekeeper {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    async fn answer(&self, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        // A context of our own: the SDK's makes its transport policy copy the body.
        let context = Context::new();
        let Some((first, rest)) = next.split_first() else {
            return Err(azure_core::Error::with_message(
                azure_core::error::ErrorKind::Other,
                "the pipeline has no transport",
            ));
        };
        first.send(&context, request, rest).await
    }
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gatekeeper")
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait is written so, which decides how the lifetime is bound"
)]
#[async_trait::async_trait]
impl Policy for Gatekeeper {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let Some(mut sent) = bearer(request) else {
            let mut headers = Headers::new();
            let challenge = self.session.challenge_header();
            headers.insert(WWW_AUTHENTICATE, challenge.ok_or_else(|| ours(no_challenge()))?);
            return Ok(AsyncRawResponse::from_bytes(StatusCode::Unauthorized, headers, Bytes::new()));
        };
        let mut answer = self.answer(request, next).await?;
        if answer.status() == StatusCode::Unauthorized
            && let Some(fresh) = self.session.token_after_401(&sent).await.map_err(ours)?
        {
            sent = Zeroizing::new(fresh.secret.expose_str().unwrap_or_default().to_owned());
            request.insert_header(AUTHORIZATION, format!("Bearer {}", *sent));
            answer = self.answer(request, next).await?;
        }
        let (status, headers, body) = answer.deconstruct();
        let body = collect(body).await?;
        match u16::from(status) {
            200 if is_json(&headers) => {
                let pocket = ctx.value::<Arc<Pocket>>().ok_or_else(|| ours(no_pocket()))?;
                let request_id = header(request.headers(), "x-ms-client-request-id").map(str::to_owned);
                *pocket.0.lock() = Some(Answer { body, request_id });
                Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, Headers::new(), Bytes::from_static(b"{}")))
            }
            200 => Err(ours(Error::new(
                Code::VaultProtocol,
                "something answered in the vault's place: the content type is not JSON; is a proxy in the way?",
            ))),
            401 => {
                let challenge = headers.get_optional_str(&WWW_AUTHENTICATE);
                Err(ours(self.session.refused(&sent, challenge, &body)))
            }
            status => {
                let now = self.session.clock.wall();
                let wait = keyward_egress::parse_retry_after(|name| header(&headers, name), now);
                Err(ours(refusal(status, Asked::from_path(request.url().path()), &body, wait)))
            }
        }
    }
}

/// The whole body without a copy when it comes in one piece, which is how our transport gives it.
pub(super) async fn collect(mut body: AsyncResponseBody) -> azure_core::Result<Bytes> {
    let first = body.next().await.transpose()?.unwrap_or_default();
    let Some(second) = body.next().await.transpose()? else { return Ok(first) };
    let mut whole = [first, second].concat();
    while let Some(chunk) = body.next().await.transpose()? {
        whole.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(whole))
}

/// A header by its lower-case name.
pub(super) fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.as_str().eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Our own error out of one of the SDK's, or one that says nothing of the SDK's own words.
pub(super) fn sdk_failure(error: &azure_core::Error) -> Error {
    keyward_egress::recover(error).unwrap_or_else(|| {
        use azure_core::error::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::HttpResponse { .. } => "http response",
            ErrorKind::Connection => "connection",
            ErrorKind::Io => "i/o",
            ErrorKind::DataConversion => "data conversion",
            ErrorKind::Credential => "credential",
            ErrorKind::Other => "other",
        };
        Error::new(Code::VaultProtocol, "the Key Vault client gave up on the answer").detail(kind)
    })
}

fn ours(error: Error) -> azure_core::Error {
    azure_core::Error::new(azure_core::error::ErrorKind::Other, error)
}

fn bearer(request: &Request) -> Option<Zeroizing<String>> {
    let token = request.headers().get_optional_str(&AUTHORIZATION)?.strip_prefix("Bearer ")?;
    Some(Zeroizing::new(token.to_owned()))
}

fn is_json(headers: &Headers) -> bool {
    let media = headers.get_optional_str(&CONTENT_TYPE).and_then(|value| value.split(';').next());
    media.is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

fn no_challenge() -> Error {
    Error::new(Code::Internal, "a request was made before the vault's challenge was known")
}

fn no_pocket() -> Error {
    Error::new(Code::Internal, "a request was made with nowhere to put the answer")
}
