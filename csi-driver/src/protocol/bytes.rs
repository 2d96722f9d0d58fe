//! Cursors over a message of fixed size.

/// Fills a message from the front. A message is large enough for every form of it, which the tests hold it to.
pub(super) struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    pub(super) fn new(message: &'a mut [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// A text in `room` bytes, after its length.
    pub(super) fn text(&mut self, text: &str, room: usize) {
        let length = text.len().min(room).min(usize::from(u8::MAX));
        self.u8(length as u8);
        let (field, rest) = std::mem::take(&mut self.rest).split_at_mut(room);
        field.iter_mut().zip(text.bytes().take(length)).for_each(|(to, from)| *to = from);
        self.rest = rest;
    }

    fn bytes(&mut self, value: &[u8]) {
        let (field, rest) = std::mem::take(&mut self.rest).split_at_mut(value.len());
        field.copy_from_slice(value);
        self.rest = rest;
    }
}

/// Reads a message from the front; nothing that it holds can make it read past the end.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// `None` unless the message has exactly `size` bytes.
    pub(super) fn new(message: &'a [u8], size: usize) -> Option<Self> {
        (message.len() == size).then_some(Self { rest: message })
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    pub(super) fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self, room: usize) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        let (field, rest) = self.rest.split_at_checked(room)?;
        self.rest = rest;
        std::str::from_utf8(field.get(..length)?).ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*field)
    }
}
