//! What the stages write: one record type for each, with the raw text beside what was read from it.

use savi_judge::listwise::Listwise;
use savi_run::Record;
use savi_schema::{Completion, Example, FinishReason, MediaPolicy, Pair, Sampling};
use serde::{Deserialize, Serialize};

use crate::QuestionKind;

/// A clip of the run, as stage `00-clips` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// Record version.
    pub schema: u32,
    /// Unique within the run.
    pub id: String,
    /// Path of the file or frame folder.
    pub source: String,
    /// How it becomes frames.
    pub policy: MediaPolicy,
    /// The moments that are looked at, in seconds.
    pub frame_times: Vec<f64>,
    /// Hash of the file.
    pub hash: String,
    /// A caption, given to asking and judging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
}

/// What the model wrote, and how it was drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// The text, untouched.
    pub raw: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Its length in tokens.
    pub tokens: usize,
    /// Natural log-probability of the whole.
    pub logp: f64,
    /// Name and content hash of the prompt.
    pub prompt: String,
    /// Fingerprint of the model.
    pub model: String,
    /// The request's id, on which its random numbers depend.
    pub request: String,
    /// How it was drawn.
    pub sampling: Sampling,
}

impl Drawn {
    /// Keeps a completion with its origin.
    pub(crate) fn new(
        completion: &Completion,
        prompt: &str,
        model: &str,
        request: &str,
        sampling: &Sampling,
    ) -> Self {
        Self {
            raw: completion.text.clone(),
            finish_reason: completion.finish_reason,
            tokens: completion.token_ids.len(),
            logp: completion.logps.iter().map(|&logp| f64::from(logp)).sum(),
            prompt: prompt.to_owned(),
            model: model.to_owned(),
            request: request.to_owned(),
            sampling: sampling.clone(),
        }
    }

    /// Whether it reached the token limit.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.finish_reason == FinishReason::Length
    }
}

/// Why something was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// No words.
    Empty,
    /// It reached the token limit.
    CutOff,
    /// No question mark.
    NotAQuestion,
    /// It does not begin with the word that was asked for.
    OtherKind,
    /// It repeats another of the same clip.
    Duplicate,
    /// All candidates say the same.
    OneCandidate,
    /// No judgement or critique could be read.
    Unparsed,
    /// Best and worst are closer than the margin.
    Margin,
    /// Several share the best score or the worst.
    Tie,
    /// The critique calls the answer right.
    CalledRight,
    /// The revision says what the initial answer said.
    Unchanged,
    /// One answer is much longer than the other.
    LengthRatio,
}

impl Dropped {
    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::CutOff => "cut-off",
            Self::NotAQuestion => "not-a-question",
            Self::OtherKind => "other-kind",
            Self::Duplicate => "duplicate",
            Self::OneCandidate => "one-candidate",
            Self::Unparsed => "unparsed",
            Self::Margin => "margin",
            Self::Tie => "tie",
            Self::CalledRight => "called-right",
            Self::Unchanged => "unchanged",
            Self::LengthRatio => "length-ratio",
        }
    }
}

/// A question that the model asked about a clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Record version.
    pub schema: u32,
    /// `<clip>/<kind>-<draw>`.
    pub id: String,
    /// The clip.
    pub clip: String,
    /// What was asked for.
    pub kind: QuestionKind,
    /// The question; empty where none could be read.
    pub text: String,
    /// The model's description of the clip by which it asked, if it was to describe it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Drawn>,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
    /// What was written.
    pub drawn: Drawn,
}

/// An answer to a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Record version.
    pub schema: u32,
    /// `<question>/a<draw>`.
    pub id: String,
    /// The clip.
    pub clip: String,
    /// Id of the question.
    pub question: String,
    /// The answer.
    pub text: String,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
    /// What was written.
    pub drawn: Drawn,
}

/// One reading of all candidates side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Which candidate stood at each place.
    pub order: Vec<usize>,
    /// What was written.
    pub drawn: Drawn,
    /// What was read from it, places as shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parsed: Option<Listwise>,
    /// Why nothing could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The judgement of the candidates of a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Record version.
    pub schema: u32,
    /// Id of the question.
    pub id: String,
    /// The clip.
    pub clip: String,
    /// The clip that the judge saw; `None` for no clip.
    pub shown: Option<String>,
    /// Ids of the answers that were shown, in the order of drawing.
    pub candidates: Vec<String>,
    /// Every attempt, unreadable ones included.
    pub readings: Vec<Reading>,
    /// Mean score of each candidate; `None` where no reading could be used.
    pub scores: Option<Vec<f64>>,
}

/// The critique of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CritiqueRecord {
    /// Record version.
    pub schema: u32,
    /// Id of the answer.
    pub id: String,
    /// The clip.
    pub clip: String,
    /// The clip that the critic saw; `None` for no clip.
    pub shown: Option<String>,
    /// Id of the question.
    pub question: String,
    /// What was read from the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parsed: Option<savi_judge::critique::Critique>,
    /// Every attempt; all but the last were unreadable.
    pub drawn: Vec<Drawn>,
}

/// The revision of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Record version.
    pub schema: u32,
    /// Id of the answer.
    pub id: String,
    /// The clip.
    pub clip: String,
    /// Id of the question.
    pub question: String,
    /// The revised answer.
    pub text: String,
    /// What was written.
    pub drawn: Drawn,
}

/// What became of a question (judge form) or of an answer (critique form): a pair, or why none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Record version.
    pub schema: u32,
    /// `<round>/<id of the question or answer>`.
    pub id: String,
    /// The clip.
    pub clip: String,
    /// Id of the question.
    pub question: String,
    /// An answer as it was drawn, whatever was said of it later: what the supervised control learns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Example>,
    /// Why there is no pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
    /// How close the clip is to chosen and rejected, where it was checked, before any swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarities: Option<savi_judge::clip::Similarities>,
    /// The pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
}

macro_rules! records {
    ($($record:ty),*) => {$(
        impl Record for $record {
            fn id(&self) -> &str {
                &self.id
            }

            fn unit(&self) -> &str {
                &self.clip
            }
        }
    )*};
}

records!(Question, Answer, Judgement, CritiqueRecord, Revision, Decision);

impl Record for ClipRecord {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.id
    }
}
