//! Model families on [`savi_nn`]: decoders, vision towers, connectors and their assembly, loaded
//! from and saved to Hugging Face directories.
//!
//! This crate turns pictures and frames into pixel tensors and says what stands for them in a prompt;
//! it knows no tokenizer, no chat template and no training loop. A config value that is not
//! supported is refused by name.

#![cfg_attr(test, recursion_limit = "256")]

mod adapter;
mod decoder;
mod dinov2;
mod error;
mod families;
mod files;
mod folder;
mod gguf;
mod intern_vit;
mod internvl;
mod interpolate;
mod llava;
mod look;
mod model;
mod processing;
mod qwen_vl;
mod reader;
mod rope;
mod save;
mod smolvlm;
mod tower;
mod visual;
mod vit;

pub use adapter::{
    InitLoraWeights, LoraBias, LoraConfig, LoraOptions, Modules, OneOrMore, Patterns,
    attach_adapter, merge_adapters, read_adapter, write_adapter,
};
pub use decoder::{Activation, Biases, DecoderConfig, LayerConfig, Projections};
pub use dinov2::Dinov2;
pub use error::ModelError;
pub use files::{ModelFiles, TensorFiles, read_directory, read_gguf};
pub use folder::NewFolder;
pub use gguf::{GgmlType, Gguf, GgufOptions, GgufValue, Metadata, write_gguf};
pub use model::Model;
pub use processing::Processors;
pub use rope::Rope;
pub use save::{
    Entry, MAX_SHARD_SIZE, StoredDType, copy_checkpoint, with_dtype, write_checkpoint, write_model,
    write_safetensors,
};
pub use visual::{Coordinates, Mark, Piece, Pixels, Plan, TokenGrid, Visual, VisualKind};
