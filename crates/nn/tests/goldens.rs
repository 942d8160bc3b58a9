//! Operations, AdamW and the schedules against PyTorch and transformers; the goldens' `make.py` made the data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use savi_nn::attention::{Heads, tree};
use savi_nn::ops::{self, RopeTable};
use savi_nn::optim::{AdamW, AdamWConfig, Course, Schedule, global_norm};
use savi_nn::{Forest, Init, Params, Parent, Weights, check};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(name)
}

/// Twenty steps with clipping and decay groups, value by value.
#[test]
fn adamw_follows_torch() -> Result<()> {
    let data =
        candle_core::safetensors::load(golden("adamw/trajectory.safetensors"), &Device::Cpu)?;
    let names: Vec<&str> = data.keys().filter_map(|k| k.strip_prefix("init.")).collect();
    let init: HashMap<String, Tensor> =
        names.iter().map(|n| ((*n).to_owned(), data[&format!("init.{n}")].clone())).collect();
    let params = Params::new(Weights::Checkpoint(Box::new(init)), DType::F32, &Device::Cpu);
    for name in &names {
        let shape = data[&format!("init.{name}")].dims().to_vec();
        params.get(name, &shape, Init::Constant(0.0))?;
    }
    params.set_trains(|_| true);
    let weights = params.trainable();
    assert_eq!(weights.len(), 5);
    let mut optimiser =
        AdamW::new(AdamWConfig { adam_beta2: 0.95, weight_decay: 0.1, ..AdamWConfig::default() });
    let wide = |name: &str| data[name].to_dtype(DType::F64)?.to_vec1::<f64>();
    let (norms, rates) = (wide("grad_norm")?, wide("lr")?);
    for step in 0..20 {
        let at = |name: &str, what: &str| data[&format!("{name}.{what}")].i(step);
        let mut grads = candle_core::backprop::GradStore::default();
        for weight in &weights {
            grads.insert(&weight.tensor(true), at(weight.name(), "grad")?);
        }
        let norm = global_norm(&weights, &grads)?;
        assert!((norm - norms[step]).abs() <= 1e-5 * norm, "{norm} {}", norms[step]);
        let clip = if norm > 1.0 { 1.0 / (norm + 1e-6) } else { 1.0 };
        optimiser.step(&weights, &grads, rates[step], clip)?;
        for weight in &weights {
            check::close(&weight.tensor(false), &at(weight.name(), "value")?, 2e-6)?;
        }
    }
    let state: HashMap<String, Tensor> = optimiser.state().into_iter().collect();
    for name in names {
        check::close(&state[&format!("{name}.m")], &data[&format!("{name}.exp_avg")], 1e-6)?;
        check::close(&state[&format!("{name}.v")], &data[&format!("{name}.exp_avg_sq")], 1e-6)?;
    }
    Ok(())
}

/// A gradient remembers the pass that it comes from. Moments that remembered it too would keep every
/// pass of a training in memory.
#[test]
fn moments_do_not_keep_passes_alive() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        let params = Params::new(Weights::Random(1), dtype, &Device::Cpu);
        let weight = params.get("w", &[4], Init::Normal(1.0))?;
        params.set_trains(|_| true);
        let value = weight.tensor(true);
        let grads = (&value * &value)?.sum_all()?.backward()?;
        let mut optimiser = AdamW::new(AdamWConfig::default());
        optimiser.step(&params.trainable(), &grads, 1e-3, 1.0)?;
        for (name, moment) in optimiser.state() {
            let reached = moment.sum_all()?.backward()?;
            assert!(reached.get(&value).is_none(), "{name} ({dtype:?}) leads back to the weight");
        }
    }
    Ok(())
}

