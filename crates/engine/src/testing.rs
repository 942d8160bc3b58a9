//! A small random model for tests of this crate and of those above it.

pub mod frequencies;

use savi_models::Processors;
use savi_nn::Weights;
use serde_json::{Value, json};

use crate::{Engine, EngineError, EngineOptions, Processor, TextFiles, train_tokenizer};

/// A chat template in the ChatML manner.
const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'video' %}<video>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

/// A LLaVA-OneVision of a few thousand random weights that looks at `frames` frames of a clip.
pub fn random_engine(seed: u64, frames: usize) -> Result<Engine, EngineError> {
    random_engine_with(seed, frames, EngineOptions::default())
}

/// The same with other options, on the CPU.
pub fn random_engine_with(
    seed: u64,
    frames: usize,
    options: EngineOptions,
) -> Result<Engine, EngineError> {
    let config = json!({
        "model_type": "llava_onevision", "video_token_index": 3, "tie_word_embeddings": true,
        "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-6},
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 4},
    });
    from_config(seed, Some(frames), &config, options)
}

/// A LLaVA-OneVision of some million random weights that looks at `frames` frames of a clip, 64 visual tokens
/// each; on the CPU.
pub fn random_clip_engine(
    seed: u64,
    frames: usize,
    options: EngineOptions,
) -> Result<Engine, EngineError> {
    let config = json!({
        "model_type": "llava_onevision", "video_token_index": 3, "tie_word_embeddings": true,
        "text_config": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-6},
        "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 4},
    });
    from_config(seed, Some(frames), &config, options)
}

fn from_config(
    seed: u64,
    frames: Option<usize>,
    config: &Value,
    options: EngineOptions,
) -> Result<Engine, EngineError> {
    let corpus = ["which way does the red circle move", "user assistant left right up down"];
    let tokenizer = train_tokenizer(corpus.iter().map(ToString::to_string), 300)?;
    let policy =
        |frames| savi_schema::MediaPolicy::count(frames, savi_schema::CountRule::MidSegment);
    let options = EngineOptions { device: "cpu".into(), ..options };
    let text = TextFiles::chatml(tokenizer, TEMPLATE);
    let processors = Processors::default();
    let processor = frames.map(|frames| Processor { policy: policy(frames) });
    Engine::build(config, Weights::Random(seed), text, &processors, processor, &options)
}

/// A Llama of a few thousand random weights; `more` are further keys of its config.
pub fn random_text_engine(seed: u64, more: &Value) -> Result<Engine, EngineError> {
    random_text_engine_with(seed, more, EngineOptions::default())
}

/// The same with other options, on the CPU.
pub fn random_text_engine_with(
    seed: u64,
    more: &Value,
    options: EngineOptions,
) -> Result<Engine, EngineError> {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    });
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    from_config(seed, None, &config, options)
}
