//! How Qwen2-VL and Qwen2.5-VL are shown pictures and clips: at their own size, rounded to whole visual
//! tokens and kept between two numbers of pixels, cut into patches that reach over frames.

use candle_core::Tensor;
use savi_schema::{CountRule, FrameSampling, MediaPolicy, Resampling};
use serde_json::{Map, Value};

use super::config::VitConfig;
use crate::ModelError;
use crate::processing::{Normalise, Processors, resampling, scaled};
use crate::reader::Reader;
use crate::visual::{Pixels, Visual, VisualKind};

/// A picture may be so many times longer than wide.
const LONGEST: f64 = 200.0;

/// Settings of both processors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QwenProcessor {
    patch: usize,
    temporal: usize,
    merge: usize,
    image: Settings,
    video: Settings,
    policy: MediaPolicy,
}

/// What is done to a picture, or to a frame of a clip.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Settings {
    /// Whether sizes are changed at all.
    resize: bool,
    filter: Resampling,
    /// Fewest and most pixels.
    pixels: (u64, u64),
    /// Visual tokens that the frames of a clip may have together, where a clip has such a bound.
    budget: Option<u64>,
    normalise: Normalise,
}

impl QwenProcessor {
    pub(crate) fn new(files: &Processors, tower: &VitConfig) -> Result<Self, ModelError> {
        let empty = Value::Object(Map::new());
        let or_empty = |value| if Value::is_null(value) { &empty } else { value };
        let image = Reader::of_file("preprocessor_config.json", or_empty(files.image()))?;
        let video = Reader::of_file("video_preprocessor_config.json", or_empty(files.video()))?;
        let policy = policy(&video, tower.temporal)?;
        Ok(Self {
            patch: tower.patch,
            temporal: tower.temporal,
            merge: tower.merge,
            image: Settings::read(image, tower, (56 * 56, 28 * 28 * 1280))?,
            video: Settings::read(video, tower, (128 * 28 * 28, 768 * 28 * 28))?,
            policy,
        })
    }

    /// How clips are looked at.
    pub(crate) fn policy(&self) -> MediaPolicy {
        self.policy.clone()
    }

    fn settings(&self, kind: VisualKind) -> &Settings {
        match kind {
            VisualKind::Image => &self.image,
            VisualKind::Video => &self.video,
        }
    }

    /// Steps in time, and rows and columns of patches.
    pub(crate) fn grid(&self, visual: &Visual) -> Result<[usize; 3], ModelError> {
        let factor = (self.patch * self.merge) as u64;
        let count = visual.frames.len();
        let (width, height) = visual.size();
        let odd = visual.frames.iter().find(|frame| (frame.width, frame.height) != (width, height));
        if let Some(odd) = odd {
            return Err(ModelError::Unsupported {
                key: "frame size".to_owned(),
                value: format!("{}x{}", odd.width, odd.height),
                supported: format!("{width}x{height}, as the first frame has it"),
            });
        }
        let (width, height) = (u64::from(width), u64::from(height));
        let settings = self.settings(visual.kind);
        let size = if settings.resize {
            smart_size((width, height), factor, settings.bounds(factor, self.temporal, count))
        } else {
            let whole = width.is_multiple_of(factor) && height.is_multiple_of(factor);
            whole.then_some((width, height))
        };
        let Some((width, height)) = size.filter(|size| size.0 > 0 && size.1 > 0) else {
            return Err(ModelError::Unsupported {
                key: "size of a picture".to_owned(),
                value: format!("{width}x{height}"),
                supported: if settings.resize {
                    format!("at least a pixel, and at most {LONGEST} times as long as wide")
                } else {
                    format!("multiples of {factor}, as do_resize is off")
                },
            });
        };
        let (rows, columns) = (height as usize / self.patch, width as usize / self.patch);
        Ok([count.div_ceil(self.temporal), rows, columns])
    }

    /// Scales, normalises and cuts: patches in the order (step, row, column, row in the square, column in
    /// the square), elements in the order (channel, frame, row, column).
    pub(crate) fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError> {
        let grid @ [steps, rows, columns] = self.grid(visual)?;
        let Self { patch, temporal, merge, .. } = *self;
        let size = ((columns * patch) as u32, (rows * patch) as u32);
        let settings = self.settings(visual.kind);
        let mut frames = scaled(&visual.frames, size, settings.filter)?;
        // A still picture stands for as many frames as a patch has, and so does the last of a clip.
        if let Some(last) = frames.last().cloned() {
            frames.resize(steps * temporal, last);
        }
        let (high, wide) = (rows / merge, columns / merge);
        let patches: Tensor = settings
            .normalise
            .tensor(&frames)?
            .reshape(vec![steps, temporal, 3, high, merge, patch, wide, merge, patch])?
            .permute(vec![0, 3, 6, 4, 7, 2, 1, 5, 8])?
            .reshape((steps * rows * columns, 3 * temporal * patch * patch))?;
        Ok(Pixels { kind: visual.kind, patches, grids: vec![grid], size: visual.size() })
    }
}

