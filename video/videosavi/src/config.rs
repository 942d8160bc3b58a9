//! What a run of VideoSAVi can be told. Where the papers give no value, the defaults are this
//! project's own, not the papers'.

use std::collections::BTreeMap;
use std::path::PathBuf;

use savi_schema::Sampling;
use savi_suites::extract::final_answer;
use serde::{Deserialize, Serialize};

use crate::{PromptFiles, QuestionKind};

/// The method's part of a config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which of the two published systems.
    pub form: Form,
    /// How often the loop turns (critique form: 4 in the paper).
    pub rounds: u32,
    /// What each round learns from what it made.
    pub learn: Learn,
    /// Which clip judgements and critiques see; anything but `own` is a control.
    pub judge_video: JudgeVideo,
    /// Judges and critics see of an answer only what follows its last `Answer:`, so that they look for
    /// themselves instead of at its reasons.
    pub hide_reasons: bool,
    /// Clips used in each round, taken in turn; all of them where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clips_per_round: Option<usize>,
    /// At most this many pairs (or examples) are learnt from in a round, drawn at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs_per_round: Option<usize>,
    /// What happens after a round that made nothing to learn from.
    pub no_pairs: NoPairs,
    /// Clips that go through the stages together. It changes the speed and nothing else.
    pub clips_at_once: usize,
    /// Asking questions.
    pub questions: Questions,
    /// Answering them.
    pub answers: Answers,
    /// Judging answers side by side (judge form).
    pub judge: Judge,
    /// Comparing a pair with the clip in an embedding space (judge form).
    pub clip_check: ClipCheck,
    /// Criticising answers (critique form).
    pub critique: Critique,
    /// Revising them (critique form).
    pub revise: Revise,
    /// What is left out.
    pub filters: Filters,
    /// Files that replace the built-in prompts.
    pub prompts: PromptFiles,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            form: Form::default(),
            rounds: 3,
            learn: Learn::default(),
            judge_video: JudgeVideo::default(),
            hide_reasons: false,
            clips_per_round: None,
            pairs_per_round: None,
            no_pairs: NoPairs::default(),
            clips_at_once: 8,
            questions: Questions::default(),
            answers: Answers::default(),
            judge: Judge::default(),
            clip_check: ClipCheck::default(),
            critique: Critique::default(),
            revise: Revise::default(),
            filters: Filters::default(),
            prompts: PromptFiles::default(),
        }
    }
}

/// Which published system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The first version: several candidates, scored by the model itself.
    #[default]
    Judge,
    /// The later ones: an initial answer, its critique, its revision.
    Critique,
}

/// What a round learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Learn {
    /// The pairs, by DPO.
    #[default]
    Dpo,
    /// Control: as many answers as there are pairs, drawn from all of the round whatever was said of
    /// them later, by supervised fine-tuning.
    SftInitial,
    /// Ceiling: as many questions with their true answers, by supervised fine-tuning.
    SftLabelled,
    /// Control: nothing; the loop generates and evaluates only.
    Nothing,
}

/// What happens after a round that made nothing to learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoPairs {
    /// The run ends with an error that says what became of the questions.
    #[default]
    Fail,
    /// The model stays as it is and the run goes on: what a control asks for.
    Skip,
}

/// Which clip is shown when answers are judged or criticised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeVideo {
    /// The clip that the question is about.
    #[default]
    Own,
    /// Another clip, drawn at random.
    Other,
    /// No clip.
    None,
}

/// How questions are asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Questions {
    /// Draws for each kind. Where it is empty: what, why and how once each in the judge form,
    /// spatial and temporal three times each in the critique form.
    pub draws: BTreeMap<QuestionKind, usize>,
    /// How they are drawn.
    pub sampling: Sampling,
    /// How the model's own description of a clip is drawn, by which it then asks; a clip's caption
    /// goes before. Where it is not given, clips are not described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub describe: Option<Sampling>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { draws: BTreeMap::new(), sampling: sampling(1.0, 0.95, 64), describe: None }
    }
}

impl Questions {
    /// Draws by kind, with the form's own where none are given.
    pub(crate) fn draws(&self, form: Form) -> BTreeMap<QuestionKind, usize> {
        use QuestionKind::{How, Spatial, Temporal, What, Why};
        match (self.draws.is_empty(), form) {
            (false, _) => self.draws.clone(),
            (true, Form::Judge) => [(What, 1), (Why, 1), (How, 1)].into(),
            (true, Form::Critique) => [(Spatial, 3), (Temporal, 3)].into(),
        }
    }
}

