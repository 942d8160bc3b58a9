//! What has to hold whatever the numbers are.

use candle_core::DType;

use super::golden::{Batch, gap, load, numbers};
use crate::policy::*;

fn base() -> PolicyLoss {
    PolicyLoss::of_loss_type("dapo", 10.0).unwrap()
}

fn one(logps: &[f64], old: &[f64], advantage: f64) -> Batch {
    Batch {
        segments: vec![0; logps.len()],
        completions: 1,
        weights: vec![1.0; logps.len()],
        logps: logps.to_vec(),
        old_logps: Some(old.to_vec()),
        reference_logps: old.to_vec(),
        entropies: vec![0.0; logps.len()],
        advantages: vec![advantage],
        token_advantages: None,
        corrections: None,
        chosen: None,
    }
}

#[test]
fn ratios_by_hand() {
    let clipped = |clip_ratio_c| {
        let surrogate = Surrogate::Clip {
            importance_sampling_level: Level::Token,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            clip_ratio_c,
        };
        PolicyLoss { surrogate, ..base() }
    };
    let loss = |ratio: f64, advantage, c| {
        let batch = one(&[ratio.ln() - 2.0], &[-2.0], advantage);
        batch.run(&batch.totals(), &clipped(c), DType::F64).loss
    };
    assert!((loss(5.0, -1.0, None) - 5.0).abs() < 1e-12);
    assert!((loss(5.0, -1.0, Some(3.0)) - 3.0).abs() < 1e-12);
    assert!((loss(1.5, 1.0, Some(3.0)) + 1.2).abs() < 1e-12);
}

#[test]
fn at_ratio_1_the_loss_is_minus_the_advantage_and_the_gradient_plain() {
    let mut batch = Batch::golden(&load()["tokens"]);
    batch.old_logps = None;
    let totals = batch.totals();
    let run = |surrogate| batch.run(&totals, &PolicyLoss { surrogate, ..base() }, DType::F64);
    let plain = run(Surrogate::Gpg);
    let of = |i: usize| batch.advantages[batch.segments[i] as usize] * batch.weights[i];
    let mean: f64 = (0..batch.logps.len()).map(of).sum::<f64>() / totals.tokens;
    let names = ["dapo", "sapo", "cispo", "vespo"];
    for name in names {
        let surrogate = PolicyLoss::of_loss_type(name, 1.0).unwrap().surrogate;
        let out = run(surrogate);
        assert!(gap(&out.grad, &plain.grad) < 1e-12, "{name}");
        let expected = match name {
            "dapo" => -mean,
            "sapo" => {
                // 4 / tau times the sigmoid of 0.
                let gate = |a: f64| a * if a > 0.0 { 2.0 } else { 2.0 / 1.05 };
                -(0..batch.logps.len()).map(|i| gate(of(i))).sum::<f64>() / totals.tokens
            }
            _ => plain.loss,
        };
        assert!((out.loss - expected).abs() < 1e-12, "{name}");
    }
    let gmpo = Surrogate::Gmpo { epsilon: 0.4, epsilon_high: None };
    let aggregation = Aggregation::SeqMeanTokenMean;
    let of_means = |surrogate| {
        batch.run(&totals, &PolicyLoss { surrogate, aggregation, ..base() }, DType::F64).grad
    };
    assert!(gap(&of_means(gmpo), &of_means(Surrogate::Gpg)) < 1e-12);
}

#[test]
fn micro_batches_add_up() {
    let golden = load();
    let mut batch = Batch::golden(&golden["tokens"]);
    batch.corrections = Some(numbers(&golden["tokens"]["corrections"]));
    let chosen = (0..batch.weights.len()).map(|i| f64::from(i % 5 == 0)).collect();
    batch.chosen = Some(chosen);
    let parts = [batch.only(&[4, 0]), batch.only(&[3]), batch.only(&[6, 1, 2, 5])];
    let totals = batch.totals();
    let mut settings: Vec<PolicyLoss> = Vec::new();
    for name in ["grpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"] {
        let named = PolicyLoss::of_loss_type(name, 10.0).unwrap();
        settings.push(PolicyLoss { beta: 0.2, entropy_coef: 0.1, ..named });
    }
    for surrogate in [
        Surrogate::Gmpo { epsilon: 0.4, epsilon_high: None },
        Surrogate::ClipCov { epsilon: 0.2, epsilon_high: None },
        Surrogate::KlCov { ppo_kl_coef: 1.0 },
    ] {
        settings.push(PolicyLoss { surrogate, ..base() });
    }
    for aggregation in [Aggregation::TokenSum, Aggregation::TokenSumNorm { loss_scale_factor: 9.0 }]
    {
        settings.push(PolicyLoss { aggregation, ..base() });
    }
    for settings in &settings {
        let whole = batch.run(&totals, settings, DType::F64);
        let parts: Vec<_> = parts.iter().map(|p| p.run(&totals, settings, DType::F64)).collect();
        let sum: f64 = parts.iter().map(|p| p.loss).sum();
        assert!((whole.loss - sum).abs() < 1e-12, "{settings:?}");
        let mut merged = PolicyMetrics::default();
        parts.iter().for_each(|part| merged.merge(&part.metrics));
        for ((name, a), (other, b)) in whole.metrics.named().into_iter().zip(merged.named()) {
            assert_eq!(name, other);
            assert!((a - b).abs() < 1e-12, "{settings:?} {name}: {a} {b}");
        }
    }
    // bnpo is local by definition: the mean of the means of the micro-batches.
    let local = PolicyLoss { aggregation: Aggregation::LocalTokenMean, ..base() };
    let totals = Totals { micro_batches: 3.0, ..totals };
    let losses = parts.iter().map(|p| p.run(&totals, &local, DType::F64).loss);
    let means = parts.iter().map(|p| {
        if p.weights.contains(&1.0) { p.run(&p.totals(), &base(), DType::F64).loss } else { 0.0 }
    });
    assert!((losses.sum::<f64>() - means.sum::<f64>() / 3.0).abs() < 1e-12);
}

