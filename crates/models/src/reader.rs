//! Reading a `config.json` key by key: what is not read is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ModelError;

/// Keys of any config that do not change what a forward pass computes; older files have all defaults of
/// `generate` among them.
const METADATA: &[&str] = &[
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// Larger sizes are refused: products of two stay far from an overflow.
const LARGEST: usize = 1 << 31;

/// An object of a config. Every key has to be read before [`Reader::finish`], by which no setting of
/// a checkpoint is ever passed over in silence.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    file: &'static str,
    path: String,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    /// The config itself.
    pub(crate) fn new(value: &'a Value) -> Result<Self, ModelError> {
        Self::of_file("config.json", value)
    }

    /// The object of another file.
    pub(crate) fn of_file(file: &'static str, value: &'a Value) -> Result<Self, ModelError> {
        Self::at(file, String::new(), value)
    }

    fn at(file: &'static str, path: String, value: &'a Value) -> Result<Self, ModelError> {
        let Some(map) = value.as_object() else {
            let what = if path.is_empty() { "what it holds" } else { &path };
            return Err(malformed(file, format!("{what} is not an object")));
        };
        Ok(Self { file, path, map, read: RefCell::default() })
    }

    /// The full name of a key, as errors give it.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An object within, if it is there.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, ModelError> {
        self.value(key).map(|value| Self::at(self.file, self.name(key), value)).transpose()
    }

    /// A value; null is none.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        // Python writes whole numbers with and without a point.
        let whole = value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15);
        let parsed = serde_json::from_value(value.clone()).or_else(|error| match whole {
            Some(x) => serde_json::from_value(Value::from(x as i64)).map_err(|_| error),
            None => Err(error),
        });
        parsed.map(Some).map_err(|e| malformed(self.file, format!("{}: {e}", self.name(key))))
    }

    /// A value that the family needs.
    pub(crate) fn require<T: DeserializeOwned>(&self, key: &str) -> Result<T, ModelError> {
        let missing = || malformed(self.file, format!("{} is missing", self.name(key)));
        self.get(key)?.ok_or_else(missing)
    }

    /// A size that must be at least 1; `default` where it is absent.
    pub(crate) fn size(&self, key: &str, default: Option<usize>) -> Result<usize, ModelError> {
        let size: usize = match default {
            Some(default) => self.get(key)?.unwrap_or(default),
            None => self.require(key)?,
        };
        if size == 0 {
            return Err(self.unsupported(key, "0", "at least 1"));
        }
        if size > LARGEST {
            return Err(self.unsupported(key, size, format!("at most {LARGEST}")));
        }
        Ok(size)
    }

    /// A positive number.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.get::<f64>(key)? {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(self.unsupported(key, x, "positive numbers"))
            }
            other => Ok(other),
        }
    }

    /// A positive number; `default` where the key is absent, none where it is null.
    pub(crate) fn or_null(&self, key: &str, default: f64) -> Result<Option<f64>, ModelError> {
        if self.map.contains_key(key) { self.positive(key) } else { Ok(Some(default)) }
    }

    /// The size of an attention window; `default` where the key is absent, none where it is null.
    pub(crate) fn window(&self, key: &str, default: usize) -> Result<Option<usize>, ModelError> {
        if !self.map.contains_key(key) {
            return Ok(Some(default));
        }
        match self.get::<usize>(key)? {
            Some(0) => Err(self.unsupported(key, 0, "at least 1, or null")),
            other => Ok(other),
        }
    }

    /// Refuses any value but this one (or none).
    pub(crate) fn only<T>(&self, key: &str, supported: T) -> Result<(), ModelError>
    where
        T: DeserializeOwned + PartialEq + Debug,
    {
        match self.get::<T>(key)? {
            Some(value) if value != supported => {
                Err(self.unsupported(key, format!("{value:?}"), format!("{supported:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses any value at all.
    pub(crate) fn never(&self, key: &str) -> Result<(), ModelError> {
        match self.value(key) {
            None => Ok(()),
            Some(value) => Err(self.unsupported(key, value, "null")),
        }
    }

    /// Keys that change nothing that is computed here.
    pub(crate) fn ignore(&self, keys: &[&str]) {
        self.read.borrow_mut().extend(keys.iter().map(|&key| key.to_owned()));
    }

    /// Keys with the values that they have in `other`, which is the one that counts.
    pub(crate) fn repeats(&self, other: &Self) {
        let same = self.map.iter().filter(|(key, value)| other.map.get(*key) == Some(value));
        self.read.borrow_mut().extend(same.map(|(key, _)| key.clone()));
    }

    /// The error of a value that is not supported.
    pub(crate) fn unsupported(
        &self,
        key: &str,
        value: impl std::fmt::Display,
        supported: impl std::fmt::Display,
    ) -> ModelError {
        ModelError::Unsupported {
            key: format!("{}: {}", self.file, self.name(key)),
            value: value.to_string(),
            supported: supported.to_string(),
        }
    }

    /// Refuses every key that nobody has read and that means something.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        let read = self.read.borrow();
        for (key, value) in self.map {
            let known = read.contains(key) || METADATA.contains(&key.as_str());
            let says = !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty());
            if !known && !key.starts_with('_') && says {
                return Err(self.unsupported(key, value, "not to be set: the key is unknown here"));
            }
        }
        Ok(())
    }
}

fn malformed(file: &str, reason: String) -> ModelError {
    ModelError::Malformed { path: file.into(), reason }
}
