//! Asking a model: tokenizer, chat template, media, cached prefixes, batched branching, scoring.
//!
//! [`Engine`] implements [`savi_schema::Generate`] and [`savi_schema::Score`] in this process. A
//! prompt's start up to its last clip is one cached prefix node; every question about the clip,
//! every candidate and every verdict branches from it. Words: a *prefix* is a node of cached keys
//! and values, a *row* is one continuation that is being decoded.
//! The engine knows no training and no method.

mod batch;
mod builtin;
mod clip;
mod constraint;
mod convert;
mod detokenize;
mod engine;
mod error;
mod features;
mod files;
mod fingerprint;
mod gguf;
mod gguf_export;
mod hidden_mean;
mod mask;
mod media;
mod pass;
mod row;
mod sample;
mod sentence;
mod serving;
mod side;
mod template;
pub mod testing;
mod text;
mod train_tokenizer;
mod tree;
mod vocabulary;
mod whole;

pub use clip::ClipEmbedder;
pub use convert::{SaveOptions, convert, convert_to_gguf, merge};
pub use detokenize::{Detokenizer, Passed, StopStrings};
pub use engine::{Branch, Engine, EngineCounts, EngineOptions, Node};
pub use error::EngineError;
pub use features::FeatureFolder;
pub use files::ModelDir;
pub use hidden_mean::HiddenMean;
pub use mask::Masked;
pub use media::{ClipKey, Processor, Shown};
pub use savi_models::{GgmlType, StoredDType};
pub use sentence::SentenceEncoder;
pub use serving::{Serving, ServingOptions};
pub use template::{Chat, ChatTemplate};
pub use text::{Prompt, PromptVisual, TextFiles, TextModel};
pub use train_tokenizer::train_tokenizer;
