//! The border between methods that learn in rounds and whoever does the learning.
//!
//! A method hands the material of a round to a [`Learner`]; [`teach`] keeps it beside the round's checkpoints, so that
//! a run that is started again takes up what was learnt, and learns anew what rests on other material.
//! [`EngineLearner`] is the model of this process; tests have learners of their own.

use std::fs;
use std::path::Path;

use savi_data::{DataError, PairFormat, RowWriter, write_pairs};
use savi_engine::{Engine, EngineError};
use savi_run::{Interrupt, Key, Metrics, RunError, RunFolder, write_atomic};
use savi_schema::{Demonstration, Example, Generate, Pair, Part, Score};
use serde_json::json;

use crate::{DpoConfig, Ranks, SftConfig, TrainError, TrainIo};

/// A model that can be asked and taught.
pub trait Learner {
    /// The model as it is now: the base with all rounds learnt so far.
    fn generator(&self) -> &dyn Generate;

    /// The same, asked how likely it finds given words.
    fn scorer(&self) -> &dyn Score;

    /// Names everything that learning depends on besides the material (its config, say).
    fn key(&self) -> String;

    /// Learns one round. Called again with the same folder it continues where it was, and where it
    /// had finished it only takes up the result.
    fn learn(&mut self, material: Material<'_>, at: &Training<'_>) -> Result<Learnt, LearnError>;

    /// Forgets what was learnt: the model is the base again.
    fn restart(&mut self) -> Result<(), LearnError>;
}

/// What is learnt.
#[derive(Debug, Clone, Copy)]
pub enum Material<'a> {
    /// Preferences, by DPO and its kin.
    Pairs(&'a [Pair]),
    /// Conversations, by supervised fine-tuning.
    Examples(&'a [Example]),
    /// Whatever supervised fine-tuning takes.
    Demonstrations(&'a [Demonstration]),
}

impl Material<'_> {
    fn key(&self) -> Key {
        match self {
            Self::Pairs(pairs) => Key::new("learn").with("pairs", pairs),
            Self::Examples(examples) => Key::new("learn").with("examples", examples),
            Self::Demonstrations(shown) => Key::new("learn").with("demonstrations", shown),
        }
    }

    /// Writes `pairs.jsonl` (and the same pairs for other trainers), `examples.jsonl` or `demonstrations.jsonl`.
    fn write(&self, dir: &Path) -> Result<(), DataError> {
        match self {
            Self::Examples(examples) => write_rows(&dir.join("examples.jsonl"), examples),
            Self::Demonstrations(shown) => write_rows(&dir.join("demonstrations.jsonl"), shown),
            Self::Pairs(pairs) => {
                write_pairs(&dir.join("pairs.jsonl"), pairs, PairFormat::Savi)?;
                // The other layouts are those of trainers that learn from clips.
                let shows = |part: &Part| matches!(part, Part::Video(_));
                if !pairs.iter().flat_map(|p| &p.prompt).flat_map(|t| &t.content).any(shows) {
                    return Ok(());
                }
                for (name, format) in [
                    ("pairs.llava-hound.jsonl", PairFormat::LlavaHound),
                    ("pairs.ms-swift.jsonl", PairFormat::MsSwift),
                ] {
                    // What another layout cannot say is no reason to stop.
                    if let Err(error) = write_pairs(&dir.join(name), pairs, format) {
                        tracing::warn!("{name} is left out: {error}");
                    }
                }
                Ok(())
            }
        }
    }
}

fn write_rows<T: serde::Serialize>(path: &Path, records: &[T]) -> Result<(), DataError> {
    let mut rows = RowWriter::create(path)?;
    records.iter().try_for_each(|record| rows.write(record))?;
    rows.finish().map(drop)
}

/// Where and under what a round is learnt.
#[derive(Debug)]
pub struct Training<'a> {
    /// Which round, from 1.
    pub round: u32,
    /// The round's own folder for checkpoints.
    pub dir: &'a Path,
    /// Where figures go; steps count from 1 in each round.
    pub metrics: &'a Metrics,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

/// What learning a round took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learnt {
    /// Steps of the optimiser.
    pub steps: u64,
}

