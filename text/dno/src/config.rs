//! Settings of the loop. Where the paper gives a number it is the default; where it does not, the number is ours and
//! its docs say so.

use savi_judge::repetition::Repetition;
use savi_judge::rewards::RewardFunction;
use savi_schema::Sampling;
use serde::{Deserialize, Serialize};

use crate::PromptFiles;

/// The points that a perfect answer gets: those of the rubric.
pub const MOST_POINTS: u8 = 6;

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which of the paper's methods.
    pub mode: Mode,
    /// Iterations, each on prompts of its own (paper: 3, and 6 with more data).
    pub iterations: u32,
    /// Prompts of an iteration; an equal share of all where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts_per_iteration: Option<usize>,
    /// Prompts that go through all stages together. A run that is killed repeats at most these, and only in the stage
    /// where it was.
    pub prompts_at_once: usize,
    /// Samples of each prompt from the current iterate (paper: 5).
    pub samples: usize,
    /// How they are drawn (paper: temperature 0.7, top-p 0.95; the length is ours).
    pub sampling: Sampling,
    /// How a teacher that is asked answers (the paper does not say: greedy).
    pub teacher_sampling: Sampling,
    /// Which samples are negatives without being judged, because they run in circles.
    pub repetition: Repetition,
    /// Who judges, and how.
    pub annotator: Annotator,
    /// Which candidates become pairs.
    pub pairs: PairRules,
    /// What the scores of pairs are.
    pub targets: Targets,
    /// What the policy is held against while it learns.
    pub reference: Reference,
    /// Learning rate of each iteration, in place of the trainer's; the last one stays (paper: lower ones in later
    /// iterations).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learning_rates: Vec<f64>,
    /// Pairs of earlier iterations that are learnt again.
    pub replay: Replay,
    /// What becomes of an iteration that makes no pair.
    pub no_pairs: NoPairs,
    /// How iterates are measured.
    pub evaluation: Evaluation,
    /// Files that replace the annotator's wording.
    pub prompts: PromptFiles,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Dno,
            iterations: 3,
            prompts_per_iteration: None,
            prompts_at_once: 8,
            samples: 5,
            sampling: sampling(0.7, 0.95, 512),
            teacher_sampling: sampling(0.0, 1.0, 512),
            repetition: Repetition::default(),
            annotator: Annotator::default(),
            pairs: PairRules::default(),
            targets: Targets::Scores,
            reference: Reference::Current,
            learning_rates: Vec::new(),
            replay: Replay::default(),
            no_pairs: NoPairs::Fail,
            evaluation: Evaluation::default(),
            prompts: PromptFiles::default(),
        }
    }
}

/// The methods of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Pairs of teacher over student, student over teacher and student over student.
    Dno,
    /// Teacher over student alone.
    Restrictive,
    /// The teacher over every sample, without an annotator (SPIN, arXiv 2401.01335).
    Spin,
    /// As `dno`, and then the pairs of all iterations once from the start: a further iterate, measured beside the others.
    Lookahead,
    /// Given pairs, once.
    Offline,
    /// Supervised fine-tuning on what is chosen in the pairs of `dno`.
    SftOnPositives,
}

/// Who judges candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Annotator {
    /// How.
    pub kind: AnnotatorKind,
    /// How often a rubric that cannot be read is asked for again, in another order.
    pub retries: usize,
    /// Begin the rubric's reply for the model (paper). A server has to go on with a turn of the assistant for that.
    pub begin_reply: bool,
    /// How rubrics are written (the paper does not say).
    pub sampling: Sampling,
    /// The rewards of the programmatic annotator, added up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardFunction>,
    /// A weight for each of them; 1 where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reward_weights: Vec<f64>,
    /// The sum of rewards that is worth no point.
    pub worst_reward: f64,
    /// The sum of rewards that is worth all points.
    pub best_reward: f64,
}

