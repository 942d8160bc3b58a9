//! What of a distribution is left to draw from.

use std::cmp::Ordering;

use savi_schema::Sampling;

/// Likeliest tokens that are looked at first, where only a part is needed.
const FIRST: usize = 256;

/// Tokens and weights, not normalised, of the softmax of `logits / temperature` after `top_k`, `top_p`,
/// `min_p` and `typical_p`, in this order: likeliest first where anything was cut, by token otherwise.
pub(super) fn weights(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut kept: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(i, &x)| (i as u32, (f64::from(x - max) / sampling.temperature).exp()))
        .collect();
    if sampling.top_k > 0 {
        sort_first(&mut kept, sampling.top_k);
        kept.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        nucleus(&mut kept, sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        let most = kept.iter().map(|k| k.1).fold(0.0, f64::max);
        kept.retain(|k| k.1 >= sampling.min_p * most);
    }
    if sampling.typical_p < 1.0 {
        typical(&mut kept, sampling.typical_p);
    }
    kept
}

fn likeliest(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Brings the `n` likeliest to the front, in order.
fn sort_first(kept: &mut [(u32, f64)], n: usize) {
    if n < kept.len() {
        kept.select_nth_unstable_by(n, likeliest);
        kept[..n].sort_unstable_by(likeliest);
    } else {
        kept.sort_unstable_by(likeliest);
    }
}

/// The smallest set of likeliest tokens that holds `share` of the mass (Holtzman et al. 2020).
fn nucleus(kept: &mut Vec<(u32, f64)>, share: f64) {
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let mut n = FIRST.min(kept.len());
    loop {
        sort_first(kept, n);
        let mut mass = 0.0;
        let last = kept[..n].iter().position(|k| {
            mass += k.1;
            mass >= share * total
        });
        if let Some(last) = last {
            return kept.truncate(last + 1);
        }
        if n == kept.len() {
            return;
        }
        n = (4 * n).min(kept.len());
    }
}

/// Locally typical sampling (Meister et al. 2022, eq. 5): the tokens whose surprise is nearest to the
/// entropy, until they hold `share` of the mass.
fn typical(kept: &mut Vec<(u32, f64)>, share: f64) {
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let surprise = |weight: f64| -(weight / total).ln();
    let entropy: f64 = kept.iter().filter(|k| k.1 > 0.0).map(|k| k.1 / total * surprise(k.1)).sum();
    let distance = |k: &(u32, f64)| (surprise(k.1) - entropy).abs();
    kept.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.0.cmp(&b.0)));
    let mut mass = 0.0;
    let last = kept.iter().position(|k| {
        mass += k.1;
        mass >= share * total
    });
    if let Some(last) = last {
        kept.truncate(last + 1);
    }
}
