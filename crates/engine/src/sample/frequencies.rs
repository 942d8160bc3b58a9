//! Every sampler's draws against its exact distribution, computed here in f64 from the definitions and by none of the code
//! that is tested.

use std::collections::BTreeSet;

use savi_schema::Sampling;

use super::{Context, draw};
use crate::testing::frequencies::p_value;

/// Below it frequencies are not those of the distribution; the seeds are fixed.
const LEAST: f64 = 1e-4;
const DRAWS: u64 = 20_000;
const PROMPT: &[u32] = &[3, 7, 11, 20];
const GENERATED: &[u32] = &[43, 38, 43, 14, 0, 43, 38, 2, 43];

/// Of 48 tokens, no two alike.
fn logits() -> Vec<f32> {
    (0..48).map(|i| (f64::from(i * 29 % 48) * 0.11 - 2.0 + f64::from(i) * 1e-3) as f32).collect()
}

/// What is left of a distribution where only some tokens can be drawn.
fn kept(probabilities: &[f64], keep: impl Fn(usize) -> bool) -> Vec<f64> {
    let cut: Vec<f64> =
        probabilities.iter().enumerate().map(|(i, &p)| if keep(i) { p } else { 0.0 }).collect();
    let total: f64 = cut.iter().sum();
    cut.into_iter().map(|p| p / total).collect()
}

/// Mass of the tokens that come before one of an order.
fn mass_before(probabilities: &[f64], order: impl Fn(usize) -> f64, of: usize) -> f64 {
    (0..probabilities.len()).filter(|&i| order(i) < order(of)).map(|i| probabilities[i]).sum()
}

