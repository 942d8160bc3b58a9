//! Adapters of a model by name: attached side by side, one of them active or none, merged and
//! unmerged.
//!
//! An adapter is a pair of low-rank matrices on some linear layers, and copies of some weights that
//! stand in their place while it is on. The base weights never change while adapters are attached,
//! active or trained; merging changes them and keeps what they were.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Result, bail};

use crate::layers::{Linear, LoraShape};
use crate::params::lock;
use crate::{Params, Weight};

const NONE: usize = usize::MAX;

/// Which adapter is on: what a model's weights and layers share.
#[derive(Debug)]
pub(crate) struct Switch {
    active: AtomicUsize,
    merged: AtomicUsize,
}

impl Default for Switch {
    fn default() -> Self {
        Self { active: AtomicUsize::new(NONE), merged: AtomicUsize::new(NONE) }
    }
}

impl Switch {
    fn get(which: &AtomicUsize) -> Option<usize> {
        Some(which.load(Ordering::Relaxed)).filter(|&adapter| adapter != NONE)
    }

    /// The adapter that a pass has to add: the active one, unless it is part of the weights already.
    pub(crate) fn applied(&self) -> Option<usize> {
        if Self::get(&self.merged).is_some() { None } else { Self::get(&self.active) }
    }

    fn set_active(&self, adapter: Option<usize>) {
        self.active.store(adapter.unwrap_or(NONE), Ordering::Relaxed);
    }

    fn set_merged(&self, adapter: Option<usize>) {
        self.merged.store(adapter.unwrap_or(NONE), Ordering::Relaxed);
    }
}

/// A layer and its low-rank matrices.
pub type LoraWeights = (Arc<Linear>, [Arc<Weight>; 2]);

impl Params {
    /// Adds an adapter that changes nothing yet, and makes it the active one.
    pub fn add_adapter(&self, name: &str) -> Result<()> {
        self.refuse_merged()?;
        let mut names = lock(&self.adapters);
        if names.iter().flatten().any(|known| known == name) {
            bail!("there is an adapter {name:?} already");
        }
        let free = names.iter().position(Option::is_none);
        let adapter = free.unwrap_or_else(|| {
            names.push(None);
            names.len() - 1
        });
        names[adapter] = Some(name.to_owned());
        self.switch.set_active(Some(adapter));
        Ok(())
    }

    /// The attached adapters.
    pub fn adapters(&self) -> Vec<String> {
        lock(&self.adapters).iter().flatten().cloned().collect()
    }

    fn adapter(&self, name: &str) -> Result<usize> {
        let names = lock(&self.adapters);
        match names.iter().position(|known| known.as_deref() == Some(name)) {
            Some(adapter) => Ok(adapter),
            None => bail!("there is no adapter {name:?}"),
        }
    }

    fn adapter_name(&self, adapter: Option<usize>) -> Option<String> {
        lock(&self.adapters).get(adapter?).cloned().flatten()
    }

    /// The adapter that is on where a pass asks for one, and whose weights train.
    pub fn active_adapter(&self) -> Option<String> {
        self.adapter_name(Switch::get(&self.switch.active))
    }

    /// The adapter that is part of the weights.
    pub fn merged_adapter(&self) -> Option<String> {
        self.adapter_name(Switch::get(&self.switch.merged))
    }

    /// Switches to another adapter, or to none.
    pub fn set_active_adapter(&self, name: Option<&str>) -> Result<()> {
        self.refuse_merged()?;
        let adapter = name.map(|name| self.adapter(name)).transpose()?;
        self.switch.set_active(adapter);
        Ok(())
    }

    /// Puts low-rank matrices of the adapter on a layer: a random, b zero, so that nothing changes.
    pub fn add_lora(
        &self,
        adapter: &str,
        linear: &Linear,
        shape: &LoraShape,
        seed: u64,
    ) -> Result<()> {
        linear.add_lora(self.adapter(adapter)?, shape, seed)
    }

    /// Lets the adapter train a copy of a weight, which stands in its place while the adapter is on.
    pub fn add_copy(&self, adapter: &str, weight: &Weight) -> Result<Arc<Weight>> {
        weight.add_copy(self.adapter(adapter)?)
    }

    /// The adapter's low-rank matrices with their layers, in the order of the layers.
    pub fn lora_weights(&self, adapter: &str) -> Result<Vec<LoraWeights>> {
        let adapter = self.adapter(adapter)?;
        let pair = |linear: Arc<Linear>| {
            let weights = linear.lora_weights(adapter).try_into().ok()?;
            Some((linear, weights))
        };
        Ok(self.linears().into_iter().filter_map(pair).collect())
    }

    /// The adapter's copies, in the order of the weights.
    pub fn copies(&self, adapter: &str) -> Result<Vec<Arc<Weight>>> {
        let adapter = self.adapter(adapter)?;
        Ok(self.all().iter().filter_map(|weight| weight.copy_of(adapter)).collect())
    }

