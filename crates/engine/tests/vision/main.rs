//! Video-language models of transformers, number for number: the prompt's tokens, pixel values, visual
//! tokens, positions, logits, log-probabilities and gradients of every case of
//! `tests/goldens/vision/*`, whose `make.py` made the data.

mod cases;
mod greedy;
mod keys;

use crate::cases::*;
use candle_core::{DType, Device, Result, Tensor};
use savi_models::{Model, Pixels};
use savi_nn::attention::KvNode;
use savi_nn::check::Drawn;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Parent, TensorSource, Weights};
use std::sync::Arc;

/// Of the largest logit, or of the largest element of a visual token.
const LOGITS: f64 = 1e-4;
/// The same where pictures are scaled: a level of 255 here and there.
const SCALED: f64 = 5e-3;
/// Of the largest element of a gradient.
const GRADIENTS: f64 = 1e-3;
#[test]
fn prompts_have_the_tokens_of_the_reference() -> Result<()> {
    for case in cases() {
        let (prompt, want) = (case.prompt(), case.ids()?);
        let n = prompt.ids.len();
        assert_eq!(prompt.ids, want[..n.min(want.len())], "{}", case.name);
        assert_eq!(n + 8, want.len(), "{}", case.name);
        let Some(positions) = case.io.get("positions") else {
            assert!(prompt.coordinates.is_none(), "{}", case.name);
            continue;
        };
        let positions = positions.to_vec2::<i64>()?;
        let (coordinates, next) = prompt.coordinates.unwrap();
        for (at, got) in coordinates.iter().enumerate() {
            let want: Vec<u32> = positions.iter().map(|axis| axis[at] as u32).collect();
            assert_eq!(got.to_vec(), want, "{}: token {at}", case.name);
        }
        assert_eq!(i64::from(next), positions[0][n], "{}", case.name);
    }
    Ok(())
}

/// Within one level of 255 where pictures are scaled: both round to 8 bits, and a value may fall on the
/// other side of a half. On average a hundredth of that.
#[test]
fn pixels_equal_those_of_the_reference() -> Result<()> {
    for case in cases() {
        // The processor gives pictures first, then clips; that of InternVL all in the prompt's order.
        let mut pixels = case.pixels(&case.prompt());
        if !case.name.starts_with("internvl/") {
            pixels.sort_by_key(|pixels| pixels.kind);
        }
        let parts: Vec<Tensor> = pixels
            .iter()
            .map(|pixels| reference_order(&case, pixels)?.flatten_all())
            .collect::<Result<_>>()?;
        let all = Tensor::cat(&parts, 0)?;
        assert_eq!(all.dim(0)?, step(&case.spec, "pixel_count"), "{}", case.name);
        let got = spaced(&all, step(&case.spec, "pixel_step"))?.to_vec1::<f32>()?;
        let want = case.io["pixels"].to_vec1::<f32>()?;
        let apart: Vec<f64> =
            got.iter().zip(&want).map(|(a, b)| f64::from((a - b).abs())).collect();
        let worst = apart.iter().copied().fold(0.0, f64::max);
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        // One level, in units of the smallest standard deviation.
        let level = 1.01 / 255.0 / 0.22;
        assert!(worst <= level && mean < level / 100.0, "{}: {worst} {mean}", case.name);
    }
    Ok(())
}

/// Patches as the processor of the family gives them: whole pictures `[pictures, 3, height, width]`
/// where the tower cuts, patches where the processor does.
fn reference_order(case: &Case, pixels: &Pixels) -> Result<Tensor> {
    if case.spec["config"]["model_type"].as_str().unwrap().starts_with("qwen2") {
        return Ok(pixels.patches.clone());
    }
    let [_, rows, columns] = pixels.grids[0];
    let patch = ((pixels.patches.dim(1)? / 3) as f64).sqrt() as usize;
    pixels
        .patches
        .reshape(vec![pixels.grids.len(), rows, columns, 3, patch, patch])?
        .permute(vec![0, 3, 1, 4, 2, 5])?
        .reshape((pixels.grids.len(), 3, rows * patch, columns * patch))
}

#[test]
fn logits_and_gradients_equal_the_reference() -> Result<()> {
    for case in cases() {
        let (model, name) = (&case.model, &case.name);
        let (prompt, ids) = (case.prompt(), case.ids()?);
        let pixels = case.pixels(&prompt);
        let seen = model.encode(&pixels, Mode::INFER)?;
        for (visual, tokens) in prompt.visuals.iter().zip(&seen) {
            assert_eq!(tokens.dim(0)?, visual.plan.len(), "{name}");
        }
        let all = Tensor::cat(&seen, 0)?;
        assert_eq!(all.dim(0)?, step(&case.spec, "tokens"), "{name}");
        let got = spaced(&all, step(&case.spec, "feature_step"))?;
        let off = difference(&got, &case.io["features"])?;
        assert!(off < case.tolerance(), "{name}: features differ by {off:e}");

        let forest = || {
            let mut forest = Forest::new();
            let root = prompt.root(&mut forest);
            forest.push(Parent::Segment(root), 8);
            Arc::new(forest)
        };
        let n = ids.len();
        let hidden =
            model.hidden(&model.embed(&ids, &seen, Mode::INFER)?, &forest(), Mode::INFER)?;
        let logits = model.logits(&hidden.narrow(0, n - 12, 12)?, Mode::INFER)?;
        let off = difference(&logits, &case.io["logits"])?;
        assert!(off < case.tolerance(), "{name}: logits differ by {off:e}");

        model.params().set_trains(|_| true);
        let seen = model.encode(&pixels, Mode::TRAIN)?;
        let embeds = model.embed(&ids, &seen, Mode::TRAIN)?;
        let hidden = model.hidden(&embeds, &forest(), Mode::TRAIN)?;
        let logps = model.logps(&hidden.narrow(0, n - 9, 8)?, &ids[n - 8..], Mode::TRAIN)?;
        let off = difference(&logps, &case.io["logps"])?;
        assert!(off < case.tolerance(), "{name}: log-probabilities differ by {off:e}");
        let grads = logps.sum_all()?.backward()?;
        let most = GRADIENTS.max(case.tolerance());
        let mut compared = 0;
        for weight in model.params().weights() {
            let Some(want) = case.io.get(&format!("grad.{}", weight.name())) else { continue };
            let Some(grad) = grads.get(&weight.tensor(true)) else {
                panic!("{name}: {} got no gradient", weight.name());
            };
            let grad = weight.in_checkpoint_layout(grad)?;
            let got = spaced(&grad, grad.elem_count().div_ceil(48))?;
            let size = case.io[&format!("size.{}", weight.name())].to_vec1::<f32>()?[0];
            let apart = (got - want)?.abs()?.max(0)?.to_scalar::<f32>()?;
            let off = f64::from(apart) / f64::from(size.max(1e-6));
            assert!(off < most, "{name}: gradient of {} differs by {off:e}", weight.name());
            compared += 1;
        }
        let wanted = case.io.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(compared, wanted, "{name}");
    }
    Ok(())
}

