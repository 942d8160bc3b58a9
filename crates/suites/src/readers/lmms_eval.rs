//! What lmms-eval's tasks read (`lmms_eval/tasks/<task>/utils.py` at 75571cfe, 2026-08-06), without
//! TempCompass and Video-MME's present rule, which have files of their own.

use super::python::{is_digit, is_space, standing_alone, strip, words};
use super::{Asked, Reading, letter};

/// MVBench, `mcq_acc` and `mvbench_aggregate_results` (c7eaef37, 2026-01-24).
///
/// The reply and the gold letter go through [`mvbench_form`] and are compared. An empty reply
/// leaves the count; one of blanks is wrong. An article counts: "A person opens the door." is
/// option A whatever follows.
pub(super) fn mvbench(asked: &Asked, reply: &str) -> Reading {
    // A repeated text belongs to its first option.
    let text = asked.gold_text();
    let gold = asked.options.iter().position(|option| option == text).map(letter);
    let gold = mvbench_form(&gold.map_or_else(|| asked.gold.to_owned(), String::from));
    if reply.is_empty() {
        return Reading { answer: None, credit: None, guessed: false, needs_judge: false };
    }
    let form = mvbench_form(reply);
    let right = form == gold;
    let is_letter = |form: &String| matches!(form.as_bytes(), [b'A'..=b'E']);
    Reading::graded(Some(form).filter(is_letter), right)
}

/// A letter A to E, or what is left of the text where none stands alone.
fn mvbench_form(text: &str) -> String {
    if let Some(letter) = marked_letter(strip(text)) {
        return letter.to_string();
    }
    let text = text.replace(['\n', '\t'], " ");
    let text = without_punctuation(strip(&text));
    let text = text.trim_matches('\'').trim_matches('"').trim_matches(')').trim_matches('(');
    let text = strip(text).to_lowercase();
    match standing_alone(&text, |c| ('a'..='e').contains(&c)) {
        Some(letter) => letter.to_ascii_uppercase().to_string(),
        None => text,
    }
}

/// `^([A-E])\.\s*(.+)$` in any case: something follows the point, and on one line.
fn marked_letter(text: &str) -> Option<char> {
    let letter = text.chars().next()?.to_ascii_uppercase();
    let rest = text.get(1..)?.strip_prefix('.')?;
    let rest = rest.trim_start_matches(is_space);
    (('A'..='E').contains(&letter) && !rest.is_empty() && !rest.contains('\n')).then_some(letter)
}