    /// The weights of the active adapter, each with the factor on what it gives; none while it is merged.
    pub fn active_adapter_weights(&self) -> Vec<(Arc<Weight>, f64)> {
        let Some(adapter) = self.switch.applied() else { return Vec::new() };
        let copies = self.all().into_iter().filter_map(|weight| weight.copy_of(adapter));
        let loras = self.linears().into_iter().flat_map(|linear| {
            let scale = linear.lora_scale(adapter);
            linear.lora_weights(adapter).into_iter().map(move |weight| (weight, scale))
        });
        copies.map(|copy| (copy, 1.0)).chain(loras).collect()
    }

    /// Everything of the active adapter that may train, unless it is merged.
    pub(crate) fn adapter_weights(&self) -> Vec<Arc<Weight>> {
        self.active_adapter_weights().into_iter().map(|(weight, _)| weight).collect()
    }

    /// Removes an adapter. A merged one has to be unmerged before.
    pub fn remove_adapter(&self, name: &str) -> Result<()> {
        self.refuse_merged()?;
        self.forget(self.adapter(name)?);
        Ok(())
    }

    fn forget(&self, adapter: usize) {
        for linear in self.linears() {
            linear.remove_lora(adapter);
        }
        for weight in self.all() {
            weight.remove_copy(adapter);
        }
        if Switch::get(&self.switch.active) == Some(adapter) {
            self.switch.set_active(None);
        }
        if let Some(name) = lock(&self.adapters).get_mut(adapter) {
            *name = None;
        }
    }

    pub(crate) fn refuse_merged(&self) -> Result<()> {
        match self.merged_adapter() {
            Some(name) => bail!("the adapter {name:?} is merged: unmerge it first"),
            None => Ok(()),
        }
    }

    /// Refuses an adapter that cannot be merged: one with its own copy of a weight that serves as
    /// embedding and as head, for these would have to become two.
    pub fn check_mergeable(&self, name: &str) -> Result<()> {
        let adapter = self.adapter(name)?;
        let aliases = lock(&self.aliases).clone();
        for weight in self.all() {
            let shared = aliases.iter().any(|alias| alias.shares(&weight));
            if shared && weight.copy_of(adapter).is_some() {
                bail!(
                    "the adapter {name:?} cannot be merged: its {} is also another layer's weight",
                    weight.name()
                );
            }
        }
        Ok(())
    }

    /// Makes an adapter part of the weights, which it changes; what they were is kept, so memory for
    /// them is needed twice. A pass with the adapter off still gives exactly the base.
    pub fn merge_adapter(&self, name: &str) -> Result<()> {
        self.refuse_merged()?;
        self.check_mergeable(name)?;
        let adapter = self.adapter(name)?;
        self.merge(adapter, Weight::merge)?;
        self.switch.set_active(Some(adapter));
        self.switch.set_merged(Some(adapter));
        Ok(())
    }

    /// Takes the merged adapter out of the weights, which are what they were before, bit for bit. The
    /// adapter stays attached and active.
    pub fn unmerge_adapter(&self) -> Result<()> {
        for weight in self.weights() {
            weight.unmerge()?;
        }
        self.switch.set_merged(None);
        Ok(())
    }

    /// Makes the active adapter part of the weights for good, and removes all adapters.
    pub fn merge_and_unload(&self) -> Result<()> {
        if let Some(name) = self.merged_adapter() {
            // What it is to be is there already: only what it was has to be forgotten.
            self.unmerge_adapter()?;
            self.set_active_adapter(Some(&name))?;
        }
        if let Some(name) = self.active_adapter() {
            self.check_mergeable(&name)?;
            self.merge(self.adapter(&name)?, Weight::set)?;
        }
        let count = lock(&self.adapters).len();
        (0..count).for_each(|adapter| self.forget(adapter));
        lock(&self.adapters).clear();
        Ok(())
    }

