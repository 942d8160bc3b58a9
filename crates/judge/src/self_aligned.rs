//! The self-aligned reward (Han et al., arXiv 2509.05489): how much likelier a query makes an answer, by the model that
//! wrote it.
//!
//! With the mean negative log-probabilities of the answer's tokens, after the query and without it,
//! `R_SA = clip((ppl(a) - ppl(a|q)) / ppl(a), -1, 1)`, which is `clip(-expm1(d), -1, 1)` with
//! `d = nll(a|q) - nll(a)`. The lower end is reached where `d >= ln 2`, the upper never.

use std::collections::BTreeMap;

use savi_schema::{
    Completed, Completion, Continuation, GenerateError, Message, RawPrompt, Reward, Role, Score,
    ScoreRequest, Verdict,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What an answer stands after where its query is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standalone {
    /// The chat template with what the system says, and a user who says nothing (the authors' code).
    #[default]
    EmptyQuery,
    /// What the tokenizer puts before every text; where that is nothing, as `none`.
    Bos,
    /// Nothing: the first token counts in neither mean.
    None,
}

/// `R_SA` of the log-probabilities of an answer's tokens after its query (`conditional`) and without it. `None` for an
/// answer without tokens, and where the two are of different tokens.
pub fn self_aligned_reward(conditional: &[f32], standalone: &[f32]) -> Option<f64> {
    (conditional.len() == standalone.len() && !conditional.is_empty())
        .then(|| Terms::of(conditional, standalone).reward())
}

/// The two means of an answer.
struct Terms {
    conditional: f64,
    standalone: f64,
}

impl Terms {
    fn of(conditional: &[f32], standalone: &[f32]) -> Self {
        let mean = |logps: &[f32]| {
            -logps.iter().map(|&logp| f64::from(logp)).sum::<f64>() / logps.len().max(1) as f64
        };
        Self { conditional: mean(conditional), standalone: mean(standalone) }
    }

    fn difference(&self) -> f64 {
        self.conditional - self.standalone
    }

    fn reward(&self) -> f64 {
        (-self.difference().exp_m1()).clamp(-1.0, 1.0)
    }

    fn verdict(&self) -> Verdict {
        let criteria = [
            ("ppl_conditional", self.conditional.exp()),
            ("ppl_standalone", self.standalone.exp()),
            ("log_ratio", self.difference()),
            ("clipped", f64::from(self.difference() >= std::f64::consts::LN_2)),
        ];
        let criteria: Map<String, Value> =
            criteria.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        Verdict { score: self.reward(), criteria, raw: String::new() }
    }
}

/// The reward. The conditional term is the completions' own log-probabilities where the sampler tells them: they are of
/// temperature 1 over all tokens, as are those that are computed here. The standalone contexts of a batch share what
/// they have in common.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelfAligned {
    /// What answers stand after without their query.
    pub standalone: Standalone,
}

impl SelfAligned {
    /// The name under which its figures are logged.
    pub const NAME: &str = "self_aligned";

    /// Where an answer to this prompt stands without its query.
    fn context(&self, prompt: &[Message], completion: &Completion) -> ScoreRequest {
        match self.standalone {
            Standalone::EmptyQuery => {
                let system = prompt.iter().take_while(|turn| turn.role == Role::System).cloned();
                let messages = system.chain([Message::text(Role::User, "")]).collect();
                ScoreRequest { messages, ..ScoreRequest::default() }
            }
            Standalone::Bos => ScoreRequest {
                raw: Some(RawPrompt::Text(String::new())),
                ..ScoreRequest::default()
            },
            Standalone::None => ScoreRequest {
                raw: Some(RawPrompt::Tokens(
                    completion.token_ids.iter().take(1).copied().collect(),
                )),
                ..ScoreRequest::default()
            },
        }
    }
}