/// How questions are answered: one answer at each temperature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// The temperatures. Where it is empty: the paper's 0.3, 0.5, 0.7, 0.9 and 1.0 in the judge
    /// form, 0.8 in the critique form.
    pub temperatures: Vec<f64>,
    /// Nucleus mass.
    pub top_p: f64,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self { temperatures: Vec::new(), top_p: 0.95, max_tokens: 256 }
    }
}

impl Answers {
    /// One sampling for each answer, with the form's own temperatures where none are given.
    pub(crate) fn samplings(&self, form: Form) -> Vec<Sampling> {
        let own: &[f64] = match form {
            Form::Judge => &[0.3, 0.5, 0.7, 0.9, 1.0],
            Form::Critique => &[0.8],
        };
        let given = if self.temperatures.is_empty() { own } else { &self.temperatures };
        given.iter().map(|&t| sampling(t, self.top_p, self.max_tokens)).collect()
    }
}

/// How candidates are scored and a pair is picked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Judge {
    /// Judgements of each question, each in an order of its own; scores are their mean.
    pub judgements: usize,
    /// How often an unreadable judgement is drawn again.
    pub retries: usize,
    /// Show the judge each different answer once. Otherwise it sees every answer, as in the paper,
    /// and answers in the same words share the mean of their scores.
    pub distinct: bool,
    /// Least distance between the mean scores of chosen and rejected.
    pub margin: f64,
    /// Who is chosen, and who is rejected, among equals.
    pub ties: Ties,
    /// How judgements are drawn.
    pub sampling: Sampling,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            judgements: 1,
            retries: 1,
            distinct: false,
            margin: 1.0,
            ties: Ties::default(),
            sampling: sampling(0.3, 0.95, 512),
        }
    }
}

/// What happens where several candidates share the best score, or the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ties {
    /// The one that was drawn first, at the lowest temperature.
    #[default]
    First,
    /// The question gives no pair.
    Skip,
}

/// The CLIP check. It needs an embedder; without one it is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClipCheck {
    /// The embedder: a Hugging Face directory of a CLIP model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Swap a pair whose rejected answer is closer to the clip.
    pub swap: bool,
    /// Added to the logit of a pair: this times the difference of its cosines. 0 is plain DPO.
    pub lambda: f64,
}

impl Default for ClipCheck {
    fn default() -> Self {
        Self { model: None, swap: true, lambda: 0.0 }
    }
}

/// How answers are criticised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Critique {
    /// How often an unreadable critique is drawn again.
    pub retries: usize,
    /// How critiques are drawn.
    pub sampling: Sampling,
}

impl Default for Critique {
    fn default() -> Self {
        Self { retries: 1, sampling: sampling(0.3, 0.9, 256) }
    }
}

/// How answers are revised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revise {
    /// Also revise answers that their critique calls right, so that the records show what a
    /// revision does to them. They give no pairs while `filters.called_right` is on.
    pub all: bool,
    /// How revisions are drawn.
    pub sampling: Sampling,
}

impl Default for Revise {
    fn default() -> Self {
        Self { all: false, sampling: sampling(0.3, 0.9, 256) }
    }
}

/// What is left out. Every rule has a counter in its stage's `done.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// Questions that repeat one of the same clip.
    pub duplicate_questions: bool,
    /// Questions that do not begin with the word asked for (judge form).
    pub other_kind: bool,
    /// Answers and revisions that reached the token limit.
    pub cut_off: bool,
    /// Revisions that say what the initial answer said.
    pub unchanged: bool,
    /// Answers that their critique calls right.
    pub called_right: bool,
    /// Pairs that repeat one of the same clip, question and all.
    pub duplicate_pairs: bool,
    /// Pairs whose longer answer has more than this many times the words of the shorter; 0 is off.
    pub length_ratio: f64,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            duplicate_questions: true,
            other_kind: true,
            cut_off: true,
            unchanged: true,
            called_right: true,
            duplicate_pairs: true,
            length_ratio: 3.0,
        }
    }
}

fn sampling(temperature: f64, top_p: f64, max_tokens: usize) -> Sampling {
    Sampling { temperature, top_p, max_tokens, ..Sampling::default() }
}

