//! Policy losses against TRL's and verl's own code, in values, gradients and metrics.

use candle_core::DType;
use serde_json::Value;

use super::golden::{Batch, gap, ids, load, numbers};
use crate::policy::*;

fn level(case: &Value) -> Level {
    match (case["trainer"].as_str().unwrap(), case["importance_sampling_level"].as_str().unwrap()) {
        ("RLOOTrainer", _) => Level::SequenceSum,
        (_, "sequence") => Level::Sequence,
        _ => Level::Token,
    }
}

/// The settings that one of TRL's cases stands for.
fn of_trl(case: &Value) -> PolicyLoss {
    let number = |key: &str| case[key].as_f64();
    let loss_type = case["loss_type"].as_str().unwrap();
    let mut settings = PolicyLoss::of_loss_type(loss_type, 10.0).unwrap();
    settings.beta = number("beta").unwrap();
    settings.entropy_coef = number("entropy_coef").unwrap();
    settings.use_bias_correction_kl = case["use_bias_correction_kl"] == true;
    match &mut settings.surrogate {
        Surrogate::Clip { importance_sampling_level, epsilon, epsilon_high, delta, .. } => {
            *importance_sampling_level = level(case);
            *epsilon = number("epsilon").unwrap();
            *epsilon_high = number("epsilon_high");
            *delta = number("delta");
        }
        Surrogate::Cispo { importance_sampling_level, epsilon_high, .. } => {
            *importance_sampling_level = level(case);
            *epsilon_high = number("epsilon_high").unwrap();
        }
        Surrogate::Sapo { importance_sampling_level, .. } => {
            *importance_sampling_level = level(case);
        }
        _ => {}
    }
    if case["trainer"] == "GMPOTrainer" {
        let epsilon = number("epsilon").unwrap();
        settings.surrogate = Surrogate::Gmpo { epsilon, epsilon_high: number("epsilon_high") };
    }
    settings
}

/// The settings that one of verl's cases stands for.
fn of_verl(case: &Value) -> PolicyLoss {
    let number = |key: &str| case[key].as_f64();
    let clip = number("clip_ratio").unwrap_or(0.2);
    let epsilon = number("clip_ratio_low").unwrap_or(clip);
    let high = number("clip_ratio_high").unwrap_or(clip);
    let epsilon_high = Some(high);
    let mode = case["mode"].as_str().unwrap();
    let clipped = |importance_sampling_level, clip_ratio_c| Surrogate::Clip {
        importance_sampling_level,
        epsilon,
        epsilon_high,
        delta: None,
        clip_ratio_c,
    };
    let surrogate = match mode {
        "vanilla" => clipped(Level::Token, Some(number("clip_ratio_c").unwrap_or(3.0))),
        "gspo" => clipped(Level::SequenceToken, None),
        "sapo" => PolicyLoss::of_loss_type("sapo", 1.0).unwrap().surrogate,
        "gpg" => Surrogate::Gpg,
        "cispo" => Surrogate::Cispo {
            importance_sampling_level: Level::Token,
            ratio_min: Some(1.0 - epsilon),
            epsilon_high: 1.0 + high,
        },
        "geo_mean" => Surrogate::Gmpo { epsilon, epsilon_high },
        "clip_cov" => Surrogate::ClipCov { epsilon, epsilon_high },
        "kl_cov" => Surrogate::KlCov { ppo_kl_coef: 0.3 },
        other => panic!("{other}"),
    };
    let agg = if mode == "geo_mean" {
        "seq-mean-token-mean"
    } else {
        case["loss_agg_mode"].as_str().unwrap()
    };
    PolicyLoss {
        surrogate,
        log_ratio_clamp: if mode == "gspo" { Bounds::GSPO } else { Bounds::VERL },
        aggregation: Aggregation::of_loss_agg_mode(agg, number("scale").unwrap_or(1.0)).unwrap(),
        ..PolicyLoss::of_loss_type("dapo", 1.0).unwrap()
    }
}

