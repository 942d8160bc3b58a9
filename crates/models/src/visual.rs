//! Pictures and clips on their way into a model: what they are, what stands for them in a prompt, and
//! what the tower is given.

use candle_core::{Result as TensorResult, Tensor, bail};
use savi_schema::{Clip, ClipMetadata, RgbImage};

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
}

impl Visual {
    /// A still picture.
    pub fn image(image: RgbImage) -> Self {
        Self { kind: VisualKind::Image, pictures: 1, ..Self::frames(vec![image]) }
    }

    /// Frames without a file.
    pub fn frames(frames: Vec<RgbImage>) -> Self {
        Self { kind: VisualKind::Video, frames, times: Vec::new(), metadata: None, pictures: 0 }
    }

    /// Size of the first frame, `(width, height)`.
    pub fn size(&self) -> (u32, u32) {
        self.frames.first().map_or((0, 0), |frame| (frame.width, frame.height))
    }
}

impl From<Clip> for Visual {
    fn from(clip: Clip) -> Self {
        let times = clip.frames.iter().map(|frame| frame.time).collect();
        let frames = clip.frames.into_iter().map(|frame| frame.image).collect();
        Self { times, metadata: Some(clip.metadata), ..Self::frames(frames) }
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq)]
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

/// What stands in a prompt for a picture or a clip.
#[derive(Debug, Clone, PartialEq)]
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
