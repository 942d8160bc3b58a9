//! Exact frames by time from files, and clips written back.
//!
//! This crate is the only one that speaks to FFmpeg. A *source* is a media file, a folder of
//! pictures, or either with `#t=start,end` behind it; a [`MediaPolicy`](savi_schema::MediaPolicy)
//! says which moments of it are looked at and how large; a [`Clip`](savi_schema::Clip) holds the
//! frames with their times. Times count from the first shown frame. The frame *shown at* t is the
//! last whose time is not after t. A *key* is a packet that decoding can start from.
//!
//! Files are not trusted: sizes, lengths and counts are limited, no protocol but `file` is opened
//! unless allowed, a deadline ends every read, and damage is an [`IngestError`] that names file and
//! cause (or, where asked for, a clip that says which frames are missing).
//!
//! It never computes on tensors and never substitutes one frame for another.

#[cfg(feature = "video")]
mod av;
#[cfg(feature = "video")]
mod cut;
mod error;
mod folder;
mod options;
mod plan;
mod read;
mod source;

#[cfg(feature = "video")]
pub use av::{ClipWriter, Libraries, WriterOptions, libraries};
pub use error::IngestError;
pub use folder::{FOLDER_FPS, read_picture};
pub use options::{IngestOptions, Limits};
pub use plan::plan_times;
pub use read::{probe, read_clip, read_clips};
