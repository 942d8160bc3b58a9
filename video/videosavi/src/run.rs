//! The loop: measure, then in each round generate with the model as it is, learn, and measure again.

use std::path::PathBuf;

use savi_run::{
    Evaluation, Interrupt, Key, Metrics, Progress, RunFolder, Stage, stage_name, write_evaluations,
};
use savi_schema::{Example, Generate};
use savi_suites::stats::Bootstrap;
use savi_suites::{Answered, EvalOptions, QuestionRecord, by_clip, evaluate_clips};
use savi_train::{Learner, Rounds, teach};

use crate::correct::SelfCorrecting;
use crate::forms::generate;
use crate::learn::Lesson;
use crate::round::{Round, Served, check_served};
use crate::{ClipRecord, ClipSpace, Config, Decision, Error, JudgeVideo, Learn, Prompts};

/// The held-out questions on which every round is measured.
#[derive(Debug)]
pub struct Exam {
    /// Name of the suite.
    pub suite: String,
    /// The questions.
    pub questions: Vec<QuestionRecord>,
    /// Folder to which the questions' clips are relative.
    pub root: PathBuf,
    /// How they are asked.
    pub options: EvalOptions,
    /// Criticise and revise each answer before it counts (a baseline without training).
    pub self_correct: bool,
    /// How intervals are drawn.
    pub bootstrap: Bootstrap,
}

/// What a run works on.
pub struct Inputs<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The unlabelled clips, in the order in which rounds take them.
    pub clips: &'a [ClipRecord],
    /// Questions with their true answers, for the ceiling control only.
    pub labelled: &'a [Example],
    /// The held-out questions.
    pub exam: &'a Exam,
    /// A model elsewhere that draws some of what is drawn.
    pub served: Option<&'a Served<'a>>,
    /// For the CLIP check.
    pub space: Option<&'a ClipSpace<'a>>,
}

/// Where a run leaves things, and when it stops.
pub struct Outputs<'a> {
    /// The run folder.
    pub folder: &'a RunFolder,
    /// Its metrics.
    pub metrics: &'a Metrics,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

/// Runs the loop, or what of it is not done yet, and gives the figures of all rounds, round 0 being
/// the model as it came. `evaluations.json` is up to date after every round.
pub fn run(
    config: &Config,
    inputs: &Inputs<'_>,
    learner: &mut dyn Learner,
    outputs: &Outputs<'_>,
) -> Result<Vec<Evaluation>, Error> {
    check_inputs(config, inputs)?;
    let prompts = Prompts::load(&config.prompts)?;
    keep_clips(inputs, outputs)?;
    let mut evaluations = evaluate(0, config, &prompts, inputs, learner, outputs)?;
    write_evaluations(outputs.folder.dir(), &evaluations)?;
    let mut steps = 0;
    for number in 1..=config.rounds {
        let round = Round {
            number,
            seed: inputs.seed,
            config,
            prompts: &prompts,
            clips: clips_of_round(inputs.clips, config.clips_per_round, number),
            all_clips: inputs.clips,
            model: learner.generator(),
            fingerprint: learner.generator().fingerprint(),
            served: inputs.served,
            space: inputs.space,
            folder: outputs.folder,
            interrupt: outputs.interrupt,
        };
        let decisions = match (config.learn, config.pairs_per_round) {
            // The ceiling needs no judgement where the number of its examples is given.
            (Learn::SftLabelled, Some(_)) => Vec::new(),
            _ => generate(&round)?,
        };
        let lesson = Lesson::of(config, &decisions, inputs.labelled, inputs.seed, number)?;
        if let Some(material) = lesson.material() {
            let at = Rounds {
                folder: outputs.folder,
                metrics: outputs.metrics,
                interrupt: outputs.interrupt,
            };
            let learnt = teach(learner, material, number, steps, &at);
            steps += learnt.map_err(|error| Error::of_learning(number, error))?.steps;
        }
        evaluations.extend(evaluate(number, config, &prompts, inputs, learner, outputs)?);
        write_evaluations(outputs.folder.dir(), &evaluations)?;
        outputs.metrics.write_trainer_state()?;
    }
    Ok(evaluations)
}

fn check_inputs(config: &Config, inputs: &Inputs) -> Result<(), Error> {
    let bad = |words: &str| Err(Error::Inputs(words.to_owned()));
    config.validate().map_err(|problem| Error::Inputs(problem.to_string()))?;
    if config.rounds > 0 && inputs.clips.is_empty() {
        return bad("there are no clips to learn from");
    }
    if config.judge_video == JudgeVideo::Other && inputs.clips.len() < 2 {
        return bad("judge_video = \"other\" needs at least two clips");
    }
    if config.learn == Learn::SftLabelled && config.rounds > 0 && inputs.labelled.is_empty() {
        return bad("learn = \"sft-labelled\" needs labelled questions");
    }
    if let Some(served) = inputs.served {
        check_served(served.draws, config.rounds).map_err(Error::Inputs)?;
    }
    Ok(())
}

