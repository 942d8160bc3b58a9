//! Tokenizers out of GGUF files: against SentencePiece (`tests/goldens/gguf-vocab/make.py` made the data), and against
//! llama.cpp's reference cases where they are at hand.

// A test that is skipped says so, and one that measures what it found.
#![allow(clippy::print_stderr)]

use std::path::{Path, PathBuf};

use savi_engine::{TextFiles, TextModel};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf-vocab").join(name)
}

fn model(path: &Path) -> Result<TextModel, String> {
    let files = TextFiles::read_gguf(path).map_err(|error| error.to_string())?;
    TextModel::new(&files, None).map_err(|error| error.to_string())
}

#[test]
fn sentencepiece_vocabularies_give_its_ids() {
    let doc: Value = serde_json::from_slice(&std::fs::read(golden("io.json")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(doc["texts"].clone()).unwrap();
    for name in ["llama", "gemma"] {
        let text = model(&golden(&format!("{name}.gguf"))).unwrap();
        for (words, told) in texts.iter().zip(doc["ids"][name].as_array().unwrap()) {
            let told: Vec<u32> = serde_json::from_value(told.clone()).unwrap();
            // SentencePiece reads no control tokens in a text; whoever writes templates wants them read.
            if words.contains("<s>") {
                assert_eq!(text.encode(words).unwrap()[0], 1, "{name}");
                continue;
            }
            assert_eq!(text.encode(words).unwrap(), told, "{name}: {words:?}");
            assert_eq!(
                text.raw(words, Vec::new(), |shown| panic!("{shown:?}")).unwrap().ids[0],
                1,
                "{name} begins with <s>"
            );
            assert_eq!(&text.decode(&told).unwrap(), words, "{name}");
        }
    }
}

/// With any byte changed the file is refused, or is a tokenizer all the same.
#[test]
fn altered_vocabularies_do_not_panic() {
    let whole = std::fs::read(golden("llama.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("altered.gguf");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(17) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        match model(&path) {
            Ok(text) => drop(text.encode("Which way does it move?")),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 50, "{refused}");
}

/// The vocabularies of llama.cpp's `models/` with their reference cases: opt in with the folder's path.
#[test]
fn llama_cpp_reference_cases() {
    const VARIABLE: &str = "SAVI_LLAMA_CPP_MODELS";
    let Some(folder) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        eprintln!("skipped: {VARIABLE} names no folder with ggml-vocab-*.gguf");
        return;
    };
    let supported = [
        "command-r",
        "deepseek-coder",
        "deepseek-llm",
        "falcon",
        "gemma-4",
        "gpt-2",
        "llama-bpe",
        "llama-spm",
        "mpt",
        "phi-3",
        "qwen2",
        "qwen35",
        "refact",
        "starcoder",
    ];
    let mut wrong = Vec::new();
    for name in supported {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let text = match model(&path) {
            Ok(text) => text,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let read =
            |end: &str| std::fs::read_to_string(format!("{}.{end}", path.display())).unwrap();
        let (inputs, outputs) = (read("inp"), read("out"));
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let mut right = 0;
        for (words, told) in inputs.iter().zip(outputs.split('\n')) {
            let told: Vec<u32> = told.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let got = text.encode(words).unwrap();
            if got == told {
                right += 1;
            } else {
                wrong.push(format!("{name}: {words:?}: {got:?}, expected {told:?}"));
            }
        }
        eprintln!("{name}: {right} of {} cases", inputs.len());
        assert!(right == inputs.len() || !wrong.is_empty(), "{name}: cases without ids");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, named) in [
        ("bert-bge", "\"bert\" is not supported"),
        ("nomic-bert-moe", "\"t5\" is not supported"),
        ("gpt-neox", "has no pre"),
        ("aquila", "has no pre"),
    ] {
        let error = model(&folder.join(format!("ggml-vocab-{name}.gguf"))).err().unwrap();
        assert!(error.contains(named), "{error}");
    }
}
