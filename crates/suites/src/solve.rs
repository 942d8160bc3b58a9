//! Problems with known answers: asked once, greedily, and graded by a reward; how many are right, and how long replies are.

use std::collections::BTreeMap;

use savi_run::{Evaluation, Interrupt, Interrupted, Key, Progress, Record, RunError, Slice, Stage};
use savi_schema::{
    Completed, Completion, FinishReason, Generate, GenerateError, PromptRecord, Request, Reward,
    SCHEMA_VERSION, Sampling, Score,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::stats::{Bootstrap, Estimate, Outcome, mean};

/// A problem's reply, graded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Solved {
    /// Record version.
    pub schema: u32,
    /// The problem.
    pub id: String,
    /// What it is counted with: its column `family`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub family: String,
    /// What was written.
    pub reply: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// Whether it was cut off.
    pub cut_off: bool,
    /// From 0 to 1: 1 is right.
    pub score: f64,
}

impl Record for Solved {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.id
    }
}

/// How problems are asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SolveOptions {
    /// Longest reply, in tokens.
    pub max_tokens: usize,
    /// Problems of one call. It changes the speed and nothing else.
    pub chunk: usize,
}

impl Default for SolveOptions {
    fn default() -> Self {
        Self { max_tokens: 256, chunk: 32 }
    }
}

/// Who is asked, and who grades.
pub struct Solving<'a> {
    /// Who is asked.
    pub model: &'a dyn Generate,
    /// The same, asked how likely it finds words, where the reward wants to know.
    pub scorer: &'a dyn Score,
    /// Who grades.
    pub reward: &'a dyn Reward,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

/// Why problems were not solved.
#[derive(Debug, Error)]
pub enum SolveError {
    /// It was asked to stop; what was graded is kept.
    #[error("interrupted")]
    Interrupted,
    /// The stage failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model or the reward failed.
    #[error(transparent)]
    Generate(GenerateError),
    /// A problem has no known answer.
    #[error("problem {0}: it has no known answer to hold a reply against")]
    NoAnswer(String),
}

impl From<Interrupted> for SolveError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl From<GenerateError> for SolveError {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Interrupted => Self::Interrupted,
            error => Self::Generate(error),
        }
    }
}

/// The key of a stage of [`solve`].
pub fn solve_key(
    model: &str,
    problems: &[PromptRecord],
    grading: &str,
    options: &SolveOptions,
) -> String {
    Key::new("solve")
        .with("model", model)
        .with("problems", problems)
        .with("grading", grading)
        .with("max_tokens", &options.max_tokens)
        .finish()
}

/// Asks the problems that `stage` does not have yet, grades the replies, and finishes the stage.
pub fn solve(
    who: &Solving<'_>,
    problems: &[PromptRecord],
    options: &SolveOptions,
    mut stage: Stage<Solved>,
    label: &str,
) -> Result<Vec<Solved>, SolveError> {
    let mut progress = Progress::new(label.to_owned(), problems.len() as u64);
    progress.resume_at(problems.iter().filter(|problem| stage.has(&problem.id)).count() as u64);
    let sampling = Sampling { max_tokens: options.max_tokens, ..Sampling::default() };
    for (number, chunk) in problems.chunks(options.chunk.max(1)).enumerate() {
        who.interrupt.check()?;
        let ids: Vec<&str> = chunk.iter().map(|problem| problem.id.as_str()).collect();
        stage.run(&ids, |missing| {
            let request = |&at: &usize| Request {
                id: chunk[at].id.clone(),
                messages: chunk[at].prompt.clone(),
                samplings: vec![sampling.clone()],
                ..Request::default()
            };
            let requests: Vec<Request> = missing.iter().map(request).collect();
            let replies = who.model.generate(&requests)?;
            let groups: Vec<Completed<'_>> = missing
                .iter()
                .zip(&replies)
                .map(|(&at, completions)| Completed { prompt: &chunk[at], completions })
                .collect();
            let verdicts = who.reward.judge(&groups, who.scorer)?;
            let graded = groups.iter().zip(verdicts).map(|(group, verdicts)| {
                let no_answer = || SolveError::NoAnswer(group.prompt.id.clone());
                let verdict = verdicts.into_iter().next().flatten().ok_or_else(no_answer)?;
                let reply = group.completions.first().ok_or_else(no_answer)?;
                Ok(vec![solved(group.prompt, reply, verdict.score)])
            });
            graded.collect::<Result<Vec<_>, SolveError>>()
        })?;
        progress.reach((number * options.chunk.max(1) + chunk.len()) as u64);
    }
    let solved = stage.finish(|solved| {
        let right = solved.iter().filter(|solved| solved.score > 0.5).count();
        let cut_off = solved.iter().filter(|solved| solved.cut_off).count();
        [("asked", solved.len()), ("right", right), ("cut_off", cut_off)]
            .map(|(name, count)| (name.to_owned(), count as u64))
            .into()
    })?;
    let right: f64 = solved.iter().map(|solved| solved.score).sum();
    progress.note(format!("{right} of {} right", solved.len()));
    progress.finish();
    Ok(solved)
}

fn solved(problem: &PromptRecord, reply: &Completion, score: f64) -> Solved {
    Solved {
        schema: SCHEMA_VERSION,
        id: problem.id.clone(),
        family: problem
            .columns
            .get("family")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        reply: reply.text.clone(),
        tokens: reply.token_ids.len(),
        cut_off: reply.finish_reason == FinishReason::Length,
        score,
    }
}

