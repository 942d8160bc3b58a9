//! Named weights in a fixed order, with adapters.
//!
//! A model asks [`Params`] for its weights by their checkpoint names while it is built; `Params`
//! keeps them in that order. The weights that train are the weights that sample: a [`Weight`] hands
//! out a tracked tensor in training and a detached view of the same memory otherwise.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use rand::Rng;

use crate::layers::Linear;

/// A named parameter.
#[derive(Debug)]
pub struct Weight {
    name: String,
    var: Var,
    /// Stored `[in, out]` here and `[out, in]` in checkpoints.
    transposed: bool,
    /// Shape in checkpoints; more than two dimensions where a convolution is kept as a matrix.
    stored: Vec<usize>,
    trains: AtomicBool,
}

impl Weight {
    /// Its name in checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.var.elem_count()
    }

    /// Shape in checkpoints.
    pub fn stored_shape(&self) -> &[usize] {
        &self.stored
    }

    /// The value: tracked when `train` and not frozen, a detached view of the same memory otherwise.
    pub fn tensor(&self, train: bool) -> Tensor {
        if train && self.trains() {
            self.var.as_tensor().clone()
        } else {
            self.var.as_detached_tensor()
        }
    }

    /// The value in the checkpoint's layout.
    pub fn exported(&self) -> Result<Tensor> {
        self.in_checkpoint_layout(&self.var.as_detached_tensor())
    }

    /// A tensor of the weight's shape (its gradient, say) in the checkpoint's layout.
    pub fn in_checkpoint_layout(&self, value: &Tensor) -> Result<Tensor> {
        let value = if self.transposed { value.t()?.contiguous()? } else { value.clone() };
        value.reshape(self.stored.as_slice())
    }

    /// Overwrites the value in place.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        self.var.set(&value.to_dtype(self.var.dtype())?.contiguous()?)
    }

    /// Overwrites the value with one in the checkpoint's layout.
    pub fn import(&self, value: &Tensor) -> Result<()> {
        let value = if self.transposed { as_matrix(value)?.t()? } else { value.clone() };
        if value.dims() != self.var.dims() {
            bail!(
                "{}: shape {:?} in the file, {:?} in the model",
                self.name,
                value.dims(),
                self.var.dims()
            );
        }
        self.set(&value.to_device(self.var.device())?)
    }

    /// Whether the optimiser changes it.
    pub fn trains(&self) -> bool {
        self.trains.load(Ordering::Relaxed)
    }

    /// Lets the optimiser change it, or freezes it.
    pub fn set_trains(&self, trains: bool) {
        self.trains.store(trains, Ordering::Relaxed);
    }
}

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
        let weight = Arc::new(Weight {
            name: name.to_owned(),
            var: kept(given, self.dtype, &self.device)?,
            transposed: matrix.is_some(),
            stored,
            trains: AtomicBool::new(false),
        });
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

    /// Base weights and adapter weights that train, in a fixed order.
    pub fn trainable(&self) -> Vec<Arc<Weight>> {
        let adapters = self.linears().into_iter().flat_map(|linear| linear.adapter_weights());
        self.weights().into_iter().chain(adapters).filter(|w| w.trains()).collect()
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
    name: String,
    shape: &[usize],
    init: Init,
    seed: u64,
    like: &Tensor,
) -> Result<Arc<Weight>> {
    let value = draw(seed, &name, shape, init)?.to_device(like.device())?;
    Ok(Arc::new(Weight {
        name,
        var: Var::from_tensor(&value)?,
        transposed: true,
        stored: shape.iter().rev().copied().collect(),
        trains: AtomicBool::new(true),
    }))
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

/// `[out, ...]` as `[out, in]`.
fn as_matrix(value: &Tensor) -> Result<Tensor> {
    if value.rank() == 2 { Ok(value.clone()) } else { value.flatten_from(1) }
}

fn draw(seed: u64, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f32> = match init {
        Init::Constant(c) => vec![c as f32; count],
        Init::Normal(std) => {
            let mut rng = crate::rng::stream(seed, &["init", name]);
            (0..count).map(|_| (std * normal(&mut rng)) as f32).collect()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