/// Marks vanish where one has a blank at a side, or anywhere a comma stands between digits; else
/// they become blanks. Then points vanish that no digit follows, the first 32 of them: the code
/// hands a flag (32) to `sub` where the number of replacements is meant.
fn without_punctuation(text: &str) -> String {
    const MARKS: [char; 20] = [
        ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`',
        ',', '?',
    ];
    let chars: Vec<char> = text.chars().collect();
    let comma =
        chars.windows(3).any(|three| is_digit(three[0]) && three[1] == ',' && is_digit(three[2]));
    let mut out = text.to_owned();
    for mark in MARKS.into_iter().chain(['!']) {
        let beside_blank = chars.windows(2).any(|two| two == [mark, ' '] || two == [' ', mark]);
        out = out.replace(mark, if comma || beside_blank { "" } else { " " });
    }
    let mut points = 0;
    let mut kept = String::with_capacity(out.len());
    let mut chars = out.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '.' && points < 32 && !chars.peek().copied().is_some_and(is_digit) {
            points += 1;
        } else {
            kept.push(c);
        }
    }
    kept
}

/// TVBench, `_extract_choice_letter` (d8fcb9c3, 2026-03-01): in upper case, the first letter that
/// stands alone; else the first letter of the reply, even of a word ("Because" is option B); else
/// the only option whose text occurs. A letter beyond the options is passed over.
pub(super) fn tvbench(asked: &Asked, reply: &str) -> Option<char> {
    let text = strip(reply);
    let upper = text.to_uppercase();
    let choices = asked.options.len().clamp(2, 26);
    let choice = |c: &char| c.is_ascii_uppercase() && ((*c as usize) < 'A' as usize + choices);
    let first = || {
        let rest = upper.trim_start_matches(is_space);
        rest.strip_prefix(['(', '[']).unwrap_or(rest).chars().next()
    };
    let alone = standing_alone(&upper, |c| c.is_ascii_uppercase()).filter(choice);
    if let Some(letter) = alone.or_else(|| first().filter(choice)) {
        return Some(letter);
    }
    if text.is_empty() {
        return None;
    }
    let normal = |text: &str| {
        let text = text.to_lowercase();
        words(&text).collect::<Vec<_>>().join(" ")
    };
    let reply = normal(text);
    let mut named = (0..asked.options.len()).filter(|&index| {
        let option = normal(&asked.options[index]);
        !option.is_empty() && reply.contains(&option)
    });
    match (named.next(), named.next()) {
        (Some(index), None) => Some(letter(index)),
        _ => None,
    }
}

/// PerceptionTest, `perceptiontest_val_process_results_mc` (d8fcb9c3, 2026-03-01): `\b([A-D])\b`.
/// "A person" is option A.
pub(super) fn perceptiontest(reply: &str) -> Option<char> {
    standing_alone(reply, |c| ('A'..='D').contains(&c))
}

/// NExT-QA, `parse_multi_choice_response` (c7eaef37, 2026-01-24; after MMMU): letters as `(B)`; for
/// want of those as `B ` (of the end of a word, too); for want of those as `B.`; for want of those,
/// in a reply of more than five words, options whose text occurs. Of several the one that comes
/// last, of letters without brackets judged by ` B `; those that do not occur so are at -1, and of
/// equal ones the first letter is taken. `None` becomes a random letter.
pub(super) fn nextqa(asked: &Asked, reply: &str) -> Option<char> {
    let reply = padded(reply);
    let occurs = |form: &dyn Fn(char) -> String| -> Vec<char> {
        asked.letters().filter(|&letter| reply.contains(&form(letter))).collect()
    };
    let last = |letters: Vec<char>, form: &dyn Fn(char) -> String| {
        letters.into_iter().rev().max_by_key(|&letter| reply.rfind(&form(letter)))
    };
    let bracketed = |letter: char| format!("({letter})");
    let letters = occurs(&bracketed);
    if !letters.is_empty() {
        return last(letters, &bracketed);
    }
    for mark in [' ', '.'] {
        let letters = occurs(&|letter| format!("{letter}{mark}"));
        if !letters.is_empty() {
            return last(letters, &|letter| format!(" {letter} "));
        }
    }
    let texts: Vec<String> = asked.options.iter().map(|text| strip(text).to_lowercase()).collect();
    named_by_text(&reply, &texts).into_iter().rev().max_by_key(|named| named.1).map(|named| named.0)
}

/// EgoSchema, `parse_multi_choice_response` (eab6655a, 2026-07-14): `(B)`, `B ` and `B.` all count,
/// and of several the one is taken whose last occurrence comes first. Options carry their letter
/// there, so a text names its option only with it. `None` becomes a random letter.
pub(super) fn egoschema(asked: &Asked, reply: &str) -> Option<char> {
    let reply = padded(reply);
    let forms: [&dyn Fn(char) -> String; 3] =
        [&|c| format!("({c})"), &|c| format!("{c} "), &|c| format!("{c}.")];
    let found = forms.into_iter().flat_map(|form| {
        asked.letters().filter_map(|letter| Some((letter, reply.rfind(&form(letter))?)))
    });
    let first = found.min_by_key(|found| found.1);
    first.map(|found| found.0).or_else(|| {
        let with_letter = asked.letters().zip(asked.options);
        let texts: Vec<String> = with_letter
            .map(|(letter, text)| strip(&format!("{letter}. {text}")).to_lowercase())
            .collect();
        named_by_text(&reply, &texts).into_iter().min_by_key(|named| named.1).map(|named| named.0)
    })
}

/// The reply without outer marks, taken off mark by mark, between two blanks.
fn padded(reply: &str) -> String {
    let marks = [',', '.', '!', '?', ';', ':', '\''];
    format!(" {} ", marks.iter().fold(reply, |reply, mark| reply.trim_matches(*mark)))
}

/// Options (in lower case) whose text occurs in a reply of more than five words, with the place.
fn named_by_text(reply: &str, texts: &[String]) -> Vec<(char, usize)> {
    if words(reply).count() <= 5 {
        return Vec::new();
    }
    let reply = reply.to_lowercase();
    let named = texts.iter().enumerate().take(26);
    named.filter_map(|(index, text)| Some((letter(index), reply.rfind(text)?))).collect()
}

/// LongVideoBench, `parse_multi_choice_response` (fdb5bfad, 2026-03-26): what announces an answer
/// is deleted, then the first capital A to E counts, in a word, too. `None` becomes a random letter.
pub(super) fn longvideobench(reply: &str) -> Option<char> {
    const ANNOUNCED: [&str; 8] = [
        "The best answer is",
        "The correct answer is",
        "The answer is",
        "The answer",
        "The best option is",
        "The correct option is",
        "Best answer:",
        "Best option:",
    ];
    first_capital(reply, &ANNOUNCED, "ABCDE")
}

/// Video-MME, `extract_characters_regex` before 9ca4445d (2026-04-11). A missing comma fuses two
/// pairs of announcements, so that "Best option: C" is read as B.
pub(super) fn videomme_until_2026(reply: &str) -> Option<char> {
    const ANNOUNCED: [&str; 6] = [
        "The best answer is",
        "The correct answer is",
        "The answer is",
        "The answer",
        "The best option isThe correct option is",
        "Best answer:Best option:",
    ];
    first_capital(reply, &ANNOUNCED, "ABCD")
}

/// The first of `letters` after deleting `announced`, one after the other.
pub(super) fn first_capital(reply: &str, announced: &[&str], letters: &str) -> Option<char> {
    let rest = announced.iter().fold(strip(reply).to_owned(), |rest, text| rest.replace(text, ""));
    rest.chars().find(|&c| letters.contains(c))
}
