//! Stopping on request, with the state saved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

/// The user asked the run to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A flag that Ctrl-C or a termination signal sets. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// A flag that no signal sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag that Ctrl-C, SIGTERM or SIGHUP sets. The second signal ends the process at once with
    /// status 130; whatever was flushed by then is where the next run continues.
    pub fn on_signals() -> Result<Self, ctrlc::Error> {
        let interrupt = Self::new();
        let flag = interrupt.clone();
        ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            tracing::warn!("stopping after the current step; press Ctrl-C again to stop at once");
        })?;
        Ok(interrupt)
    }

    /// Sets the flag.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The flag itself, for those who know no runs.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// An error once the flag is set: call it wherever stopping loses nothing.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_flag() {
        let interrupt = Interrupt::new();
        let other = interrupt.clone();
        assert_eq!(other.check(), Ok(()));
        interrupt.set();
        assert_eq!(other.check(), Err(Interrupted));
    }
}
