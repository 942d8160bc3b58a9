//! Pictures and clips on their way into a model: what they are, what stands for them in a prompt, and
//! what the tower is given.

use candle_core::{Result as TensorResult, Tensor, bail};
use savi_schema::{Clip, ClipMetadata, FrameSampling, MediaPolicy, RgbImage};
use serde::{Deserialize, Serialize};

/// A still picture or a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VisualKind {
    /// A still picture.
    Image,
    /// A clip.
    Video,
}

/// A picture or a clip, decoded.
#[derive(Debug, Clone)]
pub struct Visual {
    /// Which of both.
    pub kind: VisualKind,
    /// The frames; one of a picture.
    pub frames: Vec<RgbImage>,
    /// When each frame is shown, in seconds; empty of a picture.
    pub times: Vec<f64>,
    /// What the clip's file says about itself; none of a picture, and where frames come without a
    /// file.
    pub metadata: Option<ClipMetadata>,
    /// How many pictures the prompt has; some models look at one more closely than at several.
    pub pictures: usize,
    /// Seconds of the clip that the frames stand for, where that is not the whole clip.
    pub stretch: Option<f64>,
}

impl Visual {
    /// A still picture.
    pub fn image(image: RgbImage) -> Self {
        Self { kind: VisualKind::Image, pictures: 1, ..Self::frames(vec![image]) }
    }

    /// Frames without a file.
    pub fn frames(frames: Vec<RgbImage>) -> Self {
        let (kind, times) = (VisualKind::Video, Vec::new());
        Self { kind, frames, times, metadata: None, stretch: None, pictures: 0 }
    }

    /// How many frames stand for a second of the clip; none where nothing is known of its time.
    pub fn rate(&self) -> Option<f64> {
        let count = self.frames.len() as f64;
        let rate = match (self.stretch, &self.metadata) {
            (Some(seconds), _) => count / seconds,
            (None, Some(clip)) => count / clip.frame_count as f64 * clip.fps,
            (None, None) => return None,
        };
        Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0)
    }

    /// Size of the first frame, `(width, height)`.
    pub fn size(&self) -> (u32, u32) {
        self.frames.first().map_or((0, 0), |frame| (frame.width, frame.height))
    }
}

impl From<Clip> for Visual {
    fn from(clip: Clip) -> Self {
        let times: Vec<f64> = clip.frames.iter().map(|frame| frame.time).collect();
        let frames = clip.frames.into_iter().map(|frame| frame.image).collect();
        let MediaPolicy { sampling, start, end, .. } = &clip.policy;
        let stretch = match (sampling, times.as_slice()) {
            // Every frame stands for as long as they are apart.
            (FrameSampling::Times { .. }, [first, .., last]) => {
                let gaps = times.len() - 1;
                Some((last - first).abs() * times.len() as f64 / gaps as f64)
            }
            _ if start.is_some() || end.is_some() => {
                let whole = clip.metadata.duration;
                Some(end.map_or(whole, |end| end.min(whole)) - start.unwrap_or(0.0))
            }
            _ => None,
        };
        let metadata = Some(clip.metadata);
        Self { times, metadata, stretch: stretch.filter(|s| *s > 0.0), ..Self::frames(frames) }
    }
}

/// How a chat template shows a picture or a clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// By the word of this token.
    Token(u32),
    /// By this word.
    Word(String),
}

/// A part of what stands in a prompt for a picture or a clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// Words.
    Words(String),
    /// So many times the placeholder `id`, each for one visual token.
    Tokens {
        /// The placeholder.
        id: u32,
        /// How many.
        count: usize,
    },
}

/// Visual tokens in time, rows and columns, for models whose positions have three axes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenGrid {
    /// Steps in time.
    pub frames: usize,
    /// Rows of a step.
    pub rows: usize,
    /// Columns of a step.
    pub columns: usize,
    /// How far positions in time are apart; they are rounded down.
    pub interval: f64,
}

/// Positions of a prompt's tokens on three axes (time, row, column), and where what follows goes on.
pub type Coordinates = (Vec<[u32; 3]>, u32);

/// What stands in a prompt for a picture or a clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// In the place of the template's mark.
    pub pieces: Vec<Piece>,
    /// How the tokens lie, where positions have three axes.
    pub grid: Option<TokenGrid>,
}

impl Plan {
    /// `count` placeholders and nothing else.
    pub fn tokens(id: u32, count: usize) -> Self {
        Self { pieces: vec![Piece::Tokens { id, count }], grid: None }
    }

    /// Number of visual tokens.
    pub fn len(&self) -> usize {
        let counts = self.pieces.iter().map(|piece| match piece {
            Piece::Words(_) => 0,
            Piece::Tokens { count, .. } => *count,
        });
        counts.sum()
    }

    /// Whether it has no visual token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Flattened, normalised patches of a picture or a clip.
#[derive(Debug, Clone)]
pub struct Pixels {
    /// Picture or clip.
    pub kind: VisualKind,
    /// The patches, `[patches, elements]`: grid by grid, in the order in which the tower takes them.
    pub patches: Tensor,
    /// Patches of every tile, frame or (where patches reach over time) clip: steps in time, rows,
    /// columns.
    pub grids: Vec<[usize; 3]>,
    /// Size of the picture before it was scaled, `(width, height)`.
    pub size: (u32, u32),
}

impl Pixels {
    /// Cuts normalised pictures of one size, `[pictures, 3, height, width]`, into square patches; what
    /// does not fill a patch at the right and the bottom is left out.
    pub fn cut(
        kind: VisualKind,
        images: &Tensor,
        patch: usize,
        size: (u32, u32),
    ) -> TensorResult<Self> {
        let (count, channels, height, width) = images.dims4()?;
        let (rows, columns) = (height / patch, width / patch);
        if rows == 0 || columns == 0 {
            bail!("pictures {:?} are smaller than a patch of {patch}", images.dims());
        }
        let images = images.narrow(2, 0, rows * patch)?.narrow(3, 0, columns * patch)?;
        let patches = images
            .reshape(vec![count, channels, rows, patch, columns, patch])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((count * rows * columns, channels * patch * patch))?;
        Ok(Self { kind, patches, grids: vec![[1, rows, columns]; count], size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(policy: MediaPolicy, times: &[f64]) -> Visual {
        let image = RgbImage::new(1, 1, vec![0; 3]).unwrap();
        let frame = |&time: &f64| savi_schema::Frame {
            time,
            requested: time,
            index: None,
            image: image.clone(),
        };
        let metadata = ClipMetadata {
            duration: 10.0,
            width: 1,
            height: 1,
            fps: 5.0,
            frame_count: 50,
            rotation: 0,
            codec: String::new(),
        };
        let frames = times.iter().map(frame).collect();
        Clip { source: String::new(), metadata, policy, frames, partial: None }.into()
    }

    #[test]
    fn the_rate_of_a_part_is_that_of_the_part() {
        let mut policy = MediaPolicy::count(4, savi_schema::CountRule::Linspace);
        let times = [0.0, 3.2, 6.4, 9.8];
        assert_eq!(clip(policy.clone(), &times).rate(), Some(0.4));
        (policy.start, policy.end) = (Some(2.0), Some(20.0));
        assert_eq!(clip(policy, &times).rate(), Some(0.5));
        let times = vec![1.0, 1.5, 2.0];
        let policy = MediaPolicy::new(FrameSampling::Times { times: times.clone() });
        assert_eq!(clip(policy, &times).rate(), Some(2.0));
        assert_eq!(Visual::frames(Vec::new()).rate(), None);
    }
}
