//! The CLIP embedder against transformers.

use std::path::Path;

use savi_engine::ClipEmbedder;
use savi_schema::{Embed, RgbImage};

/// Largest difference in a component of a unit vector.
const TOLERANCE: f64 = 1e-5;
/// For pictures: resampled pixels may differ by one level of 255.
const PICTURE_TOLERANCE: f64 = 4e-3;

fn compare(ours: &[Vec<f32>], golden: &serde_json::Value, tolerance: f64) {
    let golden: Vec<Vec<f64>> = serde_json::from_value(golden.clone()).unwrap();
    assert_eq!(ours.len(), golden.len());
    for (number, (ours, golden)) in ours.iter().zip(&golden).enumerate() {
        let worst =
            ours.iter().zip(golden).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < tolerance, "{number}: {worst}");
    }
}

#[test]
fn embeddings_are_those_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/clip");
    let io: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("io.json")).unwrap()).unwrap();
    let clip = ClipEmbedder::load(&folder.join("model")).unwrap();
    let texts: Vec<String> = serde_json::from_value(io["texts"].clone()).unwrap();
    compare(&clip.embed_texts(&texts).unwrap(), &io["text_embeddings"], TOLERANCE);
    let pictures: Vec<RgbImage> = (0..io["image_embeddings"].as_array().unwrap().len())
        .map(|number| {
            let path = folder.join(format!("pictures/{number}.png"));
            let picture = image::open(path).unwrap().into_rgb8();
            let (width, height) = picture.dimensions();
            RgbImage { width, height, data: picture.into_raw().into() }
        })
        .collect();
    compare(&clip.embed_images(&pictures).unwrap(), &io["image_embeddings"], PICTURE_TOLERANCE);
}

#[test]
fn what_is_not_supported_is_named() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/clip/model");
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("quick_gelu", "gelu")).unwrap();
    let error = ClipEmbedder::load(copy.path()).unwrap_err().to_string();
    assert!(error.contains("hidden_act") && error.contains("config.json"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(ClipEmbedder::load(copy.path()).unwrap_err().to_string().contains("config.json"));
}
