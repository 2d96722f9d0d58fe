//! gRPC over HTTP/2 for one message each way ([protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;
use keyward_core::{Code, Error};
use prost::Message;
use tonic::Status;
use zeroize::Zeroize;

use crate::connection::Owed;
use crate::reply::Reply;
use crate::status::status;
use crate::turn;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// Compression flag and big-endian length before each message.
pub(crate) const PREFIX: usize = 5;

/// Body of a response.
pub(crate) enum Body {
    /// One message, then success. `None` when the message has been sent.
    Message(Option<Bytes>),
    /// One message that is made piece by piece as the reader takes it, then success.
    Reply(Box<Reply>),
    /// Everything has been sent, or the headers said it all.
    Empty,
    /// A stream, or an answer of one of the standard services.
    Stream(tonic::body::Body),
}

/// Required by `Status::into_http`: a refusal has no body.
impl Default for Body {
    fn default() -> Self {
        Self::Empty
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Message(message) => {
                if let Some(message) = message.take() {
                    turn::answering();
                    return Poll::Ready(Some(Ok(Frame::data(message))));
                }
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(success()))))
            }
            Self::Reply(reply) => {
                if let Some(piece) = reply.next() {
                    turn::answering();
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(success()))))
            }
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => {
                let frame = Pin::new(body).poll_frame(context);
                if frame.is_pending() {
                    turn::caught_up();
                } else {
                    turn::streaming();
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::Reply(_) => false,
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
        }
    }
}

/// The trailers of a call that worked.
pub(crate) fn success() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    trailers
}

/// The trailers of a call that failed after its headers were sent.
pub(crate) fn failure(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}

/// A response that begins well.
pub(crate) fn respond(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// Whether a request speaks gRPC with protobuf messages.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+proto") || rest.starts_with(b";"))
}

/// The deadline that the caller set (`grpc-timeout`), when it can be read.
#[expect(clippy::arithmetic_side_effects, reason = "a number of eight digits at most")]
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let (last, digits) = headers.get("grpc-timeout")?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match last {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Reads the one message of a request, at most `limit` bytes. `charge` is asked before a message that comes in pieces
/// is put together, and what it answers is held until then.
///
/// # Errors
/// The status for the caller.
pub(crate) async fn receive<M, B, C>(
    body: B,
    limit: usize,
    charge: impl FnOnce(usize) -> Result<C, Error>,
) -> Result<M, Status>
where
    M: Message + Default,
    B: http_body::Body<Data = Bytes> + Unpin,
{
    decode(&gather(body, limit, charge).await?.0, limit)
}

/// Reads the one message of a request as [`receive`] does, with its prefix, and leaves it as it is.
///
/// # Errors
/// The status for the caller.
pub(crate) async fn gather<B, C>(
    mut body: B,
    limit: usize,
    charge: impl FnOnce(usize) -> Result<C, Error>,
) -> Result<(Bytes, Option<C>), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut buffer = BytesMut::new();
    match next(&mut body).await? {
        // As a rule one frame holds the whole request.
        Some(data) if data.len() >= PREFIX && body.is_end_stream() => return Ok((data, None)),
        // A copy: the frame is part of a larger buffer, which it would hold while the rest is on its way.
        Some(data) => buffer.extend_from_slice(&data),
        None => {}
    }
    let mut charged = None;
    let mut charge = Some(charge);
    while let Some(data) = next(&mut body).await? {
        if data.is_empty() {
            continue;
        }
        if buffer.len().saturating_add(data.len()) > PREFIX.saturating_add(limit) {
            return Err(too_large(limit));
        }
        if let Some(charge) = charge.take() {
            charged = Some(charge(PREFIX.saturating_add(limit)).map_err(|error| status(&error))?);
        }
        buffer.extend_from_slice(&data);
    }
    Ok((buffer.freeze(), charged))
}

/// A message with its prefix, in a buffer that is wiped when the last holder lets go of it.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    framed(message, None)
}

/// As [`frame`]; what it holds is owed until it was sent.
///
/// # Errors
/// `KW_NO_SPACE` when too much waits to be read already.
pub(crate) fn frame_owed(
    message: &impl Message,
    owe: impl FnOnce(usize) -> Result<Owed, Error>,
) -> Result<Bytes, Error> {
    let owed = owe(PREFIX.saturating_add(message.encoded_len()))?;
    Ok(framed(message, Some(owed)))
}