impl Default for Annotator {
    fn default() -> Self {
        Self {
            kind: AnnotatorKind::Rubric,
            retries: 2,
            begin_reply: true,
            sampling: sampling(0.0, 1.0, 1024),
            rewards: Vec::new(),
            reward_weights: Vec::new(),
            worst_reward: 0.0,
            best_reward: 1.0,
        }
    }
}

/// How candidates are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnnotatorKind {
    /// One call for all candidates of a prompt, points from 0 to 6 by an additive rubric (paper).
    Rubric,
    /// Every two candidates in both orders, by the probabilities of the labels: a matrix of win rates, which need not
    /// follow from scores. Points are the win rate times 6.
    Pairwise,
    /// Rewards by name; points are the sum of rewards on the way from `worst_reward` to `best_reward`, times 6.
    Programmatic,
}

/// Which candidates become pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairRules {
    /// The rule.
    pub rule: Rule,
    /// Points that a positive needs (paper: 5). Of the rules `margin` and `max-random` alone.
    pub positive: f64,
    /// How many points lower a negative has to be (paper: 2).
    pub margin: f64,
    /// The same where the positive is a student's sample (paper: 1).
    pub student_margin: f64,
    /// Leave out pairs that say what another one of the same prompt says (ours).
    pub distinct: bool,
    /// Most pairs of a prompt, drawn by chance; 0 takes all (ours).
    pub most_per_prompt: usize,
    /// Most pairs of an iteration whose positive is the teacher's and whose negative a student's, drawn by chance; 0
    /// takes all (ours, as the two below).
    pub most_teacher_over_student: usize,
    /// The same the other way round.
    pub most_student_over_teacher: usize,
    /// The same among students' samples.
    pub most_student_over_student: usize,
}

impl Default for PairRules {
    fn default() -> Self {
        Self {
            rule: Rule::Margin,
            positive: 5.0,
            margin: 2.0,
            student_margin: 1.0,
            distinct: true,
            most_per_prompt: 0,
            most_teacher_over_student: 0,
            most_student_over_teacher: 0,
            most_student_over_student: 0,
        }
    }
}

/// How pairs are picked among the candidates of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Every positive over every negative that is a margin lower (paper).
    Margin,
    /// The best over the worst, by win rate.
    BestVsWorst,
    /// The best, where it is a positive, over another one by chance.
    MaxRandom,
    /// Every two candidates, the better one first: for regression on win rates, where pairs may come from any two
    /// policies and equals teach too (paper, algorithm 1).
    All,
}

/// What the scores of pairs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// Points from 0 to 6.
    Scores,
    /// Win rates from 0 to 1, for the losses `dno` and `sppo`.
    WinRates,
}

/// What the policy is held against while it learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// The iterate that drew the samples (paper).
    Current,
    /// The model that all iterations began with. With `dpo.mixture_ratio` below 1 it is mixed with the current iterate
    /// (paper, appendix).
    Initial,
}

/// Pairs of earlier iterations that are learnt again (paper: at most 30 % of those of the iteration before, 15 % of the
/// one before that, and half as many for each further one).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Share of the iteration before; 0 replays nothing.
    pub first: f64,
    /// What the share is multiplied with for each iteration further back.
    pub factor: f64,
    /// What it is a share of; the paper does not say.
    pub of: ReplayBase,
}

impl Default for Replay {
    fn default() -> Self {
        Self { first: 0.3, factor: 0.5, of: ReplayBase::Earlier }
    }
}

/// What shares of replay are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayBase {
    /// The new pairs that the earlier iteration made.
    Earlier,
    /// The new pairs of this iteration; an earlier one gives at most what it has.
    New,
}

/// What becomes of an iteration that makes no pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoPairs {
    /// The run stops.
    Fail,
    /// The model stays as it is.
    Skip,
}

