//! Bodies of questions, read within a budget of bytes that all questions share. Who says how much it will send has that
//! set aside before a byte is read; who does not, the most that is ever read. Large bodies have a budget of their own, one
//! at a time, so that nobody with a small one waits for them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::review::LARGEST;

/// How long a body may take to arrive once it is its turn.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(4);
/// Up to here a body is small, bytes; most pods have less than 20 KiB.
const SMALL: usize = 128 * 1024;
/// All small bodies together, bytes.
const ALL_SMALL: usize = 4 * 1024 * 1024;

/// What all bodies may hold.
pub(crate) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A body, which counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    share: Share,
}

/// What was set aside for a question, and counts until its answer is sent or given up: an answer is of about the same size, and
/// a peer that reads none of its answers shall not have them all kept.
#[derive(Debug)]
pub(crate) struct Share(#[expect(dead_code, reason = "counts while it is there")] OwnedSemaphorePermit);

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    text: Full<Bytes>,
    _share: Option<Share>,
}

impl Answer {
    /// An answer to a question that was read.
    pub(crate) fn counted(text: String, share: Share) -> Self {
        Self { text: Full::from(text), _share: Some(share) }
    }

    /// A few words.
    pub(crate) fn free(text: String) -> Self {
        Self { text: Full::from(text), _share: None }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.text).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.text.size_hint()
    }
}

impl Held {
    /// The bytes go, the share stays.
    pub(crate) fn into_share(self) -> Share {
        self.share
    }
}

/// Why a body is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    TooLarge,
    TooSlow,
    TooMany,
    Broken,
}

impl Default for Budget {
    fn default() -> Self {
        Self { small: Arc::new(Semaphore::new(ALL_SMALL)), large: Arc::new(Semaphore::new(LARGEST)) }
    }
}

impl Budget {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is larger than [`LARGEST`] bytes, does not arrive in time, or its turn does not come in time.
    pub(crate) async fn read(&self, body: impl Body<Data = Bytes> + Unpin) -> Result<Held, Refusal> {
        let size = body.size_hint().upper().and_then(|size| usize::try_from(size).ok());
        if size.is_some_and(|size| size > LARGEST) {
            return Err(Refusal::TooLarge);
        }
        let most = size.unwrap_or(LARGEST);
        let budget = if most <= SMALL { &self.small } else { &self.large };
        let share = u32::try_from(most).map_err(|_| Refusal::TooLarge)?;
        let turn = timeout(TURN, Arc::clone(budget).acquire_many_owned(share));
        let Ok(Ok(permit)) = turn.await else { return Err(Refusal::TooMany) };
        let bytes = timeout(ARRIVAL, collect(body, most)).await.unwrap_or(Err(Refusal::TooSlow))?;
        Ok(Held { bytes, share: Share(permit) })
    }
}

async fn collect(mut body: impl Body<Data = Bytes> + Unpin, most: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Refusal::Broken) };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len().saturating_add(data.len()) > most {
            return Err(Refusal::TooLarge);
        }
        if bytes.is_empty() {
            // At once, since a buffer that grows is there twice while it does.
            bytes.reserve_exact(most);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

impl std::ops::Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Refusal {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }

    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::TooLarge => "the question is larger than 3 MiB\n",
            Self::TooSlow => "the question did not arrive within 5 s\n",
            Self::TooMany => "too many questions are being read; ask again\n",
            Self::Broken => "the question broke off\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, StreamBody};

    use super::*;

    fn body(size: usize) -> Full<Bytes> {
        Full::from(vec![b' '; size])
    }

    #[tokio::test(start_paused = true)]
    async fn small_bodies_do_not_wait_for_large_ones_and_large_ones_come_one_by_one() {
        let budget = Budget::default();
        let large = budget.read(body(LARGEST)).await.unwrap();
        assert_eq!(budget.read(body(SMALL + 1)).await.unwrap_err(), Refusal::TooMany);
        let mut small = Vec::new();
        for _ in 0..ALL_SMALL / SMALL {
            small.push(budget.read(body(SMALL)).await.unwrap());
        }
        assert_eq!(budget.read(body(1)).await.unwrap_err(), Refusal::TooMany);
        let answer = Answer::counted("x".to_owned(), large.into_share());
        assert_eq!(budget.read(body(SMALL + 1)).await.unwrap_err(), Refusal::TooMany, "it is not sent yet");
        drop((answer, small));
        budget.read(body(SMALL + 1)).await.unwrap();
        budget.read(body(1)).await.unwrap();
        assert!(budget.read(Empty::new()).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn too_large_a_body_is_refused_unread_and_one_that_does_not_come_gives_its_share_back() {
        let budget = Budget::default();
        assert_eq!(budget.read(body(LARGEST + 1)).await.unwrap_err(), Refusal::TooLarge);
        let silent = StreamBody::new(never());
        let before = tokio::time::Instant::now();
        assert_eq!(budget.read(silent).await.unwrap_err(), Refusal::TooSlow);
        assert_eq!(before.elapsed(), ARRIVAL);
        assert_eq!(budget.large.available_permits(), LARGEST);
    }

    /// A body that never comes, and does not say how large it would be.
    fn never() -> impl tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Unpin {
        tokio_stream::pending()
    }
}
