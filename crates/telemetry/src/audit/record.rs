//! One line of the log: how it is written and how it is read back. The bytes of a line, without its line feed, are
//! what the Merkle tree hashes; nobody ever serialises a record a second time.

use keyward_core::UnixTime;
use keyward_core::audit::{Actor, AuditEvent};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use super::merkle::Hash;

/// The schema of the lines; another one is not verified by this version.
pub const SCHEMA: &str = "keyward.audit.v1";
/// No line is longer. Eight texts of 1 KiB each, escaped at worst to six times that, still fit.
pub const MAX_LINE: usize = 64 * 1024;
/// Longer texts (none is known) are cut: a record that is short of a name is better than one that cannot be written.
const MAX_FIELD: usize = 1024;

/// What a record tells, apart from where it stands.
#[derive(Debug)]
pub(super) enum Body {
    /// The first record of a log.
    Open { key: String, predecessor: Option<Predecessor> },
    /// The file ended in half a line, which was cut off.
    Recovery { discarded: u64 },
    /// An act.
    Act(AuditEvent),
    /// `count` acts that differ only in time.
    Counted(Counted),
    /// Records that were lost because the log could not take them.
    Gap { count: u64 },
    /// The last record of a log that ended in order.
    Close,
}

/// Acts that were counted instead of written singly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    /// The first of them; the others differ in time, trace and process id only.
    pub(super) event: AuditEvent,
    /// Whether callers or objects were too many to be told apart: then `event` names neither, or the pod alone.
    pub(super) mixed: bool,
    pub(super) count: u64,
    pub(super) last: UnixTime,
}

/// What a file held before this log was opened in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predecessor {
    /// The last checkpoint of the file, when it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// Lines after that checkpoint.
    pub lines_after: u64,
    /// SHA-256 over those lines, line feeds included, in hex.
    pub sha256_after: String,
}

/// Where a log stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its origin.
    pub log: String,
    /// Its size.
    pub size: u64,
    /// Its root, in hex.
    pub root: String,
}

impl Head {
    pub(super) fn new(log: &str, size: u64, root: &Hash) -> Self {
        Self { log: log.to_owned(), size, root: hex(root) }
    }
}

/// Writes a record as a line, without the line feed.
#[expect(clippy::expect_used, reason = "a record of texts and numbers is always JSON")]
pub(super) fn line(log: &str, seq: u64, checkpoints: u64, now: UnixTime, body: &Body) -> Vec<u8> {
    let mut record = Written {
        schema: SCHEMA,
        log,
        seq,
        checkpoints,
        time: rfc3339(now),
        actor: ActorText::Keyward,
        action: "open",
        object: None,
        version: None,
        identity: None,
        result: "OK",
        count: None,
        first: None,
        last: None,
        trace_id: None,
        request_id: None,
        key: None,
        software: None,
        predecessor: None,
        discarded: None,
    };
    match body {
        Body::Open { key, predecessor } => {
            record.key = Some(key);
            record.software = Some(concat!("keyward/", env!("CARGO_PKG_VERSION")));
            record.predecessor = predecessor.as_ref();
        }
        Body::Recovery { discarded } => {
            (record.action, record.discarded) = ("recovery", Some(*discarded));
        }
        Body::Gap { count } => (record.action, record.result, record.count) = ("gap", "LOST", Some(*count)),
        Body::Close => record.action = "close",
        Body::Act(event) => record.act(event),
        Body::Counted(counted) => {
            record.act(&counted.event);
            if counted.mixed {
                record.actor = ActorText::from(&counted.event.actor).of_many();
                record.object = Some("*");
                (record.version, record.identity) = (None, None);
            }
            record.time = rfc3339(counted.last);
            record.count = Some(counted.count);
            record.first = Some(rfc3339(counted.event.at));
            record.last = Some(rfc3339(counted.last));
        }
    }
    serde_json::to_vec(&record).expect("a record of texts and numbers is always JSON")
}

