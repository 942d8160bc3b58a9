//! Advantages against TRL's and verl's own code, and by hand.

use std::collections::HashMap;

use serde_json::Value;

use super::golden::{gap, ids, load, numbers};
use crate::policy::*;

/// Compares one case; verl adds 1e-8 to what its masked means are divided by, hence `least`.
fn check(case: &Value, key: &str, ours: &[f64], least: f64) {
    let theirs = numbers(&case[key]);
    let most = gap(ours, &theirs);
    assert!(most < least, "{} {key}: {most}\n{ours:?}\n{theirs:?}", case["name"]);
}

#[test]
fn of_groups_agree_with_trl() {
    let golden = load();
    let golden = &golden["advantages"];
    let values: Vec<Option<f64>> = golden["table"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap().iter().map(Value::as_f64))
        .collect();
    let (weights, groups) = (numbers(&golden["weights"]), ids(&golden["groups"]));
    let table = RewardTable { values: &values, weights: &weights, groups: &groups };
    let mut seen = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let ours = match name {
            "trl_gdpo" => {
                let multi_objective_aggregation = MultiObjective::NormalizeThenSum;
                grpo(&table, &Grpo { multi_objective_aggregation, ..Grpo::default() })
            }
            "trl_grpo_group" => grpo(&table, &Grpo::default()),
            "trl_grpo_batch" => {
                grpo(&table, &Grpo { scale_rewards: ScaleRewards::Batch, ..Grpo::default() })
            }
            "trl_grpo_none" => {
                grpo(&table, &Grpo { scale_rewards: ScaleRewards::None, ..Grpo::default() })
            }
            "trl_rloo_False" | "trl_rloo_True" => {
                let normalize_advantages = name.ends_with("True");
                let settings = Rloo { normalize_advantages, singleton: Singleton::Zero };
                rloo(&table.totals().unwrap(), &groups, &settings)
            }
            _ => continue,
        };
        check(case, "advantages", &ours.unwrap(), 1e-10);
        seen += 1;
        let Some(figures) = case["figures"].as_object() else { continue };
        let ours: HashMap<_, _> =
            reward_figures(&table, &["acc", "sar"]).unwrap().into_iter().collect();
        assert_eq!((ours.len(), figures.len()), (7, 7));
        for (key, value) in figures {
            // With one deviation for the batch, TRL's share of groups is about the batch.
            if name == "trl_grpo_batch" && key == "frac_reward_zero_std" {
                continue;
            }
            // TRL takes the share in f32.
            assert!((ours[key] - value.as_f64().unwrap()).abs() < 1e-8, "{name} {key}");
        }
    }
    assert_eq!(seen, 6);
}

#[test]
fn of_groups_agree_with_verl() {
    let golden = load();
    let mut seen = 0;
    for case in golden["advantages"]["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if case["groups"].is_null() {
            continue;
        }
        seen += 1;
        let (rewards, groups) = (numbers(&case["rewards"]), ids(&case["groups"]));
        let others = match name {
            "verl_opo" => Some(opo(&rewards, &groups, &numbers(&case["lengths"]))),
            "verl_passk_True" => Some(grpo_passk(&rewards, &groups, Some(1e-6))),
            "verl_passk_False" => Some(grpo_passk(&rewards, &groups, None)),
            _ => None,
        };
        if let Some(ours) = others {
            check(case, "advantages", &ours.unwrap(), 1e-10);
            continue;
        }
        if name == "verl_baseline" {
            let ours = reinforce_plus_plus_baseline(&rewards, &groups, &numbers(&case["lengths"]));
            check(case, "advantages", &ours.unwrap(), 1e-8);
            continue;
        }
        let rewards: Vec<Option<f64>> = rewards.into_iter().map(Some).collect();
        let table = RewardTable { values: &rewards, weights: &[1.0], groups: &groups };
        let scale_rewards =
            if name == "verl_grpo_none" { ScaleRewards::None } else { ScaleRewards::Group };
        let (epsilon, singleton) = (1e-6, Singleton::Reward);
        let ours = match name {
            "verl_rloo" => {
                rloo(&rewards, &groups, &Rloo { normalize_advantages: false, singleton })
            }
            _ => grpo(&table, &Grpo { scale_rewards, epsilon, singleton, ..Grpo::default() }),
        };
        check(case, "advantages", &ours.unwrap(), 1e-10);
    }
    assert_eq!(seen, 7);
}

