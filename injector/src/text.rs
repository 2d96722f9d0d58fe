//! Text of others, cut without harm.

/// At most `limit` bytes of `text`, whole characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}

/// As [`cut`], without control characters, which move a terminal; the ends of lines stay.
pub(crate) fn shown(text: &str, limit: usize) -> String {
    cut(text, limit).chars().filter(|character| *character == '\n' || !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        for (limit, expected) in [(0, ""), (1, ""), (2, "é"), (3, "é"), (4, "éé"), (9, "éé")] {
            assert_eq!(cut("éé", limit), expected);
        }
    }
}