impl Settings {
    fn read(
        config: Reader<'_>,
        tower: &VitConfig,
        (fewest, most): (u64, u64),
    ) -> Result<Self, ModelError> {
        config.only("patch_size", tower.patch)?;
        config.only("temporal_patch_size", tower.temporal)?;
        config.only("merge_size", tower.merge)?;
        // What files are called and who reads them, and what is done anyway: pictures are RGB here, and
        // which frames of a clip are taken is said by a policy.
        config.ignore(&[
            "image_processor_type",
            "video_processor_type",
            "processor_class",
            "do_convert_rgb",
            "do_sample_frames",
            "return_metadata",
            "default_to_square",
            "data_format",
            "input_data_format",
            "return_tensors",
            "device",
        ]);
        for key in ["do_center_crop", "do_pad"] {
            config.only(key, false)?;
        }
        config.never("crop_size")?;
        // Older files have the bounds beside `size`, which then does not count.
        let (mut least, mut largest) = (None, None);
        if let Some(size) = config.object("size")? {
            least = size.get("shortest_edge")?.or(size.get("min_pixels")?);
            largest = size.get("longest_edge")?.or(size.get("max_pixels")?);
            size.finish()?;
        }
        let least: u64 = config.get("min_pixels")?.or(least).unwrap_or(fewest);
        let largest: u64 = config.get("max_pixels")?.or(largest).unwrap_or(most);
        // More than the longest sides that FFmpeg decodes would make.
        if least == 0 || least > largest || largest > 1 << 40 {
            let supported = "at least one pixel, and no fewer at most than at least";
            return Err(config.unsupported("size", format!("{least} to {largest}"), supported));
        }
        let budget: u64 = config.get("max_video_tokens")?.unwrap_or(128_000);
        let capped = config.get("cap_pixels_per_frame")?.unwrap_or(false);
        let settings = Self {
            resize: config.get("do_resize")?.unwrap_or(true),
            filter: resampling(&config, Resampling::Bicubic)?,
            pixels: (least, largest),
            budget: Some(budget.min(1 << 40)).filter(|_| capped),
            normalise: Normalise::read(&config, Normalise::CLIP)?,
        };
        config.finish()?;
        Ok(settings)
    }

    /// Fewest and most pixels of a frame: with a budget its even share, but not less than a little more
    /// than the fewest.
    fn bounds(&self, factor: u64, temporal: usize, frames: usize) -> (u64, u64) {
        let (least, most) = self.pixels;
        let Some(budget) = self.budget else { return (least, most) };
        let all = (budget as f64 * (factor * factor) as f64 * 0.9) as u64;
        let share = all.saturating_mul(temporal as u64) / frames.max(1) as u64;
        (least, most.min(share).max((least as f64 * 1.05) as u64))
    }
}

/// How clips are looked at: by the keys of the file, two frames a second where it has none.
fn policy(config: &Reader<'_>, temporal: usize) -> Result<MediaPolicy, ModelError> {
    let whole = |frames: usize| frames.div_ceil(temporal) * temporal;
    let min_frames = config.size("min_frames", Some(4))?;
    let max_frames = config.size("max_frames", Some(768))?;
    let fps = config.positive("fps")?;
    let sampling = match config.get::<usize>("num_frames")? {
        Some(frames) if fps.is_none() => {
            FrameSampling::Count { frames: whole(frames), rule: CountRule::SegmentStart }
        }
        _ => {
            let fps = fps.unwrap_or(2.0);
            let rule = CountRule::SegmentStart;
            FrameSampling::Fps { fps, min_frames, max_frames, multiple_of: temporal, rule }
        }
    };
    let policy = MediaPolicy::new(sampling);
    match policy.validate() {
        Ok(()) => Ok(policy),
        Err(error) => Err(config.unsupported("frames", format!("{:?}", policy.sampling), error)),
    }
}

