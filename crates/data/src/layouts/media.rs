//! Clips and pictures of a row: files in columns that wait for their places, and parts that bring their own.
//!
//! A part with a clip may say how it is looked at, with the names of qwen-vl-utils: `fps` with `min_frames` and
//! `max_frames` (its own bounds, 4 and 768, where they are not given), or `nframes`; `video_start` and `video_end` in
//! seconds; `resized_width` with `resized_height`. As there, the number of frames is a multiple of 2 and frames are
//! points from the first to the last.

use std::collections::VecDeque;

use savi_schema::{CountRule, FrameSampling, Media, MediaPolicy, Message, Part, Role};
use serde_json::Value;

use super::{Keys, kind};
use crate::{DataError, Row};

/// Media of a row that wait for the part or the mark they belong to.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) videos: VecDeque<String>,
    pub(crate) images: VecDeque<String>,
    placed: usize,
}

impl Waiting {
    /// The files in the columns `videos`, `video`, `images` and `image`.
    pub(crate) fn of(keys: &Keys<'_>) -> Result<Self, DataError> {
        let files = |many: &str, one: &str| match (keys.get(many), keys.get(one)) {
            (Some(_), Some(_)) => {
                Err(keys.row.bad(format!("has both {many} and {one}: which are its files?")))
            }
            (Some(value), None) => sources(keys.row, many, value),
            (None, Some(value)) => sources(keys.row, one, value),
            (None, None) => Ok(VecDeque::new()),
        };
        let (videos, images) = (files("videos", "video")?, files("images", "image")?);
        Ok(Self { videos, images, placed: 0 })
    }

    fn take(&mut self, video: bool) -> Option<Part> {
        let queue = if video { &mut self.videos } else { &mut self.images };
        let media = Media { source: queue.pop_front()?, policy: None };
        self.placed += 1;
        Some(if video { Part::Video(media) } else { Part::Image(media) })
    }

    /// Words with the files that wait in the place of their marks. Marks of a kind of which the row has no
    /// files are words.
    pub(crate) fn marked(
        &mut self,
        row: &Row,
        at: &str,
        text: &str,
        files: &Marked,
    ) -> Result<Vec<Part>, DataError> {
        let mut parts = Vec::new();
        let mut rest = text;
        let next = |rest: &str| {
            let places = [(files.videos, super::turns::VIDEO), (files.images, super::turns::IMAGE)];
            let found = places.iter().enumerate().filter(|(_, (has, _))| *has);
            let found =
                found.filter_map(|(kind, (_, mark))| Some((rest.find(mark)?, kind == 0, *mark)));
            found.min()
        };
        while let Some((start, video, mark)) = next(rest) {
            if start > 0 {
                parts.push(Part::Text { text: rest[..start].to_owned() });
            }
            let lacking = || row.bad(format!("{at} has more {mark} marks than the row has files"));
            parts.push(self.take(video).ok_or_else(lacking)?);
            rest = &rest[start + mark.len()..];
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Part::Text { text: rest.to_owned() });
        }
        Ok(parts)
    }

    /// Gives files that no mark or part asked for their place: before the first words of the user, where all of
    /// them are left. Where only some are, nobody can say which place was forgotten.
    pub(crate) fn finish(mut self, row: &Row, turns: &mut [Message]) -> Result<(), DataError> {
        let left = self.videos.front().or(self.images.front()).cloned();
        let Some(left) = left else { return Ok(()) };
        let user = turns.iter_mut().find(|turn| turn.role == Role::User);
        let (Some(user), 0) = (user, self.placed) else {
            return Err(row.bad(format!("{left:?} has no place in the turns")));
        };
        let mut parts = Vec::new();
        while let Some(part) = self.take(false).or_else(|| self.take(true)) {
            parts.push(part);
        }
        parts.append(&mut user.content);
        user.content = parts;
        Ok(())
    }

    /// Of which kinds the row has files.
    pub(crate) fn marks(&self) -> Marked {
        Marked { videos: !self.videos.is_empty(), images: !self.images.is_empty() }
    }

    /// A part that shows something: its own file, or the next one that waits.
    pub(crate) fn part(
        &mut self,
        row: &Row,
        at: &str,
        part: &Value,
        video: bool,
    ) -> Result<Part, DataError> {
        let name = if video { "video" } else { "image" };
        let own = [name, "path", "url", if video { "video_url" } else { "image_url" }];
        let own = own.iter().find_map(|key| part.get(key).filter(|value| !value.is_null()));
        let media = match own {
            Some(value) => {
                let mut files = sources(row, at, value)?;
                let (Some(source), None) = (files.pop_front(), files.pop_front()) else {
                    return Err(row.bad(format!(
                        "{at}: a {name} is one file or a folder of frames, not a list of files"
                    )));
                };
                self.placed += 1;
                Media { source, policy: None }
            }
            None => match self.take(video) {
                Some(Part::Video(media) | Part::Image(media)) => media,
                _ => return Err(row.bad(format!("{at}: {name} without a file"))),
            },
        };
        let policy = policy(row, at, part, video)?;
        let media = Media { policy, ..media };
        Ok(if video { Part::Video(media) } else { Part::Image(media) })
    }
}