/// The rows of one round: `accuracy`, `mean_length` in tokens of all replies, of right ones (`mean_length/right`) and of
/// those that ended (`mean_length/ended`), and `cut_off`, the share of replies that did not. A problem is a cluster of its
/// own.
pub fn solve_evaluations(
    round: u32,
    suite: &str,
    solved: &[Solved],
    bootstrap: &Bootstrap,
) -> Vec<Evaluation> {
    type Figure = fn(&Solved) -> Option<f64>;
    let rows: [(&str, Figure); 5] = [
        ("accuracy", |solved| Some(solved.score)),
        ("mean_length", |solved| Some(solved.tokens as f64)),
        ("mean_length/right", |solved| (solved.score > 0.5).then_some(solved.tokens as f64)),
        ("mean_length/ended", |solved| (!solved.cut_off).then_some(solved.tokens as f64)),
        ("cut_off", |solved| Some(f64::from(solved.cut_off))),
    ];
    let rows = rows.into_iter().filter_map(|(metric, figure)| {
        let outcomes = solve_outcomes(solved, figure);
        let Estimate { value, ci95, n, .. } = mean(&outcomes, bootstrap)?;
        let mut by = BTreeMap::new();
        for family in solved.iter().map(|solved| &solved.family).filter(|family| !family.is_empty())
        {
            if !by.contains_key(family) {
                let of_family = solved.iter().filter(|solved| solved.family == *family);
                let of_family: Vec<Solved> = of_family.cloned().collect();
                if let Some(Estimate { value, ci95, n, .. }) =
                    mean(&solve_outcomes(&of_family, figure), bootstrap)
                {
                    by.insert(family.clone(), Slice { value, ci95, n });
                }
            }
        }
        let (suite, metric) = (suite.to_owned(), metric.to_owned());
        Some(Evaluation { round, suite, metric, value, ci95, n, by })
    });
    rows.collect()
}

/// A figure of every problem that has it.
pub fn solve_outcomes(solved: &[Solved], figure: impl Fn(&Solved) -> Option<f64>) -> Vec<Outcome> {
    let outcome = |solved: &Solved| {
        let value = figure(solved)?;
        Some(Outcome { id: solved.id.clone(), cluster: solved.id.clone(), value })
    };
    solved.iter().filter_map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use savi_schema::{Message, Role, ScoreRequest, TokenScore, Verdict, judge_each};
    use serde_json::{Map, json};

    use super::*;

    /// Repeats what it is asked.
    struct Echo;

    impl Generate for Echo {
        fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
            let reply = |request: &Request| {
                let text = request.messages[0].words();
                let (text, token_ids) = (text.clone(), vec![0; text.len()]);
                let long = text.len() >= request.samplings[0].max_tokens;
                let finish_reason = if long { FinishReason::Length } else { FinishReason::Stop };
                vec![Completion {
                    text,
                    token_ids,
                    logps: Vec::new(),
                    sampling_logps: Vec::new(),
                    top_logps: Vec::new(),
                    finish_reason,
                }]
            };
            Ok(requests.iter().map(reply).collect())
        }

        fn fingerprint(&self) -> String {
            "echo".to_owned()
        }
    }

    impl Score for Echo {
        fn score(&self, _: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
            unreachable!("nobody asks")
        }
    }

    /// Right is what the column says.
    struct Exact;

    impl Reward for Exact {
        fn judge(
            &self,
            groups: &[Completed<'_>],
            _: &dyn Score,
        ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
            Ok(judge_each(groups, |prompt, completion| {
                let known = prompt.columns.get("answer")?.as_str()?;
                let score = f64::from(completion.text == known);
                Some(Verdict { score, criteria: Map::new(), raw: String::new() })
            }))
        }
    }

    fn problem(id: &str, words: &str, answer: Value, family: &str) -> PromptRecord {
        let columns = json!({"answer": answer, "family": family});
        PromptRecord {
            id: id.to_owned(),
            prompt: vec![Message::text(Role::User, words)],
            columns: columns.as_object().unwrap().clone(),
        }
    }

    fn asked(problems: &[PromptRecord], chunk: usize) -> Result<Vec<Solved>, SolveError> {
        let dir = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::new();
        let who = Solving { model: &Echo, scorer: &Echo, reward: &Exact, interrupt: &interrupt };
        let stage = Stage::open_in(dir.path(), "solve", "key")?;
        solve(&who, problems, &SolveOptions { max_tokens: 4, chunk }, stage, "problems")
    }

    #[test]
    fn replies_are_graded_and_counted() {
        let problems = [
            problem("a", "7", json!("7"), "x"),
            problem("b", "12345", json!("12345"), "x"),
            problem("c", "no", json!("yes"), "y"),
        ];
        let solved = asked(&problems, 2).unwrap();
        assert_eq!(solved, asked(&problems, 1).unwrap());
        let rows = solve_evaluations(1, "s", &solved, &Bootstrap { resamples: 20, seed: 0 });
        let figures: Vec<(&str, f64, usize)> =
            rows.iter().map(|row| (row.metric.as_str(), row.value, row.n)).collect();
        let want = [
            ("accuracy", 2.0 / 3.0, 3),
            ("mean_length", 8.0 / 3.0, 3),
            ("mean_length/right", 3.0, 2),
            ("mean_length/ended", 1.5, 2),
            ("cut_off", 1.0 / 3.0, 3),
        ];
        assert_eq!(figures, want);
        assert_eq!((rows[0].by["x"].value, rows[0].by["y"].value), (1.0, 0.0));
    }

    #[test]
    fn a_problem_without_an_answer_is_named() {
        let problems = [problem("a", "7", json!("7"), ""), problem("odd", "7", Value::Null, "")];
        let error = asked(&problems, 8).unwrap_err().to_string();
        assert!(error.contains("problem odd"), "{error}");
    }
}
