//! Typed configs out of TOML: unknown keys are refused with the nearest known one, and `--set`
//! overrides are applied before anything is interpreted.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use toml::{Table, Value};

/// A config that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("config {path}: {reason}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// A key is unknown, missing or holds a value of the wrong kind.
    #[error("config {path}: {}{reason}{}", at(key), hint(nearest))]
    Key {
        /// Which file.
        path: PathBuf,
        /// Dotted name of the place.
        key: String,
        /// What is wrong there.
        reason: String,
        /// The known name that is nearest to an unknown one.
        nearest: Option<String>,
    },
    /// An override that is not `key=value`, or goes through something that is no table.
    #[error("--set {given}: {reason}")]
    Override {
        /// As it was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A config as the program uses it and as it is saved.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The typed config.
    pub value: T,
    /// Every key with its value, defaults and overrides included.
    pub resolved: Table,
    /// The file's name without its extension.
    pub name: String,
}

/// Reads the config of `path`, with `overrides` of the form `a.b=value` applied in order.
pub fn load<T>(path: &Path, overrides: &[String]) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize,
{
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    load_str(&text, path, overrides)
}

/// [`load`] of a text; `path` only names it.
pub fn load_str<T>(text: &str, path: &Path, overrides: &[String]) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize,
{
    let mut table: Table = toml::from_str(text).map_err(|error: toml::de::Error| {
        ConfigError::Syntax { path: path.to_owned(), reason: error.to_string() }
    })?;
    for given in overrides {
        apply(&mut table, given)
            .map_err(|reason| ConfigError::Override { given: given.clone(), reason })?;
    }
    let value: T = serde_path_to_error::deserialize(Value::Table(table))
        .map_err(|error| explain(path, &error.path().to_string(), error.inner().message()))?;
    let resolved = Table::try_from(&value).map_err(|error| ConfigError::Key {
        path: path.to_owned(),
        key: String::new(),
        reason: format!("cannot be written back: {error}"),
        nearest: None,
    })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Loaded { value, resolved, name })
}

/// Sets one dotted key. The value is read as TOML; what is not TOML (a bare word, a path) is text.
fn apply(table: &mut Table, given: &str) -> Result<(), String> {
    let (key, text) = given.split_once('=').ok_or("expected key=value")?;
    let value = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .filter(|parsed| parsed.len() == 1)
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err("the key has an empty part".to_owned());
    }
    let last = parts.pop().unwrap_or_default();
    let mut here = table;
    for part in parts {
        let next = here.entry(part).or_insert_with(|| Value::Table(Table::new()));
        here = next.as_table_mut().ok_or_else(|| format!("`{part}` is not a table"))?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

/// Serde lists the known names in the message of an unknown one; the nearest is picked from there.
fn explain(path: &Path, key: &str, message: &str) -> ConfigError {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let nearest = quoted.next().filter(|_| unknown).and_then(|name| {
        let distance = |known: &&str| strsim::damerau_levenshtein(known, name);
        quoted.min_by_key(distance).map(str::to_owned)
    });
    let reason = match message.split_once(", expected") {
        Some((start, _)) if nearest.is_some() => start.replace("field", "key"),
        _ => message.trim_end().to_owned(),
    };
    let key = if key == "." { String::new() } else { key.to_owned() };
    ConfigError::Key { path: path.to_owned(), key, reason, nearest }
}

fn at(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        seed: u64,
        #[serde(default)]
        train: Train,
    }

    #[derive(Debug, Default, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Train {
        learning_rate: f64,
        kind: Kind,
        words: String,
        size: Option<(u32, u32)>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        Linear,
        Cosine,
    }

    fn check(text: &str, overrides: &[&str]) -> Result<Loaded<Config>, String> {
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        load_str(text, Path::new("configs/small.toml"), &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn overrides_come_before_defaults_and_are_resolved() {
        let overrides = [
            "train.learning_rate=1e-3",
            "seed=7",
            "train.words=runs/a b.toml",
            "train.kind=cosine",
            "train.size=[64, 32]",
        ];
        let loaded = check("seed = 1", &overrides).unwrap();
        let train = Train {
            learning_rate: 1e-3,
            kind: Kind::Cosine,
            words: "runs/a b.toml".to_owned(),
            size: Some((64, 32)),
        };
        assert_eq!(loaded.value, Config { seed: 7, train });
        assert_eq!(loaded.name, "small");
        let text = toml::to_string(&loaded.resolved).unwrap();
        assert_eq!(check(&text, &[]).unwrap().value, loaded.value);
    }

    #[test]
    fn mistakes_name_file_key_and_the_nearest_known_key() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            (
                "seed = 1\n[train]\nlearning_rte = 1.0",
                &[],
                &["configs/small.toml", "train", "`learning_rte`", "`learning_rate`?"],
            ),
            ("sead = 1", &[], &["unknown key `sead`", "did you mean `seed`?"]),
            ("seed = 1\ntrain.kind = 'cosin'", &[], &["train.kind", "`cosin`", "`cosine`?"]),
            ("seed = 'x'", &[], &["seed", "invalid type", "u64"]),
            ("", &[], &["missing field `seed`"]),
            ("seed = ", &[], &["configs/small.toml", "line 1"]),
            ("seed = 1", &["seed.x=1"], &["--set seed.x=1", "`seed` is not a table"]),
        ];
        for (text, overrides, expected) in cases {
            let message = check(text, overrides).unwrap_err();
            for words in expected {
                assert!(message.contains(words), "{message:?} lacks {words:?}");
            }
        }
        assert!(check("seed = 1", &["seed"]).unwrap_err().contains("key=value"));
    }

    #[test]
    fn maps_with_numbers_for_keys_are_read() {
        let text = "logit_bias = { 5 = -1.5, \"70\" = 2.0 }\nngram_penalties = { 2 = 0.5 }";
        let read = |text: &str| {
            let loaded = load_str::<savi_schema::Sampling>(text, Path::new("s.toml"), &[]);
            loaded.map(|loaded| loaded.value).map_err(|error| error.to_string())
        };
        let sampling = read(text).unwrap();
        assert_eq!(sampling.logit_bias, [(5, -1.5), (70, 2.0)].into());
        assert_eq!(sampling.ngram_penalties, [(2, 0.5)].into());
        let refused = read("logit_bias = { five = 1.0 }").unwrap_err();
        assert!(refused.contains("\"five\" is no number"), "{refused}");
    }
}
