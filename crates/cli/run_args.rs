//! What every command takes that makes one complete run of one config.

use std::path::{Path, PathBuf};

use savi_run::{FolderOptions, Loaded, RunFolder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::BadInput;

/// Where a run computes unless its config says it.
pub(crate) fn auto() -> String {
    "auto".to_owned()
}

/// What it computes in.
pub(crate) fn f32() -> String {
    "f32".to_owned()
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RunArgs {
    /// The config: one TOML file is one complete run.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Override a key of the config: key.sub=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The run folder [default: runs/NAME, NAME being the config's].
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Discard what an earlier run left in the run folder.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N. Short for --set device=...
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// What to compute in: f32 or bf16. Short for --set dtype=...
    #[arg(long, value_name = "DTYPE")]
    pub(crate) dtype: Option<String>,
}

impl RunArgs {
    /// Reads the config with the arguments' overrides.
    pub(crate) fn load<T: DeserializeOwned + Serialize>(&self) -> anyhow::Result<Loaded<T>> {
        let mut overrides = self.set.clone();
        for (key, value) in [("device", &self.device), ("dtype", &self.dtype)] {
            overrides.extend(value.iter().map(|value| format!("{key}={value}")));
        }
        savi_run::load(&self.config, &overrides).map_err(|error| BadInput(error.into()).into())
    }

    /// The run folder.
    pub(crate) fn dir<T>(&self, loaded: &Loaded<T>) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(&loaded.name))
    }

    /// Opens the run folder for `command`.
    pub(crate) fn open_folder<T>(
        &self,
        command: &str,
        loaded: &Loaded<T>,
        seed: u64,
        (device, dtype): (&str, &str),
    ) -> anyhow::Result<RunFolder> {
        let options = FolderOptions {
            command: command.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fresh: self.fresh,
            seed,
            device: device.to_owned(),
            dtype: dtype.to_owned(),
        };
        let folder = RunFolder::open(&self.dir(loaded), &loaded.resolved, &options);
        folder.map_err(|error| match error.is_bad_input() {
            true => BadInput(error.into()).into(),
            false => error.into(),
        })
    }
}