/// Writes a checkpoint as a line, without the line feed.
#[expect(clippy::expect_used, reason = "a text is always JSON")]
pub(super) fn checkpoint_line(note: &str) -> Vec<u8> {
    let line = CheckpointLine { checkpoint: note.to_owned() };
    serde_json::to_vec(&line).expect("a text is always JSON")
}

/// A line that was read.
#[derive(Debug)]
pub enum Line {
    /// A signed note.
    Checkpoint(String),
    /// A record: the part that says where it stands.
    Record(Box<Place>),
}

/// The part of a record that places it in its log.
#[derive(Debug, Deserialize)]
pub struct Place {
    schema: String,
    /// The log's origin.
    pub log: String,
    /// The record's number, from 0.
    pub seq: u64,
    /// How many checkpoints of this log stand before it.
    pub checkpoints: u64,
    /// What was done.
    pub action: String,
    /// In an `open` record: the log's verifier key.
    #[serde(default)]
    pub key: Option<String>,
    /// In an `open` record: what the file held before.
    #[serde(default)]
    pub predecessor: Option<Predecessor>,
}

/// Reads one line, without its line feed. A checkpoint must be written exactly as we write it, because no hash covers
/// that line.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn parse_line(bytes: &[u8]) -> std::result::Result<Line, &'static str> {
    if bytes.len() > MAX_LINE {
        return Err("is longer than any line of ours");
    }
    if bytes.starts_with(b"{\"checkpoint\":") {
        let line: CheckpointLine =
            serde_json::from_slice(bytes).map_err(|_| "is not a checkpoint as we write it")?;
        return if checkpoint_line(&line.checkpoint) == bytes {
            Ok(Line::Checkpoint(line.checkpoint))
        } else {
            Err("is not a checkpoint as we write it")
        };
    }
    let place: Place = serde_json::from_slice(bytes).map_err(|_| "is neither a record nor a checkpoint")?;
    if place.schema == SCHEMA { Ok(Line::Record(Box::new(place))) } else { Err("has an unknown schema") }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
}

#[derive(Serialize)]
struct Written<'a> {
    schema: &'static str,
    log: &'a str,
    seq: u64,
    checkpoints: u64,
    time: String,
    actor: ActorText<'a>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    software: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predecessor: Option<&'a Predecessor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded: Option<u64>,
}

impl<'a> Written<'a> {
    fn act(&mut self, event: &'a AuditEvent) {
        self.time = rfc3339(event.at);
        self.actor = ActorText::from(&event.actor);
        self.action = event.action.as_str();
        self.object = Some(cut(&event.object));
        self.version = event.version.as_deref().map(cut);
        self.identity = event.identity.as_deref().map(cut);
        self.result = event.error.map_or("OK", |code| code.as_str());
        self.trace_id = event.trace_id.as_deref().map(cut);
        self.request_id = event.request_id.as_deref().map(cut);
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum ActorText<'a> {
    Keyward,
    Any,
    Peer {
        uid: u32,
        gid: u32,
        pid: i32,
    },
    Pod {
        namespace: &'a str,
        name: &'a str,
        uid: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<PeerText>,
    },
}

impl ActorText<'_> {
    /// Who many callers are together: their pod, or nobody in particular.
    fn of_many(self) -> Self {
        match self {
            Self::Pod { namespace, name, uid, .. } => Self::Pod { namespace, name, uid, peer: None },
            Self::Keyward | Self::Any | Self::Peer { .. } => Self::Any,
        }
    }
}

#[derive(Serialize)]
struct PeerText {
    uid: u32,
    gid: u32,
    pid: i32,
}

impl<'a> From<&'a Actor> for ActorText<'a> {
    fn from(actor: &'a Actor) -> Self {
        match actor {
            Actor::Keyward => Self::Keyward,
            Actor::Peer { uid, gid, pid } => Self::Peer { uid: *uid, gid: *gid, pid: *pid },
            Actor::Pod { namespace, name, uid } => {
                Self::Pod { namespace: cut(namespace), name: cut(name), uid: cut(uid), peer: None }
            }
            Actor::PodPeer { namespace, name, pod, uid, gid, pid } => Self::Pod {
                namespace: cut(namespace),
                name: cut(name),
                uid: cut(pod),
                peer: Some(PeerText { uid: *uid, gid: *gid, pid: *pid }),
            },
        }
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_FIELD)).unwrap_or_default()
}

