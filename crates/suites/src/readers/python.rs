//! Text as Python's `str` and `re` see it, on which the harnesses' rules stand.
//!
//! One thing is left out: Rust calls combining vowel signs alphabetic, Python does not, so a Latin
//! letter that carries such a sign counts as part of a word here and stands alone there.

/// What `str.isspace` and `\s` take for white space: Unicode's, and four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.split()`.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `str.isalpha` of one character: letters alone, no numerals and no letters in circles.
pub(super) fn is_alpha(c: char) -> bool {
    let circled = matches!(c, '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f189}');
    c.is_alphabetic() && !c.is_numeric() && !circled
}

/// `\w`.
pub(super) fn is_word(c: char) -> bool {
    c == '_' || c.is_numeric() || is_alpha(c)
}

/// First digits of the runs of ten that are `\d` (decimal digits of all scripts, Unicode 14).
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// `\d`.
pub(super) fn is_digit(c: char) -> bool {
    let before = ZEROS.partition_point(|&zero| zero <= c as u32);
    before > 0 && (c as u32) < ZEROS[before - 1] + 10
}

/// The first character of `wanted` that is a word of its own (`\b([wanted])\b`).
pub(super) fn standing_alone(text: &str, wanted: impl Fn(char) -> bool) -> Option<char> {
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let free = |beside: Option<char>| !beside.is_some_and(is_word);
        if wanted(c) && free(before) && free(chars.peek().copied()) {
            return Some(c);
        }
        before = Some(c);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_digits() {
        assert_eq!(strip("\x1c\u{a0}\u{3000} a b\u{85}\x1f"), "a b");
        assert_eq!(strip("\u{200b}a\u{feff}"), "\u{200b}a\u{feff}");
        assert_eq!(words("a\x1db\u{2003}\nc").collect::<Vec<_>>(), ["a", "b", "c"]);
        for (c, digit) in [('7', true), ('٣', true), ('９', true), ('²', false), ('Ⅷ', false)]
        {
            assert_eq!(is_digit(c), digit, "{c}");
        }
    }

    #[test]
    fn words_and_letters() {
        let first = |text: &str| standing_alone(text, |c| ('A'..='E').contains(&c));
        for (text, letter) in [
            ("A", Some('A')),
            ("x B_ C-D", Some('C')),
            ("答案是B", None),
            ("答案：B。", Some('B')),
            ("ÉA AÉ A²", None),
            ("AⒷ", Some('A')),
            ("", None),
        ] {
            assert_eq!(first(text), letter, "{text}");
        }
        assert!(is_alpha('é') && is_alpha('一') && !is_alpha('Ⅷ') && !is_alpha('1'));
    }
}
