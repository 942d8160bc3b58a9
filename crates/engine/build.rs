//! Compiles the built-in models in where their files are there; a build without them still works.

use std::path::Path;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(builtin_tiny)");
    let dir = Path::new("../../datasets/builtin-tiny");
    println!("cargo:rerun-if-changed={}", dir.display());
    let files = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "processor.json",
    ];
    if files.iter().all(|file| dir.join(file).exists()) {
        println!("cargo:rustc-cfg=builtin_tiny");
    }
}
