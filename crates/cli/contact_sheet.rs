//! One picture that shows all frames of a clip with their times.

use savi_schema::{Frame, ResampleError, Resampling, RgbImage, resample};

/// Longest side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 200;
/// Most thumbnails in a row.
const COLUMNS: usize = 6;
const GAP: usize = 6;
/// Height of a caption: five rows of font at double size, with air.
const CAPTION: usize = 16;
const BACKGROUND: u8 = 24;

/// Rows of 3 bits, top to bottom, most significant bit left.
const FONT: [(char, [u8; 5]); 12] = [
    ('0', [0b111, 0b101, 0b101, 0b101, 0b111]),
    ('1', [0b010, 0b110, 0b010, 0b010, 0b111]),
    ('2', [0b111, 0b001, 0b111, 0b100, 0b111]),
    ('3', [0b111, 0b001, 0b111, 0b001, 0b111]),
    ('4', [0b101, 0b101, 0b111, 0b001, 0b001]),
    ('5', [0b111, 0b100, 0b111, 0b001, 0b111]),
    ('6', [0b111, 0b100, 0b111, 0b101, 0b111]),
    ('7', [0b111, 0b001, 0b010, 0b010, 0b010]),
    ('8', [0b111, 0b101, 0b111, 0b101, 0b111]),
    ('9', [0b111, 0b101, 0b111, 0b001, 0b111]),
    ('.', [0b000, 0b000, 0b000, 0b000, 0b010]),
    ('s', [0b011, 0b100, 0b010, 0b001, 0b110]),
];

/// Thumbnails in rows, each with its time in seconds under it.
pub(crate) fn contact_sheet(frames: &[Frame]) -> Result<RgbImage, ResampleError> {
    let mut thumbnails = Vec::with_capacity(frames.len());
    for frame in frames {
        let (width, height) = (frame.image.width, frame.image.height);
        let scale = f64::from(THUMBNAIL) / f64::from(width.max(height).max(1));
        let side = |s: u32| ((f64::from(s) * scale).round() as u32).clamp(1, THUMBNAIL);
        thumbnails.push(resample(&frame.image, side(width), side(height), Resampling::Bicubic)?);
    }
    let widest = thumbnails.iter().map(|t| t.width as usize).max().unwrap_or(1);
    let highest = thumbnails.iter().map(|t| t.height as usize).max().unwrap_or(1);
    let columns = thumbnails.len().clamp(1, COLUMNS);
    let rows = thumbnails.len().div_ceil(columns).max(1);
    let (cell_width, cell_height) = (widest + GAP, highest + CAPTION + GAP);
    let mut sheet = Sheet::new(columns * cell_width + GAP, rows * cell_height + GAP);
    for (number, (thumbnail, frame)) in thumbnails.iter().zip(frames).enumerate() {
        let x = GAP + number % columns * cell_width;
        let y = GAP + number / columns * cell_height;
        sheet.paste(thumbnail, x, y);
        sheet.write(&format!("{:.2}s", frame.time), x, y + highest + 4);
    }
    let (width, height) = (sheet.width, sheet.pixels.len() / 3 / sheet.width);
    let size = (width as u32, height as u32);
    RgbImage::new(size.0, size.1, sheet.pixels).ok_or(ResampleError {
        from: size,
        to: size,
        reason: "contact sheet too large".to_owned(),
    })
}

struct Sheet {
    width: usize,
    pixels: Vec<u8>,
}

impl Sheet {
    fn new(width: usize, height: usize) -> Self {
        Self { width, pixels: vec![BACKGROUND; width * height * 3] }
    }

    fn paste(&mut self, picture: &RgbImage, x: usize, y: usize) {
        let length = picture.width as usize * 3;
        for (row, bytes) in picture.data.chunks_exact(length).enumerate() {
            let at = ((y + row) * self.width + x) * 3;
            self.pixels[at..at + length].copy_from_slice(bytes);
        }
    }

    /// Draws what fits of `text`, two pixels to a font pixel.
    fn write(&mut self, text: &str, x: usize, y: usize) {
        for (place, letter) in text.chars().enumerate() {
            let Some((_, rows)) = FONT.iter().find(|(c, _)| *c == letter) else { continue };
            for dot in 0..5 * 3 * 4 {
                let (dx, dy) = (dot % 6, dot / 6);
                let column = x + place * 8 + dx;
                if rows[dy / 2] & (0b100 >> (dx / 2)) != 0 && column < self.width {
                    let at = ((y + dy) * self.width + column) * 3;
                    self.pixels[at..at + 3].fill(224);
                }
            }
        }
    }
}
