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

#[test]
fn only_the_policy_has_one() {
    let var = |values: &[f64]| Var::new(values, &Device::Cpu).unwrap();
    let policies = [var(&[-3.0, -4.0]), var(&[-5.0, -2.0])];
    let constants: Vec<Var> = (1..12).map(|i| var(&[0.05 * f64::from(i), 0.1])).collect();
    let side = |index: usize| {
        let own = &constants[5 * index..];
        SideLogps {
            policy: &policies[index],
            reference: Some(&own[0]),
            previous: Some(&own[1]),
            lengths: Some(&own[2]),
            weights: Some(&own[3]),
            win_rates: Some(&own[4]),
        }
    };
    let totals = Totals { pairs: 2.0, chosen_tokens: 2.0 };
    let tokens = ChosenTokens { logps: &policies[0], weights: &constants[10] };
    for (loss, mixture_ratio) in PreferenceLoss::ALL.into_iter().flat_map(|l| [(l, 0.5), (l, 1.0)])
    {
        let use_weighting = !loss.sorts();
        let settings = Preference { mixture_ratio, use_weighting, rpo_alpha: 0.1, ..told(loss) };
        let margins = loss.takes_margins().then_some(&*constants[10]);
        let logps = PairLogps { margins, ..PairLogps::new(side(0), side(1)) };
        let output = preference(&logps, Some(&tokens), &totals, &settings).unwrap();
        let grads = output.loss.backward().unwrap();
        assert!(grads.get(&policies[0]).is_some(), "{}", loss.name());
        for (index, constant) in constants.iter().enumerate() {
            assert!(grads.get(constant).is_none(), "{}: {index}", loss.name());
        }
    }
}