/// How iterates are measured on held-out prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// How they are answered.
    pub sampling: Sampling,
    /// Whose answers they are compared with, by the run's annotator.
    pub against: Opponent,
    /// What says that an answer is right, where prompts have known ones: a reward above one half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct: Option<RewardFunction>,
    /// The column that puts held-out prompts into parts, each with a figure of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_column: Option<String>,
    /// The figure that says which iterate is best; accuracy where it is measured, else the win rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_by: Option<BestBy>,
    /// Resamples of the intervals.
    pub resamples: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            sampling: sampling(0.0, 1.0, 512),
            against: Opponent::Start,
            correct: None,
            part_column: None,
            best_by: None,
            resamples: 10_000,
        }
    }
}

/// Whose answers those of an iterate are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opponent {
    /// Nobody's.
    Nobody,
    /// Those of the model that all iterations began with.
    Start,
    /// The teacher's.
    Teacher,
}

/// A figure by which the best iterate is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BestBy {
    /// The share of right answers.
    Accuracy,
    /// The rate of wins against the opponent.
    WinRate,
}

fn sampling(temperature: f64, top_p: f64, max_tokens: usize) -> Sampling {
    Sampling { temperature, top_p, max_tokens, ..Sampling::default() }
}

/// A value that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigProblem(String);

impl Config {
    /// Whether candidates are judged.
    pub(crate) fn annotates(&self) -> bool {
        !matches!(self.mode, Mode::Spin | Mode::Offline)
    }

    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), ConfigProblem> {
        let need = |holds: bool, words: String| match holds {
            true => Ok(()),
            false => Err(ConfigProblem(words)),
        };
        need(self.iterations > 0, "iterations must be at least 1".to_owned())?;
        need(
            self.mode != Mode::Offline || self.iterations == 1,
            format!("iterations = {}: mode = \"offline\" has one", self.iterations),
        )?;
        need(
            self.prompts_per_iteration != Some(0),
            "prompts_per_iteration must be at least 1".to_owned(),
        )?;
        need(self.prompts_at_once > 0, "prompts_at_once must be at least 1".to_owned())?;
        need(self.samples > 0, "samples must be at least 1".to_owned())?;
        for (name, sampling) in [
            ("sampling", &self.sampling),
            ("teacher_sampling", &self.teacher_sampling),
            ("annotator.sampling", &self.annotator.sampling),
            ("evaluation.sampling", &self.evaluation.sampling),
        ] {
            sampling.check().map_err(|reason| ConfigProblem(format!("{name}: {reason}")))?;
            need(sampling.max_tokens > 0, format!("{name}: max_tokens must be at least 1"))?;
        }
        self.repetition.check().map_err(|reason| ConfigProblem(format!("repetition: {reason}")))?;
        self.annotator.validate()?;
        self.pairs.validate()?;
        need(
            self.targets == Targets::Scores || self.annotates(),
            "targets = \"win-rates\": spin and offline estimate none".to_owned(),
        )?;
        for (name, share) in [("first", self.replay.first), ("factor", self.replay.factor)] {
            let words = format!("replay.{name} = {share} is not from 0 to 1");
            need((0.0..=1.0).contains(&share), words)?;
        }
        for rate in &self.learning_rates {
            let words = format!("learning_rates: {rate} is not a positive number");
            need(rate.is_finite() && *rate > 0.0, words)?;
        }
        if let Some(correct) = &self.evaluation.correct {
            correct
                .build()
                .map_err(|error| ConfigProblem(format!("evaluation.correct: {error}")))?;
        }
        need(self.evaluation.resamples > 0, "evaluation.resamples must be at least 1".to_owned())?;
        match self.evaluation.best_by {
            Some(BestBy::Accuracy) => need(
                self.evaluation.correct.is_some(),
                "evaluation.best_by = \"accuracy\" needs evaluation.correct".to_owned(),
            ),
            Some(BestBy::WinRate) => need(
                self.evaluation.against != Opponent::Nobody,
                "evaluation.best_by = \"win_rate\" needs evaluation.against".to_owned(),
            ),
            None => Ok(()),
        }
    }
}

