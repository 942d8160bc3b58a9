use candle_core::{Device, Var};
use serde_json::Value;

use super::*;

fn golden() -> Value {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/preferences/preferences.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[derive(Clone)]
struct Answers {
    policy: Vec<f64>,
    reference: Vec<f64>,
    desirable: Vec<bool>,
}

impl Answers {
    /// The golden's answers, or only the good or the bad ones of them.
    fn of(golden: &Value, only: Option<bool>) -> Self {
        let rows = &golden["answers"];
        let desirable: Vec<bool> =
            rows["desirable"].as_array().unwrap().iter().map(|d| d.as_bool().unwrap()).collect();
        let keep = |values: Vec<f64>| {
            let pairs = values.into_iter().zip(&desirable);
            pairs.filter(|(_, d)| only.is_none_or(|o| o == **d)).map(|(v, _)| v).collect()
        };
        Self {
            policy: keep(numbers(&rows["policy"])),
            reference: keep(numbers(&rows["reference"])),
            desirable: desirable.iter().copied().filter(|d| only.is_none_or(|o| o == *d)).collect(),
        }
    }

    fn share(
        &self,
        kl: f64,
        total: f64,
        settings: &Kto,
        dtype: DType,
    ) -> (KtoOutput, f64, Vec<f64>) {
        let tensor =
            |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let policy = Var::from_tensor(&tensor(&self.policy)).unwrap();
        let logps = AnswerLogps {
            policy: &policy,
            reference: &tensor(&self.reference),
            desirable: &self.desirable,
        };
        let output = kto(&logps, kl, total, settings).unwrap();
        let grads = output.loss.backward().unwrap();
        let (loss, grad) = (values(&output.loss)[0], values(grads.get(&policy).unwrap()));
        (output, loss, grad)
    }

    fn total(&self) -> f64 {
        self.policy.len() as f64
    }
}

fn settings(case: &Value) -> Kto {
    let mut settings = Kto::default();
    for (key, value) in case["settings"].as_object().unwrap() {
        match key.as_str() {
            "loss_type" => settings.loss_type = value.as_str().unwrap().parse().unwrap(),
            "beta" => settings.beta = value.as_f64().unwrap(),
            "desirable_weight" => settings.desirable_weight = value.as_f64().unwrap(),
            "undesirable_weight" => settings.undesirable_weight = value.as_f64().unwrap(),
            "only" | "negative" => {}
            _ => panic!("{key} is not known"),
        }
    }
    settings
}

#[test]
fn agrees_with_trl() {
    let golden = golden();
    let cases = golden["kto"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
        for case in cases {
            let only = case["settings"]["only"].as_bool();
            let answers = Answers::of(&golden, only);
            let all = Answers::of(&golden, None).desirable;
            let rows = &golden["answers"];
            let (kl_policy, kl_reference) =
                (numbers(&rows["kl_policy"]), numbers(&rows["kl_reference"]));
            let negative = case["settings"]["negative"] == true;
            let ratios: Vec<f64> = (0..all.len())
                .filter(|&i| only.is_none_or(|o| o == all[i]))
                .map(|i| if negative { -1.0 } else { kl_policy[i] - kl_reference[i] })
                .collect();
            let settings = settings(case);
            let kl = if settings.loss_type == KtoLoss::Kto { kto_kl(&ratios) } else { 0.0 };
            let (output, loss, grad) = answers.share(kl, answers.total(), &settings, dtype);
            let expected = case["loss"].as_f64().unwrap();
            assert!((loss - expected).abs() < tolerance * expected.abs(), "{case}: {loss}");
            for (ours, theirs) in grad.iter().zip(numbers(&case["grad"])) {
                assert!((ours - theirs).abs() < tolerance * 0.1, "{case}: {ours} {theirs}");
            }
            let named = output.metrics.named();
            let metrics = case["metrics"].as_object().unwrap();
            assert_eq!(metrics.len(), named.len(), "{case}");
            for (key, value) in metrics {
                let (_, ours) = named.iter().find(|(name, _)| name == key).unwrap();
                let theirs = value.as_f64().unwrap();
                assert!(
                    (ours - theirs).abs() <= tolerance * theirs.abs().max(1.0),
                    "{key}: {ours}"
                );
            }
        }
    }
}

#[test]
fn gradients_agree_with_differences_and_micro_batches_add_up() {
    let mut answers = Answers::of(&golden(), None);
    let settings =
        Kto { beta: 0.4, desirable_weight: 1.3, undesirable_weight: 0.4, ..Kto::default() };
    let (kl, total) = (0.7, answers.total());
    let (whole, loss, grad) = answers.share(kl, total, &settings, DType::F64);
    for (i, gradient) in grad.iter().enumerate() {
        let mut at = |shift: f64| {
            let before = answers.policy[i];
            answers.policy[i] = before + shift;
            let loss = answers.share(kl, total, &settings, DType::F64).1;
            answers.policy[i] = before;
            loss
        };
        let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!((difference - gradient).abs() < 1e-8, "{i}: {difference} {gradient}");
    }
    let part = |range: std::ops::Range<usize>| {
        let part = Answers {
            policy: answers.policy[range.clone()].to_vec(),
            reference: answers.reference[range.clone()].to_vec(),
            desirable: answers.desirable[range].to_vec(),
        };
        part.share(kl, total, &settings, DType::F64)
    };
    let (first, second) = (part(0..4), part(4..9));
    assert!((loss - first.1 - second.1).abs() < 1e-14);
    assert_eq!([first.2, second.2].concat(), grad);
    let mut merged = first.0.metrics;
    merged.merge(&second.0.metrics);
    for (a, b) in whole.metrics.named().into_iter().zip(merged.named()) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-12, "{a:?} {b:?}");
    }
}

