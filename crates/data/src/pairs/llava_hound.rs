//! LLaVA-Hound's preference rows: one question about one clip and two scored answers.

use savi_schema::{Media, Message, Pair, Part, Role, SCHEMA_VERSION};
use serde::{Deserialize, Serialize};

use crate::layouts::turns::{self, VIDEO};
use crate::{DataError, Row};

/// One row. The prompt has `<video>` where the clip stands; older files leave it out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LlavaHoundRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<serde_json::Value>,
    video: String,
    prompt: String,
    chosen: String,
    rejected: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chosen_score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejected_score: Option<f64>,
}

pub(super) fn read(row: &Row) -> Result<Pair, DataError> {
    let read: LlavaHoundRow = row.parse()?;
    let words = read.prompt.replacen(VIDEO, "", 1);
    if words.contains(VIDEO) {
        return Err(row.bad("the prompt has two <video> marks, this layout has one clip"));
    }
    let media = Media { source: read.video, policy: None };
    Ok(Pair {
        schema: SCHEMA_VERSION,
        id: id_text(read.id.as_ref(), row),
        prompt: vec![Message::about_video(media, words.trim())],
        chosen: read.chosen,
        rejected: read.rejected,
        chosen_score: read.chosen_score,
        rejected_score: read.rejected_score,
        margin: 0.0,
        provenance: Default::default(),
    })
}

/// Ids are strings in some files and numbers in others.
pub(super) fn id_text(id: Option<&serde_json::Value>, row: &Row) -> String {
    match id {
        Some(serde_json::Value::String(id)) => id.clone(),
        Some(id) if !id.is_null() => id.to_string(),
        _ => format!("row-{}", row.number),
    }
}

pub(super) fn write(pair: &Pair) -> Result<LlavaHoundRow, DataError> {
    let refuse = |reason: &str| {
        Err(DataError::Layout { id: pair.id.clone(), reason: format!("llava-hound: {reason}") })
    };
    let turns: Vec<&Message> = pair.prompt.iter().filter(|m| m.role != Role::System).collect();
    let [Message { role: Role::User, content }] = turns[..] else {
        return refuse("the prompt must be one user turn");
    };
    let (videos, images) = turns::sources(&pair.prompt);
    let ([video], []) = (&videos[..], &images[..]) else {
        return refuse("the prompt must show exactly one clip and no picture");
    };
    let words = content.iter().filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        _ => None,
    });
    Ok(LlavaHoundRow {
        id: Some(pair.id.clone().into()),
        video: (*video).to_owned(),
        prompt: format!("{VIDEO}\n{}", words.collect::<String>()),
        chosen: pair.chosen.clone(),
        rejected: pair.rejected.clone(),
        chosen_score: pair.chosen_score,
        rejected_score: pair.rejected_score,
    })
}
