//! Every key of every config, changed.

use crate::cases::*;
use candle_core::{DType, Device, Result};
use savi_engine::Prompt;
use savi_models::{Model, Plan};
use savi_nn::check::Drawn;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Parent, Weights};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

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
