//! From a reply to an answer, by stated rules. No rule guesses: what cannot be read is wrong.
//!
//! *Open* replies are compared whole, or from their last `Answer:` on where they have one (a reply
//! that gives its reasons first), after [`normalise`]: lower case, punctuation dropped, the
//! articles a, an and the dropped, number words written as digits, white space folded.
//!
//! *Choice* replies ([`choice`]) name an option by letter, by text, or by both:
//!
//! 1. A leading letter counts when it stands alone (`B`), carries a mark (`B.`, `B)`, `(B)`, `B:`)
//!    or is followed by exactly the text of its option (`B left`). A marked letter whose rest names
//!    another option is ambiguous. `A circle` is an article unless option A is `circle`.
//! 2. Otherwise, letters after "answer is" or "answer:" count; two different ones are ambiguous.
//! 3. Otherwise, the option whose text is the reply (from its last `Answer:` on, as above), or the
//!    only option whose words occur in it in one piece with nothing around them but words like
//!    `it is` or `the answer`: `upper left` and `not left` do not name `left`. Several are
//!    ambiguous, none is unparsed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Format;

/// Goes up when a reply would be read otherwise than before, so that stored grades are made again.
pub const RULES: u32 = 3;

/// Words that may stand around an option: they neither negate it nor make it another one.
const AROUND: [&str; 16] = [
    "it", "its", "is", "was", "in", "on", "at", "to", "this", "that", "answer", "option",
    "correct", "i", "think", "goes",
];

/// Why a reply holds no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unparsed {
    /// Nothing was written, or nothing but punctuation.
    #[error("the reply is empty")]
    Empty,
    /// No option is named.
    #[error("the reply names no option")]
    NoOption,
    /// Several options are named.
    #[error("the reply names several options")]
    Ambiguous,
    /// No answer is stated where one is expected.
    #[error("the reply states no answer")]
    NoAnswer,
}

/// The form in which open replies and answers are compared; `Err` when no word is left.
pub fn open(reply: &str) -> Result<String, Unparsed> {
    let normal = normalise(final_answer(reply));
    if normal.is_empty() { Err(Unparsed::Empty) } else { Ok(normal) }
}

/// The index of the option that a reply names.
pub fn choice(reply: &str, options: &[String]) -> Result<usize, Unparsed> {
    if !reply.chars().any(char::is_alphanumeric) {
        return Err(Unparsed::Empty);
    }
    let normal: Vec<String> = options.iter().map(|option| normalise(option)).collect();
    if let Some(result) = leading_letter(reply, &normal) {
        return result;
    }
    if let Some(result) = letter_after_answer(reply, options.len()) {
        return result;
    }
    named_alone(&normalise(final_answer(reply)), &normal)
}

/// What follows the last `Answer:` of a reply that gives reasons before it; the whole of any other.
pub fn final_answer(reply: &str) -> &str {
    const MARK: &str = "answer:";
    let bytes = reply.as_bytes();
    let starts_word = |at: usize| at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
    let is_mark = |at: usize| bytes[at..at + MARK.len()].eq_ignore_ascii_case(MARK.as_bytes());
    let last = (0..(bytes.len() + 1).saturating_sub(MARK.len()))
        .rev()
        .find(|&at| is_mark(at) && starts_word(at));
    // The mark is of ASCII letters, so what follows it starts a character.
    match last.and_then(|at| reply.get(at + MARK.len()..)) {
        Some(rest) if rest.chars().any(char::is_alphanumeric) => rest.trim(),
        _ => reply,
    }
}

/// Whether a reply is right: `Ok` with the extracted answer and the verdict. The extracted answer
/// is the normal form of an open reply and the text of the chosen option.
pub fn grade(
    format: Format,
    options: &[String],
    answer: &str,
    reply: &str,
) -> Result<(String, bool), Unparsed> {
    match format {
        Format::Open => {
            let extracted = open(reply)?;
            let right = extracted == normalise(answer);
            Ok((extracted, right))
        }
        Format::Choice => {
            let option = &options[choice(reply, options)?];
            Ok((option.clone(), normalise(option) == normalise(answer)))
        }
    }
}