#[test]
fn aggregations_by_hand() {
    // Losses (1, 3) and (1, 1, 1, 1): ratios of 1 and advantages of -1 and -3.
    let mut batch = one(&[-1.0; 6], &[-1.0; 6], 0.0);
    batch.segments = vec![0, 0, 1, 1, 1, 1];
    batch.completions = 2;
    batch.advantages = vec![0.0; 2];
    batch.token_advantages = Some(vec![-1.0, -3.0, -1.0, -1.0, -1.0, -1.0]);
    let of = |aggregation| {
        let settings = PolicyLoss { aggregation, ..base() };
        batch.run(&batch.totals(), &settings, DType::F64).loss
    };
    let loss_scale_factor = 8.0;
    for (aggregation, expected) in [
        (Aggregation::TokenMean, 8.0 / 6.0),
        (Aggregation::LocalTokenMean, 8.0 / 6.0),
        (Aggregation::TokenSum, 8.0),
        (Aggregation::SeqMeanTokenSum, 4.0),
        (Aggregation::SeqMeanTokenMean, 1.5),
        (Aggregation::TokenSumNorm { loss_scale_factor }, 1.0),
        (Aggregation::SeqMeanTokenSumNorm { loss_scale_factor }, 0.5),
    ] {
        assert!((of(aggregation) - expected).abs() < 1e-12, "{aggregation:?}");
    }
}

#[test]
fn aggregations_agree_where_all_completions_are_as_long_as_the_constant() {
    let mut batch = Batch::golden(&load()["tokens"]);
    batch.segments = (0..34).map(|i| i / 17).collect();
    batch.completions = 2;
    batch.weights = vec![1.0; 34];
    batch.advantages.truncate(2);
    let run =
        |aggregation| batch.run(&batch.totals(), &PolicyLoss { aggregation, ..base() }, DType::F64);
    let expected = run(Aggregation::TokenMean);
    for aggregation in [
        Aggregation::LocalTokenMean,
        Aggregation::SeqMeanTokenMean,
        Aggregation::SeqMeanTokenSumNorm { loss_scale_factor: 17.0 },
        Aggregation::TokenSumNorm { loss_scale_factor: 34.0 },
    ] {
        let out = run(aggregation);
        assert!((out.loss - expected.loss).abs() < 1e-12, "{aggregation:?}");
        assert!(gap(&out.grad, &expected.grad) < 1e-12, "{aggregation:?}");
    }
}

#[test]
fn what_stands_at_tokens_that_do_not_count_does_not_matter() {
    let batch = Batch::golden(&load()["tokens"]);
    let mut spoilt = batch.clone();
    for i in (0..spoilt.weights.len()).filter(|i| batch.weights[*i] == 0.0) {
        spoilt.logps[i] = f64::NEG_INFINITY;
        spoilt.reference_logps[i] = f64::NAN;
        spoilt.entropies[i] = f64::NAN;
    }
    for name in ["grpo", "dapo", "luspo", "cispo", "sapo", "vespo"] {
        let named = PolicyLoss::of_loss_type(name, 10.0).unwrap();
        let settings = PolicyLoss { beta: 0.2, entropy_coef: 0.1, ..named };
        let totals = batch.totals();
        let (a, b) =
            (batch.run(&totals, &settings, DType::F64), spoilt.run(&totals, &settings, DType::F64));
        assert_eq!(a.loss, b.loss, "{name}");
        assert_eq!(a.grad, b.grad, "{name}");
        assert_eq!(a.metrics, b.metrics, "{name}");
    }
}

#[test]
fn far_ratios_stay_finite_in_f32() {
    for (logp, advantage) in [(0.0, 1.0), (0.0, -1.0), (-3000.0, 1.0), (-3000.0, -1.0)] {
        let batch = one(&[logp], &[-1500.0], advantage);
        for name in ["grpo", "dapo", "luspo", "cispo", "sapo", "vespo"] {
            let named = PolicyLoss::of_loss_type(name, 10.0).unwrap();
            let out = batch.run(&batch.totals(), &PolicyLoss { beta: 0.1, ..named }, DType::F32);
            assert!(out.loss.is_finite() && out.grad[0].is_finite(), "{name} {logp} {advantage}");
        }
        let surrogate = Surrogate::Gmpo { epsilon: 0.4, epsilon_high: None };
        let settings = PolicyLoss { surrogate, ..base() };
        let out = batch.run(&batch.totals(), &settings, DType::F32);
        assert!(out.loss.is_finite() && out.grad[0].is_finite());
    }
}
