//! Activation checkpointing (Chen et al. 2016): a pass is cut into segments, of which only the inputs
//! are kept; the backward pass runs each segment again when its gradients are due.
//!
//! Values and gradients are those of the pass without it: a segment is run on the same input both
//! times, and what is random in it (see [`Noise`](crate::Noise)) depends on names, not on order.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use crate::collect::{collecting, take};

type Run<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// The segments of a pass, in order.
#[derive(Default)]
pub struct Tape<'a> {
    /// Layers of a segment; none where nothing is run again.
    layers: Option<NonZeroUsize>,
    /// Whether segments that are not run again are kept apart.
    keeps: bool,
    segments: RefCell<Vec<Segment<'a>>>,
}

struct Segment<'a> {
    /// Where the input comes from, and the input itself: a variable where it needs a gradient.
    source: Tensor,
    input: Tensor,
    output: Tensor,
    pass: Pass<'a>,
}

/// What a segment's gradients are computed from.
enum Pass<'a> {
    Again(Run<'a>),
    Kept(Tensor),
}

/// The gradients of a backward pass that is under way.
pub struct Given<'g> {
    grads: &'g mut GradStore,
}

impl Given<'_> {
    /// What has been given to `of` since it was last taken, if anything.
    pub fn take(&mut self, of: &Tensor) -> Result<Option<Tensor>> {
        let own = self.grads.remove(of).map(|grad| grad.detach());
        Ok(match (take(of)?, own) {
            (Some(one), Some(other)) => Some((one + other)?),
            (one, other) => one.or(other),
        })
    }
}

impl std::fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
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
        let layers = NonZeroUsize::new(layers);
        Self { layers, keeps: false, segments: RefCell::default() }
    }

    /// Goes back segment by segment without checkpointing as well, so that [`backward_telling`](Self::backward_telling)
    /// has something to tell.
    #[must_use]
    pub fn in_segments(self) -> Self {
        Self { keeps: true, ..self }
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
        if self.layers.is_none() && !self.keeps {
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
        let pass = match self.layers {
            Some(_) => Pass::Again(Box::new(run)),
            None => Pass::Kept(output.clone()),
        };
        let output = Var::from_tensor(&output.detach())?.as_tensor().clone();
        self.segments.borrow_mut().push(Segment { source, input, output: output.clone(), pass });
        Ok(output)
    }

    /// All gradients of `loss`, a scalar that was computed from what the segments gave. They are numbers alone: one
    /// that remembered what it comes from would keep the whole pass in memory for as long as it is kept itself, and
    /// candle's products give such ones (to constants, for example).
    pub fn backward(self, loss: &Tensor) -> Result<GradStore> {
        self.backward_telling(loss, |_, _| Ok(()))
    }

    /// [`backward`](Self::backward) that calls `tell` after what came behind the last segment (with 0), and after each
    /// segment from there on (with 1 and so on), with the gradients that are there. It gives those that nobody took.
    pub fn backward_telling(
        self,
        loss: &Tensor,
        tell: impl FnMut(usize, &mut Given<'_>) -> Result<()>,
    ) -> Result<GradStore> {
        let (mut grads, of_parameters) = collecting(|| self.pulled(loss, tell))?;
        grads.extend(of_parameters)?;
        Ok(grads)
    }

    /// The gradients that candle keeps.
    fn pulled(
        self,
        loss: &Tensor,
        mut tell: impl FnMut(usize, &mut Given<'_>) -> Result<()>,
    ) -> Result<GradStore> {
        let mut grads = loss.backward()?;
        let mut segments = self.segments.into_inner();
        let all = segments.len();
        tell(0, &mut Given { grads: &mut grads })?;
        while let Some(segment) = segments.pop() {
            let Some(grad) = grads.remove(&segment.output) else { continue };
            let output = match segment.pass {
                Pass::Again(run) => run(&segment.input)?,
                Pass::Kept(output) => output,
            };
            grads.extend(pull(&output, &grad)?)?;
            if segment.source.id() != segment.input.id()
                && let Some(grad) = grads.remove(&segment.input)
            {
                grads.extend(pull(&segment.source, &grad)?)?;
            }
            tell(all - segments.len(), &mut Given { grads: &mut grads })?;
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
    use crate::ops::linear;

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

    /// With and without segments that are run again, what is taken on the way and what is left are all of it.
    #[test]
    fn gradients_are_told_segment_by_segment() -> Result<()> {
        let weights: Vec<Var> = (0..3)
            .map(|i| Var::from_tensor(&check::normal(&[6, 6], &i.to_string(), DType::F32)?))
            .collect::<Result<_>>()?;
        let start = Var::from_tensor(&check::normal(&[4, 6], "x", DType::F32)?)?;
        let pass = |tape: &Tape<'_>| -> Result<Tensor> {
            let mut x = start.as_tensor().clone();
            for weight in &weights {
                let weight = weight.as_tensor().clone();
                x = tape.segment(&x, move |x| linear(x, &weight)?.tanh()? + x)?;
            }
            // Behind the segments and within one.
            linear(&x, &weights[1])?.sqr()?.sum_all()
        };
        let plain = Tape::new(false);
        let want = pass(&plain)?.backward()?;
        for tape in [Tape::new(true), Tape::new(false).in_segments()] {
            let loss = pass(&tape)?;
            let mut told = Vec::new();
            let rest = tape.backward_telling(&loss, |at, given| {
                for (i, weight) in weights.iter().enumerate() {
                    told.extend(given.take(weight)?.map(|grad| (at, i, grad)));
                }
                Ok(())
            })?;
            let order: Vec<_> = told.iter().map(|&(at, i, _)| (at, i)).collect();
            assert_eq!(order, [(0, 1), (1, 2), (2, 1), (3, 0)]);
            let twice = (&told[0].2 + &told[2].2)?;
            for (i, got) in [&told[3].2, &twice, &told[1].2].into_iter().enumerate() {
                check::close(got, want.get(&weights[i]).expect("wanted"), 1e-5)?;
                assert!(rest.get(&weights[i]).is_none());
            }
            let (got, want) = (rest.get(&start).expect("left"), want.get(&start).expect("wanted"));
            check::close(got, want, 1e-5)?;
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