    fn merge(
        &self,
        adapter: usize,
        put: impl Fn(&Weight, &candle_core::Tensor) -> Result<()>,
    ) -> Result<()> {
        for linear in self.linears() {
            if let Some(value) = linear.merged(adapter)? {
                put(linear.weight(), &value)?;
            }
        }
        for weight in self.weights() {
            if let Some(copy) = weight.copy_of(adapter) {
                put(&weight, &copy.tensor(false))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::layers::{LoraInit, Mode};
    use crate::{Forest, Weights, check};

    const SHAPE: LoraShape = LoraShape { r: 3, scale: 2.0, dropout: 0.0, init: LoraInit::Kaiming };

    fn bits(x: &Tensor) -> Vec<Vec<f32>> {
        x.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
    }

    /// A layer with the adapters "one" (on its matrix) and "two" (a copy of its bias).
    fn layer(dtype: DType) -> Result<(Params, Arc<Linear>)> {
        let params = Params::new(Weights::Random(3), dtype, &Device::Cpu);
        let layer = params.linear("l", 12, 7, true)?;
        params.add_adapter("one")?;
        params.add_lora("one", &layer, &SHAPE, 1)?;
        params.lora_weights("one")?[0].1[1].set(&check::normal(&[3, 7], "b", DType::F32)?)?;
        params.add_adapter("two")?;
        let bias = params.add_copy("two", layer.bias().expect("a bias"))?;
        bias.set(&check::normal(&[7], "bias", DType::F32)?)?;
        Ok((params, layer))
    }

    #[test]
    fn a_fresh_adapter_changes_nothing_and_trains_alone() -> Result<()> {
        let params = Params::new(Weights::Random(3), DType::F32, &Device::Cpu);
        let layer = params.linear("l", 12, 7, true)?;
        let x = check::normal(&[4, 12], "x", DType::F32)?;
        let base = bits(&layer.forward(&x, Mode::INFER)?);
        params.add_adapter("one")?;
        params.add_lora("one", &layer, &SHAPE, 1)?;
        assert_eq!(base, bits(&layer.forward(&x, Mode::INFER)?));
        assert_eq!(params.trainable().len(), 2);
        assert!(params.add_adapter("one").is_err());
        Ok(())
    }

    #[test]
    fn adapters_switch_merge_and_come_off_to_the_same_bits() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            let (params, layer) = layer(dtype)?;
            let x = check::normal(&[4, 12], "x", dtype)?;
            let base = bits(&layer.forward(&x, Mode::REFERENCE)?);
            let stored: Vec<_> = params.weights().iter().map(|w| w.exported()).collect();
            let two = bits(&layer.forward(&x, Mode::INFER)?);
            assert_eq!(params.trainable().len(), 1);
            params.set_active_adapter(Some("one"))?;
            let one = layer.forward(&x, Mode::INFER)?;
            assert_eq!(params.trainable().len(), 2);
            assert!(base != two && base != bits(&one) && two != bits(&one));
            for name in ["one", "two"] {
                params.set_active_adapter(Some(name))?;
                let on = layer.forward(&x, Mode::INFER)?;
                params.merge_adapter(name)?;
                assert!(params.set_active_adapter(None).is_err());
                assert!(params.trainable().is_empty());
                let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.05 };
                check::close(&layer.forward(&x, Mode::INFER)?, &on, tolerance)?;
                assert_eq!(base, bits(&layer.forward(&x, Mode::REFERENCE)?));
                params.unmerge_adapter()?;
                assert_eq!(bits(&on), bits(&layer.forward(&x, Mode::INFER)?));
            }
            params.set_active_adapter(None)?;
            assert_eq!(base, bits(&layer.forward(&x, Mode::INFER)?));
            for (weight, before) in params.weights().iter().zip(stored) {
                check::close(&weight.exported()?, &before?, 0.0)?;
            }
            params.set_active_adapter(Some("one"))?;
            params.merge_and_unload()?;
            assert!(params.adapters().is_empty());
            assert!(base != bits(&layer.forward(&x, Mode::REFERENCE)?));
        }
        Ok(())
    }

    #[test]
    fn a_tied_weight_has_copies_by_name_and_is_not_merged() -> Result<()> {
        let params = Params::new(Weights::Random(3), DType::F32, &Device::Cpu);
        let table = params.get("embed.weight", &[5, 4], crate::Init::Normal(1.0))?;
        let head = params.alias("head.weight", &table);
        params.add_adapter("one")?;
        params.add_copy("one", &head)?.set(&check::normal(&[5, 4], "h", DType::F32)?)?;
        assert_ne!(bits(&head.value(Mode::INFER)?), bits(&table.value(Mode::INFER)?));
        assert_eq!(bits(&head.value(Mode::REFERENCE)?), bits(&table.value(Mode::INFER)?));
        let refused = params.merge_adapter("one").unwrap_err().to_string();
        assert!(refused.contains("head.weight"), "{refused}");
        Ok(())
    }

    /// Dropout follows the forest's keys, scales what is left, and is off outside training.
    #[test]
    fn dropout_is_the_masked_input() -> Result<()> {
        let params = Params::new(Weights::Random(3), DType::F32, &Device::Cpu);
        let layer = params.linear("l", 12, 7, false)?;
        params.add_adapter("one")?;
        params.add_lora("one", &layer, &LoraShape { dropout: 0.4, ..SHAPE }, 1)?;
        let [a, b] = params.lora_weights("one")?[0].1.clone();
        b.set(&check::normal(&[3, 7], "b", DType::F32)?)?;
        let x = check::normal(&[4, 12], "x", DType::F32)?;
        assert!(layer.forward(&x, Mode::TRAIN).is_err());
        let forest = Forest::sequence(4).with_noise(&[1, 2, 3, 4], &[9])?;
        let mode = Mode { noise: forest.noise(), ..Mode::TRAIN };
        let mask = mode.noise.expect("noise").mask("l", 4, 12, 0.4)?;
        let low = (&x * mask)?.matmul(&a.tensor(false))?.matmul(&b.tensor(false))?;
        let want = (layer.forward(&x, Mode::REFERENCE)? + (low * 2.0)?)?;
        check::close(&layer.forward(&x, mode)?, &want, 1e-5)?;
        assert!(check::close(&layer.forward(&x, Mode::INFER)?, &want, 1e-2).is_err());
        Ok(())
    }
}