fn rfc3339(at: UnixTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    i128::try_from(at.as_nanos())
        .ok()
        .and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok())
        .and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59.999999999Z".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyward_core::Code;
    use keyward_core::audit::Action;
    use proptest::prelude::*;

    use super::*;

    fn event() -> AuditEvent {
        AuditEvent {
            at: Duration::new(1_795_416_011, 123_456_789),
            actor: Actor::Peer { uid: 1000, gid: 1000, pid: 7 },
            action: Action::Read,
            object: "https://shop.vault.azure.net/secrets/db".to_owned(),
            version: Some("0123456789abcdef0123456789abcdef".to_owned()),
            identity: None,
            error: Some(Code::UnknownName),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
            request_id: None,
        }
    }

    #[test]
    fn a_record_says_who_did_what_to_which_object_when_and_how_it_ended() {
        let line = line("keyward/n/1", 3, 1, Duration::from_secs(9), &Body::Act(event()));
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"schema":"keyward.audit.v1","log":"keyward/n/1","seq":3,"checkpoints":1,"time":"2026-11-23T06:40:11.123456789Z","actor":{"kind":"peer","uid":1000,"gid":1000,"pid":7},"action":"read","object":"https://shop.vault.azure.net/secrets/db","version":"0123456789abcdef0123456789abcdef","result":"KW_UNKNOWN_NAME","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#
        );
    }

    #[test]
    fn a_process_in_a_pod_is_recorded_as_both() {
        let (namespace, name, pod) = ("shop".to_owned(), "web-0".to_owned(), "u-1".to_owned());
        let actor = Actor::PodPeer { namespace, name, pod, uid: 1000, gid: 7, pid: 0 };
        let line =
            line("keyward/n/1", 3, 1, Duration::from_secs(9), &Body::Act(AuditEvent { actor, ..event() }));
        let line = String::from_utf8(line).unwrap();
        let expected = r#""actor":{"kind":"pod","namespace":"shop","name":"web-0","uid":"u-1","peer":{"uid":1000,"gid":7,"pid":0}}"#;
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn counted_acts_say_how_many_and_from_when_to_when() {
        let last = Duration::from_secs(1_795_416_020);
        let counted = Counted { event: event(), mixed: false, count: 17, last };
        let line = line("keyward/n/1", 3, 1, last, &Body::Counted(counted));
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["count"], 17);
        assert_eq!(line["first"], "2026-11-23T06:40:11.123456789Z");
        assert_eq!(line["last"], "2026-11-23T06:40:20.000000000Z");
    }

    #[test]
    fn a_line_break_in_a_name_stays_inside_its_line() {
        let mut event = event();
        event.object = "a\nb\u{2028}c".repeat(2000);
        let line = line("keyward/n/1", 3, 1, Duration::ZERO, &Body::Act(event));
        assert!(!line.contains(&b'\n') && line.len() < MAX_LINE);
    }

    #[test]
    fn a_checkpoint_line_that_we_would_not_write_is_refused() {
        assert!(parse_line(&checkpoint_line("a\n1\nAAAA\n")).is_ok());
        assert!(parse_line(br#"{"checkpoint": "a\n1\nAAAA\n"}"#).is_err());
        assert!(parse_line(br#"{"checkpoint":"\u0061\n1\nAAAA\n"}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused_without_a_panic(bytes: Vec<u8>, json in "\\{\"(checkpoint|schema|seq)\":[\"a-z0-9{}]{0,9}\\}") {
            let _ = parse_line(&bytes);
            let _ = parse_line(json.as_bytes());
        }
    }
}
