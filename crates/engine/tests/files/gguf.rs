//! GGUF files out of directories and back: the same tokens, the same log-probabilities.

use std::fs;
use std::path::Path;

use savi_engine::{GgmlType, SaveOptions, StoredDType, convert, convert_to_gguf};
use savi_models::{Gguf, read_directory};
use serde_json::{Value, json};

use crate::drawn::{apart, asked, open, write};

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn changed(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// F32 loses nothing but digits of Llama 3's frequencies; the others round as they say.
#[test]
fn a_model_is_the_same_through_gguf_and_back() {
    let dir = tempfile::tempdir().unwrap();
    for family in ["llama", "qwen2", "qwen3"] {
        let source = dir.path().join(family);
        write(&source, family, StoredDType::F32, None);
        let want = asked(&open(&source, "f32"));
        for (kind, tolerance) in [
            (GgmlType::F32, if family == "llama" { 1e-4 } else { 0.0 }),
            (GgmlType::F16, 5e-3),
            (GgmlType::BF16, 4e-2),
            (GgmlType::Q8_0, 1e-1),
        ] {
            let file = dir.path().join(format!("{family}-{kind:?}.gguf"));
            convert_to_gguf(&text(&source), &file, Some(kind), false).unwrap();
            let matrices = |name: &str| name.ends_with("weight") && !name.contains("norm");
            for (name, stored, shape) in Gguf::open(&file).unwrap().tensors() {
                let matrix = matrices(name) && shape.len() == 2;
                assert_eq!(stored, if matrix { kind } else { GgmlType::F32 }, "{name}");
            }
            let got = asked(&open(&file, "f32"));
            assert_eq!((&got.0, &got.1), (&want.0, &want.1), "{family}: tokens");
            let off = apart(&got.2, &want.2);
            assert!(off <= tolerance, "{family} as {kind:?}: log-probabilities differ by {off}");
            assert!(convert_to_gguf(&text(&source), &file, Some(kind), false).is_err());

            // Out of the file a directory, with tokenizer, template and ends of texts.
            let back = dir.path().join(format!("{family}-{kind:?}"));
            convert(&text(&file), &back, &SaveOptions::default()).unwrap();
            assert_eq!(asked(&open(&back, "f32")), got, "{family} from {kind:?}");
            let config = read_directory(&back).unwrap().config;
            assert_eq!(config["dtype"], "float32");
            assert_eq!(config["rms_norm_eps"], 1e-5);
            for name in ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
                assert!(back.join(name).exists(), "{name}");
            }
            let ends: Value =
                serde_json::from_slice(&fs::read(back.join("generation_config.json")).unwrap())
                    .unwrap();
            assert_eq!(ends["eos_token_id"], json!([2, 0]));
        }
    }
}

#[test]
fn what_gguf_has_no_place_for_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    write(&source, "qwen2", StoredDType::F32, None);
    let keep = |name: &str| fs::read(source.join(name)).unwrap();
    let (config, words) = (keep("config.json"), keep("tokenizer.json"));
    type Change = fn(&mut Value);
    let changes: [(&str, Change, &str); 9] = [
        ("config.json", |c| c["model_type"] = json!("mistral"), "mistral"),
        ("config.json", |c| c["hidden_act"] = json!("gelu"), "hidden_act"),
        (
            "config.json",
            |c| c["rope_scaling"] = json!({"rope_type": "dynamic", "factor": 2.0}),
            "dynamic",
        ),
        (
            "config.json",
            |c| {
                c["rope_scaling"] = json!({"rope_type": "yarn", "factor": 2.0, "beta_fast": 8.0,
                    "original_max_position_embeddings": 128});
            },
            "beta_fast",
        ),
        (
            "config.json",
            |c| {
                c["use_sliding_window"] = json!(true);
                c["sliding_window"] = json!(8);
                c["max_window_layers"] = json!(0);
            },
            "sliding_window",
        ),
        ("tokenizer.json", |t| t["normalizer"] = json!({"type": "NFKC"}), "NFKC"),
        (
            "tokenizer.json",
            |t| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("x"),
            "pre-tokenizer",
        ),
        ("tokenizer.json", |t| t["model"]["ignore_merges"] = json!(true), "ignore_merges"),
        ("tokenizer.json", |t| t["added_tokens"][0]["lstrip"] = json!(true), "lstrip"),
    ];
    let file = dir.path().join("out.gguf");
    for (name, change, named) in changes {
        fs::write(source.join("config.json"), &config).unwrap();
        fs::write(source.join("tokenizer.json"), &words).unwrap();
        changed(&source.join(name), change);
        let error = convert_to_gguf(&text(&source), &file, None, false).unwrap_err().to_string();
        assert!(error.contains(named), "{error} does not name {named}");
        assert!(!file.exists());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
