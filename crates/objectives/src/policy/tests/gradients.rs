//! Gradients against central differences.

use candle_core::{DType, Device, Tensor, Var};

use super::golden::{Batch, gap, load, numbers};
use crate::policy::*;

fn base() -> PolicyLoss {
    PolicyLoss::of_loss_type("dapo", 10.0).unwrap()
}

fn clip(importance_sampling_level: Level) -> Surrogate {
    let epsilon = if importance_sampling_level == Level::Token { 0.2 } else { 0.05 };
    let (epsilon_high, delta, clip_ratio_c) = (Some(epsilon * 1.4), None, None);
    Surrogate::Clip { importance_sampling_level, epsilon, epsilon_high, delta, clip_ratio_c }
}

fn batch() -> Batch {
    let golden = load();
    let mut batch = Batch::golden(&golden["tokens"]);
    batch.corrections = Some(numbers(&golden["tokens"]["corrections"]));
    let chosen = (0..batch.weights.len()).map(|i| f64::from(i % 4 == 1)).collect();
    batch.chosen = Some(chosen);
    batch
}

/// Compares every entry of the gradient with a difference of the loss.
fn check(name: &str, batch: &Batch, settings: &PolicyLoss) {
    let totals = Totals { micro_batches: 2.0, ..batch.totals() };
    let out = batch.run(&totals, settings, DType::F64);
    let step = 1e-5;
    let difference = |moved: &dyn Fn(f64) -> Batch| {
        let at = |shift| moved(shift).run(&totals, settings, DType::F64).loss;
        (at(step) - at(-step)) / (2.0 * step)
    };
    for i in 0..batch.logps.len() {
        let expected = difference(&|shift| {
            let mut moved = batch.clone();
            moved.logps[i] += shift;
            moved
        });
        assert!((expected - out.grad[i]).abs() < 1e-7, "{name} {i}: {expected} {}", out.grad[i]);
        let Some(grad) = out.entropy_grad.as_ref().map(|grad| grad[i]) else { continue };
        let expected = difference(&|shift| {
            let mut moved = batch.clone();
            moved.entropies[i] += shift;
            moved
        });
        assert!((expected - grad).abs() < 1e-7, "{name} entropy {i}: {expected} {grad}");
    }
    assert!(out.grad.iter().any(|g| *g != 0.0), "{name}");
}

#[test]
fn of_every_form() {
    let batch = batch();
    let sapo = |importance_sampling_level| Surrogate::Sapo {
        importance_sampling_level,
        sapo_temperature_pos: 1.0,
        sapo_temperature_neg: 1.05,
    };
    let held = |delta, clip_ratio_c| Surrogate::Clip {
        importance_sampling_level: Level::Token,
        epsilon: 0.2,
        epsilon_high: Some(0.28),
        delta,
        clip_ratio_c,
    };
    for (name, surrogate) in [
        ("token", clip(Level::Token)),
        ("sequence", clip(Level::Sequence)),
        ("sequence sum", clip(Level::SequenceSum)),
        ("delta", held(Some(1.4), None)),
        ("dual clip", held(None, Some(1.6))),
        ("sapo", sapo(Level::Token)),
        ("sapo sequence", sapo(Level::Sequence)),
        ("gmpo", Surrogate::Gmpo { epsilon: 0.4, epsilon_high: None }),
        ("gpg", Surrogate::Gpg),
        ("clip-cov", Surrogate::ClipCov { epsilon: 0.2, epsilon_high: None }),
        ("kl-cov", Surrogate::KlCov { ppo_kl_coef: 0.3 }),
    ] {
        check(name, &batch, &PolicyLoss { surrogate, ..base() });
        let mut by_token = batch.clone();
        by_token.token_advantages = Some(numbers(&load()["tokens"]["token_advantages"]));
        check(name, &by_token, &PolicyLoss { surrogate, ..base() });
    }
}

#[test]
fn of_every_kl_term_and_aggregation() {
    let batch = batch();
    let narrow = Bounds { low: -0.4, high: 0.5 };
    for (name, estimator) in [
        ("k1", KlEstimator::K1),
        ("abs", KlEstimator::Abs),
        ("k2", KlEstimator::K2),
        ("k3", KlEstimator::K3_TRL),
        ("k3 clamped", KlEstimator::K3 { log_ratio: narrow, value: Bounds::NONE }),
        (
            "k3 held",
            KlEstimator::K3 { log_ratio: Bounds::WIDE, value: Bounds { low: 0.0, high: 0.1 } },
        ),
    ] {
        for use_bias_correction_kl in [false, true] {
            let kl = Kl { estimator, straight_through: false };
            check(name, &batch, &PolicyLoss { beta: 0.7, kl, use_bias_correction_kl, ..base() });
        }
    }
    let scale = 12.0;
    for aggregation in [
        Aggregation::TokenMean,
        Aggregation::LocalTokenMean,
        Aggregation::TokenSum,
        Aggregation::SeqMeanTokenSum,
        Aggregation::SeqMeanTokenMean,
        Aggregation::SeqMeanTokenSumNorm { loss_scale_factor: scale },
        Aggregation::TokenSumNorm { loss_scale_factor: scale },
    ] {
        let (beta, entropy_coef, entropy_aggregation) = (0.1, 0.3, aggregation);
        let settings =
            PolicyLoss { aggregation, beta, entropy_coef, entropy_aggregation, ..base() };
        check(&format!("{aggregation:?}"), &batch, &settings);
    }
}

