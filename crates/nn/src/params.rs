//! Named weights in a fixed order.
//!
//! A model asks [`Params`] for its weights by their checkpoint names while it is built; `Params`
//! keeps them in that order.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use rand::Rng;

use crate::Weight;
use crate::adapters::Switch;
use crate::layers::Linear;
use crate::weight::as_matrix;

/// Where weights come from.
#[derive(Debug)]
pub enum Weights {
    /// A checkpoint's tensors by name.
    Checkpoint(Box<dyn TensorSource>),
    /// Fresh draws, by name from this seed.
    Random(u64),
}

/// Gives tensors one by one, so that a checkpoint need not be in memory as a whole.
pub trait TensorSource: std::fmt::Debug + Send + Sync {
    /// The tensor of this name, if there is one; `shape` is what the model expects.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>>;

    /// All names that there are.
    fn names(&self) -> Vec<String>;

    /// Where the tensor of this name is, or would have to be, for errors: a file.
    fn place(&self, _name: &str) -> String {
        "the checkpoint".to_owned()
    }
}

impl TensorSource for HashMap<String, Tensor> {
    fn tensor(&self, name: &str, _shape: &[usize]) -> Result<Option<Tensor>> {
        Ok(self.get(name).cloned())
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// How a fresh weight is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform between plus and minus this bound.
    Uniform(f64),
}

/// How the fresh weights of a linear layer are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fresh<'a> {
    /// The layer whose draw they share: its own name, or that of a layer of the same shape.
    pub like: &'a str,
    /// Size of the outputs, where inputs are of size 1.
    pub gain: f64,
}

/// The weights of a model in the order in which it asked for them.
#[derive(Debug)]
pub struct Params {
    device: Device,
    dtype: DType,
    source: Mutex<Weights>,
    weights: Mutex<Vec<Arc<Weight>>>,
    linears: Mutex<Vec<Arc<Linear>>>,
    /// Second names of weights.
    pub(crate) aliases: Mutex<Vec<Arc<Weight>>>,
    /// Names of adapters, by number.
    pub(crate) adapters: Mutex<Vec<Option<String>>>,
    pub(crate) switch: Arc<Switch>,
}

