//! How often a first token comes, over many samples of one request, against the model's own probabilities.

use savi_engine::testing::frequencies::p_value;
use savi_schema::Sampling;

use crate::{draw, engine, messages};

/// Below it frequencies are not those of the distribution; the seeds are fixed.
const LEAST: f64 = 1e-4;
const SAMPLES: usize = 20_000;

/// Probabilities under the model of the tokens that can be drawn, cut to the nucleus of `top_p` after `temperature`, as
/// Holtzman et al. 2020 define it.
fn exact(temperature: f64, top_p: f64) -> Vec<f64> {
    let engine = engine();
    let prompt = engine.prompt(&messages()).unwrap();
    let spoken = |token: &u32| !engine.text().placeholders().contains(token);
    let tokens: Vec<u32> = (0..1200).filter(spoken).collect();
    let each = tokens.iter().map(|&token| vec![token]).collect();
    let scored = engine.score_tokens(&prompt, each).unwrap();
    let mut weights = vec![0.0; 1200];
    for (token, score) in tokens.into_iter().zip(scored) {
        weights[token as usize] = (score.sum() / temperature).exp();
    }
    let total: f64 = weights.iter().sum();
    let likelier = |&own: &f64| weights.iter().filter(|&&other| other > own).sum::<f64>();
    let kept: Vec<f64> =
        weights.iter().map(|own| if likelier(own) < top_p * total { *own } else { 0.0 }).collect();
    let left: f64 = kept.iter().sum();
    kept.into_iter().map(|weight| weight / left).collect()
}

fn counts(sampling: Sampling) -> Vec<u64> {
    let mut counts = vec![0; 1200];
    for completion in draw(vec![Sampling { max_tokens: 1, ..sampling }; SAMPLES], 11) {
        counts[completion.token_ids[0] as usize] += 1;
    }
    counts
}

#[test]
fn first_tokens_come_as_often_as_the_model_says() {
    let plain = counts(Sampling { temperature: 1.0, ..Sampling::default() });
    let p = p_value(&plain, &exact(1.0, 1.0)).unwrap();
    assert!(p > LEAST, "{p}");
    let cut = counts(Sampling { temperature: 2.0, top_p: 0.9, ..Sampling::default() });
    let p = p_value(&cut, &exact(2.0, 0.9)).unwrap();
    assert!(p > LEAST, "{p}");
    // The check can fail: by a temperature of 1.1, and by tokens that the nucleus does not hold.
    let p = p_value(&plain, &exact(1.1, 1.0)).unwrap();
    assert!(p < LEAST, "{p}");
    assert!(p_value(&plain, &exact(1.0, 0.9)).is_err());
}
