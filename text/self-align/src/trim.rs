//! Cutting texts: where they run in circles, at half a word, after too many items.

use std::collections::HashSet;

/// Cuts a text where it begins to repeat itself: pieces end after each of `ends`, and everything from the first piece on
/// that was there before is cut. Pieces without a letter or digit may come again. Says whether anything was cut.
pub(crate) fn cut_circles<'a>(text: &'a str, ends: &[char]) -> (&'a str, bool) {
    let mut seen = HashSet::new();
    let mut end = 0;
    for piece in text.split_inclusive(|c| ends.contains(&c)) {
        let said = piece.trim();
        let counts = said.chars().any(char::is_alphanumeric);
        if counts && !seen.insert(said) {
            return (&text[..end], true);
        }
        end += piece.len();
    }
    (text, false)
}

/// Where pieces end in answers.
pub(crate) const ENDS: [char; 7] = ['\n', '.', '?', '!', ';', ':', ','];
/// Where they end in answers at length.
pub(crate) const ENDS_AT_LENGTH: [char; 8] = ['\n', '.', '?', '!', ';', ':', ',', '`'];

/// Takes off what follows the last white space: half a word, where the token limit cut a text.
pub(crate) fn without_last_word(text: &str) -> &str {
    text.rfind(char::is_whitespace).map_or("", |at| &text[..at]).trim_end()
}

/// Cuts a text before item `most + 1` of a numbered list.
pub(crate) fn cut_items(text: &str, most: usize) -> &str {
    let next = format!("{}.", most + 1);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with(&next) {
            return text[..at].trim_end();
        }
        at += line.len();
    }
    text
}

/// Whether `text` has any of `words`, in any case.
pub(crate) fn has_any<'a>(text: &str, words: impl IntoIterator<Item = &'a String>) -> bool {
    let text = text.to_lowercase();
    words.into_iter().any(|word| text.contains(&word.to_lowercase()))
}

/// The rest of `text` after `prefix`, in any case of ASCII letters.
pub(crate) fn after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_cut_where_they_begin() {
        let check = |text: &str, kept: &str| {
            let cut = kept != text;
            assert_eq!(cut_circles(text, &ENDS), (kept, cut), "{text:?}");
        };
        check("One. Two. Three.", "One. Two. Three.");
        check("One. Two. One. Four.", "One. Two.");
        check("Wait... What?! Wait... No.", "Wait... What?!");
        check("a, b, a, c", "a, b,");
        check("- - -\n\n- -\n\n", "- - -\n\n- -\n\n");
        check("Größe! größe! Größe! x", "Größe! größe!");
        check("", "");
        assert_eq!(cut_circles("`a` `a` b", &ENDS), ("`a` `a` b", false));
        assert_eq!(cut_circles("`a` x `a` b", &ENDS_AT_LENGTH), ("`a` x `", true));
    }

    #[test]
    fn ends_are_taken_off() {
        assert_eq!(without_last_word("one two thr"), "one two");
        assert_eq!(without_last_word("one\n\ntw"), "one");
        assert_eq!(without_last_word("one"), "");
        let list: String = (1..=14).map(|n| format!("{n}. item\n")).collect();
        assert!(cut_items(&list, 12).ends_with("12. item"));
        assert_eq!(cut_items("1. a\n2. b", 12), "1. a\n2. b");
        assert_eq!(after("SORRY, no", "sorry"), Some(", no"));
        assert_eq!(after("é", "e"), None);
        assert!(has_any("See Also:", &["see also".to_owned()]));
    }
}
