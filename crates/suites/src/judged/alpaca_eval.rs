//! Which of two outputs is better, by the probabilities of a judge's first token (AlpacaEval 2, Dubois et al.,
//! COLM 2024).
//!
//! The two outputs carry the ids `m` (shown first) and `M`. The preference is 2 - P(m) / (P(m) + P(M)) among the
//! judge's five likeliest first tokens, a token that is not among them counting as 0; turned back where the order
//! was flipped, it lies between 1 (the baseline wins) and 2 (the model wins). Neither id among the five: no
//! preference, and the item is left out. Equal outputs draw without a judge. Which instructions are flipped is fixed
//! by the instruction, by a hash of our own, so it is not the same half as in the published runs. A token with blanks
//! around an id counts as that id, for tokenizers that begin a reply with one.
//!
//! The win rate is the mean preference less 1, with its standard error; the discrete one rounds each preference. The
//! length-controlled win rate is not here: it needs the published difficulty of each instruction and the annotations
//! of two gamed baselines.

use savi_schema::Completion;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Figures, JudgedError, Judgement, Opinion, Replies, Seen};
use crate::Item;
use crate::prompt::fill;

const SYSTEM: &str = "You decide which of two outputs of language models people would prefer, and name it by its id.";

const WORDS: &str = "The models were given this instruction:\n<instruction>\n{instruction}\n</instruction>\n\n\
    Their outputs:\n<output id=\"m\">\n{first}\n</output>\n<output id=\"M\">\n{second}\n</output>\n\n\
    Which output follows the instruction better and would be preferred by most careful people? The order of the \
    outputs must not matter. Reply with the id alone: m or M.";

pub(super) fn prompt(seen: &Seen<'_>) -> Result<(String, String), JudgedError> {
    let model = seen.reply(0)?;
    let baseline =
        baseline(seen.item, seen.replies).ok_or_else(|| seen.missing("reply to compare with"))?;
    let (first, second) = if flipped(seen.item) { (model, baseline) } else { (baseline, model) };
    let values =
        [("{instruction}", seen.item.question.as_str()), ("{first}", first), ("{second}", second)];
    Ok((SYSTEM.to_owned(), fill(WORDS, &values)))
}

/// What the model is compared with: a reply, or the item's `more.baseline`.
pub(super) fn baseline<'a>(item: &'a Item, replies: Replies<'a>) -> Option<&'a str> {
    let own = || item.more.get("baseline").and_then(Value::as_str);
    replies.other.first().map(String::as_str).or_else(own)
}

/// Whether the model's output is shown first.
fn flipped(item: &Item) -> bool {
    Sha256::digest(item.question.as_bytes())[0] & 1 == 1
}

pub(super) fn read(item: &Item, completion: &Completion) -> Opinion {
    let likeliest = completion.top_logps.first().map(Vec::as_slice).unwrap_or_default();
    let chance = |id: &[u8]| -> f64 {
        let of_id = likeliest.iter().filter(|token| token.bytes.trim_ascii() == id);
        of_id.map(|token| f64::from(token.logp).exp()).sum()
    };
    let (first, second) = (chance(b"m"), chance(b"M"));
    if first + second <= 0.0 {
        return Opinion::unparsed(None);
    }
    let shown = 2.0 - first / (first + second);
    let preference = if flipped(item) { 3.0 - shown } else { shown };
    let label = match preference.total_cmp(&1.5) {
        std::cmp::Ordering::Greater => "win",
        std::cmp::Ordering::Equal => "draw",
        std::cmp::Ordering::Less => "loss",
    };
    Opinion::of(preference, label)
}

/// `win_rate`, `discrete_win_rate` (both from 0 to 1), `average_length` in characters and `unparsed` of verdicts of
/// [`super::Judged::AlpacaEval`].
pub fn alpaca_eval(judgements: &[Judgement]) -> Figures {
    let mut figures = Figures::default();
    let preference = |j: &Judgement| j.opinion.score;
    figures.mean("win_rate", judgements, |j| preference(j).map(|p| p - 1.0));
    figures.mean("discrete_win_rate", judgements, |j| {
        preference(j).map(|p| if p == 1.5 { 0.5 } else { f64::from(u8::from(p > 1.5)) })
    });
    figures.mean("average_length", judgements, |j| Some(j.characters as f64));
    figures.share("unparsed", judgements, |j| Some(j.opinion.unparsed));
    figures
}
