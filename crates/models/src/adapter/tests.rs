//! Adapters of `tests/goldens/lora`: on, off, merged and written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use savi_nn::layers::Mode;
use savi_nn::{Forest, Weights, check};

use super::files::PREFIX;
use super::*;
use crate::read_directory;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/lora")
}

fn base() -> Model {
    let files = read_directory(&golden().join("base")).unwrap();
    let weights = Weights::Checkpoint(Box::new(files.tensors));
    Model::new(&files.config, &files.processors, weights, DType::F32, &Device::Cpu).unwrap()
}

/// PEFT's adapter: on, off and merged, in values and gradients.
#[test]
fn adapters_follow_peft() -> Result<()> {
    let io = candle_core::safetensors::load(golden().join("io.safetensors"), &Device::Cpu)?;
    let model = base();
    let params = model.params();
    params.set_trains(|_| false);
    read_adapter(&model, "it", &golden().join("adapter")).unwrap();
    let ids = io["input_ids"].to_dtype(DType::U32)?.to_vec2::<u32>()?;
    let forest = Arc::new(Forest::sequence(ids[0].len()));
    let logits = |row: &[u32], mode: Mode| {
        let hidden = model.hidden(&model.embed(row, &[], mode)?, &forest, mode)?;
        model.logits(&hidden, mode)
    };
    for (i, row) in ids.iter().enumerate() {
        check::close(&logits(row, Mode::INFER)?, &io["logits.adapter"].i(i)?, 1e-4)?;
        check::close(&logits(row, Mode::REFERENCE)?, &io["logits.base"].i(i)?, 1e-4)?;
    }
    let mut total: Option<Tensor> = None;
    for (i, row) in ids.iter().enumerate() {
        let hidden = model.hidden(&model.embed(row, &[], Mode::TRAIN)?, &forest, Mode::TRAIN)?;
        let logps = model.logps(&hidden.narrow(0, 0, row.len() - 1)?, &row[1..], Mode::TRAIN)?;
        check::close(&logps, &io["logps"].i(i)?, 1e-4)?;
        let sum = logps.sum_all()?;
        total = Some(match total {
            None => sum,
            Some(total) => (total + sum)?,
        });
    }
    let grads = total.unwrap().backward()?;
    let mut compared = 0;
    for weight in params.trainable() {
        let want = &io[&format!("grad.{PREFIX}{}", weight.name())];
        let grad = weight.in_checkpoint_layout(grads.get(&weight.tensor(true)).unwrap())?;
        check::close(&grad, want, 1e-3)?;
        compared += 1;
    }
    assert_eq!(compared, 28);
    merge_adapters(params).unwrap();
    for (i, row) in ids.iter().enumerate() {
        check::close(&logits(row, Mode::REFERENCE)?, &io["logits.merged"].i(i)?, 1e-4)?;
    }
    Ok(())
}

#[test]
fn a_written_adapter_is_read_back_bit_for_bit() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let config = LoraConfig { r: 3, lora_alpha: 5.0, ..LoraConfig::default() };
    let model = base();
    let params = model.params();
    attach_adapter(&model, "it", &config, 4, |name| name.contains("mlp")).unwrap();
    for (i, weight) in params.trainable().iter().enumerate() {
        weight.set(&check::normal(weight.tensor(false).dims(), &i.to_string(), DType::F32)?)?;
    }
    write_adapter(&model, "it", &config, &dir.path().join("adapter")).unwrap();
    let other = base();
    let again = other.params();
    again.set_trains(|_| false);
    read_adapter(&other, "again", &dir.path().join("adapter")).unwrap();
    let (a, b) = (params.trainable(), again.trainable());
    assert_eq!((a.len(), b.len()), (12, 12));
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a.tensor(false).to_vec2::<f32>()?, b.tensor(false).to_vec2::<f32>()?);
    }
    Ok(())
}
