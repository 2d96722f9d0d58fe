use std::collections::BTreeMap;

use keyward_core::document::Mistakes;

/// The parameters of a class: absent and blank are the same, and what surrounds a value is trimmed.
pub(crate) struct Parameters<'a> {
    map: &'a BTreeMap<String, String>,
    mistakes: &'a Mistakes,
}

impl<'a> Parameters<'a> {
    pub(crate) fn new(map: &'a BTreeMap<String, String>, mistakes: &'a Mistakes) -> Self {
        Self { map, mistakes }
    }

    /// A value, or the empty text. Names are compared as they are.
    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.map.get(name).map_or("", |text| text.trim())
    }

    /// Notes a mistake about `name`.
    pub(crate) fn mistake(&self, name: &str, message: impl Into<String>) {
        self.mistakes.note(name, message);
    }

    /// A flag in the words of Go's ParseBool; absent is false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.text(name) {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            _ => {
                self.mistake(name, "must be true or false");
                false
            }
        }
    }

    /// A client id; `None` where it is absent.
    pub(crate) fn client_id(&self, name: &str) -> Option<String> {
        let text = self.text(name);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if text.len() > 128 || !text.bytes().all(fits) {
            self.mistake(name, "must be a client id, such as 11111111-2222-3333-4444-555555555555");
            return None;
        }
        (!text.is_empty()).then(|| text.to_owned())
    }
}