impl Reward for SelfAligned {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        policy: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let all: Vec<(&[Message], &Completion)> = groups
            .iter()
            .flat_map(|group| group.completions.iter().map(|c| (&*group.prompt.prompt, c)))
            .collect();
        let skipped = usize::from(self.standalone == Standalone::None);
        let mut asked = Asked::default();
        // By completion: where its terms will be found.
        let mut places = Vec::with_capacity(all.len());
        for &(prompt, completion) in &all {
            let tokens = &completion.token_ids;
            if tokens.len() <= skipped {
                places.push(None);
                continue;
            }
            let standalone =
                asked.add(self.context(prompt, completion), tokens[skipped..].to_vec());
            let conditional = (completion.logps.len() != tokens.len()).then(|| {
                let request = ScoreRequest { messages: prompt.to_vec(), ..ScoreRequest::default() };
                asked.add(request, tokens.clone())
            });
            places.push(Some((standalone, conditional)));
        }
        let scores = policy.score(&asked.requests)?;
        let logps = |(request, place): (usize, usize)| {
            let of = scores.get(request).and_then(|of| of.get(place));
            let told = || GenerateError::Backend("an answer was not scored".to_owned());
            of.map(|score| score.logps.as_slice()).ok_or_else(told)
        };
        let mut verdicts = all.iter().zip(places).map(|((_, completion), place)| {
            let Some((standalone, conditional)) = place else { return Ok(None) };
            let standalone = logps(standalone)?;
            let conditional = match conditional {
                Some(place) => logps(place)?,
                None => completion.logps.as_slice(),
            };
            // Alone, a text may be scored from its second token on: both means are of the same tokens.
            let from = conditional.len().saturating_sub(standalone.len());
            let conditional = &conditional[from..];
            Ok(match conditional.is_empty() {
                true => None,
                false => Some(Terms::of(conditional, standalone).verdict()),
            })
        });
        let judge = |group: &Completed| verdicts.by_ref().take(group.completions.len()).collect();
        groups.iter().map(judge).collect()
    }
}

/// What is to be scored, answers after one context in one request.
#[derive(Default)]
struct Asked {
    requests: Vec<ScoreRequest>,
    known: BTreeMap<String, usize>,
}

impl Asked {
    /// Gives the request and the place in it.
    fn add(&mut self, context: ScoreRequest, tokens: Vec<u32>) -> (usize, usize) {
        let name = format!("{:?} {:?}", context.messages, context.raw);
        let at = *self.known.entry(name).or_insert_with(|| {
            self.requests.push(context);
            self.requests.len() - 1
        });
        let continuations = &mut self.requests[at].continuations;
        continuations.push(Continuation::Tokens(tokens));
        (at, continuations.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use savi_schema::{FinishReason, PromptRecord, TokenScore};

    use super::*;

    #[test]
    fn rewards_of_worked_examples() {
        let close = |got: Option<f64>, want: f64| {
            assert!((got.unwrap() - want).abs() < 5e-9, "{got:?}, not {want}");
        };
        close(self_aligned_reward(&[-0.1, -0.2, -0.3], &[-2.0, -1.0, -0.3]), 0.593_430_34);
        close(self_aligned_reward(&[-2.0], &[-1.0]), -1.0);
        close(self_aligned_reward(&[-1.5, -0.5], &[-0.5, -1.5]), 0.0);
        close(self_aligned_reward(&[-1e30], &[0.0]), -1.0);
        close(self_aligned_reward(&[0.0], &[-1e30]), 1.0);
        assert_eq!(self_aligned_reward(&[], &[]), None);
        assert_eq!(self_aligned_reward(&[-1.0], &[]), None);
    }

    #[test]
    fn rewards_of_recorded_log_probabilities() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/self-aligned/golden.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let rows = golden["rows"].as_array().unwrap();
        assert!(rows.len() > 50);
        for row in rows {
            let logps =
                |at: usize| -> Vec<f32> { serde_json::from_value(row[at].clone()).unwrap() };
            let got = self_aligned_reward(&logps(0), &logps(1)).unwrap();
            assert!((got - row[2].as_f64().unwrap()).abs() < 1e-6, "{got} {}", row[2]);
        }
    }

    /// Every token costs as much as the context is long.
    #[derive(Default)]
    struct ByLength(RefCell<Vec<ScoreRequest>>);

    impl Score for ByLength {
        fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
            self.0.borrow_mut().extend(requests.iter().cloned());
            let score = |request: &ScoreRequest, tokens: &Continuation| {
                let Continuation::Tokens(tokens) = tokens else { unreachable!("tokens are sent") };
                let cost = match &request.raw {
                    None => request.messages.iter().map(|turn| turn.words().len()).sum(),
                    Some(RawPrompt::Tokens(before)) => before.len(),
                    Some(RawPrompt::Text(_)) => 0,
                };
                // After nothing the first token has no log-probability.
                let from = usize::from(request.raw == Some(RawPrompt::Text(String::new())));
                let token_ids = tokens[from..].to_vec();
                TokenScore { logps: vec![-(cost as f32); token_ids.len()], token_ids }
            };
            Ok(requests
                .iter()
                .map(|request| request.continuations.iter().map(|t| score(request, t)).collect())
                .collect())
        }
    }

