//! Parsers of outside bytes, with any bytes at all.

use http::Method;
use keyward_emulator::{PathError, Schedule, StateFile, parse_form, parse_unchecked, parse_vault_path};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

proptest! {
    #[test]
    fn no_bytes_upset_a_parser(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = parse_form(&bytes);
        let _ = parse_unchecked(&bytes);
        let _ = Schedule::parse(&bytes);
        let _ = StateFile::parse(&bytes);
        let _ = parse_vault_path(&Method::GET, &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_is_encoded_as_a_form_is_read_back(
        fields in proptest::collection::btree_map("\\PC{0,20}", "\\PC{0,40}", 0..20),
        plus in any::<bool>(),
    ) {
        let encode = |text: &str| {
            let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            if plus { encoded.replace("%20", "+") } else { encoded }
        };
        let body: Vec<String> = fields.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
        prop_assert_eq!(parse_form(body.join("&").as_bytes()), Some(fields));
    }

    #[test]
    fn an_accepted_name_has_only_the_characters_of_key_vault(
        path in "/(secrets|keys|certificates|deletedsecrets)/[ -~]{0,140}(/[ -~]{0,40})?",
        method in prop_oneof![Just(Method::GET), Just(Method::PUT), Just(Method::DELETE), Just(Method::POST)],
    ) {
        match parse_vault_path(&method, &path) {
            Ok(read) => {
                if let Some(name) = read.name {
                    prop_assert!((1..=127).contains(&name.len()));
                    prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
                }
            }
            Err(PathError::BadName(name)) => prop_assert!(!name.is_empty()),
            Err(PathError::Unknown) => {}
        }
    }

    #[test]
    fn only_three_parts_make_a_token(header in "[A-Za-z0-9_-]{0,40}", parts in 0usize..6) {
        let token = vec![header; parts].join(".");
        // No random text of this length is a JSON object in base64.
        prop_assert!(parse_unchecked(token.as_bytes()).is_none());
    }
}

#[test]
fn forms_with_repeated_fields_or_too_many_or_too_much_are_malformed() {
    assert_eq!(parse_form(b"a=1&a=2"), None);
    assert_eq!(parse_form(b"a=%ff"), None);
    let many: Vec<String> = (0..65).map(|n| format!("f{n}=")).collect();
    assert_eq!(parse_form(many.join("&").as_bytes()), None);
    assert_eq!(parse_form(&vec![b'a'; 64 * 1024 + 1]), None);
    assert_eq!(parse_form(b"").map(|fields| fields.len()), Some(0));
}

#[test]
fn a_token_longer_than_32_kib_is_not_looked_at() {
    let emulator = keyward_emulator::Emulator::builder().build();
    let token = emulator.issuer().mint(&serde_json::json!({"long": "x".repeat(32 * 1024)}));
    assert!(parse_unchecked(token.as_bytes()).is_none());
    let token = emulator.issuer().mint(&serde_json::json!({"short": true}));
    assert!(parse_unchecked(token.as_bytes()).is_some());
}