impl Params {
    /// Weights from `source`, kept on `device` as `dtype`.
    pub fn new(source: Weights, dtype: DType, device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype,
            source: Mutex::new(source),
            weights: Mutex::default(),
            linears: Mutex::default(),
            aliases: Mutex::default(),
            adapters: Mutex::default(),
            switch: Arc::default(),
        }
    }

    /// Where the weights live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type they are kept and computed in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether the checkpoint lists a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        match &*lock(&self.source) {
            Weights::Checkpoint(source) => source.names().iter().any(|own| own == name),
            Weights::Random(_) => false,
        }
    }

    /// A weight of this shape.
    pub fn get(&self, name: &str, shape: &[usize], init: Init) -> Result<Arc<Weight>> {
        self.load(name, name, shape, init, None)
    }

    /// The matrix of a linear layer: `[out, in]` in the checkpoint, `[in, out]` here.
    pub fn get_matrix(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        init: Init,
    ) -> Result<Arc<Weight>> {
        self.load(name, name, &[inputs, outputs], init, Some(&[outputs, inputs]))
    }

    /// A convolution whose kernel covers its stride, as the matrix of a linear layer:
    /// `[out, channels, height, width]` in the checkpoint (of patches that reach over time
    /// `[out, channels, time, height, width]`), `[in, out]` here.
    pub fn get_patch_matrix<const N: usize>(
        &self,
        name: &str,
        stored: [usize; N],
        init: Init,
    ) -> Result<Arc<Weight>> {
        let Some((&outputs, rest)) = stored.split_first() else {
            bail!("{name}: a convolution has dimensions");
        };
        let inputs = rest.iter().product();
        self.load(name, name, &[inputs, outputs], init, Some(&stored))
    }

    /// A linear layer with its bias, kept for adapters.
    pub fn linear(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Arc<Linear>> {
        self.linear_drawn(name, Fresh { like: name, gain: 1.0 }, inputs, outputs, bias)
    }

    /// The same, with a say in how fresh weights are drawn.
    pub fn linear_drawn(
        &self,
        name: &str,
        fresh: Fresh<'_>,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Arc<Linear>> {
        let init = Init::Normal(fresh.gain / (inputs as f64).sqrt());
        let weight = self.load(
            &format!("{name}.weight"),
            &format!("{}.weight", fresh.like),
            &[inputs, outputs],
            init,
            Some(&[outputs, inputs]),
        )?;
        let bias = if bias {
            Some(self.get(&format!("{name}.bias"), &[outputs], Init::Constant(0.0))?)
        } else {
            None
        };
        let linear = Arc::new(Linear::new(name, weight, bias));
        lock(&self.linears).push(linear.clone());
        Ok(linear)
    }

    /// `matrix` is the checkpoint's shape of a weight that is kept transposed; fresh values are drawn
    /// under the name `drawn`.
    fn load(
        &self,
        name: &str,
        drawn: &str,
        shape: &[usize],
        init: Init,
        matrix: Option<&[usize]>,
    ) -> Result<Arc<Weight>> {
        let stored = matrix.unwrap_or(shape).to_vec();
        let given = match &*lock(&self.source) {
            Weights::Checkpoint(source) => {
                let Some(value) = source.tensor(name, &stored)? else {
                    bail!("{} has no tensor {name:?} {stored:?}", source.place(name));
                };
                if value.dims() != stored {
                    let place = source.place(name);
                    bail!("{place}: {name} has shape {:?}, {stored:?} by the config", value.dims());
                }
                if matrix.is_some() { as_matrix(&value)?.t()? } else { value }
            }
            Weights::Random(seed) => draw(*seed, drawn, shape, init)?,
        };
        let var = kept(given, self.dtype, &self.device)?;
        let switch = self.switch.clone();
        let weight = Arc::new(Weight::new(name, var, matrix.is_some(), stored, false, switch));
        lock(&self.weights).push(weight.clone());
        Ok(weight)
    }

    /// Closes the checkpoint after the model was built and gives the names that it did not ask for, in
    /// order.
    pub fn close(&self) -> Vec<String> {
        let closed = Weights::Checkpoint(Box::new(HashMap::<String, Tensor>::new()));
        let Weights::Checkpoint(source) = std::mem::replace(&mut *lock(&self.source), closed)
        else {
            return Vec::new();
        };
        let weights = self.weights();
        let taken: HashSet<&str> = weights.iter().map(|weight| weight.name()).collect();
        let mut left: Vec<String> =
            source.names().into_iter().filter(|name| !taken.contains(name.as_str())).collect();
        left.sort_unstable();
        left
    }

    /// All base weights, in the order of the model's construction.
    pub fn weights(&self) -> Vec<Arc<Weight>> {
        lock(&self.weights).clone()
    }

    /// All linear layers, likewise.
    pub fn linears(&self) -> Vec<Arc<Linear>> {
        lock(&self.linears).clone()
    }

    /// A second name for a weight (a head that is the embedding), under which an adapter may have a
    /// copy of its own. Checkpoints hold the weight once.
    pub fn alias(&self, name: &str, weight: &Weight) -> Arc<Weight> {
        let alias = Arc::new(weight.alias(name));
        lock(&self.aliases).push(alias.clone());
        alias
    }

    /// All base weights, second names after the others.
    pub fn all(&self) -> Vec<Arc<Weight>> {
        let mut all = self.weights();
        all.extend(lock(&self.aliases).iter().cloned());
        all
    }

    /// Base weights and weights of the active adapter that train, in a fixed order.
    pub fn trainable(&self) -> Vec<Arc<Weight>> {
        let weights = self.weights().into_iter().chain(self.adapter_weights());
        weights.filter(|w| w.trains()).collect()
    }

    /// Sets which base weights train, by name.
    pub fn set_trains(&self, f: impl Fn(&str) -> bool) {
        for weight in self.weights() {
            weight.set_trains(f(weight.name()));
        }
    }
}

/// A fresh adapter weight, not part of the base weights.
pub(crate) fn fresh(
    name: &str,
    shape: &[usize],
    init: Init,
    seed: u64,
    device: &Device,
) -> Result<Arc<Weight>> {
    let value = draw(seed, name, shape, init)?.to_device(device)?;
    let stored = shape.iter().rev().copied().collect();
    let var = Var::from_tensor(&value)?;
    Ok(Arc::new(Weight::new(name, var, true, stored, true, Arc::default())))
}

/// A variable of the value, which is taken by value: besides the variable there is never more than
/// one copy of it in memory. The variable's own copy undoes a transposition.
fn kept(value: Tensor, dtype: DType, device: &Device) -> Result<Var> {
    let value = if value.dtype() == dtype {
        value
    } else {
        let converted = value.to_dtype(dtype)?;
        drop(value);
        converted
    };
    if value.device().same_device(device) {
        return Var::from_tensor(&value);
    }
    let value = value.contiguous()?.to_device(device)?;
    Var::from_tensor(&value)
}

fn draw(seed: u64, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f32> = match init {
        Init::Constant(c) => vec![c as f32; count],
        Init::Normal(std) => {
            let mut rng = crate::rng::stream(seed, &["init", name]);
            (0..count).map(|_| (std * normal(&mut rng)) as f32).collect()
        }
        Init::Uniform(bound) => {
            let mut rng = crate::rng::stream(seed, &["init", name]);
            let unit = |rng: &mut rand_chacha::ChaCha8Rng| 2.0 * rng.random::<f64>() - 1.0;
            (0..count).map(|_| (bound * unit(&mut rng)) as f32).collect()
        }
    };
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// A standard normal draw (Box-Muller).
pub fn normal(rng: &mut impl Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
