//! A scene as a video file.

use std::path::Path;

use super::scene::Scene;
use crate::WorldError;

/// Writes a scene to an H.264/MP4 file. Distance of key frames and number of B-frames differ from
/// clip to clip, so that readers meet both.
#[cfg(feature = "video")]
pub fn write_clip(scene: &Scene, path: &Path) -> Result<(), WorldError> {
    use savi_video_ingest::{ClipWriter, WriterOptions};

    const GOPS: [u32; 3] = [12, 30, 250];
    let pick = scene.noise_seed;
    let options = WriterOptions {
        width: scene.width,
        height: scene.height,
        fps: (scene.fps, 1),
        gop: GOPS[(pick % 3) as usize],
        b_frames: if (pick / 3).is_multiple_of(2) { 0 } else { 2 },
        crf: 18,
        preset: "veryfast",
    };
    let fail = |source| WorldError::Clip { id: scene.id.clone(), source };
    let mut writer = ClipWriter::create(path, &options).map_err(fail)?;
    let painter = super::render::Painter::new(scene);
    for index in 0..scene.frame_count {
        writer.push(&painter.frame(index)).map_err(fail)?;
    }
    writer.finish().map_err(fail)
}

/// Refuses: this program cannot write video.
#[cfg(not(feature = "video"))]
pub fn write_clip(_scene: &Scene, _path: &Path) -> Result<(), WorldError> {
    Err(WorldError::NoVideo)
}