#[test]
fn by_hand() {
    // beta 1, log-ratios 1 and 1, z = 1: both sigmoids are at 0, losses 3/2 and 5/2.
    let answers = Answers {
        policy: vec![-1.0, -3.0],
        reference: vec![-2.0, -4.0],
        desirable: vec![true, false],
    };
    let settings =
        Kto { beta: 1.0, desirable_weight: 3.0, undesirable_weight: 5.0, ..Kto::default() };
    let (output, loss, grad) = answers.share(1.0, 2.0, &settings, DType::F64);
    assert_eq!(values(&output.answer_losses), [1.5, 2.5]);
    assert_eq!(loss, 2.0);
    // The slope of the sigmoid is 1/4 there.
    assert_eq!(grad, [-0.375, 0.625]);
    assert_eq!(kto_kl(&[]), 0.0);
}

#[test]
fn refuses_what_does_not_fit() {
    let logps = Tensor::new(&[-1f64, -2.0], &Device::Cpu).unwrap();
    let answers = |desirable| AnswerLogps { policy: &logps, reference: &logps, desirable };
    let refused = |desirable, kl, settings: Kto| {
        kto(&answers(desirable), kl, 2.0, &settings).unwrap_err().to_string()
    };
    let base = Kto::default;
    let good: &[bool] = &[true, true];
    assert_eq!(refused(&[true], 0.0, base()), "desirable: shape [1], expected [2]");
    assert_eq!(refused(good, -1.0, base()), "kl is -1, expected a number from 0 up");
    assert_eq!(
        refused(good, 0.0, Kto { beta: -1.0, ..base() }),
        "beta is -1, expected a positive number"
    );
    assert_eq!(
        refused(good, 0.0, Kto { undesirable_weight: -1.0, ..base() }),
        "undesirable_weight is -1, expected a number from 0 up"
    );
    assert!("bco".parse::<KtoLoss>().is_err());
    for loss in KtoLoss::ALL {
        assert_eq!(loss.name().parse::<KtoLoss>().unwrap(), loss);
    }
}
