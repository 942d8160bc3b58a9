//! How an InternVL looks at a picture: as square tiles on the canvas whose shape is nearest to the
//! picture's, and the whole picture in one tile after them (InternVL 1.5, Chen et al. 2024, section 3.3;
//! `dynamic_preprocess` of the authors, `GotOcr2ImageProcessor` of transformers).

use savi_schema::{CountRule, MediaPolicy, Resampling, RgbImage, resample};
use serde_json::Value;

use crate::ModelError;
use crate::processing::{Normalise, Processors, Size, crop, resampling, scaled};
use crate::reader::Reader;

/// Most tiles that a config may ask for.
const MOST_TILES: usize = 1024;

/// Into which tiles pictures are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// At least so many, the whole picture not counted.
    pub(super) fewest: usize,
    /// At most so many.
    pub(super) most: usize,
    /// Whether the whole picture comes after several tiles.
    pub(super) whole: bool,
}

impl Tiling {
    /// The picture in one tile.
    pub(super) const ONE: Self = Self { fewest: 1, most: 1, whole: false };

    pub(super) fn read(
        config: &Reader<'_>,
        [fewest, most]: [&str; 2],
        usual: Self,
    ) -> Result<Self, ModelError> {
        let tiling = Self {
            fewest: config.get(fewest)?.unwrap_or(usual.fewest),
            most: config.get(most)?.unwrap_or(usual.most),
            whole: usual.whole,
        };
        if tiling.most > MOST_TILES {
            return Err(config.unsupported(most, tiling.most, format!("at most {MOST_TILES}")));
        }
        Ok(tiling)
    }

    /// Columns and rows of tiles of `side` pixels. Of canvases whose shapes are equally near, the
    /// larger wins while the picture has more than half of its pixels. (Where two of one size are
    /// equally near, the authors' code leaves the choice to Python's order of sets; with the least
    /// number of tiles at one, that does not happen.)
    fn canvas(&self, (width, height): (u32, u32), side: u32) -> (u32, u32) {
        let mut canvases: Vec<(u32, u32)> = (1..=self.most as u32)
            .flat_map(|columns| (1..=self.most as u32 / columns).map(move |rows| (columns, rows)))
            .filter(|(columns, rows)| (columns * rows) as usize >= self.fewest)
            .collect();
        canvases.sort_by_key(|(columns, rows)| columns * rows);
        let shape = f64::from(width) / f64::from(height);
        let area = f64::from(width) * f64::from(height);
        let (mut best, mut least) = ((1, 1), f64::INFINITY);
        for (columns, rows) in canvases {
            let (columns_, rows_) = (f64::from(columns), f64::from(rows));
            let apart = (shape - columns_ / rows_).abs();
            let fills = area > 0.5 * f64::from(side) * f64::from(side) * columns_ * rows_;
            if apart < least || apart == least && fills {
                (best, least) = ((columns, rows), apart);
            }
        }
        best
    }

    /// How many tiles a picture of this size has.
    pub(super) fn count(&self, size: (u32, u32), side: u32) -> usize {
        let (columns, rows) = self.canvas(size, side);
        let tiles = (columns * rows) as usize;
        tiles + usize::from(self.whole && tiles > 1)
    }

    /// The tiles, row by row, and the whole.
    fn cut(
        &self,
        image: &RgbImage,
        side: u32,
        filter: Resampling,
    ) -> Result<Vec<RgbImage>, ModelError> {
        let (columns, rows) = self.canvas((image.width, image.height), side);
        let canvas = resample(image, side * columns, side * rows, filter)?;
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (column, row)));
        let mut tiles: Vec<RgbImage> = places
            .map(|(column, row)| {
                let corner = (i64::from(column * side), i64::from(row * side));
                crop(&canvas, corner, (side, side))
            })
            .collect();
        if self.whole && tiles.len() > 1 {
            tiles.push(resample(image, side, side, filter)?);
        }
        Ok(tiles)
    }
}

/// What is done to a picture or to the frames of a clip.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    filter: Resampling,
    normalise: Normalise,
}

/// How pictures and clips are prepared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Preparation {
    /// Side of a tile, in pixels.
    side: u32,
    /// Of pictures; a frame of a clip is one tile.
    pub(super) tiling: Tiling,
    images: Look,
    clips: Look,
    /// How the files want clips to be looked at.
    pub(super) policy: Option<MediaPolicy>,
}

impl Preparation {
    /// As the authors' code does it, which reads no file for it: eight frames of a clip.
    pub(super) fn original(side: usize, tiling: Tiling) -> Self {
        let look = Look { filter: Resampling::Bicubic, normalise: Normalise::IMAGENET };
        let policy = Some(MediaPolicy::count(8, CountRule::MidSegment));
        Self { side: side as u32, tiling, images: look, clips: look, policy }
    }

