//! The weights of a running engine, and the adapters on them: whatever changes them changes the
//! engine's fingerprint and empties its caches.

use std::path::Path;

use savi_models::{merge_adapters, read_adapter};

use super::Engine;
use crate::{EngineError, fingerprint};

impl Engine {
    /// Must be called after the weights were changed, or another adapter switched on: forgets what was
    /// computed with the old ones and names the new ones.
    pub fn weights_changed(&mut self) -> Result<(), EngineError> {
        self.tree.clear();
        self.features.clear();
        self.tower = match self.features.keeps() {
            true => Some(fingerprint::of_tower(&self.model, &self.processors)?),
            false => None,
        };
        self.fingerprint = fingerprint::of(&self.model, &self.files)?;
        Ok(())
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
