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

/// Of the largest element of a gradient.
const TOLERANCE: f64 = 1e-6;

const CASES: [&str; 7] = [
    "llama-biased",
    "mistral-windowed",
    "qwen2-plain",
    "qwen3-plain",
    "phi3-plain",
    "gemma2-capped",
    "gemma3-pattern",
];

/// Log-probabilities of a packed row and the gradients of what trains, in segments of `layers`.
fn pass(
    model: &Model,
    tokens: &[u32],
    layers: usize,
) -> Result<(Vec<f32>, HashMap<String, Tensor>)> {
    let mut forest = Forest::new();
    let root = forest.push(Parent::Root, 9);
    forest.push(Parent::Segment(root), 7);
    forest.push(Parent::Segment(root), tokens.len() - 16);
    let forest = Arc::new(forest.with_noise(tokens, &[7])?);
    let tape = Tape::every(layers);
    let embeds = model.embed(tokens, &[], Mode::TRAIN)?;
    let hidden = model.hidden_on(&embeds, &forest, Mode::TRAIN, &tape)?;
    let logps = model.logps(&hidden.narrow(0, 9, 6)?, &tokens[10..16], Mode::TRAIN)?;
    let grads = tape.backward(&logps.sum_all()?)?;
    let grad = |name: &str, tensor: &Tensor| match grads.get(tensor) {
        Some(grad) => grad.clone(),
        None => panic!("{name} got no gradient"),
    };
    let trainable = model.params().trainable();
    let grads = trainable.iter().map(|w| (w.name().to_owned(), grad(w.name(), &w.tensor(true))));
    Ok((logps.to_vec1()?, grads.collect()))
}

fn compare(case: &str, model: &Model) -> Result<()> {
    let tokens = ids(&io(case)?["input_ids"])?;
    let (plain, want) = pass(model, &tokens, 0)?;
    // Layer by layer, in uneven pieces, all in one.
    for layers in [1, 2, 50] {
        let (values, got) = pass(model, &tokens, layers)?;
        assert_eq!(plain, values, "{case}");
        assert_eq!(got.len(), want.len());
        for (name, grad) in &got {
            let off = difference(grad, &want[name])?;
            assert!(off < TOLERANCE, "{case}: gradient of {name} differs by {off:e}");
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
        compare(case, &model)?;
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
        compare(case, &model)?;
    }
    Ok(())
}
