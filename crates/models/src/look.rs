//! How the image and video processors of the LLaVA families and of DINOv2 prepare a picture: scale, crop,
//! normalise; read from their files.

use savi_schema::{Resampling, RgbImage, resample};
use serde_json::Value;

use crate::ModelError;
use crate::processing::{Normalise, Processors, Size, crop, resampling};
use crate::reader::Reader;
use crate::visual::VisualKind;

/// Keys that say how files are read and tensors are made, not what is in them.
pub(crate) const IDLE: &[&str] = &[
    "auto_map",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "do_pad",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "pad_size",
    "processor_class",
    "return_metadata",
    "return_tensors",
    "size_divisor",
    "use_fast",
    "video_metadata",
    "video_processor_type",
];

/// What a processor does where its file is silent.
#[derive(Debug, Clone)]
pub(crate) struct Usual {
    pub(crate) size: Size,
    pub(crate) crop: Option<u32>,
    pub(crate) normalise: Normalise,
}

/// What is done to every picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Look {
    pub(crate) size: Size,
    resize: bool,
    pub(crate) filter: Resampling,
    /// Width and height of the middle; given, but not always cut.
    pub(crate) crop_size: Option<(u32, u32)>,
    crop: bool,
    pub(crate) normalise: Normalise,
    /// Where the width or height of a crop is larger than a picture's by an odd number, the larger part of
    /// what is added lies before the picture (Pillow) or behind it (torchvision).
    more_before: bool,
}

/// The settings of one kind and the file that has them; none where there is no such file.
pub(crate) fn settings<'a>(
    processors: &'a Processors,
    kind: VisualKind,
) -> Result<Option<Reader<'a>>, ModelError> {
    let (key, file, own) = match kind {
        VisualKind::Image => ("image_processor", "preprocessor_config.json", processors.image()),
        VisualKind::Video => {
            ("video_processor", "video_preprocessor_config.json", processors.video())
        }
    };
    if own.is_null() {
        return Ok(None);
    }
    let nested = processors.whole.get(key).is_some();
    let file = if nested { "processor_config.json" } else { file };
    Reader::of_file(file, own).map(Some)
}

impl Look {
    /// Reads the settings; whoever calls finishes the file.
    pub(crate) fn read(
        config: &Reader<'_>,
        usual: &Usual,
        kind: VisualKind,
    ) -> Result<Self, ModelError> {
        config.ignore(IDLE);
        // Of a size that is one number: the side of a square where it is true.
        if config.get::<Value>("size")?.is_some_and(|size| size.is_number()) {
            config.only("default_to_square", false)?;
        }
        config.ignore(&["default_to_square"]);
        let crop_size = match Size::read(config, "crop_size")? {
            Some(Size::Exact { width, height }) => Some((width, height)),
            Some(Size::Shortest(side)) => Some((side, side)),
            Some(Size::Longest(side)) => {
                return Err(config.unsupported("crop_size.longest_edge", side, "height and width"));
            }
            None => usual.crop.map(|side| (side, side)),
        };
        let size = match Size::read(config, "size")? {
            Some(Size::Longest(side)) => {
                let known = "height and width, or shortest_edge";
                return Err(config.unsupported("size.longest_edge", side, known));
            }
            size => size.unwrap_or(usual.size),
        };
        let crop = config.get("do_center_crop")?.unwrap_or(usual.crop.is_some());
        if crop && crop_size.is_none() {
            return Err(config.unsupported("crop_size", "null", "a size, as do_center_crop asks"));
        }
        Ok(Self {
            size,
            resize: config.get("do_resize")?.unwrap_or(true),
            filter: resampling(config, Resampling::Bicubic)?,
            crop_size,
            crop,
            normalise: Normalise::read(config, usual.normalise)?,
            more_before: kind == VisualKind::Image,
        })
    }

    /// As a model without such a file has it.
    pub(crate) fn usual(usual: &Usual) -> Self {
        Self {
            size: usual.size,
            resize: true,
            filter: Resampling::Bicubic,
            crop_size: usual.crop.map(|side| (side, side)),
            crop: usual.crop.is_some(),
            normalise: usual.normalise,
            more_before: true,
        }
    }

    /// A picture scaled and cropped.
    pub(crate) fn prepare(&self, image: &RgbImage) -> Result<RgbImage, ModelError> {
        let mut image = image.clone();
        if self.resize {
            let (width, height) = match self.size {
                Size::Exact { width, height } => (width, height),
                Size::Shortest(edge) | Size::Longest(edge) => {
                    let least = u64::from(image.width.min(image.height).max(1));
                    let scaled = |side: u32| (u64::from(edge) * u64::from(side) / least) as u32;
                    (scaled(image.width), scaled(image.height))
                }
            };
            image = resample(&image, width, height, self.filter)?;
        }
        let Some((width, height)) = self.crop_size.filter(|_| self.crop) else { return Ok(image) };
        let offset = |whole: u32, part: u32| {
            let room = i64::from(whole) - i64::from(part);
            if self.more_before { room.div_euclid(2) } else { room / 2 }
        };
        let corner = (offset(image.width, width), offset(image.height, height));
        Ok(crop(&image, corner, (width, height)))
    }
}
