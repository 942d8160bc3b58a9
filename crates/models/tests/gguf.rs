//! GGUF by the gguf package: blocks of every type, models as files, and files that are broken.
//! `tests/goldens/gguf/make.py` made the data.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use savi_models::{GgmlType, Gguf, Model, Processors, read_gguf};
use savi_nn::Weights;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf").join(file)
}

#[test]
fn every_type_is_dequantised_as_by_the_reference() -> Result<()> {
    let data = candle_core::safetensors::load(golden("blocks.safetensors"), &Device::Cpu)?;
    let kinds = [
        ("F16", GgmlType::F16),
        ("BF16", GgmlType::BF16),
        ("Q4_0", GgmlType::Q4_0),
        ("Q4_1", GgmlType::Q4_1),
        ("Q5_0", GgmlType::Q5_0),
        ("Q5_1", GgmlType::Q5_1),
        ("Q8_0", GgmlType::Q8_0),
        ("Q2_K", GgmlType::Q2K),
        ("Q3_K", GgmlType::Q3K),
        ("Q4_K", GgmlType::Q4K),
        ("Q5_K", GgmlType::Q5K),
        ("Q6_K", GgmlType::Q6K),
    ];
    assert_eq!(data.len(), 2 * kinds.len());
    for (name, kind) in kinds {
        let bytes = data[&format!("{name}.bytes")].to_vec1::<u8>()?;
        let want = data[&format!("{name}.values")].to_vec1::<f32>()?;
        let mut got = vec![0.0; want.len()];
        kind.dequantize(&bytes, &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let near = (got - want).abs() <= 1e-6 * want.abs().max(1.0);
            assert!(near, "{name}: value {i} is {got}, expected {want}");
        }
    }
    Ok(())
}

/// Names, shapes and values are those of Hugging Face's layout, conversion undone; the config builds
/// the model.
#[test]
fn a_file_gives_the_model_that_was_converted() -> Result<()> {
    let want = candle_core::safetensors::load(golden("expected.safetensors"), &Device::Cpu)?;
    let mut compared = 0;
    for family in ["llama", "qwen2", "qwen3"] {
        let (files, _) = read_gguf(&golden(&format!("{family}.gguf"))).unwrap();
        assert_eq!(files.config["model_type"], family);
        assert_eq!(files.config["tie_word_embeddings"], family != "llama");
        if family == "llama" {
            let divisors: Vec<f64> = (1..=8).map(f64::from).collect();
            assert_eq!(files.config["rope_scaling"]["long_factor"], serde_json::json!(divisors));
        }
        for name in files.tensors.names() {
            let value = files.tensors.load(name).unwrap().unwrap().flatten_all()?;
            let told = want[&format!("{family}.{name}")].to_vec1::<f32>()?;
            let step = (value.elem_count() / 97).max(1);
            let got: Vec<f32> = value.to_vec1::<f32>()?.into_iter().step_by(step).collect();
            assert_eq!(got.len(), told.len(), "{family}: {name}");
            for (got, told) in got.iter().zip(&told) {
                assert!((got - told).abs() < 1e-6, "{family}: {name}: {got}, expected {told}");
            }
            compared += 1;
        }
        let weights = Weights::Checkpoint(Box::new(files.tensors));
        let model =
            Model::new(&files.config, &Processors::default(), weights, DType::F32, &Device::Cpu)
                .unwrap();
        assert_eq!(model.config().layers.len(), 2);
    }
    assert_eq!(compared, want.len());
    Ok(())
}

/// Cut anywhere, or with a byte of its header changed, a file gives an error that names it, or reads
/// as a GGUF all the same; nothing panics, nothing large is set aside.
#[test]
fn broken_files_are_refused() {
    let whole = std::fs::read(golden("llama.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    let mut refused = 0;
    for cut in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = read_gguf(&path).expect_err("a cut file").to_string();
        assert!(error.contains("broken.gguf"), "{error}");
    }
    for at in 0..2600.min(whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        // As a model: built, or refused.
        if let Ok((files, _)) = read_gguf(&path)
            && Model::decoder_config(&files.config).is_ok()
        {
            for name in files.tensors.names().map(str::to_owned).collect::<Vec<_>>() {
                assert!(files.tensors.load(&name).is_ok(), "byte {at}: {name}");
            }
        }
        if let Ok(file) = Gguf::open(&path) {
            let names: Vec<String> = file.tensors().map(|(name, ..)| name.to_owned()).collect();
            for name in names {
                let loaded: std::result::Result<Option<Tensor>, _> = file.load(&name);
                assert!(loaded.is_ok());
            }
        } else {
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
}
