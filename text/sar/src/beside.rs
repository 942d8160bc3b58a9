//! What the paper compares its reward with: lengths and likelihoods, without a look at what the query adds.

use savi_schema::{Completed, Completion, GenerateError, Reward, Score, Verdict, judge_each};
use serde_json::Map;

/// `-clip((len - mean) / len, -1, 1)` of an answer's length and the mean of its group (O1-Pruner's manner).
#[derive(Debug, Clone, Copy)]
pub struct O1Pruner;

/// `-(2 sigmoid((len - mean) / (std + 1e-5)) - 1)` of a right answer's length, mean and deviation (of the population) over
/// the right answers of its group; 0 for wrong answers, and where fewer than two are right (Efficient Reasoning's manner).
#[derive(Clone, Copy)]
pub struct EfficientReasoning<'a> {
    /// Who says what is right.
    pub verifier: &'a (dyn Reward + Sync),
}

/// The mean log-probability of an answer's tokens, which is `-log ppl(a|q)`.
#[derive(Debug, Clone, Copy)]
pub struct EntropyMinimisation;

fn verdict(score: f64) -> Verdict {
    Verdict { score, criteria: Map::new(), raw: String::new() }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn length(completion: &Completion) -> f64 {
    completion.token_ids.len() as f64
}

impl Reward for O1Pruner {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let of = |group: &Completed| {
            let lengths: Vec<f64> = group.completions.iter().map(length).collect();
            let mean = mean(&lengths);
            let score = |length: f64| -((length - mean) / length.max(1.0)).clamp(-1.0, 1.0);
            lengths.into_iter().map(|length| Some(verdict(score(length)))).collect()
        };
        Ok(groups.iter().map(of).collect())
    }
}

impl Reward for EfficientReasoning<'_> {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        policy: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let verdicts = self.verifier.judge(groups, policy)?;
        let of = |(group, verdicts): (&Completed, Vec<Option<Verdict>>)| {
            let right = |verdict: &Option<Verdict>| verdict.as_ref().is_some_and(|v| v.score > 0.5);
            let both = group.completions.iter().zip(&verdicts);
            let lengths: Vec<f64> =
                both.filter(|(_, verdict)| right(verdict)).map(|(c, _)| length(c)).collect();
            let centre = mean(&lengths);
            let squares: Vec<f64> =
                lengths.iter().map(|length| (length - centre).powi(2)).collect();
            let deviation = mean(&squares).sqrt() + 1e-5;
            let score = |(completion, judged): (&Completion, &Option<Verdict>)| {
                let counts = right(judged) && lengths.len() > 1;
                let z = (length(completion) - centre) / deviation;
                // -(2 sigmoid(z) - 1)
                let score = if counts { -(z / 2.0).tanh() } else { 0.0 };
                judged.as_ref().map(|_| verdict(score))
            };
            group.completions.iter().zip(&verdicts).map(score).collect()
        };
        Ok(groups.iter().zip(verdicts).map(of).collect())
    }
}

impl Reward for EntropyMinimisation {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        Ok(judge_each(groups, |_, completion| {
            let logps: Vec<f64> = completion.logps.iter().map(|&logp| f64::from(logp)).collect();
            (!logps.is_empty()).then(|| verdict(mean(&logps)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use savi_judge::rewards::RewardFunction;
    use savi_schema::{FinishReason, PromptRecord, ScoreRequest, TokenScore};
    use serde_json::json;

    use super::*;

    struct Nobody;

    impl Score for Nobody {
        fn score(&self, _: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
            unreachable!("nobody is asked")
        }
    }

    fn scores(reward: &dyn Reward, answers: &[(&str, usize)]) -> Vec<f64> {
        let columns = json!({"answer": "7"}).as_object().unwrap().clone();
        let prompt = PromptRecord { id: "p".to_owned(), prompt: Vec::new(), columns };
        let completion = |&(text, length): &(&str, usize)| Completion {
            text: text.to_owned(),
            token_ids: vec![0; length],
            logps: (0..length).map(|at| -(at as f32)).collect(),
            sampling_logps: Vec::new(),
            top_logps: Vec::new(),
            finish_reason: FinishReason::Stop,
        };
        let completions: Vec<Completion> = answers.iter().map(completion).collect();
        let groups = [Completed { prompt: &prompt, completions: &completions }];
        let verdicts = reward.judge(&groups, &Nobody).unwrap().remove(0);
        verdicts.into_iter().map(|verdict| verdict.unwrap().score).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(g, w)| assert!((g - w).abs() < 1e-4, "{got:?} {want:?}"));
    }

    #[test]
    fn lengths_and_likelihoods_by_hand() {
        // Mean 10: (4 - 10) / 4 is cut at -1, (16 - 10) / 16 = 0.375.
        close(&scores(&O1Pruner, &[("7", 4), ("7", 10), ("8", 16)]), &[1.0, 0.0, -0.375]);
        let verifier = RewardFunction::ExactMatch { column: None }.build().unwrap();
        let efficient = EfficientReasoning { verifier: &verifier };
        // Right ones: 4 and 8, mean 6, deviation 2: z is -1 and 1, 2 sigmoid(1) - 1 = 0.4621.
        close(&scores(&efficient, &[("7", 4), ("7", 8), ("8", 99)]), &[0.46212, -0.46212, 0.0]);
        close(&scores(&efficient, &[("7", 4), ("8", 8)]), &[0.0, 0.0]);
        close(&scores(&EntropyMinimisation, &[("7", 3)]), &[-1.0]);
    }
}
