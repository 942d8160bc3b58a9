//! The one resampler: Pillow's convolution resize, through `fast_image_resize`.
//!
//! Every frame and picture that a model sees is scaled here and only here, so that training,
//! judging, evaluation and serving agree on the pixels.

use fast_image_resize as fir;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::RgbImage;

/// Filter of a resize, with Pillow's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resampling {
    /// Nearest neighbour.
    Nearest,
    /// Box.
    Box,
    /// Triangle.
    Bilinear,
    /// Cubic convolution, a = -0.5.
    #[default]
    Bicubic,
    /// Windowed sinc of width 3.
    Lanczos,
}

/// A resize that cannot be carried out.
#[derive(Debug, Error)]
#[error("cannot resize {from:?} to {to:?}: {reason}")]
pub struct ResampleError {
    /// Size of the input.
    pub from: (u32, u32),
    /// Size that was asked for.
    pub to: (u32, u32),
    /// Why.
    pub reason: String,
}

/// Scales `image` to `width` x `height` as Pillow's `Image.resize` does. A picture of the right
/// size is returned as it is.
pub fn resample(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: Resampling,
) -> Result<RgbImage, ResampleError> {
    if (image.width, image.height) == (width, height) {
        return Ok(image.clone());
    }
    let fail = |reason: String| ResampleError {
        from: (image.width, image.height),
        to: (width, height),
        reason,
    };
    let source =
        fir::images::ImageRef::new(image.width, image.height, &image.data, fir::PixelType::U8x3)
            .map_err(|e| fail(e.to_string()))?;
    let mut target = fir::images::Image::new(width, height, fir::PixelType::U8x3);
    let algorithm = match filter {
        Resampling::Nearest => fir::ResizeAlg::Nearest,
        Resampling::Box => fir::ResizeAlg::Convolution(fir::FilterType::Box),
        Resampling::Bilinear => fir::ResizeAlg::Convolution(fir::FilterType::Bilinear),
        Resampling::Bicubic => fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom),
        Resampling::Lanczos => fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3),
    };
    let options = fir::ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    fir::Resizer::new()
        .resize(&source, &mut target, Some(&options))
        .map_err(|e| fail(e.to_string()))?;
    RgbImage::new(width, height, target.into_vec()).ok_or_else(|| fail("empty size".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest difference from Pillow, in levels: both use fixed-point weights, of 8 to 22 bits, and
    /// may round a half to either side.
    const TOLERANCE: u8 = 1;

    fn open(name: &str) -> RgbImage {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/resample/");
        let picture = image::open(format!("{root}{name}.png")).unwrap().into_rgb8();
        RgbImage::new(picture.width(), picture.height(), picture.into_raw()).unwrap()
    }

    #[test]
    fn agrees_with_pillow() {
        let filters = [
            ("nearest", Resampling::Nearest),
            ("box", Resampling::Box),
            ("bilinear", Resampling::Bilinear),
            ("bicubic", Resampling::Bicubic),
            ("lanczos", Resampling::Lanczos),
        ];
        let sizes = [(32, 24), (31, 23), (17, 40), (97, 73), (130, 50), (96, 71), (1, 1)];
        let source = open("source");
        let mut faults = Vec::new();
        for (name, filter) in filters {
            for (width, height) in sizes {
                let ours = resample(&source, width, height, filter).unwrap();
                let theirs = open(&format!("{name}-{width}x{height}"));
                let pairs = ours.data.iter().zip(theirs.data.iter());
                let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                if worst > TOLERANCE {
                    faults.push(format!("{name} {width}x{height}: {worst}"));
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let source = open("source");
        let same = resample(&source, source.width, source.height, Resampling::Bicubic).unwrap();
        assert_eq!(same, source);
    }
}
