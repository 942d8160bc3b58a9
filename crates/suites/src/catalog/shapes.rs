//! Shapes that annotation files of several benchmarks have in common.

use std::path::Path;

use savi_data::{DataError, Row};
use serde_json::{Map, Value};

/// A whole file.
pub(super) fn text_of(path: &Path) -> Result<String, DataError> {
    std::fs::read_to_string(path).map_err(|source| DataError::Io { path: path.to_owned(), source })
}

/// A file's name without its ending.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The members of a JSON file that is one object, in the order of the file.
pub(super) fn members(path: &Path) -> Result<Map<String, Value>, DataError> {
    Row { path: path.to_owned(), number: 1, text: text_of(path)? }.object()
}

/// A value inside such a file as a row of its own.
pub(super) fn inner(path: &Path, number: u64, value: &Value) -> Row {
    Row { path: path.to_owned(), number, text: value.to_string() }
}

/// Where the answer's text stands among the options. Carriers differ in white space, case and a full stop at the
/// end, so an option that is the same but for these is taken where none is the same.
pub(super) fn place_of(options: &[String], answer: &str) -> Option<usize> {
    let plain = |text: &str| {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        words.join(" ").trim_end_matches('.').to_owned()
    };
    options
        .iter()
        .position(|option| option == answer)
        .or_else(|| options.iter().position(|option| plain(option) == plain(answer)))
}

/// The place that a letter stands for: 0 for `A`.
pub(super) fn place_of_letter(letter: &str) -> Option<usize> {
    let mut letters = letter.trim().chars();
    match (letters.next(), letters.next()) {
        (Some(letter @ 'A'..='Z'), None) => Some(usize::from(letter as u8 - b'A')),
        _ => None,
    }
}

/// Options without white space around them, and without letters where each begins with that of its place.
pub(super) fn without_letters(options: Vec<String>) -> Vec<String> {
    let bare: Option<Vec<String>> = options
        .iter()
        .zip('A'..='Z')
        .map(|(option, letter)| {
            let rest = option.trim().strip_prefix(letter)?;
            Some(rest.strip_prefix(['.', ')', ':'])?.trim().to_owned())
        })
        .collect();
    match bare {
        Some(bare) if bare.len() == options.len() => bare,
        _ => options.iter().map(|option| option.trim().to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn letters_go_only_where_all_options_have_theirs() {
        assert_eq!(
            without_letters(texts(&["A. a cat", "B) B. B. King "])),
            ["a cat", "B. B. King"]
        );
        assert_eq!(without_letters(texts(&["A. J. Ayer", " Bacon"])), ["A. J. Ayer", "Bacon"]);
        assert!(without_letters(Vec::new()).is_empty());
    }

    #[test]
    fn answers_are_found_by_text_and_by_letter() {
        let options = texts(&["a  Cup.", "a cup", "A plate"]);
        assert_eq!(place_of(&options, "a cup"), Some(1));
        assert_eq!(place_of(&options, "A Plate."), Some(2));
        assert_eq!(place_of(&options, "a bowl"), None);
        assert_eq!((place_of_letter(" C "), place_of_letter("CD")), (Some(2), None));
    }
}
