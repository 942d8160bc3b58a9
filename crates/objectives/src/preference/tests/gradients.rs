//! Gradients against central differences, by every token of either side.

use super::*;

fn check(name: &str, pairs: &Pairs, settings: &Preference, inputs: Inputs) {
    let evaluated = pairs.evaluate(settings, inputs, DType::F64);
    for side in 0..2 {
        for token in 0..pairs.sides[side].logps.len() {
            let at = |shift: f64| {
                let mut moved = pairs.clone();
                moved.sides[side].logps[token] += shift;
                // WPO's weights are constants: they stay where they were.
                moved.sides[side].log_sum_sq[token] += shift;
                moved.evaluate(settings, inputs, DType::F64).loss
            };
            let width = 1e-5;
            let difference = (at(width) - at(-width)) / (2.0 * width);
            let gradient = evaluated.grads[side][token];
            let gap = (difference - gradient).abs();
            let tolerance = 1e-7 * gradient.abs().max(1.0);
            assert!(gap < tolerance, "{name}, {side}, {token}: {difference} {gradient}");
        }
    }
}

#[test]
fn every_loss() {
    let pairs = Pairs::of(&golden(), "near");
    for loss in PreferenceLoss::ALL {
        check(loss.name(), &pairs, &told(loss), Inputs::default());
    }
}

#[test]
fn every_divergence() {
    let pairs = Pairs::of(&golden(), "near");
    for divergence in Divergence::ALL {
        for loss in PreferenceLoss::ALL.into_iter().filter(|loss| loss.takes_divergence()) {
            let settings = Preference { f_divergence_type: divergence, ..told(loss) };
            check(divergence.name(), &pairs, &settings, Inputs::default());
        }
    }
}

#[test]
fn weights_margins_and_sums_of_losses() {
    let pairs = Pairs::of(&golden(), "near");
    for loss in PreferenceLoss::ALL.into_iter().filter(|loss| !loss.sorts()) {
        let settings = Preference { use_weighting: true, rpo_alpha: 0.3, ..told(loss) };
        let inputs = Inputs { margins: loss.takes_margins(), ld_alpha: Some(0.4) };
        check(loss.name(), &pairs, &settings, inputs);
    }
    let loss_type = vec![
        PreferenceLoss::Sigmoid,
        PreferenceLoss::BcoPair,
        PreferenceLoss::Aot,
        PreferenceLoss::Sft,
    ];
    let settings =
        Preference { loss_type, loss_weights: vec![0.8, 0.2, 0.5, 1.0], ..Preference::default() };
    check("a sum", &pairs, &settings, Inputs::default());
}
