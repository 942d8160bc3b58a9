//! What VLMEvalKit reads without a judge (`vlmeval/dataset/utils/` at e8e78f05, 2026-08-18:
//! `mvbench.py`, `videomme.py`, `longvideobench.py`, and `vlmeval/utils/matching_util.py`).

use super::lmms_eval::first_capital;
use super::python::{is_space, words};
use super::{Asked, Reading, letter};

/// MVBench, `check_ans_with_model` (401916c0, 2026-03-25) without a model: right where the reply's
/// first word, without points, occurs in the right option's mark `(b)`, or the mark in the word.
/// The empty text occurs everywhere, so an empty reply is right, and so are "(", ")" and "...".
/// Otherwise [`inferred`] decides; it needs no judge, so "The answer is B" is read.
///
/// A failed request (its message is the reply) is kept as -1, and the tally tests truth: right.
pub(super) fn mvbench(asked: &Asked, reply: &str) -> Reading {
    if reply.contains("Failed to obtain answer via API.") {
        return Reading::graded(None, true);
    }
    // A repeated text belongs to its last option.
    let text = asked.gold_text();
    let gold = asked.options.iter().rposition(|option| option == text).map(letter);
    let lower = reply.to_lowercase();
    let first = super::python::strip(&lower).split(' ').next().unwrap_or_default();
    // Where the answer is no option, the code's place of -1 makes the mark "(@)".
    let mark = format!("({})", gold.map_or('@', |gold| gold.to_ascii_lowercase()));
    if mark.contains(&first.replace('.', "")) || first.contains(&mark) {
        return Reading::graded(gold.map(String::from), true);
    }
    // The gold text is replaced by its letter while it is compared with every option, so that a
    // letter among the options can be taken for the answer in turn.
    let mut answer = text.to_owned();
    for (index, option) in asked.options.iter().enumerate().take(26) {
        if *option == answer {
            answer = letter(index).to_string();
        }
    }
    let options: Vec<(char, String)> = asked.letters().zip(asked.options.iter().cloned()).collect();
    let said = inferred(reply, &options);
    let right = said.is_some_and(|said| answer == said.to_string());
    Reading::graded(said.map(String::from), right)
}

/// Video-MME (ca905c5b, 2026-04-08) and LongVideoBench (401916c0, 2026-03-25): what announces an
/// answer is deleted, then the first capital of `letters` counts. A missing comma fuses two pairs of
/// announcements, so that "Best option: C" is read as B. For want of a capital [`inferred`] decides
/// on options that are looked for in the question's lines; its files keep options apart from the
/// question, so that as a rule none are found and the reply is wrong.
pub(super) fn capital(asked: &Asked, reply: &str, letters: &str) -> Option<char> {
    const ANNOUNCED: [&str; 8] = [
        "The best answer is",
        "The correct answer is",
        "The answer is",
        "The answer",
        "The best option isThe correct option is",
        "Best answer:Best option:",
        "Answer:",
        "Option:",
    ];
    first_capital(reply, &ANNOUNCED, letters).or_else(|| {
        let lines = asked.question.split('\n').skip(1).take(26).enumerate();
        let options: Vec<(char, String)> = lines
            .filter_map(|(index, line)| {
                let (_, text) = line.split_once(&format!("{}.", letter(index)))?;
                Some((letter(index), text.trim_matches(['.', ' ', '\n']).to_owned()))
            })
            .collect();
        inferred(reply, &options)
    })
}

/// `can_infer`: a letter by [`by_letter`], else the only option whose text occurs. `None` also for
/// its Z (a refusal), which is no option.
fn inferred(reply: &str, options: &[(char, String)]) -> Option<char> {
    match by_letter(reply, options) {
        Some('Z') => None,
        Some(letter) => Some(letter),
        None => by_text(reply, options),
    }
}

/// `can_infer_option`: the only letter that is a word of its own, if it is among the last four
/// words; else the letter of [`after_answer_is`]. Z says that no answer was given.
fn by_letter(reply: &str, options: &[(char, String)]) -> Option<char> {
    const REFUSALS: [&str; 4] = [
        "Sorry, I can't help with images of people yet.",
        "I can't process this file.",
        "I'm sorry, but without the image provided",
        "Cannot determine the answer",
    ];
    if reply.contains("Failed to obtain answer via API") {
        return None;
    }
    if REFUSALS.iter().any(|refusal| reply.contains(refusal)) {
        return Some('Z');
    }
    let bare =
        reply.replace(['.', '(', ')', '[', ']', ',', ':', ';', '!', '*', '#', '{', '}'], " ");
    let words: Vec<&str> = words(&bare).collect();
    let place = |letter: char| words.iter().position(|word| word.chars().eq([letter]));
    let mut named = options.iter().filter_map(|(letter, _)| Some((*letter, place(*letter)?)));
    match (named.next(), named.next()) {
        (Some((letter, at)), None) if at + 5 > words.len() => return Some(letter),
        (None, _) if place('Z').is_some() => return Some('Z'),
        _ => {}
    }
    let letter = after_answer_is(reply)?;
    options.iter().any(|option| option.0 == letter).then_some(letter)
}

/// `answer\s+is\s+\**([ABCD])` in any case, its first match: "the answer is a cat" is A, "the
/// answer is being shown" B.
fn after_answer_is(reply: &str) -> Option<char> {
    // Python's case-insensitive s and i have a further form each.
    let folded = |c: char| match c {
        'ſ' => 's',
        'ı' | 'İ' => 'i',
        c => c.to_ascii_lowercase(),
    };
    let chars: Vec<char> = reply.chars().map(folded).collect();
    let word = |at: usize, word: &str| {
        let end = at + word.len();
        chars.get(at..end).is_some_and(|part| part.iter().copied().eq(word.chars())).then_some(end)
    };
    let blanks = |at: usize| {
        let end = at + chars[at..].iter().take_while(|&&c| is_space(c)).count();
        (end > at).then_some(end)
    };
    (0..chars.len()).find_map(|start| {
        let at = blanks(word(blanks(word(start, "answer")?)?, "is")?)?;
        let letter = chars[at..].iter().find(|&&c| c != '*')?.to_ascii_uppercase();
        ('A'..='D').contains(&letter).then_some(letter)
    })
}

/// `can_infer_text`: the only option whose text occurs in a reply that is not longer than twice all
/// options together.
fn by_text(reply: &str, options: &[(char, String)]) -> Option<char> {
    let reply = reply.to_lowercase();
    let length: usize = options.iter().map(|option| option.1.chars().count()).sum();
    if reply.chars().count() > 2 * length {
        return None;
    }
    let mut named = options.iter().filter(|option| reply.contains(&option.1.to_lowercase()));
    match (named.next(), named.next()) {
        (Some((letter, _)), None) => Some(*letter),
        _ => None,
    }
}