/// The nearest size `(width, height)` of multiples of `factor` that has the wanted number of pixels; none
/// of pictures that are all length.
fn smart_size(
    (width, height): (u64, u64),
    factor: u64,
    (least, most): (u64, u64),
) -> Option<(u64, u64)> {
    let (w, h, step) = (width as f64, height as f64, factor as f64);
    if w.max(h) / w.min(h) > LONGEST {
        return None;
    }
    let near = |side: f64| (side / step).round_ties_even() as u64 * factor;
    let area = near(w) * near(h);
    if area > most {
        let beta = (h * w / most as f64).sqrt();
        let below = |side: f64| ((side / beta / step).floor() as u64 * factor).max(factor);
        return Some((below(w), below(h)));
    }
    if area < least {
        let beta = (least as f64 / (h * w)).sqrt();
        let above = |side: f64| (side * beta / step).ceil() as u64 * factor;
        return Some((above(w), above(h)));
    }
    Some((near(w), near(h)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::qwen_vl::config::Blocks;

    /// Sizes by transformers' `smart_resize`.
    #[test]
    fn sizes_are_those_of_the_reference() {
        let (image, video) = ((3136, 1_003_520), (100_352, 602_112));
        for (size, factor, bounds, want) in [
            ((640, 480), 28, image, (644, 476)),
            ((1920, 1080), 28, image, (1316, 728)),
            ((30, 20), 28, image, (84, 56)),
            ((42, 70), 28, image, (56, 56)),
            ((5, 900), 28, image, (28, 756)),
            ((98, 98), 28, image, (112, 112)),
            ((1920, 1080), 28, video, (1008, 560)),
            ((33, 47), 8, (64, 4096), (32, 48)),
            ((300, 11), 8, (64, 1024), (160, 8)),
            ((10, 1), 12, (144, 9999), (48, 12)),
        ] {
            assert_eq!(smart_size(size, factor, bounds), Some(want), "{size:?}");
        }
        assert_eq!(smart_size((1, 201), 28, image), None);
    }

    fn tower() -> VitConfig {
        let (depth, width, heads, hidden, out) = (1, 8, 1, 8, 8);
        let (patch, temporal, merge, theta) = (14, 2, 2, 1e4);
        let blocks = Blocks::Plain;
        VitConfig { depth, width, heads, hidden, patch, temporal, merge, out, theta, blocks }
    }

    fn read(video: Value) -> Result<QwenProcessor, ModelError> {
        QwenProcessor::new(&Processors { video, ..Processors::default() }, &tower())
    }

    /// By hand from transformers' `Qwen2VLVideoProcessor.resize`.
    #[test]
    fn a_budget_bounds_the_pixels_of_long_clips() {
        let bounds = |video: Value, frames| read(video).unwrap().video.bounds(28, 2, frames);
        assert_eq!(bounds(json!({}), 768), (100_352, 602_112));
        let capped = json!({"cap_pixels_per_frame": true, "max_video_tokens": 24_000});
        assert_eq!(bounds(capped.clone(), 16), (100_352, 602_112));
        assert_eq!(bounds(capped.clone(), 100), (100_352, 338_688));
        assert_eq!(bounds(capped, 768), (100_352, 105_369));
        let older = json!({"min_pixels": 3136, "max_pixels": 12_845_056});
        assert_eq!(bounds(older, 4), (3136, 12_845_056));
    }

    #[test]
    fn policies_follow_the_file() {
        let sampling = |video: Value| read(video).unwrap().policy().sampling;
        let by_rate = |fps, min_frames, max_frames| FrameSampling::Fps {
            fps,
            min_frames,
            max_frames,
            multiple_of: 2,
            rule: CountRule::SegmentStart,
        };
        assert_eq!(sampling(json!({})), by_rate(2.0, 4, 768));
        let file = json!({"fps": 1.0, "min_frames": 2, "max_frames": 32});
        assert_eq!(sampling(file), by_rate(1.0, 2, 32));
        let number = FrameSampling::Count { frames: 8, rule: CountRule::SegmentStart };
        assert_eq!(sampling(json!({"num_frames": 7})), number);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (key, value) in [
            ("patch_size", json!(16)),
            ("merge_size", json!(3)),
            ("temporal_patch_size", json!(1)),
            ("image_std", json!([0.0, 1.0, 1.0])),
            ("size", json!({"shortest_edge": 9, "longest_edge": 8})),
            ("size", json!({"height": 9, "width": 8})),
            ("min_frames", json!(800)),
            ("do_center_crop", json!(true)),
            ("a_key_of_tomorrow", json!(1)),
        ] {
            let error = read(json!({key: value})).unwrap_err().to_string();
            assert!(error.contains("video_preprocessor_config.json"), "{error}");
            assert!(error.contains(key.trim_start_matches("min_")), "{error}");
        }
    }
}
