//! Tests of all losses, through the log-probs of tokens.

mod dpo;
mod goldens;
mod gradients;
mod properties;
mod refusals;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;

use super::*;
use crate::{ld_weights, sequence_logps, wpo_weights};

/// One side of the golden's pairs; log-probs are flat over tokens.
#[derive(Debug, Clone)]
struct Side {
    lengths: Vec<usize>,
    logps: Vec<f64>,
    reference: Vec<f64>,
    previous: Vec<f64>,
    log_sum_sq: Vec<f64>,
    win_rates: Vec<f64>,
}

/// A set of the golden's pairs, see `tests/goldens/preferences/make.py`.
#[derive(Debug, Clone)]
struct Pairs {
    sides: [Side; 2],
    margins: Vec<f64>,
}

/// What is told beside the settings, as it is about the inputs.
#[derive(Clone, Copy, Default)]
struct Inputs {
    margins: bool,
    ld_alpha: Option<f64>,
}

/// A loss with its gradients by the policy's tokens, chosen and rejected.
struct Evaluated {
    output: PreferenceOutput,
    loss: f64,
    grads: [Vec<f64>; 2],
}

fn golden() -> Value {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/preferences/preferences.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn scalar(tensor: &Tensor) -> f64 {
    values(tensor)[0]
}

impl Pairs {
    fn of(golden: &Value, set: &str) -> Self {
        let set = &golden["sets"][set];
        let side = |name: &str| Side {
            lengths: numbers(&set[name]["lengths"]).into_iter().map(|n| n as usize).collect(),
            logps: numbers(&set[name]["logps"]),
            reference: numbers(&set[name]["reference"]),
            previous: numbers(&set[name]["previous"]),
            log_sum_sq: numbers(&set[name]["log_sum_sq"]),
            win_rates: numbers(&set[name]["win_rates"]),
        };
        Self { sides: [side("chosen"), side("rejected")], margins: numbers(&set["margins"]) }
    }

    fn count(&self) -> usize {
        self.margins.len()
    }

    /// The pairs from `start` on, `count` of them.
    fn part(&self, start: usize, count: usize) -> Self {
        let cut = |side: &Side| {
            let from: usize = side.lengths[..start].iter().sum();
            let to = from + side.lengths[start..start + count].iter().sum::<usize>();
            Side {
                lengths: side.lengths[start..start + count].to_vec(),
                logps: side.logps[from..to].to_vec(),
                reference: side.reference[from..to].to_vec(),
                previous: side.previous[from..to].to_vec(),
                log_sum_sq: side.log_sum_sq[from..to].to_vec(),
                win_rates: side.win_rates[start..start + count].to_vec(),
            }
        };
        Self {
            sides: [cut(&self.sides[0]), cut(&self.sides[1])],
            margins: self.margins[start..start + count].to_vec(),
        }
    }

    fn totals(&self) -> Totals {
        Totals { pairs: self.count() as f64, chosen_tokens: self.sides[0].logps.len() as f64 }
    }

    /// The loss of a step of these pairs alone.
    fn evaluate(&self, settings: &Preference, inputs: Inputs, dtype: DType) -> Evaluated {
        self.share(settings, inputs, dtype, &self.totals(), None)
    }

    /// The share of a step that has these pairs.
    fn share(
        &self,
        settings: &Preference,
        inputs: Inputs,
        dtype: DType,
        totals: &Totals,
        step: Option<StepLogps<'_>>,
    ) -> Evaluated {
        let tensor =
            |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let ids = |side: usize| -> Vec<u32> {
            let lengths = self.sides[side].lengths.iter().enumerate();
            lengths.flat_map(|(p, &n)| std::iter::repeat_n((2 * p + side) as u32, n)).collect()
        };
        let both: Vec<u32> = (0..2).flat_map(ids).collect();
        let ld = ld_weights(&both, self.count(), inputs.ld_alpha.unwrap_or(1.0)).unwrap();
        let of_side = self.sides[0].logps.len();
        let ld = [&ld[..of_side], &ld[of_side..]].map(tensor);

        let made: Vec<_> = (0..2)
            .map(|side| {
                let own = &self.sides[side];
                let segments: Vec<u32> = ids(side).into_iter().map(|id| id / 2).collect();
                let segments = Tensor::new(segments, &Device::Cpu).unwrap();
                let sum = |tokens: &Tensor| {
                    let weighted = (tokens * &ld[side]).unwrap();
                    sequence_logps(&weighted, &segments, self.count()).unwrap()
                };
                let tokens = Var::from_tensor(&tensor(&own.logps)).unwrap();
                let lengths: Vec<f64> = own.lengths.iter().map(|&n| n as f64).collect();
                let squares = tensor(&own.log_sum_sq);
                let weights = wpo_weights(&tokens, &squares, &segments, self.count()).unwrap();
                (
                    sum(&tokens),
                    sum(&tensor(&own.reference)),
                    sum(&tensor(&own.previous)),
                    tensor(&lengths),
                    weights,
                    tensor(&own.win_rates),
                    tokens,
                )
            })
            .collect();
        let side = |index: usize| {
            let (policy, reference, previous, lengths, weights, win_rates, _) = &made[index];
            SideLogps {
                policy,
                reference: Some(reference),
                previous: Some(previous),
                lengths: Some(lengths),
                weights: Some(weights),
                win_rates: Some(win_rates),
            }
        };
        let margins = tensor(&self.margins);
        let logps = PairLogps {
            margins: inputs.margins.then_some(&margins),
            step,
            ..PairLogps::new(side(0), side(1))
        };
        let chosen = &made[0].6;
        let weights = chosen.ones_like().unwrap();
        let tokens = ChosenTokens { logps: chosen, weights: &weights };
        let output = preference(&logps, Some(&tokens), totals, settings).unwrap();
        let store = output.loss.backward().unwrap();
        let grads = [0, 1].map(|index| {
            let var = &made[index].6;
            store.get(var).map_or_else(|| vec![0.0; var.elem_count()], values)
        });
        Evaluated { loss: scalar(&output.loss), output, grads }
    }
}

/// Settings under which each loss can be computed and all of its parts have a say.
fn told(loss: PreferenceLoss) -> Preference {
    let label_smoothing = if loss.takes_label_smoothing() { 0.1 } else { 0.0 };
    let mixture_ratio = if loss == PreferenceLoss::Inpo { 0.3 } else { 1.0 };
    Preference {
        label_smoothing,
        mixture_ratio,
        beta: 0.4,
        bco_delta: 0.2,
        discopop_tau: 0.5,
        dno_scale: 2.0,
        ..Preference::of(loss)
    }
}
