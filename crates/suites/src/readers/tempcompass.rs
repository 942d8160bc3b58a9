//! TempCompass's rules of matching, the same in lmms-eval (`lmms_eval/tasks/tempcompass/utils.py`,
//! c7eaef37, 2026-01-24) and VLMEvalKit (`vlmeval/dataset/utils/tempcompass.py`, 401916c0,
//! 2026-03-25). The one asks a judge where nothing matches, the other, without a judge, counts it
//! wrong. Nothing is trimmed: " A" matches nothing.

use super::{Asked, Reading};

/// A multi-choice reply: all of the right option with its letter, a bare letter A to D, or one
/// followed by a point or a bracket, whatever comes then.
pub(super) fn choice(asked: &Asked, reply: &str) -> Reading {
    if reply == format!("{}. {}", asked.gold, asked.gold_text()) {
        return Reading::graded(Some(asked.gold.to_owned()), true);
    }
    let mut chars = reply.chars();
    match (chars.next(), chars.next()) {
        (Some(letter @ 'A'..='D'), None | Some('.' | ')')) => Reading::letter(asked, Some(letter)),
        _ => Reading::waits_for_judge(),
    }
}

/// A reply to a yes/no question: how it starts, in any case ("Nothing moves" is no).
pub(super) fn yes_no(asked: &Asked, reply: &str) -> Reading {
    let reply = reply.to_lowercase();
    let said = ["yes", "no"].into_iter().find(|word| reply.starts_with(word));
    said.map_or_else(Reading::waits_for_judge, |said| {
        Reading::graded(Some(said.to_owned()), said == asked.gold)
    })
}

/// A reply to caption matching, `eval_rule`: a whole line, its sentence (or what stands behind the
/// reply's first ") "), its mark (`Caption A`) or the mark's letter or number alone, points apart.
/// The last that matches is compared with the forms of the right line. A sentence ends at a further
/// ": ", as in the code.
pub(super) fn captions(asked: &Asked, reply: &str) -> Reading {
    let marks: Vec<&str> = asked.options.iter().map(|line| mark(line)).collect();
    let bare = marks.iter().map(|mark| {
        ["Sentence ", "Option ", "Caption "]
            .iter()
            .fold((*mark).to_owned(), |m, w| m.replace(w, ""))
    });
    let bare: Vec<String> = bare.collect();
    let behind_bracket = reply.split(") ").nth(1);
    let without_points = reply.replace('.', "");
    let mut named: Option<&str> = None;
    for line in asked.options {
        if line == reply {
            named = Some(line);
        }
    }
    for line in asked.options {
        let sentence = sentence(line);
        if sentence.is_some() && (sentence == Some(reply) || sentence == behind_bracket) {
            named = sentence;
        }
    }
    for mark in marks.iter().copied().chain(bare.iter().map(String::as_str)) {
        if mark == reply || mark == without_points {
            named = Some(mark);
        }
    }
    let Some(named) = named else { return Reading::waits_for_judge() };
    let gold = asked.gold_text();
    let right = named == gold
        || Some(named) == gold.split(':').next()
        || Some(named) == sentence(gold)
        || Some(named) == super::python::words(mark(gold)).nth(1);
    Reading::graded(Some(named.to_owned()), right)
}

/// What stands before a line's first ": ".
pub(super) fn mark(line: &str) -> &str {
    line.split(": ").next().unwrap_or(line)
}

/// What stands between a line's first ": " and its second.
fn sentence(line: &str) -> Option<&str> {
    line.split(": ").nth(1)
}

/// A reading where nobody is asked: what waits for a judge is wrong.
pub(super) fn without_judge(reading: Reading) -> Reading {
    if reading.needs_judge { Reading::graded(None, false) } else { reading }
}