#[test]
fn of_tokens_agree_with_verl() {
    let golden = load();
    let tokens = &golden["tokens"];
    let of = |name: &str| numbers(&tokens[name]);
    let (rewards, weights, values) = (of("rewards"), of("weights"), of("old_values"));
    let segments = ids(&tokens["segments"]);
    let trajectory = Trajectory { rewards: &rewards, weights: &weights, segments: &segments };
    let mut seen = 0;
    for case in golden["advantages"]["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let number = |key: &str| case[key].as_f64().unwrap();
        if name.starts_with("verl_gae") {
            let settings = Gae { gamma: number("gamma"), lam: number("lam") };
            let ours = gae(&trajectory, &values, &[0.0; 7], &settings).unwrap();
            check(case, "advantages", &ours.advantages, 1e-10);
            check(case, "returns", &ours.returns, 1e-10);
            check(case, "whitened", &whiten(&ours.advantages, &weights, true).unwrap(), 1e-8);
        } else if name.starts_with("verl_reinforce") {
            let ours = reinforce_plus_plus(&trajectory, 7, number("gamma")).unwrap();
            check(case, "returns", &ours.returns, 1e-10);
            check(case, "advantages", &ours.advantages, 1e-8);
        } else if name == "verl_remax" {
            let ours = remax(&trajectory, &of("advantages")).unwrap();
            check(case, "returns", &ours.returns, 1e-10);
            check(case, "advantages", &ours.advantages, 1e-10);
        } else if name == "verl_whiten_kept_mean" {
            check(case, "advantages", &whiten(&rewards, &weights, false).unwrap(), 1e-8);
        } else {
            continue;
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn by_hand() {
    // Right answers with self-aligned rewards of weight 0.2, in a group of two right and two wrong.
    let pairs = [(1.0, 0.59343), (1.0, 0.25), (0.0, 0.6), (0.0, 0.1)];
    let values: Vec<_> = pairs.iter().flat_map(|(a, b)| [Some(*a), Some(*b)]).collect();
    let groups = [0; 4];
    let table = RewardTable { values: &values, weights: &[1.0, 0.2], groups: &groups };
    let totals: Vec<f64> = table.totals().unwrap().into_iter().flatten().collect();
    assert!(gap(&totals, &[1.118686, 1.05, 0.12, 0.02]) < 1e-12);
    let of = |settings: &Grpo| grpo(&table, settings).unwrap();
    let trl = of(&Grpo::default());
    assert!(gap(&trl, &[0.921222, 0.804374, -0.777738, -0.947858]) < 1e-6);
    let verl = of(&Grpo { epsilon: 1e-6, ..Grpo::default() });
    assert!(gap(&verl, &[0.921377, 0.804509, -0.777869, -0.948018]) < 1e-6);
    let plain = of(&Grpo { scale_rewards: ScaleRewards::None, ..Grpo::default() });
    assert!(gap(&plain, &[0.541515, 0.472828, -0.457172, -0.557172]) < 1e-6);
    let settings = Rloo { normalize_advantages: false, singleton: Singleton::Zero };
    let ours = rloo(&table.totals().unwrap(), &groups, &settings).unwrap();
    assert!(gap(&ours, &[0.722019, 0.630438, -0.609562, -0.742895]) < 1e-6);
    // Each less the mean of the others is k / (k - 1) times each less the mean of all.
    let scaled: Vec<f64> = plain.iter().map(|a| a * 4.0 / 3.0).collect();
    assert!(gap(&ours, &scaled) < 1e-12);
}

#[test]
fn where_all_are_right_the_second_reward_is_at_unit_scale_whatever_its_weight() {
    let values: Vec<_> = [0.9, 0.6, 0.5, 0.2].iter().flat_map(|r| [Some(1.0), Some(*r)]).collect();
    for alpha in [0.05, 0.2, 1.0] {
        let weights = [1.0, alpha];
        let table = RewardTable { values: &values, weights: &weights, groups: &[0; 4] };
        let z = grpo(&table, &Grpo { epsilon: 0.0, ..Grpo::default() }).unwrap();
        assert!(gap(&z, &[1.2124, 0.1732, -0.1732, -1.2124]) < 1e-4);
        let plain = grpo(&table, &Grpo { scale_rewards: ScaleRewards::None, ..Grpo::default() });
        let expected = [0.35, 0.05, -0.05, -0.35].map(|a| a * alpha);
        assert!(gap(&plain.unwrap(), &expected) < 1e-12);
        // Normalised one by one and not again, the weight does count.
        let multi_objective_aggregation = MultiObjective::AdvantageWeighting;
        let settings = Grpo { epsilon: 1e-9, multi_objective_aggregation, ..Grpo::default() };
        let weighted = grpo(&table, &settings).unwrap();
        let expected: Vec<f64> = z.iter().map(|a| a * alpha).collect();
        assert!(gap(&weighted, &expected) < 1e-6);
    }
}

#[test]
fn gae_by_hand() {
    let (rewards, values) = ([0.0, 0.0, 1.0], [0.5, 0.4, 0.3]);
    let trajectory = Trajectory { rewards: &rewards, weights: &[1.0; 3], segments: &[0; 3] };
    let of = |lam, last| gae(&trajectory, &values, &[last], &Gae { gamma: 1.0, lam }).unwrap();
    let ours = of(0.95, 0.0);
    assert!(gap(&ours.advantages, &[0.43675, 0.565, 0.7]) < 1e-12);
    assert!(gap(&ours.returns, &[0.93675, 0.965, 1.0]) < 1e-12);
    let white = whiten(&ours.advantages, &[1.0; 3], true).unwrap();
    assert!(gap(&white, &[-0.991344, -0.017092, 1.008436]) < 1e-6);
    assert!(gap(&of(1.0, 0.0).advantages, &[0.5, 0.6, 0.7]) < 1e-12);
    // Cut off instead of ended: the value of what would have come is part of every return.
    assert!(gap(&of(1.0, 0.25).returns, &[1.25, 1.25, 1.25]) < 1e-12);
    // A tool's token between is stepped over, and one completion does not see another.
    let inside = Trajectory {
        rewards: &[0.0, 9.0, 7.0, 0.0, 1.0],
        weights: &[1.0, 0.0, 1.0, 1.0, 1.0],
        segments: &[0, 0, 1, 0, 0],
    };
    let values = [0.5, 8.0, 1.0, 0.4, 0.3];
    let ours = gae(&inside, &values, &[0.0, 0.0], &Gae { gamma: 1.0, lam: 0.95 }).unwrap();
    assert!(gap(&ours.advantages, &[0.43675, 0.0, 6.0, 0.565, 0.7]) < 1e-12);
}
