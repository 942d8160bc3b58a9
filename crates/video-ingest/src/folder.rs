//! A folder of pictures read as a clip: one frame per file, in natural order of the names, at
//! [`FOLDER_FPS`].

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use image::ImageDecoder;
use savi_schema::{ClipMetadata, RgbImage};

use crate::plan::{Plan, TIME_TOLERANCE, plan, slot_start};
use crate::read::{Finished, Picked, Request};
use crate::{IngestError, IngestOptions};

/// Frames per second that a frame folder is taken to have; it states none itself.
pub const FOLDER_FPS: f64 = 1.0;

const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "bmp", "webp"];

pub(crate) fn probe(
    file: &str,
    path: &Path,
    options: &IngestOptions,
) -> Result<ClipMetadata, IngestError> {
    let pictures = list(file, path, options)?;
    metadata(&pictures)
}

pub(crate) fn read(request: &Request<'_>) -> Result<Finished, IngestError> {
    let started = std::time::Instant::now();
    let pictures = list(request.file, request.path, request.options)?;
    let metadata = metadata(&pictures)?;
    let last = pictures.len() - 1;
    let chosen: Vec<(f64, usize)> = match plan(request.file, &metadata, &request.policy)? {
        Plan::Slots(slots) => slots
            .iter()
            .map(|&s| (slot_start(&metadata, s), usize::try_from(s).unwrap_or(last).min(last)))
            .collect(),
        Plan::Times(times) => times
            .iter()
            .map(|&t| (t, (((t + TIME_TOLERANCE) * FOLDER_FPS) as usize).min(last)))
            .collect(),
    };
    if chosen.len() > request.options.limits.max_frames_read {
        return Err(IngestError::Limit {
            file: request.file.to_owned(),
            what: "number of frames asked for",
            value: chosen.len().to_string(),
            limit: request.options.limits.max_frames_read.to_string(),
        });
    }
    let mut picked: Vec<Picked> = Vec::with_capacity(chosen.len());
    let mut trouble = None;
    for &(requested, index) in &chosen {
        if let Some(allowed) = request.options.deadline
            && started.elapsed() >= allowed
        {
            let seconds = allowed.as_secs_f64();
            trouble.get_or_insert(IngestError::Deadline { file: request.file.to_owned(), seconds });
            break;
        }
        let same = picked.last().filter(|p| p.index == Some(index as u64)).map(|p| p.image.clone());
        let image = match same {
            Some(image) => Ok(image),
            None => open(&pictures[index], request),
        };
        match image {
            Ok(image) => {
                let time = index as f64 / FOLDER_FPS;
                picked.push(Picked { time, requested, index: Some(index as u64), image });
            }
            Err(error) => {
                trouble.get_or_insert(error);
            }
        }
    }
    let partial = match trouble {
        Some(error) if !request.options.allow_partial || picked.is_empty() => return Err(error),
        Some(error) => {
            let missing = chosen.len() - picked.len();
            Some(format!("{missing} of {} frames missing: {error}", chosen.len()))
        }
        None => None,
    };
    Ok(Finished { metadata, picked, partial })
}

fn open(path: &Path, request: &Request<'_>) -> Result<RgbImage, IngestError> {
    let image = read_picture(path, request.options)?;
    let Some((width, height)) = request.policy.size else { return Ok(image) };
    savi_schema::resample(&image, width, height, request.policy.resampling)
        .map_err(|source| IngestError::Resample { file: path.display().to_string(), source })
}

/// Reads a still picture, upright by its EXIF orientation; transparency is dropped.
pub fn read_picture(path: &Path, options: &IngestOptions) -> Result<RgbImage, IngestError> {
    let file = path.display().to_string();
    let fail = |reason: String| IngestError::Picture { file: file.clone(), reason };
    let limits = &options.limits;
    let mut reader = image::ImageReader::open(path)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(|e| fail(e.to_string()))?;
    let mut bounds = image::Limits::default();
    bounds.max_image_width = Some(limits.max_side);
    bounds.max_image_height = Some(limits.max_side);
    bounds.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(|e| fail(e.to_string()))?;
    let orientation = decoder.orientation().map_err(|e| fail(e.to_string()))?;
    let mut picture =
        image::DynamicImage::from_decoder(decoder).map_err(|e| fail(e.to_string()))?;
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();
    let (width, height) = picture.dimensions();
    RgbImage::new(width, height, picture.into_raw()).ok_or_else(|| fail("bad size".to_owned()))
}

fn metadata(pictures: &[PathBuf]) -> Result<ClipMetadata, IngestError> {
    let first = &pictures[0];
    let fail = |reason: String| IngestError::Picture { file: first.display().to_string(), reason };
    let (width, height) = image::ImageReader::open(first)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(|e| fail(e.to_string()))?
        .into_dimensions()
        .map_err(|e| fail(e.to_string()))?;
    let count = pictures.len() as u64;
    Ok(ClipMetadata {
        duration: count as f64 / FOLDER_FPS,
        width,
        height,
        fps: FOLDER_FPS,
        frame_count: count,
        rotation: 0,
        codec: "pictures".to_owned(),
    })
}

/// The pictures of a folder; never empty.
fn list(file: &str, path: &Path, options: &IngestOptions) -> Result<Vec<PathBuf>, IngestError> {
    let io = |source| IngestError::Io { file: file.to_owned(), source };
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_lowercase();
        if EXTENSIONS.contains(&extension.as_str()) && path.is_file() {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        return Err(IngestError::Empty { file: file.to_owned() });
    }
    let limit = options.limits.max_frame_count;
    if pictures.len() as u64 > limit {
        return Err(IngestError::Limit {
            file: file.to_owned(),
            what: "number of pictures",
            value: pictures.len().to_string(),
            limit: limit.to_string(),
        });
    }
    let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    pictures.sort_by(|a, b| natural(&name(a), &name(b)).then_with(|| a.cmp(b)));
    Ok(pictures)
}

/// Compares digit runs as numbers, so that `frame10` follows `frame9`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else {
            return a.len().cmp(&b.len());
        };
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let digits =
                |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (run_a, rest_a) = a.split_at(digits(a));
            let (run_b, rest_b) = b.split_at(digits(b));
            (a, b) = (rest_a, rest_b);
            let (number_a, number_b) =
                (run_a.trim_start_matches('0'), run_b.trim_start_matches('0'));
            number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b))
        } else {
            (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]);
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["f10.png", "f9.png", "f009b.png", "f1.png", "e2.png", "f01.png"];
        names.sort_by(|a, b| natural(a, b).then_with(|| a.cmp(b)));
        assert_eq!(names, ["e2.png", "f01.png", "f1.png", "f9.png", "f009b.png", "f10.png"]);
    }
}
