//! KL estimates, controllers, filters and masks.

use candle_core::{Device, Tensor, Var};

use super::golden::{gap, ids, load, numbers};
use crate::policy::*;

#[test]
fn kl_estimates_agree_with_verl() {
    let golden = load();
    let golden = &golden["figures"]["kl"];
    let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
    let (logps, reference) = (numbers(&golden["logps"]), numbers(&golden["reference"]));
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let kl = Kl::named(name).unwrap();
        let var = Var::from_tensor(&tensor(&logps)).unwrap();
        let out = kl.tokens(&var, &tensor(&reference)).unwrap();
        let grads = out.sum_all().unwrap().backward().unwrap();
        let value = numbers(&case["value"]);
        assert!(gap(&out.to_vec1::<f64>().unwrap(), &value) < 1e-10, "{name}");
        let grad = grads.get(&var).unwrap().to_vec1::<f64>().unwrap();
        assert!(gap(&grad, &numbers(&case["grad"])) < 1e-10, "{name}");
        let host = logps.iter().zip(&reference).map(|(l, r)| kl.estimator.estimate(*l, *r));
        assert!(gap(&host.collect::<Vec<_>>(), &value) < 1e-10, "{name}");
    }
    let by_hand = |name: &str| Kl::named(name).unwrap().estimator.estimate(-1.0, -1.5);
    assert_eq!((by_hand("k1"), by_hand("k2")), (0.5, 0.125));
    assert!((by_hand("k3") - 0.106_530_7).abs() < 1e-7);
}

#[test]
fn kl_in_the_reward_agrees_with_verl() {
    let golden = load();
    let tokens = &golden["tokens"];
    let of = |name: &str| numbers(&tokens[name]);
    let (weights, segments) = (of("weights"), ids(&tokens["segments"]));
    let (old, reference) = (of("old_logps"), of("reference_logps"));
    let ours = kl_in_reward(
        &of("rewards"),
        &old,
        &reference,
        (&weights, &segments, 7),
        KlEstimator::K1,
        0.05,
    )
    .unwrap();
    let theirs = &golden["figures"]["reward_kl"];
    assert!(gap(&ours.rewards, &numbers(&theirs["rewards"])) < 1e-10);
    // verl adds 1e-8 to the number of tokens.
    assert!((ours.current_kl - theirs["current_kl"].as_f64().unwrap()).abs() < 1e-8);
    let sums = completion_kl(&old, &reference, &weights, &segments, 7).unwrap();
    assert_eq!(sums[3], 0.0);
    let spent: f64 = of("rewards").iter().zip(&ours.rewards).map(|(r, o)| (r - o) / 0.05).sum();
    assert!((sums.iter().sum::<f64>() - spent).abs() < 1e-10);
}

#[test]
fn controllers() {
    let golden = load();
    let mut kl = KlController::Adaptive { kl_coef: 0.05, target_kl: 0.1, horizon: 10000.0 };
    let mut fixed = KlController::Fixed { kl_coef: 0.05 };
    for row in golden["figures"]["adaptive_kl"].as_array().unwrap() {
        let row = numbers(row);
        kl.update(row[0], row[1]).unwrap();
        fixed.update(row[0], row[1]).unwrap();
        assert!((kl.coefficient() - row[2]).abs() < 1e-14);
    }
    assert_eq!(fixed.coefficient(), 0.05);
    let mut entropy = EntropyController {
        entropy_coef: 0.002,
        entropy_target: 0.2,
        entropy_coef_delta: 0.005,
        entropy_coef_min: 0.0,
        entropy_coef_max: 0.01,
        last_entropy: 0.3,
    };
    for row in golden["figures"]["adaptive_entropy"].as_array().unwrap() {
        let row = numbers(row);
        assert!((entropy.coefficient() - row[1]).abs() < 1e-12);
        entropy.update(row[0]).unwrap();
        assert!((entropy.entropy_coef - row[2]).abs() < 1e-12);
    }
}

#[test]
fn corrections_for_the_sampler_agree_with_trl() {
    let golden = load();
    let tokens = &golden["tokens"];
    let of = |name: &str| numbers(&tokens[name]);
    let (weights, segments) = (of("weights"), ids(&tokens["segments"]));
    for case in golden["figures"]["sampler_corrections"].as_array().unwrap() {
        let mode = match case["mode"].as_str().unwrap() {
            "token_truncate" => SamplerCorrection::TokenTruncate,
            "token_mask" => SamplerCorrection::TokenMask,
            "sequence_truncate" => SamplerCorrection::SequenceTruncate,
            "sequence_mask" => SamplerCorrection::SequenceMask,
            other => panic!("{other}"),
        };
        let ours = sampler_corrections(
            &of("old_logps"),
            &of("reference_logps"),
            (&weights, &segments, 7),
            mode,
            Bounds { low: 0.6, high: 1.5 },
        )
        .unwrap();
        assert!(gap(&ours, &numbers(&case["factors"])) < 1e-10, "{mode:?}");
    }
}

#[test]
fn explained_variance_agrees_with_verl() {
    let golden = load();
    let of = |name: &str| numbers(&golden["tokens"][name]);
    let ours = explained_variance(&of("old_values"), &of("returns"), &of("weights")).unwrap();
    assert!((ours - golden["figures"]["explained_variance"].as_f64().unwrap()).abs() < 1e-10);
}

#[test]
fn overlong_punishment_agrees_with_the_paper() {
    let golden = load();
    let settings = Overlong { max_length: 20.0, buffer: 4.0, penalty_factor: 0.5 };
    for row in golden["figures"]["overlong"].as_array().unwrap() {
        let row = numbers(row);
        assert_eq!(overlong_punishment(&[row[0] as usize], &settings).unwrap(), [row[1]]);
    }
}

#[test]
fn groups_that_do_not_vary_are_dropped_by_the_metric() {
    let acc = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
    let total = [1.1, 1.2, 0.1, 1.0, 0.3, 0.2, 1.0];
    let named: [(&str, &[f64]); 2] = [("acc", &acc), ("reward", &total)];
    let groups = [0, 0, 1, 1, 2, 2, 3];
    let kept = dynamic_sampling("acc", &named, &groups).unwrap();
    assert_eq!(kept, [false, false, true, true, false, false, true]);
    let error = dynamic_sampling("reward", &named, &groups).unwrap_err().to_string();
    let expected = "filter_groups.metric is \"reward\", expected one of acc";
    assert_eq!(error, expected);
    assert!(dynamic_sampling("exact", &named, &groups).is_err());
}

#[test]
fn truncated_completions_count_no_token() {
    let ours = mask_truncated(&[1.0, 0.0, 1.0, 1.0], &[0, 0, 1, 0], &[false, true]).unwrap();
    assert_eq!(ours, [1.0, 0.0, 0.0, 1.0]);
}

#[test]
fn tokens_of_high_entropy() {
    let of = |top| high_entropy_mask(&[0.1, 0.9, 0.5, 2.0], &[1.0, 1.0, 1.0, 0.0], top).unwrap();
    // As TRL has it: 0 leaves the one of highest entropy, 1 leaves all.
    assert_eq!(of(0.0), [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(of(0.5), [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(of(1.0), [1.0, 1.0, 1.0, 0.0]);
}
