//! A conversation in the shape of chat templates and of OpenAI-compatible servers.

use serde::{Deserialize, Serialize};

use crate::MediaPolicy;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that stand above the conversation.
    System,
    /// The person, or the method that plays the person.
    User,
    /// The model.
    Assistant,
}

/// A picture or a clip by reference; frames are decoded only where they are needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Media {
    /// Path of a file or frame folder, optionally with a `#t=start,end` fragment in seconds.
    pub source: String,
    /// How it becomes frames; `None` leaves the choice to the model's own policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<MediaPolicy>,
}

/// One piece of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A still picture.
    Image(Media),
    /// A clip.
    Video(Media),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said and shown, in order.
    pub content: Vec<Part>,
}

impl Message {
    /// A turn of words only.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: vec![Part::Text { text: text.into() }] }
    }

    /// A user turn that shows a clip first and then says `text`. Media come first, so that all
    /// prompts about one clip share their start.
    pub fn about_video(media: Media, text: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: vec![Part::Video(media), Part::Text { text: text.into() }],
        }
    }

    /// The words of all text parts, joined.
    pub fn words(&self) -> String {
        self.content
            .iter()
            .filter_map(|part| match part {
                Part::Text { text } => Some(text.as_str()),
                Part::Image(_) | Part::Video(_) => None,
            })
            .collect()
    }
}
