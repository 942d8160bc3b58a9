//! The formulae of the paper and of the released code, as pure functions of numbers.

use serde::{Deserialize, Serialize};

/// A token set that a model offers, with the log-probability of drawing it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draw {
    /// The tokens; the last one may end the answer.
    pub tokens: Vec<u32>,
    /// Sum of the natural log-probabilities of its tokens, under the distribution that sets are drawn from.
    pub logp: f64,
}

/// Exploration of the released code: u = c p sqrt(N) / (1 + n), N being the visits of the parent, added to the
/// value between the extremes (0 where there was no visit).
pub fn release_score(
    value: f64,
    (low, high): (f64, f64),
    prior: f64,
    parent_visits: f64,
    visits: f64,
    exploration: f64,
) -> f64 {
    // Keeps the quotient finite where the extremes meet.
    const EPSILON: f64 = 1e-5;
    let value = if visits == 0.0 { 0.0 } else { (value - low) / (high - low + EPSILON) };
    value + exploration * prior * parent_visits.sqrt() / (1.0 + visits)
}

/// The paper's score (section 3.2): v + c p sqrt(sum of n over all siblings) / (1 + n).
pub fn paper_score(value: f64, prior: f64, siblings: f64, visits: f64, exploration: f64) -> f64 {
    value + exploration * prior * siblings.sqrt() / (1.0 + visits)
}

/// Value and visits of a similar sibling after an evaluation with `score` (Eq. 2): it counts with weight
/// gamma times the cosine.
pub fn similarity_update(
    (value, visits): (f64, f64),
    score: f64,
    cosine: f64,
    gamma: f64,
) -> (f64, f64) {
    let weight = gamma * cosine;
    let after = visits + weight;
    if after > 0.0 { ((value * visits + weight * score) / after, after) } else { (value, visits) }
}

/// The softmax of log-probabilities at a temperature.
pub fn softmax(logps: &[f64], temperature: f64) -> Vec<f64> {
    let max = logps.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> = logps.iter().map(|l| ((l - max) / temperature).exp()).collect();
    normalise(&mut weights);
    weights
}

/// Makes weights add up to 1; equal ones where they add up to nothing.
pub fn normalise(weights: &mut [f64]) {
    let total: f64 = weights.iter().sum();
    let uniform = 1.0 / weights.len() as f64;
    let usable = total > 0.0 && total.is_finite();
    weights.iter_mut().for_each(|w| *w = if usable { *w / total } else { uniform });
}

/// Mixes a share of the uniform distribution into priors, which then add up to 1.
pub fn mix(priors: &mut [f64], share: f64) {
    let uniform = 1.0 / priors.len() as f64;
    priors.iter_mut().for_each(|p| *p = (1.0 - share) * *p + share * uniform);
    normalise(priors);
}

/// What the greedy set weighs beside drawn ones of these probabilities: its own, but neither above their sum
/// nor below the largest and the smallest together.
pub fn greedy_weight(greedy: f64, drawn: &[f64]) -> f64 {
    if drawn.is_empty() {
        return greedy;
    }
    let sum: f64 = drawn.iter().sum();
    let max = drawn.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let min = drawn.iter().copied().fold(f64::INFINITY, f64::min);
    greedy.min(sum).max(max + min)
}

/// The different sets among one greedy and some drawn ones, the greedy one first, with their weights; of the
/// drawn ones the first `most`.
pub fn candidates(greedy: &Draw, drawn: &[Draw], most: usize) -> Vec<(Vec<u32>, f64)> {
    let mut sets: Vec<(Vec<u32>, f64)> = Vec::new();
    for draw in drawn {
        let is_new = draw.tokens != greedy.tokens && sets.iter().all(|set| set.0 != draw.tokens);
        if is_new && sets.len() < most {
            sets.push((draw.tokens.clone(), draw.logp.exp()));
        }
    }
    let weights: Vec<f64> = sets.iter().map(|set| set.1).collect();
    sets.insert(0, (greedy.tokens.clone(), greedy_weight(greedy.logp.exp(), &weights)));
    sets
}

