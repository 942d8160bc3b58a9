//! Options of LoRA, with the names and the meaning that they have in PEFT (0.21).

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use savi_nn::layers::LoraInit;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// An adapter's size and options.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The adapter's output is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Everything else.
    pub options: LoraOptions,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { r: 8, lora_alpha: 8.0, options: LoraOptions::default() }
    }
}

/// Options of LoRA besides its size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct LoraOptions {
    /// Share of the adapter's inputs that is dropped in training.
    #[serde(skip_serializing_if = "is_default")]
    pub lora_dropout: f64,
    /// The layers that get an adapter; by default all linear layers.
    #[serde(skip_serializing_if = "is_default")]
    pub target_modules: Option<Modules>,
    /// Layers that get none all the same.
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_modules: Option<Modules>,
    /// Numbers of the only layers that get one; goes with a list of targets.
    #[serde(skip_serializing_if = "is_default")]
    pub layers_to_transform: Option<OneOrMore<usize>>,
    /// Name of what `layers_to_transform` counts, where it is not the first thing with a number.
    #[serde(skip_serializing_if = "is_default")]
    pub layers_pattern: Option<OneOrMore<String>>,
    /// Ranks of their own, by name or regular expression; the first that fits counts.
    #[serde(skip_serializing_if = "is_default")]
    pub rank_pattern: Patterns<usize>,
    /// Likewise `lora_alpha`.
    #[serde(skip_serializing_if = "is_default")]
    pub alpha_pattern: Patterns<f64>,
    /// Scales by `lora_alpha / sqrt(r)` (Kalajdzievski 2023).
    #[serde(skip_serializing_if = "is_default")]
    pub use_rslora: bool,
    /// Which biases train.
    #[serde(skip_serializing_if = "is_default")]
    pub bias: LoraBias,
    /// Modules of which full copies train.
    #[serde(skip_serializing_if = "is_default")]
    pub modules_to_save: Option<Vec<String>>,
    /// How the adapter starts.
    #[serde(skip_serializing_if = "is_default")]
    pub init_lora_weights: InitLoraWeights,
    /// Must be false.
    #[serde(skip_serializing_if = "is_default")]
    pub fan_in_fan_out: bool,
    /// Must be false.
    #[serde(skip_serializing_if = "is_default")]
    pub use_dora: bool,
}

/// Whether a value is what it is by default; such values are not written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Modules by name (whole, or its end after a dot) or by a regular expression for the whole name.
/// As targets, the text `all-linear` means every linear layer but the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// A regular expression, or `all-linear`.
    Text(String),
    /// Names.
    Names(Vec<String>),
}

impl Modules {
    pub(super) fn is_all_linear(&self) -> bool {
        matches!(self, Self::Text(text) if text.eq_ignore_ascii_case("all-linear"))
    }
}

/// One value or a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    /// One.
    One(T),
    /// Several.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    pub(super) fn values(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

/// Values by pattern, in the order in which they were given.
#[derive(Debug, Clone, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (pattern, value) in &self.0 {
            map.serialize_entry(pattern, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("values by pattern")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Patterns(entries))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

/// Which biases an adapter trains: copies of them, so that they are the base's again when it is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    /// None.
    #[default]
    None,
    /// All of the model.
    All,
    /// Those of the layers with an adapter.
    LoraOnly,
}

/// How an adapter starts: `true` or `"gaussian"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(try_from = "BoolOrText", into = "BoolOrText")]
pub struct InitLoraWeights(pub LoraInit);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BoolOrText {
    Bool(bool),
    Text(String),
}

impl TryFrom<BoolOrText> for InitLoraWeights {
    type Error = String;

    fn try_from(given: BoolOrText) -> Result<Self, String> {
        let value = match given {
            BoolOrText::Bool(true) => return Ok(Self(LoraInit::Kaiming)),
            BoolOrText::Text(text) if text == "gaussian" => return Ok(Self(LoraInit::Gaussian)),
            BoolOrText::Bool(false) => "false".to_owned(),
            BoolOrText::Text(text) => text,
        };
        Err(format!("{value} is not supported (supported: true, gaussian)"))
    }
}

impl From<InitLoraWeights> for BoolOrText {
    fn from(init: InitLoraWeights) -> Self {
        match init.0 {
            LoraInit::Kaiming => Self::Bool(true),
            LoraInit::Gaussian => Self::Text("gaussian".to_owned()),
        }
    }
}

impl LoraConfig {
    /// Refuses what cannot be carried out, naming the key. `path` is the file that says so.
    pub fn validate(&self, path: &Path) -> Result<(), ModelError> {
        let ranks = self.options.rank_pattern.0.iter().map(|(_, r)| *r);
        let alphas = self.options.alpha_pattern.0.iter().map(|(_, alpha)| *alpha);
        if ranks.chain([self.r]).any(|r| r == 0) {
            return Err(refused(path, "r", "0", "at least 1"));
        }
        if let Some(alpha) = alphas.chain([self.lora_alpha]).find(|alpha| !alpha.is_finite()) {
            return Err(refused(path, "lora_alpha", alpha, "numbers"));
        }
        self.options.validate(path)
    }
}

impl LoraOptions {
    /// Refuses what cannot be carried out, naming the key. `path` is the file that says so.
    pub fn validate(&self, path: &Path) -> Result<(), ModelError> {
        if !(0.0..1.0).contains(&self.lora_dropout) {
            let supported = "from 0 up, less than 1";
            return Err(refused(path, "lora_dropout", self.lora_dropout, supported));
        }
        for (key, set) in [("fan_in_fan_out", self.fan_in_fan_out), ("use_dora", self.use_dora)] {
            if set {
                return Err(refused(path, key, "true", "false"));
            }
        }
        let list = matches!(self.target_modules, Some(Modules::Names(_)));
        for (key, set) in [
            ("layers_to_transform", self.layers_to_transform.is_some()),
            ("layers_pattern", self.layers_pattern.is_some()),
        ] {
            if set && !list {
                return Err(refused(path, key, "set", "with a list of target_modules"));
            }
        }
        if self.layers_pattern.is_some() && self.layers_to_transform.is_none() {
            return Err(refused(path, "layers_pattern", "set", "with layers_to_transform"));
        }
        Ok(())
    }
}

/// The error of a value that is not supported.
pub(super) fn refused(
    path: &Path,
    key: &str,
    value: impl fmt::Display,
    supported: impl fmt::Display,
) -> ModelError {
    let reason = format!("{key} = {value} is not supported (supported: {supported})");
    ModelError::Malformed { path: path.to_owned(), reason }
}
