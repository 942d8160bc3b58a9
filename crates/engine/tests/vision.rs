//! Video-language models of transformers, number for number: the prompt's tokens, pixel values, visual
//! tokens, positions, logits, log-probabilities and gradients of every case of
//! `tests/goldens/vision/*`, whose `make.py` made the data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use savi_engine::{Prompt, TextFiles, TextModel};
use savi_models::{Model, Pixels, Plan, Processors, Visual};
use savi_nn::attention::KvNode;
use savi_nn::check::Drawn;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Parent, TensorSource, Weights};
use savi_schema::{ClipMetadata, Media, Message, Part, RgbImage};
use serde_json::{Value, json};

/// Of the largest logit, or of the largest element of a visual token.
const LOGITS: f64 = 1e-4;
/// The same where pictures are scaled: a level of 255 here and there.
const SCALED: f64 = 5e-3;
/// Of the largest element of a gradient.
const GRADIENTS: f64 = 1e-3;
/// Folders of goldens.
const FAMILIES: &[&str] =
    &["internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "smolvlm"];

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/vision").join(family)
}

/// As `picture` in `common.py` draws it.
fn picture(name: &str, width: usize, height: usize) -> RgbImage {
    let mut key = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        key = (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let noise = |i: u64| {
        let x = key.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) >> 58
    };
    let mut data = Vec::with_capacity(width * height * 3);
    for i in 0..(width * height * 3) as u64 {
        let (channel, column, row) = (i % 3, i / 3 % width as u64, i / 3 / width as u64);
        let ramp = (row * 3 + column * 2 + channel * 60 + (key & 127)) % 384;
        let ramp = if ramp < 192 { ramp } else { 383 - ramp };
        data.push((ramp + noise(i)) as u8);
    }
    RgbImage::new(width as u32, height as u32, data).unwrap()
}

/// A picture or a clip by its description in `cases.json`.
fn visual(spec: &Value) -> Visual {
    let number = |key: &str| spec[key].as_u64().unwrap() as usize;
    let name = spec["name"].as_str().unwrap();
    let (width, height) = (number("width"), number("height"));
    if spec["kind"] == "image" {
        return Visual::image(picture(name, width, height));
    }
    let (frames, every, fps) = (number("frames"), number("every"), spec["fps"].as_f64().unwrap());
    Visual {
        times: (0..frames).map(|i| (i * every) as f64 / fps).collect(),
        metadata: Some(ClipMetadata {
            duration: (frames * every) as f64 / fps,
            width: width as u32,
            height: height as u32,
            fps,
            frame_count: (frames * every) as u64,
            rotation: 0,
            codec: String::new(),
        }),
        ..Visual::frames(
            (0..frames).map(|i| picture(&format!("{name}-{i}"), width, height)).collect(),
        )
    }
}

struct Case {
    name: String,
    spec: Value,
    model: Model,
    text: TextModel,
    /// By their descriptions.
    visuals: HashMap<String, Visual>,
    io: HashMap<String, Tensor>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let file = |name: &str| std::fs::read(folder(family).join(name)).unwrap();
        let specs: BTreeMap<String, Value> = serde_json::from_slice(&file("cases.json")).unwrap();
        for (name, spec) in specs {
            let model = build(&spec, Weights::Checkpoint(Box::new(Drawn)), DType::F32);
            let text = TextFiles {
                tokenizer: file("tokenizer.json"),
                template: spec["template"].as_str().map(str::to_owned),
                ..TextFiles::default()
            };
            let text = TextModel::new(&text, Some(&model)).unwrap();
            let io = folder(family).join(format!("{name}.safetensors"));
            let io = candle_core::safetensors::load(io, &Device::Cpu).unwrap();
            let pictures = media(&spec).filter(|medium| medium["kind"] == "image").count();
            let of = |medium: &Value| Visual { pictures, ..visual(medium) };
            let visuals = media(&spec).map(|medium| (medium.to_string(), of(medium))).collect();
            cases.push(Case { name: format!("{family}/{name}"), spec, model, text, visuals, io });
        }
    }
    cases
}

fn media(spec: &Value) -> impl Iterator<Item = &Value> {
    let turns = spec["messages"].as_array().unwrap().iter();
    turns.flat_map(|turn| turn["content"].as_array().unwrap()).filter_map(|part| part.get("medium"))
}

fn build(spec: &Value, weights: Weights, dtype: DType) -> Model {
    Model::new(&spec["config"], &processors(spec), weights, dtype, &Device::Cpu).unwrap()
}

fn processors(spec: &Value) -> Processors {
    let file = |key: &str| spec["processors"].get(key).cloned().unwrap_or_default();
    Processors {
        image: file("image"),
        video: file("video"),
        whole: file("whole"),
        tokens: serde_json::from_value(file("tokens")).unwrap_or_default(),
    }
}

impl Case {
    fn prompt(&self) -> Prompt {
        let part = |part: &Value| match part.get("medium") {
            None => Part::Text { text: part["text"].as_str().unwrap().to_owned() },
            Some(medium) => {
                let media = Media { source: medium.to_string(), policy: None };
                if medium["kind"] == "image" { Part::Image(media) } else { Part::Video(media) }
            }
        };
        let turns = self.spec["messages"].as_array().unwrap().iter().map(|turn| Message {
            role: serde_json::from_value(turn["role"].clone()).unwrap(),
            content: turn["content"].as_array().unwrap().iter().map(part).collect(),
        });
        let plan = |shown: &savi_engine::Shown| {
            Ok(self.model.plan(&self.visuals[&shown.media.source]).unwrap())
        };
        let mut prompt = self.text.prompt(&turns.collect::<Vec<_>>(), plan).unwrap();
        let plans: Vec<&Plan> = prompt.visuals.iter().map(|visual| &visual.plan).collect();
        prompt.coordinates = self.model.coordinates(&prompt.ids, &plans).unwrap();
        prompt
    }

