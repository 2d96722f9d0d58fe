//! Answers as bytes, made piece by piece while the reader takes them.
//!
//! HTTP/2 asks for the next piece of an answer when the last one had room in the stream's window, so an answer that is
//! not read costs one piece and what it is made from: shared snapshots. A larger value is sent as slices of the very
//! memory that holds it; what is copied lies in buffers that are wiped and owed until they were sent.

#![expect(clippy::arithmetic_side_effects, reason = "sizes of messages that are made from values in memory")]

use std::sync::Arc;

use bytes::Bytes;
use keyward_core::{Result, SecretBytes, Served};
use keyward_proto::secrets::v1::Failure;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::connection::{Connection, Owed};
use crate::convert;
use crate::values::HeldValue;
use crate::wire::{PREFIX, Wiped, put_prefix};

/// Values up to this many bytes are copied into the message, which is cheaper than a piece of their own.
pub(crate) const INLINE: usize = 4 << 10;

/// Largest piece, apart from a single entry that is larger, in bytes: HTTP/2's smallest largest frame.
const PIECE: usize = 16 << 10;

/// What HTTP/2 holds of one answer at most, in bytes, beyond the piece that waits for room.
pub(crate) const SEND_BUFFER: usize = 64 << 10;

/// The most of one answer's copied bytes that exist at a time.
const MOST_COPIED: usize = SEND_BUFFER + 2 * PIECE;

/// An entry of a response message.
pub(crate) struct Entry {
    /// Its field's number.
    field: u32,
    length: usize,
    part: Part,
}

enum Part {
    /// A secret with its value.
    Secret(Arc<Served>, HeldValue),
    /// What is known of an object.
    Metadata(Arc<Served>),
    /// Why there is no value.
    Failure(Box<Failure>),
}

impl Entry {
    pub(crate) fn secret(field: u32, served: Arc<Served>, value: HeldValue) -> Self {
        let length = convert::secret_length(&served, value.as_ref().len());
        Self { field, length, part: Part::Secret(served, value) }
    }

    pub(crate) fn metadata(field: u32, served: Arc<Served>) -> Self {
        Self { field, length: convert::metadata(&served).encoded_len(), part: Part::Metadata(served) }
    }

    pub(crate) fn failure(field: u32, failure: Failure) -> Self {
        Self { field, length: failure.encoded_len(), part: Part::Failure(Box::new(failure)) }
    }

    /// Bytes in the response message, the field's key and length included.
    fn encoded(&self) -> usize {
        key_len(self.field) + encoded_len_varint(self.length as u64) + self.length
    }

    /// Bytes of a value that are sent from where they are.
    fn shared(&self) -> usize {
        match &self.part {
            Part::Secret(_, value) if value.as_ref().len() > INLINE => value.as_ref().len(),
            _ => 0,
        }
    }

    /// Bytes that are copied.
    fn copied(&self) -> usize {
        self.encoded() - self.shared()
    }

    /// Puts what is copied, and returns what follows it as it is.
    fn put(self, buffer: &mut Vec<u8>) -> Option<HeldValue> {
        encode_key(self.field, WireType::LengthDelimited, buffer);
        encode_varint(self.length as u64, buffer);
        match self.part {
            Part::Secret(served, value) => {
                convert::put_secret(&served, value.as_ref().len(), buffer);
                if value.as_ref().len() > INLINE {
                    return Some(value);
                }
                buffer.extend_from_slice(value.as_ref());
            }
            Part::Metadata(served) => convert::metadata(&served).encode_raw(buffer),
            Part::Failure(failure) => failure.encode_raw(buffer),
        }
        None
    }
}

/// One message on its way.
pub(crate) struct Reply {
    /// Length of the message while its prefix was not sent.
    begins: Option<usize>,
    entries: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    /// The rest of a value that is being sent.
    value: Bytes,
    owed: Arc<Owed>,
}

impl Reply {
    /// # Errors
    /// `KW_NO_SPACE` when too much waits to be read already.
    pub(crate) fn new(connection: &Arc<Connection>, entries: Vec<Entry>) -> Result<Self> {
        let (mut length, mut copied, mut failures) = (0, PREFIX, 0);
        for entry in &entries {
            length += entry.encoded();
            copied += entry.copied();
            if matches!(entry.part, Part::Failure(_)) {
                failures += size_of::<Failure>() + entry.length;
            }
        }
        let held = size_of::<Self>() + entries.len() * size_of::<Entry>() + failures;
        let owed = connection.owe(held + copied.min(MOST_COPIED))?;
        let entries = entries.into_iter().peekable();
        Ok(Self { begins: Some(length), entries, value: Bytes::new(), owed: Arc::new(owed) })
    }

    /// The next piece, `None` at the end of the message.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if !self.value.is_empty() {
            return Some(self.value.split_to(self.value.len().min(PIECE)));
        }
        // Measured first: a buffer that grew would leave unwiped copies behind.
        let mut batch = Vec::new();
        let mut size = if self.begins.is_some() { PREFIX } else { 0 };
        while let Some(entry) = self.entries.next_if(|entry| size == 0 || size + entry.copied() <= PIECE) {
            size += entry.copied();
            let shares = entry.shared() > 0;
            batch.push(entry);
            if shares {
                break;
            }
        }
        if size == 0 {
            return None;
        }
        let mut buffer = Vec::with_capacity(size);
        if let Some(length) = self.begins.take() {
            put_prefix(&mut buffer, length);
        }
        for entry in batch {
            if let Some(value) = entry.put(&mut buffer) {
                self.value = Bytes::from_owner(value);
            }
        }
        Some(Bytes::from_owner(Wiped { buffer, _owed: Arc::clone(&self.owed) }))
    }
}

/// A message of one secret with a copied value.
///
/// # Errors
/// `KW_NO_SPACE` when too much waits to be read already.
pub(crate) fn single(
    connection: &Arc<Connection>,
    field: u32,
    served: &Served,
    value: &SecretBytes,
) -> Result<Bytes> {
    let secret = convert::secret_length(served, value.len());
    let length = key_len(field) + encoded_len_varint(secret as u64) + secret;
    let owed = connection.owe(PREFIX + length)?;
    let mut buffer = Vec::with_capacity(PREFIX + length);
    put_prefix(&mut buffer, length);
    encode_key(field, WireType::LengthDelimited, &mut buffer);
    encode_varint(secret as u64, &mut buffer);
    convert::put_secret(served, value.len(), &mut buffer);
    buffer.extend_from_slice(value.expose());
    Ok(Bytes::from_owner(Wiped { buffer, _owed: owed }))
}
