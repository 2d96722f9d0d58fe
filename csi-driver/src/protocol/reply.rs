use super::bytes::{Reader, Writer};
use super::place::Place;
use super::{PAGE, REPLY};

/// First word of a reply.
const MAGIC: u32 = u32::from_le_bytes(*b"KWA1");

/// What is mounted at a volume's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Device number of the tmpfs: no two that exist at once have the same.
    pub device: u64,
    /// Inode of its root.
    pub inode: u64,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Its size.
    pub bytes: u64,
    /// Whether it cannot be swapped out.
    pub noswap: bool,
}

/// What is at a volume's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Not even the pod has a directory any more.
    PodGone,
    /// No target.
    Absent,
    /// A target on which nothing is mounted.
    NotMounted,
    /// A tmpfs of ours.
    Ours(Volume),
    /// A mount that is not ours.
    Foreign,
}

/// Why the mounter did not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The message makes no sense, or the wrong descriptors came along.
    Malformed = 1,
    /// The kernel refused a call.
    Kernel,
    /// Swap is on, the kernel knows no `noswap`, and that is not allowed.
    Swap,
    /// More tmpfs wait for their commit than is allowed, or one of this size is.
    Limit,
    /// No tmpfs with this number waits for its commit.
    UnknownId,
    /// Something is mounted at the target already.
    Taken,
    /// What is mounted at the target is not ours.
    Foreign,
    /// Nothing of ours is mounted at the target.
    NotMounted,
    /// The directory of the volume, which kubelet makes, is not there.
    NoVolume,
    /// A directory on the way to the target is something else.
    NotDirectory,
    /// The file is not a regular file on a tmpfs of ours.
    NotOurFile,
    /// This socket is not configured.
    NoSocket,
    /// Kubelet made the volume's directory for another driver.
    OtherDriver,
    /// Kubelet's record of whose the volume is cannot be read.
    NoRecord,
    /// The host would not see what is mounted there.
    NotShared,
}

impl Reason {
    const ALL: [Self; 15] = [
        Self::Malformed,
        Self::Kernel,
        Self::Swap,
        Self::Limit,
        Self::UnknownId,
        Self::Taken,
        Self::Foreign,
        Self::NotMounted,
        Self::NoVolume,
        Self::NotDirectory,
        Self::NotOurFile,
        Self::NoSocket,
        Self::OtherDriver,
        Self::NoRecord,
        Self::NotShared,
    ];
}

/// What the mounter answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done; whether there was something to do.
    Done(bool),
    /// A tmpfs was made; its root comes along.
    Created {
        /// Its number.
        id: u64,
        /// Whether it cannot be swapped out.
        noswap: bool,
    },
    /// The descriptors that were asked for come along.
    Opened,
    /// What is at a target.
    Found(Found),
    /// Volumes that are mounted, and whether there are more.
    Places(Vec<Place>, bool),
    /// Not done.
    Refused {
        /// Why.
        reason: Reason,
        /// The kernel's error number, or 0.
        errno: i32,
    },
}

impl Reply {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> [u8; REPLY] {
        let mut message = [0; REPLY];
        let mut to = Writer::new(&mut message);
        to.u32(MAGIC);
        match self {
            Self::Done(something) => {
                to.u8(1);
                to.u8(u8::from(*something));
            }
            Self::Created { id, noswap } => {
                to.u8(2);
                to.u64(*id);
                to.u8(u8::from(*noswap));
            }
            Self::Opened => to.u8(3),
            Self::Found(found) => {
                to.u8(4);
                encode_found(*found, &mut to);
            }
            Self::Places(places, more) => {
                to.u8(5);
                to.u8(u8::from(*more));
                to.u8(places.len().min(PAGE) as u8);
                places.iter().take(PAGE).for_each(|place| place.encode_names(&mut to));
            }
            Self::Refused { reason, errno } => {
                to.u8(6);
                to.u8(*reason as u8);
                to.u32(errno.cast_unsigned());
            }
        }
        message
    }

    /// What a message says; `None` unless it is exactly what [`Self::encode`] gives for something valid.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut from = Reader::new(message, REPLY)?;
        if from.u32()? != MAGIC {
            return None;
        }
        let reply = match from.u8()? {
            1 => Self::Done(from.bool()?),
            2 => Self::Created { id: from.u64()?, noswap: from.bool()? },
            3 => Self::Opened,
            4 => Self::Found(decode_found(&mut from)?),
            5 => {
                let more = from.bool()?;
                let count = usize::from(from.u8()?);
                if count > PAGE {
                    return None;
                }
                let places: Option<Vec<_>> = (0..count).map(|_| Place::decode_names(&mut from)).collect();
                Self::Places(places?, more)
            }
            6 => {
                let number = from.u8()?;
                let reason = Reason::ALL.into_iter().find(|reason| *reason as u8 == number)?;
                Self::Refused { reason, errno: from.u32()?.cast_signed() }
            }
            _ => return None,
        };
        (reply.encode() == message).then_some(reply)
    }
}

fn encode_found(found: Found, to: &mut Writer<'_>) {
    match found {
        Found::PodGone => to.u8(1),
        Found::Absent => to.u8(2),
        Found::NotMounted => to.u8(3),
        Found::Foreign => to.u8(4),
        Found::Ours(volume) => {
            to.u8(5);
            to.u64(volume.device);
            to.u64(volume.inode);
            to.u64(volume.bytes);
            to.u8(u8::from(volume.read_only));
            to.u8(u8::from(volume.noswap));
        }
    }
}

fn decode_found(from: &mut Reader<'_>) -> Option<Found> {
    Some(match from.u8()? {
        1 => Found::PodGone,
        2 => Found::Absent,
        3 => Found::NotMounted,
        4 => Found::Foreign,
        5 => {
            let (device, inode, bytes) = (from.u64()?, from.u64()?, from.u64()?);
            Found::Ours(Volume { device, inode, bytes, read_only: from.bool()?, noswap: from.bool()? })
        }
        _ => return None,
    })
}
