//! How SmolVLM's processors prepare pictures and frames: scaled to a longest side, then either stretched
//! to one square tile, or stretched to whole tiles, cut, and shown once more as a whole in one.
//!
//! Sizes are computed in double precision, step by step as in transformers' `SmolVLMImageProcessor`. Its
//! video processor scales by torchvision, which knows no Lanczos before 0.27 and takes bicubic for it;
//! here the filter is the one that the files name.

use candle_core::Tensor;
use savi_schema::{CountRule, FrameSampling, MediaPolicy, Resampling, RgbImage, resample};
use serde_json::{Map, Value};

use crate::ModelError;
use crate::look::{IDLE, settings};
use crate::processing::{Normalise, Processors, Size, crop, resampling};
use crate::reader::Reader;
use crate::visual::VisualKind;

/// No side is scaled to more by a longest side.
const LARGEST: u32 = 4096;
/// Larger sizes in files are slips.
const MOST: u32 = 16_384;

/// Settings for pictures, or for the frames of clips.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Preparation {
    /// What a picture is scaled to first.
    first: Option<Size>,
    /// Whether it is cut into tiles.
    cut: bool,
    /// Side of a tile.
    pub(super) tile: u32,
    filter: Resampling,
    normalise: Normalise,
}

/// The settings of all files.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) image: Preparation,
    /// None where the family knows no clips.
    pub(super) video: Option<Preparation>,
    /// Visual tokens of a tile, where the files say so.
    pub(super) tokens: Option<usize>,
    /// How clips are looked at.
    pub(super) policy: Option<MediaPolicy>,
}

/// How a picture becomes tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Sizes to which it is scaled, one after the other.
    sizes: Vec<(u32, u32)>,
    /// Rows of tiles; none where the whole is shown alone.
    pub(super) rows: u32,
    /// Columns of tiles.
    pub(super) columns: u32,
}

impl Settings {
    /// Reads the processors' files. Where they leave it out, a tile is as large as the tower's own
    /// picture, and a longest side as four tiles.
    pub(super) fn read(
        processors: &Processors,
        usual_tile: u32,
        clips: bool,
    ) -> Result<Self, ModelError> {
        let empty = Value::Object(Map::new());
        let file = |kind| match settings(processors, kind)? {
            Some(file) => Ok(file),
            None => Reader::of_file("preprocessor_config.json", &empty),
        };
        let whole = if processors.whole.is_null() { &empty } else { &processors.whole };
        let whole = Reader::of_file("processor_config.json", whole)?;
        whole.ignore(&["image_processor", "processor_class", "video_processor"]);
        let tokens = whole.get("image_seq_len")?;
        whole.finish()?;
        let image = Preparation::read(file(VisualKind::Image)?, usual_tile, false)?;
        if !clips {
            return Ok(Self { image, video: None, tokens, policy: None });
        }
        let video = file(VisualKind::Video)?;
        let policy = policy(&video)?;
        let video = Some(Preparation::read(video, usual_tile, true)?);
        Ok(Self { image, video, tokens, policy })
    }
}

/// How clips are looked at: so many frames a second, and at most so many. The reference rounds the number
/// of frames where this rounds down, rounds their places down where this rounds, and leaves out a second
/// at either end of clips that are longer than all frames are seconds.
fn policy(config: &Reader<'_>) -> Result<Option<MediaPolicy>, ModelError> {
    let sampling = config.object("video_sampling")?;
    let (fps, frames) = match &sampling {
        Some(sampling) => (sampling.positive("fps")?, sampling.get("max_frames")?),
        None => (config.positive("fps")?, config.get("num_frames")?),
    };
    Ok(match (fps, frames) {
        (Some(fps), Some(max_frames)) if max_frames > 0 => {
            let rule = CountRule::Linspace;
            let sampling =
                FrameSampling::Fps { fps, min_frames: 1, max_frames, multiple_of: 1, rule };
            Some(MediaPolicy::new(sampling))
        }
        _ => None,
    })
}

