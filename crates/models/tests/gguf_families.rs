//! Models of several families out of GGUF files, with the logits of transformers.
//! `tests/goldens/gguf-families/make.py` made the data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use savi_models::{Model, Processors, read_gguf};
use savi_nn::layers::Mode;
use savi_nn::{Forest, Weights};

/// Of the largest logit.
const TOLERANCE: f32 = 1e-4;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf-families").join(file)
}

fn largest(x: &Tensor) -> Result<f32> {
    x.abs()?.flatten_all()?.max(0)?.to_scalar()
}

#[test]
fn logits_equal_those_of_transformers() -> Result<()> {
    let told = candle_core::safetensors::load(golden("logits.safetensors"), &Device::Cpu)?;
    for name in ["phi3", "phi3-long", "gemma2", "gemma3"] {
        let (files, _) = read_gguf(&golden(&format!("{name}.gguf"))).unwrap();
        let weights = Weights::Checkpoint(Box::new(files.tensors));
        let model =
            Model::new(&files.config, &Processors::default(), weights, DType::F32, &Device::Cpu)
                .unwrap_or_else(|error| panic!("{name}: {error}: {}", files.config));
        for length in [12, 30] {
            let ids = told[&format!("{name}.ids.{length}")].to_vec1::<i64>()?;
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            let forest = Arc::new(Forest::sequence(ids.len()));
            let embeds = model.embed(&ids, &[], Mode::INFER)?;
            let hidden = model.hidden(&embeds, &forest, Mode::INFER)?;
            let got = model.logits(&hidden, Mode::INFER)?;
            let want = &told[&format!("{name}.logits.{length}")];
            let off = largest(&(got - want)?)? / largest(want)?;
            assert!(off < TOLERANCE, "{name}, {length} tokens: logits differ by {off:e}");
        }
    }
    Ok(())
}

/// With any byte of its header changed a file gives a model, or is refused.
#[test]
fn altered_files_do_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("altered.gguf");
    for name in ["phi3-long", "gemma3"] {
        let whole = std::fs::read(golden(&format!("{name}.gguf"))).unwrap();
        let mut refused = 0;
        for at in (0..3000).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            std::fs::write(&path, &bytes).unwrap();
            match read_gguf(&path) {
                Ok((files, _)) => drop(Model::decoder_config(&files.config)),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 100, "{name}: {refused}");
    }
}
