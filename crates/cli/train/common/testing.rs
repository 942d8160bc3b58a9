//! What tests hold every command's config to.

use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A config of the tree loads, is valid, and is saved as what was loaded.
pub(in crate::train) fn holds<T>(file: &str, valid: impl Fn(&T) -> anyhow::Result<()>)
where
    T: DeserializeOwned + Serialize + PartialEq + Debug,
{
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/train").join(file);
    let loaded = savi_run::load::<T>(&path, &[]).unwrap();
    valid(&loaded.value).unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
    let saved = toml::to_string(&loaded.resolved).unwrap();
    assert_eq!(savi_run::load_str::<T>(&saved, &path, &[]).unwrap().value, loaded.value);
}

/// Each text is refused, in words that say what is wrong.
pub(in crate::train) fn refuses<T: DeserializeOwned + Serialize>(
    valid: impl Fn(&T) -> anyhow::Result<()>,
    mistakes: &[(&str, &str)],
) {
    for (text, expected) in mistakes {
        let refused = match savi_run::load_str::<T>(text, Path::new("x.toml"), &[]) {
            Ok(loaded) => valid(&loaded.value).map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        let message = refused.expect_err(text);
        assert!(message.contains(expected), "{message}");
    }
}
