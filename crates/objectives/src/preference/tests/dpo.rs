//! DPO with TRL's numbers of `tests/goldens/objectives`, and by hand.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;

use super::*;

fn golden_path(name: &str) -> String {
    format!("{}/../../tests/goldens/objectives/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Largest absolute difference; NaN counts as infinite.
fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let flat = |t: &Tensor| {
        t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let gaps = flat(a).into_iter().zip(flat(b)).map(|(x, y)| (x - y).abs());
    gaps.fold(0.0, |most, g| if g.is_nan() { f64::INFINITY } else { most.max(g) })
}

/// One case of the golden: loss, pair losses, gradients and metrics, with TRL's inputs.
fn check_case(case: &Value, golden: &HashMap<String, Tensor>) {
    let name = case["name"].as_str().unwrap();
    let number = |key: &str| case[key].as_f64().unwrap_or(0.0);
    let device = Device::Cpu;
    let vars: Vec<Var> = ["logps.chosen", "logps.rejected"]
        .map(|n| Var::from_tensor(&golden[n]).unwrap())
        .into_iter()
        .collect();
    let (pairs, tokens) = vars[0].dims2().unwrap();
    let ids: Vec<u32> = (0..pairs as u32).flat_map(|p| vec![p; tokens]).collect();
    let segments = Tensor::new(ids, &device).unwrap();
    let flat: Vec<Tensor> = vars.iter().map(|v| v.flatten_all().unwrap()).collect();
    let sums: Vec<Tensor> =
        flat.iter().map(|f| sequence_logps(f, &segments, pairs).unwrap()).collect();
    let mask = golden["mask.chosen"].to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    let chosen_tokens = f64::from(mask.sum_all().unwrap().to_scalar::<f32>().unwrap());

    let settings = Preference {
        beta: number("beta"),
        label_smoothing: number("label_smoothing"),
        rpo_alpha: number("rpo_alpha"),
        ..Preference::default()
    };
    let out = preference(
        &PairLogps {
            margins: (case["margin"] == true).then(|| &golden["margins"]),
            ..PairLogps::new(
                SideLogps::new(&sums[0], &golden["ref.chosen"]),
                SideLogps::new(&sums[1], &golden["ref.rejected"]),
            )
        },
        Some(&ChosenTokens { logps: &flat[0], weights: &mask }),
        &Totals { pairs: pairs as f64, chosen_tokens },
        &settings,
    )
    .unwrap();

    // Sequence sums of tens to hundreds of nats in f32: 1e-5 is their rounding.
    assert!(gap(&out.loss, &golden[&format!("{name}.loss")]) < 2e-5, "{name}: {}", out.loss);
    if let Some(losses) = golden.get(&format!("{name}.pair_losses")) {
        assert!(gap(&out.pair_losses, losses) < 2e-5, "{name}: {}", out.pair_losses);
    }
    let grads = out.loss.backward().unwrap();
    // TRL's rows hold padding; only tokens of completions are compared.
    for (var, side) in vars.iter().zip(["chosen", "rejected"]) {
        let mask = golden[&format!("mask.{side}")].to_dtype(DType::F32).unwrap();
        let ours = (grads.get(var).unwrap() * &mask).unwrap();
        let theirs = (&golden[&format!("{name}.grad.{side}")] * &mask).unwrap();
        assert!(gap(&ours, &theirs) < 1e-6, "{name}: gradient of {side}");
    }
    let metrics: HashMap<_, _> = out.metrics.named().into_iter().collect();
    for (key, value) in case["metrics"].as_object().unwrap() {
        let (ours, theirs) = (metrics[key.as_str()], value.as_f64().unwrap());
        assert!(
            (ours - theirs).abs() < 1e-5 * theirs.abs().max(1.0),
            "{name} {key}: {ours} {theirs}"
        );
    }
}

#[test]
fn agrees_with_trl() {
    let golden =
        candle_core::safetensors::load(golden_path("dpo.safetensors"), &Device::Cpu).unwrap();
    let text = std::fs::read_to_string(golden_path("dpo.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        check_case(case, &golden);
    }
}

fn tensor(values: &[f64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// Loss of one step over the given sequence log-probs, with zero references.
fn loss_of(
    chosen: &Tensor,
    rejected: &Tensor,
    margins: Option<&Tensor>,
    settings: &Preference,
) -> PreferenceOutput {
    let zeros = chosen.zeros_like().unwrap();
    let pairs = chosen.dims()[0] as f64;
    let weights = chosen.ones_like().unwrap();
    preference(
        &PairLogps {
            margins,
            ..PairLogps::new(SideLogps::new(chosen, &zeros), SideLogps::new(rejected, &zeros))
        },
        Some(&ChosenTokens { logps: chosen, weights: &weights }),
        &Totals { pairs, chosen_tokens: pairs },
        settings,
    )
    .unwrap()
}

#[test]
fn by_hand() {
    // beta 0.5, log-ratios -1 and -3: h = 0.5 * 2 = 1, loss = ln(1 + e^-1) = 0.313262
    let settings = Preference { beta: 0.5, ..Preference::default() };
    let out = loss_of(&tensor(&[-1.0]), &tensor(&[-3.0]), None, &settings);
    assert!((scalar(&out.loss) - 0.313_261_687_518).abs() < 1e-11);
    // A margin of -1 brings the logit to 0: ln 2; smoothing does not change it there.
    let settings = Preference { label_smoothing: 0.2, ..settings.clone() };
    let out = loss_of(&tensor(&[-1.0]), &tensor(&[-3.0]), Some(&tensor(&[-1.0])), &settings);
    assert!((scalar(&out.loss) - std::f64::consts::LN_2).abs() < 1e-12);
    // Rewards leave the margin out: 0.5 * -1 and 0.5 * -3.
    let named: HashMap<_, _> = out.metrics.named().into_iter().collect();
    assert_eq!(named["rewards/chosen"], -0.5);
    assert_eq!(named["rewards/margins"], 1.0);
    assert_eq!(named["rewards/accuracies"], 1.0);
    // The likelihood term adds 0.3 * 1.
    let settings = Preference { rpo_alpha: 0.3, ..settings.clone() };
    let more = loss_of(&tensor(&[-1.0]), &tensor(&[-3.0]), Some(&tensor(&[-1.0])), &settings);
    assert!((scalar(&more.loss) - scalar(&out.loss) - 0.3).abs() < 1e-12);
}

#[test]
fn at_the_start_the_loss_is_ln_2_and_the_gradient_half_of_beta() {
    for dtype in [DType::F32, DType::F64] {
        let logps = tensor(&[-40.0, -7.0]).to_dtype(dtype).unwrap();
        let (chosen, rejected) =
            (Var::from_tensor(&logps).unwrap(), Var::from_tensor(&logps).unwrap());
        let out = preference(
            &PairLogps::new(SideLogps::new(&chosen, &logps), SideLogps::new(&rejected, &logps)),
            None,
            &Totals { pairs: 2.0, chosen_tokens: 0.0 },
            &Preference::default(),
        )
        .unwrap();
        let grads = out.loss.backward().unwrap();
        let half = Tensor::full(0.1 * 0.5 / 2.0, 2, &Device::Cpu).unwrap();
        assert!(gap(grads.get(&chosen).unwrap(), &half.neg().unwrap()) < 1e-8);
        assert!(gap(grads.get(&rejected).unwrap(), &half) < 1e-8);
        assert!(gap(&out.loss, &Tensor::new(std::f64::consts::LN_2, &Device::Cpu).unwrap()) < 1e-7);
    }
}

#[test]
fn far_tails_stay_finite() {
    let chosen = Var::from_tensor(&tensor(&[-5000.0, 0.0]).to_dtype(DType::F32).unwrap()).unwrap();
    let rejected = tensor(&[0.0, -5000.0]).to_dtype(DType::F32).unwrap();
    let zeros = rejected.zeros_like().unwrap();
    let out = preference(
        &PairLogps::new(SideLogps::new(&chosen, &zeros), SideLogps::new(&rejected, &zeros)),
        None,
        &Totals { pairs: 2.0, chosen_tokens: 0.0 },
        &Preference { beta: 1.0, ..Preference::default() },
    )
    .unwrap();
    assert_eq!(out.pair_losses.to_vec1::<f32>().unwrap(), [5000.0, 0.0]);
    let grads = out.loss.backward().unwrap();
    assert_eq!(grads.get(&chosen).unwrap().to_vec1::<f32>().unwrap(), [-0.5, 0.0]);
}
