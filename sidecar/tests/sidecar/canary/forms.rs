use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// What to look for, each with a word that may be printed.
pub(super) struct Needles(Vec<(String, Vec<u8>)>);

impl Needles {
    /// A value in the shapes that programs give to it.
    pub(super) fn of(value: &str) -> Self {
        let mut needles = Self(Vec::new());
        let bytes = value.as_bytes();
        needles.add("itself", value);
        // The part that is unique, for whatever escapes the rest.
        let core: String = value.chars().filter(char::is_ascii_hexdigit).rev().take(24).collect();
        needles.add("its unique part", core.chars().rev().collect::<String>());
        for offset in 0..3 {
            // Within a longer text, base64 begins at one of three places; the ends depend on what is around.
            let padded = [&vec![0; offset][..], bytes].concat();
            let inner = |text: String| text[4..text.len() - 4].to_owned();
            needles.add("base64", inner(STANDARD_NO_PAD.encode(&padded)));
            needles.add("base64url", inner(URL_SAFE_NO_PAD.encode(&padded)));
        }
        needles.add("hex", hex::encode(bytes));
        needles.add("HEX", hex::encode_upper(bytes));
        needles.add("percent-encoded", utf8_percent_encode(value, NON_ALPHANUMERIC).to_string());
        needles.add("escaped", format!("{value:?}").trim_matches('"'));
        let mut list = String::new();
        for byte in bytes {
            let _ = write!(list, "{byte}, ");
        }
        needles.add("a list of bytes", list.trim_end_matches(", "));
        needles
    }

    /// Every JSON web token begins so; an assertion or access token would show by it.
    pub(super) fn tokens(&mut self) {
        self.add("a token", "eyJ");
        self.add("a token's header", "Bearer ey");
    }

    fn add(&mut self, what: &str, needle: impl AsRef<[u8]>) {
        self.0.push((what.to_owned(), needle.as_ref().to_vec()));
    }

    pub(super) fn found(&self, hay: &[u8]) -> Option<&str> {
        let there = |needle: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
        self.0.iter().find(|(_, needle)| there(needle)).map(|(what, _)| what.as_str())
    }

    pub(super) fn absent(&self, place: &str, hay: &[u8]) {
        if let Some(what) = self.found(hay) {
            panic!("{place} holds the canary as {what}");
        }
    }
}

#[test]
fn the_search_finds_a_value_in_every_shape() {
    let value = "c4nary+/=?\"<0123456789abcdef0123456789abcdef>";
    let needles = Needles::of(value);
    for text in [
        value.to_owned(),
        format!("{value:?}"),
        format!("{:?}", value.as_bytes()),
        STANDARD_NO_PAD.encode(format!("user:{value}@")),
        STANDARD_NO_PAD.encode(format!("ab{value}")),
        URL_SAFE_NO_PAD.encode(value),
        hex::encode(value),
        serde_json::json!({ "k": value }).to_string(),
        utf8_percent_encode(value, NON_ALPHANUMERIC).to_string(),
    ] {
        assert!(needles.found(format!("before {text} after").as_bytes()).is_some(), "{text}");
    }
    assert!(needles.found(b"nothing of the kind").is_none());
}
