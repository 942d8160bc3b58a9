//! What a reader allows a file to do: sizes, time, protocols.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// How clips are read. The default suits untrusted local files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestOptions {
    /// Bounds on what a file may declare or contain.
    pub limits: Limits,
    /// Return the frames that can be had, flagged, where a clip is damaged or time runs out.
    pub allow_partial: bool,
    /// Time allowed per clip, in a config as seconds; `None` waits for ever.
    #[serde(serialize_with = "write_seconds", deserialize_with = "read_seconds")]
    pub deadline: Option<Duration>,
    /// Decoder threads per clip; 0 takes the machine's cores, at most four, and one where several
    /// clips are read at once. Frames do not depend on it.
    pub threads: usize,
    /// FFmpeg protocols that may be opened.
    pub allow_protocols: Vec<String>,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            allow_partial: false,
            deadline: Some(Duration::from_secs(600)),
            threads: 0,
            allow_protocols: vec!["file".to_owned()],
        }
    }
}

fn write_seconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(to)
}

fn read_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let Some(seconds) = Option::<f64>::deserialize(from)? else { return Ok(None) };
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(Some(time)),
        _ => Err(D::Error::custom(format!("{seconds} is not a positive number of seconds"))),
    }
}

/// Bounds on what a file may declare or contain; beyond them it is refused before it costs memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest side of a frame, in pixels.
    pub max_side: u32,
    /// Pixels of a frame.
    pub max_pixels: u64,
    /// Length of the video, in seconds.
    pub max_duration: f64,
    /// Streams of all kinds in the file.
    pub max_streams: u32,
    /// Frames in the file.
    pub max_frame_count: u64,
    /// Frames that one call may return.
    pub max_frames_read: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_side: 16_384,
            max_pixels: 8_192 * 8_192,
            max_duration: 24.0 * 3600.0,
            max_streams: 64,
            max_frame_count: 3_000_000,
            max_frames_read: 16_384,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_and_read_alike() {
        let options = IngestOptions {
            deadline: Some(Duration::from_millis(1500)),
            limits: Limits { max_side: 640, ..Limits::default() },
            ..IngestOptions::default()
        };
        let text = serde_json::to_string(&options).unwrap();
        assert!(text.contains("\"deadline\":1.5"), "{text}");
        assert_eq!(serde_json::from_str::<IngestOptions>(&text).unwrap(), options);
        assert_eq!(serde_json::from_str::<IngestOptions>("{}").unwrap(), IngestOptions::default());
        for bad in ["{\"deadline\": 0}", "{\"deadline\": -1}", "{\"dead_line\": 1}"] {
            serde_json::from_str::<IngestOptions>(bad).unwrap_err();
        }
    }
}
