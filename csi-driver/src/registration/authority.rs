//! Kubelet names the registration socket's path, percent-encoded, as the `:authority` of its calls (its gRPC client does so
//! for a target without a scheme). That is no authority by RFC 3986, and the HTTP/2 library resets such a stream. The name
//! means nothing on a Unix socket: this filter replaces it before the library sees it.
//!
//! Only literals of `:authority` in header blocks change (RFC 7541, section 6.2), to one byte, so that the reader's dynamic
//! table never holds less than the writer believes; every other byte passes as it is.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "lengths of at most three bytes and three digits of seven bits"
)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a frame may carry without being asked for more (RFC 9113, section 4.2), which we never ask.
const MAX_FRAME: usize = 16_384;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// What stands for every name.
const NAME: &[u8] = b"k";

/// A connection whose calls all name a valid authority.
pub(super) struct AnyAuthority<S> {
    inner: S,
    filter: Filter,
    /// Filtered bytes that are not read yet, from this position on.
    ready: Vec<u8>,
    position: usize,
}

impl<S> AnyAuthority<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, filter: Filter::default(), ready: Vec::new(), position: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.position == this.ready.len() {
            this.ready.clear();
            this.position = 0;
            let mut chunk = [0; 4096];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.filter.pass(read.filled(), &mut this.ready)?;
        }
        let rest = this.ready.get(this.position..).unwrap_or_default();
        let taken = rest.get(..out.remaining()).unwrap_or(rest);
        out.put_slice(taken);
        this.position = this.position.saturating_add(taken.len());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

/// Bytes from the client, frame by frame.
#[derive(Default)]
struct Filter {
    held: Vec<u8>,
    greeted: bool,
}

impl Filter {
    /// Takes bytes and appends what may be read now.
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.held.extend_from_slice(bytes);
        let mut rest = self.held.as_slice();
        if !self.greeted {
            let Some((greeting, frames)) = rest.split_at_checked(PREFACE.len()) else { return Ok(()) };
            if greeting != PREFACE {
                return Err(broken("the connection does not begin as HTTP/2"));
            }
            out.extend_from_slice(PREFACE);
            rest = frames;
            self.greeted = true;
        }
        while let Some((header @ [high, middle, low, kind, flags, stream @ ..], after)) =
            rest.split_first_chunk::<9>()
        {
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            if length > MAX_FRAME {
                return Err(broken("a frame is larger than 16 KiB"));
            }
            let Some((payload, next)) = after.split_at_checked(length) else { break };
            if *kind == HEADERS {
                let payload = headers(*flags, payload)?;
                let length = payload.len();
                out.extend_from_slice(&[(length >> 16) as u8, (length >> 8) as u8, length as u8]);
                out.extend_from_slice(&[*kind, *flags]);
                out.extend_from_slice(stream);
                out.extend_from_slice(&payload);
            } else {
                out.extend_from_slice(header);
                out.extend_from_slice(payload);
            }
            rest = next;
        }
        let passed = self.held.len().saturating_sub(rest.len());
        self.held.drain(..passed);
        Ok(())
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn cut() -> io::Error {
    broken("a header block ends too early")
}

/// A HEADERS frame's payload (RFC 9113, section 6.2) with another authority.
fn headers(flags: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    if flags & END_HEADERS == 0 {
        return Err(broken("a call's headers span several frames"));
    }
    let short = || broken("a frame of headers is too short");
    let (before, padding) = match (flags & PADDED != 0, payload.first()) {
        (true, Some(padding)) => (1, usize::from(*padding)),
        (true, None) => return Err(short()),
        (false, _) => (0, 0),
    };
    let before = if flags & PRIORITY != 0 { before + 5 } else { before };
    let (before, rest) = payload.split_at_checked(before).ok_or_else(short)?;
    let end = rest.len().checked_sub(padding).ok_or_else(short)?;
    let (fields, padding) = rest.split_at_checked(end).ok_or_else(short)?;
    let mut out = before.to_vec();
    block(fields, &mut out)?;
    out.extend_from_slice(padding);
    Ok(out)
}

/// Copies a header block, field by field (RFC 7541, section 6).
fn block(mut rest: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    while let Some(first) = rest.first() {
        // An indexed field, a literal that enters the table, a new size of the table, a literal that does not enter.
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (index, mut next) = integer(rest, prefix)?;
        if literal && index == 0 {
            next += string(rest.get(next..).unwrap_or_default())?;
        }
        let (field, after) = rest.split_at_checked(next).ok_or_else(cut)?;
        out.extend_from_slice(field);
        rest = after;
        if literal {
            let (value, after) = rest.split_at_checked(string(rest)?).ok_or_else(cut)?;
            if index == AUTHORITY {
                out.push(NAME.len() as u8);
                out.extend_from_slice(NAME);
            } else {
                out.extend_from_slice(value);
            }
            rest = after;
        }
    }
    Ok(())
}

/// An integer with a prefix of so many bits, and where it ends (RFC 7541, section 5.1).
fn integer(bytes: &[u8], prefix: u32) -> io::Result<(usize, usize)> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*bytes.first().ok_or_else(cut)?) & mask;
    if value < mask {
        return Ok((value, 1));
    }
    for (position, shift) in [(1, 0), (2, 7), (3, 14)] {
        let byte = *bytes.get(position).ok_or_else(cut)?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value, position + 1));
        }
    }
    Err(broken("a number in a header block is too large"))
}

