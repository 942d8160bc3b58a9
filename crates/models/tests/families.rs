//! The text families of transformers, number for number: logits, log-probabilities, gradients and
//! greedy tokens of every case of `tests/goldens/families`, whose `make.py` made the data.

mod drawn;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use savi_models::Model;
use savi_nn::attention::KvNode;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Parent};

use drawn::{cases, difference, ids, io, model};

/// Of the largest logit.
const LOGITS: f64 = 1e-4;
/// Of the largest element of a gradient.
const GRADIENTS: f64 = 1e-3;

fn logits(model: &Model, ids: &[u32], forest: Forest, mode: Mode) -> Result<Tensor> {
    let hidden = model.hidden(&model.embed(ids, &[], mode)?, &Arc::new(forest), mode)?;
    model.logits(&hidden, mode)
}

#[test]
fn logits_and_gradients_equal_the_reference() -> Result<()> {
    let mut with_gradients = 0;
    for (case, config) in cases() {
        let (model, io) = (model(&config, DType::F32), io(&case)?);
        let tokens = ids(&io["input_ids"])?;
        let n = tokens.len();
        let got = logits(&model, &tokens, Forest::sequence(n), Mode::INFER)?;
        let off = difference(&got, &io["logits"])?;
        assert!(off < LOGITS, "{case}: logits differ by {off:e}");
        if let Some(long) = io.get("long_ids") {
            let long = ids(long)?;
            let got = logits(&model, &long, Forest::sequence(long.len()), Mode::INFER)?;
            let off = difference(&got, &io["logits.long"])?;
            assert!(off < LOGITS, "{case}: logits of the long input differ by {off:e}");
        }
        model.params().set_trains(|_| true);
        let embeds = model.embed(&tokens, &[], Mode::TRAIN)?;
        let hidden = model.hidden(&embeds, &Arc::new(Forest::sequence(n)), Mode::TRAIN)?;
        let logps = model.logps(&hidden.narrow(0, n - 9, 8)?, &tokens[n - 8..], Mode::TRAIN)?;
        let off = difference(&logps, &io["logps"])?;
        assert!(off < LOGITS, "{case}: log-probabilities differ by {off:e}");
        let wanted = io.keys().filter(|key| key.starts_with("grad.")).count();
        if wanted == 0 {
            continue;
        }
        with_gradients += 1;
        let grads = logps.sum_all()?.backward()?;
        let mut compared = 0;
        for weight in model.params().weights() {
            let Some(grad) = grads.get(&weight.tensor(true)) else {
                panic!("{case}: {} got no gradient", weight.name());
            };
            let want = &io[&format!("grad.{}", weight.name())];
            let off = difference(&weight.in_checkpoint_layout(grad)?, want)?;
            assert!(off < GRADIENTS, "{case}: gradient of {} differs by {off:e}", weight.name());
            compared += 1;
        }
        assert_eq!(compared, wanted, "{case}");
    }
    assert_eq!(with_gradients, 8);
    Ok(())
}

/// Greedy tokens from the cache, one at a time, wherever the reference's choice is no near tie. Gives how many were compared.
fn follow(case: &str, model: &Model, prompt: &[u32], told: &[u32], leads: &[f32]) -> Result<usize> {
    let mut node = model.cache_node(None, 8);
    let mut line = prompt.to_vec();
    let mut fresh = line.clone();
    let mut compared = 0;
    for (&want, &lead) in told.iter().zip(leads) {
        let mut forest = Forest::new();
        // Where frequencies depend on the length, what is cached may not hold for a longer sequence.
        let tokens = node.total();
        if tokens == 0 || !model.rotates_anew(tokens, tokens + fresh.len()) {
            forest.push(node.after(), fresh.len());
        } else {
            node = model.cache_node(None, 8);
            fresh.clone_from(&line);
            forest.push(Parent::Root, fresh.len());
        }
        let rows: &mut [&mut KvNode] = &mut [&mut node];
        let embeds = model.embed(&fresh, &[], Mode::INFER)?;
        let hidden = model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, rows)?;
        let last = model.logits(&hidden.narrow(0, fresh.len() - 1, 1)?, Mode::INFER)?;
        let got = last.squeeze(0)?.argmax(0)?.to_scalar::<u32>()?;
        assert!(got == want || lead < 1e-3, "{case}: {got} instead of {want} after {line:?}");
        compared += usize::from(lead >= 1e-3);
        line.push(want);
        fresh = vec![want];
    }
    Ok(compared)
}

