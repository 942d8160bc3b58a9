//! The one resampler: Pillow's convolution resize, through `fast_image_resize`.
//!
//! Every frame and picture that a model sees is scaled here and only here, so that training,
//! judging, evaluation and serving agree on the pixels.

use fast_image_resize as fir;
use fir::pixels::U8x3;
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
    resample_pixels(&image.data, (image.width, image.height), (width, height), filter)
}

/// [`resample`] for packed RGB that is only borrowed, so that a decoder can use one buffer for all
/// its full-size pictures.
pub fn resample_pixels(
    pixels: &[u8],
    from: (u32, u32),
    to: (u32, u32),
    filter: Resampling,
) -> Result<RgbImage, ResampleError> {
    let fail = |reason: String| ResampleError { from, to, reason };
    if from == to {
        return RgbImage::new(to.0, to.1, pixels).ok_or_else(|| fail("bad length".to_owned()));
    }
    let algorithm = match filter {
        Resampling::Nearest => fir::ResizeAlg::Nearest,
        Resampling::Box => fir::ResizeAlg::Convolution(fir::FilterType::Box),
        Resampling::Bilinear => fir::ResizeAlg::Convolution(fir::FilterType::Bilinear),
        Resampling::Bicubic => fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom),
        Resampling::Lanczos => fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3),
    };
    let options = fir::ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    let mut resizer = fir::Resizer::new();
    let mut pass = |pixels: &[u8], from: (u32, u32), to: (u32, u32)| {
        // Typed, or the compiler would make code for every type of pixel that the library knows.
        let source = fir::images::TypedImageRef::<U8x3>::from_buffer(from.0, from.1, pixels)
            .map_err(|e| fail(e.to_string()))?;
        let mut scaled = vec![0u8; to.0 as usize * to.1 as usize * 3];
        let mut target = fir::images::TypedImage::<U8x3>::from_buffer(to.0, to.1, &mut scaled)
            .map_err(|e| fail(e.to_string()))?;
        resizer
            .resize_typed(&source, &mut target, Some(&options))
            .map_err(|e| fail(e.to_string()))?;
        Ok::<_, ResampleError>(scaled)
    };
    // Pillow scales along the rows first and rounds to 8 bits in between, or along the columns first
    // where the width grows and the height shrinks (13.0, by experiment). The library has an order of
    // its own, which differs where a filter overshoots.
    let between = if to.0 > from.0 && to.1 < from.1 { (from.0, to.1) } else { (to.0, from.1) };
    let scaled = if filter == Resampling::Nearest || between == from || between == to {
        pass(pixels, from, to)?
    } else {
        let rows = pass(pixels, from, between)?;
        pass(&rows, between, to)?
    };
    RgbImage::new(to.0, to.1, scaled).ok_or_else(|| fail("empty size".to_owned()))
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