fn exact(sampling: &Sampling) -> Vec<f64> {
    let mut logits: Vec<f64> = logits().into_iter().map(f64::from).collect();
    let all = [PROMPT, GENERATED].concat();
    let count = |token: u32| GENERATED.iter().filter(|&&own| own == token).count() as f64;
    // How often an n-gram that `token` would complete is in `line`.
    let repeats = |line: &[u32], n: usize, token: u32| {
        let gram = [&line[line.len() + 1 - n..], &[token]].concat();
        line.windows(n).filter(|own| *own == gram).count() as f64
    };
    for (token, logit) in (0..).zip(&mut logits) {
        // Keskar et al. 2019, 4.1, as transformers has it.
        if all.contains(&token) {
            let penalty = sampling.repetition_penalty;
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
        // OpenAI's formula.
        *logit -= sampling.frequency_penalty * count(token);
        if count(token) > 0.0 {
            *logit -= sampling.presence_penalty;
        }
        for (&n, penalty) in &sampling.ngram_penalties {
            *logit -= penalty * repeats(GENERATED, n, token);
        }
        *logit += sampling.logit_bias.get(&token).copied().unwrap_or(0.0);
        let n = sampling.no_repeat_ngram_size;
        let again = n > 0 && repeats(&all, n, token) > 0.0;
        if again || sampling.banned_tokens.contains(&token) {
            *logit = f64::NEG_INFINITY;
        }
    }
    let weights: Vec<f64> =
        logits.iter().map(|logit| (logit / sampling.temperature).exp()).collect();
    let mut p = kept(&weights, |_| true);
    if sampling.top_k > 0 {
        let before = |own: usize| p.iter().filter(|&&other| other > p[own]).count();
        let keep: BTreeSet<usize> = (0..p.len()).filter(|&i| before(i) < sampling.top_k).collect();
        p = kept(&p, |i| keep.contains(&i));
    }
    // Holtzman et al. 2020: the smallest set of likeliest tokens with that mass.
    p = kept(&p, |i| mass_before(&p, |i| -p[i], i) < sampling.top_p);
    // Nguyen et al. 2024.
    let most = p.iter().copied().fold(0.0, f64::max);
    p = kept(&p, |i| p[i] >= sampling.min_p * most);
    // Meister et al. 2022, equation 5.
    if sampling.typical_p < 1.0 {
        let entropy: f64 = p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
        let distance = |i: usize| (-p[i].ln() - entropy).abs();
        p = kept(&p, |i| p[i] > 0.0 && mass_before(&p, distance, i) < sampling.typical_p);
    }
    p
}

/// One draw with every seed.
fn counts(sampling: &Sampling) -> Vec<u64> {
    let mut counts = vec![0; logits().len()];
    let context =
        Context { prompt: PROMPT, generated: GENERATED, banned: &[], ends: &[], allowed: None };
    for seed in 0..DRAWS {
        let mut rng = savi_nn::rng::stream(seed, &["frequencies"]);
        counts[draw(logits(), sampling, context, &mut rng).unwrap().token as usize] += 1;
    }
    counts
}

/// The samplers, each alone and all together.
fn samplers() -> Vec<Sampling> {
    let plain = Sampling { temperature: 1.0, ..Sampling::default() };
    vec![
        plain.clone(),
        Sampling { temperature: 0.6, ..plain.clone() },
        Sampling { temperature: 1.7, ..plain.clone() },
        Sampling { top_k: 9, ..plain.clone() },
        Sampling { top_p: 0.75, ..plain.clone() },
        Sampling { min_p: 0.2, ..plain.clone() },
        Sampling { typical_p: 0.55, ..plain.clone() },
        Sampling { temperature: 1.3, top_k: 30, top_p: 0.9, min_p: 0.08, typical_p: 0.9, ..plain },
    ]
}

/// What is done to logits before, each by itself.
fn penalties(of: &Sampling) -> Vec<Sampling> {
    let ngram_penalties = [(2, 0.8), (3, 1.5)].into_iter().collect();
    vec![
        of.clone(),
        Sampling { repetition_penalty: 1.4, ..of.clone() },
        Sampling { presence_penalty: 0.6, frequency_penalty: 0.35, ..of.clone() },
        Sampling { ngram_penalties, no_repeat_ngram_size: 2, ..of.clone() },
        Sampling {
            logit_bias: [(1, 2.5), (30, -3.0)].into_iter().collect(),
            banned_tokens: vec![18, 40],
            ..of.clone()
        },
    ]
}

#[test]
fn draws_follow_the_exact_distribution_of_every_sampler() {
    for sampling in samplers().iter().flat_map(penalties) {
        let p = p_value(&counts(&sampling), &exact(&sampling)).unwrap();
        assert!(p > LEAST, "{sampling:?}: {p}");
    }
}

/// The check can fail: draws of one setting are not those of another that is near.
#[test]
fn draws_of_another_setting_are_told_apart() {
    for (drawn, other) in [
        (
            Sampling { temperature: 1.0, ..Sampling::default() },
            Sampling { temperature: 1.07, ..Sampling::default() },
        ),
        (
            Sampling { temperature: 1.0, repetition_penalty: 1.4, ..Sampling::default() },
            Sampling { temperature: 1.0, repetition_penalty: 1.2, ..Sampling::default() },
        ),
        (
            Sampling { temperature: 1.0, frequency_penalty: 0.35, ..Sampling::default() },
            Sampling { temperature: 1.0, presence_penalty: 0.35, ..Sampling::default() },
        ),
    ] {
        let p = p_value(&counts(&drawn), &exact(&other)).unwrap();
        assert!(p < LEAST, "{drawn:?} taken for {other:?}: {p}");
    }
    // One token more or less at the rim.
    for (drawn, other) in [
        (Sampling { top_k: 10, ..samplers()[3].clone() }, samplers()[3].clone()),
        (Sampling { top_p: 0.79, ..samplers()[4].clone() }, samplers()[4].clone()),
        (Sampling { min_p: 0.16, ..samplers()[5].clone() }, samplers()[5].clone()),
        (Sampling { typical_p: 0.7, ..samplers()[6].clone() }, samplers()[6].clone()),
    ] {
        assert!(p_value(&counts(&drawn), &exact(&other)).is_err(), "{drawn:?} taken for {other:?}");
        let fewer = p_value(&counts(&other), &exact(&drawn)).unwrap();
        assert!(fewer < LEAST, "{other:?} taken for {drawn:?}: {fewer}");
    }
}
