//! A reference that stays behind while the weights themselves train: passes with adapters off
//! ([`Mode::REFERENCE`](crate::layers::Mode::REFERENCE)) see the weights as they were.

use candle_core::Result;

use crate::Params;

impl Params {
    /// Keeps the base weights that train as they are now, once more in memory, as the reference.
    pub fn keep_reference(&self) -> Result<()> {
        self.refuse_merged()?;
        let all = self.all();
        for weight in self.weights().iter().filter(|weight| weight.trains()) {
            let kept = weight.tensor(false).copy()?;
            for name in all.iter().filter(|name| name.shares(weight)) {
                name.set_base(Some(kept.clone()));
            }
        }
        Ok(())
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
        params.forget_reference()?;
        check::close(&head.value(Mode::REFERENCE)?, &after, 0.0)
    }
}