/// A value that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigProblem(String);

impl Config {
    /// What a judge or critic sees of an answer.
    pub(crate) fn judged_text<'a>(&self, answer: &'a str) -> &'a str {
        if self.hide_reasons { final_answer(answer) } else { answer }
    }

    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), ConfigProblem> {
        let bad = |words: String| Err(ConfigProblem(words));
        if self.clips_at_once == 0 {
            return bad("clips_at_once must be at least 1".to_owned());
        }
        if self.clips_per_round == Some(0) || self.pairs_per_round == Some(0) {
            return bad("clips_per_round and pairs_per_round must be at least 1".to_owned());
        }
        if self.judge.judgements == 0 {
            return bad("judge.judgements must be at least 1".to_owned());
        }
        let draws = self.questions.draws(self.form);
        if draws.values().sum::<usize>() == 0 {
            return bad("questions.draws must ask for at least one question".to_owned());
        }
        let candidates = self.answers.samplings(self.form).len();
        if self.form == Form::Judge
            && !(2..=savi_judge::listwise::MOST_CANDIDATES).contains(&candidates)
        {
            return bad(format!(
                "answers.temperatures: {candidates} candidates cannot be compared, 2 to {} can",
                savi_judge::listwise::MOST_CANDIDATES
            ));
        }
        let answers = self.answers.samplings(self.form);
        let samplings = [
            ("questions", &self.questions.sampling),
            ("judge", &self.judge.sampling),
            ("critique", &self.critique.sampling),
            ("revise", &self.revise.sampling),
        ];
        let describe = self.questions.describe.iter().map(|s| ("questions.describe", s));
        let answers = answers.iter().map(|answer| ("answers", answer));
        for (name, sampling) in samplings.into_iter().chain(describe).chain(answers) {
            let Sampling { temperature, top_p, max_tokens, .. } = sampling;
            if !(temperature.is_finite() && *temperature >= 0.0) {
                return bad(format!("{name}: temperature {temperature} is not a number from 0 up"));
            }
            if !(*top_p > 0.0 && *top_p <= 1.0) {
                return bad(format!("{name}: top_p {top_p} is not above 0 and at most 1"));
            }
            if *max_tokens == 0 {
                return bad(format!("{name}: max_tokens must be at least 1"));
            }
        }
        for (name, value) in [
            ("judge.margin", self.judge.margin),
            ("filters.length_ratio", self.filters.length_ratio),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return bad(format!("{name} {value} is not a number from 0 up"));
            }
        }
        if self.clip_check.model.is_some() && self.form != Form::Judge {
            return bad("clip_check.model is of the judge form".to_owned());
        }
        if !self.clip_check.lambda.is_finite() {
            return bad("clip_check.lambda must be a finite number".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_have_their_papers_numbers() {
        let config = Config::default();
        let draws: Vec<usize> = config.questions.draws(Form::Critique).into_values().collect();
        assert_eq!(draws, [3, 3]);
        assert_eq!(config.questions.draws(Form::Judge).len(), 3);
        let temperatures: Vec<f64> =
            config.answers.samplings(Form::Judge).iter().map(|s| s.temperature).collect();
        assert_eq!(temperatures, [0.3, 0.5, 0.7, 0.9, 1.0]);
        config.validate().unwrap();
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_key() {
        let check = |change: fn(&mut Config), key: &str| {
            let mut config = Config::default();
            change(&mut config);
            let problem = config.validate().unwrap_err().to_string();
            assert!(problem.contains(key), "{problem}");
        };
        check(|c| c.clips_at_once = 0, "clips_at_once");
        check(|c| c.pairs_per_round = Some(0), "pairs_per_round");
        check(|c| c.judge.judgements = 0, "judge.judgements");
        check(|c| c.answers.temperatures = vec![0.5], "answers.temperatures");
        check(|c| c.answers.temperatures = vec![0.5, -1.0], "answers: temperature");
        check(|c| c.revise.sampling.top_p = 0.0, "revise: top_p");
        check(|c| c.critique.sampling.max_tokens = 0, "critique: max_tokens");
        check(|c| c.judge.margin = f64::NAN, "judge.margin");
        check(|c| c.questions.draws = [(QuestionKind::What, 0)].into(), "questions.draws");
    }
}