impl Preparation {
    fn read(config: Reader<'_>, usual_tile: u32, video: bool) -> Result<Self, ModelError> {
        // All tiles have one size, so that nothing is ever padded. Pictures come as RGB. How many frames
        // there are is said by the policy.
        config.ignore(IDLE);
        config.ignore(&["do_sample_frames", "fps", "num_frames", "return_row_col_info"]);
        let tile = match Size::read(&config, "max_image_size")? {
            None => usual_tile,
            Some(Size::Longest(edge)) => edge,
            Some(_) => return Err(size_error(&config, "max_image_size")?),
        };
        if tile > LARGEST {
            return Err(config.unsupported("max_image_size", tile, format!("at most {LARGEST}")));
        }
        // A size of its own comes before that of video_sampling.
        let mut size = Size::read(&config, "size")?;
        if let Some(sampling) = config.object("video_sampling")? {
            let sampled = Size::read(&sampling, "video_size")?;
            sampling.ignore(&["fps", "max_frames"]);
            sampling.finish()?;
            if video && size.is_none() {
                size = sampled;
            }
        }
        let resize = config.get("do_resize")?.unwrap_or(true);
        if video && !resize {
            return Err(config.unsupported("do_resize", false, true));
        }
        let first = match size.unwrap_or(Size::Longest(usual_tile.saturating_mul(4).min(MOST))) {
            Size::Shortest(_) => return Err(size_error(&config, "size")?),
            Size::Exact { width, height } if width.max(height) > MOST => {
                let value = format!("{width}x{height}");
                return Err(config.unsupported("size", value, format!("at most {MOST}")));
            }
            Size::Longest(edge) if edge > MOST => {
                return Err(config.unsupported("size", edge, format!("at most {MOST}")));
            }
            size => resize.then_some(size),
        };
        let cut = config.get("do_image_splitting")?.unwrap_or(true);
        let preparation = Self {
            first,
            cut: cut && !video,
            tile,
            filter: resampling(&config, Resampling::Lanczos)?,
            normalise: Normalise::read(&config, Normalise::HALF)?,
        };
        config.finish()?;
        Ok(preparation)
    }

    /// The tiles of a picture of this size, `(width, height)`.
    pub(super) fn layout(&self, size: (u32, u32)) -> Layout {
        let mut sizes = Vec::new();
        let mut size = size;
        if let Some(first) = self.first {
            size = match first {
                Size::Exact { width, height } => (width, height),
                Size::Longest(edge) | Size::Shortest(edge) => to_longest(size, edge),
            };
            sizes.push(size);
        }
        if !self.cut {
            sizes.push((self.tile, self.tile));
            return Layout { sizes, rows: 0, columns: 0 };
        }
        let (width, height) = to_tiles(size, self.tile);
        sizes.push((width, height));
        let (rows, columns) = (height / self.tile, width / self.tile);
        let cut = rows > 1 || columns > 1;
        if cut { Layout { sizes, rows, columns } } else { Layout { sizes, rows: 0, columns: 0 } }
    }

    /// The tiles of every picture, and the picture as a whole after its own: `[tiles, 3, tile, tile]`.
    pub(super) fn tiles(&self, images: &[RgbImage]) -> Result<Tensor, ModelError> {
        let tile = self.tile;
        let mut tiles = Vec::new();
        for image in images {
            let layout = self.layout((image.width, image.height));
            let mut scaled = image.clone();
            for (width, height) in layout.sizes {
                scaled = resample(&scaled, width, height, self.filter)?;
            }
            for row in 0..layout.rows {
                for column in 0..layout.columns {
                    let corner = (i64::from(column * tile), i64::from(row * tile));
                    tiles.push(crop(&scaled, corner, (tile, tile)));
                }
            }
            tiles.push(resample(&scaled, tile, tile, self.filter)?);
        }
        self.normalise.tensor(&tiles)
    }
}

/// The error of a size that is not given as a longest side.
fn size_error(config: &Reader<'_>, key: &str) -> Result<ModelError, ModelError> {
    let value: Value = config.require(key)?;
    Ok(config.unsupported(key, value, "longest_edge"))
}

