//! `savi model convert` and `savi model merge`: what they write and what they refuse.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn savi(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_savi")).args(args).output().unwrap()
}

fn done(args: &[&str]) -> String {
    let output = savi(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(args: &[&str]) -> String {
    let output = savi(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn logprobs(model: &str) -> Vec<f64> {
    let tokens = ["--prompt-tokens", "5,6,7", "--continuation-tokens", "8,9,10,11"];
    let args = [&["score", "--device", "cpu", "--json", "--model", model], &tokens[..]].concat();
    let value: Value = serde_json::from_str(&done(&args)).unwrap();
    value["logprobs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_model_is_converted_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (out, again) = (at("out"), at("again"));
    let sizes = ["--max-shard-size", "1MB"];
    let args = [&["model", "convert", "builtin:tiny", &out, "--dtype", "f32"], &sizes[..]].concat();
    assert_eq!(done(&args).trim(), out);
    assert!(Path::new(&out).join("model.safetensors.index.json").exists());
    let want = logprobs("builtin:tiny");
    // The built-in weights are bf16: f32 holds them as they are.
    assert_eq!(logprobs(&out), want);
    assert!(refused(&args).contains("--overwrite"));
    let told = done(&[&args[..], &["--overwrite", "--json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["model"], out.as_str());
    done(&["model", "convert", &out, &again, "--dtype", "bf16"]);
    assert_eq!(logprobs(&again), want);
    let config = |dir: &str| -> Value {
        serde_json::from_slice(&std::fs::read(Path::new(dir).join("config.json")).unwrap()).unwrap()
    };
    assert_eq!(config(&out)["dtype"], "float32");
    assert_eq!(config(&again)["dtype"], "bfloat16");

    let gguf = at("tiny.gguf");
    assert!(refused(&["model", "convert", "builtin:tiny", &gguf]).contains("llava_onevision"));
    let wrong = ["model", "convert", "builtin:tiny", &at("x"), "--dtype", "q8_0"];
    assert!(refused(&wrong).contains("gguf"));
    assert!(refused(&["model", "convert", "nowhere", &at("x")]).contains("nowhere"));
    let merge = ["model", "merge", "builtin:tiny", &at("x"), "--adapter", &at("no-adapter")];
    assert!(refused(&merge).contains("no-adapter"));
    assert!(refused(&["model", "merge", "builtin:tiny", &at("x")]).contains("--adapter"));
    assert!(!Path::new(&at("x")).exists());
}
