//! Response bodies on the wire: whole, endless-looking, or broken off.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::reply::ReplyBody;

/// The letters of a huge body; sent again and again without copying.
static FILLER: [u8; 64 * 1024] = [b'a'; 64 * 1024];

pub(super) struct OutgoingBody {
    parts: VecDeque<Part>,
    remaining: u64,
}

enum Part {
    Bytes(Bytes),
    Filler(u64),
    /// Lets what was written reach the wire before the stream breaks.
    Pause,
    Break,
}

impl OutgoingBody {
    pub(super) fn new(body: ReplyBody) -> Self {
        let remaining = body.declared_length();
        let parts = match body {
            ReplyBody::Bytes(bytes) => VecDeque::from([Part::Bytes(bytes)]),
            ReplyBody::Filler { prefix, filler, suffix } => {
                VecDeque::from([Part::Bytes(prefix), Part::Filler(filler), Part::Bytes(suffix)])
            }
            ReplyBody::Truncated { sent, .. } => {
                VecDeque::from([Part::Bytes(sent), Part::Pause, Part::Break])
            }
        };
        Self { parts, remaining }
    }

    fn send(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.remaining -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            match self.parts.pop_front() {
                None => return Poll::Ready(None),
                Some(Part::Bytes(bytes)) if bytes.is_empty() => {}
                Some(Part::Bytes(bytes)) => return self.send(bytes),
                Some(Part::Filler(0)) => {}
                Some(Part::Filler(left)) => {
                    let now = left.min(FILLER.len() as u64);
                    self.parts.push_front(Part::Filler(left - now));
                    let now = usize::try_from(now).unwrap_or(FILLER.len());
                    return self.send(Bytes::from_static(&FILLER[..now]));
                }
                Some(Part::Pause) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Part::Break) => {
                    let error = std::io::Error::other("the body breaks off on purpose");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Bytes(bytes) if bytes.is_empty()))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
