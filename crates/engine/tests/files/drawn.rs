//! Small models of the text families on disk, with random weights, as transformers would save them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use savi_engine::{Engine, EngineOptions, StoredDType, train_tokenizer};
use savi_models::{Entry, MAX_SHARD_SIZE, Model, NewFolder, Processors, write_checkpoint};
use savi_nn::{Params, Weights};
use savi_schema::{Message, Role};
use serde_json::{Value, json};

const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

/// The manner of Qwen2's cuts, as its tokenizer.json has it.
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3's.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The config of a small model.
pub(crate) fn config(family: &str) -> Value {
    let mut config = json!({
        "architectures": ["X"], "model_type": family, "dtype": "float32", "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "tie_word_embeddings": family != "llama",
        "eos_token_id": 2,
    });
    if family == "llama" {
        config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
        config["attention_bias"] = json!(true);
    }
    if family == "qwen3" {
        config["head_dim"] = json!(24);
    }
    config
}

/// A tokenizer in the manner of a family.
pub(crate) fn tokenizer(family: &str) -> Value {
    let corpus = "which way does the red circle move? It's 1234 steps left, user assistant system";
    let bytes = train_tokenizer(corpus.split(' ').map(str::to_owned), 300).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&bytes).unwrap();
    let pattern = match family {
        "llama" => LLAMA3,
        "qwen2" => QWEN2,
        _ => return tokenizer,
    };
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    if family == "qwen2" {
        tokenizer["normalizer"] = json!({"type": "NFC"});
    } else {
        tokenizer["model"]["ignore_merges"] = json!(true);
        let special = json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
        let text = |which: &str| json!({"Sequence": {"id": which, "type_id": 0}});
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), special, text("B")],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        });
    }
    tokenizer
}

/// The shapes of a config's tensors.
pub(crate) fn entries(config: &Value, dtype: DType) -> Vec<Entry> {
    let model =
        Model::new(config, &Processors::default(), Weights::Random(0), DType::F32, &Device::Cpu)
            .unwrap();
    let params: &Params = model.params();
    let entry = |w: &std::sync::Arc<savi_nn::Weight>| Entry {
        name: w.name().to_owned(),
        dtype,
        shape: w.stored_shape().to_vec(),
    };
    params.weights().iter().map(entry).collect()
}

/// A tensor that depends on its name and shape alone.
pub(crate) fn drawn(name: &str, shape: &[usize]) -> Tensor {
    let seed =
        name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (offset, scale) = if name.contains("norm") { (1.0, 0.2) } else { (0.0, 0.25) };
    let count = shape.iter().product();
    let values: Vec<f32> =
        (0..count).map(|_| offset + scale * rng.random_range(-1.0f32..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Writes a model's directory.
pub(crate) fn write(dir: &Path, family: &str, dtype: StoredDType, shard: Option<u64>) {
    let mut config = config(family);
    config["dtype"] = json!(dtype.name());
    let entries = entries(&config, dtype.dtype());
    let shapes: BTreeMap<_, _> =
        entries.iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
    let folder = NewFolder::begin(dir, false).unwrap();
    let load = |name: &str| Ok(drawn(name, &shapes[name]));
    write_checkpoint(&folder, &entries, shard.unwrap_or(MAX_SHARD_SIZE), load).unwrap();
    let text = |value: &Value| serde_json::to_vec_pretty(value).unwrap();
    folder.write("config.json", &text(&config)).unwrap();
    folder.write("tokenizer.json", &text(&tokenizer(family))).unwrap();
    folder.write("chat_template.jinja", TEMPLATE.as_bytes()).unwrap();
    let bos = if family == "llama" { json!("<|endoftext|>") } else { Value::Null };
    let settings = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos,
        "eos_token": "<|im_end|>", "extra": "kept  as it is"});
    folder.write("tokenizer_config.json", settings.to_string().as_bytes()).unwrap();
    folder.write("generation_config.json", br#"{ "eos_token_id": [2, 0] }"#).unwrap();
    folder.write("special_tokens_map.json", b"{}\n").unwrap();
    folder.write("preprocessor_config.json", b"{ }").unwrap();
    folder.write("README.md", b"not copied").unwrap();
    folder.finish().unwrap();
}

pub(crate) fn open(path: &Path, dtype: &str) -> Engine {
    let options =
        EngineOptions { device: "cpu".into(), dtype: dtype.into(), ..EngineOptions::default() };
    Engine::load(&path.to_string_lossy(), &options).unwrap()
}

/// Tokens of a conversation, of a text alone, and log-probabilities after it.
pub(crate) fn asked(engine: &Engine) -> (Vec<u32>, Vec<u32>, Vec<f32>) {
    let words = "Which way does it move? It's 1234 steps, left\n  left.";
    let prompt = engine.prompt(&[Message::text(Role::User, words)]).unwrap();
    let raw = engine.raw_prompt(words, Vec::new()).unwrap();
    let targets: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 299).collect();
    let scores = engine.score_tokens(&raw, vec![targets]).unwrap();
    (prompt.ids, raw.ids, scores.into_iter().next().unwrap().logps)
}

/// Largest difference of two lists.
pub(crate) fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
