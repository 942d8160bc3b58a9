//! Two answers in one prompt, as the first evaluation of Vicuna had it (FastChat v0.2.3) and SELF-ALIGN
//! (arXiv 2305.03047) repeats it on the 80 Vicuna questions.
//!
//! The first line of the judge's words holds two numbers, the explanation follows. Win, tie and loss are by the two
//! numbers; *relative quality* is the sum of the model's over the sum of the others'. The order is one only: the model
//! is always the first of the two, so the judge's liking for a place is in the figures, as it is in the published ones.
//! FastChat wants the numbers apart by exactly one blank or comma and stops for anything else; here blanks and commas
//! may be several, numbers must lie on the scale, and what cannot be read is left out and counted.

use super::{Figures, JudgedError, Judgement, Opinion, Seen};
use crate::prompt::fill;
use crate::stats::Outcome;

const SYSTEM: &str = "You compare answers of two assistants, exactly and without favour.";

const WORDS: &str = "A user asked:\n{question}\n\n<answer 1>\n{model}\n</answer 1>\n\n\
    <answer 2>\n{other}\n</answer 2>\n\n\
    Rate both answers for how helpful, relevant, accurate and detailed they are{field}, each with a number from 1 to \
    10, where more is better. Write the two numbers alone on the first line, the one for answer 1 first, with a blank \
    between them. From the second line on, explain what decided. The order of the answers must not matter.";

pub(super) fn prompt(seen: &Seen<'_>) -> Result<(String, String), JudgedError> {
    // The protocol has prompts of their own for these two.
    let field = match seen.item.categories.get("category").map(String::as_str) {
        Some("coding") => "; for code, whether it runs, does what was asked and is readable",
        Some("math") => {
            "; for mathematics, solve the problem yourself first, in silence, and check every step"
        }
        _ => "",
    };
    let values = [
        ("{question}", seen.item.question.as_str()),
        ("{model}", seen.reply(0)?),
        ("{other}", seen.other(0)?),
        ("{field}", field),
    ];
    Ok((SYSTEM.to_owned(), fill(WORDS, &values)))
}

pub(super) fn read(words: &str) -> Opinion {
    let line = words.lines().next().unwrap_or_default();
    let numbers: Option<Vec<f64>> = line
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().ok().filter(|number| (1.0..=10.0).contains(number)))
        .collect();
    let Some([model, other]) = numbers.as_deref() else { return Opinion::unparsed(None) };
    let label = match model.total_cmp(other) {
        std::cmp::Ordering::Greater => "win",
        std::cmp::Ordering::Equal => "tie",
        std::cmp::Ordering::Less => "loss",
    };
    Opinion { against: Some(*other), ..Opinion::of(*model, label) }
}

/// `win`, `tie` and `loss`, `relative_quality` (with the interval of a ratio, linearised around its value) and
/// `unparsed` of verdicts of [`super::Judged::VicunaPair`].
pub fn vicuna_pairs(judgements: &[Judgement]) -> Figures {
    let mut figures = Figures::default();
    for name in ["win", "tie", "loss"] {
        figures.share(name, judgements, |j| j.opinion.label.as_deref().map(|l| l == name));
    }
    let pairs: Vec<(&Judgement, f64, f64)> =
        judgements.iter().filter_map(|j| Some((j, j.opinion.score?, j.opinion.against?))).collect();
    let sum = |of: fn(&(&Judgement, f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>();
    let (model, other) = (sum(|pair| pair.1), sum(|pair| pair.2));
    let (ratio, mean) = (model / other, other / pairs.len() as f64);
    let outcome = |(judgement, model, other): &(&Judgement, f64, f64)| Outcome {
        id: judgement.id.clone(),
        cluster: judgement.cluster.clone(),
        value: ratio + (model - ratio * other) / mean,
    };
    figures.push("relative_quality", &pairs.iter().map(outcome).collect::<Vec<_>>());
    figures.share("unparsed", judgements, |j| Some(j.opinion.unparsed));
    figures
}
