//! Activation checkpointing (Chen et al. 2016): a pass is cut into segments, of which only the inputs
//! are kept; the backward pass runs each segment again when its gradients are due.
//!
//! Values and gradients are those of the pass without it: a segment is run on the same input both
//! times, and what is random in it (see [`Noise`](crate::Noise)) depends on names, not on order.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use crate::collect::collecting;

type Run<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// The segments of a pass, in order.
#[derive(Default)]
pub struct Tape<'a> {
    /// Layers of a segment; none where nothing is run again.
    layers: Option<NonZeroUsize>,
    segments: RefCell<Vec<Segment<'a>>>,
}

struct Segment<'a> {
    /// Where the input comes from, and the input itself: a variable where it needs a gradient.
    source: Tensor,
    input: Tensor,
    output: Tensor,
    run: Run<'a>,
}

impl std::fmt::Debug for Tape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let segments = self.segments.borrow().len();
        f.debug_struct("Tape").field("layers", &self.layers).field("segments", &segments).finish()
    }
}

impl<'a> Tape<'a> {
    /// With `checkpointing`, segments are run again in the backward pass; without, they are simply
    /// part of the pass.
    pub fn new(checkpointing: bool) -> Self {
        Self::every(usize::from(checkpointing))
    }

    /// With segments of so many layers of a decoder, without checkpointing for 0. Longer segments keep fewer inputs,
    /// and more of a segment's own tensors while it is run again.
    pub fn every(layers: usize) -> Self {
        Self { layers: NonZeroUsize::new(layers), segments: RefCell::default() }
    }

    /// Layers that a decoder puts into a segment.
    pub fn layers(&self) -> usize {
        self.layers.map_or(1, NonZeroUsize::get)
    }

    /// Runs a segment. `run` must give the same result each time.
    pub fn segment(
        &self,
        input: &Tensor,
        run: impl Fn(&Tensor) -> Result<Tensor> + 'a,
    ) -> Result<Tensor> {
        if self.layers.is_none() {
            return run(input);
        }
        let source = input.clone();
        let input = if source.track_op() && !source.is_variable() {
            Var::from_tensor(&source.detach())?.as_tensor().clone()
        } else {
            source.clone()
        };
        let output = run(&input)?;
        if !output.track_op() {
            return Ok(output);
        }
        let output = Var::from_tensor(&output.detach())?.as_tensor().clone();
        self.segments.borrow_mut().push(Segment {
            source,
            input,
            output: output.clone(),
            run: Box::new(run),
        });
        Ok(output)
    }

    /// All gradients of `loss`, a scalar that was computed from what the segments gave. They are numbers alone: one
    /// that remembered what it comes from would keep the whole pass in memory for as long as it is kept itself, and
    /// candle's products give such ones (to constants, for example).
    pub fn backward(self, loss: &Tensor) -> Result<GradStore> {
        let (mut grads, of_parameters) = collecting(|| self.pulled(loss))?;
        grads.extend(of_parameters)?;
        Ok(grads)
    }

    /// The gradients that candle keeps.
    fn pulled(self, loss: &Tensor) -> Result<GradStore> {
        let mut grads = loss.backward()?;
        let mut segments = self.segments.into_inner();
        while let Some(segment) = segments.pop() {
            let Some(grad) = grads.remove(&segment.output) else { continue };
            let output = (segment.run)(&segment.input)?;
            grads.extend(pull(&output, &grad)?)?;
            if segment.source.id() != segment.input.id()
                && let Some(grad) = grads.remove(&segment.input)
            {
                grads.extend(pull(&segment.source, &grad)?)?;
            }
        }
        let mut alone = GradStore::default();
        for id in grads.get_ids() {
            if let Some(grad) = grads.get_id(*id) {
                alone.insert_id(*id, grad.detach());
            }
        }
        Ok(alone)
    }
}

/// Gradients of whatever `output` was computed from, given its own.
fn pull(output: &Tensor, grad: &Tensor) -> Result<GradStore> {
    let grad = grad.detach();
    let mut grads = (output * &grad)?.sum_all()?.backward()?;
    // candle's product has a gradient for its other side as well, tracked or not.
    grads.remove(&grad);
    Ok(grads)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::check;

    /// Three layers, of which the loss sees every output, on an input that is computed itself.
    #[test]
    fn gradients_are_those_of_the_whole_pass() -> Result<()> {
        let weights: Vec<Var> = (0..3)
            .map(|i| Var::from_tensor(&check::normal(&[6, 6], &i.to_string(), DType::F32)?))
            .collect::<Result<_>>()?;
        let start = Var::from_tensor(&check::normal(&[4, 6], "x", DType::F32)?)?;
        let pass = |checkpointing: bool| -> Result<(f32, GradStore)> {
            let tape = Tape::new(checkpointing);
            let mut x = (start.as_tensor() * 0.5)?;
            let mut loss = x.sqr()?.sum_all()?;
            for weight in &weights {
                x = tape.segment(&x, move |x| x.matmul(weight)?.tanh())?;
                loss = (loss + x.sqr()?.sum_all()?)?;
            }
            Ok((loss.to_scalar()?, tape.backward(&loss)?))
        };
        let ((plain, want), (value, got)) = (pass(false)?, pass(true)?);
        assert_eq!(plain, value);
        for var in weights.iter().chain([&start]) {
            let (got, want) = (got.get(var).expect("got"), want.get(var).expect("wanted"));
            check::close(got, want, 1e-6)?;
        }
        Ok(())
    }

    /// A constant that is multiplied gets a gradient as well, which must not keep the pass alive.
    #[test]
    fn gradients_do_not_remember_the_pass() -> Result<()> {
        let weight = Var::from_tensor(&check::normal(&[6, 6], "w", DType::F32)?)?;
        let x = check::normal(&[4, 6], "x", DType::F32)?;
        let constant = check::normal(&[4, 6], "c", DType::F32)?;
        let loss = (x.matmul(&weight)? * &constant)?.sum_all()?;
        let grads = Tape::new(false).backward(&loss)?;
        for of in [weight.as_tensor(), &constant] {
            assert!(!grads.get(of).expect("a gradient").track_op());
        }
        Ok(())
    }

    /// Nothing trains before the second segment: the first is not run again.
    #[test]
    fn what_needs_no_gradient_is_run_once() -> Result<()> {
        let runs = std::cell::Cell::new(0);
        let weight = Var::from_tensor(&check::normal(&[6, 6], "w", DType::F32)?)?;
        let tape = Tape::new(true);
        let x = check::normal(&[4, 6], "x", DType::F32)?;
        let x = tape.segment(&x, |x| {
            runs.set(runs.get() + 1);
            x.tanh()
        })?;
        let loss = tape.segment(&x, |x| x.matmul(&weight))?.sum_all()?;
        assert!(tape.backward(&loss)?.get(&weight).is_some());
        assert_eq!(runs.get(), 1);
        Ok(())
    }
}
