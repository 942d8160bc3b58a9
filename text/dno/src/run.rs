//! The loop (paper, algorithm 2): measure, then in each iteration draw from the model as it is, have the candidates
//! judged, learn from their pairs against that model, and measure again.

use std::collections::{BTreeMap, HashSet};

use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_run::{
    Evaluation, Interrupt, Key, Metrics, RunFolder, Stage, write_evaluations, write_json_atomic,
};
use savi_schema::{Pair, PromptRecord, SCHEMA_VERSION};
use savi_train::{Learner, Material, Rounds, teach};
use serde::{Deserialize, Serialize};

use crate::config::{BestBy, Mode, NoPairs, Opponent};
use crate::evaluate::{ACCURACY, Answers, WIN_RATE, measure, meets, reply, teacher_answers};
use crate::iteration::{Iteration, Other, Teacher, count_decisions, generate, stage_name};
use crate::lesson::{new_pairs, positives, replayed};
use crate::prompts::Prompts;
use crate::{Allotted, Config, Dynamics, Error};

/// The held-out prompts on which iterates are measured.
#[derive(Debug, Clone, Default)]
pub struct Exam {
    /// Their name in results.
    pub suite: String,
    /// The prompts.
    pub prompts: Vec<PromptRecord>,
}

/// What a run works on.
pub struct Inputs<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The prompts to learn from.
    pub prompts: &'a [PromptRecord],
    /// Pairs to learn from, for `mode = "offline"` alone.
    pub pairs: &'a [Pair],
    /// The held-out prompts.
    pub exam: &'a Exam,
    /// Where the teacher's answers come from.
    pub teacher: Teacher<'a>,
    /// Who judges, if it is not the model itself.
    pub annotator: Option<Other<'a>>,
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

/// The best iterate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Which one; 0 is the model as it came.
    pub iteration: u32,
    /// The figure that says so.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// The adapters that make it of the model as it came, in the order in which they are merged, in the run folder.
    pub adapters: Vec<String>,
}

/// What a run has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The figures of all iterates, iterate 0 being the model as it came.
    pub evaluations: Vec<Evaluation>,
    /// What the iterations were like.
    pub dynamics: Vec<Dynamics>,
    /// The best iterate, where iterates were measured.
    pub best: Option<Best>,
}

/// Runs the loop, or what of it is not done yet. `evaluations.json`, `dynamics.json` and `best.json` of the run folder
/// are up to date after every iteration.
pub fn run(
    config: &Config,
    inputs: &Inputs<'_>,
    learner: &mut dyn Learner,
    outputs: &Outputs<'_>,
) -> Result<Outcome, Error> {
    check_inputs(config, inputs)?;
    let run = Run { config, inputs, outputs, prompts: Prompts::load(&config.prompts)? };
    let parts = run.allot()?;
    let mut told = Outcome { evaluations: Vec::new(), dynamics: Vec::new(), best: None };
    let opponent = run.evaluate(0, learner, None, &mut told)?;
    let (mut earlier, mut steps): (Vec<Vec<Pair>>, u64) = (Vec::new(), 0);
    for number in 1..=config.iterations {
        let new = match config.mode {
            Mode::Offline => inputs.pairs.to_vec(),
            _ => {
                let records =
                    parts.get(number as usize - 1).map_or(Vec::new(), |p| p.iter().collect());
                let at = run.iteration(number, records, learner);
                let (decisions, dynamics) = generate(&at)?;
                told.dynamics.push(dynamics);
                let new = new_pairs(&decisions, &config.pairs, inputs.seed, number);
                if new.is_empty() {
                    run.nothing(number, &count_decisions(&decisions))?;
                }
                new
            }
        };
        let again = replayed(&earlier, new.len(), &config.replay, inputs.seed, number);
        if !new.is_empty() {
            steps += run.teach(number, &[new.as_slice(), &again].concat(), steps, learner)?;
        }
        earlier.push(new);
        run.evaluate(number, learner, opponent.as_ref(), &mut told)?;
    }
    let pool = earlier.concat();
    if config.mode == Mode::Lookahead && !pool.is_empty() {
        let number = config.iterations + 1;
        learner.restart().map_err(|error| Error::of_learning(number, error))?;
        run.teach(number, &pool, steps, learner)?;
        run.evaluate(number, learner, opponent.as_ref(), &mut told)?;
    }
    Ok(told)
}

/// What everything in a run shares.
struct Run<'a> {
    config: &'a Config,
    inputs: &'a Inputs<'a>,
    outputs: &'a Outputs<'a>,
    prompts: Prompts,
}

