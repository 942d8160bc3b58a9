//! Pictures of any resolution (LLaVA-NeXT, Liu et al. 2024): a picture is scaled and padded to the best of
//! some sizes and cut into tiles; the tower is shown the whole and the tiles, and the tokens that lie in the
//! padding are taken out again.

use savi_schema::{Resampling, RgbImage, resample};

use crate::ModelError;
use crate::processing::crop;

/// How pictures are cut.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Anyres {
    /// Heights and widths to choose from.
    pub(crate) pinpoints: Vec<[u32; 2]>,
    /// Tokens along one side of a tile.
    pub(crate) side: usize,
    /// Pixels along one side of a tile.
    pub(crate) tile: u32,
    /// A picture with the tokens of more tiles, and a fifth more, is scaled down to them (LLaVA-OneVision,
    /// Li et al. 2024).
    pub(crate) most_tiles: Option<usize>,
}

/// How the tokens of a picture's tiles lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    /// Tiles in rows and columns.
    pub(crate) tiles: [usize; 2],
    /// Tokens above and left of the picture, in the padding.
    pub(crate) skipped: [usize; 2],
    /// Rows and columns of tokens that show the picture.
    pub(crate) grid: [usize; 2],
    /// Rows and columns that these are scaled to.
    pub(crate) scaled: [usize; 2],
}

impl Layout {
    /// Tokens of the tiles, a newline token after each row.
    pub(crate) fn tokens(&self) -> usize {
        self.scaled[0] * (self.scaled[1] + 1)
    }
}

impl Anyres {
    /// Tokens of the whole picture, or of one tile.
    pub(crate) fn per_tile(&self) -> usize {
        self.side * self.side
    }

    /// Height and width that a picture of `(width, height)` is scaled and padded to: where most of its
    /// pixels are kept, and of those where least is padded.
    fn best(&self, (width, height): (u32, u32)) -> Result<[u32; 2], ModelError> {
        let (own, mut best, mut found) = (u64::from(width) * u64::from(height), [0, 0], None);
        for &[h, w] in &self.pinpoints {
            let scale = (f64::from(w) / f64::from(width)).min(f64::from(h) / f64::from(height));
            let side = |side: u32| (f64::from(side) * scale) as u64;
            let kept = (side(width) * side(height)).min(own);
            let wasted = u64::from(h) * u64::from(w) - kept;
            let better =
                found.is_none_or(|(most, least)| kept > most || kept == most && wasted < least);
            if better {
                (best, found) = ([h, w], Some((kept, wasted)));
            }
        }
        match best.iter().all(|side| *side > 0 && side.is_multiple_of(self.tile)) {
            true => Ok(best),
            false => Err(ModelError::Unsupported {
                key: "config.json: image_grid_pinpoints".to_owned(),
                value: format!("{best:?}"),
                supported: format!("multiples of {}, the side of a tile", self.tile),
            }),
        }
    }

    /// How the tokens of a picture of `(width, height)` lie.
    pub(crate) fn layout(&self, size: (u32, u32)) -> Result<Layout, ModelError> {
        let tiles = self.best(size)?.map(|side| (side / self.tile) as usize);
        let whole = tiles.map(|count| count * self.side);
        let (width, height) = (f64::from(size.0), f64::from(size.1));
        let [rows, columns] = whole.map(|count| count as f64);
        // Seven decimals, by which what is a whole number but for rounding is one.
        let rounded = |x: f64| ((x * 1e7).round_ties_even() / 1e7) as usize;
        let skipped = if width / height > columns / rows {
            [(whole[0] - rounded(height * (columns / width)).min(whole[0])) / 2, 0]
        } else {
            [0, (whole[1] - rounded(width * (rows / height)).min(whole[1])) / 2]
        };
        let grid = [whole[0] - 2 * skipped[0], whole[1] - 2 * skipped[1]];
        let mut scaled = grid;
        if let Some(most) = self.most_tiles {
            let share = (grid[0] * grid[1]) as f64 / (most * self.per_tile()) as f64;
            let ratio = share.sqrt();
            if ratio > 1.1 {
                // Rounded down before it is rounded to a number: 50 fits not quite 45 times.
                let times = |count: f64| ((count - count % ratio) / ratio).round();
                scaled = grid.map(|count| times(count as f64) as usize);
            }
        }
        if grid[0] * grid[1] > 0 && scaled[0] * scaled[1] == 0 {
            return Err(ModelError::Unsupported {
                key: "size of the picture".to_owned(),
                value: format!("{}x{}", size.0, size.1),
                supported: "pictures of which something is left when they are scaled".to_owned(),
            });
        }
        Ok(Layout { tiles, skipped, grid, scaled })
    }

    /// The tiles of a picture, row by row.
    pub(crate) fn cut(
        &self,
        image: &RgbImage,
        filter: Resampling,
    ) -> Result<Vec<RgbImage>, ModelError> {
        let size = (image.width, image.height);
        let [height, width] = self.best(size)?;
        let (across, down) = (
            f64::from(width) / f64::from(image.width),
            f64::from(height) / f64::from(image.height),
        );
        let scaled = if across < down {
            (width, ((f64::from(image.height) * across).ceil() as u32).min(height))
        } else {
            (((f64::from(image.width) * down).ceil() as u32).min(width), height)
        };
        let image = resample(image, scaled.0, scaled.1, filter)?;
        let (left, top) = ((width - scaled.0) / 2, (height - scaled.1) / 2);
        let corner = |row: u32, column: u32| {
            let (x, y) = (column * self.tile, row * self.tile);
            (i64::from(x) - i64::from(left), i64::from(y) - i64::from(top))
        };
        let tiles = (0..height / self.tile)
            .flat_map(|row| (0..width / self.tile).map(move |column| (row, column)));
        let tile = (self.tile, self.tile);
        Ok(tiles.map(|(row, column)| crop(&image, corner(row, column), tile)).collect())
    }
}

/// A picture in the middle of a square of this colour.
pub(crate) fn square(image: &RgbImage, colour: [u8; 3]) -> RgbImage {
    let side = image.width.max(image.height);
    if (image.width, image.height) == (side, side) {
        return image.clone();
    }
    let (left, top) = ((side - image.width) / 2, (side - image.height) / 2);
    let mut data = colour.repeat(side as usize * side as usize);
    for (y, row) in image.data.chunks_exact(image.width as usize * 3).enumerate() {
        let at = ((y + top as usize) * side as usize + left as usize) * 3;
        data[at..at + row.len()].copy_from_slice(row);
    }
    RgbImage { width: side, height: side, data: data.into() }
}
