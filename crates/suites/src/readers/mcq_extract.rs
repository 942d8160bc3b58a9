//! lmms-eval's shared reader of letters (`lmms_eval/tasks/_task_utils/mcq_extract.py`, 7a69a9a1,
//! 2026-04-11): letters are looked for in many forms, and the best form wins.

use super::python::{is_alpha, strip};

/// What announces an answer, in lower case; any letter that comes after it counts, in a word, too.
const ANNOUNCED: [&str; 27] = [
    "the answer is",
    "answer is",
    "the correct answer is",
    "correct answer is",
    "the best answer is",
    "best answer is",
    "the correct option is",
    "correct option is",
    "the best option is",
    "best option is",
    "the choice is",
    "choice is",
    "the correct choice is",
    "correct choice is",
    "i choose",
    "i select",
    "i pick",
    "my answer is",
    "my choice is",
    "옵션",
    "정답은",
    "답은",
    "답:",
    "答案是",
    "答案为",
    "选",
    "答えは",
];

/// The letter of the best form: at the start (10), at the end (9), after an announcement (7),
/// `(B)` (6), `B.` (5), `B:` (4), `B)` (3), `B ` (2), anywhere (0, only for want of others). Of
/// one form the later place wins; after an announcement that is the last of the first occurrences
/// of the letters behind it, so "The answer is B, not D" is read as D.
pub(super) fn extract(reply: &str, letters: &str) -> Option<char> {
    if strip(reply).is_empty() {
        return None;
    }
    let marks = [',', '.', '!', '?', ';', ':', '\'', '"'];
    let bare = marks.iter().fold(strip(reply), |text, mark| text.trim_matches(*mark));
    let text = format!(" {bare} ");
    let mut found: Vec<(u8, usize, char)> = Vec::new();
    for letter in letters.chars() {
        let forms = [(6, "(", ")"), (5, "", "."), (4, "", ":"), (3, "", ")"), (2, "", " ")];
        for (rank, before, after) in forms {
            if let Some(place) = text.rfind(&format!("{before}{letter}{after}")) {
                // A bracket before the letter moves the place, but of one form all alike.
                found.push((rank, place, letter));
            }
        }
    }
    let lower = text.to_lowercase();
    for phrase in ANNOUNCED {
        let Some(at) = lower.find(phrase) else { continue };
        // Lower case can be longer than the text; the code counts characters in one and goes on
        // from there in the other.
        let after = lower[..at + phrase.len()].chars().count();
        let after = text.char_indices().nth(after).map_or(text.len(), |(place, _)| place);
        for letter in letters.chars() {
            if let Some(place) = text[after..].find(letter) {
                found.push((7, after + place, letter));
            }
        }
    }
    let stripped = strip(&text);
    let mut ends = stripped.chars();
    if let Some(first) = ends.next() {
        let after = ends.next();
        if letters.contains(first) && !after.is_some_and(is_alpha) {
            found.push((10, 0, first));
        }
    }
    let mut ends = stripped.chars().rev();
    if let Some(last) = ends.next() {
        let before = ends.next();
        if letters.contains(last) && !before.is_some_and(is_alpha) {
            found.push((9, 0, last));
        }
    }
    if found.is_empty() {
        let anywhere = letters.chars().filter_map(|letter| Some((0, text.rfind(letter)?, letter)));
        found.extend(anywhere);
    }
    found.into_iter().max_by_key(|&(rank, place, _)| (rank, place)).map(|(_, _, letter)| letter)
}
