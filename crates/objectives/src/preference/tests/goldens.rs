//! Every case of `tests/goldens/preferences`.

use super::*;

/// Numbers in f64 agree to here, relative to the greatest number of the tensor.
const F64: f64 = 1e-12;
/// In f32, and where TRL itself goes to f32.
const F32: f64 = 1e-5;

fn settings(case: &Value) -> (Preference, Inputs) {
    let told = case["settings"].as_object().unwrap();
    let (mut settings, mut inputs) = (Preference::default(), Inputs::default());
    for (key, value) in told {
        let names = || value.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        let number = || value.as_f64().unwrap();
        match key.as_str() {
            "loss_type" => settings.loss_type = names().map(|name| name.parse().unwrap()).collect(),
            "loss_weights" => settings.loss_weights = numbers(value),
            "beta" => settings.beta = number(),
            "label_smoothing" => settings.label_smoothing = number(),
            "rpo_alpha" => settings.rpo_alpha = number(),
            "f_divergence_type" => {
                settings.f_divergence_type = value.as_str().unwrap().parse().unwrap();
            }
            "f_alpha_divergence_coef" => settings.f_alpha_divergence_coef = number(),
            "reference_free" => settings.reference_free = value.as_bool().unwrap(),
            "use_weighting" => settings.use_weighting = value.as_bool().unwrap(),
            "discopop_tau" => settings.discopop_tau = number(),
            "simpo_gamma" => settings.simpo_gamma = number(),
            "cpo_alpha" => settings.cpo_alpha = number(),
            "bco_delta" => settings.bco_delta = number(),
            "mixture_ratio" => settings.mixture_ratio = number(),
            "dno_scale" => settings.dno_scale = number(),
            "margins" => inputs.margins = value.as_bool().unwrap(),
            "ld_alpha" => inputs.ld_alpha = Some(number()),
            _ => panic!("{key} is not known"),
        }
    }
    (settings, inputs)
}

/// Largest difference, relative to the greatest number that is expected; NaN counts as infinite.
/// Gradients of both sides are one tensor here: where the sides cancel in one of them (`apo_down`),
/// what is left is no more exact than what cancelled.
fn gap(ours: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    // Below this, a number of a tail is as good as 0: f64's digits end there for values about 1.
    let scale = expected.iter().fold(1e-6f64, |most, e| most.max(e.abs()));
    let gaps = ours.iter().zip(expected).map(|(o, e)| (o - e).abs() / scale);
    gaps.fold(0.0, |most, g| if g.is_nan() { f64::INFINITY } else { most.max(g) })
}

/// Largest gap of a case in loss, gradients and metrics.
fn case_gap(golden: &Value, case: &Value, dtype: DType) -> f64 {
    let pairs = Pairs::of(golden, case["set"].as_str().unwrap());
    let (settings, inputs) = settings(case);
    let ours = pairs.evaluate(&settings, inputs, dtype);
    let mut most = gap(&[ours.loss], &[case["loss"].as_f64().unwrap()]);
    let expected = ["grad.chosen", "grad.rejected"].map(|side| numbers(&case[side]));
    most = most.max(gap(&ours.grads.concat(), &expected.concat()));
    let named = ours.output.metrics.named();
    for (key, value) in case["metrics"].as_object().into_iter().flatten() {
        let (_, figure) = named.iter().find(|(name, _)| name == key).unwrap();
        // TRL gathers accuracies in f32.
        let gap = gap(&[*figure], &[value.as_f64().unwrap()]);
        most = most.max(if key == "rewards/accuracies" && gap < 1e-6 { 0.0 } else { gap });
    }
    most
}

fn check(dtype: DType, tolerance: f64) -> Vec<String> {
    let golden = golden();
    let mut failed = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let tolerance = if case["by"] == "trl_f32" { tolerance.max(F32) } else { tolerance };
        let gap = case_gap(&golden, case, dtype);
        if gap > tolerance {
            failed.push(format!("{}: {gap:e}", case["name"]));
        }
    }
    failed
}

#[test]
fn all_cases_in_f64() {
    let failed = check(DType::F64, F64);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn all_cases_in_f32() {
    let failed = check(DType::F32, F32);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_loss_and_divergence_has_a_case() {
    let golden = golden();
    let cases: Vec<_> = golden["cases"].as_array().unwrap().iter().map(settings).collect();
    for loss in PreferenceLoss::ALL {
        assert!(cases.iter().any(|(s, _)| s.loss_type == [loss]), "{}", loss.name());
    }
    for divergence in Divergence::ALL {
        assert!(cases.iter().any(|(s, _)| s.f_divergence_type == divergence));
    }
    assert!(cases.len() > 190, "{}", cases.len());
}
