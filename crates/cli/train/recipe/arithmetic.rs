//! The world arithmetic as exercises: what a text model from scratch learns from. A problem is one
//! tree: its text once, and after it solutions of several lengths.

use anyhow::ensure;
use savi_schema::{Example, Message, Role, SCHEMA_VERSION};
use savi_train::Sample;
use savi_worlds::arithmetic::{LEVELS, Lesson, LessonKind, LessonPlan, Split, Style, lesson};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a step is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exercises {
    /// Records are drawn for a step until they have so many tokens.
    pub(super) tokens_per_step: usize,
    /// Share of the records that are dialogues.
    dialogue_share: f64,
    /// Solutions of each problem: the first as nobody asks for, further ones as they are asked for.
    solutions: usize,
    /// Share of the problems with one sum that are answered by the number alone, as asked.
    number_share: f64,
    /// The highest level at first.
    first_level: usize,
    /// Steps after which all levels occur.
    easy_steps: u64,
}

impl Exercises {
    /// Refuses what cannot be carried out, naming the key.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        for (key, share) in
            [("dialogue_share", self.dialogue_share), ("number_share", self.number_share)]
        {
            ensure!((0.0..=1.0).contains(&share), "{key} {share} is not between 0 and 1");
        }
        for (key, value, most) in [
            ("tokens_per_step", self.tokens_per_step, usize::MAX),
            ("solutions", self.solutions, Style::ALL.len() + 1),
            ("first_level", self.first_level, LEVELS),
        ] {
            ensure!((1..=most).contains(&value), "{key} {value} is not between 1 and {most}");
        }
        Ok(())
    }

    /// The record with this number, as a step has it.
    pub(super) fn sample(&self, seed: u64, index: u64, step: u64) -> Sample {
        let plan = LessonPlan {
            dialogue_share: self.dialogue_share,
            solutions: self.solutions,
            number_share: self.number_share,
            levels: if step < self.easy_steps { self.first_level } else { LEVELS },
        };
        let Lesson { id, conversations } = lesson(Split::Train, seed, index, &plan);
        sample(id, conversations)
    }
}

fn kind(kind: LessonKind) -> &'static str {
    match kind {
        LessonKind::Solution(Style::Terse) => "loss/terse",
        LessonKind::Solution(Style::Normal) => "loss/normal",
        LessonKind::Solution(Style::Checked) => "loss/checked",
        LessonKind::Solution(Style::Repeated) => "loss/repeated",
        LessonKind::Number => "loss/number",
        LessonKind::Dialogue(_) => "loss/dialogue",
    }
}

/// Conversations as a record. Every one of the assistant's turns is learnt: a conversation of
/// several is one for each.
fn sample(id: String, conversations: Vec<(LessonKind, Vec<String>)>) -> Sample {
    let mut example = Example { schema: SCHEMA_VERSION, id, conversations: Vec::new() };
    let mut kinds = Vec::new();
    for (of, turns) in conversations {
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        let messages: Vec<Message> =
            roles.zip(turns).map(|(role, words)| Message::text(role, words)).collect();
        for end in (2..=messages.len()).step_by(2) {
            example.conversations.push(messages[..end].to_vec());
            kinds.push(kind(of));
        }
    }
    Sample { example, clips: Vec::new(), kinds }
}

/// Shape of a Llama.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decoder {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    max_position_embeddings: usize,
    rope_theta: f64,
}

impl Decoder {
    /// The model's `config.json`.
    pub(super) fn config(&self, vocab: usize) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "vocab_size": vocab,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": 1e-6,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": true,
        })
    }
}
