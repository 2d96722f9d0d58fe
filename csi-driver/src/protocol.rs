//! What broker and mounter say to each other: fixed-size messages over a sequenced-packet socket pair, descriptors
//! passed beside them. One request at a time, one reply to each.
//!
//! A message is taken only if encoding what was understood gives the same bytes again: there is one form of each, no
//! field is left unread, and padding is zero.

mod bytes;
mod place;
mod reply;

pub use place::Place;
pub use reply::{Found, Reason, Reply, Volume};

use bytes::{Reader, Writer};

/// Bytes of every request.
pub const REQUEST: usize = 256;
/// Bytes of every reply.
pub const REPLY: usize = 2048;
/// Descriptors beside one message at most.
pub const DESCRIPTORS: usize = 3;
/// Places in one reply to [`Request::List`].
pub const PAGE: usize = 15;

/// First word of a request; another version of the protocol has another one.
const MAGIC: u32 = u32::from_le_bytes(*b"KWQ1");

/// A tmpfs to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tmpfs {
    /// Its size; rounded up to whole pages, at least one.
    pub bytes: u64,
    /// Permission bits of its root.
    pub mode: u32,
    /// Group of its root, which gets the setgid bit, so that what is made inside inherits the group.
    pub gid: Option<u32>,
}

/// A socket that the mounter binds for the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Where kubelet makes CSI calls.
    Csi,
    /// Where kubelet finds plugins.
    Registration,
}

impl Socket {
    fn number(self) -> u8 {
        match self {
            Self::Csi => 1,
            Self::Registration => 2,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Csi, Self::Registration].into_iter().find(|socket| socket.number() == number)
    }
}

/// A mount to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// One that no pod can see yet.
    Detached(u64),
    /// The one at a volume's target.
    At(Place),
}

/// What the broker may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make a tmpfs that no pod can see; replied with its number and its root.
    Create(Tmpfs),
    /// Show a tmpfs, read-only, at a volume's target.
    Commit(u64, Place),
    /// Forget a tmpfs that was not committed.
    Discard(u64),
    /// What is at a volume's target now.
    Inspect(Place),
    /// The root of a writable view of the volume, which is mounted nowhere.
    Reopen(Place),
    /// Let a tmpfs grow to so many bytes.
    Resize(Which, u64),
    /// Unmount a volume and remove its target.
    Unmount(Place),
    /// The volumes that are mounted, from this index on.
    List(u32),
    /// Bind a socket.
    Listen(Socket),
    /// Whether a socket that was bound still has its name; asked where inotify cannot tell.
    Named(Socket),
    /// Give the file that comes along an owner.
    Own {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

impl Request {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST] {
        let mut message = [0; REQUEST];
        let mut to = Writer::new(&mut message);
        to.u32(MAGIC);
        match self {
            Self::Create(tmpfs) => {
                to.u8(1);
                to.u64(tmpfs.bytes);
                to.u32(tmpfs.mode);
                to.u8(u8::from(tmpfs.gid.is_some()));
                to.u32(tmpfs.gid.unwrap_or(0));
            }
            Self::Commit(id, place) => {
                to.u8(2);
                to.u64(*id);
                place.encode(&mut to);
            }
            Self::Discard(id) => {
                to.u8(3);
                to.u64(*id);
            }
            Self::Inspect(place) => {
                to.u8(4);
                place.encode(&mut to);
            }
            Self::Reopen(place) => {
                to.u8(5);
                place.encode(&mut to);
            }
            Self::Resize(Which::Detached(id), bytes) => {
                to.u8(6);
                to.u64(*bytes);
                to.u64(*id);
            }
            Self::Resize(Which::At(place), bytes) => {
                to.u8(7);
                to.u64(*bytes);
                place.encode(&mut to);
            }
            Self::Unmount(place) => {
                to.u8(8);
                place.encode(&mut to);
            }
            Self::List(from) => {
                to.u8(9);
                to.u32(*from);
            }
            Self::Listen(socket) => {
                to.u8(10);
                to.u8(socket.number());
            }
            Self::Own { uid, gid } => {
                to.u8(11);
                to.u32(*uid);
                to.u32(*gid);
            }
            Self::Named(socket) => {
                to.u8(12);
                to.u8(socket.number());
            }
        }
        message
    }

    /// What a message asks for; `None` unless it is exactly what [`Self::encode`] gives for something valid.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut from = Reader::new(message, REQUEST)?;
        if from.u32()? != MAGIC {
            return None;
        }
        let request = match from.u8()? {
            1 => {
                let (bytes, mode) = (from.u64()?, from.u32()?);
                let has_gid = from.bool()?;
                let gid = from.u32()?;
                Self::Create(Tmpfs { bytes, mode, gid: has_gid.then_some(gid) })
            }
            2 => Self::Commit(from.u64()?, Place::decode(&mut from)?),
            3 => Self::Discard(from.u64()?),
            4 => Self::Inspect(Place::decode(&mut from)?),
            5 => Self::Reopen(Place::decode(&mut from)?),
            6 => {
                let bytes = from.u64()?;
                Self::Resize(Which::Detached(from.u64()?), bytes)
            }
            7 => {
                let bytes = from.u64()?;
                Self::Resize(Which::At(Place::decode(&mut from)?), bytes)
            }
            8 => Self::Unmount(Place::decode(&mut from)?),
            9 => Self::List(from.u32()?),
            10 => Self::Listen(Socket::of(from.u8()?)?),
            11 => Self::Own { uid: from.u32()?, gid: from.u32()? },
            12 => Self::Named(Socket::of(from.u8()?)?),
            _ => return None,
        };
        (request.encode() == message).then_some(request)
    }
}
