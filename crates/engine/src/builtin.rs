//! Models that are compiled in.

use crate::EngineError;
use crate::files::ModelDir;

/// The files of `builtin:NAME`.
pub(crate) fn open(name: &str) -> Result<ModelDir, EngineError> {
    match name {
        "tiny" => tiny(),
        "tiny-text" => tiny_text(),
        _ => Err(EngineError::UnknownModel {
            name: format!("builtin:{name}"),
            reason: "the built-in models are builtin:tiny and builtin:tiny-text".to_owned(),
        }),
    }
}

#[cfg(builtin_tiny)]
fn tiny() -> Result<ModelDir, EngineError> {
    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!("../../../datasets/builtin-tiny/", $name)).as_slice()
        };
    }
    ModelDir::from_bytes(
        file!("config.json"),
        file!("model.safetensors"),
        file!("tokenizer.json"),
        file!("chat_template.jinja"),
        Some(file!("processor.json")),
    )
}

#[cfg(not(builtin_tiny))]
fn tiny() -> Result<ModelDir, EngineError> {
    Err(EngineError::UnknownModel {
        name: "builtin:tiny".to_owned(),
        reason: "this build was made without the model's files (datasets/builtin-tiny)".to_owned(),
    })
}

#[cfg(builtin_tiny_text)]
fn tiny_text() -> Result<ModelDir, EngineError> {
    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!("../../../datasets/builtin-tiny-text/", $name)).as_slice()
        };
    }
    ModelDir::from_bytes(
        file!("config.json"),
        file!("model.safetensors"),
        file!("tokenizer.json"),
        file!("chat_template.jinja"),
        None,
    )
}

#[cfg(not(builtin_tiny_text))]
fn tiny_text() -> Result<ModelDir, EngineError> {
    Err(EngineError::UnknownModel {
        name: "builtin:tiny-text".to_owned(),
        reason: "this build was made without the model's files (datasets/builtin-tiny-text)"
            .to_owned(),
    })
}