impl Run<'_> {
    /// An iteration on `records` with the model as it is.
    fn iteration<'s>(
        &'s self,
        number: u32,
        records: Vec<&'s PromptRecord>,
        learner: &'s dyn Learner,
    ) -> Iteration<'s> {
        Iteration {
            number,
            seed: self.inputs.seed,
            config: self.config,
            prompts: &self.prompts,
            records,
            model: learner.generator(),
            scorer: learner.scorer(),
            fingerprint: learner.generator().fingerprint(),
            teacher: self.inputs.teacher,
            annotator: self.inputs.annotator,
            folder: self.outputs.folder,
            interrupt: self.outputs.interrupt,
        }
    }

    /// Stage 00: gives each iteration prompts of its own, by chance. A prompt that says what another or a held-out one
    /// says is left out.
    fn allot(&self) -> Result<Vec<Vec<PromptRecord>>, Error> {
        if self.config.mode == Mode::Offline {
            return Ok(Vec::new());
        }
        let (inputs, config) = (self.inputs, self.config);
        let mut seen: HashSet<String> = inputs.exam.prompts.iter().map(said).collect();
        let mut records: Vec<&PromptRecord> =
            inputs.prompts.iter().filter(|record| seen.insert(said(record))).collect();
        let left_out = inputs.prompts.len() - records.len();
        if left_out > 0 {
            tracing::warn!(
                "{left_out} prompts are left out: they say what another or a held-out one says"
            );
        }
        records.shuffle(&mut seeded_rng(inputs.seed, &["iterations"]));
        let iterations = config.iterations as usize;
        let each = config.prompts_per_iteration.unwrap_or(records.len() / iterations);
        if each == 0 || each * iterations > records.len() {
            return Err(Error::Inputs(format!(
                "{iterations} iterations of {} prompts need more than the {} different ones that are there",
                each.max(1),
                records.len()
            )));
        }
        let key = Key::new("prompts").with("records", &records).with("each", &(each, iterations));
        let mut stage: Stage<Allotted> =
            Stage::open(self.outputs.folder, &stage_name(0, 0, "prompts"), &key.finish())?;
        let parts: Vec<&[&PromptRecord]> = records.chunks(each).take(iterations).collect();
        for (records, iteration) in parts.iter().zip(1..) {
            let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
            stage.run(&ids, |missing| {
                let allotted = |&place: &usize| {
                    let record = records[place].clone();
                    vec![Allotted {
                        schema: SCHEMA_VERSION,
                        id: record.id.clone(),
                        iteration,
                        record,
                    }]
                };
                Ok::<_, Error>(missing.iter().map(allotted).collect())
            })?;
        }
        stage.finish(|all| {
            [("prompts", all.len()), ("left out", left_out)]
                .map(|(name, count)| (name.to_owned(), count as u64))
                .into()
        })?;
        Ok(parts.iter().map(|part| part.iter().map(|&record| record.clone()).collect()).collect())
    }

    /// Teaches pairs, or what is chosen in them; gives the number of steps.
    fn teach(
        &self,
        number: u32,
        pairs: &[Pair],
        steps: u64,
        learner: &mut dyn Learner,
    ) -> Result<u64, Error> {
        let Outputs { folder, metrics, interrupt } = *self.outputs;
        let at = Rounds { folder, metrics, interrupt };
        let examples = match self.config.mode {
            Mode::SftOnPositives => positives(pairs),
            _ => Vec::new(),
        };
        let material = match self.config.mode {
            Mode::SftOnPositives => Material::Examples(&examples),
            _ => Material::Pairs(pairs),
        };
        let learnt = teach(learner, material, number, steps, &at);
        let learnt = learnt.map_err(|error| Error::of_learning(number, error))?;
        metrics.write_trainer_state()?;
        Ok(learnt.steps)
    }

    /// Measures the model as it is and writes down all that is known. Without an opponent it is the start, and what it
    /// gives back is whom later iterates meet.
    fn evaluate(
        &self,
        number: u32,
        learner: &dyn Learner,
        opponent: Option<&Answers>,
        told: &mut Outcome,
    ) -> Result<Option<Answers>, Error> {
        let exam = self.inputs.exam;
        let against = self.config.evaluation.against;
        let mut answers = None;
        if !exam.prompts.is_empty() {
            let at = self.iteration(number, exam.prompts.iter().collect(), learner);
            let replies = reply(&at)?;
            if number == 0 {
                answers = match against {
                    Opponent::Nobody => None,
                    Opponent::Start => Some(replies.iter().map(|r| Some(r.text.clone())).collect()),
                    Opponent::Teacher => Some(teacher_answers(&at)?),
                };
            }
            let meets = meets(against, number);
            let opponent = opponent.or(answers.as_ref()).filter(|_| meets);
            told.evaluations.extend(measure(&at, &exam.suite, &replies, opponent)?);
        }
        let dir = self.outputs.folder.dir();
        write_evaluations(dir, &told.evaluations)?;
        write_json_atomic(&dir.join("dynamics.json"), &told.dynamics)?;
        told.best = self.best(&told.evaluations);
        if let Some(best) = &told.best {
            write_json_atomic(&dir.join("best.json"), best)?;
        }
        Ok(answers)
    }

    /// The iterate with the best figure, the first of equals. Against the start the start itself is even.
    fn best(&self, evaluations: &[Evaluation]) -> Option<Best> {
        let evaluation = &self.config.evaluation;
        let metric = match (evaluation.best_by, &evaluation.correct) {
            (Some(BestBy::Accuracy), _) | (None, Some(_)) => ACCURACY,
            (Some(BestBy::WinRate), _) | (None, None) => WIN_RATE,
        };
        let start =
            (metric == WIN_RATE && evaluation.against == Opponent::Start).then_some((0, 0.5));
        let measured = evaluations.iter().filter(|row| row.metric == metric);
        let figures = start.into_iter().chain(measured.map(|row| (row.round, row.value)));
        let (iteration, value) =
            figures.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        let is_pool = iteration > self.config.iterations;
        let first = if is_pool { iteration } else { 1 };
        let adapters =
            (first..=iteration).map(|number| format!("checkpoints/round-{number}/adapter"));
        // An iteration that taught nothing has left no adapter.
        let adapters = adapters.filter(|path| self.outputs.folder.path(path).exists()).collect();
        Some(Best { iteration, metric: metric.to_owned(), value, adapters })
    }

    /// An iteration without pairs.
    fn nothing(&self, iteration: u32, counted: &BTreeMap<String, u64>) -> Result<(), Error> {
        let dropped = counted.iter().filter_map(|(name, count)| {
            Some(format!("{} {count}", name.strip_prefix("dropped/")?))
        });
        let counts = dropped.collect::<Vec<_>>().join(", ");
        let error = Error::NothingToLearn { iteration, counts };
        match self.config.no_pairs {
            NoPairs::Fail => Err(error),
            NoPairs::Skip => {
                tracing::warn!("{error}; the model stays as it is");
                Ok(())
            }
        }
    }
}

