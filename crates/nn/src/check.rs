//! Helpers of tests: seeded tensors, closeness, numerical gradients. Public so that the crates
//! above can test their layers the same way.

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use rand::Rng;

use crate::params::TensorSource;

/// A tensor of about standard normal draws that depends on `name` alone.
pub fn normal(shape: &[usize], name: &str, dtype: DType) -> Result<Tensor> {
    let mut rng = crate::rng::stream(0, &["check", name]);
    let draws: Vec<f64> = (0..shape.iter().product())
        .map(|_| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
        .collect();
    Tensor::from_vec(draws, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// Weights from their names and shapes, as the goldens' `drawn` makes them: splitmix64 over (FNV-1a of
/// the name, index), 24 bits each.
#[derive(Debug)]
pub struct Drawn;

impl TensorSource for Drawn {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let mut key = 0xcbf2_9ce4_8422_2325_u64;
        for byte in name.bytes() {
            key = (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let unit = |i: u64| {
            let x = key.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let inputs: usize = shape[1..].iter().product();
        let (offset, scale) = match shape.len() {
            1 if name.contains("norm") && name.ends_with("weight") => (1.0, 0.3),
            1 => (0.0, 0.2),
            _ if name.contains("embed") => (0.0, 1.0),
            _ => (0.0, (1.3 * (3.0 / inputs as f64).sqrt()) as f32),
        };
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count as u64).map(|i| offset + scale * unit(i)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).map(Some)
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Fails unless both agree within `tolerance` relative to the larger of 1 and the value.
pub fn close(got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    if got.dims() != want.dims() {
        bail!("shapes differ: {:?} and {:?}", got.dims(), want.dims());
    }
    let flat = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    for (i, (g, w)) in flat(got)?.into_iter().zip(flat(want)?).enumerate() {
        let within = (g - w).abs() <= tolerance * w.abs().max(1.0);
        if !within {
            bail!("element {i} is {g}, expected {w} within {tolerance}");
        }
    }
    Ok(())
}

/// Compares the gradient of `loss` with central differences at every element of every input; the
/// inputs are f64.
pub fn gradient(
    inputs: &[Tensor],
    tolerance: f64,
    loss: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = loss(&tensors)?.backward()?;
    for (which, input) in inputs.iter().enumerate() {
        let Some(grad) = grads.get(&tensors[which]) else {
            bail!("input {which} got no gradient");
        };
        let base = input.flatten_all()?.to_vec1::<f64>()?;
        let grad = grad.flatten_all()?.to_vec1::<f64>()?;
        let step = 1e-5;
        for i in 0..base.len() {
            let at = |delta: f64| {
                let mut moved = base.clone();
                moved[i] += delta;
                let mut args: Vec<Tensor> = inputs.to_vec();
                args[which] = Tensor::from_vec(moved, input.shape(), input.device())?;
                loss(&args)?.to_scalar::<f64>()
            };
            let numeric = (at(step)? - at(-step)?) / (2.0 * step);
            if (numeric - grad[i]).abs() > tolerance * numeric.abs().max(1.0) {
                bail!("input {which}, element {i}: gradient {}, numerically {numeric}", grad[i]);
            }
        }
    }
    Ok(())
}