#[test]
fn greedy_decoding_from_the_cache_equals_the_reference() -> Result<()> {
    for (case, config) in cases() {
        let (model, io) = (model(&config, DType::F32), io(&case)?);
        let gaps = io["generated_gap"].to_vec1::<f32>()?;
        follow(&case, &model, &ids(&io["input_ids"])?[..6], &ids(&io["generated"])?, &gaps)?;
    }
    Ok(())
}

/// The same tokens as transformers' `generate`, with its own cache where the family has one.
#[test]
fn greedy_tokens_equal_generate() -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Greedy {
        prompt: Vec<u32>,
        tokens: Vec<u32>,
        leads: Vec<f32>,
    }
    let file = std::fs::read(drawn::golden("greedy.json"))?;
    let mut all: std::collections::BTreeMap<String, Greedy> =
        serde_json::from_slice(&file).unwrap();
    for (case, config) in cases() {
        let Greedy { prompt, tokens, leads } = all.remove(&case).unwrap();
        assert_eq!((tokens.len(), leads.len()), (24, 24), "{case}");
        let compared = follow(&case, &model(&config, DType::F32), &prompt, &tokens, &leads)?;
        // All but of the case whose logits a cap presses together.
        assert!(compared == 24 || case == "gemma2-capped", "{case}: {compared}");
    }
    assert!(all.is_empty());
    Ok(())
}

/// Branches packed behind one prompt have the logits of separate sequences, windows and caps
/// included. Where frequencies depend on a sequence's length, unequal branches are refused.
#[test]
fn packed_branches_equal_separate_sequences() -> Result<()> {
    for (case, config) in cases() {
        let (model, io) = (model(&config, DType::F32), io(&case)?);
        let tokens = ids(&io["input_ids"])?;
        let (prompt, a, b) = (&tokens[..9], &tokens[9..16], &tokens[16..]);
        let mut forest = Forest::new();
        let root = forest.push(Parent::Root, prompt.len());
        forest.push(Parent::Segment(root), a.len());
        forest.push(Parent::Segment(root), b.len());
        if case.ends_with("-dynamic") {
            let mut uneven = Forest::new();
            let root = uneven.push(Parent::Root, 9);
            uneven.push(Parent::Segment(root), 13);
            uneven.push(Parent::Segment(root), 4);
            let error = logits(&model, &[tokens.as_slice(), &[1; 4]].concat(), uneven, Mode::INFER);
            assert!(error.unwrap_err().to_string().contains("cannot share a prompt"), "{case}");
        }
        let packed = logits(&model, &tokens, forest, Mode::INFER)?;
        for (branch, start) in [(a, 9), (b, 16)] {
            let line = [prompt, branch].concat();
            let alone = logits(&model, &line, Forest::sequence(line.len()), Mode::INFER)?;
            let off = difference(
                &packed.narrow(0, start, branch.len())?,
                &alone.narrow(0, 9, branch.len())?,
            )?;
            assert!(off < 1e-6, "{case}: packed differs by {off:e}");
        }
    }
    Ok(())
}

/// bf16 on the CPU: on average within 2 % of the largest logit of f32, everywhere within 15 %.
#[test]
fn bf16_is_near_f32() -> Result<()> {
    for (case, config) in cases() {
        let io = io(&case)?;
        let tokens = ids(&io["input_ids"])?;
        let forest = Forest::sequence(tokens.len());
        let got = logits(&model(&config, DType::BF16), &tokens, forest, Mode::INFER)?;
        let off = difference(&got, &io["logits"])?;
        assert!(off < 0.15, "{case}: bf16 differs by {off:e}");
        let want = &io["logits"];
        let mean = (got.to_dtype(DType::F32)? - want)?.abs()?.mean_all()?.to_scalar::<f32>()?;
        let largest = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(mean < 0.02 * largest, "{case}: bf16 differs by {mean} of {largest} on average");
    }
    Ok(())
}
