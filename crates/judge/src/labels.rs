//! Verdicts from probabilities: how likely a model finds each label of a question that it is asked, without
//! letting it write. Labels may be several tokens; all of one prompt are scored in one pass.

use savi_schema::{GenerateError, Message, Score, ScoreRequest};

/// For each prompt the probabilities of the labels, which add up to 1: the softmax of the log-probabilities of
/// their whole texts.
pub fn label_probabilities(
    scorer: &dyn Score,
    prompts: &[Vec<Message>],
    labels: &[String],
) -> Result<Vec<Vec<f64>>, GenerateError> {
    let request = |messages: &Vec<Message>| ScoreRequest {
        messages: messages.clone(),
        continuations: labels.iter().map(|label| label.as_str().into()).collect(),
        ..ScoreRequest::default()
    };
    probabilities(scorer, &prompts.iter().map(request).collect::<Vec<_>>())
}

/// The same for requests whose continuations are the labels.
pub fn probabilities(
    scorer: &dyn Score,
    requests: &[ScoreRequest],
) -> Result<Vec<Vec<f64>>, GenerateError> {
    let scores = scorer.score(requests)?;
    Ok(scores.iter().map(|of| softmax(of.iter().map(|score| score.sum()))).collect())
}

fn softmax(logps: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let max = logps.clone().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logps.map(|logp| (logp - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// How likely the first of two things is the better one, asked with it in the first place and in the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// Where it stood first.
    pub as_first: f64,
    /// Where it stood second.
    pub as_second: f64,
}

impl Preference {
    /// The mean of both orders: a liking for a place or for a label cancels out.
    pub fn mean(&self) -> f64 {
        f64::midpoint(self.as_first, self.as_second)
    }

    /// Whether both orders say the same.
    pub fn is_consistent(&self) -> bool {
        (self.as_first > 0.5) == (self.as_second > 0.5)
    }
}

/// A question in both orders: what is compared stands first in the one, second in the other.
#[derive(Debug, Clone, PartialEq)]
pub struct BothOrders {
    /// The prompt where it stands first.
    pub as_first: Vec<Message>,
    /// The prompt where it stands second.
    pub as_second: Vec<Message>,
}

/// Asks each question in both orders; `labels` name the first and the second place.
pub fn prefer(
    scorer: &dyn Score,
    questions: &[BothOrders],
    labels: &[String; 2],
) -> Result<Vec<Preference>, GenerateError> {
    let prompts: Vec<Vec<Message>> = questions
        .iter()
        .flat_map(|question| [question.as_first.clone(), question.as_second.clone()])
        .collect();
    let probabilities = label_probabilities(scorer, &prompts, labels)?;
    let pairs = probabilities.chunks_exact(2);
    Ok(pairs
        .filter_map(|pair| match (pair[0].as_slice(), pair[1].as_slice()) {
            ([as_first, _], [_, as_second]) => {
                Some(Preference { as_first: *as_first, as_second: *as_second })
            }
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use savi_schema::{Continuation, Role, TokenScore};

    use super::*;

    /// Finds the label "A" likelier by `for_a`, what is called "good" likelier by `for_good`; a letter is a token.
    struct Biased {
        for_a: f32,
        for_good: f32,
    }

    impl Score for Biased {
        fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
            let score = |request: &ScoreRequest, text: &Continuation| {
                let Continuation::Text(text) = text else { unreachable!("labels are words") };
                let words = request.messages.first().map(Message::words).unwrap_or_default();
                let good = if words.starts_with("good") { "A" } else { "B" };
                let mut logps = vec![-1.0; text.len()];
                if text.starts_with('A') {
                    logps[0] += self.for_a;
                }
                if text.starts_with(good) {
                    logps[0] += self.for_good;
                }
                TokenScore { token_ids: vec![0; text.len()], logps }
            };
            Ok(requests
                .iter()
                .map(|request| request.continuations.iter().map(|t| score(request, t)).collect())
                .collect())
        }
    }

    fn said(text: &str) -> Vec<Message> {
        vec![Message::text(Role::User, text)]
    }

    #[test]
    fn labels_of_several_tokens_are_compared_as_wholes() {
        let scorer = Biased { for_a: 2.0, for_good: 0.0 };
        let labels = ["A", "B", "BB"].map(str::to_owned);
        let got = label_probabilities(&scorer, &[said("?")], &labels).unwrap().remove(0);
        // Sums of log-probabilities: 1, -1, -2.
        let weights = [1f64, -1.0, -2.0].map(f64::exp);
        let total: f64 = weights.iter().sum();
        for (got, weight) in got.iter().zip(weights) {
            assert!((got - weight / total).abs() < 1e-12);
        }
        assert!((got.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn asking_in_both_orders_cancels_a_liking_for_a_label() {
        let labels = ["A", "B"].map(str::to_owned);
        let question = BothOrders { as_first: said("good bad"), as_second: said("bad good") };
        let ask = |scorer: Biased| {
            prefer(&scorer, std::slice::from_ref(&question), &labels).unwrap().remove(0)
        };
        let fair = ask(Biased { for_a: 0.0, for_good: 1.0 });
        assert!((fair.as_first - fair.as_second).abs() < 1e-12 && fair.mean() > 0.7);
        let blind = ask(Biased { for_a: 3.0, for_good: 0.0 });
        assert!((blind.mean() - 0.5).abs() < 1e-12 && !blind.is_consistent());
        let both = ask(Biased { for_a: 3.0, for_good: 1.0 });
        assert!(both.as_first > 0.9 && both.as_second < 0.5 && both.mean() > 0.5);
    }
}
