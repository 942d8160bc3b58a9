//! The weights of a running engine, and the adapters on them: whatever changes them changes the
//! engine's fingerprint and empties its caches.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use savi_models::{merge_adapters, read_adapter};

use super::Engine;
use crate::{EngineError, fingerprint};

impl Engine {
    /// Must be called after the weights were changed, or another adapter switched on: forgets what was
    /// computed with the old ones.
    pub fn weights_changed(&mut self) -> Result<(), EngineError> {
        self.decoder_changed();
        self.features.clear();
        self.tower = match self.features.keeps() {
            true => Some(fingerprint::of_tower(&self.model, &self.processors)?),
            false => None,
        };
        Ok(())
    }

    /// As [`weights_changed`](Self::weights_changed) where what sees is as it was: visual tokens stay, and no weight
    /// is read. The fingerprint is made when somebody asks for it.
    pub fn decoder_changed(&mut self) {
        self.tree.clear();
        self.fingerprint = OnceLock::new();
    }

    /// Names the weights as they are.
    pub(super) fn fingerprint_now(&self) -> String {
        let made = || {
            fingerprint::of(&self.model, &self.files).unwrap_or_else(|error| {
                // A name that no other model has: nothing is mixed with it.
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                tracing::error!("the model's fingerprint: {error}");
                format!("unknown-{}", at.as_nanos())
            })
        };
        self.fingerprint.get_or_init(made).clone()
    }

    /// Attaches a PEFT adapter under a name and makes it the active one.
    pub fn attach_adapter(&mut self, name: &str, dir: &Path) -> Result<(), EngineError> {
        read_adapter(&self.model, name, dir)?;
        self.weights_changed()
    }

    /// Switches to another attached adapter, or to none.
    pub fn switch_adapter(&mut self, name: Option<&str>) -> Result<(), EngineError> {
        self.model.params().set_active_adapter(name)?;
        self.weights_changed()
    }

    /// Adds a PEFT adapter to the weights.
    pub fn merge_adapter(&mut self, dir: &Path) -> Result<(), EngineError> {
        let before = self.model.params().active_adapter();
        let name = "to be merged";
        read_adapter(&self.model, name, dir)?;
        if let Err(error) = self.model.params().check_mergeable(name) {
            self.model.params().remove_adapter(name)?;
            self.model.params().set_active_adapter(before.as_deref())?;
            return Err(error.into());
        }
        self.merge_attached()
    }

    /// Adds the active adapter to the weights and removes all adapters.
    pub fn merge_attached(&mut self) -> Result<(), EngineError> {
        merge_adapters(self.model.params())?;
        self.weights_changed()
    }
}
