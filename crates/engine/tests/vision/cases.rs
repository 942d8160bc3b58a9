//! The cases of the goldens: models, prompts, pictures.

use candle_core::{DType, Device, Result, Tensor};
use savi_engine::{Prompt, TextFiles, TextModel};
use savi_models::{Model, Pixels, Plan, Processors, Visual};
use savi_nn::Weights;
use savi_nn::check::Drawn;
use savi_schema::{ClipMetadata, Media, Message, Part, RgbImage};
use serde_json::Value;

use crate::{LOGITS, SCALED};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Folders of goldens.
const FAMILIES: &[&str] =
    &["internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "smolvlm"];

pub(crate) fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/vision").join(family)
}

/// As `picture` in `common.py` draws it.
pub(crate) fn picture(name: &str, width: usize, height: usize) -> RgbImage {
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
pub(crate) fn visual(spec: &Value) -> Visual {
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

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) spec: Value,
    pub(crate) model: Model,
    pub(crate) files: TextFiles,
    pub(crate) text: TextModel,
    /// By their descriptions.
    pub(crate) visuals: HashMap<String, Visual>,
    pub(crate) io: HashMap<String, Tensor>,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let file = |name: &str| std::fs::read(folder(family).join(name)).unwrap();
        let specs: BTreeMap<String, Value> = serde_json::from_slice(&file("cases.json")).unwrap();
        for (name, spec) in specs {
            let model = build(&spec, Weights::Checkpoint(Box::new(Drawn)), DType::F32);
            let files = TextFiles {
                tokenizer: file("tokenizer.json"),
                template: spec["template"].as_str().map(str::to_owned),
                ..TextFiles::default()
            };
            let text = TextModel::new(&files, Some(&model)).unwrap();
            let io = folder(family).join(format!("{name}.safetensors"));
            let io = candle_core::safetensors::load(io, &Device::Cpu).unwrap();
            let pictures = media(&spec).filter(|medium| medium["kind"] == "image").count();
            let of = |medium: &Value| Visual { pictures, ..visual(medium) };
            let visuals = media(&spec).map(|medium| (medium.to_string(), of(medium))).collect();
            let name = format!("{family}/{name}");
            cases.push(Case { name, spec, model, files, text, visuals, io });
        }
    }
    cases
}

pub(crate) fn media(spec: &Value) -> impl Iterator<Item = &Value> {
    let turns = spec["messages"].as_array().unwrap().iter();
    turns.flat_map(|turn| turn["content"].as_array().unwrap()).filter_map(|part| part.get("medium"))
}

pub(crate) fn build(spec: &Value, weights: Weights, dtype: DType) -> Model {
    Model::new(&spec["config"], &processors(spec), weights, dtype, &Device::Cpu).unwrap()
}

pub(crate) fn processors(spec: &Value) -> Processors {
    let file = |key: &str| spec["processors"].get(key).cloned().unwrap_or_default();
    Processors {
        image: file("image"),
        video: file("video"),
        whole: file("whole"),
        tokens: serde_json::from_value(file("tokens")).unwrap_or_default(),
    }
}

impl Case {
    pub(crate) fn prompt(&self) -> Prompt {
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

    pub(crate) fn pixels(&self, prompt: &Prompt) -> Vec<Pixels> {
        let visuals = prompt.visuals.iter().map(|of| &self.visuals[&of.shown.media.source]);
        visuals.map(|visual| self.model.pixels(visual).unwrap()).collect()
    }

    pub(crate) fn tolerance(&self) -> f64 {
        if self.spec["scaled"] == true { SCALED } else { LOGITS }
    }

    pub(crate) fn ids(&self) -> Result<Vec<u32>> {
        let ids = self.io["input_ids"].to_vec1::<i64>()?;
        Ok(ids.into_iter().map(|id| id as u32).collect())
    }
}

/// Largest difference, as a share of the largest expected value.
pub(crate) fn difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), want.dims());
    let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    let off = largest(&(got.to_dtype(DType::F32)? - want)?)?;
    Ok(f64::from(off) / f64::from(largest(want)?.max(1e-6)))
}

/// Every `step`-th element.
pub(crate) fn spaced(values: &Tensor, step: usize) -> Result<Tensor> {
    let flat = values.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let kept: Vec<f32> = flat.into_iter().step_by(step.max(1)).collect();
    Tensor::new(kept, &Device::Cpu)
}

pub(crate) fn step(spec: &Value, key: &str) -> usize {
    spec[key].as_u64().unwrap() as usize
}
