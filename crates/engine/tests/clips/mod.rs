//! Clips for the tests.

use std::path::Path;

use savi_schema::Media;

/// A folder of four frames whose colours depend on `shade`.
pub(crate) fn clip(dir: &Path, name: &str, shade: u8) -> Media {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for i in 0..4u8 {
        let pixels = image::RgbImage::from_fn(20, 16, |x, y| {
            image::Rgb([shade.wrapping_mul(i + 1), (x * 12) as u8, (y * 15) as u8 ^ shade])
        });
        pixels.save(folder.join(format!("{i}.png"))).unwrap();
    }
    Media { source: folder.to_string_lossy().into_owned(), policy: None }
}
