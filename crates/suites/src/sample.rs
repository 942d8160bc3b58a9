//! What a model said to an item, as it is stored: enough to score it again by any rule without asking anybody.

use savi_schema::SCHEMA_VERSION;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Item;
use crate::suite::OptionScore;

/// An item with what was said to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Record version.
    pub schema: u32,
    /// The item.
    pub id: String,
    /// Its cluster.
    pub cluster: String,
    /// What was replied, untouched: one reply a turn, or several that vote; none where words were scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replies: Vec<String>,
    /// The scores of the words that were scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<OptionScore>,
    /// Tokens of the replies.
    pub tokens: usize,
    /// Whether a reply was cut off.
    pub cut_off: bool,
    /// Names what was asked and what is right, whatever the wording ([`Item::hash`]).
    pub doc_hash: String,
    /// SHA-256 of the words that the model saw, as lm-evaluation-harness has it for plain prompts.
    pub prompt_hash: String,
    /// SHA-256 of the answer.
    pub target_hash: String,
}

impl Sample {
    /// Nothing said yet to `item`, which is put by `prompt`.
    pub fn new(item: &Item, prompt: &str) -> Self {
        Self {
            schema: SCHEMA_VERSION,
            id: item.id.clone(),
            cluster: item.cluster.clone(),
            replies: Vec::new(),
            scores: Vec::new(),
            tokens: 0,
            cut_off: false,
            doc_hash: item.hash(),
            prompt_hash: sha256(prompt),
            target_hash: sha256(&item.target()),
        }
    }
}

impl savi_run::Record for Sample {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.cluster
    }
}

/// SHA-256 of a text in hexadecimal digits.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
