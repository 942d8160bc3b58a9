//! What the reference says of all pairs, computed before the first step and kept in the run's folder: a
//! start after a stop asks for the rest alone, other pairs or another model begin anew.

use std::collections::BTreeMap;

use savi_engine::Engine;
use savi_objectives::Totals;
use savi_run::{Key, Progress, Record, Stage};
use savi_schema::{Generate, Pair};
use serde::{Deserialize, Serialize};

use super::part::{Place, Reference, Step};
use crate::steps::in_parts;
use crate::{DpoConfig, TrainError, TrainIo, Tree};

/// The stage's name and that of its folder.
const NAME: &str = "reference";

/// A pair's line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    /// The pair's place: ids of pairs may be there twice.
    place: String,
    /// Its id.
    pair: String,
    chosen: f64,
    rejected: f64,
}

impl Record for Line {
    fn id(&self) -> &str {
        &self.place
    }

    fn unit(&self) -> &str {
        &self.place
    }
}

/// Log-probs of all pairs' answers under the engine's model with its adapter off.
pub(super) fn log_probs(
    engine: &Engine,
    pairs: &[Pair],
    trees: &[Tree],
    config: &DpoConfig,
    io: &TrainIo<'_>,
) -> Result<Vec<Reference>, TrainError> {
    let key = Key::new(NAME)
        .with("model", &engine.fingerprint())
        .with("pairs", pairs)
        .with("ld_alpha", &config.ld_alpha)
        .finish();
    let mut stage: Stage<Line> = Stage::open_in(&io.dir.join(NAME), NAME, &key)?;
    let (totals, settings) = (Totals { pairs: 0.0, chosen_tokens: 0.0 }, config.preference(0.0));
    let asked = Step { engine, pairs, trees, config, settings, totals, step: 0, precomputed: None };
    let places: Vec<String> = (0..pairs.len()).map(|place| format!("{place:09}")).collect();
    let size = config.optim.per_device_train_batch_size;
    let mut progress = Progress::new(NAME, pairs.len() as u64);
    let mut known = Vec::with_capacity(pairs.len());
    for (batch, units) in places.chunks(size).enumerate() {
        if io.interrupt.is_set() {
            return Err(TrainError::Interrupted);
        }
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        let lines = stage.run(&units, |missing| {
            let missing: Vec<Place> = missing.iter().map(|&at| (at, batch * size + at)).collect();
            let told =
                in_parts(engine.model().params(), &missing, size, |part| asked.ask(part))?.concat();
            let line = |(&(_, at), [chosen, rejected]): (&Place, Reference)| {
                let (place, pair) = (places[at].clone(), pairs[at].id.clone());
                vec![Line { place, pair, chosen, rejected }]
            };
            Ok::<_, TrainError>(missing.iter().zip(told).map(line).collect())
        })?;
        known.extend(lines.into_iter().flatten().map(|line| [line.chosen, line.rejected]));
        progress.set(known.len() as u64);
    }
    stage.finish(|_| BTreeMap::new())?;
    progress.finish();
    Ok(known)
}
