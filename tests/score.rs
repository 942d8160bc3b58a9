//! `savi score` and `savi model show`: what they print, what they take and what they refuse.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn score(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_savi")).arg("score").args(args).output().unwrap()
}

fn parsed(args: &[&str]) -> Value {
    let output = score(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn logprobs(value: &Value) -> Vec<f64> {
    value["logprobs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn listed(value: &Value) -> String {
    let ids: Vec<String> = value.as_array().unwrap().iter().map(Value::to_string).collect();
    ids.join(",")
}

#[test]
fn words_tokens_and_messages_score_alike() {
    let model = ["--model", "builtin:tiny", "--device", "cpu"];
    let with = |more: &[&str]| parsed(&[&model, more].concat());
    let words = with(&["--prompt", "Where is it?", "--continuation", "top left"]);
    let logps = logprobs(&words);
    assert_eq!(logps.len(), words["tokens"].as_array().unwrap().len());
    assert!(logps.iter().all(|&logp| logp < 0.0));
    let total: f64 = logps.iter().sum();
    assert!((words["total"].as_f64().unwrap() - total).abs() < 1e-9);

    let (prompt, tokens) = (listed(&words["prompt_tokens"]), listed(&words["tokens"]));
    let ids = with(&["--prompt-tokens", &prompt, "--continuation-tokens", &tokens]);
    assert_eq!(ids, words);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("messages.json");
    std::fs::write(&file, r#"[{"role": "user", "content": "Where is it?"}]"#).unwrap();
    let messages = with(&["--messages", file.to_str().unwrap(), "--continuation-tokens", &tokens]);
    assert_eq!(messages, words);

    // Without the template there are fewer tokens before, and other figures after.
    let raw = with(&["--raw", "--prompt", "Where is it?", "--continuation", "top left"]);
    let count = |value: &Value| value["prompt_tokens"].as_array().unwrap().len();
    assert!(count(&raw) < count(&words) && logprobs(&raw) != logps);

    // The last token's figure is the same when what stands before it comes as prompt.
    let ids: Vec<&str> = tokens.split(',').collect();
    let (last, first) = ids.split_last().unwrap();
    let longer = [&[prompt.as_str()], first].concat().join(",");
    let split = with(&["--prompt-tokens", &longer, "--continuation-tokens", last]);
    assert_eq!(logprobs(&split), &logps[logps.len() - 1..]);
}

#[test]
fn what_cannot_be_scored_is_bad_input() {
    let gguf: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests/goldens/gguf/qwen2.gguf"].iter().collect();
    let gguf = gguf.display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("messages.json");
    std::fs::write(&file, r#"[{"role": "user", "content": [{"type": "image"}]}]"#).unwrap();
    let file = file.display().to_string();
    let tiny = "builtin:tiny";
    for (args, message) in [
        (vec![tiny, "--prompt", "x", "--continuation", ""], "no tokens"),
        (vec![tiny, "--prompt-tokens", "1", "--continuation-tokens", "99999"], "token 99999"),
        (vec![tiny, "--prompt", "<|im_end|>", "--continuation", "x"], "special token <|im_end|>"),
        (vec![tiny, "--messages", &file, "--continuation", "x"], "message 0"),
        (
            vec![tiny, "--video", "nowhere.mp4", "--prompt", "x", "--continuation", "x"],
            "nowhere.mp4",
        ),
        (vec!["nowhere.gguf", "--prompt", "x", "--continuation", "x"], "nowhere.gguf"),
        (vec![&gguf, "--prompt", "x", "--continuation", "x"], "tokenizer"),
        (vec![tiny, "--continuation", "x"], "--prompt"),
    ] {
        let output = score(&[&["--model"], args.as_slice()].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(message), "{args:?}: {text}");
    }
}

#[test]
fn a_model_is_shown_with_its_parameters_and_memory() {
    let show = |model: &str| {
        Command::new(env!("CARGO_BIN_EXE_savi"))
            .args(["model", "show", model, "--json"])
            .output()
            .unwrap()
    };
    let shown = |model: &str| -> Value {
        let output = show(model);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let tiny = shown("builtin:tiny");
    assert_eq!(tiny["family"], "llava_onevision");
    assert_eq!(tiny["parameters"], 2_467_040);
    assert_eq!(tiny["stored"]["bf16"], 2_467_040);
    assert_eq!(tiny["memory"]["f32"]["weights"], 4 * 2_467_040);
    assert_eq!(tiny["parts"]["image_newline"], 160);
    let output = show("nowhere");
    assert_eq!(output.status.code(), Some(2));
}
