//! What a command asks a model: a prompt or a conversation, and pictures and clips before its words.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use savi_engine::{Engine, Prompt, Shown};
use savi_models::VisualKind;
use savi_schema::{CountRule, FrameSampling, Media, MediaPolicy, Message, Part, Role};
use serde_json::Value;

use crate::exit::BadInput;

/// A prompt on the command line.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Asked {
    /// What the user says.
    #[arg(long, value_name = "TEXT", group = "before")]
    pub(crate) prompt: Option<String>,
    /// A conversation as JSON: a list of {"role": ..., "content": text or parts}.
    #[arg(long, value_name = "FILE", group = "before")]
    pub(crate) messages: Option<PathBuf>,
    /// The prompt as tokens, template and all.
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', group = "before")]
    pub(crate) prompt_tokens: Option<Vec<u32>>,
    /// Take the prompt as it is, without the chat template.
    #[arg(long, requires = "prompt")]
    pub(crate) raw: bool,
    /// A picture that the user's turn shows before its words; may be given several times. With --raw,
    /// the model's marks for pictures in the prompt are their places.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["messages", "prompt_tokens"])]
    pub(crate) image: Vec<String>,
    /// A clip, likewise.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["messages", "prompt_tokens"])]
    pub(crate) video: Vec<String>,
    #[command(flatten)]
    pub(crate) look: Look,
}

/// How clips are looked at.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Look {
    /// Frames of every clip: the first of so many equal parts. Without it and --fps, as the model's own
    /// files say.
    #[arg(long, value_name = "N", conflicts_with = "fps")]
    frames: Option<usize>,
    /// Frames of every clip: so many a second.
    #[arg(long)]
    fps: Option<f64>,
}

impl Look {
    /// A picture or a clip that is looked at so.
    pub(crate) fn media(&self, source: &str) -> Media {
        let policy = match (self.frames, self.fps) {
            (Some(frames), _) => Some(MediaPolicy::count(frames, CountRule::SegmentStart)),
            (None, Some(fps)) => Some(MediaPolicy::new(FrameSampling::Fps {
                fps,
                min_frames: 1,
                max_frames: 768,
                multiple_of: 1,
                rule: CountRule::SegmentStart,
            })),
            (None, None) => None,
        };
        Media { source: source.to_owned(), policy }
    }

    /// A conversation as the field writes them; `whose` says where it stands.
    pub(crate) fn messages(&self, list: &[Value], whose: &str) -> anyhow::Result<Vec<Message>> {
        let parsed = list
            .iter()
            .enumerate()
            .map(|(i, value)| self.message(value).with_context(|| format!("{whose}: message {i}")));
        parsed.collect()
    }

    /// Content is a text, or parts that hold a text, a picture or a clip.
    fn message(&self, value: &Value) -> anyhow::Result<Message> {
        let role = value.get("role").cloned().unwrap_or_default();
        let role = serde_json::from_value(role).context("role")?;
        let content = match value.get("content") {
            Some(Value::String(text)) => vec![Part::Text { text: text.clone() }],
            Some(Value::Array(parts)) => {
                parts.iter().map(|value| self.part(value)).collect::<anyhow::Result<_>>()?
            }
            _ => return Err(anyhow!("content is neither a text nor a list of parts")),
        };
        Ok(Message { role, content })
    }

    fn part(&self, value: &Value) -> anyhow::Result<Part> {
        let word = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let media = |kind: &str| {
            let source = ["source", kind, "path", "url"].iter().find_map(|key| word(key));
            source
                .map(|source| self.media(&source))
                .context(format!("a part of type {kind} without its source"))
        };
        match word("type").as_deref() {
            Some("text") => {
                Ok(Part::Text { text: word("text").context("a part without its text")? })
            }
            Some("video") => media("video").map(Part::Video),
            Some("image") => media("image").map(Part::Image),
            other => Err(anyhow!("a part of the unknown type {other:?}")),
        }
    }
}

impl Asked {
    /// The conversation, unless the prompt is raw.
    pub(crate) fn conversation(&self) -> anyhow::Result<Vec<Message>> {
        if let Some(path) = &self.messages {
            return read_conversation(path, &self.look);
        }
        let images = self.image.iter().map(|source| Part::Image(self.look.media(source)));
        let clips = self.video.iter().map(|source| Part::Video(self.look.media(source)));
        let text = self.prompt.clone().unwrap_or_default();
        let content = images.chain(clips).chain([Part::Text { text }]).collect();
        Ok(vec![Message { role: Role::User, content }])
    }

    /// What is asked, as tokens.
    pub(crate) fn prompt(&self, engine: &Engine) -> anyhow::Result<Prompt> {
        let prompt = match (&self.prompt_tokens, &self.prompt) {
            (Some(ids), _) => Ok(Prompt { ids: ids.clone(), ..Prompt::default() }),
            (None, Some(text)) if self.raw => {
                let of = |kind, sources: &[String]| -> Vec<Shown> {
                    let media = sources.iter().map(|source| self.look.media(source));
                    media.map(|media| Shown { kind, media, pictures: 0 }).collect()
                };
                let images = of(VisualKind::Image, &self.image);
                engine.raw_prompt(text, [images, of(VisualKind::Video, &self.video)].concat())
            }
            (None, _) => engine.prompt(&self.conversation()?),
        };
        prompt.map_err(|error| BadInput(error.into()).into())
    }
}

fn read_conversation(path: &Path, look: &Look) -> anyhow::Result<Vec<Message>> {
    let whose = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| whose.clone()).map_err(BadInput)?;
    let list: Vec<Value> =
        serde_json::from_str(&text).with_context(|| whose.clone()).map_err(BadInput)?;
    Ok(look.messages(&list, &whose).map_err(BadInput)?)
}
