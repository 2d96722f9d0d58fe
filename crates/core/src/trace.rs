//! Trace context as callers send it (W3C Trace Context, level 1), and where spans are written.
//!
//! A room that has something worth a span opens a `tracing` span with [`TARGET`] as its target; the telemetry room
//! exports those when the user asked for it, and they cost next to nothing when not. Field names are OpenTelemetry's
//! attribute names; `otel.name`, `otel.kind` and `traceparent` say how the span is called, which side it is on, and
//! whose trace it continues. Fields hold names and versions only, never values.

use std::fmt;

/// The `tracing` target of every span that is meant for export.
pub const TARGET: &str = "keyward::trace";

/// Which trace a call belongs to, and which span of it called.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
}

impl TraceContext {
    /// A context; `None` when either id is all zeros, which the specification forbids.
    #[must_use]
    pub fn new(trace: [u8; 16], span: [u8; 8], sampled: bool) -> Option<Self> {
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, sampled })
    }

    /// Reads a `traceparent` header: `00-<32 hex>-<16 hex>-<2 hex>`, lower case.
    ///
    /// A later version than 00 may carry more after a dash, which is ignored; version ff and zero ids are not valid.
    /// `None` means to start a trace of one's own, as the specification asks.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        let mut rest = header;
        let [version] = take(&mut rest)?;
        dash(&mut rest)?;
        let trace = take(&mut rest)?;
        dash(&mut rest)?;
        let span = take(&mut rest)?;
        dash(&mut rest)?;
        let [flags] = take(&mut rest)?;
        let tail_fits = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|b| *b == b'-') };
        if version == 0xff || !tail_fits {
            return None;
        }
        Self::new(trace, span, flags & 1 == 1)
    }

    /// The trace id.
    #[must_use]
    pub fn trace(&self) -> [u8; 16] {
        self.trace
    }

    /// The id of the calling span.
    #[must_use]
    pub fn span(&self) -> [u8; 8] {
        self.span
    }

    /// Whether the caller records this trace.
    #[must_use]
    pub fn sampled(&self) -> bool {
        self.sampled
    }

    /// The trace id as 32 lower-case hex digits, as audit records show it.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace)
    }
}

/// The `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", hex::encode(self.trace), hex::encode(self.span))
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Takes so many bytes, each written as two lower-case hex digits.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for byte in &mut bytes {
        let (&[high, low], behind) = rest.split_first_chunk::<2>()?;
        *byte = digit(high)? << 4 | digit(low)?;
        *rest = behind;
    }
    Some(bytes)
}

fn dash(rest: &mut &[u8]) -> Option<()> {
    *rest = rest.strip_prefix(b"-")?;
    Some(())
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => byte.checked_sub(b'0'),
        b'a'..=b'f' => byte.checked_sub(b'a' - 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read_and_written_back() {
        let context = TraceContext::parse(HEADER.as_bytes()).unwrap();
        assert!(context.sampled());
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.to_string(), HEADER);
    }

    #[test]
    fn headers_that_the_specification_forbids_start_a_new_trace() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = HEADER.replacen("00", "01", 1) + "-what-comes-next";
        assert!(TraceContext::parse(later.as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace: [u8; 16], span: [u8; 8], sampled: bool) {
            if let Some(context) = TraceContext::new(trace, span, sampled) {
                prop_assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>) {
            if let Some(context) = TraceContext::parse(&bytes) {
                prop_assert!(context.trace() != [0; 16]);
            }
        }
    }
}
