//! From a request to the body of a call.

use std::sync::Arc;

use savi_schema::{GenerateError, Message, Part, RawPrompt, Role};
use serde_json::{Map, Value, json};

use crate::Dialect;
use crate::cache::{self, Key};
use crate::media::{Encoded, Encoder};
use crate::sampling::Interface;

/// What a model is asked to continue.
#[derive(Debug, Clone)]
pub(crate) enum Prompt {
    /// A conversation.
    Turns(Vec<Turn>),
    /// Words or tokens as they are.
    Raw(RawPrompt),
}

/// A turn of a conversation whose media are ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    role: Role,
    content: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Media(Arc<Vec<Encoded>>),
}

impl Prompt {
    /// Reads and encodes what a prompt shows.
    pub(crate) fn new(
        id: &str,
        messages: &[Message],
        raw: Option<&RawPrompt>,
        encoder: &Encoder,
    ) -> Result<Self, GenerateError> {
        if let Some(raw) = raw {
            return Ok(Self::Raw(raw.clone()));
        }
        let fail = |media: &str, reason: String| GenerateError::Media {
            id: id.to_owned(),
            media: media.to_owned(),
            // Errors of reading begin with the file.
            reason: reason.strip_prefix(&format!("{media}: ")).unwrap_or(&reason).to_owned(),
        };
        let piece = |part: &Part| match part {
            Part::Text { text } => Ok(Piece::Text(text.clone())),
            Part::Image(media) => {
                encoder.picture(media).map(Piece::Media).map_err(|e| fail(&media.source, e))
            }
            Part::Video(media) => {
                encoder.clip(media).map(Piece::Media).map_err(|e| fail(&media.source, e))
            }
        };
        let turn = |message: &Message| {
            let content = message.content.iter().map(piece).collect::<Result<_, _>>()?;
            Ok(Turn { role: message.role, content })
        };
        Ok(Self::Turns(messages.iter().map(turn).collect::<Result<_, _>>()?))
    }

    /// Whether the assistant has the word and is to go on.
    pub(crate) fn goes_on(&self) -> bool {
        let Self::Turns(turns) = self else { return false };
        turns.last().is_some_and(|turn| turn.role == Role::Assistant)
    }

    /// Whether it shows anything.
    pub(crate) fn shows(&self) -> bool {
        self.media().next().is_some()
    }

    fn media(&self) -> impl Iterator<Item = &Encoded> {
        let turns = match self {
            Self::Turns(turns) => turns.as_slice(),
            Self::Raw(_) => &[],
        };
        turns.iter().flat_map(|turn| &turn.content).flat_map(|piece| match piece {
            Piece::Media(parts) => parts.as_slice(),
            Piece::Text(_) => &[],
        })
    }

    /// The conversation with more words of the assistant.
    #[must_use]
    pub(crate) fn and(&self, words: &str) -> Self {
        let mut prompt = self.clone();
        if let Self::Turns(turns) = &mut prompt {
            let words = Piece::Text(words.to_owned());
            match turns.last_mut().filter(|turn| turn.role == Role::Assistant) {
                Some(turn) => turn.content.push(words),
                None => turns.push(Turn { role: Role::Assistant, content: vec![words] }),
            }
        }
        prompt
    }

    /// Which interface takes it.
    pub(crate) fn interface(&self) -> Interface {
        match self {
            Self::Turns(_) => Interface::Chat,
            Self::Raw(_) => Interface::Completions,
        }
    }

    /// What the server is to be told of it beside the prompt itself.
    pub(crate) fn fields(&self, dialect: Dialect) -> Map<String, Value> {
        let mut fields = Map::new();
        if self.goes_on() {
            fields.insert("continue_final_message".to_owned(), true.into());
            // SGLang knows the one word alone.
            if dialect != Dialect::Sglang {
                fields.insert("add_generation_prompt".to_owned(), false.into());
            }
        }
        // vLLM would cut a video of single frames at its own number, and take it for one frame a second.
        let rates: Vec<f64> = self.media().filter_map(Encoded::rate).collect();
        if let Some(&rate) = rates.first() {
            let mut video = json!({"num_frames": -1});
            if rate > 0.0 && rates.iter().all(|&other| other == rate) {
                video["fps"] = rate.into();
            }
            fields.insert("media_io_kwargs".to_owned(), json!({"video": video}));
        }
        fields
    }

    /// Key and value of the body.
    fn entry(&self, named: bool) -> (&'static str, Value) {
        match self {
            Self::Turns(turns) => {
                let turns: Vec<Value> = turns.iter().map(|turn| turn.message(named)).collect();
                ("messages", turns.into())
            }
            Self::Raw(RawPrompt::Text(text)) => ("prompt", text.as_str().into()),
            Self::Raw(RawPrompt::Tokens(tokens)) => ("prompt", json!(tokens)),
        }
    }
}

impl Turn {
    /// A turn of words alone is a string: templates that know no parts take it too.
    fn message(&self, named: bool) -> Value {
        let role = match self.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let mut words = String::new();
        let mut parts: Vec<Value> = Vec::new();
        let text = |words: &mut String| json!({"type": "text", "text": std::mem::take(words)});
        for piece in &self.content {
            match piece {
                Piece::Text(text) => words.push_str(text),
                Piece::Media(media) => {
                    if !words.is_empty() {
                        parts.push(text(&mut words));
                    }
                    let part = if named { Encoded::named_part } else { Encoded::part };
                    parts.extend(media.iter().map(part));
                }
            }
        }
        if parts.is_empty() {
            return json!({"role": role, "content": words});
        }
        if !words.is_empty() {
            parts.push(text(&mut words));
        }
        json!({"role": role, "content": parts})
    }
}

/// A call that is ready to be made.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// What stands behind the root of the server.
    pub(crate) path: &'static str,
    /// The model's name, where the path takes one.
    pub(crate) model: Option<String>,
    pub(crate) prompt: Option<Prompt>,
    /// All the rest of the body.
    pub(crate) fields: Map<String, Value>,
}

impl Call {
    /// What is sent.
    pub(crate) fn body(&self) -> Vec<u8> {
        self.value(false).to_string().into_bytes()
    }

    /// What its answer is kept under: no bytes of media, no address and no key. `serves` is what the server
    /// says that it serves under the model's name.
    pub(crate) fn key(&self, serves: Option<&str>) -> Key {
        cache::key(&json!({"path": self.path, "serves": serves, "body": self.value(true)}))
    }

    fn value(&self, named: bool) -> Value {
        let mut body = Map::new();
        if let Some(model) = &self.model {
            body.insert("model".to_owned(), model.as_str().into());
        }
        if let Some(prompt) = &self.prompt {
            let (key, value) = prompt.entry(named);
            body.insert(key.to_owned(), value);
        }
        body.extend(self.fields.clone());
        body.into()
    }
}
