//! Models made of models: another type of values, another format, adapters added to the weights.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use savi_models::{
    GgmlType, GgufOptions, MAX_SHARD_SIZE, Model, ModelFiles, NewFolder, StoredDType,
    copy_checkpoint, merge_adapters, read_adapter, read_directory, with_dtype, write_gguf,
    write_model,
};
use savi_nn::Weights;
use serde_json::Value;

use crate::files::ModelDir;
use crate::side::{self, SideFiles};
use crate::{EngineError, gguf_export};

/// How a Hugging Face directory is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveOptions {
    /// How floats are stored; as they are where there is none.
    pub dtype: Option<StoredDType>,
    /// Bytes of a shard at most.
    pub max_shard_size: u64,
    /// Whether a model that is there already is replaced.
    pub overwrite: bool,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { dtype: None, max_shard_size: MAX_SHARD_SIZE, overwrite: false }
    }
}

impl From<StoredDType> for SaveOptions {
    /// A model that a run writes: it replaces what an earlier start of the run wrote.
    fn from(dtype: StoredDType) -> Self {
        Self { dtype: Some(dtype), overwrite: true, ..Self::default() }
    }
}

/// A model that is read, and the files beside it.
struct Source {
    files: ModelFiles,
    side: SideFiles,
}

impl Source {
    /// Finds a model. A directory needs no tokenizer that we can read: its files are copied.
    fn find(name: &str, out: &Path) -> Result<Self, EngineError> {
        let path = Path::new(name);
        let apart = |path: &Path| -> bool {
            match (fs::canonicalize(path), fs::canonicalize(out)) {
                (Ok(source), Ok(out)) => !source.starts_with(out),
                _ => true,
            }
        };
        if !apart(path) {
            let reason = format!("would be replaced while {name} is read");
            return Err(EngineError::Malformed { file: out.display().to_string(), reason });
        }
        if path.is_dir() {
            let files = read_directory(path)?;
            let side = side::read(path, &files.config)?;
            return Ok(Self { files, side });
        }
        let dir = ModelDir::find(name)?;
        let side = dir.side_files();
        Ok(Self { files: dir.files, side })
    }
}

/// Writes the model `name` as a Hugging Face directory, tensor by tensor; floats become another type
/// where one is given.
pub fn convert(name: &str, out: &Path, options: &SaveOptions) -> Result<(), EngineError> {
    let folder = NewFolder::begin(out, options.overwrite)?;
    let Source { files, side } = Source::find(name, out)?;
    plain(&files.config)?;
    copy_checkpoint(&folder, &files.tensors, options.dtype, options.max_shard_size)?;
    // What was quantised is f32 now.
    let quantised = files.tensors.dequantised().then_some(StoredDType::F32);
    finish(folder, &files.config, options.dtype.or(quantised), &side)
}

/// Writes the model `name` as a GGUF file; matrices are stored as they were where `kind` is none.
pub fn convert_to_gguf(
    name: &str,
    out: &Path,
    kind: Option<GgmlType>,
    overwrite: bool,
) -> Result<(), EngineError> {
    let refused =
        |reason: String| EngineError::Malformed { file: out.display().to_string(), reason };
    if out.is_dir() {
        return Err(refused("is a folder".to_owned()));
    }
    if out.symlink_metadata().is_ok() && !overwrite {
        return Err(refused("exists already; it is replaced only with --overwrite".to_owned()));
    }
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent)
            .map_err(|source| EngineError::Io { path: parent.to_owned(), source })?;
    }
    let same = |a: &Path, b: &Path| {
        fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
    };
    if same(Path::new(name), out) {
        return Err(refused(format!("would be replaced while {name} is read")));
    }
    let dir = ModelDir::find(name)?;
    plain(&dir.files.config)?;
    let vocab = Model::decoder_config(&dir.files.config)?.vocab_size;
    let metadata = gguf_export::metadata(&dir.text, vocab)?;
    let kind = kind.unwrap_or(match dir.files.tensors.stored_dtype() {
        Some(StoredDType::BF16) => GgmlType::BF16,
        Some(StoredDType::F16) => GgmlType::F16,
        _ => GgmlType::F32,
    });
    Ok(write_gguf(out, &dir.files, &GgufOptions { kind, metadata })?)
}

/// Adds PEFT adapters to the weights of the model `base`, in order, and writes the result as a Hugging
/// Face directory.
pub fn merge(
    base: &str,
    adapters: &[PathBuf],
    out: &Path,
    options: &SaveOptions,
) -> Result<(), EngineError> {
    let folder = NewFolder::begin(out, options.overwrite)?;
    let Source { files, side } = Source::find(base, out)?;
    plain(&files.config)?;
    let dtype = options.dtype.or(files.tensors.stored_dtype()).unwrap_or(StoredDType::F32);
    let ModelFiles { config, processors, tensors } = files;
    let weights = Weights::Checkpoint(Box::new(tensors));
    let model = Model::new(&config, &processors, weights, DType::F32, &Device::Cpu)?;
    for adapter in adapters {
        let name = "to be merged";
        read_adapter(&model, name, adapter)?;
        model.params().check_mergeable(name)?;
        merge_adapters(model.params())?;
    }
    write_model(&folder, &model, dtype, options.max_shard_size)?;
    finish(folder, &config, Some(dtype), &side)
}

/// Writes a model that runs.
pub(crate) fn save(
    model: &Model,
    side: &SideFiles,
    out: &Path,
    options: &SaveOptions,
) -> Result<(), EngineError> {
    let folder = NewFolder::begin(out, options.overwrite)?;
    let dtype = options.dtype.unwrap_or(StoredDType::F32);
    write_model(&folder, model, dtype, options.max_shard_size)?;
    finish(folder, model.raw_config(), Some(dtype), side)
}

fn finish(
    folder: NewFolder,
    config: &Value,
    dtype: Option<StoredDType>,
    side: &SideFiles,
) -> Result<(), EngineError> {
    let config = match dtype {
        Some(dtype) => with_dtype(config, dtype),
        None => config.clone(),
    };
    folder.write("config.json", &serde_json::to_vec_pretty(&config).unwrap_or_default())?;
    for (name, bytes) in side {
        folder.write(name, bytes)?;
    }
    Ok(folder.finish()?)
}

/// Refuses packed weights: their values are not what a model computes with.
fn plain(config: &Value) -> Result<(), EngineError> {
    match config.get("quantization_config").filter(|value| !value.is_null()) {
        None => Ok(()),
        Some(value) => Err(EngineError::Model(savi_models::ModelError::Unsupported {
            key: "quantization_config".to_owned(),
            value: value.to_string(),
            supported: "null".to_owned(),
        })),
    }
}
