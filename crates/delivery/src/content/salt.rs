use aws_lc_rs::hmac;

/// Salts and initialisation vectors that follow from what they protect, so that the same object always becomes the
/// same bytes and a file is rewritten only when its object changed. Two different keys or passwords never share one.
pub(super) struct Salt {
    key: hmac::Key,
    taken: u8,
}

impl Salt {
    pub(super) fn new(purpose: &[u8], inputs: &[&[u8]]) -> Self {
        let base = hmac::Key::new(hmac::HMAC_SHA256, b"keyward key store");
        let mut context = hmac::Context::with_key(&base);
        for input in [purpose].iter().chain(inputs) {
            context.update(&(input.len() as u64).to_be_bytes());
            context.update(input);
        }
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref()), taken: 0 }
    }

    /// The next one, of at most 32 bytes.
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let tag = hmac::sign(&self.key, &[self.taken]);
        self.taken = self.taken.saturating_add(1);
        let mut salt = [0; N];
        salt.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        salt
    }
}
