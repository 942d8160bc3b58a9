//! A named parameter, and what adapters put in its place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Result, Tensor, Var, bail};

use crate::adapters::Switch;
use crate::layers::Mode;

/// A named parameter.
///
/// The weights that train are the weights that sample: a weight hands out a tracked tensor in
/// training and a detached view of the same memory otherwise. An adapter may bring a copy that
/// stands in its place while the adapter is on.
#[derive(Debug)]
pub struct Weight {
    name: String,
    var: Var,
    /// Stored `[in, out]` here and `[out, in]` in checkpoints.
    transposed: bool,
    /// Shape in checkpoints; more than two dimensions where a convolution is kept as a matrix.
    stored: Vec<usize>,
    trains: Arc<AtomicBool>,
    switch: Arc<Switch>,
    /// What stands in its place while an adapter is on, by the adapter's number; f32 like all that
    /// trains.
    copies: RwLock<BTreeMap<usize, Arc<Weight>>>,
    /// The value before an adapter was merged, while it is; or that of a reference which was kept.
    base: RwLock<Option<Tensor>>,
}

impl Weight {
    pub(crate) fn new(
        name: &str,
        var: Var,
        transposed: bool,
        stored: Vec<usize>,
        trains: bool,
        switch: Arc<Switch>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            var,
            transposed,
            stored,
            trains: Arc::new(AtomicBool::new(trains)),
            switch,
            copies: RwLock::default(),
            base: RwLock::default(),
        }
    }

    /// The same memory under another name, with copies of its own.
    pub(crate) fn alias(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            var: self.var.clone(),
            transposed: self.transposed,
            stored: self.stored.clone(),
            trains: self.trains.clone(),
            switch: self.switch.clone(),
            copies: RwLock::default(),
            base: RwLock::default(),
        }
    }

    /// Its name in checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape in checkpoints.
    pub fn stored_shape(&self) -> &[usize] {
        &self.stored
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.var.elem_count()
    }

    /// The value in a pass: what the active adapter puts in its place, or its own.
    pub fn value(&self, mode: Mode) -> Result<Tensor> {
        if mode.adapter {
            return match self.switch.applied().and_then(|adapter| self.copy_of(adapter)) {
                Some(copy) => copy.tensor(mode.train).to_dtype(self.var.dtype()),
                None => Ok(self.tensor(mode.train)),
            };
        }
        Ok(self.base().unwrap_or_else(|| self.tensor(mode.train)))
    }

    /// Its own value, merged or not: tracked when `train` and not frozen, a detached view of the same
    /// memory otherwise.
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
        let value = self.in_own_layout(value)?;
        self.set(&value.to_device(self.var.device())?)
    }

    /// A tensor in the checkpoint's layout, checked, in the weight's own.
    pub(crate) fn in_own_layout(&self, value: &Tensor) -> Result<Tensor> {
        let value =
            if self.transposed { as_matrix(value)?.t()?.contiguous()? } else { value.clone() };
        if value.dims() != self.var.dims() {
            bail!(
                "{}: shape {:?} in the file, {:?} in the model",
                self.name,
                value.dims(),
                self.var.dims()
            );
        }
        Ok(value)
    }

    /// Whether the optimiser changes it.
    pub fn trains(&self) -> bool {
        self.trains.load(Ordering::Relaxed)
    }

    /// Lets the optimiser change it, or freezes it.
    pub fn set_trains(&self, trains: bool) {
        self.trains.store(trains, Ordering::Relaxed);
    }

    pub(crate) fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// Whether both are the same memory.
    pub(crate) fn shares(&self, other: &Self) -> bool {
        self.var.id() == other.var.id()
    }

    /// What the adapter of this number puts in its place.
    pub(crate) fn copy_of(&self, adapter: usize) -> Option<Arc<Self>> {
        self.copies.read().unwrap_or_else(PoisonError::into_inner).get(&adapter).cloned()
    }

    /// Gives the adapter of this number a copy of the value to train.
    pub(crate) fn add_copy(&self, adapter: usize) -> Result<Arc<Self>> {
        let value = self.var.as_detached_tensor().to_dtype(DType::F32)?;
        let stored = self.stored.clone();
        let var = Var::from_tensor(&value)?;
        let copy = Self::new(&self.name, var, self.transposed, stored, true, Arc::default());
        let copy = Arc::new(copy);
        let mut copies = self.copies.write().unwrap_or_else(PoisonError::into_inner);
        copies.insert(adapter, copy.clone());
        Ok(copy)
    }

    pub(crate) fn remove_copy(&self, adapter: usize) {
        self.copies.write().unwrap_or_else(PoisonError::into_inner).remove(&adapter);
    }

    /// Overwrites the value and keeps what it was.
    pub(crate) fn merge(&self, value: &Tensor) -> Result<()> {
        let base = self.var.as_detached_tensor().copy()?;
        self.set(value)?;
        *self.base.write().unwrap_or_else(PoisonError::into_inner) = Some(base);
        Ok(())
    }

    /// What passes with adapters off see in place of the value, where there is such.
    pub(crate) fn base(&self) -> Option<Tensor> {
        self.base.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets passes with adapters off see this, or again the value itself.
    pub(crate) fn set_base(&self, base: Option<Tensor>) {
        *self.base.write().unwrap_or_else(PoisonError::into_inner) = base;
    }

    /// Takes back what was merged, bit for bit.
    pub(crate) fn unmerge(&self) -> Result<()> {
        match self.base.write().unwrap_or_else(PoisonError::into_inner).take() {
            Some(base) => self.set(&base),
            None => Ok(()),
        }
    }
}

/// `[out, ...]` as `[out, in]`.
pub(crate) fn as_matrix(value: &Tensor) -> Result<Tensor> {
    if value.rank() == 2 { Ok(value.clone()) } else { value.flatten_from(1) }
}