/// The mean of vectors, one at a time: `mean` after `count` of them, the last being `new`.
pub(crate) fn add_to_mean(mean: &mut [f32], new: &[f32], count: u64) {
    for (mean, new) in mean.iter_mut().zip(new) {
        *mean += (new - *mean) / count as f32;
    }
}

/// The cosine of two vectors; 0 where one has no length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

/// The norm over dimensions of the unbiased variance of vectors; not a number for fewer than two.
pub(crate) fn variance_norm(vectors: &[&[f32]]) -> f64 {
    let count = vectors.len() as f64;
    let width = vectors.first().map_or(0, |vector| vector.len());
    let mut squares = 0.0;
    for at in 0..width {
        let values = || vectors.iter().map(|v| f64::from(v.get(at).copied().unwrap_or(0.0)));
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (count - 1.0);
        squares += variance * variance;
    }
    if vectors.len() < 2 { f64::NAN } else { squares.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, expected: f64, tolerance: f64) {
        assert!((got - expected).abs() <= tolerance, "{got} is not {expected}");
    }

    #[test]
    fn scores_by_hand() {
        // (0.5 + 1) / 2.00001 + 2 * 0.3 * 3 / 3.
        near(release_score(0.5, (-1.0, 1.0), 0.3, 9.0, 2.0, 2.0), 1.349_996, 5e-7);
        near(release_score(0.5, (-1.0, 1.0), 0.3, 9.0, 0.0, 2.0), 1.8, 1e-12);
        near(paper_score(0.5, 0.3, 9.0, 2.0, 2.0), 1.1, 1e-12);
    }

    #[test]
    fn similar_siblings_by_hand() {
        let (value, visits) = similarity_update((0.0, 0.0), -1.0, 0.97, 0.2);
        near(value, -1.0, 1e-12);
        near(visits, 0.194, 1e-12);
        let (value, visits) = similarity_update((0.5, 2.0), -1.0, 0.97, 0.2);
        near(value, 0.367_366, 5e-7);
        near(visits, 2.194, 1e-12);
        assert_eq!(similarity_update((0.0, 0.0), 1.0, 0.97, 0.0), (0.0, 0.0));
    }

    #[test]
    fn priors_by_hand() {
        let mut priors = [0.5, 0.2, 0.2, 0.1];
        mix(&mut priors, 0.25);
        for (got, expected) in priors.into_iter().zip([0.4375, 0.2125, 0.2125, 0.1375]) {
            near(got, expected, 1e-12);
        }
        near(greedy_weight(0.9, &[0.2, 0.1, 0.05]), 0.35, 1e-12);
        near(greedy_weight(0.01, &[0.2, 0.1, 0.05]), 0.25, 1e-12);
        near(greedy_weight(0.9, &[]), 0.9, 0.0);
        let mut nothing = [0.0, 0.0];
        normalise(&mut nothing);
        assert_eq!(nothing, [0.5, 0.5]);
    }

    #[test]
    fn twins_are_dropped_and_the_first_different_ones_kept() {
        let draw = |token: u32, p: f64| Draw { tokens: vec![token, 9], logp: p.ln() };
        let drawn = [draw(1, 0.3), draw(2, 0.2), draw(2, 0.2), draw(3, 0.1), draw(4, 0.1)];
        let sets = candidates(&draw(1, 0.3), &drawn, 2);
        let tokens: Vec<u32> = sets.iter().map(|set| set.0[0]).collect();
        assert_eq!(tokens, [1, 2, 3]);
        near(sets[0].1, 0.3, 1e-12);
    }

    #[test]
    fn vectors_by_hand() {
        near(cosine(&[3.0, 4.0], &[4.0, 3.0]), 0.96, 1e-12);
        near(cosine(&[0.0, 0.0], &[4.0, 3.0]), 0.0, 0.0);
        // Variances 2 and 0.5.
        near(variance_norm(&[&[0.0, 0.0], &[2.0, 1.0]]), 4.25f64.sqrt(), 1e-12);
        assert!(variance_norm(&[&[1.0]]).is_nan());
        let mut mean = [1.0, 2.0];
        add_to_mean(&mut mean, &[3.0, 2.0], 2);
        assert_eq!(mean, [2.0, 2.0]);
    }
}
