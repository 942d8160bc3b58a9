//! A reference that stays behind while the weights themselves train: passes with adapters off
//! ([`Mode::REFERENCE`](crate::layers::Mode::REFERENCE)) see the weights as they were.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Result, Tensor, bail};

use crate::{Params, Weight};

impl Params {
    /// Keeps the base weights that train as they are now, once more in memory, as the reference.
    pub fn keep_reference(&self) -> Result<()> {
        self.refuse_merged()?;
        for weight in self.weights().iter().filter(|weight| weight.trains()) {
            self.set_base(weight, &weight.tensor(false).copy()?);
        }
        Ok(())
    }

    /// Moves the reference towards the weights, of which it is `alpha` then: `alpha * weight + (1 - alpha) * reference`.
    pub fn mix_reference(&self, alpha: f64) -> Result<()> {
        for weight in self.weights() {
            if let Some(kept) = weight.base() {
                let mixed = ((weight.tensor(false) * alpha)? + (kept * (1.0 - alpha))?)?;
                self.set_base(&weight, &mixed);
            }
        }
        Ok(())
    }

    /// The reference by the weights' names, in the checkpoint's layout.
    pub fn reference(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut values = BTreeMap::new();
        for weight in self.weights() {
            if let Some(kept) = weight.base() {
                values.insert(weight.name().to_owned(), weight.in_checkpoint_layout(&kept)?);
            }
        }
        Ok(values)
    }

    /// Puts what [`reference`](Self::reference) gave in the place of the reference that is kept.
    pub fn set_reference(&self, values: &HashMap<String, Tensor>) -> Result<()> {
        for weight in self.weights() {
            let Some(kept) = weight.base() else { continue };
            let Some(value) = values.get(weight.name()) else {
                bail!("there is no reference of {}", weight.name());
            };
            let value = weight.in_own_layout(value)?;
            self.set_base(&weight, &value.to_dtype(kept.dtype())?.to_device(kept.device())?);
        }
        Ok(())
    }

    /// Under all its names.
    fn set_base(&self, weight: &Weight, value: &Tensor) {
        for name in self.all().iter().filter(|name| name.shares(weight)) {
            name.set_base(Some(value.clone()));
        }
    }

    /// Forgets the reference: passes with adapters off see the weights themselves.
    pub fn forget_reference(&self) -> Result<()> {
        self.refuse_merged()?;
        for weight in self.all() {
            weight.set_base(None);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::layers::Mode;
    use crate::{Init, Weights, check};

    /// Under its second name as well, and only until it is forgotten.
    #[test]
    fn the_reference_stays_while_weights_change() -> Result<()> {
        let params = Params::new(Weights::Random(3), DType::F32, &Device::Cpu);
        let table = params.get("embed.weight", &[5, 4], Init::Normal(1.0))?;
        let head = params.alias("head.weight", &table);
        let before = table.tensor(false).copy()?;
        params.set_trains(|_| true);
        params.keep_reference()?;
        let after = check::normal(&[5, 4], "after", DType::F32)?;
        table.set(&after)?;
        for weight in [&table, &head] {
            check::close(&weight.value(Mode::TRAIN)?, &after, 0.0)?;
            check::close(&weight.value(Mode::REFERENCE)?, &before, 0.0)?;
        }
        // A quarter of the way, by hand; written and read it is the same.
        params.mix_reference(0.25)?;
        let mixed = ((&after * 0.25)? + (&before * 0.75)?)?;
        let written = params.reference()?.into_iter().collect::<HashMap<_, _>>();
        params.mix_reference(1.0)?;
        check::close(&head.value(Mode::REFERENCE)?, &after, 0.0)?;
        params.set_reference(&written)?;
        for weight in [&table, &head] {
            check::close(&weight.value(Mode::REFERENCE)?, &mixed, 1e-6)?;
        }
        assert!(params.set_reference(&HashMap::new()).is_err());
        params.forget_reference()?;
        check::close(&head.value(Mode::REFERENCE)?, &after, 0.0)
    }
}