    /// As the files of transformers' processor say; `tokens` is the number of visual tokens of a tile.
    /// Without files, as those of the published models say.
    pub(super) fn transformers(
        processors: &Processors,
        side: usize,
        tokens: usize,
    ) -> Result<Self, ModelError> {
        let side = side as u32;
        if !processors.whole.is_null() {
            let whole = Reader::of_file("processor_config.json", &processors.whole)?;
            whole.only("image_seq_length", tokens)?;
            // Read below, or with the tokenizer.
            whole.ignore(&["image_processor", "video_processor", "processor_class"]);
            whole.ignore(&["chat_template"]);
            whole.finish()?;
        }
        let usual = Tiling { fewest: 1, most: 12, whole: true };
        let (images, tiling) = match processors.image() {
            Value::Null => (Look::PUBLISHED, usual),
            file => {
                let file = Reader::of_file("preprocessor_config.json", file)?;
                let tiling = Tiling::read(&file, ["min_patches", "max_patches"], usual)?;
                (Look::read(file, side)?, tiling)
            }
        };
        let (clips, policy) = match processors.video() {
            Value::Null => (Look::PUBLISHED, None),
            file => {
                let file = Reader::of_file("video_preprocessor_config.json", file)?;
                let policy = policy(&file)?;
                file.ignore(&["min_patches", "max_patches"]);
                (Look::read(file, side)?, policy)
            }
        };
        Ok(Self { side, tiling, images, clips, policy })
    }

    /// How many tiles a picture of this size has.
    pub(super) fn tiles(&self, size: (u32, u32)) -> usize {
        self.tiling.count(size, self.side)
    }

    /// A picture's tiles as `[tiles, 3, side, side]`.
    pub(super) fn image(&self, image: &RgbImage) -> Result<candle_core::Tensor, ModelError> {
        let tiles = self.tiling.cut(image, self.side, self.images.filter)?;
        self.images.normalise.tensor(&tiles)
    }

    /// A clip's frames as `[frames, 3, side, side]`.
    pub(super) fn clip(&self, frames: &[RgbImage]) -> Result<candle_core::Tensor, ModelError> {
        let frames = scaled(frames, (self.side, self.side), self.clips.filter)?;
        self.clips.normalise.tensor(&frames)
    }
}

impl Look {
    const PUBLISHED: Self = Self { filter: Resampling::Bicubic, normalise: Normalise::IMAGENET };

    fn read(file: Reader<'_>, side: u32) -> Result<Self, ModelError> {
        file.only("do_resize", true)?;
        file.only("do_center_crop", false)?;
        file.only("do_pad", false)?;
        // A number alone is a square's side here.
        let number = file.get::<Value>("size")?.and_then(|size| size.as_u64());
        let size = match (number, Size::read(&file, "size")?) {
            (Some(number), _) => number == u64::from(side),
            (None, None) => side == 384,
            (None, Some(size)) => size == Size::Exact { width: side, height: side },
        };
        if !size {
            let given = file.get::<Value>("size")?.unwrap_or_else(|| Value::from(384));
            let supported = format!("height and width {side}, as the config's image_size");
            return Err(file.unsupported("size", given, supported));
        }
        let look = Self {
            filter: resampling(&file, Resampling::Bicubic)?,
            normalise: Normalise::read(&file, Normalise::CLIP)?,
        };
        // transformers' processor asks for tiles whatever crop_to_patches says; pictures have three
        // channels here; the rest is how values are handed on.
        file.ignore(&[
            "crop_size",
            "crop_to_patches",
            "data_format",
            "default_to_square",
            "device",
            "disable_grouping",
            "do_convert_rgb",
            "feature_extractor_type",
            "image_processor_type",
            "input_data_format",
            "pad_size",
            "processor_class",
            "return_metadata",
            "return_tensors",
            "video_metadata",
            "video_processor_type",
        ]);
        file.finish()?;
        Ok(look)
    }
}

/// The middles of `num_frames` equal parts, where the file has a number. (The authors' own rule lies at
/// most one frame apart.)
fn policy(file: &Reader<'_>) -> Result<Option<MediaPolicy>, ModelError> {
    let frames: Option<usize> = file.get("num_frames")?;
    let sampled = file.get("do_sample_frames")?.unwrap_or(false);
    let shift: Option<Value> = file.get("initial_shift")?;
    if sampled {
        file.never("fps")?;
    }
    file.ignore(&["fps"]);
    let Some(frames) = frames else { return Ok(None) };
    if let Some(shift) = shift.filter(|shift| *shift != Value::Bool(true)) {
        return Err(file.unsupported("initial_shift", shift, "true"));
    }
    let policy = MediaPolicy::count(frames, CountRule::SegmentMiddle);
    match policy.validate() {
        Ok(()) => Ok(Some(policy)),
        Err(reason) => Err(file.unsupported("num_frames", frames, reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `get_optimal_tiled_canvas` of transformers 5.24.
    #[test]
    fn canvases_are_those_of_the_reference() {
        let dozen = Tiling { fewest: 1, most: 12, whole: true };
        for (size, want) in [
            ((448, 448), (1, 1)),
            ((1, 1), (1, 1)),
            ((640, 480), (4, 3)),
            ((1920, 1080), (4, 2)),
            ((720, 1280), (2, 4)),
            ((3000, 200), (12, 1)),
            ((900, 896), (2, 2)),
            ((1300, 1300), (3, 3)),
            ((500, 750), (2, 3)),
            ((33, 70), (1, 2)),
            ((5000, 1), (12, 1)),
        ] {
            assert_eq!(dozen.canvas(size, 448), want, "{size:?}");
        }
        let few = Tiling { fewest: 2, most: 3, whole: true };
        assert_eq!(few.canvas((500, 400), 448), (1, 2));
        assert_eq!(few.canvas((1500, 1200), 448), (2, 1));
        // No canvas has as many tiles as are asked for.
        assert_eq!(Tiling { fewest: 5, most: 3, whole: true }.canvas((9, 1), 448), (1, 1));
        assert_eq!((dozen.count((448, 448), 448), dozen.count((1344, 448), 448)), (1, 4));
        assert_eq!(Tiling { whole: false, ..dozen }.count((1344, 448), 448), 3);
    }
}
