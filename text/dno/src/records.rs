//! What the stages write: one record type for each, with the raw text beside what was read from it.

use savi_judge::rubric::{Repair, Rubric};
use savi_judge::wins::Wins;
use savi_run::Record;
use savi_schema::{FinishReason, Pair, PromptRecord};
use serde::{Deserialize, Serialize};

/// A prompt of the run and the iteration that works on it, as stage `00-prompts` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allotted {
    /// Record version.
    pub schema: u32,
    /// The prompt's id.
    pub id: String,
    /// Which iteration, from 1.
    pub iteration: u32,
    /// The prompt.
    pub record: PromptRecord,
}

/// Who wrote a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writer {
    /// The current iterate.
    Student,
    /// The teacher.
    Teacher,
}

/// An answer to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Record version.
    pub schema: u32,
    /// `<prompt>/s<draw>` or `<prompt>/teacher`.
    pub id: String,
    /// Id of the prompt.
    pub prompt: String,
    /// Who wrote it.
    pub writer: Writer,
    /// The answer.
    pub text: String,
    /// It runs in circles: a negative, whatever a judge would say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degenerate: bool,
    /// Why it ended, where a model drew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Its length in tokens, where a model drew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Natural log-probability of the whole, where a model drew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logp: Option<f64>,
    /// Fingerprint of the model that drew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// One attempt to have candidates scored by the rubric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Which of the shown candidates stood at each place.
    pub order: Vec<usize>,
    /// The request's id.
    pub request: String,
    /// What was written, the beginning that was given included.
    pub raw: String,
    /// What was read from it, places as shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parsed: Option<Rubric>,
    /// Why nothing could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Reading {
    /// What had to be mended.
    pub(crate) fn repairs(&self) -> &[Repair] {
        self.parsed.as_ref().map_or(&[], |parsed| &parsed.repairs)
    }
}

/// What the annotator said of the candidates of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// Record version.
    pub schema: u32,
    /// Id of the prompt.
    pub id: String,
    /// Ids of the candidates, the student's in the order of drawing and then the teacher's.
    pub candidates: Vec<String>,
    /// Points of each, from 0 to 6; `None` where no verdict could be had.
    pub scores: Option<Vec<f64>>,
    /// Chances of the candidates against each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wins: Option<Wins>,
    /// Every attempt of a rubric, unreadable ones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<Reading>,
}

/// Who is preferred to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairKind {
    /// The teacher to a student.
    TeacherOverStudent,
    /// A student to the teacher.
    StudentOverTeacher,
    /// A student to a student.
    StudentOverStudent,
}

impl PairKind {
    /// All kinds, in the order of the paper's table.
    pub const ALL: [Self; 3] =
        [Self::TeacherOverStudent, Self::StudentOverTeacher, Self::StudentOverStudent];

    /// Its name in counters and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::TeacherOverStudent => "teacher-over-student",
            Self::StudentOverTeacher => "student-over-teacher",
            Self::StudentOverStudent => "student-over-student",
        }
    }
}

/// A pair and its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Who is preferred to whom.
    pub kind: PairKind,
    /// The pair.
    pub pair: Pair,
}

/// Why a prompt gave no pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// The annotator gave no verdict.
    Unannotated,
    /// There is no teacher's answer, and the mode needs one.
    NoTeacher,
    /// No candidate is good enough for a positive.
    NoPositive,
    /// No negative is far enough below a positive, or all say the same.
    NoNegative,
}

impl Dropped {
    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unannotated => "unannotated",
            Self::NoTeacher => "no-teacher",
            Self::NoPositive => "no-positive",
            Self::NoNegative => "no-negative",
        }
    }
}

/// What became of a prompt: its pairs, or why there are none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Record version.
    pub schema: u32,
    /// Id of the prompt.
    pub id: String,
    /// Its pairs.
    pub pairs: Vec<Made>,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// An iterate's answer to a held-out prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Record version.
    pub schema: u32,
    /// Id of the prompt.
    pub id: String,
    /// The answer.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// An iterate's answer to a held-out prompt against its opponent's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Duel {
    /// Record version.
    pub schema: u32,
    /// Id of the prompt.
    pub id: String,
    /// How likely the iterate's answer wins; 1/2 where both say the same, `None` without a verdict.
    pub win: Option<f64>,
    /// Points of the iterate's answer and of the opponent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<[f64; 2]>,
    /// Every attempt of a rubric, unreadable ones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<Reading>,
}

macro_rules! records {
    ($($record:ty),*) => {$(
        impl Record for $record {
            fn id(&self) -> &str {
                &self.id
            }

            fn unit(&self) -> &str {
                &self.id
            }
        }
    )*};
}

records!(Allotted, Annotation, Decision, HeldOut, Duel);

impl Record for Candidate {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.prompt
    }
}