/// Lower case, without punctuation and articles, numbers as digits, single blanks.
///
/// A text of nothing but articles keeps them. Apostrophes vanish inside words; a point between
/// digits stays and a comma between digits vanishes (`1,000.5` is `1000.5`); every other mark
/// separates words. Number words go to ninety-nine.
pub fn normalise(text: &str) -> String {
    let chars: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
    let digit =
        |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
    let mut clean = String::with_capacity(text.len());
    for (at, &c) in chars.iter().enumerate() {
        let within_number = digit(at.checked_sub(1)) && digit(Some(at + 1));
        match c {
            c if c.is_alphanumeric() => clean.push(c),
            '.' if within_number => clean.push('.'),
            ',' if within_number => {}
            '\'' | '’' => {}
            _ => clean.push(' '),
        }
    }
    let words: Vec<&str> = clean.split_whitespace().collect();
    let kept: Vec<&str> =
        words.iter().copied().filter(|word| !matches!(*word, "a" | "an" | "the")).collect();
    numbers_as_digits(if kept.is_empty() { &words } else { &kept }).join(" ")
}

const UNITS: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] =
    ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

fn numbers_as_digits(words: &[&str]) -> Vec<String> {
    let unit = |word: &str| UNITS.iter().position(|unit| *unit == word);
    let mut out = Vec::with_capacity(words.len());
    let mut rest = words;
    while let [word, tail @ ..] = rest {
        rest = tail;
        if let Some(tens) = TENS.iter().position(|tens| tens == word) {
            let mut value = 20 + 10 * tens;
            if let Some(more @ 1..=9) = tail.first().and_then(|next| unit(next)) {
                value += more;
                rest = &tail[1..];
            }
            out.push(value.to_string());
        } else if let Some(value) = unit(word) {
            out.push(value.to_string());
        } else {
            out.push((*word).to_owned());
        }
    }
    out
}

/// Rule 1; `None` where the reply does not start with a letter that counts.
fn leading_letter(reply: &str, normal: &[String]) -> Option<Result<usize, Unparsed>> {
    let reply = reply.trim().trim_start_matches(['"', '\'', '*']);
    let (bracketed, reply) = match reply.strip_prefix('(') {
        Some(rest) => (true, rest),
        None => (false, reply),
    };
    let index = letter_index(reply.chars().next()?, normal.len())?;
    let rest = &reply[1..];
    let marked =
        if bracketed { rest.strip_prefix(')') } else { rest.strip_prefix(['.', ')', ':']) };
    if let Some(rest) = marked {
        // A mark inside a word ("a.m.", "b:c") is no mark.
        if !bracketed && rest.chars().next().is_some_and(char::is_alphanumeric) {
            return None;
        }
        let mut named = named_options(&normalise(rest), normal);
        named.retain(|&other| other != index);
        return Some(if named.is_empty() { Ok(index) } else { Err(Unparsed::Ambiguous) });
    }
    if bracketed || rest.chars().next().is_some_and(char::is_alphanumeric) {
        return None;
    }
    let rest = normalise(rest);
    (rest.is_empty() || rest == normal[index]).then_some(Ok(index)).or_else(|| {
        // "B left" where left is option A: the letter and the text contradict each other. An "a"
        // may be an article and is left to rule 3.
        let contradicts = index != 0 && normal.contains(&rest);
        contradicts.then_some(Err(Unparsed::Ambiguous))
    })
}

