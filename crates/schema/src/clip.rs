//! A decoded clip: frames with the times at which they are shown.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::MediaPolicy;

/// A picture of packed 8-bit RGB rows without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` bytes, row by row, R G B.
    pub data: Arc<[u8]>,
}

impl RgbImage {
    /// Wraps `data`; `None` when its length is not `width * height * 3`.
    pub fn new(width: u32, height: u32, data: impl Into<Arc<[u8]>>) -> Option<Self> {
        let data = data.into();
        (data.len() == width as usize * height as usize * 3).then_some(Self { width, height, data })
    }
}

/// One frame of a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// When it is shown, in seconds from the start of the file's video (its own presentation time).
    pub time: f64,
    /// The moment that was asked for, in seconds.
    pub requested: f64,
    /// Its number in presentation order, where the file allows to tell.
    pub index: Option<u64>,
    /// The picture, upright, full-range RGB.
    pub image: RgbImage,
}

/// What a file says about itself, read without decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipMetadata {
    /// Seconds from the first shown frame to the end of the last.
    pub duration: f64,
    /// Display width after rotation, in pixels.
    pub width: u32,
    /// Display height after rotation, in pixels.
    pub height: u32,
    /// Average frames per second.
    pub fps: f64,
    /// Number of frames.
    pub frame_count: u64,
    /// Clockwise rotation that players apply, in degrees: 0, 90, 180 or 270.
    pub rotation: u32,
    /// Name of the codec.
    pub codec: String,
}

/// A clip as frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Path of the file or folder it came from.
    pub source: String,
    /// What the file says about itself.
    pub metadata: ClipMetadata,
    /// How it became frames.
    pub policy: MediaPolicy,
    /// The frames, in time order, or in the order of explicit times.
    pub frames: Vec<Frame>,
    /// Why frames are missing; `None` for a whole clip. Only set where partial results were allowed.
    pub partial: Option<String>,
}
