//! The golden's numbers, and micro-batches made of them.

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;

use crate::policy::*;

pub(super) fn load() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/policy/policy.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(super) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

pub(super) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Largest difference by the size of what is expected, where that is above 1; NaN counts as
/// infinite.
pub(super) fn gap(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let gaps = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
    gaps.fold(0.0, |most, g| if g.is_nan() { f64::INFINITY } else { most.max(g) })
}

/// Flat tokens of a micro-batch on the host.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) segments: Vec<u32>,
    pub(super) completions: usize,
    pub(super) weights: Vec<f64>,
    pub(super) logps: Vec<f64>,
    pub(super) old_logps: Option<Vec<f64>>,
    pub(super) reference_logps: Vec<f64>,
    pub(super) entropies: Vec<f64>,
    pub(super) advantages: Vec<f64>,
    pub(super) token_advantages: Option<Vec<f64>>,
    pub(super) corrections: Option<Vec<f64>>,
    pub(super) chosen: Option<Vec<f64>>,
}

/// What came of a batch.
pub(super) struct Outcome {
    pub(super) loss: f64,
    pub(super) grad: Vec<f64>,
    pub(super) entropy_grad: Option<Vec<f64>>,
    pub(super) metrics: PolicyMetrics,
}

impl Outcome {
    pub(super) fn figure(&self, name: &str) -> f64 {
        let rows = self.metrics.named();
        rows.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name}")).1
    }
}

impl Batch {
    pub(super) fn golden(tokens: &Value) -> Self {
        let of = |name: &str| numbers(&tokens[name]);
        Self {
            segments: ids(&tokens["segments"]),
            completions: 7,
            weights: of("weights"),
            logps: of("logps"),
            old_logps: Some(of("old_logps")),
            reference_logps: of("reference_logps"),
            entropies: of("entropies"),
            advantages: of("advantages"),
            token_advantages: None,
            corrections: None,
            chosen: None,
        }
    }

    /// The tokens of some completions only.
    pub(super) fn only(&self, kept: &[u32]) -> Self {
        let at: Vec<usize> =
            (0..self.segments.len()).filter(|i| kept.contains(&self.segments[*i])).collect();
        let take = |values: &Vec<f64>| at.iter().map(|i| values[*i]).collect::<Vec<f64>>();
        let place = |s: u32| kept.iter().position(|k| *k == s).unwrap() as u32;
        Self {
            segments: at.iter().map(|i| place(self.segments[*i])).collect(),
            completions: kept.len(),
            weights: take(&self.weights),
            logps: take(&self.logps),
            old_logps: self.old_logps.as_ref().map(take),
            reference_logps: take(&self.reference_logps),
            entropies: take(&self.entropies),
            advantages: kept.iter().map(|k| self.advantages[*k as usize]).collect(),
            token_advantages: self.token_advantages.as_ref().map(take),
            corrections: self.corrections.as_ref().map(take),
            chosen: self.chosen.as_ref().map(take),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            tokens: self.weights.iter().sum(),
            completions: self.completions as f64,
            micro_batches: 1.0,
        }
    }

    pub(super) fn run(&self, totals: &Totals, settings: &PolicyLoss, dtype: DType) -> Outcome {
        let tensor = |v: &Vec<f64>| {
            Tensor::new(v.as_slice(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let segments = Tensor::new(self.segments.as_slice(), &Device::Cpu).unwrap();
        let weights = tensor(&self.weights);
        let logps = Var::from_tensor(&tensor(&self.logps)).unwrap();
        let old = self.old_logps.as_ref().map(tensor);
        let reference = tensor(&self.reference_logps);
        let entropies = Var::from_tensor(&tensor(&self.entropies)).unwrap();
        let by_completion = tensor(&self.advantages);
        let by_token = self.token_advantages.as_ref().map(tensor);
        let corrections = self.corrections.as_ref().map(tensor);
        let chosen = self.chosen.as_ref().map(tensor);
        let tokens = PolicyTokens {
            layout: CompletionTokens {
                segments: &segments,
                completions: self.completions,
                weights: &weights,
            },
            logps: &logps,
            old_logps: old.as_ref(),
            reference_logps: Some(&reference),
            advantages: match &by_token {
                Some(advantages) => Advantages::Token(advantages),
                None => Advantages::Completion(&by_completion),
            },
            corrections: corrections.as_ref(),
            entropies: Some(&entropies),
            chosen: chosen.as_ref(),
        };
        let out = policy_loss(&tokens, totals, settings).unwrap();
        let grads = out.loss.backward().unwrap();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        Outcome {
            loss: out.loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(),
            grad: wide(grads.get(&logps).unwrap()),
            entropy_grad: grads.get(&entropies).map(wide),
            metrics: out.metrics,
        }
    }
}
