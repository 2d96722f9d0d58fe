use zeroize::Zeroizing;

/// Appends without leaving the old buffer behind unwiped, as a growing vector would.
pub(crate) fn append(buffer: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    if buffer.capacity().saturating_sub(buffer.len()) < bytes.len() {
        let capacity =
            buffer.len().saturating_add(bytes.len()).max(buffer.capacity().saturating_mul(2)).max(256);
        let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(bytes);
}
