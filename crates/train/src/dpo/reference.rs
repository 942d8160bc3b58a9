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
    let (totals, settings) = (Totals { pairs: 0.0, chosen_tokens: 0.0 }, config.preference(0.0));
    let step = Step { engine, pairs, trees, config, settings, totals, step: 0, precomputed: None };
    let asked = Asked { step, io };
    if !io.ranks.is_first() {
        while let Some(places) = asked.agree(None)? {
            asked.share(&places)?;
        }
        return asked.spread(Vec::new());
    }
    let key = Key::new(NAME)
        .with("model", &engine.fingerprint())
        .with("pairs", pairs)
        .with("ld_alpha", &config.ld_alpha)
        .finish();
    let mut stage: Stage<Line> = Stage::open_in(&io.dir.join(NAME), NAME, &key)?;
    let names: Vec<String> = (0..pairs.len()).map(|place| format!("{place:09}")).collect();
    let size = config.optim.per_device_train_batch_size;
    let mut progress = Progress::new(NAME, pairs.len() as u64);
    let mut known = Vec::with_capacity(pairs.len());
    for (batch, units) in names.chunks(size).enumerate() {
        let missing = (0..units.len()).filter(|&at| !stage.has(&units[at]));
        let missing: Vec<usize> = missing.map(|at| batch * size + at).collect();
        asked.agree(Some(&missing))?;
        let told = asked.share(&missing)?;
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        let lines = stage.run(&units, |_| {
            let line = |(&at, [chosen, rejected]): (&usize, Reference)| {
                let (place, pair) = (names[at].clone(), pairs[at].id.clone());
                vec![Line { place, pair, chosen, rejected }]
            };
            Ok::<_, TrainError>(missing.iter().zip(told).map(line).collect())
        })?;
        known.extend(lines.into_iter().flatten().map(|line| [line.chosen, line.rejected]));
        progress.set(known.len() as u64);
    }
    asked.agree(None)?;
    stage.finish(|_| BTreeMap::new())?;
    progress.finish();
    asked.spread(known)
}

/// The reference, asked by all ranks together; the first one says for which pairs, and keeps what is told.
struct Asked<'a> {
    step: Step<'a>,
    io: &'a TrainIo<'a>,
}

impl Asked<'_> {
    /// The places of the pairs that are asked for next, as the first rank says; none at the end.
    fn agree(&self, places: Option<&[usize]>) -> Result<Option<Vec<usize>>, TrainError> {
        let ranks = self.io.ranks;
        if ranks.any(self.io.interrupt.is_set())? {
            return Err(TrainError::Interrupted);
        }
        Ok(ranks.gather(places.map(<[usize]>::to_vec))?.swap_remove(0))
    }

    /// What the reference says of these pairs, each rank having asked for some.
    fn share(&self, places: &[usize]) -> Result<Vec<Reference>, TrainError> {
        let (ranks, step) = (self.io.ranks, &self.step);
        let own: Vec<Place> =
            places[ranks.share(places.len())].iter().map(|&place| (0, place)).collect();
        let size = step.config.optim.per_device_train_batch_size.div_ceil(ranks.size());
        let told = in_parts(step.engine.model().params(), &own, size, |part| step.ask(part))?;
        let all = ranks.numbers(told.concat().as_flattened())?.concat();
        Ok(all.as_chunks().0.to_vec())
    }

    /// What the first rank knows, on all of them.
    fn spread(&self, known: Vec<Reference>) -> Result<Vec<Reference>, TrainError> {
        let ranks = self.io.ranks;
        if ranks.is_alone() {
            return Ok(known);
        }
        let told = ranks.numbers(known.as_flattened())?.swap_remove(0);
        Ok(told.as_chunks().0.to_vec())
    }
}