/// Why a round was not learnt.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// It was asked to stop; its state is saved.
    #[error("interrupted")]
    Interrupted,
    /// The run folder failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The material could not be written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It failed.
    #[error(transparent)]
    Failed(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Where a method's rounds are learnt.
#[derive(Debug, Clone, Copy)]
pub struct Rounds<'a> {
    /// The run folder.
    pub folder: &'a RunFolder,
    /// Its metrics.
    pub metrics: &'a Metrics,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

/// Teaches the material of a round, and keeps it in `checkpoints/round-N`. `steps_before` steps were made by the rounds
/// before.
pub fn teach(
    learner: &mut dyn Learner,
    material: Material<'_>,
    round: u32,
    steps_before: u64,
    at: &Rounds<'_>,
) -> Result<Learnt, LearnError> {
    let dir = at.folder.path("checkpoints").join(format!("round-{round}"));
    let model = learner.generator().fingerprint();
    let key = material.key().with("model", &model).with("learner", &learner.key()).finish();
    let key_path = dir.join("key");
    // Whatever lies there without a key is of a run that was killed while it cleaned up.
    let before = fs::read_to_string(&key_path).ok();
    if before.is_some_and(|before| before != key) || (!key_path.exists() && dir.exists()) {
        tracing::warn!("round {round} is learnt again: what it depends on has changed");
        let io = |source| RunError::Io { path: dir.clone(), source };
        fs::remove_dir_all(&dir).map_err(io)?;
        at.metrics.cut_after(steps_before)?;
    }
    material.write(&dir)?;
    write_atomic(&key_path, key.as_bytes())?;
    at.interrupt.check().map_err(|_| LearnError::Interrupted)?;
    let extra = [("round".to_owned(), json!(round))].into_iter().collect();
    let metrics = at.metrics.scoped(steps_before, extra);
    let training = Training { round, dir: &dir, metrics: &metrics, interrupt: at.interrupt };
    learner.learn(material, &training)
}

/// A model in this process that learns by DPO or supervised fine-tuning.
pub struct EngineLearner {
    engine: Engine,
    load: Box<dyn Fn() -> Result<Engine, EngineError>>,
    dpo: DpoConfig,
    sft: SftConfig,
    /// Whether pairs are learnt against the base, and not against the model that a round begins with.
    against_base: bool,
    /// Learning rates of the rounds; the last one stays.
    rates: Vec<f64>,
}

impl EngineLearner {
    /// Loads the base. Training draws its order and fresh weights from the run's seed and its own.
    pub fn new(
        load: impl Fn() -> Result<Engine, EngineError> + 'static,
        dpo: &DpoConfig,
        sft: &SftConfig,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let (mut dpo, mut sft) = (dpo.clone(), sft.clone());
        dpo.optim.seed = dpo.optim.seed.wrapping_add(seed);
        sft.optim.seed = sft.optim.seed.wrapping_add(seed);
        let (against_base, rates) = (false, Vec::new());
        Ok(Self { engine: load()?, load: Box::new(load), dpo, sft, against_base, rates })
    }

    /// Learns pairs against the base in every round. It is loaded once more while a round is learnt.
    #[must_use]
    pub fn against_base(mut self) -> Self {
        self.against_base = true;
        self
    }

    /// Gives each round a learning rate of its own, in place of the configs'; the last one is that of all rounds after it.
    #[must_use]
    pub fn with_rates(mut self, rates: &[f64]) -> Self {
        self.rates = rates.to_vec();
        self
    }

    /// The model as it is.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Learner for EngineLearner {
    fn generator(&self) -> &dyn Generate {
        &self.engine
    }

    fn scorer(&self) -> &dyn Score {
        &self.engine
    }

    fn key(&self) -> String {
        let key = Key::new("learner").with("dpo", &self.dpo).with("sft", &self.sft);
        // What is usual is not part of it, so that what was learnt before these were there is still known.
        let key = if self.against_base { key.with("against", "base") } else { key };
        let key = if self.rates.is_empty() { key } else { key.with("rates", &self.rates) };
        key.finish()
    }

    /// Each round trains another fresh adapter on records in another order.
    fn learn(&mut self, material: Material<'_>, at: &Training<'_>) -> Result<Learnt, LearnError> {
        let io = TrainIo {
            dir: at.dir,
            metrics: at.metrics,
            interrupt: at.interrupt,
            ranks: Ranks::alone(),
        };
        let (mut dpo, mut sft) = (self.dpo.clone(), self.sft.clone());
        for seed in [&mut dpo.optim.seed, &mut sft.optim.seed] {
            *seed = seed.wrapping_add(u64::from(at.round) << 32);
        }
        let place = (at.round.max(1) as usize - 1).min(self.rates.len().saturating_sub(1));
        if let Some(&rate) = self.rates.get(place) {
            (dpo.optim.learning_rate, sft.optim.learning_rate) = (rate, rate);
        }
        let engine = &mut self.engine;
        let summary = match material {
            Material::Pairs(pairs) if self.against_base => (self.load)()
                .map_err(TrainError::from)
                .and_then(|base| crate::dpo_against(engine, &base, pairs, &dpo, &io)),
            Material::Pairs(pairs) => crate::dpo(engine, pairs, &dpo, &io),
            Material::Examples(examples) => crate::sft(engine, examples, &sft, &io),
            Material::Demonstrations(shown) => {
                crate::sft_demonstrations(engine, shown, &[], &sft, &io)
            }
        };
        match summary {
            Ok(summary) => Ok(Learnt { steps: summary.steps }),
            Err(TrainError::Interrupted) => Err(LearnError::Interrupted),
            Err(error) => Err(LearnError::Failed(Box::new(error))),
        }
    }

    fn restart(&mut self) -> Result<(), LearnError> {
        self.engine = (self.load)().map_err(|error| LearnError::Failed(Box::new(error)))?;
        Ok(())
    }
}
