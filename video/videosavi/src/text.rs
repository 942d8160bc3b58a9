//! Reading what a model wrote where no format was asked for.

use crate::{Dropped, QuestionKind};

/// The question in a reply: everything up to the first question mark, on one line, without the
/// quotes or the `Question:` that models like to put around it.
pub(crate) fn read_question(raw: &str) -> Result<String, Dropped> {
    let line = raw.lines().map(str::trim).find(|line| !line.is_empty()).ok_or(Dropped::Empty)?;
    let line = match line.get(..9) {
        Some(start) if start.eq_ignore_ascii_case("question:") => line[9..].trim_start(),
        _ => line,
    };
    let line = line.trim_start_matches(['"', '\'', '*', ' ']);
    let end = line.find('?').ok_or(Dropped::NotAQuestion)?;
    let question = &line[..=end];
    match question.chars().filter(|c| c.is_alphabetic()).count() {
        0 => Err(Dropped::NotAQuestion),
        _ => Ok(question.to_owned()),
    }
}

/// Whether a question begins with the word that its kind asks for. Kinds of the critique form ask
/// for no word.
pub(crate) fn begins_as(question: &str, kind: QuestionKind) -> bool {
    let first = question.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    match kind {
        QuestionKind::What | QuestionKind::Why | QuestionKind::How => {
            first.eq_ignore_ascii_case(kind.name())
        }
        QuestionKind::Spatial | QuestionKind::Temporal => true,
    }
}

/// The words of a text, in lower case, without punctuation: equal for texts that say the same in
/// the same words.
pub(crate) fn normalise(text: &str) -> String {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join(" ")
}

/// How many times the words of the shorter text the longer one has.
pub(crate) fn length_ratio(one: &str, other: &str) -> f64 {
    let count = |text: &str| text.split_whitespace().count().max(1) as f64;
    let (one, other) = (count(one), count(other));
    one.max(other) / one.min(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_out_of_what_surrounds_them() {
        let check = |raw: &str, expected: Result<&str, Dropped>| {
            assert_eq!(read_question(raw), expected.map(str::to_owned), "{raw:?}");
        };
        check("What moves?", Ok("What moves?"));
        check("\n  Question: \"Which way does it go?\" It is", Ok("Which way does it go?"));
        check("What moves? What stops?\nWhy?", Ok("What moves?"));
        check("", Err(Dropped::Empty));
        check("A red disc moves.", Err(Dropped::NotAQuestion));
        check("???", Err(Dropped::NotAQuestion));
        check("Größe \u{1F3A5}?", Ok("Größe \u{1F3A5}?"));
    }

    #[test]
    fn kinds_ask_for_their_word() {
        assert!(begins_as("what's that?", QuestionKind::What));
        assert!(!begins_as("Whatever moves?", QuestionKind::What));
        assert!(begins_as("Where is it?", QuestionKind::Spatial));
    }

    #[test]
    fn texts_are_compared_by_their_words() {
        assert_eq!(normalise("  The RED disc. "), normalise("the red, disc"));
        assert_ne!(normalise("red disc"), normalise("disc red"));
        assert_eq!(length_ratio("a b c", "a"), 3.0);
        assert_eq!(length_ratio("", "a b"), 2.0);
    }
}