/// The prompt in a cached prefix up to its last picture, then the words token by token: the logits of
/// one pass. Two branches packed behind the prompt have those of separate sequences.
#[test]
fn caches_and_packed_branches_equal_one_pass() -> Result<()> {
    for case in cases() {
        let (model, prompt, ids) = (&case.model, case.prompt(), case.ids()?);
        let seen = model.encode(&case.pixels(&prompt), Mode::INFER)?;
        let end = prompt.visuals.last().unwrap().range.end;
        let mut node = model.cache_node(None, end);
        let mut forest = Forest::new();
        prompt.start(end).root(&mut forest);
        let embeds = model.embed(&ids[..end], &seen, Mode::INFER)?;
        let rows: &mut [&mut KvNode] = &mut [&mut node];
        model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, rows)?;
        let mut last = Vec::new();
        for id in &ids[end..] {
            let mut forest = Forest::new();
            forest.push(node.after(), 1);
            let embeds = model.embed(&[*id], &[], Mode::INFER)?;
            let rows: &mut [&mut KvNode] = &mut [&mut node];
            last.push(model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, rows)?);
        }
        let hidden = Tensor::cat(&last[last.len() - 12..], 0)?;
        let off = difference(&model.logits(&hidden, Mode::INFER)?, &case.io["logits"])?;
        assert!(off < case.tolerance(), "{}: cached logits differ by {off:e}", case.name);

        let n = prompt.ids.len();
        let mut forest = Forest::new();
        let root = prompt.root(&mut forest);
        forest.push(Parent::Segment(root), 5);
        forest.push(Parent::Segment(root), 8);
        let packed = [&ids[..n], &[7, 9, 11, 13, 15], &ids[n..]].concat();
        let embeds = model.embed(&packed, &seen, Mode::INFER)?;
        let hidden = model.hidden(&embeds, &Arc::new(forest), Mode::INFER)?;
        let logits = model.logits(&hidden.narrow(0, n + 5, 8)?, Mode::INFER)?;
        let off = difference(&logits, &case.io["logits"].narrow(0, 4, 8)?)?;
        assert!(off < case.tolerance(), "{}: packed logits differ by {off:e}", case.name);
    }
    Ok(())
}

#[test]
fn bf16_is_near_f32() -> Result<()> {
    for case in cases() {
        let model = build(&case.spec, Weights::Checkpoint(Box::new(Drawn)), DType::BF16);
        let (prompt, ids) = (case.prompt(), case.ids()?);
        let seen = model.encode(&case.pixels(&prompt), Mode::INFER)?;
        let mut forest = Forest::new();
        let root = prompt.root(&mut forest);
        forest.push(Parent::Segment(root), 8);
        let embeds = model.embed(&ids, &seen, Mode::INFER)?;
        let hidden = model.hidden(&embeds, &Arc::new(forest), Mode::INFER)?;
        let logits = model.logits(&hidden.narrow(0, ids.len() - 12, 12)?, Mode::INFER)?;
        let want = &case.io["logits"];
        let mean = (logits.to_dtype(DType::F32)? - want)?.abs()?.mean_all()?.to_scalar::<f32>()?;
        let largest = want.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(mean < 0.03 * largest, "{}: {mean} of {largest}", case.name);
    }
    Ok(())
}

/// The tensors of a file as transformers saves it: each has a place, and none is missing.
#[test]
fn names_of_saved_files_are_known() {
    #[derive(Debug)]
    struct Named(Vec<String>);
    impl TensorSource for Named {
        fn tensor(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
            if self.0.iter().any(|own| own == name) { Drawn.tensor(name, shape) } else { Ok(None) }
        }
        fn names(&self) -> Vec<String> {
            self.0.clone()
        }
    }
    for case in cases() {
        let saved: Vec<String> = serde_json::from_value(case.spec["saved"].clone()).unwrap();
        let source = Weights::Checkpoint(Box::new(Named(saved)));
        let (config, files) = (&case.spec["config"], processors(&case.spec));
        let model = Model::new(config, &files, source, DType::F32, &Device::Cpu);
        assert!(model.is_ok(), "{}: {}", case.name, model.unwrap_err());
    }
}
