//! Dialogues of two turns, judged turn by turn (Zheng et al., *Judging LLM-as-a-Judge with MT-Bench and Chatbot
//! Arena*, NeurIPS 2023), read as FastChat's `llm_judge` reads.
//!
//! *Single grading*: the judge explains first and then writes `[[rating]]`, 1 to 10; where double brackets hold no
//! number, the first number in single ones counts. Without either the item has no score and is left out, as FastChat's
//! -1 is; a number off the scale, which FastChat would add, too. The second turn is judged with the whole dialogue in
//! sight. References are shown where the item has some (mathematics, reasoning, coding).
//!
//! *Pairs*: `[[A]]`, `[[B]]` or `[[C]]` for a tie, in both orders. Orders that disagree are a tie; a turn of which
//! either order could not be read is left out. The adjusted win rate counts a tie as half.

use std::collections::BTreeMap;

use super::{Figures, Judged, JudgedError, Judgement, Opinion, Seen, Shown, Turn};
use crate::Gold;

const SYSTEM: &str = "You are a fair and careful examiner of assistants' replies.";

const SINGLE: &str = "Examine the assistant's last reply in the dialogue below: whether it does what the user asks, \
    is true, to the point, thorough enough and well put. Length alone is no merit. First explain your view in a few \
    sentences. Then, on a line of its own, give the reply a rating from 1 (useless) to 10 (could not be better) in \
    double square brackets, in this form: Rating: [[4]]";

const WITH_REFERENCE: &str = "Reference answers are given after the dialogue; where the reply differs from them in \
    substance, find its mistakes before you rate it.";

const PAIR: &str = "Compare the last replies of assistants A and B, who had the same user's messages to answer: which \
    of the two does what the user asks better, is truer, more to the point and better put? Neither the order in which \
    they are shown nor their length nor the assistants' names may count. First explain your view in a few sentences. \
    Then write your verdict on a line of its own: [[A]] if assistant A is better, [[B]] if assistant B is better, \
    [[C]] if neither is.";

pub(super) fn prompt(seen: &Seen<'_>, turn: Turn) -> Result<(String, String), JudgedError> {
    let dialogue = dialogue(seen, turn, "Assistant", &|turn| seen.reply(turn))?;
    let mut words = SINGLE.to_owned();
    let references = references(seen, turn)?;
    if references.is_some() {
        words = format!("{words}\n{WITH_REFERENCE}");
    }
    words.push_str(&format!("\n\n<dialogue>\n{dialogue}</dialogue>"));
    words.extend(references);
    Ok((SYSTEM.to_owned(), words))
}

pub(super) fn pair_prompt(
    seen: &Seen<'_>,
    turn: Turn,
    shown: Shown,
) -> Result<(String, String), JudgedError> {
    let model = |turn| seen.reply(turn);
    let other = |turn| seen.other(turn);
    let (a, b): (&Reply<'_>, &Reply<'_>) = match shown {
        Shown::ModelFirst => (&model, &other),
        Shown::OtherFirst => (&other, &model),
    };
    let mut words = PAIR.to_owned();
    let references = references(seen, turn)?;
    if references.is_some() {
        words = format!("{words}\n{WITH_REFERENCE}");
    }
    for (name, replies) in [("A", a), ("B", b)] {
        let dialogue = dialogue(seen, turn, &format!("Assistant {name}"), replies)?;
        words.push_str(&format!("\n\n<dialogue with {name}>\n{dialogue}</dialogue with {name}>"));
    }
    words.extend(references);
    Ok((SYSTEM.to_owned(), words))
}

type Reply<'a> = dyn Fn(usize) -> Result<&'a str, JudgedError> + 'a;

/// The users' messages and the replies up to a turn.
fn dialogue(
    seen: &Seen<'_>,
    turn: Turn,
    name: &str,
    reply: &Reply<'_>,
) -> Result<String, JudgedError> {
    let mut text = format!("User: {}\n{name}: {}\n", seen.item.question, reply(0)?);
    if turn == Turn::Second {
        let question = seen.item.turns.first().ok_or_else(|| seen.missing("second turn"))?;
        text.push_str(&format!("User: {question}\n{name}: {}\n", reply(1)?));
    }
    Ok(text)
}

