//! Options whose log-probabilities are compared.

use crate::suite::{Figure, OptionScore};
use crate::{Gold, Item, argmax};

/// Every option after the same words, a blank between.
pub(super) fn after(context: &str, options: &[String]) -> Vec<(String, String)> {
    options.iter().map(|option| (context.to_owned(), format!(" {option}"))).collect()
}

/// The words and the right option after them: an example that is worked out.
pub(super) fn worked(context: &str, item: &Item) -> String {
    let right = match &item.gold {
        Gold::Option(at) => item.options.get(*at).map_or("", String::as_str),
        _ => "",
    };
    format!("{context} {right}")
}

/// A figure that is 1 where the largest score is the right option's; none where nobody knows which is right.
pub(super) fn figure(
    name: &'static str,
    item: &Item,
    scores: impl Iterator<Item = f64>,
) -> Option<Figure> {
    let right = match item.gold {
        Gold::Option(at) => at,
        _ => return None,
    };
    Some((name, f64::from(argmax(scores) == Some(right))))
}

/// `acc`: the option with the highest log-probability is the right one.
pub(super) fn accuracy(item: &Item, scores: &[OptionScore]) -> Vec<Figure> {
    figure("acc", item, scores.iter().map(|score| score.logp)).into_iter().collect()
}

/// `acc`, and `acc_norm`: the same by log-probability per character of the option.
pub(super) fn accuracies(item: &Item, scores: &[OptionScore]) -> Vec<Figure> {
    let lengths = item.options.iter().map(|option| option.chars().count() as f64);
    let normed = scores.iter().zip(lengths).map(|(score, length)| score.logp / length);
    let mut figures = accuracy(item, scores);
    figures.extend(figure("acc_norm", item, normed));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(logps: &[f64]) -> Vec<OptionScore> {
        logps.iter().map(|&logp| OptionScore { logp, tokens: 1, characters: 1 }).collect()
    }

    #[test]
    fn the_first_of_the_likeliest_counts_whole_and_by_character() {
        let texts = ["abcd".to_owned(), "é".to_owned(), "ab".to_owned()];
        let item = |at| Item::new("i", "q", Gold::Option(at)).with_options(texts.to_vec());
        let logps = scores(&[-4.0, -2.0, -2.0]);
        assert_eq!(accuracies(&item(0), &logps), [("acc", 0.0), ("acc_norm", 1.0)]);
        assert_eq!(accuracies(&item(1), &logps), [("acc", 1.0), ("acc_norm", 0.0)]);
        assert_eq!(accuracies(&item(2), &logps), [("acc", 0.0), ("acc_norm", 0.0)]);
        let hidden = Item { gold: Gold::Hidden, ..item(0) };
        assert!(accuracies(&hidden, &logps).is_empty());
    }
}