/// The clips of a round: all, or the next `count` of them, going round.
fn clips_of_round(clips: &[ClipRecord], count: Option<usize>, round: u32) -> Vec<&ClipRecord> {
    let count = count.unwrap_or(clips.len()).min(clips.len());
    let start = (round as usize - 1) * count;
    (start..start + count).map(|at| &clips[at % clips.len()]).collect()
}

/// Stage 00: the clips with their frame times, to which all records refer by id.
fn keep_clips(inputs: &Inputs, outputs: &Outputs) -> Result<(), Error> {
    let key = Key::new("clips").with("clips", inputs.clips).finish();
    let mut stage: Stage<ClipRecord> = Stage::open(outputs.folder, "00-clips", &key)?;
    let ids: Vec<&str> = inputs.clips.iter().map(|clip| clip.id.as_str()).collect();
    stage.run(&ids, |missing| {
        Ok::<_, Error>(missing.iter().map(|&at| vec![inputs.clips[at].clone()]).collect())
    })?;
    stage.finish(|clips| [("clips".to_owned(), clips.len() as u64)].into())?;
    Ok(())
}

/// Asks the held-out questions, clip by clip, and counts.
fn evaluate(
    round: u32,
    config: &Config,
    prompts: &Prompts,
    inputs: &Inputs,
    learner: &dyn Learner,
    outputs: &Outputs,
) -> Result<Vec<Evaluation>, Error> {
    let exam = inputs.exam;
    if exam.questions.is_empty() {
        return Ok(Vec::new());
    }
    let model = learner.generator();
    let correcting = SelfCorrecting::new(model, prompts, config, &exam.questions);
    let generator: &dyn Generate = if exam.self_correct { &correcting } else { model };
    let clips: Vec<(&str, Vec<&QuestionRecord>)> = by_clip(&exam.questions);
    let key = Key::new("evaluate")
        .with("round", &round)
        .with("model", &generator.fingerprint())
        .with("questions", &exam.questions)
        .with("rules", &savi_suites::extract::RULES)
        .with("options", &EvalOptions { chunk: 0, ..exam.options.clone() })
        .finish();
    let mut stage: Stage<Answered> =
        Stage::open(outputs.folder, &stage_name(round, 9, "evaluate"), &key)?;
    let mut progress = Progress::new(format!("round {round}, held-out clips"), clips.len() as u64);
    progress.resume_at(clips.iter().filter(|(clip, _)| stage.has(clip)).count() as u64);
    let mut done = 0;
    for chunk in clips.chunks(exam.options.chunk.max(1)) {
        outputs.interrupt.check()?;
        let ids: Vec<&str> = chunk.iter().map(|(clip, _)| *clip).collect();
        stage.run(&ids, |missing| {
            let asked: Vec<Vec<&QuestionRecord>> =
                missing.iter().map(|&at| chunk[at].1.clone()).collect();
            evaluate_clips(generator, &asked, &exam.root, &exam.options).map_err(|source| {
                match source {
                    savi_suites::EvaluateError::Generate(
                        savi_schema::GenerateError::Interrupted,
                    ) => Error::Interrupted,
                    source => Error::Evaluate { round, source },
                }
            })
        })?;
        done += chunk.len();
        progress.reach(done as u64);
    }
    let answered = stage.finish(|answered| {
        let correct = answered.iter().filter(|answered| answered.correct).count();
        [("asked", answered.len()), ("correct", correct)]
            .map(|(name, count)| (name.to_owned(), count as u64))
            .into()
    })?;
    let correct = answered.iter().filter(|answered| answered.correct).count();
    progress.note(format!("{correct} of {} right", answered.len()));
    progress.finish();
    Ok(savi_suites::evaluations(round, &exam.suite, &answered, &exam.bootstrap))
}

/// Reads back what a finished or running round decided, for audits.
pub fn read_decisions(
    run_dir: &std::path::Path,
    round: u32,
    form: crate::Form,
) -> Result<Vec<Decision>, Error> {
    let place = match form {
        crate::Form::Judge => 4,
        crate::Form::Critique => 5,
    };
    let path = run_dir.join("stages").join(stage_name(round, place, "pair")).join("records.jsonl");
    Ok(savi_run::read_records(&path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use savi_schema::{CountRule, MediaPolicy, SCHEMA_VERSION};

    #[test]
    fn rounds_take_clips_in_turn() {
        let clips: Vec<ClipRecord> = (0..5)
            .map(|i| ClipRecord {
                schema: SCHEMA_VERSION,
                id: i.to_string(),
                source: String::new(),
                policy: MediaPolicy::count(1, CountRule::MidSegment),
                frame_times: Vec::new(),
                hash: String::new(),
                caption: None,
            })
            .collect();
        let ids = |count, round| -> String {
            clips_of_round(&clips, count, round).iter().map(|clip| clip.id.as_str()).collect()
        };
        assert_eq!([ids(Some(3), 1), ids(Some(3), 2), ids(Some(9), 2)], ["012", "340", "01234"]);
        assert_eq!(ids(None, 3), "01234");
    }
}
