//! Compiles the built-in models in where their files are there; a build without them still works.

use std::path::Path;

/// What every model has.
const FILES: [&str; 4] =
    ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"];

fn main() {
    offer("builtin-tiny", "builtin_tiny", &["processor.json"]);
    offer("builtin-tiny-text", "builtin_tiny_text", &[]);
}

/// Sets `name` where the model's folder holds its files.
fn offer(folder: &str, name: &str, more: &[&str]) {
    println!("cargo:rustc-check-cfg=cfg({name})");
    let dir = Path::new("../../datasets").join(folder);
    println!("cargo:rerun-if-changed={}", dir.display());
    if FILES.iter().chain(more).all(|file| dir.join(file).exists()) {
        println!("cargo:rustc-cfg={name}");
    }
}
