//! What holds for any numbers.

use proptest::prelude::*;

use super::*;

/// A side of `pairs` answers of one to four tokens.
fn side(pairs: usize) -> impl Strategy<Value = Side> {
    let answer =
        prop::collection::vec((-6.0..0.0f64, -2.0..2.0f64, -2.0..2.0f64, -2.0..0.0f64), 1..5);
    prop::collection::vec((answer, 0.0..1.0f64), pairs).prop_map(|answers| {
        let tokens = || answers.iter().flat_map(|(tokens, _)| tokens);
        Side {
            lengths: answers.iter().map(|(tokens, _)| tokens.len()).collect(),
            logps: tokens().map(|t| t.0).collect(),
            reference: tokens().map(|t| t.0 + t.1).collect(),
            previous: tokens().map(|t| t.0 + t.2).collect(),
            log_sum_sq: tokens().map(|t| t.3).collect(),
            win_rates: answers.iter().map(|(_, rate)| *rate).collect(),
        }
    })
}

fn pairs(count: usize) -> impl Strategy<Value = Pairs> {
    let margins = prop::collection::vec(-1.0..1.0f64, count);
    (side(count), side(count), margins)
        .prop_map(|(chosen, rejected, margins)| Pairs { sides: [chosen, rejected], margins })
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-11 * a.abs().max(1.0)
}