#[test]
fn schedules_follow_transformers() {
    let text = std::fs::read_to_string(golden("adamw/schedules.json")).unwrap();
    let data: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut compared = 0;
    for case in data["schedules"].as_array().unwrap() {
        let schedule: Schedule = serde_json::from_value(case["lr_scheduler_type"].clone()).unwrap();
        let number = |key: &str| case[key].as_u64().unwrap();
        let course = Course {
            warmup: number("warmup_steps"),
            decay: number("num_decay_steps"),
            total: number("total_steps"),
            floor: case["min_lr_rate"].as_f64().unwrap_or(0.0),
        };
        for (step, want) in case["factors"].as_array().unwrap().iter().enumerate() {
            let got = schedule.factor(step as u64, &course);
            assert!((got - want.as_f64().unwrap()).abs() < 1e-12, "{case} at {step}: {got}");
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared}");
}

/// f32 kernels against values computed in f64.
const TOLERANCE: f64 = 1e-5;

type Data = HashMap<String, Tensor>;

/// Runs `f` on the case's inputs (as variables) and compares the output and every gradient.
fn check_case(
    data: &Data,
    case: &str,
    inputs: &[&str],
    layout: impl Fn(&Tensor) -> Result<Tensor>,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let vars = inputs
        .iter()
        .map(|name| Var::from_tensor(&layout(&data[&format!("{case}.in.{name}")])?))
        .collect::<Result<Vec<_>>>()?;
    let args: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&args)?;
    check::close(&out, &layout(&data[&format!("{case}.out")])?, TOLERANCE)?;
    let grads = (out * layout(&data[&format!("{case}.grad_out")])?)?.sum_all()?.backward()?;
    for (name, var) in inputs.iter().zip(&vars) {
        let want = layout(&data[&format!("{case}.grad.{name}")])?;
        check::close(grads.get(var).unwrap(), &want, TOLERANCE)?;
    }
    Ok(())
}

/// All but the last axis joined to rows.
fn rows(x: &Tensor) -> Result<Tensor> {
    if x.rank() < 2 { Ok(x.clone()) } else { x.flatten_to(x.rank() - 2) }
}

/// `[1, heads, tokens, width]` as `[tokens, heads * width]`.
fn token_major(x: &Tensor) -> Result<Tensor> {
    let (_, heads, tokens, width) = x.dims4()?;
    x.i(0)?.transpose(0, 1)?.reshape((tokens, heads * width))
}

#[test]
fn operations_follow_torch_in_values_and_gradients() -> Result<()> {
    let data = candle_core::safetensors::load(golden("nn/ops.safetensors"), &Device::Cpu)?;
    check_case(&data, "rms_norm", &["x", "weight"], rows, |t| ops::rms_norm(&t[0], &t[1], 1e-6))?;
    check_case(&data, "layer_norm", &["x", "weight", "bias"], rows, |t| {
        ops::layer_norm(&t[0], &t[1], &t[2], 1e-6)
    })?;
    check_case(&data, "swiglu", &["gate", "up"], rows, |t| ops::swiglu(&t[0], &t[1]))?;
    check_case(&data, "gelu_tanh", &["x"], rows, |t| ops::gelu_tanh(&t[0]))?;
    let positions: Vec<u32> =
        data["rope.in.positions"].to_vec1::<i64>()?.into_iter().map(|p| p as u32).collect();
    let inverse: Vec<f32> = (0..8).map(|i| 1.0 / 10_000f32.powf(2.0 * i as f32 / 16.0)).collect();
    let angles = positions.iter().flat_map(|&p| inverse.iter().map(move |f| p as f32 * f));
    let table = RopeTable::of_angles(&angles.collect::<Vec<_>>(), inverse.len(), 16, 1.0);
    let two_rows = |x: &Tensor| x.transpose(1, 2)?.reshape((2, 10, 48));
    check_case(&data, "rope", &["x"], two_rows, |t| {
        Tensor::stack(&[ops::rope(&t[0].i(0)?, &table)?, ops::rope(&t[0].i(1)?, &table)?], 0)
    })?;
    let targets: Vec<u32> =
        data["token_logps.in.targets"].to_vec1::<i64>()?.into_iter().map(|t| t as u32).collect();
    check_case(
        &data,
        "token_logps",
        &["hidden", "weight"],
        |x| Ok(x.clone()),
        |t| ops::gathered_logps(&t[0], &t[1], &targets, None),
    )?;
    let heads = Heads::new(4, 2, 8);
    let mut branches = Forest::new();
    let prompt = branches.push(Parent::Root, 4);
    branches.push(Parent::Segment(prompt), 3);
    branches.push(Parent::Segment(prompt), 3);
    for (case, forest) in [
        ("attention_causal", Forest::sequence(10)),
        ("attention_full", Forest::full(1, 10)),
        ("attention_tree", branches),
    ] {
        let forest = Arc::new(forest);
        check_case(&data, case, &["q", "k", "v"], token_major, |t| {
            tree(&t[0], &t[1], &t[2], heads, &forest)
        })?;
    }
    Ok(())
}