/// The batch of a case, with the masks that our own host functions make of it.
fn batch_of(case: &Value, golden: &Value) -> (Batch, Vec<u32>) {
    let tokens = &golden["tokens"];
    let mut batch = Batch::golden(tokens);
    if case["token_advantages"] == true {
        batch.token_advantages = Some(numbers(&tokens["token_advantages"]));
    }
    if case["corrections"] == true {
        batch.corrections = Some(numbers(&tokens["corrections"]));
    }
    if case["far"] == true {
        batch.old_logps = Some(numbers(&tokens["far_old_logps"]));
    }
    if case["old"] == false {
        batch.old_logps = None;
    }
    if let Some(top) = case["top_entropy_quantile"].as_f64().filter(|top| *top < 1.0) {
        let mask = high_entropy_mask(&batch.entropies, &batch.weights, top).unwrap();
        assert!(mask.iter().sum::<f64>() < 10.0);
        batch.corrections = Some(mask);
    }
    if let Some(threshold) = case["off_policy_mask_threshold"].as_f64() {
        let old = batch.old_logps.as_ref().unwrap();
        let (b, a) = (&batch, &batch.advantages);
        let mask = off_policy_mask(&b.logps, old, &b.weights, &b.segments, a, threshold).unwrap();
        assert!(mask.contains(&0.0) && mask.contains(&1.0));
        batch.corrections = Some(mask);
    }
    if matches!(case["mode"].as_str(), Some("clip_cov" | "kl_cov")) {
        batch.chosen = Some(chosen(case, &batch));
    }
    let without = ids(&case["without"]);
    let kept: Vec<u32> = (0..7).filter(|c| !without.contains(c)).collect();
    (batch.only(&kept), kept)
}

/// The tokens that Clip-Cov drew, after checking what it drew from, or that KL-Cov takes.
fn chosen(case: &Value, batch: &Batch) -> Vec<f64> {
    let advantages = batch.token_advantages.as_ref().unwrap();
    let means = TokenMeans::new(advantages, &batch.logps, &batch.weights).unwrap();
    let covariances = covariances(advantages, &batch.logps, &means).unwrap();
    let tokens = batch.weights.iter().sum::<f64>() as usize;
    if case["mode"] == "kl_cov" {
        let count = kl_cov_count(0.2, tokens).unwrap();
        assert_eq!(count, 5);
        let mut mask = vec![0.0; batch.weights.len()];
        for i in kl_cov_tokens(&covariances, &batch.weights, count).unwrap() {
            mask[i] = 1.0;
        }
        return mask;
    }
    let old = batch.old_logps.as_ref().unwrap();
    let ratios: Vec<f64> = batch.logps.iter().zip(old).map(|(l, o)| (l - o).exp()).collect();
    let candidates = clip_cov_candidates(
        &covariances,
        advantages,
        &ratios,
        &batch.weights,
        Bounds { low: 0.8, high: 1.2 },
        Bounds { low: 0.1, high: 2.0 },
    )
    .unwrap();
    let theirs = numbers(&case["candidates"]);
    let theirs: Vec<usize> = (0..theirs.len()).filter(|i| theirs[*i] == 1.0).collect();
    assert_eq!(candidates, theirs);
    let drawn = numbers(&case["chosen"]);
    let count = drawn.iter().sum::<f64>() as usize;
    assert_eq!(count, clip_cov_count(0.2, tokens).unwrap().min(candidates.len()));
    drawn
}

