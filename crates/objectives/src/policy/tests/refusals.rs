//! What is refused, and by which name.

use candle_core::{DType, Device, Tensor};

use crate::policy::*;

fn vector(values: &[f64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn refuse(settings: &PolicyLoss) -> String {
    refuse_with(settings, &Totals { tokens: 2.0, completions: 1.0, micro_batches: 1.0 })
}

fn refuse_with(settings: &PolicyLoss, totals: &Totals) -> String {
    let (logps, weights) = (vector(&[-1.0, -2.0]), vector(&[1.0, 1.0]));
    let segments = Tensor::new(&[0u32, 0], &Device::Cpu).unwrap();
    let advantages = vector(&[1.0]);
    let tokens = PolicyTokens {
        layout: CompletionTokens { segments: &segments, completions: 1, weights: &weights },
        logps: &logps,
        old_logps: None,
        reference_logps: None,
        advantages: Advantages::Completion(&advantages),
        corrections: None,
        entropies: None,
        chosen: None,
    };
    policy_loss(&tokens, totals, settings).unwrap_err().to_string()
}

#[test]
fn settings_out_of_range() {
    let base = PolicyLoss::of_loss_type("dapo", 1.0).unwrap();
    let clip = |epsilon, epsilon_high, delta, clip_ratio_c| {
        let importance_sampling_level = Level::Token;
        let surrogate = Surrogate::Clip {
            importance_sampling_level,
            epsilon,
            epsilon_high,
            delta,
            clip_ratio_c,
        };
        refuse(&PolicyLoss { surrogate, ..base })
    };
    assert_eq!(clip(-0.1, None, None, None), "epsilon is -0.1, expected a number of at least 0");
    assert_eq!(
        clip(1.5, None, None, None),
        "epsilon is 1.5, expected at most 1, as ratios are positive"
    );
    let error = clip(0.2, Some(f64::NAN), None, None);
    assert_eq!(error, "epsilon_high is NaN, expected a number of at least 0");
    assert_eq!(clip(0.2, None, Some(0.0), None), "delta is 0, expected a positive number");
    assert_eq!(clip(0.2, None, None, Some(1.0)), "clip_ratio_c is 1, expected a number above 1");
    let of = |surrogate| refuse(&PolicyLoss { surrogate, ..base });
    let gmpo = Surrogate::Gmpo { epsilon: f64::INFINITY, epsilon_high: None };
    assert_eq!(of(gmpo), "epsilon is inf, expected a number of at least 0");
    let cov = Surrogate::ClipCov { epsilon: 0.2, epsilon_high: None };
    assert_eq!(of(cov), "Clip-Cov cannot be computed without chosen");
    assert_eq!(
        of(Surrogate::KlCov { ppo_kl_coef: 1.0 }),
        "KL-Cov cannot be computed without chosen"
    );
    let sapo = Surrogate::Sapo {
        importance_sampling_level: Level::Token,
        sapo_temperature_pos: 0.0,
        sapo_temperature_neg: 1.0,
    };
    assert_eq!(of(sapo), "sapo_temperature_pos is 0, expected a positive number");
    let error = refuse(&PolicyLoss { beta: 0.1, ..base });
    assert_eq!(error, "beta cannot be computed without reference_logps");
    assert!(refuse(&PolicyLoss { beta: -0.1, ..base }).starts_with("beta is -0.1"));
    let error = refuse(&PolicyLoss { entropy_coef: 0.1, ..base });
    assert_eq!(error, "entropy_coef cannot be computed without entropies");
    let log_ratio_clamp = Bounds { low: -100.0, high: 100.0 };
    assert!(refuse(&PolicyLoss { log_ratio_clamp, ..base }).starts_with("log_ratio_clamp is 100"));
    let aggregation = Aggregation::TokenSumNorm { loss_scale_factor: 0.0 };
    let error = refuse(&PolicyLoss { aggregation, ..base });
    assert_eq!(error, "loss_scale_factor is 0, expected a positive number");
    let totals = Totals { tokens: 0.0, completions: 0.0, micro_batches: 0.0 };
    assert!(refuse_with(&base, &totals).starts_with("totals.tokens is 0"));
    let aggregation = Aggregation::SeqMeanTokenMean;
    let error = refuse_with(&PolicyLoss { aggregation, ..base }, &totals);
    assert!(error.starts_with("totals.completions is 0"));
}

#[test]
fn names_that_are_not_known() {
    let error = PolicyLoss::of_loss_type("ppo", 1.0).unwrap_err().to_string();
    assert!(error.starts_with("loss_type is \"ppo\", expected one of grpo, bnpo"), "{error}");
    assert!(Aggregation::of_loss_agg_mode("token_mean", 1.0).is_err());
    let error = Kl::named("full").unwrap_err().to_string();
    assert_eq!(
        error,
        "kl_loss_type is \"full\", expected one of k1, abs, k2 or k3, with or without a +"
    );
}

#[test]
fn tensors_that_do_not_fit() {
    let settings = PolicyLoss::of_loss_type("dapo", 1.0).unwrap();
    let totals = Totals { tokens: 2.0, completions: 1.0, micro_batches: 1.0 };
    let (two, three, one) = (vector(&[-1.0, -2.0]), vector(&[0.0; 3]), vector(&[1.0]));
    let weights = vector(&[1.0, 1.0]);
    let segments = Tensor::new(&[0u32, 0], &Device::Cpu).unwrap();
    let good = PolicyTokens {
        layout: CompletionTokens { segments: &segments, completions: 1, weights: &weights },
        logps: &two,
        old_logps: None,
        reference_logps: None,
        advantages: Advantages::Completion(&one),
        corrections: None,
        entropies: None,
        chosen: None,
    };
    assert!(policy_loss(&good, &totals, &settings).is_ok());
    let error = |tokens: PolicyTokens<'_>| {
        policy_loss(&tokens, &totals, &settings).unwrap_err().to_string()
    };
    let old_logps = Some(&three);
    assert_eq!(error(PolicyTokens { old_logps, ..good }), "old_logps: shape [3], expected [2]");
    let advantages = Advantages::Completion(&two);
    assert_eq!(error(PolicyTokens { advantages, ..good }), "advantages: shape [2], expected [1]");
    let advantages = Advantages::Token(&one);
    assert_eq!(error(PolicyTokens { advantages, ..good }), "advantages: shape [1], expected [2]");
    let half = two.to_dtype(DType::BF16).unwrap();
    assert_eq!(error(PolicyTokens { logps: &half, ..good }), "logps: BF16, expected f32 or f64");
    let weights = vector(&[1.0, 0.5]);
    let layout = CompletionTokens { weights: &weights, ..good.layout };
    let refused = "weights is 0.5, expected 0 or 1 for every token";
    assert_eq!(error(PolicyTokens { layout, ..good }), refused);
    let segments = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let layout = CompletionTokens { segments: &segments, ..good.layout };
    let refused = "segments is 1, expected below the number of completions";
    assert_eq!(error(PolicyTokens { layout, ..good }), refused);
}

#[test]
fn host_inputs_that_do_not_fit() {
    let table = RewardTable { values: &[Some(1.0)], weights: &[1.0], groups: &[0, 0] };
    let error = grpo(&table, &Grpo::default()).unwrap_err().to_string();
    assert_eq!(error, "rewards: shape [1], expected [2]");
    let table = RewardTable { values: &[Some(f64::NAN)], weights: &[1.0], groups: &[0] };
    let error = grpo(&table, &Grpo::default()).unwrap_err().to_string();
    assert_eq!(error, "rewards is NaN, expected a finite number");
    let trajectory = Trajectory { rewards: &[1.0], weights: &[1.0], segments: &[0] };
    let error = gae(&trajectory, &[0.0], &[0.0], &Gae { gamma: 1.0, lam: 1.5 }).unwrap_err();
    assert_eq!(error.to_string(), "lam is 1.5, expected from 0 to 1");
    let error = whiten(&[1.0], &[1.0], true).unwrap_err().to_string();
    assert_eq!(error, "weights is 1, expected at least two tokens to whiten over");
    let settings = Overlong { max_length: 4.0, buffer: 8.0, penalty_factor: 1.0 };
    let error = overlong_punishment(&[1], &settings).unwrap_err().to_string();
    assert_eq!(error, "overlong_buffer.len is 8, expected at most the longest completion");
    let mut kl = KlController::Adaptive { kl_coef: 0.1, target_kl: 0.0, horizon: 1.0 };
    assert_eq!(
        kl.update(0.1, 1.0).unwrap_err().to_string(),
        "target_kl is 0, expected a positive number"
    );
}
