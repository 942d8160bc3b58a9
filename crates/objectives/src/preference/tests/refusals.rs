//! What is refused, by name.

use super::*;

fn refused(settings: Preference) -> String {
    settings.validate().unwrap_err().to_string()
}

#[test]
fn settings_out_of_their_range() {
    let base = Preference::default;
    let cases = [
        (Preference { beta: 0.0, ..base() }, "beta is 0, expected a positive number"),
        (Preference { beta: f64::NAN, ..base() }, "beta is NaN, expected a positive number"),
        (
            Preference { label_smoothing: 0.5, ..base() },
            "label_smoothing is 0.5, expected at least 0 and below 0.5",
        ),
        (Preference { rpo_alpha: -1.0, ..base() }, "rpo_alpha is -1, expected a number from 0 up"),
        (
            Preference { f_alpha_divergence_coef: 1.1, ..base() },
            "f_alpha_divergence_coef is 1.1, expected from 0 to 1",
        ),
        (
            Preference { discopop_tau: 0.0, ..base() },
            "discopop_tau is 0, expected above 0 and at most 1",
        ),
        (
            Preference { simpo_gamma: -0.1, ..base() },
            "simpo_gamma is -0.1, expected a number from 0 up",
        ),
        (
            Preference { cpo_alpha: f64::INFINITY, ..base() },
            "cpo_alpha is inf, expected a number from 0 up",
        ),
        (
            Preference { bco_delta: f64::NAN, ..base() },
            "bco_delta is NaN, expected a finite number",
        ),
        (Preference { mixture_ratio: 2.0, ..base() }, "mixture_ratio is 2, expected from 0 to 1"),
        (Preference { dno_scale: 0.0, ..base() }, "dno_scale is 0, expected a positive number"),
        (Preference { loss_type: vec![], ..base() }, "loss_type is 0, expected at least one loss"),
        (
            Preference { loss_weights: vec![1.0, 2.0], ..base() },
            "loss_weights: shape [2], expected [1]",
        ),
        (
            Preference { loss_weights: vec![-1.0], ..base() },
            "loss_weights is -1, expected numbers from 0 up",
        ),
    ];
    for (settings, message) in cases {
        assert_eq!(refused(settings), message);
    }
}

#[test]
fn settings_that_do_not_go_together() {
    let of = Preference::of;
    assert_eq!(
        refused(Preference { label_smoothing: 0.1, ..of(PreferenceLoss::Hinge) }),
        "label_smoothing cannot be used with hinge"
    );
    assert_eq!(
        refused(of(PreferenceLoss::ExoPair)),
        "label_smoothing is 0, expected above 0 with exo_pair (usually 1e-3)"
    );
    assert_eq!(
        refused(Preference {
            f_divergence_type: Divergence::ForwardKl,
            ..of(PreferenceLoss::BcoPair)
        }),
        "forward_kl cannot be used with bco_pair"
    );
    assert_eq!(
        refused(Preference { use_weighting: true, ..of(PreferenceLoss::AotUnpaired) }),
        "use_weighting cannot be used with aot_unpaired"
    );
    assert_eq!(
        refused(Preference { reference_free: true, ..of(PreferenceLoss::Inpo) }),
        "reference_free cannot be used with inpo"
    );
}

#[test]
fn inputs_that_are_missing_or_passed_over() {
    let logps = Tensor::new(&[-1f64, -2.0], &Device::Cpu).unwrap();
    let alone = SideLogps::alone(&logps);
    let pair = PairLogps::new(alone, alone);
    let totals = Totals { pairs: 2.0, chosen_tokens: 2.0 };
    let refused = |pair: &PairLogps<'_>, settings: &Preference| {
        preference(pair, None, &totals, settings).unwrap_err().to_string()
    };
    let both = SideLogps::new(&logps, &logps);
    let whole = PairLogps::new(both, both);
    for (loss, pair, message) in [
        (PreferenceLoss::Sigmoid, &pair, "sigmoid cannot be computed without reference"),
        (PreferenceLoss::Inpo, &whole, "inpo cannot be computed without previous"),
        (PreferenceLoss::Ipo, &whole, "ipo cannot be computed without lengths"),
        (PreferenceLoss::Simpo, &pair, "simpo cannot be computed without lengths"),
        (PreferenceLoss::Sppo, &whole, "sppo cannot be computed without win_rates"),
        (PreferenceLoss::Sft, &pair, "sft cannot be computed without chosen tokens"),
    ] {
        assert_eq!(refused(pair, &Preference::of(loss)), message);
    }
    let mixed = Preference { mixture_ratio: 0.5, ..Preference::default() };
    assert_eq!(refused(&whole, &mixed), "sigmoid cannot be computed without previous");
    let weighed = Preference { use_weighting: true, ..Preference::default() };
    assert_eq!(refused(&whole, &weighed), "use_weighting cannot be computed without weights");
    let rpo = Preference { rpo_alpha: 1.0, ..Preference::default() };
    assert_eq!(refused(&whole, &rpo), "rpo_alpha cannot be computed without chosen tokens");
    let shifted = PairLogps { margins: Some(&logps), ..whole };
    let nca = Preference::of(PreferenceLoss::NcaPair);
    assert_eq!(refused(&shifted, &nca), "margins cannot be used with nca_pair");

    let win_rates = Some(&logps);
    let beaten = PairLogps { chosen: SideLogps { win_rates, ..both }, ..whole };
    let beaten = PairLogps { rejected: beaten.chosen, ..beaten };
    let dno = Preference::of(PreferenceLoss::Dno);
    assert_eq!(refused(&beaten, &dno), "win_rates is -1, expected from 0 to 1");

    let three = Tensor::new(&[-1f64, -2.0, -3.0], &Device::Cpu).unwrap();
    let uneven = PairLogps::new(both, SideLogps::new(&three, &logps));
    assert_eq!(refused(&uneven, &Preference::default()), "rejected: shape [3], expected [2]");
}

#[test]
fn a_part_of_a_step_cannot_be_sorted() {
    let logps = Tensor::new(&[-1f64, -2.0], &Device::Cpu).unwrap();
    let both = SideLogps::new(&logps, &logps);
    let totals = Totals { pairs: 3.0, chosen_tokens: 0.0 };
    let refused = |pair: &PairLogps<'_>| {
        let settings = Preference::of(PreferenceLoss::Aot);
        preference(pair, None, &totals, &settings).unwrap_err().to_string()
    };
    let pair = PairLogps::new(both, both);
    assert_eq!(
        refused(&pair),
        "totals.pairs is 3, expected the number of pairs given, where `step` is not"
    );
    let numbers = [-1.0, -2.0, -3.0];
    let step = StepLogps {
        chosen: &numbers,
        rejected: &numbers,
        reference_chosen: &numbers,
        reference_rejected: &numbers[..2],
        start: 0,
    };
    assert_eq!(
        refused(&PairLogps { step: Some(step), ..pair }),
        "step.reference_rejected: shape [2], expected [3]"
    );
    let step = StepLogps { reference_rejected: &numbers, start: 2, ..step };
    assert_eq!(
        refused(&PairLogps { step: Some(step), ..pair }),
        "step.start is 2, expected such that the micro-batch ends within the step"
    );
}
