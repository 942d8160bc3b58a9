//! The run: measure, train, measure.

use savi_engine::Engine;
use savi_judge::self_aligned::SelfAligned;
use savi_run::{Evaluation, RunError, RunFolder, Stage, stage_name, write_evaluations};
use savi_schema::{Generate, PromptRecord, Reward};
use savi_suites::stats::Bootstrap;
use savi_suites::{SolveError, Solved, Solving, solve, solve_evaluations, solve_key};
use savi_train::{GrpoConfig, PpoConfig, TrainError, TrainIo};
use serde_json::json;
use thiserror::Error;

use crate::beside::{EfficientReasoning, EntropyMinimisation, O1Pruner};
use crate::{Beside, Config, ConfigProblem};

/// How answers become steps.
#[derive(Debug, Clone, Copy)]
pub enum Trainer<'a> {
    /// GRPO's settings.
    Grpo(&'a GrpoConfig),
    /// PPO's settings.
    Ppo(&'a PpoConfig),
}

/// What a run works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The run's seed, for intervals.
    pub seed: u64,
    /// Problems to learn from; the verifier knows their answers.
    pub prompts: &'a [PromptRecord],
    /// Problems to measure by.
    pub held_out: &'a [PromptRecord],
    /// What they are called in results.
    pub suite: &'a str,
}

/// Why a run stopped before its end.
#[derive(Debug, Error)]
pub enum Error {
    /// It was asked to; what was done is saved.
    #[error("interrupted")]
    Interrupted,
    /// A setting cannot be carried out.
    #[error(transparent)]
    Config(#[from] ConfigProblem),
    /// The run folder failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Held-out problems could not be asked.
    #[error("held-out problems, round {round}")]
    Solve {
        /// Which round.
        round: u32,
        /// Why.
        source: SolveError,
    },
    /// Training failed.
    #[error(transparent)]
    Train(TrainError),
}

/// Measures the engine's model, trains it, and measures it again (round 0 and round 1 of the evaluations). Started again,
/// it goes on where it was.
pub fn run(
    config: &Config,
    trainer: Trainer<'_>,
    inputs: &Inputs<'_>,
    engine: &mut Engine,
    folder: &RunFolder,
    io: &TrainIo<'_>,
) -> Result<Vec<Evaluation>, Error> {
    config.validate()?;
    let verifier = config
        .verifier
        .build()
        .map_err(|error| ConfigProblem { key: "verifier", reason: error.to_string() })?;
    let mut evaluations = measure(0, config, &verifier, inputs, engine, folder, io)?;

    let efficient = EfficientReasoning { verifier: &verifier };
    let self_aligned = SelfAligned { standalone: config.standalone };
    let beside: Option<(&str, &(dyn Reward + Sync))> = match config.beside {
        Beside::Nothing => None,
        Beside::SelfAligned => Some((SelfAligned::NAME, &self_aligned)),
        Beside::O1Pruner => Some(("o1_pruner", &O1Pruner)),
        Beside::EfficientReasoning => Some(("efficient_reasoning", &efficient)),
        Beside::EntropyMinimisation => Some(("entropy_minimisation", &EntropyMinimisation)),
    };
    let verified: Option<(&str, &(dyn Reward + Sync))> =
        config.verify.then_some((config.verifier.name(), &verifier));
    let rewards: Vec<(String, &(dyn Reward + Sync))> = verified
        .into_iter()
        .chain(beside)
        .map(|(name, reward)| (name.to_owned(), reward))
        .collect();
    let trained = match trainer {
        Trainer::Grpo(grpo) => {
            config.warnings(grpo).iter().for_each(|warning| tracing::warn!("{warning}"));
            savi_train::grpo(engine, inputs.prompts, &rewards, &config.grpo(grpo)?, io)
        }
        Trainer::Ppo(ppo) => {
            savi_train::ppo(engine, inputs.prompts, &rewards, &config.ppo(ppo)?, io)
        }
    };
    trained.map_err(|error| match error {
        TrainError::Interrupted => Error::Interrupted,
        error => Error::Train(error),
    })?;
    io.metrics.write_trainer_state()?;

    evaluations.extend(measure(1, config, &verifier, inputs, engine, folder, io)?);
    evaluations.extend(accuracy_efficiency(&evaluations));
    write_evaluations(folder.dir(), &evaluations)?;
    Ok(evaluations)
}

fn measure(
    round: u32,
    config: &Config,
    verifier: &dyn Reward,
    inputs: &Inputs<'_>,
    engine: &Engine,
    folder: &RunFolder,
    io: &TrainIo<'_>,
) -> Result<Vec<Evaluation>, Error> {
    if inputs.held_out.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |source| match source {
        SolveError::Interrupted => Error::Interrupted,
        source => Error::Solve { round, source },
    };
    let grading = json!(config.verifier).to_string();
    let key = solve_key(&engine.fingerprint(), inputs.held_out, &grading, &config.exam);
    let stage: Stage<Solved> = Stage::open(folder, &stage_name(round, 9, "solve"), &key)?;
    let who = Solving { model: engine, scorer: engine, reward: verifier, interrupt: io.interrupt };
    let label = format!("round {round}, held-out problems");
    let solved = solve(&who, inputs.held_out, &config.exam, stage, &label).map_err(failed)?;
    let bootstrap = Bootstrap { resamples: config.resamples, seed: inputs.seed };
    let evaluations = solve_evaluations(round, inputs.suite, &solved, &bootstrap);
    write_evaluations(folder.dir(), &evaluations)?;
    Ok(evaluations)
}

/// The accuracy-efficiency score of a model against a reference (Luo et al., O1-Pruner; the paper's gamma is 5): how much
/// shorter answers are, and five times how much more accurate, each as a share of the reference's.
pub fn accuracy_efficiency_score(
    (accuracy, length): (f64, f64),
    (reference_accuracy, reference_length): (f64, f64),
) -> f64 {
    const GAMMA: f64 = 5.0;
    (reference_length - length) / reference_length
        + GAMMA * (accuracy - reference_accuracy) / reference_accuracy
}

/// The score of the last round against the first, where both have what it needs.
fn accuracy_efficiency(evaluations: &[Evaluation]) -> Option<Evaluation> {
    let figure = |round: u32, metric: &str| {
        let found = evaluations.iter().find(|row| row.round == round && row.metric == metric)?;
        (found.value > 0.0).then_some(found)
    };
    let of = |round| Some((figure(round, "accuracy")?.value, figure(round, "mean_length")?.value));
    let value = accuracy_efficiency_score(of(1)?, of(0)?);
    let row = figure(1, "accuracy")?;
    Some(Evaluation {
        metric: "accuracy_efficiency_score".to_owned(),
        value,
        // Of a ratio of means no interval is given: the parts have theirs.
        ci95: [value, value],
        by: Default::default(),
        ..row.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of the paper's main table: Qwen3-1.7B, from accuracy and length to its printed score.
    #[test]
    fn scores_of_the_papers_table() {
        let base = (41.5, 827.0);
        let close = |got: f64, want: f64| assert!((got - want).abs() < 0.01, "{got} {want}");
        close(accuracy_efficiency_score((53.37, 762.8), base), 1.509);
        close(accuracy_efficiency_score((54.13, 602.0), base), 1.795);
        close(accuracy_efficiency_score(base, base), 0.0);
    }
}
