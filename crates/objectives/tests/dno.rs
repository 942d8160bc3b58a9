//! What holds of DNO's regression (arXiv 2404.03715, algorithm 1) whatever the policy: where its least value lies, and
//! what it becomes where one answer always wins.

use candle_core::{Device, Tensor};
use savi_objectives::{PairLogps, Preference, PreferenceLoss, SideLogps, Totals, preference};

const BETA: f64 = 0.1;

/// The loss of one pair whose log-ratios differ by `difference / BETA`, and whose win rates are these.
fn loss(kind: PreferenceLoss, difference: f64, rates: [f64; 2], scale: f64) -> f64 {
    let tensor = |value: f64| Tensor::new(&[value], &Device::Cpu).unwrap();
    // Any split of the difference over policy and reference does.
    let policy = [tensor(-20.0 + difference / BETA), tensor(-31.0)];
    let reference = [tensor(-18.0), tensor(-29.0)];
    let rates = rates.map(tensor);
    let side = |at: usize| SideLogps {
        win_rates: Some(&rates[at]),
        ..SideLogps::new(&policy[at], &reference[at])
    };
    let settings = Preference { beta: BETA, dno_scale: scale, ..Preference::of(kind) };
    let totals = Totals { pairs: 1.0, chosen_tokens: 0.0 };
    let output = preference(&PairLogps::new(side(0), side(1)), None, &totals, &settings).unwrap();
    output.loss.to_scalar::<f64>().unwrap()
}

#[test]
fn it_is_least_where_the_internal_rewards_differ_as_the_win_rates_do() {
    for rates in [[0.9, 0.2], [0.5, 0.5], [0.0, 1.0], [0.3, 0.35]] {
        for scale in [1.0, 4.0] {
            let at = |difference| loss(PreferenceLoss::Dno, difference, rates, scale);
            let least = scale * (rates[0] - rates[1]);
            let step = 1e-4;
            let slope =
                |difference: f64| (at(difference + step) - at(difference - step)) / (2.0 * step);
            assert!(slope(least).abs() < 1e-8, "{rates:?} {scale}: {}", slope(least));
            assert!(slope(least + 0.1) > 1e-3 && slope(least - 0.1) < -1e-3);
            // The slope is how far the policy's chance is from the target.
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let expected = sigmoid(1.3) - sigmoid(least);
            assert!((slope(1.3) - expected).abs() < 1e-7, "{} {expected}", slope(1.3));
        }
    }
}

#[test]
fn targets_that_are_sure_make_it_dpo() {
    for difference in [-3.0, 0.0, 0.7, 5.0] {
        let dpo = loss(PreferenceLoss::Sigmoid, difference, [1.0, 0.0], 1.0);
        let dno = loss(PreferenceLoss::Dno, difference, [1.0, 0.0], 60.0);
        assert!((dpo - dno).abs() < 1e-12, "{difference}: {dpo} {dno}");
    }
}

#[test]
fn at_the_reference_it_is_ln_2_for_any_target() {
    for rates in [[0.9, 0.1], [0.1, 0.9], [1.0, 1.0]] {
        let start = loss(PreferenceLoss::Dno, 0.0, rates, 3.0);
        assert!((start - std::f64::consts::LN_2).abs() < 1e-12, "{start}");
    }
}