/// Sums of tokens over answers.
fn sums(side: &Side, of: &[f64]) -> Vec<f64> {
    let mut rest = of;
    let mut sum = |&length: &usize| {
        let (own, after) = rest.split_at(length);
        rest = after;
        own.iter().sum()
    };
    side.lengths.iter().map(&mut sum).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Loss, gradients and figures of a step are the sums over its micro-batches, for every loss.
    #[test]
    fn micro_batches_add_up(whole in pairs(5), cut in 1usize..5, weighting: bool) {
        let both = |of: fn(&Side) -> &[f64]| {
            [0, 1].map(|s| sums(&whole.sides[s], of(&whole.sides[s])))
        };
        let (policy, reference) = (both(|side| &side.logps), both(|side| &side.reference));
        let step = |start| StepLogps {
            chosen: &policy[0],
            rejected: &policy[1],
            reference_chosen: &reference[0],
            reference_rejected: &reference[1],
            start,
        };
        for loss in PreferenceLoss::ALL {
            let use_weighting = weighting && !loss.sorts();
            let settings = Preference { rpo_alpha: 0.2, use_weighting, ..told(loss) };
            let inputs = Inputs { margins: loss.takes_margins(), ld_alpha: None };
            let together = whole.evaluate(&settings, inputs, DType::F64);
            let share = |start, count| {
                let part = whole.part(start, count);
                part.share(&settings, inputs, DType::F64, &whole.totals(), Some(step(start)))
            };
            let (first, second) = (share(0, cut), share(cut, 5 - cut));
            prop_assert!(close(together.loss, first.loss + second.loss), "{}", loss.name());
            for side in 0..2 {
                let parts = first.grads[side].iter().chain(&second.grads[side]);
                for (a, b) in together.grads[side].iter().zip(parts) {
                    prop_assert!(close(*a, *b), "{}: {a} {b}", loss.name());
                }
            }
            let mut merged = first.output.metrics.clone();
            merged.merge(&second.output.metrics);
            for (a, b) in together.output.metrics.named().into_iter().zip(merged.named()) {
                prop_assert!(a.0 == b.0 && close(a.1, b.1), "{}: {a:?} {b:?}", loss.name());
            }
        }
    }

    /// Where the policy is the reference, logistic losses of a pair are ln 2, whatever the answers.
    #[test]
    fn the_first_loss_is_ln_2(mut start in pairs(4)) {
        for side in &mut start.sides {
            side.reference = side.logps.clone();
            side.previous = side.logps.clone();
        }
        let loss = |loss| start.evaluate(&told(loss), Inputs::default(), DType::F64).loss;
        use PreferenceLoss as L;
        for of in [L::Sigmoid, L::SigmoidNorm, L::Robust, L::Dno, L::Aot, L::AotUnpaired] {
            prop_assert!(close(loss(of), std::f64::consts::LN_2), "{}", of.name());
        }
        for of in [L::Hinge, L::ApoZero, L::ApoDown] {
            prop_assert!(close(loss(of), 1.0), "{}", of.name());
        }
        // Half of ln 2 and half of 1.
        prop_assert!(close(loss(L::Discopop), 0.5 * std::f64::consts::LN_2 + 0.5));
        for of in [L::IpoSum, L::Ipo, L::Inpo] {
            prop_assert!(close(loss(of), (0.5f64 / 0.4).powi(2)), "{}", of.name());
        }
    }

    /// What policy and reference both think of an answer cancels; what shifts both answers of a pair
    /// alike cancels in losses on differences.
    #[test]
    fn common_shifts_cancel(whole in pairs(3), shift in -30.0..30.0f64) {
        let tokens_of = |side: &Side| side.lengths.clone();
        let mut moved = whole.clone();
        for side in &mut moved.sides {
            let mut at = 0;
            for length in tokens_of(side) {
                side.logps[at] += shift;
                side.reference[at] += shift;
                side.previous[at] += shift;
                at += length;
            }
        }
        let mut apart = whole.clone();
        for side in &mut apart.sides {
            let mut at = 0;
            for length in tokens_of(side) {
                side.logps[at] += shift;
                at += length;
            }
        }
        for loss in PreferenceLoss::ALL {
            let at = |pairs: &Pairs| pairs.evaluate(&told(loss), Inputs::default(), DType::F64).loss;
            if loss.reads_reference() {
                prop_assert!((at(&whole) - at(&moved)).abs() < 1e-9, "{}", loss.name());
            }
            use PreferenceLoss as L;
            let on_differences = [
                L::Sigmoid, L::Robust, L::Hinge, L::Discopop, L::ExoPair, L::Dno, L::IpoSum, L::Inpo,
                L::Aot, L::AotUnpaired,
            ];
            if on_differences.contains(&loss) {
                prop_assert!((at(&whole) - at(&apart)).abs() < 1e-9, "{}", loss.name());
            }
        }
    }

    /// Turning a pair around turns DNO's target around, and nothing is left of it.
    #[test]
    fn dno_does_not_know_who_was_chosen(whole in pairs(3)) {
        let turned = Pairs { sides: [whole.sides[1].clone(), whole.sides[0].clone()], ..whole.clone() };
        let at = |pairs: &Pairs| {
            pairs.evaluate(&told(PreferenceLoss::Dno), Inputs::default(), DType::F64).loss
        };
        prop_assert!(close(at(&whole), at(&turned)));
    }

    /// No log-prob is so far off that a loss or a gradient is not a number.
    #[test]
    fn tails_are_finite(whole in pairs(3), far in 1.0..3e4f64, sign: bool, single: bool) {
        let mut whole = whole;
        for (index, side) in whole.sides.iter_mut().enumerate() {
            let of = if sign == (index == 0) { &mut side.logps } else { &mut side.reference };
            for logp in of {
                *logp -= far;
            }
        }
        let dtype = if single { DType::F32 } else { DType::F64 };
        for loss in PreferenceLoss::ALL {
            for divergence in Divergence::ALL {
                if divergence != Divergence::ReverseKl && !loss.takes_divergence() {
                    continue;
                }
                // e^80 squared is beyond f32.
                let squares = matches!(loss, PreferenceLoss::Ipo | PreferenceLoss::IpoSum);
                if single && squares && divergence != Divergence::ReverseKl {
                    continue;
                }
                let settings = Preference { f_divergence_type: divergence, ..told(loss) };
                let out = whole.evaluate(&settings, Inputs::default(), dtype);
                let grads = out.grads.iter().flatten();
                let finite = out.loss.is_finite() && grads.into_iter().all(|g| g.is_finite());
                prop_assert!(finite, "{} {}", loss.name(), divergence.name());
            }
        }
    }
}
