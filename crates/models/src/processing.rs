//! What the image processors of all families do: scale, crop, normalise; and the reading of their
//! files.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use savi_schema::{Resampling, RgbImage, resample};
use serde_json::Value;

use crate::ModelError;
use crate::reader::Reader;

/// The files that say how a model's pictures are prepared, as they were read; null where a model has
/// none.
#[derive(Debug, Clone, Default)]
pub struct Processors {
    /// `preprocessor_config.json`.
    pub image: Value,
    /// `video_preprocessor_config.json`.
    pub video: Value,
    /// `processor_config.json`.
    pub whole: Value,
    /// Special tokens by their words, for models whose config has no number of those that stand for
    /// pictures.
    pub tokens: BTreeMap<String, u32>,
}

impl Processors {
    /// Settings for still pictures: newer files have them in `processor_config.json`.
    pub(crate) fn image(&self) -> &Value {
        self.whole.get("image_processor").unwrap_or(&self.image)
    }

    /// Settings for clips; those for pictures where a model has none of its own.
    pub(crate) fn video(&self) -> &Value {
        match self.whole.get("video_processor") {
            Some(video) => video,
            None if self.video.is_null() => self.image(),
            None => &self.video,
        }
    }
}

/// What is done to every value of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Normalise {
    /// Factor on the 8-bit values; 1 where they stay.
    pub(crate) scale: f32,
    /// Taken off, by channel.
    pub(crate) mean: [f32; 3],
    /// Divided by, by channel.
    pub(crate) std: [f32; 3],
}

impl Normalise {
    /// To [-1, 1], as SigLIP has it.
    pub(crate) const HALF: Self = Self { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.5; 3] };
    /// CLIP's.
    pub(crate) const CLIP: Self = Self {
        scale: 1.0 / 255.0,
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_72],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };
    /// ImageNet's.
    pub(crate) const IMAGENET: Self =
        Self { scale: 1.0 / 255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// Reads `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`, `image_std`.
    pub(crate) fn read(config: &Reader<'_>, usual: Self) -> Result<Self, ModelError> {
        let factor = config.positive("rescale_factor")?.map_or(usual.scale, |x| x as f32);
        let scale = if config.get("do_rescale")?.unwrap_or(true) { factor } else { 1.0 };
        let mean = config.get("image_mean")?.unwrap_or(usual.mean);
        let std: [f32; 3] = config.get("image_std")?.unwrap_or(usual.std);
        if std.iter().any(|x| x.is_nan() || *x <= 0.0) {
            return Err(config.unsupported("image_std", format!("{std:?}"), "positive numbers"));
        }
        let normal = config.get("do_normalize")?.unwrap_or(true);
        let (mean, std) = if normal { (mean, std) } else { ([0.0; 3], [1.0; 3]) };
        Ok(Self { scale, mean, std })
    }

    /// Pictures of one size as `[pictures, 3, height, width]`, f32 on the CPU.
    pub(crate) fn tensor(&self, images: &[RgbImage]) -> Result<Tensor, ModelError> {
        let (width, height) = images.first().map_or((0, 0), |image| (image.width, image.height));
        let area = width as usize * height as usize;
        let mut values = vec![0f32; images.len() * 3 * area];
        for (image, planes) in images.iter().zip(values.chunks_exact_mut((3 * area).max(1))) {
            if (image.width, image.height) != (width, height) {
                return Err(ModelError::Unsupported {
                    key: "frame size".to_owned(),
                    value: format!("{}x{}", image.width, image.height),
                    supported: format!("{width}x{height}, as the first frame has it"),
                });
            }
            for channel in 0..3 {
                let (mean, std) = (self.mean[channel], self.std[channel]);
                let plane = &mut planes[channel * area..(channel + 1) * area];
                for (value, pixel) in plane.iter_mut().zip(image.data.chunks_exact(3)) {
                    *value = (f32::from(pixel[channel]) * self.scale - mean) / std;
                }
            }
        }
        let shape = (images.len(), 3, height as usize, width as usize);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// Reads `resample`, Pillow's number of a filter.
pub(crate) fn resampling(config: &Reader<'_>, usual: Resampling) -> Result<Resampling, ModelError> {
    Ok(match config.get::<u32>("resample")? {
        None => usual,
        Some(0) => Resampling::Nearest,
        Some(1) => Resampling::Lanczos,
        Some(2) => Resampling::Bilinear,
        Some(3) => Resampling::Bicubic,
        Some(4) => Resampling::Box,
        Some(other) => return Err(config.unsupported("resample", other, "0 to 4")),
    })
}

/// A size as processors write it: a number, `{"height", "width"}`, `{"shortest_edge"}` or
/// `{"longest_edge"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Exact { width: u32, height: u32 },
    Shortest(u32),
    Longest(u32),
}

impl Size {
    /// Reads `key`; none where it is absent. A number alone is the shorter side.
    pub(crate) fn read(config: &Reader<'_>, key: &str) -> Result<Option<Self>, ModelError> {
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let Some(value) = config.get::<Value>(key)? else { return Ok(None) };
        let of = |name: &str| value.get(name).and_then(number);
        let size = match (of("height"), of("width"), of("shortest_edge"), of("longest_edge")) {
            _ if number(&value).is_some() => number(&value).map(Self::Shortest),
            (Some(height), Some(width), None, None) => Some(Self::Exact { width, height }),
            (None, None, Some(edge), None) => Some(Self::Shortest(edge)),
            (None, None, None, Some(edge)) => Some(Self::Longest(edge)),
            _ => None,
        };
        match size {
            Some(size) if !size.is_empty() => Ok(Some(size)),
            _ => Err(config.unsupported(
                key,
                &value,
                "a positive number, height and width, shortest_edge, or longest_edge",
            )),
        }
    }

    fn is_empty(self) -> bool {
        match self {
            Self::Exact { width, height } => width == 0 || height == 0,
            Self::Shortest(edge) | Self::Longest(edge) => edge == 0,
        }
    }
}

/// Scales every picture to one size.
pub(crate) fn scaled(
    images: &[RgbImage],
    (width, height): (u32, u32),
    filter: Resampling,
) -> Result<Vec<RgbImage>, ModelError> {
    images.iter().map(|image| Ok(resample(image, width, height, filter)?)).collect()
}

/// A part of a picture; what lies outside it is black.
pub(crate) fn crop(
    image: &RgbImage,
    (left, top): (i64, i64),
    (width, height): (u32, u32),
) -> RgbImage {
    let mut data = vec![0u8; width as usize * height as usize * 3];
    let from = (-left).clamp(0, i64::from(width));
    let to = (i64::from(image.width) - left).clamp(from, i64::from(width));
    for y in 0..height {
        let row = top + i64::from(y);
        if (0..i64::from(image.height)).contains(&row) && to > from {
            let source = ((row * i64::from(image.width) + left + from) * 3) as usize;
            let target = ((i64::from(y) * i64::from(width) + from) * 3) as usize;
            let bytes = ((to - from) * 3) as usize;
            data[target..target + bytes].copy_from_slice(&image.data[source..source + bytes]);
        }
    }
    RgbImage { width, height, data: data.into() }
}
