//! The engine and the trainers as the method's learner.

use savi_engine::Engine;
use savi_schema::Generate;
use savi_train::{DpoConfig, Ranks, SftConfig, TrainError, TrainIo};
use savi_videosavi::{LearnError, Learner, Learnt, Material, Training};

use super::config::RunConfig;

/// A model in this process that learns by DPO or supervised fine-tuning.
pub(crate) struct EngineLearner {
    engine: Engine,
    dpo: DpoConfig,
    sft: SftConfig,
}

impl EngineLearner {
    /// Training draws its order and fresh weights from the run's seed and its own.
    pub(crate) fn new(engine: Engine, config: &RunConfig) -> Self {
        let (mut dpo, mut sft) = (config.dpo.clone(), config.sft.clone());
        dpo.optim.seed = dpo.optim.seed.wrapping_add(config.seed);
        sft.optim.seed = sft.optim.seed.wrapping_add(config.seed);
        Self { engine, dpo, sft }
    }
}

impl Learner for EngineLearner {
    fn generator(&self) -> &dyn Generate {
        &self.engine
    }

    fn key(&self) -> String {
        savi_run::Key::new("learner").with("dpo", &self.dpo).with("sft", &self.sft).finish()
    }

    fn learn(&mut self, material: Material<'_>, at: &Training<'_>) -> Result<Learnt, LearnError> {
        let io = TrainIo {
            dir: at.dir,
            metrics: at.metrics,
            interrupt: at.interrupt,
            ranks: Ranks::alone(),
        };
        let summary = match material {
            Material::Pairs(pairs) => {
                savi_train::dpo(&mut self.engine, pairs, &seeded_dpo(&self.dpo, at.round), &io)
            }
            Material::Examples(examples) => {
                savi_train::sft(&mut self.engine, examples, &seeded_sft(&self.sft, at.round), &io)
            }
        };
        match summary {
            Ok(summary) => Ok(Learnt { steps: summary.steps }),
            Err(TrainError::Interrupted) => Err(LearnError::Interrupted),
            Err(error) => Err(LearnError::Failed(Box::new(error))),
        }
    }
}

/// Each round trains another fresh adapter on records in another order.
fn seeded_dpo(config: &DpoConfig, round: u32) -> DpoConfig {
    let mut config = config.clone();
    config.optim.seed = config.optim.seed.wrapping_add(u64::from(round) << 32);
    config
}

fn seeded_sft(config: &SftConfig, round: u32) -> SftConfig {
    let mut config = config.clone();
    config.optim.seed = config.optim.seed.wrapping_add(u64::from(round) << 32);
    config
}
