//! What methods write and training reads. All records are one JSON object per line.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Message;

/// A judge's opinion of one completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The figure that decides, larger is better.
    pub score: f64,
    /// The parts it is made of, by criterion.
    #[serde(default)]
    pub criteria: Map<String, Value>,
    /// What the judge wrote, untouched.
    pub raw: String,
}

/// Two continuations of one prompt, one preferred.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Record version.
    pub schema: u32,
    /// Unique within its file.
    pub id: String,
    /// What both continue.
    pub prompt: Vec<Message>,
    /// The preferred continuation.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
    /// Score of the chosen one, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_score: Option<f64>,
    /// Score of the rejected one, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_score: Option<f64>,
    /// Added to the DPO logit of this pair (CLIP-adjusted DPO); 0 is plain DPO.
    #[serde(default)]
    pub margin: f64,
    /// Where it came from: ids, prompt names, model hash, sampling.
    #[serde(default)]
    pub provenance: Map<String, Value>,
}

/// One prompt with one or more target continuations (supervised fine-tuning). All targets of an
/// example are packed as branches after the shared prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Record version.
    pub schema: u32,
    /// Unique within its file.
    pub id: String,
    /// Conversations that share their start; each ends with the assistant turn to learn.
    pub conversations: Vec<Vec<Message>>,
}

/// A sampled continuation with its reward (online methods).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Record version.
    pub schema: u32,
    /// Unique within its file.
    pub id: String,
    /// What was continued.
    pub prompt: Vec<Message>,
    /// The continuation.
    pub completion: crate::Completion,
    /// Its reward.
    pub reward: f64,
}

/// What a demonstration shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taught {
    /// A text as it is, without a chat template; all of it is learnt.
    Text(String),
    /// A text and how it goes on, without a chat template.
    Continuation {
        /// The text.
        prompt: String,
        /// How it goes on.
        completion: String,
        /// The text goes on after the completion: no end of it is learnt. Whoever teaches so has put a mark of
        /// their own at the completion's end, or none.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        open: bool,
    },
    /// A conversation.
    Turns {
        /// Its turns.
        turns: Vec<Message>,
        /// Where the completion begins, where the record says so.
        completion: Option<usize>,
    },
    /// Conversations that share their start; each ends with the turn to learn.
    Branches(Vec<Vec<Message>>),
}

/// One record of supervised fine-tuning, whatever layout it came in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demonstration {
    /// Unique within its data set.
    pub id: String,
    /// What is shown.
    pub taught: Taught,
    /// How much its tokens count; 1 is usual.
    pub weight: f64,
}

impl From<Example> for Demonstration {
    fn from(example: Example) -> Self {
        Self { id: example.id, taught: Taught::Branches(example.conversations), weight: 1.0 }
    }
}

/// A prompt that a policy is to answer (online methods), with what its row says beside it: the rewards' business.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptRecord {
    /// Unique within its data set.
    pub id: String,
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The row's other columns, untouched.
    #[serde(default)]
    pub columns: Map<String, Value>,
}