/// Of which kinds a row has files, so that marks in its words are places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marked {
    videos: bool,
    images: bool,
}

/// One file or several: a path, an object with one, or a list of these.
fn sources(row: &Row, at: &str, value: &Value) -> Result<VecDeque<String>, DataError> {
    let one = |value: &Value| {
        let inner =
            ["path", "url", "video", "image"].iter().find_map(|key| value.get(key)?.as_str());
        let path = value.as_str().or(inner).map(str::to_owned);
        path.ok_or_else(|| row.bad(format!("{at} must be paths, {value} is {}", kind(value))))
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok([one(value)?].into()),
    }
}

/// How a part wants its clip to be looked at.
fn policy(
    row: &Row,
    at: &str,
    part: &Value,
    video: bool,
) -> Result<Option<MediaPolicy>, DataError> {
    let Value::Object(keys) = part else { return Ok(None) };
    let number = |key: &str| match keys.get(key).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => {
            let number = value.as_f64().filter(|number| *number >= 0.0);
            number.map(Some).ok_or_else(|| row.bad(format!("{at}.{key} is {value}")))
        }
    };
    for key in ["min_pixels", "max_pixels", "total_pixels"] {
        if number(key)?.is_some() {
            return Err(row.bad(format!(
                "{at}.{key}: bounds on pixels are the model's own here; a size can be given by resized_width and \
                 resized_height"
            )));
        }
    }
    let (fps, nframes) = (number("fps")?, number("nframes")?);
    let (least, most) = (number("min_frames")?, number("max_frames")?);
    let (start, end) = (number("video_start")?, number("video_end")?);
    let size = match (number("resized_width")?, number("resized_height")?) {
        (Some(width), Some(height)) => Some((width as u32, height as u32)),
        (None, None) => None,
        _ => return Err(row.bad(format!("{at}: resized_width and resized_height go together"))),
    };
    let frames = fps.is_some() || nframes.is_some();
    let bounds = least.is_some() || most.is_some() || start.is_some() || end.is_some();
    if !frames && !bounds && size.is_none() {
        return Ok(None);
    }
    if !video {
        return Err(row.bad(format!("{at}: how a picture is looked at is the model's own")));
    }
    let multiple = 2.0;
    let sampling = match (fps, nframes) {
        (Some(_), Some(_)) => return Err(row.bad(format!("{at}: either fps or nframes"))),
        (None, Some(frames)) => FrameSampling::Count {
            frames: ((frames / multiple).round_ties_even() * multiple) as usize,
            rule: CountRule::Linspace,
        },
        // Two frames a second are what qwen-vl-utils takes where nothing is said.
        (fps, None) => FrameSampling::Fps {
            fps: fps.unwrap_or(2.0),
            min_frames: ((least.unwrap_or(4.0) / multiple).ceil() * multiple) as usize,
            max_frames: ((most.unwrap_or(768.0) / multiple).floor() * multiple) as usize,
            multiple_of: multiple as usize,
            rule: CountRule::Linspace,
        },
    };
    let policy = MediaPolicy { start, end, size, ..MediaPolicy::new(sampling) };
    policy.validate().map_err(|error| row.bad(format!("{at}: {error}")))?;
    Ok(Some(policy))
}
