//! What a handler answers, before any socket is involved.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

/// The fate of one request.
#[derive(Debug)]
pub enum HandlerOutcome {
    /// An HTTP response.
    Reply(Reply),
    /// No answer, ever: the peer is left waiting on an open connection.
    Hang,
    /// The connection is reset without an answer.
    Reset,
}

impl HandlerOutcome {
    /// The response, if there was one.
    #[must_use]
    pub fn reply(self) -> Option<Reply> {
        match self {
            Self::Reply(reply) => Some(reply),
            Self::Hang | Self::Reset => None,
        }
    }
}

/// An HTTP response as a value.
pub struct Reply {
    /// The status line's code.
    pub status: StatusCode,
    /// The response headers, without `content-length`.
    pub headers: HeaderMap,
    /// The body, possibly one that cannot be sent whole.
    pub body: ReplyBody,
}

// Bodies carry secret values, so only their sizes are shown.
impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({}, {} bytes)", self.status, self.body.declared_length())
    }
}

/// The bytes of a response.
pub enum ReplyBody {
    /// Complete bytes.
    Bytes(Bytes),
    /// A body too large to build: `prefix`, then `filler` times the letter `a`, then `suffix`.
    Filler {
        /// What comes first.
        prefix: Bytes,
        /// How many letters follow.
        filler: u64,
        /// What comes last.
        suffix: Bytes,
    },
    /// A body that breaks off: `declared` bytes are announced, only `sent` arrive, and the stream fails.
    Truncated {
        /// What arrives.
        sent: Bytes,
        /// What `content-length` claims.
        declared: u64,
    },
}

impl ReplyBody {
    /// The length that `content-length` announces, in bytes.
    #[must_use]
    pub fn declared_length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Filler { prefix, filler, suffix } => (prefix.len() + suffix.len()) as u64 + filler,
            Self::Truncated { declared, .. } => *declared,
        }
    }
}

impl Reply {
    /// A JSON response with the headers that Key Vault sets on every answer.
    #[must_use]
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let mut reply = Self::bytes(status, "application/json; charset=utf-8", body.to_string());
        for (name, value) in [
            ("cache-control", "no-cache"),
            ("pragma", "no-cache"),
            ("expires", "-1"),
            ("x-content-type-options", "nosniff"),
            ("strict-transport-security", "max-age=31536000;includeSubDomains"),
        ] {
            reply.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        reply
    }

    /// A response of any type.
    #[must_use]
    pub fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, headers, body: ReplyBody::Bytes(body.into()) }
    }

    /// A response without a body.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: ReplyBody::Bytes(Bytes::new()) }
    }

    /// Adds a header; a value that is no header text is left out.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// The complete body, if it is one.
    #[must_use]
    pub fn complete_body(&self) -> Option<&Bytes> {
        match &self.body {
            ReplyBody::Bytes(bytes) => Some(bytes),
            ReplyBody::Filler { .. } | ReplyBody::Truncated { .. } => None,
        }
    }
}