    fn prompt(system: &str, words: &str) -> PromptRecord {
        let turns = [(Role::System, system), (Role::User, words)];
        let prompt = turns.into_iter().filter(|(_, words)| !words.is_empty());
        PromptRecord {
            id: words.to_owned(),
            prompt: prompt.map(|(role, words)| Message::text(role, words)).collect(),
            columns: Map::new(),
        }
    }

    fn completion(tokens: &[u32], logps: &[f32]) -> Completion {
        Completion {
            text: String::new(),
            token_ids: tokens.to_vec(),
            logps: logps.to_vec(),
            sampling_logps: Vec::new(),
            top_logps: Vec::new(),
            finish_reason: FinishReason::Stop,
        }
    }

    #[test]
    fn a_batch_shares_its_contexts_and_keeps_its_tokens() {
        let (a, b) = (prompt("two", "?"), prompt("two", "??"));
        let of_a = [completion(&[1, 2], &[-1.0, -2.0]), completion(&[3], &[])];
        let of_b = [completion(&[4, 5, 6], &[-2.0, -2.0, -2.0]), completion(&[], &[])];
        let groups = [
            Completed { prompt: &a, completions: &of_a },
            Completed { prompt: &b, completions: &of_b },
        ];
        let scorer = ByLength::default();
        let got = SelfAligned::default().judge(&groups, &scorer).unwrap();
        // One context for all, and the one conditional that the sampler did not tell.
        let asked = scorer.0.borrow();
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[0].messages.len(), 2);
        assert_eq!(asked[0].messages[1].words(), "");
        let tokens: Vec<Continuation> =
            [vec![1, 2], vec![3], vec![4, 5, 6]].map(Continuation::from).to_vec();
        assert_eq!(asked[0].continuations, tokens);
        let want = |d: f64| (-d.exp_m1()).clamp(-1.0, 1.0);
        let score = |group: usize, place: usize| got[group][place].as_ref().unwrap().score;
        assert!((score(0, 0) - want(1.5 - 3.0)).abs() < 1e-12);
        assert!((score(0, 1) - want(4.0 - 3.0)).abs() < 1e-12);
        assert!((score(1, 0) - want(2.0 - 3.0)).abs() < 1e-12);
        assert_eq!(got[1][1], None);
        assert_eq!(got[0][1].as_ref().unwrap().criteria["clipped"], 1.0);
    }

    #[test]
    fn without_a_context_the_first_token_counts_in_neither_mean() {
        let a = prompt("", "?");
        let of_a = [completion(&[1, 2], &[-9.0, -0.5]), completion(&[1], &[-9.0])];
        let groups = [Completed { prompt: &a, completions: &of_a }];
        for (standalone, alone) in [(Standalone::None, 1.0), (Standalone::Bos, 0.0)] {
            let got = SelfAligned { standalone }.judge(&groups, &ByLength::default()).unwrap();
            let want = -(0.5f64 - alone).exp_m1();
            assert!((got[0][0].as_ref().unwrap().score - want).abs() < 1e-12, "{standalone:?}");
            assert_eq!(got[0][1], None);
        }
    }
}
