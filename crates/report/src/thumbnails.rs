//! Small pictures of frames: stored in the run folder by whoever decodes, shown by the report.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use savi_schema::{Frame, Resampling, resample};

use crate::ReportError;

/// Longer side of a thumbnail, in pixels.
const LONGEST_SIDE: u32 = 160;
/// Frames of a clip that are stored and shown.
const MOST_FRAMES: usize = 32;
/// A stored picture larger than this was not made here and is not shown.
const MOST_BYTES: u64 = 512 << 10;
/// Pictures up to this size are stored without loss.
const LOSSLESS_SIDE: u32 = 96;

/// Stores thumbnails of a clip's frames as `stages/thumbnails/<clip>/NN.png` (or `.jpg` where they
/// are larger than 96 pixels), for the report to show. A clip whose thumbnails are there is left alone.
/// At most 32 frames are kept.
pub fn store_thumbnails(
    run_dir: &Path,
    clip_id: &str,
    frames: &[Frame],
) -> Result<(), ReportError> {
    let dir = folder(run_dir, clip_id);
    for (number, frame) in frames.iter().take(MOST_FRAMES).enumerate() {
        let fail = |reason: String| ReportError::Thumbnail { path: dir.clone(), reason };
        let image = &frame.image;
        let longest = image.width.max(image.height).max(1);
        let scaled = |side: u32| {
            let side = u64::from(side) * u64::from(LONGEST_SIDE.min(longest)) / u64::from(longest);
            side.max(1) as u32
        };
        let (width, height) = (scaled(image.width), scaled(image.height));
        let lossless = width.max(height) <= LOSSLESS_SIDE;
        let path = dir.join(format!("{number:02}.{}", if lossless { "png" } else { "jpg" }));
        if path.exists() {
            continue;
        }
        let small =
            resample(image, width, height, Resampling::Box).map_err(|e| fail(e.to_string()))?;
        let mut bytes = Vec::new();
        let color = ExtendedColorType::Rgb8;
        let written = if lossless {
            PngEncoder::new(&mut bytes).write_image(&small.data, width, height, color)
        } else {
            JpegEncoder::new_with_quality(&mut bytes, 82).write_image(
                &small.data,
                width,
                height,
                color,
            )
        };
        written.map_err(|error| fail(error.to_string()))?;
        fs::create_dir_all(&dir).map_err(|error| fail(error.to_string()))?;
        savi_run::write_atomic(&path, &bytes)?;
    }
    Ok(())
}

/// The stored thumbnails of a clip as data URIs, in order.
pub(crate) fn data_uris(run_dir: &Path, clip_id: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder(run_dir, clip_id)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| data_uri(path)).take(MOST_FRAMES).collect()
}

fn data_uri(path: &Path) -> Option<String> {
    let kind = match path.extension()?.to_str()? {
        "png" => "png",
        "jpg" | "jpeg" => "jpeg",
        _ => return None,
    };
    let size = fs::metadata(path).ok()?.len();
    let bytes = (size <= MOST_BYTES).then(|| fs::read(path).ok())??;
    Some(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes)))
}

/// Ids are names that models and files made up: whatever could leave the folder is replaced.
fn folder(run_dir: &Path, clip_id: &str) -> PathBuf {
    let safe: String = clip_id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
        .collect();
    run_dir.join("stages/thumbnails").join(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(width: u32, height: u32) -> Frame {
        let data = vec![90; (width * height * 3) as usize];
        let image = savi_schema::RgbImage::new(width, height, data).unwrap();
        Frame { time: 0.0, requested: 0.0, index: None, image }
    }

    #[test]
    fn what_is_stored_is_shown_at_most_160_pixels_wide() {
        let dir = tempfile::tempdir().unwrap();
        store_thumbnails(dir.path(), "a/../b", &[frame(64, 64), frame(640, 360)]).unwrap();
        let folder = dir.path().join("stages/thumbnails/a____b");
        let sizes: Vec<(u32, u32)> = ["00.png", "01.jpg"]
            .iter()
            .map(|name| image::image_dimensions(folder.join(name)).unwrap())
            .collect();
        assert_eq!(sizes, [(64, 64), (160, 90)]);
        let uris = data_uris(dir.path(), "a/../b");
        assert!(uris[0].starts_with("data:image/png;base64,iVBOR"));
        assert!(uris[1].starts_with("data:image/jpeg;base64,/9j/"));
        assert!(data_uris(dir.path(), "other").is_empty());
    }

    #[test]
    fn a_long_thin_frame_keeps_one_pixel() {
        let dir = tempfile::tempdir().unwrap();
        store_thumbnails(dir.path(), "c", &[frame(2000, 2)]).unwrap();
        let path = dir.path().join("stages/thumbnails/c/00.jpg");
        assert_eq!(image::image_dimensions(path).unwrap(), (160, 1));
    }
}
