//! What the stages write: one record for each request, with the raw text beside what was read from it.

use std::collections::BTreeMap;

use savi_run::Record;
use serde::{Deserialize, Serialize};

/// Why something was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// It is not in the form that was asked for.
    Malformed,
    /// Nothing is there.
    Empty,
    /// Fewer words or characters than asked for.
    Short,
    /// More words than allowed.
    Long,
    /// It has a word of the blacklist.
    Blacklisted,
    /// It begins with punctuation (a task) or ends with it (a topic).
    Punctuation,
    /// Its first character is not ASCII.
    NonAscii,
    /// It does not begin with a letter from A to Z.
    NoCapital,
    /// Too like a seed or one that was kept before.
    Similar,
    /// It was there before.
    Duplicate,
    /// A line that none of the hints begins.
    NoHint,
    /// The thoughts do not begin with the sentence by which they are known.
    NoSelfIdentification,
    /// No answer follows the thoughts.
    NoAnswer,
    /// It has a heading, or what stands between two examples.
    Heading,
    /// It has content of an example.
    Leak,
    /// It begins with an apology.
    Apology,
    /// It has words of the prompt that asks for length.
    PromptEcho,
}

impl Dropped {
    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Empty => "empty",
            Self::Short => "short",
            Self::Long => "long",
            Self::Blacklisted => "blacklisted",
            Self::Punctuation => "punctuation",
            Self::NonAscii => "non-ascii",
            Self::NoCapital => "no-capital",
            Self::Similar => "similar",
            Self::Duplicate => "duplicate",
            Self::NoHint => "no-hint",
            Self::NoSelfIdentification => "no-self-identification",
            Self::NoAnswer => "no-answer",
            Self::Heading => "heading",
            Self::Leak => "leak",
            Self::Apology => "apology",
            Self::PromptEcho => "prompt-echo",
        }
    }
}

/// Something read from a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What it says.
    pub text: String,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// A task that the model wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What is to be done; the raw piece of text where it could not be read.
    pub instruction: String,
    /// What it is done to; may be empty.
    pub input: String,
    /// Largest and mean ROUGE-L F1 with seeds and kept tasks, where it came so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<[f64; 2]>,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// A request for tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskedTasks {
    /// Record version.
    pub schema: u32,
    /// Group and number of the request.
    pub id: String,
    /// The seeds shown, by place.
    pub shown: Vec<usize>,
    /// What the model wrote.
    pub raw: String,
    /// It reached the token limit.
    pub cut: bool,
    /// What was read.
    pub tasks: Vec<Task>,
}

/// A request for topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedTopics {
    /// Record version.
    pub schema: u32,
    /// Round, type and number.
    pub id: String,
    /// Of which type.
    pub question_type: String,
    /// The topics shown.
    pub shown: Vec<String>,
    /// What the model wrote.
    pub raw: String,
    /// It reached the token limit.
    pub cut: bool,
    /// What was read.
    pub topics: Vec<Line>,
}

/// A question about a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicQuestion {
    /// Of which type; empty where no hint was found.
    pub question_type: String,
    /// About what; empty where no hint was found.
    pub topic: String,
    /// The question.
    pub question: String,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// A request for questions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedQuestions {
    /// Record version.
    pub schema: u32,
    /// Group and number of the request.
    pub id: String,
    /// What the model wrote.
    pub raw: String,
    /// It reached the token limit.
    pub cut: bool,
    /// What was read.
    pub questions: Vec<TopicQuestion>,
}

/// Where a query came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The model wrote it from seed tasks.
    SelfInstruct,
    /// The model wrote it about a topic.
    RedTeam,
    /// It was given.
    Given,
    /// It is about the assistant.
    Identity,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SelfInstruct => "self-instruct",
            Self::RedTeam => "red-team",
            Self::Given => "given",
            Self::Identity => "identity",
        }
    }
}

/// What the model is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Record version.
    pub schema: u32,
    /// Its number.
    pub id: String,
    /// Where it came from.
    pub source: Source,
    /// What is to be done.
    pub instruction: String,
    /// What it is done to; may be empty.
    pub input: String,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// What the model noted for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thoughts {
    /// Its words.
    pub text: String,
    /// The principles it cites, in order, each once.
    pub rules: Vec<usize>,
}

/// A query with what the model answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Record version.
    pub schema: u32,
    /// That of the query.
    pub id: String,
    /// That of the query.
    pub source: Source,
    /// That of the query.
    pub instruction: String,
    /// That of the query.
    pub input: String,
    /// What the model wrote.
    pub raw: String,
    /// Its thoughts, where it was asked for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thoughts: Option<Thoughts>,
    /// The answer as it is taught, without its terminator; as far as it was read where it is not used.
    pub answer: String,
    /// Its end is missing.
    pub truncated: bool,
    /// It ran in circles and was cut where these began.
    pub looped: bool,
    /// An example's own answer was put in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canned: bool,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// What is taught: the layout of the paper's training files, and a mark of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its number, which picks the student's prompt.
    pub example_id: usize,
    /// What is to be done.
    pub instruction: String,
    /// What it is done to; may be empty.
    pub input: String,
    /// The answer with its terminator, or without one where it is truncated.
    pub output: String,
    /// Its end is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Units of stages are requests.
macro_rules! its_own_unit {
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

its_own_unit!(AskedTasks, AskedTopics, AskedQuestions, Answered);

/// All queries are made at once.
impl Record for Query {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        crate::queries::UNIT
    }
}

/// What was counted in a stage.
pub type Counters = BTreeMap<String, u64>;

/// Yield and rejections: `made`, `used`, and one counter for each reason.
pub(crate) fn count(dropped: impl IntoIterator<Item = Option<Dropped>>) -> Counters {
    let mut counters: Counters = [("made".to_owned(), 0), ("used".to_owned(), 0)].into();
    for dropped in dropped {
        let name = match dropped {
            None => "used".to_owned(),
            Some(reason) => format!("dropped/{}", reason.name()),
        };
        for name in ["made".to_owned(), name] {
            *counters.entry(name).or_default() += 1;
        }
    }
    counters
}

/// `made 3, used 1, short 2`: counters in words.
pub(crate) fn told(counters: &Counters) -> String {
    let words: Vec<String> = counters
        .iter()
        .map(|(name, count)| format!("{} {count}", name.strip_prefix("dropped/").unwrap_or(name)))
        .collect();
    words.join(", ")
}