    fn pixels(&self, prompt: &Prompt) -> Vec<Pixels> {
        let visuals = prompt.visuals.iter().map(|of| &self.visuals[&of.shown.media.source]);
        visuals.map(|visual| self.model.pixels(visual).unwrap()).collect()
    }

    fn tolerance(&self) -> f64 {
        if self.spec["scaled"] == true { SCALED } else { LOGITS }
    }

    fn ids(&self) -> Result<Vec<u32>> {
        let ids = self.io["input_ids"].to_vec1::<i64>()?;
        Ok(ids.into_iter().map(|id| id as u32).collect())
    }
}

/// Largest difference, as a share of the largest expected value.
fn difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), want.dims());
    let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    let off = largest(&(got.to_dtype(DType::F32)? - want)?)?;
    Ok(f64::from(off) / f64::from(largest(want)?.max(1e-6)))
}

/// Every `step`-th element.
fn spaced(values: &Tensor, step: usize) -> Result<Tensor> {
    let flat = values.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let kept: Vec<f32> = flat.into_iter().step_by(step.max(1)).collect();
    Tensor::new(kept, &Device::Cpu)
}

fn step(spec: &Value, key: &str) -> usize {
    spec[key].as_u64().unwrap() as usize
}

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

/// A key that is changed either changes something or is refused, in one case of its family at least: none is
/// passed over. `MEANINGLESS` are keys that a config carries along and that nothing is computed from; a case's
/// `idle` keys wait for another setting. The decoder's keys are the same in `text_config` and at the top.
#[test]
fn every_key_of_every_config_is_honoured_or_refused() -> Result<()> {
    let (mut seen, mut telling) = (BTreeSet::new(), BTreeSet::new());
    for case in cases() {
        let family = case.name.split('/').next().unwrap_or_default();
        let (prompt, ids) = (case.prompt(), case.ids()?);
        let mut paths = Vec::new();
        leaves(&case.spec["config"], String::new(), &mut paths);
        let outputs = |config: &Value| -> Option<(Vec<u32>, Vec<f32>)> {
            let processors = processors(&case.spec);
            let source = Weights::Checkpoint(Box::new(Drawn));
            let model = Model::new(config, &processors, source, DType::F32, &Device::Cpu).ok()?;
            let mut tokens = model.placeholders();
            let (mut pixels, mut plans) = (Vec::new(), Vec::new());
            for of in &prompt.visuals {
                let visual = &case.visuals[&of.shown.media.source];
                plans.push(model.plan(visual).ok()?);
                pixels.push(model.pixels(visual).ok()?);
            }
            tokens.extend(plans.iter().map(|plan| plan.len() as u32));
            let seen = model.encode(&pixels, Mode::INFER).ok()?;
            let plans: Vec<&Plan> = plans.iter().collect();
            let coordinates = model.coordinates(&prompt.ids, &plans).ok()?;
            let embeds = model.embed(&ids, &seen, Mode::INFER).ok()?;
            let mut forest = Forest::new();
            let placed = Prompt { coordinates, ..prompt.clone() };
            let root = placed.root(&mut forest);
            forest.push(Parent::Segment(root), 8);
            let hidden = model.hidden(&embeds, &Arc::new(forest), Mode::INFER).ok()?;
            let last = model.logits(&hidden.narrow(0, ids.len() - 4, 4).ok()?, Mode::INFER).ok()?;
            let mut values = last.flatten_all().ok()?.to_vec1().ok()?;
            values.push(model.config().max_position_embeddings as f32);
            Some((tokens, values))
        };
        let usual = outputs(&case.spec["config"]);
        assert!(usual.is_some(), "{}", case.name);
        for path in paths {
            let idle = case.spec["idle"].as_array().is_some_and(|all| all.contains(&json!(path)));
            if path.split('/').any(|key| MEANINGLESS.contains(&key)) || idle {
                continue;
            }
            let key = format!("{family}{}", path.replace("/text_config", ""));
            let mut config = case.spec["config"].clone();
            let leaf = config.pointer_mut(&path).unwrap();
            *leaf = mutated(leaf);
            if outputs(&config) != usual {
                telling.insert(key.clone());
            }
            seen.insert(key);
        }
    }
    let silent: Vec<&String> = seen.difference(&telling).collect();
    assert!(silent.is_empty(), "passed over: {silent:?}");
    Ok(())
}

/// Keys of transformers' configs that nothing is computed from, or not in what these models do.
const MEANINGLESS: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "drop_path_rate",
    "eos_token_id",
    "id2label",
    "image_seq_length",
    "initializer_factor",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "layer_scale_init_value",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "projection_dim",
    "return_dict",
    "template",
    "use_cache",
    "video_seq_length",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
    "vision_use_head",
    "use_flash_attn",
];

fn leaves(value: &Value, path: String, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                leaves(value, format!("{path}/{key}"), all);
            }
        }
        Value::Null => {}
        _ => all.push(path),
    }
}

fn mutated(value: &Value) -> Value {
    match value {
        Value::Bool(flag) => json!(!flag),
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            json!(number.as_i64().unwrap_or(0) * 2 + 2)
        }
        Value::Number(number) => json!(number.as_f64().unwrap_or(0.0) * 1.5 + 0.01),
        Value::String(word) => json!(format!("{word}x")),
        Value::Array(_) => json!([1]),
        other => other.clone(),
    }
}
