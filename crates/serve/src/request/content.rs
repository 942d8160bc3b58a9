//! What is said and shown in a turn: a text, or parts as OpenAI, vLLM and Qwen's tools write them.

use savi_schema::{CountRule, FrameSampling, MediaPolicy};
use serde_json::{Value, json};

use super::{DraftPart, Reference};
use crate::fields::{Fields, kind};
use crate::options::ServeOptions;
use crate::refusal::Refusal;

/// Pictures and clips of a request so far.
pub(super) struct Counts<'a> {
    policy: Option<MediaPolicy>,
    options: &'a ServeOptions,
    images: usize,
    videos: usize,
}

impl<'a> Counts<'a> {
    /// `policy` holds for every clip that has none of its own.
    pub(super) fn new(policy: Option<MediaPolicy>, options: &'a ServeOptions) -> Self {
        Self { policy, options, images: 0, videos: 0 }
    }
}

/// `mm_processor_kwargs`: how clips become frames.
pub(super) fn kwargs(
    fields: &mut Fields,
    options: &ServeOptions,
) -> Result<Option<MediaPolicy>, Refusal> {
    let Some(mut kwargs) = fields.object("mm_processor_kwargs")? else { return Ok(None) };
    let policy = policy(&mut kwargs, "num_frames", options)?;
    kwargs.finish()?;
    Ok(policy)
}

/// A number of frames or a rate; not both.
fn policy(
    fields: &mut Fields,
    frames: &'static str,
    options: &ServeOptions,
) -> Result<Option<MediaPolicy>, Refusal> {
    let most = options.max_frames;
    let count = fields.count(frames, 1, most as u64)?;
    let fps = fields.number("fps", "a number above 0", |fps| fps > 0.0)?;
    match (count, fps) {
        (None, None) => Ok(None),
        (Some(frames), None) => Ok(Some(MediaPolicy::count(frames, CountRule::SegmentStart))),
        (None, Some(fps)) => Ok(Some(MediaPolicy::new(FrameSampling::Fps {
            fps,
            min_frames: 1,
            max_frames: most,
            multiple_of: 1,
            rule: CountRule::SegmentStart,
        }))),
        (Some(_), Some(_)) => {
            let reason = format!("{frames} says already which frames are taken; say one");
            Err(Refusal::value(fields.name("fps"), reason))
        }
    }
}

/// The parts of a turn.
pub(super) fn content(
    value: Value,
    path: &str,
    counts: &mut Counts<'_>,
) -> Result<Vec<DraftPart>, Refusal> {
    match value {
        Value::String(text) => Ok(vec![DraftPart::Text(text)]),
        Value::Array(list) if list.is_empty() => Err(Refusal::value(path, "is an empty list")),
        Value::Array(list) => {
            let part = |(at, value)| part(value, &format!("{path}[{at}]"), counts);
            list.into_iter().enumerate().map(part).collect()
        }
        other => {
            let reason = format!("is {}, neither a string nor a list of parts", kind(&other));
            Err(Refusal::value(path, reason))
        }
    }
}

fn part(value: Value, path: &str, counts: &mut Counts<'_>) -> Result<DraftPart, Refusal> {
    let mut fields = Fields::new(value, path)?;
    let name = fields.name("type");
    let part = match fields.text("type")?.as_deref() {
        Some("text" | "input_text") => match fields.text("text")? {
            Some(text) => DraftPart::Text(text),
            None => return Err(Refusal::missing(fields.name("text"), "is not there")),
        },
        Some("image_url" | "input_image") => image(&mut fields, "image_url", counts)?,
        Some("image") => image(&mut fields, "image", counts)?,
        Some("video_url") => video(&mut fields, "video_url", counts)?,
        Some("input_video") => video(&mut fields, "input_video", counts)?,
        Some("video") => video(&mut fields, "video", counts)?,
        Some("input_audio" | "audio_url" | "audio") => {
            return Err(Refusal::unsupported(name, "nothing is heard here"));
        }
        Some(other) => {
            let other: String = other.chars().take(100).collect();
            let reason = format!("{other:?} is none of text, image_url and video_url");
            return Err(Refusal::value(name, reason));
        }
        None => return Err(Refusal::missing(name, "is not there")),
    };
    fields.finish()?;
    Ok(part)
}

fn image(
    fields: &mut Fields,
    field: &'static str,
    counts: &mut Counts<'_>,
) -> Result<DraftPart, Refusal> {
    let most = counts.options.max_images;
    let (url, place) = url(fields, field)?;
    counts.images += 1;
    if counts.images > most {
        return Err(Refusal::value(place, format!("a request may show {most} pictures at most")));
    }
    Ok(DraftPart::Image(Reference { url, policy: None, field: place }))
}

fn video(
    fields: &mut Fields,
    field: &'static str,
    counts: &mut Counts<'_>,
) -> Result<DraftPart, Refusal> {
    let most = counts.options.max_videos;
    let (url, place) = url(fields, field)?;
    let own = policy(fields, "nframes", counts.options)?;
    counts.videos += 1;
    if counts.videos > most {
        return Err(Refusal::value(place, format!("a request may show {most} clips at most")));
    }
    let policy = own.or_else(|| counts.policy.clone());
    Ok(DraftPart::Video(Reference { url, policy, field: place }))
}

/// An address, alone or as the `url` of an object, and where it stands.
fn url(fields: &mut Fields, field: &'static str) -> Result<(String, String), Refusal> {
    // `detail` is a wish about cost: pictures are seen in the size that the model's own files say.
    let details = [json!("auto"), json!("low"), json!("high")];
    let place = fields.name(field);
    match fields.take(field) {
        Some(Value::String(url)) => {
            fields.only("detail", &details, "is none of auto, low and high")?;
            Ok((url, place))
        }
        Some(value) => {
            let mut inner = Fields::new(value, &place)?;
            inner.only("detail", &details, "is none of auto, low and high")?;
            let place = inner.name("url");
            let Some(url) = inner.text("url")? else {
                return Err(Refusal::missing(place, "is not there"));
            };
            inner.finish()?;
            Ok((url, place))
        }
        None => Err(Refusal::missing(place, "is not there")),
    }
}