/// Rule 2; `None` where no letter follows "answer is" or "answer:".
fn letter_after_answer(reply: &str, options: usize) -> Option<Result<usize, Unparsed>> {
    let words: Vec<&str> = reply.split_whitespace().collect();
    let mut letters = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let word = word.trim_start_matches(['"', '\'', '*', '(']).to_lowercase();
        let mut next = match word.as_str() {
            "answer:" => at + 1,
            "answer" if words.get(at + 1).is_some_and(|w| matches!(*w, "is" | "is:" | ":")) => {
                at + 2
            }
            _ => continue,
        };
        if words.get(next).is_some_and(|w| w.eq_ignore_ascii_case("option")) {
            next += 1;
        }
        let Some(word) = words.get(next) else { continue };
        let letter = word.trim_matches(|c: char| !c.is_alphanumeric());
        let mut chars = letter.chars();
        if let (Some(first), None) = (chars.next(), chars.next())
            && let Some(index) = letter_index(first, options)
            // "the answer is a circle": an article, unless it is marked or ends the reply.
            && (first != 'a' || letter.len() != word.len() || next + 1 == words.len())
        {
            letters.push(index);
        }
    }
    if letters.is_empty() { None } else { Some(only_one(letters)) }
}

fn letter_index(letter: char, options: usize) -> Option<usize> {
    let letter = letter.to_ascii_uppercase();
    letter.is_ascii_uppercase().then(|| letter as usize - 'A' as usize).filter(|&i| i < options)
}

/// Rule 3.
fn named_alone(reply: &str, normal: &[String]) -> Result<usize, Unparsed> {
    let exact: Vec<usize> = (0..normal.len()).filter(|&index| normal[index] == reply).collect();
    if !exact.is_empty() {
        return only_one(exact);
    }
    let index = only_one(named_options(reply, normal))?;
    let mut wanted = normal[index].split(' ').peekable();
    let around = reply.split(' ').filter(|word| wanted.next_if_eq(word).is_none());
    match around.into_iter().all(|word| AROUND.contains(&word)) {
        true => Ok(index),
        false => Err(Unparsed::NoOption),
    }
}

/// Options whose words occur in `reply` in one piece, not counting those inside longer ones.
fn named_options(reply: &str, normal: &[String]) -> Vec<usize> {
    let words: Vec<&str> = reply.split(' ').collect();
    let mut spans = Vec::new();
    for (index, option) in normal.iter().enumerate().filter(|(_, option)| !option.is_empty()) {
        let wanted: Vec<&str> = option.split(' ').collect();
        for (start, window) in words.windows(wanted.len()).enumerate() {
            if window == wanted {
                spans.push((start, start + wanted.len(), index));
            }
        }
    }
    let within_longer = |&(start, end, _): &(usize, usize, usize)| {
        spans.iter().any(|&(s, e, _)| s <= start && end <= e && e - s > end - start)
    };
    let mut named: Vec<usize> =
        spans.iter().filter(|span| !within_longer(span)).map(|span| span.2).collect();
    named.sort_unstable();
    named.dedup();
    named
}