fn framed(message: &impl Message, owed: Option<Owed>) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = Vec::with_capacity(PREFIX.saturating_add(length));
    put_prefix(&mut buffer, length);
    message.encode_raw(&mut buffer);
    Bytes::from_owner(Wiped { buffer, _owed: owed })
}

/// Puts what stands before a message of `length` bytes.
#[expect(clippy::expect_used, reason = "a message is made of values in memory, far below 4 GiB")]
pub(crate) fn put_prefix(buffer: &mut Vec<u8>, length: usize) {
    buffer.push(0);
    buffer.extend_from_slice(&u32::try_from(length).expect("messages are far below 4 GiB").to_be_bytes());
}

async fn next<B>(body: &mut B) -> Result<Option<Bytes>, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::cancelled("the request ended early"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn decode<M: Message + Default>(bytes: &[u8], limit: usize) -> Result<M, Status> {
    let malformed = |message: &str| Err(status(&Error::new(Code::RequestInvalid, message)));
    if bytes.is_empty() {
        return malformed("the request holds no message");
    }
    let Some(([compressed, length @ ..], message)) = bytes.split_first_chunk::<PREFIX>() else {
        return malformed("the request ends within the message's prefix");
    };
    if *compressed != 0 {
        return Err(Status::unimplemented("compressed messages are not accepted"));
    }
    let length = u32::from_be_bytes(*length) as usize;
    if length > limit {
        return Err(too_large(limit));
    }
    if message.len() != length {
        return malformed("the request must hold exactly one whole message");
    }
    M::decode(message).or_else(|_| malformed("the message is not what the method takes"))
}

fn too_large(limit: usize) -> Status {
    status(&Error::new(Code::LimitExceeded, format!("the request is larger than {limit} bytes")))
}

/// A buffer that is wiped, and then no longer owed, when the last holder lets go of it.
pub(crate) struct Wiped<O> {
    pub(crate) buffer: Vec<u8>,
    pub(crate) _owed: O,
}

impl<O> AsRef<[u8]> for Wiped<O> {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl<O> Drop for Wiped<O> {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use http_body_util::StreamBody;
    use keyward_proto::secrets::v1::GetSecretRequest;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn receive_pieces(pieces: Vec<Bytes>, limit: usize) -> Result<GetSecretRequest, Status> {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let body = StreamBody::new(futures::stream::iter(frames));
        receive(Box::pin(body), limit, |_| Ok(())).now_or_never().expect("nothing waits")
    }

    fn request(name: &str) -> Bytes {
        frame(&GetSecretRequest { name: name.to_owned(), version: String::new() })
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_prefix_alone_and_by_its_bytes() {
        let mut lying = request("db").to_vec();
        lying[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
        for pieces in [vec![Bytes::from(lying)], vec![request(&"x".repeat(90)), Bytes::from(vec![0; 90])]] {
            assert_eq!(receive_pieces(pieces, 64).unwrap_err().code(), tonic::Code::ResourceExhausted);
        }
    }

    #[test]
    fn compressed_missing_doubled_and_cut_messages_are_refused() {
        let mut compressed = request("db").to_vec();
        compressed[0] = 1;
        let whole = request("db");
        for (pieces, code) in [
            (vec![Bytes::from(compressed)], tonic::Code::Unimplemented),
            (vec![], tonic::Code::InvalidArgument),
            (vec![whole.clone(), whole.clone()], tonic::Code::InvalidArgument),
            (vec![whole.slice(..3)], tonic::Code::InvalidArgument),
            (vec![whole.slice(..7)], tonic::Code::InvalidArgument),
        ] {
            assert_eq!(receive_pieces(pieces, 1000).unwrap_err().code(), code);
        }
    }

    #[test]
    fn only_grpc_with_protobuf_is_spoken() {
        for (value, yes) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpc+json", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), yes, "{value}");
        }
    }

    #[test]
    fn deadlines_are_read_in_every_unit_and_nonsense_is_no_deadline() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("1M", Some(Duration::from_secs(60))),
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("5", None),
        ] {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("grpc-timeout"),
                HeaderValue::from_str(text).unwrap(),
            )]);
            assert_eq!(deadline(&headers), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_message_arrives_whole_however_it_is_cut(name in "\\PC{0,60}", cuts in proptest::collection::vec(0usize..80, 0..6)) {
            let whole = request(&name);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(whole.len())).chain([0, whole.len()]).collect();
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| whole.slice(pair[0]..pair[1])).collect();
            prop_assert_eq!(receive_pieces(pieces, 1000).unwrap().name, name);
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = receive_pieces(vec![Bytes::from(bytes)], 64);
        }
    }
}