/// The longer side becomes `edge`; the other keeps the proportion, rounded down and then up to an even
/// number.
fn to_longest((width, height): (u32, u32), edge: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let even = |side: f64| (side as u32).next_multiple_of(2).max(1);
    let (width, height) = if width >= height {
        (edge, even(f64::from(edge) / aspect))
    } else {
        (even(f64::from(edge) * aspect), edge)
    };
    let aspect = f64::from(width) / f64::from(height);
    if width >= height && width > LARGEST {
        (LARGEST, ((f64::from(LARGEST) / aspect) as u32).max(1))
    } else if height > width && height > LARGEST {
        (((f64::from(LARGEST) * aspect) as u32).max(1), LARGEST)
    } else {
        (width, height)
    }
}

/// The longer side grows to whole tiles; the other follows in proportion, and then grows to whole tiles.
fn to_tiles((width, height): (u32, u32), tile: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let up = |side: u32| side.max(1).next_multiple_of(tile);
    if width >= height {
        let width = up(width);
        (width, up((f64::from(width) / aspect) as u32))
    } else {
        let height = up(height);
        (up((f64::from(height) * aspect) as u32), height)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(image: &Value, clips: bool) -> Result<Settings, ModelError> {
        let processors = Processors { image: image.clone(), ..Processors::default() };
        Settings::read(&processors, 512, clips)
    }

    /// Expected sizes and tiles are those of transformers' SmolVLMImageProcessorPil.
    #[test]
    fn sizes_and_tiles_of_the_reference() {
        for (edge, tile, size, sizes, tiles) in [
            (2048, 512, (1920, 1080), [(2048, 1152), (2048, 1536)], (3, 4)),
            (2048, 512, (1080, 1920), [(1152, 2048), (1536, 2048)], (4, 3)),
            (1536, 384, (640, 480), [(1536, 1152), (1536, 1152)], (3, 4)),
            (2048, 512, (7, 5000), [(2, 2048), (512, 2048)], (4, 1)),
            (1536, 384, (1, 1), [(1536, 1536), (1536, 1536)], (4, 4)),
            (96, 32, (30, 77), [(38, 96), (64, 96)], (3, 2)),
            (95, 32, (101, 100), [(95, 94), (96, 96)], (3, 3)),
            (5000, 512, (6000, 4000), [(4096, 2731), (4096, 3072)], (6, 8)),
            (512, 512, (640, 360), [(512, 288), (512, 512)], (0, 0)),
        ] {
            let file =
                json!({"size": {"longest_edge": edge}, "max_image_size": {"longest_edge": tile}});
            let layout = read(&file, true).unwrap().image.layout(size);
            let (rows, columns) = tiles;
            assert_eq!(layout, Layout { sizes: sizes.to_vec(), rows, columns }, "{size:?}");
        }
    }

    /// As the published files are read by transformers, in which the size for pictures is in the place of
    /// that of `video_sampling`.
    #[test]
    fn one_file_for_both() {
        let mut file = json!({
            "size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}, "resample": 1,
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}},
        });
        let settings = read(&file, true).unwrap();
        let video = settings.video.unwrap();
        assert_eq!(video.layout((640, 360)).sizes, [(2048, 1152), (512, 512)]);
        let sampling = FrameSampling::Fps {
            fps: 1.0,
            min_frames: 1,
            max_frames: 64,
            multiple_of: 1,
            rule: CountRule::Linspace,
        };
        assert_eq!(settings.policy, Some(MediaPolicy::new(sampling)));
        file.as_object_mut().unwrap().remove("size");
        let video = read(&file, true).unwrap().video.unwrap();
        assert_eq!(video.layout((640, 360)).sizes, [(512, 288), (512, 512)]);
        assert_eq!(read(&file, false).unwrap().video, None);
    }

    #[test]
    fn unsupported_values_are_refused_by_name() {
        for (key, value) in [
            ("size", json!({"shortest_edge": 3})),
            ("size", json!({"height": 50_000, "width": 3})),
            ("size", json!({"longest_edge": u32::MAX})),
            ("max_image_size", json!({"height": 3, "width": 3})),
            ("max_image_size", json!({"longest_edge": 5000})),
            ("do_resize", json!(false)),
            ("resample", json!(9)),
            ("video_sampling", json!({"frames": 3})),
            ("crop_pct", json!(0.5)),
        ] {
            let error = read(&json!({key: value}), true).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
