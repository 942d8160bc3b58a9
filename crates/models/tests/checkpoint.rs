//! Activation checkpointing gives the values and the gradients of the pass without it, in training of
//! all weights and of an adapter with dropout.

mod drawn;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use savi_models::{LoraConfig, LoraOptions, Model, attach_adapter};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Parent, check};

use drawn::{cases, difference, ids, io, model};

/// Of the largest element of a gradient, however the pass is cut.
const TOLERANCE: f64 = 1e-6;
/// The same between a pass that chooses its rows at the end and one that does so early: the gradients of a row that is
/// chosen twice are added at another place, and those of keys are small differences of large numbers.
const CHOSEN: f64 = 1e-4;

const CASES: [&str; 7] = [
    "llama-biased",
    "mistral-windowed",
    "qwen2-plain",
    "qwen3-plain",
    "phi3-plain",
    "gemma2-capped",
    "gemma3-pattern",
];

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// As a whole, by [`Model::hidden`]; what is learnt from is chosen at the end.
    Whole,
    /// In segments of so many layers.
    Segments(usize),
}

/// Log-probabilities of a packed row and the gradients of what trains.
fn pass(
    model: &Model,
    tokens: &[u32],
    noise: bool,
    way: Way,
) -> Result<(Vec<f32>, HashMap<String, Tensor>)> {
    let mut forest = Forest::new();
    let root = forest.push(Parent::Root, 9);
    forest.push(Parent::Segment(root), 7);
    forest.push(Parent::Segment(root), tokens.len() - 16);
    let forest = Arc::new(if noise { forest.with_noise(tokens, &[7])? } else { forest });
    let tape = Tape::every(if let Way::Segments(layers) = way { layers } else { 0 });
    let embeds = model.embed(tokens, &[], Mode::TRAIN)?;
    // Of the end of the root and of a branch; the first one twice, as where two branches follow it.
    let rows = [8, 8, 9, 10, 11, 12, 13, 14];
    let targets = [8, 15, 9, 10, 11, 12, 13, 14].map(|row| tokens[row + 1]);
    let hidden = match way {
        Way::Whole => {
            let mode = Mode { noise: forest.noise(), ..Mode::TRAIN };
            let index = Tensor::from_slice(&rows, rows.len(), embeds.device())?;
            model.hidden(&embeds, &forest, mode)?.index_select(&index, 0)?
        }
        Way::Segments(_) => model.hidden_on(&embeds, &forest, Mode::TRAIN, &tape, &rows)?,
    };
    let logps = model.logps(&hidden, &targets, Mode::TRAIN)?;
    let grads = tape.backward(&logps.sum_all()?)?;
    let grad = |name: &str, tensor: &Tensor| match grads.get(tensor) {
        Some(grad) => grad.clone(),
        None => panic!("{name} got no gradient"),
    };
    let trainable = model.params().trainable();
    let grads = trainable.iter().map(|w| (w.name().to_owned(), grad(w.name(), &w.tensor(true))));
    Ok((logps.to_vec1()?, grads.collect()))
}

fn compare(case: &str, model: &Model, noise: bool) -> Result<()> {
    let tokens = ids(&io(case)?["input_ids"])?;
    let (plain, want) = pass(model, &tokens, noise, Way::Segments(0))?;
    // Layer by layer, in uneven pieces, all in one.
    for (way, tolerance) in [
        (Way::Segments(1), TOLERANCE),
        (Way::Segments(2), TOLERANCE),
        (Way::Segments(50), TOLERANCE),
        (Way::Whole, CHOSEN),
    ] {
        let (values, got) = pass(model, &tokens, noise, way)?;
        assert_eq!(plain, values, "{case}");
        assert_eq!(got.len(), want.len());
        for (name, grad) in &got {
            let off = difference(grad, &want[name])?;
            assert!(off < tolerance, "{case}, {way:?}: gradient of {name} differs by {off:e}");
        }
    }
    Ok(())
}

#[test]
fn training_of_all_weights() -> Result<()> {
    let cases = cases();
    for case in CASES {
        let model = model(&cases[case], DType::F32);
        model.params().set_trains(|_| true);
        compare(case, &model, false)?;
    }
    Ok(())
}

#[test]
fn training_of_an_adapter_with_dropout() -> Result<()> {
    let cases = cases();
    for case in CASES {
        let model = model(&cases[case], DType::F32);
        let options = LoraOptions { lora_dropout: 0.2, ..LoraOptions::default() };
        let config = LoraConfig { r: 2, lora_alpha: 1.0, options };
        attach_adapter(&model, "default", &config, 1, |_| true).unwrap();
        for weight in model.params().trainable() {
            weight.set(&check::normal(weight.tensor(false).dims(), weight.name(), DType::F32)?)?;
        }
        compare(case, &model, true)?;
    }
    Ok(())
}