#[test]
fn of_weights_that_are_held_constant() {
    // CISPO and VESPO are the plain policy gradient with other advantages.
    let batch = batch();
    let old = batch.old_logps.as_ref().unwrap();
    let totals = batch.totals();
    let cispo = Surrogate::Cispo {
        importance_sampling_level: Level::Token,
        ratio_min: Some(0.7),
        epsilon_high: 1.3,
    };
    let vespo = PolicyLoss::of_loss_type("vespo", 1.0).unwrap().surrogate;
    let advantage = |i: usize| batch.advantages[batch.segments[i] as usize];
    let drift = |segment: u32| -> f64 {
        let tokens = (0..old.len()).filter(|i| batch.segments[*i] == segment);
        tokens.map(|i| (batch.logps[i] - old[i]) * batch.weights[i]).sum()
    };
    let clipped = |i: usize| (batch.logps[i] - old[i]).exp().clamp(0.7, 1.3);
    let phi = |i: usize| {
        let w = drift(batch.segments[i]).exp();
        let (k, lambda): (f64, f64) = if advantage(i) >= 0.0 { (2.0, 3.0) } else { (3.0, 2.0) };
        lambda.exp() * w.powf(k) * (-lambda * w).exp()
    };
    let weights: [(Surrogate, &dyn Fn(usize) -> f64); 2] = [(cispo, &clipped), (vespo, &phi)];
    for (surrogate, weight) in weights {
        let ours = batch.run(&totals, &PolicyLoss { surrogate, ..base() }, DType::F64);
        let mut plain = batch.clone();
        plain.token_advantages = Some((0..old.len()).map(|i| advantage(i) * weight(i)).collect());
        let settings = PolicyLoss { surrogate: Surrogate::Gpg, ..base() };
        let expected = plain.run(&totals, &settings, DType::F64);
        assert!((ours.loss - expected.loss).abs() < 1e-12);
        assert!(gap(&ours.grad, &expected.grad) < 1e-12);
    }
}

#[test]
fn of_one_token_each_are_those_of_its_completion() {
    // With one advantage for a completion, GSPO-token is GSPO.
    let mut batch = batch();
    batch.corrections = None;
    let totals = batch.totals();
    let run = |level, aggregation| {
        batch.run(
            &totals,
            &PolicyLoss { surrogate: clip(level), aggregation, ..base() },
            DType::F64,
        )
    };
    let aggregation = Aggregation::SeqMeanTokenMean;
    let (ours, whole) = (run(Level::SequenceToken, aggregation), run(Level::Sequence, aggregation));
    assert!((ours.loss - whole.loss).abs() < 1e-12);
    assert!(gap(&ours.grad, &whole.grad) < 1e-12);
}

#[test]
fn straight_through_has_the_value_of_one_and_the_gradient_of_k2() {
    let batch = batch();
    let totals = batch.totals();
    let run = |estimator, straight_through| {
        let kl = Kl { estimator, straight_through };
        batch.run(&totals, &PolicyLoss { beta: 0.5, kl, ..base() }, DType::F64)
    };
    for estimator in [KlEstimator::K1, KlEstimator::Abs, KlEstimator::K3_VERL] {
        let ours = run(estimator, true);
        assert!((ours.loss - run(estimator, false).loss).abs() < 1e-12);
        assert!(gap(&ours.grad, &run(KlEstimator::K2, false).grad) < 1e-12);
    }
}

#[test]
fn flow_by_the_log_probs_alone() {
    let var = |values: &[f64]| Var::new(values, &Device::Cpu).unwrap();
    let (logps, old, reference) = (var(&[-1.0, -2.0]), var(&[-1.1, -1.9]), var(&[-1.2, -2.1]));
    let (advantages, corrections, weights) = (var(&[1.5]), var(&[0.5, 2.0]), var(&[1.0, 1.0]));
    let chosen = var(&[0.0, 1.0]);
    let segments = Tensor::new(&[0u32, 0], &Device::Cpu).unwrap();
    let layout = CompletionTokens { segments: &segments, completions: 1, weights: &weights };
    let tokens = PolicyTokens {
        layout,
        logps: &logps,
        old_logps: Some(&old),
        reference_logps: Some(&reference),
        advantages: Advantages::Completion(&advantages),
        corrections: Some(&corrections),
        entropies: None,
        chosen: Some(&chosen),
    };
    let totals = Totals { tokens: 2.0, completions: 1.0, micro_batches: 1.0 };
    for surrogate in [clip(Level::Token), Surrogate::KlCov { ppo_kl_coef: 1.0 }] {
        let settings = PolicyLoss { beta: 0.1, surrogate, use_bias_correction_kl: true, ..base() };
        let out = policy_loss(&tokens, &totals, &settings).unwrap();
        let grads = out.loss.backward().unwrap();
        assert!(grads.get(&logps).is_some());
        for constant in [&old, &reference, &advantages, &corrections, &weights, &chosen] {
            assert!(grads.get(constant).is_none());
        }
    }
    let inputs =
        ValueTokens { layout, values: &logps, old_values: Some(&old), returns: &reference };
    let (cliprange_value, vf_coef) = (Some(0.2), 1.0);
    let settings = ValueLoss { cliprange_value, vf_coef, aggregation: Aggregation::TokenMean };
    let grads = value_loss(&inputs, &totals, &settings).unwrap().loss.backward().unwrap();
    assert!(grads.get(&logps).is_some());
    assert!(grads.get(&old).is_none() && grads.get(&reference).is_none());
}

#[test]
fn at_a_bound_are_whole() {
    let x = Var::new(&[-1.0, -0.5, 0.5, 1.0, 2.0, -3.0], &Device::Cpu).unwrap();
    let clamped = Bounds { low: -1.0, high: 1.0 }.clamp(&x).unwrap();
    assert_eq!(clamped.to_vec1::<f64>().unwrap(), [-1.0, -0.5, 0.5, 1.0, 1.0, -1.0]);
    let grads = clamped.sum_all().unwrap().backward().unwrap();
    let grad = grads.get(&x).unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(grad, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
}