#[test]
fn agree_with_trl_and_verl() {
    let golden = load();
    let cases = golden["losses"].as_array().unwrap();
    assert_eq!(cases.len(), 47);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let of_trl_code = case["source"] == "trl";
        let settings = if of_trl_code { of_trl(case) } else { of_verl(case) };
        let (batch, kept) = batch_of(case, &golden);
        let mut totals = batch.totals();
        if !of_trl_code && case["mode"] != "geo_mean" {
            totals.completions = 6.0; // verl leaves out the one without tokens
        }
        let out = batch.run(&totals, &settings, DType::F64);
        let narrow = batch.run(&totals, &settings, DType::F32);
        let loss = case["loss"].as_f64().unwrap();
        let segments = ids(&golden["tokens"]["segments"]);
        let grad = numbers(&case["grad"]);
        let grad: Vec<f64> = grad
            .iter()
            .zip(&segments)
            .filter(|(_, s)| kept.contains(*s))
            .map(|(g, _)| *g)
            .collect();
        let most = gap(&[out.loss], &[loss]).max(gap(&out.grad, &grad));
        let narrow = gap(&[narrow.loss], &[loss]).max(gap(&narrow.grad, &grad));
        // verl adds 1e-8 to the numbers of tokens that its means of completions divide by.
        let of_completions = settings.aggregation == Aggregation::SeqMeanTokenMean;
        let least = if of_trl_code || !of_completions { 1e-10 } else { 1e-8 };
        assert!(most < least, "{name}: {most} {} {loss}", out.loss);
        assert!(narrow < 1e-5, "{name} in f32: {narrow}");
        for (key, value) in case["metrics"].as_object().unwrap() {
            let ours = match (key.as_str(), case["mode"].as_str()) {
                // These are 0 by definition there, or count what we do not.
                ("actor/pg_clipfrac" | "actor/pg_clipfrac_lower", Some("sapo" | "geo_mean")) => {
                    continue;
                }
                ("actor/pg_clipfrac_lower", Some("gspo")) => continue,
                ("actor/pg_clipfrac", _) => "clip_ratio/region_mean",
                (key, _) => key,
            };
            let (ours, theirs) = (out.figure(ours), value.as_f64().unwrap());
            assert!(
                (ours - theirs).abs() < 1e-6 * theirs.abs().max(1.0),
                "{name} {key}: {ours} {theirs}"
            );
        }
    }
}

#[test]
fn value_losses_agree_with_verl() {
    use candle_core::{Device, Tensor, Var};
    let golden = load();
    let tokens = &golden["tokens"];
    let tensor = |name: &str| Tensor::new(numbers(&tokens[name]), &Device::Cpu).unwrap();
    let segments = Tensor::new(ids(&tokens["segments"]), &Device::Cpu).unwrap();
    let (weights, old, returns) = (tensor("weights"), tensor("old_values"), tensor("returns"));
    let totals = Totals { tokens: 26.0, completions: 6.0, micro_batches: 1.0 };
    for case in golden["values"].as_array().unwrap() {
        let values = Var::from_tensor(&tensor("values")).unwrap();
        let agg = case["loss_agg_mode"].as_str().unwrap();
        let settings = ValueLoss {
            cliprange_value: case["cliprange_value"].as_f64(),
            vf_coef: 1.0,
            aggregation: Aggregation::of_loss_agg_mode(agg, 1.0).unwrap(),
        };
        let layout = CompletionTokens { segments: &segments, completions: 7, weights: &weights };
        let inputs =
            ValueTokens { layout, values: &values, old_values: Some(&old), returns: &returns };
        let out = value_loss(&inputs, &totals, &settings).unwrap();
        let grads = out.loss.backward().unwrap();
        let grad = grads.get(&values).unwrap().to_vec1::<f64>().unwrap();
        let loss = out.loss.to_scalar::<f64>().unwrap();
        // verl's means of a completion add 1e-8 to its number of tokens.
        assert!(gap(&[loss], &[case["loss"].as_f64().unwrap()]) < 1e-8);
        assert!(gap(&grad, &numbers(&case["grad"])) < 1e-8);
        let named = out.metrics.named();
        assert_eq!(named[1].0, "val/clipfrac_avg");
        assert!((named[1].1 - case["clipfrac"].as_f64().unwrap()).abs() < 1e-8);
    }
}