/// The reference answers of the turns up to this one.
fn references(seen: &Seen<'_>, turn: Turn) -> Result<Option<String>, JudgedError> {
    let Gold::Judged(references) = &seen.item.gold else { return Ok(None) };
    let turns = if turn == Turn::First { 1 } else { 2 };
    if references.is_empty() {
        return Ok(None);
    }
    let of_turns = references.get(..turns).ok_or_else(|| seen.missing("reference of a turn"))?;
    let mut text = String::from("\n\n<references>\n");
    for (turn, reference) in of_turns.iter().enumerate() {
        text.push_str(&format!("Turn {}: {reference}\n", turn + 1));
    }
    text.push_str("</references>");
    Ok(Some(text))
}

pub(super) fn read(words: &str) -> Opinion {
    let rating = bracketed(words, "[[", "]]").or_else(|| bracketed(words, "[", "]"));
    match rating {
        Some(rating) if (1.0..=10.0).contains(&rating) => {
            Opinion { score: Some(rating), ..Opinion::default() }
        }
        _ => Opinion::unparsed(None),
    }
}

/// The first number with these marks directly around it: digits, at most one point, digits.
fn bracketed(words: &str, open: &str, close: &str) -> Option<f64> {
    words.char_indices().filter(|(_, c)| *c == '[').find_map(|(at, _)| {
        let inside = words[at..].strip_prefix(open)?;
        let end = inside.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = inside.split_at(end);
        let is_number = number.starts_with(|c: char| c.is_ascii_digit());
        (is_number && rest.starts_with(close)).then(|| number.parse().ok()).flatten()
    })
}

pub(super) fn read_pair(words: &str, shown: Shown) -> Opinion {
    // The order in which FastChat looks for them.
    let verdict = ["[[A]]", "[[B]]", "[[C]]"].into_iter().position(|mark| words.contains(mark));
    match (verdict, shown) {
        (Some(2), _) => Opinion::of(0.5, "tie"),
        (Some(0), Shown::ModelFirst) | (Some(1), Shown::OtherFirst) => Opinion::of(1.0, "win"),
        (Some(_), _) => Opinion::of(0.0, "loss"),
        (None, _) => Opinion::unparsed(None),
    }
}

/// `score` over both turns, `score/turn-1`, `score/turn-2`, `score/<category>` and `unparsed` of verdicts of
/// [`Judged::MtBench`].
pub fn mt_bench(judgements: &[Judgement]) -> Figures {
    let mut figures = Figures::default();
    let score = |j: &Judgement| j.opinion.score;
    figures.mean("score", judgements, score);
    for judged in Judged::MT_BENCH {
        let name = judged.name().replace("mt-bench", "score");
        figures.mean(&name, judgements, |j| score(j).filter(|_| j.judged == judged));
    }
    figures.by_category("score", judgements, score);
    figures.share("unparsed", judgements, |j| Some(j.opinion.unparsed));
    figures
}

/// `win_rate_adjusted`, `win`, `tie` and `loss` over turns, `consistent` (the share of turns on which both orders
/// agree) and `unparsed` (over verdicts) of verdicts of [`Judged::MtBenchPair`].
pub fn mt_bench_pairs(judgements: &[Judgement]) -> Figures {
    // Both orders of a turn of an item.
    let mut turns: BTreeMap<(&str, bool), Vec<&Judgement>> = BTreeMap::new();
    for judgement in judgements {
        if let Judged::MtBenchPair(turn, _) = judgement.judged {
            turns.entry((&judgement.item, turn == Turn::Second)).or_default().push(judgement);
        }
    }
    let mut decided = Vec::new();
    for orders in turns.into_values() {
        let scores: Vec<f64> = orders.iter().filter_map(|j| j.opinion.score).collect();
        let [first, second] = scores[..] else { continue };
        let agreed = first == second;
        let score = if agreed { first } else { 0.5 };
        let opinion = Opinion {
            score: Some(score),
            label: agreed.then(|| "agreed".to_owned()),
            ..Opinion::default()
        };
        decided.push(Judgement { opinion, ..orders[0].clone() });
    }
    let mut figures = Figures::default();
    figures.mean("win_rate_adjusted", &decided, |j| j.opinion.score);
    for (name, score) in [("win", 1.0), ("tie", 0.5), ("loss", 0.0)] {
        figures.share(name, &decided, |j| Some(j.opinion.score == Some(score)));
    }
    figures.share("consistent", &decided, |j| Some(j.opinion.label.is_some()));
    figures.share("unparsed", judgements, |j| Some(j.opinion.unparsed));
    figures
}
