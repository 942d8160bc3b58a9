//! What files of the LLaVA families say: how many tokens pictures have, which processors' files fit a
//! config, how clips are looked at.

use std::path::Path;

use candle_core::{DType, Device};
use savi_models::{Model, ModelError, Processors, Visual};
use savi_nn::Weights;
use savi_nn::check::Drawn;
use savi_schema::{CountRule, FrameSampling, MediaPolicy, RgbImage};
use serde_json::{Value, json};

fn config(name: &str, image_size: u32, patch_size: u32) -> Value {
    let text = json!({"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 9});
    let tower = json!({"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": image_size, "patch_size": patch_size});
    json!({"model_type": name, "text_config": text, "vision_config": tower})
}

fn build(config: &Value, processors: &Processors) -> Result<Model, ModelError> {
    let weights = Weights::Checkpoint(Box::new(Drawn));
    Model::new(config, processors, weights, DType::F32, &Device::Cpu)
}

/// The published models' counts for pictures of many sizes, by transformers' processors. Of a picture that
/// is all padding, or of which nothing is left when it is scaled, there are no more than those of the whole;
/// the reference then has no tokens for it, or fails.
#[test]
fn pictures_of_all_sizes_have_the_tokens_of_the_reference() {
    let path = "../../tests/goldens/vision/llava_onevision/counts.json";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let rows: Vec<[u32; 4]> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let models = [("llava_onevision", 384, 729), ("llava_next_video", 336, 576)];
    let models = models.map(|(name, size, whole)| {
        (build(&config(name, size, 14), &Processors::default()).unwrap(), whole)
    });
    let (mut compared, mut failed) = (0, 0);
    for [width, height, counts @ ..] in rows {
        let image = RgbImage::new(width, height, vec![0; (width * height * 3) as usize]).unwrap();
        let visual = Visual::image(image);
        for ((model, whole), count) in models.iter().zip(counts) {
            match model.plan(&visual) {
                Ok(plan) => {
                    assert_eq!(plan.len(), count as usize, "{width}x{height}");
                    compared += 1;
                }
                Err(_) => {
                    assert_eq!(count, *whole, "{width}x{height}");
                    failed += 1;
                }
            }
        }
    }
    assert!(compared > 600 && failed < 40, "{compared} compared, {failed} failed");
}

/// As the config of a 7B model is published: of Vicuna it has what differs from a Llama's defaults.
#[test]
fn sizes_that_a_published_config_leaves_out_are_those_of_the_reference() {
    let config = json!({
        "model_type": "llava_next_video", "architectures": ["x"], "ignore_index": -100,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_seq_length": 576, "image_token_index": 32001, "pad_token_id": 32001,
        "projector_hidden_act": "gelu", "spatial_pool_mode": "average", "spatial_pool_stride": 2,
        "text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["x"],
            "max_position_embeddings": 4096, "model_type": "llama", "pad_token_id": 0,
            "rms_norm_eps": 1e-5, "torch_dtype": "float16", "vocab_size": 32064},
        "tie_word_embeddings": false, "use_image_newline_parameter": true,
        "video_seq_length": 288, "video_token_index": 32000,
        "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
            "model_type": "clip_vision_model", "num_attention_heads": 16,
            "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000},
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    });
    let text = Model::decoder_config(&config).unwrap();
    assert_eq!((text.hidden_size, text.intermediate_size), (4096, 11_008));
    assert_eq!(
        (text.layers.len(), text.num_attention_heads, text.num_key_value_heads),
        (32, 32, 32)
    );
    assert_eq!((text.vocab_size, text.max_position_embeddings), (32_064, 4096));
}

#[test]
fn files_that_do_not_fit_the_config_are_refused_by_name() {
    let onevision = json!({"size": {"height": 16, "width": 16}});
    let next = json!({"size": {"shortest_edge": 16}, "crop_size": 16});
    for (name, image, key, value) in [
        ("llava_onevision", &onevision, "size", json!({"height": 24, "width": 24})),
        ("llava_onevision", &onevision, "image_grid_pinpoints", json!([[16, 32]])),
        ("llava_onevision", &onevision, "num_image_tokens", json!(9)),
        ("llava_onevision", &onevision, "vision_aspect_ratio", json!("anyres_max_4")),
        ("llava_onevision", &onevision, "vision_feature_select_strategy", json!("default")),
        ("llava_onevision", &onevision, "a_key_of_tomorrow", json!(1)),
        ("llava_next_video", &next, "crop_size", json!({"height": 24, "width": 24})),
        ("llava_next_video", &next, "patch_size", json!(4)),
        ("llava_next_video", &next, "num_additional_image_tokens", json!(0)),
        ("llava_next_video", &next, "resample", json!(9)),
    ] {
        let config = config(name, 16, 8);
        let mut whole = json!({"processor_class": "Llava"});
        let mut image = image.clone();
        let usual = Processors { image: image.clone(), ..Processors::default() };
        assert!(build(&config, &usual).is_ok());
        let own = ["num_", "vision_", "patch_"].iter().any(|start| key.starts_with(start));
        if own {
            whole[key] = value
        } else {
            image[key] = value
        };
        let files = Processors { image, whole, ..Processors::default() };
        let error = build(&config, &files).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn clips_are_looked_at_as_the_files_say() {
    let policy = |name: &str, own: Value| {
        let mut video = json!({"size": {"height": 16, "width": 16}});
        video.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let files = Processors { video, ..Processors::default() };
        build(&config(name, 16, 8), &files).map(|model| model.policy())
    };
    let count = |frames| Some(MediaPolicy::count(frames, CountRule::Linspace));
    assert_eq!(policy("llava_onevision", json!({})).unwrap(), count(32));
    assert_eq!(policy("llava_next_video", json!({})).unwrap(), count(8));
    let five = json!({"num_frames": 5, "do_sample_frames": true});
    let five_starts = Some(MediaPolicy::count(5, CountRule::SegmentStart));
    assert_eq!(policy("llava_onevision", five).unwrap(), five_starts);
    let rate = policy("llava_onevision", json!({"fps": 2})).unwrap().unwrap();
    assert!(matches!(rate.sampling, FrameSampling::Fps { fps: 2.0, .. }));
    assert!(policy("llava_onevision", json!({"num_frames": 0})).is_err());
    let none = build(&config("llava_onevision", 16, 8), &Processors::default()).unwrap();
    assert!(none.policy().is_none());
}