impl Annotator {
    fn validate(&self) -> Result<(), ConfigProblem> {
        let bad = |words: String| Err(ConfigProblem(format!("annotator.{words}")));
        let programmatic = self.kind == AnnotatorKind::Programmatic;
        if programmatic == self.rewards.is_empty() {
            return bad("rewards go with kind = \"programmatic\": give both or neither".to_owned());
        }
        for reward in &self.rewards {
            if matches!(reward, RewardFunction::Overlong { .. }) {
                return bad(
                    "rewards: overlong counts tokens, which a teacher's answer has not".to_owned()
                );
            }
            if let Err(error) = reward.build() {
                return bad(format!("rewards: {error}"));
            }
        }
        let (weights, count) = (&self.reward_weights, self.rewards.len());
        if !weights.is_empty() && weights.len() != count {
            return bad(format!(
                "reward_weights = {weights:?}: there has to be one for each of {count}"
            ));
        }
        if weights.iter().any(|weight| !weight.is_finite()) {
            return bad(format!("reward_weights = {weights:?} are not all numbers"));
        }
        let (worst, best) = (self.worst_reward, self.best_reward);
        if !(worst.is_finite() && best.is_finite() && worst < best) {
            return bad(format!("worst_reward = {worst} is not below best_reward = {best}"));
        }
        Ok(())
    }
}

impl PairRules {
    fn validate(&self) -> Result<(), ConfigProblem> {
        for (name, value) in [
            ("positive", self.positive),
            ("margin", self.margin),
            ("student_margin", self.student_margin),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(ConfigProblem(format!(
                    "pairs.{name} = {value} is not a number from 0 up"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_papers_numbers_are_the_defaults() {
        let usual = Config::default();
        usual.validate().unwrap();
        assert_eq!((usual.iterations, usual.samples), (3, 5));
        assert_eq!((usual.sampling.temperature, usual.sampling.top_p), (0.7, 0.95));
        let pairs = &usual.pairs;
        assert_eq!((pairs.positive, pairs.margin, pairs.student_margin), (5.0, 2.0, 1.0));
        assert_eq!((usual.replay.first, usual.replay.factor), (0.3, 0.5));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_key() {
        for (given, words) in [
            (json!({"iterations": 0}), "iterations"),
            (json!({"mode": "offline", "iterations": 2}), "iterations = 2"),
            (json!({"prompts_per_iteration": 0}), "prompts_per_iteration"),
            (json!({"prompts_at_once": 0}), "prompts_at_once"),
            (json!({"samples": 0}), "samples"),
            (json!({"sampling": {"top_p": 0.0}}), "sampling: top_p = 0"),
            (json!({"teacher_sampling": {"max_tokens": 0}}), "teacher_sampling: max_tokens"),
            (json!({"repetition": {"most_repeated": 2.0}}), "repetition: most_repeated = 2"),
            (json!({"annotator": {"kind": "programmatic"}}), "annotator.rewards"),
            (json!({"annotator": {"rewards": [{"func": "number_match"}]}}), "annotator.rewards"),
            (json!({"annotator": {"worst_reward": 1.0}}), "annotator.worst_reward = 1"),
            (json!({"pairs": {"margin": -1.0}}), "pairs.margin = -1"),
            (json!({"mode": "spin", "targets": "win-rates"}), "targets"),
            (json!({"replay": {"first": 1.5}}), "replay.first = 1.5"),
            (json!({"learning_rates": [0.0]}), "learning_rates"),
            (json!({"evaluation": {"resamples": 0}}), "evaluation.resamples"),
            (json!({"evaluation": {"best_by": "accuracy"}}), "evaluation.correct"),
        ] {
            let config: Config = serde_json::from_value(given.clone()).unwrap();
            let problem = config.validate().unwrap_err().to_string();
            assert!(problem.contains(words), "{given}: {problem}");
        }
        let overlong = json!({"annotator": {"kind": "programmatic",
            "rewards": [{"func": "overlong", "max_length": 8, "buffer": 2}]}});
        let config: Config = serde_json::from_value(overlong).unwrap();
        assert!(config.validate().unwrap_err().to_string().contains("overlong"));
        assert!(serde_json::from_value::<Config>(json!({"iteration": 2})).is_err());
    }
}
