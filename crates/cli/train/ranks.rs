//! Processes that train together: who speaks, and how they end.

use std::time::Duration;

use anyhow::Context;
use savi_train::Ranks;

use crate::exit;

/// How long the first rank has to say what is wrong before another one says it: most faults are found by all.
const FIRST: Duration = Duration::from_secs(2);

/// Runs `train` as one of the ranks that a launcher has started, or alone. The first rank alone tells how it goes. A
/// rank that fails says why and ends the others.
pub(super) fn together(train: impl FnOnce(&Ranks) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let ranks = start()?;
    let ranks = ranks.as_ref().unwrap_or(Ranks::alone());
    if !ranks.is_first() {
        exit::be_quiet();
    }
    let result = train(ranks);
    match result {
        Err(error) if !ranks.is_alone() && !exit::is_interrupted(&error) => {
            if !ranks.is_first() {
                std::thread::sleep(FIRST);
            }
            let result = Err(error).with_context(|| format!("rank {}", ranks.rank()));
            if let Err(error) = &result {
                ranks.abort(exit::tell(error).into());
            }
            result
        }
        result => result,
    }
}

/// The ranks that a launcher has started, if any.
#[cfg(feature = "mpi")]
fn start() -> anyhow::Result<Option<Ranks>> {
    Ok(Ranks::mpi()?)
}

#[cfg(not(feature = "mpi"))]
fn start() -> anyhow::Result<Option<Ranks>> {
    let started = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"].into_iter().find(|name| {
        let value = std::env::var(name).unwrap_or_default();
        value.parse().is_ok_and(|ranks: u64| ranks > 1)
    });
    match started {
        Some(name) => {
            let message = format!(
                "{name} says that several ranks were started, and this program trains as one: \
                 build it with --features mpi"
            );
            Err(exit::BadInput(anyhow::anyhow!(message)).into())
        }
        None => Ok(None),
    }
}