/// How many bytes a string takes with its length (RFC 7541, section 5.2).
fn string(bytes: &[u8]) -> io::Result<usize> {
    let (length, start) = integer(bytes, 7)?;
    if bytes.len() < start + length {
        return Err(cut());
    }
    Ok(start + length)
}

/// What the library would read of these bytes of a client, if they came in pieces of this size.
///
/// # Panics
/// When the size of the pieces makes a difference.
pub(crate) fn filtered(bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    let at_once = Filter::default().pass(bytes, &mut whole);
    let (mut filter, mut pieces) = (Filter::default(), Vec::new());
    let in_pieces = bytes.chunks(piece.max(1)).try_for_each(|piece| filter.pass(piece, &mut pieces));
    assert_eq!(at_once.is_ok(), in_pieces.is_ok(), "pieces change the verdict");
    if at_once.is_ok() {
        assert_eq!(whole, pieces, "pieces change the bytes");
    }
    at_once.map(|()| whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, (payload.len() >> 8) as u8, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn greeted(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &frames.concat()].concat()
    }

    const PATH: &[u8] = b"var%2Flib%2Fkubelet%2Fplugins_registry%2Fcsi.keyward.dev-reg.sock";

    /// `:method POST` and `:scheme http` by index, `:path /x` and this authority as literals.
    fn call(authority: &[u8], representation: u8) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x44, 2, b'/', b'x', representation, authority.len() as u8];
        block.extend_from_slice(authority);
        block.extend_from_slice(&[0x40, 2, b't', b'e', 8]);
        block.extend_from_slice(b"trailers");
        block
    }

    #[test]
    fn a_path_as_authority_becomes_a_name_and_nothing_else_changes() {
        for representation in [0x41, 0x01, 0x11] {
            let bytes = greeted(&[
                frame(4, 0, &[]),
                frame(HEADERS, END_HEADERS, &call(PATH, representation)),
                frame(0, 1, PATH),
            ]);
            let expected = greeted(&[
                frame(4, 0, &[]),
                frame(HEADERS, END_HEADERS, &call(NAME, representation)),
                frame(0, 1, PATH),
            ]);
            assert_eq!(filtered(&bytes, 1).unwrap(), expected);
        }
    }

    #[test]
    fn padding_and_priority_stay_where_they_are() {
        let around = |block: Vec<u8>| [&[3, 0, 0, 0, 0, 16][..], &block, &[0, 0, 0]].concat();
        let flags = END_HEADERS | PADDED | PRIORITY;
        let bytes = greeted(&[frame(HEADERS, flags, &around(call(PATH, 0x41)))]);
        let expected = greeted(&[frame(HEADERS, flags, &around(call(NAME, 0x41)))]);
        assert_eq!(filtered(&bytes, 7).unwrap(), expected);
    }

    #[test]
    fn what_is_not_http2_or_is_cut_or_too_large_is_refused() {
        let refused = |bytes: &[u8]| filtered(bytes, 5).is_err();
        assert!(refused(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(refused(&greeted(&[frame(HEADERS, 0, &call(PATH, 0x41))])), "headers in several frames");
        assert!(refused(&greeted(&[frame(HEADERS, END_HEADERS, &call(PATH, 0x41)[..20])])), "cut");
        assert!(refused(&greeted(&[vec![1, 0, 0, 0, 0, 0, 0, 0, 1]])), "64 KiB");
        assert!(
            refused(&greeted(&[frame(HEADERS, END_HEADERS | PADDED, &[200, 1])])),
            "more padding than frame"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_pieces_make_no_difference(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..10, flags: u8, piece in 1_usize..50,
        ) {
            let _ = filtered(&bytes, piece);
            let _ = filtered(&greeted(&[frame(kind, flags, &bytes)]), piece);
        }
    }
}
