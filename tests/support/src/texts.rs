use proptest::char::range;
use proptest::collection::vec;
use proptest::prelude::*;

/// Texts as nobody honest writes them: any character, control characters and line ends, nothing, letters of several
/// bytes around the lengths at which programs cut, and very long ones.
pub fn any_text() -> impl Strategy<Value = String> {
    let of = |characters: Vec<char>| characters.into_iter().collect::<String>();
    prop_oneof![
        4 => vec(any::<char>(), 0..24).prop_map(of),
        3 => vec(prop_oneof![range('\0', ' '), Just('é'), Just('\u{202e}'), Just('𝔸'), range('a', 'z')], 0..24).prop_map(of),
        1 => Just(String::new()),
        2 => (30_usize..70, prop_oneof![Just("é"), Just("𝔸"), Just("\n"), Just("")])
            .prop_map(|(length, end)| format!("{}{end}", "a".repeat(length))),
        1 => (prop_oneof![Just("a"), Just("é"), Just("["), Just("\n"), Just("- "), Just("a: ")], 200_usize..60_000)
            .prop_map(|(unit, times)| unit.repeat(times)),
        2 => "[a-z0-9:/@.{}\\[\\]'\"#&*!|>%-]{0,40}",
    ]
}

/// Whether a message may be shown to people: not empty, of a bounded length, and one that moves no terminal.
#[must_use]
pub fn is_tidy(message: &str) -> bool {
    !message.trim().is_empty()
        && message.len() <= 64 * 1024
        && message.chars().all(|character| character == '\n' || !character.is_control())
}
