//! The cases of `tests/goldens/families`, whose weights are drawn from their names.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use savi_models::{Model, Processors};
use savi_nn::Weights;
use savi_nn::check::Drawn;
use serde_json::Value;

pub fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/families").join(file)
}

pub fn cases() -> BTreeMap<String, Value> {
    serde_json::from_slice(&std::fs::read(golden("cases.json")).unwrap()).unwrap()
}

pub fn model(config: &Value, dtype: DType) -> Model {
    Model::new(
        config,
        &Processors::default(),
        Weights::Checkpoint(Box::new(Drawn)),
        dtype,
        &Device::Cpu,
    )
    .unwrap()
}

pub fn io(case: &str) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(golden(&format!("{case}.safetensors")), &Device::Cpu)
}

pub fn ids(tensor: &Tensor) -> Result<Vec<u32>> {
    Ok(tensor.to_vec1::<i64>()?.into_iter().map(|id| id as u32).collect())
}

/// Largest difference, as a share of the largest expected value.
pub fn difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), want.dims());
    let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    let off = largest(&(got.to_dtype(DType::F32)? - want)?)?;
    Ok(f64::from(off) / f64::from(largest(want)?.max(1e-6)))
}
