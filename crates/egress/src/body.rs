use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use zeroize::Zeroize as _;

/// Why a body was not read to its end.
pub(crate) enum BodyFailure {
    /// It is larger than the limit; nothing beyond the limit was kept.
    TooLarge,
    /// The peer stopped before the end.
    Broken(hyper::Error),
}

/// Reads a body of at most `limit` bytes into memory that is wiped when the last holder lets go.
///
/// A larger one is given up as soon as that is known: by its declared length before the first byte is read, else at the
/// first frame over the limit, which closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
pub(crate) async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, BodyFailure> {
    let declared = body.size_hint().lower();
    if usize::try_from(declared).map_or(true, |length| length > limit) {
        return Err(BodyFailure::TooLarge);
    }
    let mut kept = Wiped(Vec::with_capacity(usize::try_from(declared).unwrap_or(0)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(BodyFailure::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > limit.saturating_sub(kept.0.len()) {
            return Err(BodyFailure::TooLarge);
        }
        kept.append(data);
    }
    Ok(Bytes::from_owner(kept))
}

/// A growing buffer that leaves no copy behind.
struct Wiped(Vec<u8>);

impl Wiped {
    fn append(&mut self, data: &[u8]) {
        let needed = self.0.len().saturating_add(data.len());
        if self.0.capacity() < needed {
            // Growing by hand: a reallocation would leave the old bytes unwiped.
            let wanted = needed.next_power_of_two().max(4096);
            let mut larger = Vec::with_capacity(wanted);
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        self.0.extend_from_slice(data);
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_buffer_grows_without_losing_bytes() {
        let mut buffer = Wiped(Vec::new());
        for chunk in 0u8..=255 {
            buffer.append(&[chunk; 100]);
        }
        assert_eq!(buffer.as_ref().len(), 25_600);
        assert!(
            buffer
                .as_ref()
                .chunks(100)
                .zip(0u8..=255)
                .all(|(bytes, value)| bytes.iter().all(|byte| *byte == value))
        );
    }
}