fn only_one(mut indices: Vec<usize>) -> Result<usize, Unparsed> {
    indices.dedup();
    match indices[..] {
        [] => Err(Unparsed::NoOption),
        [index] => Ok(index),
        _ => Err(Unparsed::Ambiguous),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_forms() {
        for (text, normal) in [
            ("The red circle.", "red circle"),
            ("  an UPPER-left\ncorner! ", "upper left corner"),
            ("three", "3"),
            ("Twenty-one circles", "21 circles"),
            ("twenty", "20"),
            ("twenty zero", "20 0"),
            ("It's 1,000.5", "its 1000.5"),
            ("1, 2", "1 2"),
            ("a", "a"),
            ("...", ""),
            ("Straße Élan", "straße élan"),
        ] {
            assert_eq!(normalise(text), normal, "{text}");
        }
    }

    #[test]
    fn open_replies_are_compared_whole() {
        let right = |reply: &str, answer: &str| grade(Format::Open, &[], answer, reply);
        assert_eq!(right("Left.", "left"), Ok(("left".into(), true)));
        assert_eq!(right("Two", "2"), Ok(("2".into(), true)));
        assert_eq!(right("the red circle", "a red circle"), Ok(("red circle".into(), true)));
        assert_eq!(right("left or right", "left"), Ok(("left or right".into(), false)));
        assert_eq!(right(" ?", "left"), Err(Unparsed::Empty));
    }

    #[test]
    fn reasons_may_come_before_the_answer() {
        for (reply, said) in [
            ("1 red left, 2 red right. Answer: right", "right"),
            ("Answer: left. No: ANSWER:  up", "up"),
            ("left", "left"),
            ("It goes left. Answer:", "It goes left. Answer:"),
            ("an unanswer: left", "an unanswer: left"),
            ("Élan. answer: élan", "élan"),
            ("", ""),
        ] {
            assert_eq!(final_answer(reply), said, "{reply:?}");
        }
        let reply = "1 red left, 8 red right. From left to right. Answer: right";
        assert_eq!(grade(Format::Open, &[], "right", reply), Ok(("right".into(), true)));
        let options = ["left", "right", "up"].map(str::to_owned);
        assert_eq!(choice(reply, &options), Ok(1));
        assert_eq!(choice("1 red left. Answer: (C)", &options), Ok(2));
        // Reasons without an answer name several options, or none.
        assert_eq!(choice("From left to right.", &options), Err(Unparsed::Ambiguous));
    }

    fn check(options: &[&str], replies: &[(&str, Result<usize, Unparsed>)]) {
        let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
        for (reply, expected) in replies {
            assert_eq!(choice(reply, &options), *expected, "{reply:?} among {options:?}");
        }
    }

    #[test]
    fn letters_and_texts() {
        let (none, both) = (Err(Unparsed::NoOption), Err(Unparsed::Ambiguous));
        check(
            &["left", "right", "upper left", "two"],
            &[
                ("B", Ok(1)),
                ("b", Ok(1)),
                ("B. right", Ok(1)),
                ("(B) right", Ok(1)),
                ("B) It moves to the right", Ok(1)),
                ("**B.**", Ok(1)),
                ("B: because it turns", Ok(1)),
                ("B right", Ok(1)),
                ("right", Ok(1)),
                ("It goes right.", Ok(1)),
                ("upper left", Ok(2)),
                ("it is in the upper left", Ok(2)),
                ("it is in the upper left corner", none),
                ("lower left", none),
                ("not right", none),
                ("right turned ring, none, none", none),
                ("2", Ok(3)),
                ("The answer is D.", Ok(3)),
                ("Answer: (C)", Ok(2)),
                ("the answer is option b", Ok(1)),
                ("The answer is A", Ok(0)),
                ("the answer is a left turn", none),
                ("B. left", both),
                ("B left", both),
                ("left or right", both),
                ("left, then upper left", both),
                ("The answer is A. No, the answer is B.", both),
                ("E", none),
                ("E. left of it", none),
                ("down", none),
                ("", Err(Unparsed::Empty)),
                ("?!", Err(Unparsed::Empty)),
            ],
        );
    }

    #[test]
    fn an_article_is_not_a_letter() {
        let both = Err(Unparsed::Ambiguous);
        check(&["square", "circle"], &[("A circle", Ok(1)), ("a circle", Ok(1))]);
        check(&["circle", "square"], &[("A circle", Ok(0)), ("A. square", both)]);
        check(&["red", "blue"], &[("a.m.", Err(Unparsed::NoOption)), ("Blue", Ok(1))]);
    }

    #[test]
    fn equal_options_are_ambiguous_by_text_only() {
        check(&["left", "Left", "up"], &[("left", Err(Unparsed::Ambiguous)), ("B", Ok(1))]);
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,40}") {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once);
        }

        #[test]
        fn any_reply_is_read_or_refused(reply in "\\PC{0,30}", n in 2usize..6) {
            let options: Vec<String> = (0..n).map(|i| format!("option {i}")).collect();
            if let Ok(index) = choice(&reply, &options) {
                prop_assert!(index < n);
            }
        }

        #[test]
        fn letter_and_text_name_their_option(n in 2usize..26, k in 0usize..26) {
            let k = k % n;
            let options: Vec<String> = (0..n).map(|i| format!("shape {i}")).collect();
            let letter = char::from(b'A' + k as u8);
            for reply in [format!("{letter}"), format!("{letter}. shape {k}"), format!("shape {k}")] {
                prop_assert_eq!(choice(&reply, &options), Ok(k), "{}", reply);
            }
        }
    }
}