/// What a prompt says, as a text to compare.
fn said(record: &PromptRecord) -> String {
    // A conversation always has a form in JSON.
    serde_json::to_string(&record.prompt).unwrap_or_default()
}

fn check_inputs(config: &Config, inputs: &Inputs) -> Result<(), Error> {
    let bad = |words: String| Err(Error::Inputs(words));
    config.validate().map_err(|problem| Error::Inputs(problem.to_string()))?;
    let mut ids = HashSet::new();
    for record in inputs.prompts.iter().chain(&inputs.exam.prompts) {
        if !ids.insert(&record.id) {
            return bad(format!("two prompts have the id {:?}", record.id));
        }
    }
    match config.mode {
        Mode::Offline if inputs.pairs.is_empty() => {
            return bad("mode = \"offline\" needs pairs".to_owned());
        }
        Mode::Offline => {}
        _ if inputs.prompts.is_empty() => {
            return bad("there are no prompts to learn from".to_owned());
        }
        _ => {}
    }
    let taught = !matches!(inputs.teacher, Teacher::Nobody);
    if matches!(config.mode, Mode::Restrictive | Mode::Spin) && !taught {
        return bad("mode = \"restrictive\" and \"spin\" need a teacher".to_owned());
    }
    if config.evaluation.against == Opponent::Teacher && !taught {
        return bad("evaluation.against = \"teacher\" needs a teacher".to_owned());
    }
    let unknown = |records: &[PromptRecord], reward: &savi_judge::rewards::RewardFunction| {
        !records.is_empty() && !records.iter().any(|record| reward.can_judge(record))
    };
    for reward in &config.annotator.rewards {
        if config.annotates() && unknown(inputs.prompts, reward) {
            let (name, columns) = (reward.name(), reward.columns().join(" or "));
            return bad(format!(
                "annotator.rewards: {name}: no prompt has an answer in a column {columns}"
            ));
        }
    }
    if let Some(reward) =
        config.evaluation.correct.as_ref().filter(|r| unknown(&inputs.exam.prompts, r))
    {
        let columns = reward.columns().join(" or ");
        return bad(format!(
            "evaluation.correct: no held-out prompt has an answer in a column {columns}"
        ));
    }
    Ok(())
}
