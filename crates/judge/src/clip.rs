//! The CLIP check of VideoSAVi v1: which of two answers lies closer to the frames.
//!
//! Which CLIP the authors used and how they pooled frames is not published. Here a clip is the mean
//! of its L2-normalised frame embeddings, compared with each answer by cosine.

use savi_schema::{Embed, GenerateError, RgbImage};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How close the clip is to each answer of a pair, as cosines.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Similarities {
    /// Cosine of the clip with the chosen answer.
    pub chosen: f64,
    /// Cosine of the clip with the rejected answer.
    pub rejected: f64,
}

impl Similarities {
    /// The swap rule: the rejected answer is strictly closer to the clip.
    pub fn should_swap(self) -> bool {
        self.rejected > self.chosen
    }

    /// The same figures after the pair was swapped.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self { chosen: self.rejected, rejected: self.chosen }
    }

    /// `lambda * (chosen - rejected)`: what CLIP-adjusted DPO adds to the logit of the pair. The
    /// authors give the loss a name and no formula; this reading is ours. 0 is plain DPO.
    pub fn margin(self, lambda: f64) -> f64 {
        lambda * (self.chosen - self.rejected)
    }
}

/// Why a pair could not be checked.
#[derive(Debug, Error)]
pub enum ClipCheckError {
    /// There is nothing to compare with.
    #[error("no frames to compare the answers with")]
    NoFrames,
    /// The embedder returned another number of vectors than it was given items.
    #[error("the embedder returned {got} {what} vectors for {asked}")]
    WrongCount {
        /// Texts or frames.
        what: &'static str,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
    /// Vectors of texts and frames differ in length, or a vector has no direction.
    #[error("the embedding of {0} cannot be compared: wrong length, zero, or not finite")]
    BadVector(String),
    /// The embedder failed.
    #[error(transparent)]
    Embed(#[from] GenerateError),
}

/// Compares both answers of a pair with the frames.
pub fn clip_check(
    embed: &dyn Embed,
    frames: &[RgbImage],
    chosen: &str,
    rejected: &str,
) -> Result<Similarities, ClipCheckError> {
    if frames.is_empty() {
        return Err(ClipCheckError::NoFrames);
    }
    let images = embed.embed_images(frames)?;
    if images.len() != frames.len() {
        return Err(ClipCheckError::WrongCount {
            what: "frame",
            asked: frames.len(),
            got: images.len(),
        });
    }
    let texts = embed.embed_texts(&[chosen.to_owned(), rejected.to_owned()])?;
    let [chosen, rejected] = &texts[..] else {
        return Err(ClipCheckError::WrongCount { what: "text", asked: 2, got: texts.len() });
    };
    let clip = mean_direction(&images)?;
    Ok(Similarities {
        chosen: cosine(&clip, chosen, "the chosen answer")?,
        rejected: cosine(&clip, rejected, "the rejected answer")?,
    })
}

/// The mean of the vectors, each first scaled to length 1.
fn mean_direction(vectors: &[Vec<f32>]) -> Result<Vec<f64>, ClipCheckError> {
    let width = vectors.first().map_or(0, Vec::len);
    let mut mean = vec![0.0; width];
    for (index, vector) in vectors.iter().enumerate() {
        let bad = || ClipCheckError::BadVector(format!("frame {index}"));
        if vector.len() != width {
            return Err(bad());
        }
        let norm = length(vector.iter().map(|&x| f64::from(x))).ok_or_else(bad)?;
        for (sum, &x) in mean.iter_mut().zip(vector) {
            *sum += f64::from(x) / norm / vectors.len() as f64;
        }
    }
    Ok(mean)
}

fn cosine(clip: &[f64], text: &[f32], what: &str) -> Result<f64, ClipCheckError> {
    let bad = |what: &str| ClipCheckError::BadVector(what.to_owned());
    if clip.len() != text.len() {
        return Err(bad(what));
    }
    let clip_length = length(clip.iter().copied()).ok_or_else(|| bad("the clip"))?;
    let text_length = length(text.iter().map(|&x| f64::from(x))).ok_or_else(|| bad(what))?;
    let dot: f64 = clip.iter().zip(text).map(|(a, &b)| a * f64::from(b)).sum();
    Ok(dot / clip_length / text_length)
}

/// Euclidean length; `None` where it is zero or not finite.
fn length(values: impl Iterator<Item = f64>) -> Option<f64> {
    let length = values.map(|x| x * x).sum::<f64>().sqrt();
    (length.is_finite() && length > 0.0).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts are their own vectors, frames the vectors of their first pixel.
    struct Fake;

    impl Embed for Fake {
        fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, GenerateError> {
            Ok(texts
                .iter()
                .map(|t| t.split(' ').filter_map(|x| x.parse().ok()).collect())
                .collect())
        }

        fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, GenerateError> {
            Ok(images.iter().map(|i| i.data[..3].iter().map(|&x| f32::from(x)).collect()).collect())
        }
    }

    fn frame(rgb: [u8; 3]) -> RgbImage {
        RgbImage::new(1, 1, rgb.to_vec()).unwrap()
    }

    #[test]
    fn compares_with_the_mean_of_unit_frames() {
        // Unit frames (1,0,0) and (0,1,0) have the mean (1/2, 1/2, 0), whatever their brightness.
        let frames = [frame([200, 0, 0]), frame([0, 3, 0])];
        let check = clip_check(&Fake, &frames, "1 0 0", "1 1 0").unwrap();
        assert!((check.chosen - 0.5f64.sqrt()).abs() < 1e-12, "{check:?}");
        assert!((check.rejected - 1.0).abs() < 1e-12, "{check:?}");
        assert!(check.should_swap());
        assert!(!check.swapped().should_swap());
        assert!((check.swapped().margin(2.0) - 2.0 * (1.0 - 0.5f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn a_tie_stays_as_judged() {
        assert!(!Similarities { chosen: 0.3, rejected: 0.3 }.should_swap());
    }

    #[test]
    fn refuses_what_has_no_direction() {
        let frames = [frame([1, 0, 0])];
        for (frames, chosen, message) in [
            (&frames[..0], "1 0 0", "no frames"),
            (&frames[..], "0 0 0", "the chosen answer"),
            (&frames[..], "1 0", "the chosen answer"),
            (&[frame([0, 0, 0])][..], "1 0 0", "frame 0"),
        ] {
            let error = clip_check(&Fake, frames, chosen, "1 0 0").unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
