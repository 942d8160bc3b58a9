//! The stages in the paper's order.

use savi_run::{Interrupt, Metrics, RunFolder, write_atomic};
use savi_schema::GenerateError;
use savi_train::Learner;

use crate::align::align;
use crate::ask::Asker;
use crate::data::Exemplar;
use crate::data::read_rows;
use crate::engrave::{Lesson, demonstrations, learn, rows, teach_rows};
use crate::instruct::instruct;
use crate::prompts::Form;
use crate::queries::{Made, queries};
use crate::questions::questions;
use crate::records::{Counters, Query, Row};
use crate::topics::topics;
use crate::{Config, Data, DataProblem, Error, Prompts, SeedTask, StageName, clone, forms};

/// The first token of a word in the model's vocabulary; `None` where the model does not tell.
pub type FirstToken<'a> = dyn Fn(&str) -> Result<Option<u32>, GenerateError> + 'a;

/// What a run works on.
pub struct Inputs<'a> {
    /// The run's seed.
    pub seed: u64,
    /// For words whose first token is held down.
    pub first_token: &'a FirstToken<'a>,
}

/// Where a run leaves things, and when it stops.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// The run folder.
    pub folder: &'a RunFolder,
    /// Its metrics.
    pub metrics: &'a Metrics,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Summary {
    /// Stages in order, with what was counted in each.
    pub stages: Vec<(&'static str, Counters)>,
    /// Steps of the optimiser, in `forms`, `engrave` and `clone`, as far as they are run.
    pub steps: Vec<(&'static str, u64)>,
}

impl Summary {
    fn steps_so_far(&self) -> u64 {
        self.steps.iter().map(|(_, steps)| steps).sum()
    }
}

/// Runs the stages of the config, or what of them is not done yet. Afterwards the learner is the model that the last
/// of them has made; the adapters are in `checkpoints/round-1` (engraved) and `checkpoints/round-2` (student), both on
/// the base, and what they learnt is in `data/`.
pub fn run(
    config: &Config,
    inputs: &Inputs<'_>,
    learner: &mut dyn Learner,
    outputs: &Outputs<'_>,
) -> Result<Summary, Error> {
    config.validate()?;
    let data = Data::load(&config.data)?;
    let prompts = Prompts::load(&config.prompts, &config.persona, &data)?;
    write_forms(&prompts, outputs.folder)?;
    let mut summary = Summary::default();

    if config.runs(StageName::Forms) {
        let dialogues = dialogues(config, &data)?;
        let shown = forms::demonstrations(config, &data, &dialogues, &prompts, inputs.seed)?;
        let lesson = Lesson { stage: "forms", folder: "", round: 0, steps_before: 0 };
        summary.steps.push(("forms", teach_rows(learner, &lesson, &shown, outputs)?));
    }
    let asker = asker(config, inputs, learner, outputs);
    let queries = stage_one(config, &asker, &data, &prompts, &mut summary)?;
    let mut answers = Vec::new();
    if config.runs(StageName::Align) {
        let (made, counters) =
            align(&asker, &config.align, &data, &prompts, &queries, inputs.first_token)?;
        summary.stages.push(("align", counters));
        answers = made;
    }
    if config.runs(StageName::Engrave) {
        let rows = match &config.rows {
            Some(path) => read_array(path)?,
            None => rows(&answers, &data, prompts.persona(), true, (inputs.seed, "engrave")),
        };
        let shown = demonstrations(&rows, config.truncated, &prompts, |_| Form::Standard)?;
        if config.runs(StageName::Forms) {
            learner.restart().map_err(|error| Error::of_learning("engrave", error))?;
        }
        let lesson = Lesson {
            stage: "engrave",
            folder: "05-align",
            round: 1,
            steps_before: summary.steps_so_far(),
        };
        summary.steps.push(("engrave", learn(learner, &lesson, &rows, &shown, outputs)?));
    }
    if config.runs(StageName::Clone) {
        let asker = self::asker(config, inputs, learner, outputs);
        let (answers, counters) =
            clone::answers(&asker, &config.verbose, &data, &prompts, &queries)?;
        summary.stages.push(("clone", counters));
        // Answers about the assistant are among them: the teacher gave its own.
        let rows = rows(&answers, &data, prompts.persona(), false, (inputs.seed, "clone"));
        let shown = demonstrations(&rows, config.truncated, &prompts, clone::form)?;
        learner.restart().map_err(|error| Error::of_learning("clone", error))?;
        let lesson = Lesson {
            stage: "clone",
            folder: "11-clone",
            round: 2,
            steps_before: summary.steps_so_far(),
        };
        summary.steps.push(("clone", learn(learner, &lesson, &rows, &shown, outputs)?));
    }
    outputs.metrics.write_trainer_state()?;
    Ok(summary)
}

/// Leaves the prompts under which queries are answered in `prompts/` of the run folder, with `{question}` for the query: what
/// `savi eval run --template` and whoever serves the models put around a question.
fn write_forms(prompts: &Prompts, folder: &RunFolder) -> Result<(), Error> {
    for form in Form::ALL {
        let path = folder.path("prompts").join(format!("{}.txt", form.name()));
        write_atomic(&path, prompts.query(form, "{question}", "")?.as_bytes())?;
    }
    Ok(())
}

/// Refuses a config that cannot be carried out, and files of it that cannot be used.
pub fn check(config: &Config) -> Result<(), Error> {
    config.validate()?;
    let data = Data::load(&config.data)?;
    Prompts::load(&config.prompts, &config.persona, &data)?;
    dialogues(config, &data)?;
    config.queries.as_deref().map_or(Ok(Vec::new()), read_rows::<SeedTask>)?;
    config.rows.as_deref().map_or(Ok(Vec::new()), read_array)?;
    Ok(())
}

/// What thoughts are learnt from, where forms are learnt.
fn dialogues(config: &Config, data: &Data) -> Result<Vec<Exemplar>, DataProblem> {
    match &config.forms.dialogues {
        Some(path) => data.dialogues(path),
        None => Ok(data.exemplars.clone()),
    }
}

fn asker<'a>(
    config: &Config,
    inputs: &Inputs<'_>,
    learner: &'a dyn Learner,
    outputs: &Outputs<'a>,
) -> Asker<'a> {
    Asker {
        model: learner.generator(),
        seed: inputs.seed,
        at_once: config.requests_at_once,
        folder: outputs.folder,
        interrupt: outputs.interrupt,
    }
}

/// Stage 1: both ways to queries, and given ones.
fn stage_one(
    config: &Config,
    asker: &Asker<'_>,
    data: &Data,
    prompts: &Prompts,
    summary: &mut Summary,
) -> Result<Vec<Query>, Error> {
    let given = match &config.queries {
        Some(path) => read_rows(path)?,
        None => Vec::new(),
    };
    let (mut tasks, mut asked) = (Vec::new(), Vec::new());
    let mut note = |name, counters: Counters| {
        if counters.get("used") == Some(&0) {
            let told = crate::records::told(&counters);
            tracing::warn!("{name} kept nothing of what the model wrote ({told})");
        }
        summary.stages.push((name, counters));
    };
    if config.runs(StageName::SelfInstruct) {
        let (made, counters) = instruct(asker, &config.self_instruct, data, prompts)?;
        note("self-instruct", counters);
        tasks = made;
    }
    if config.runs(StageName::RedTeam) {
        let (pool, counters) = topics(asker, &config.topics, data, prompts)?;
        note("topics", counters);
        let (made, counters) = questions(asker, &config.questions, data, prompts, &pool)?;
        note("questions", counters);
        asked = made;
    }
    if tasks.is_empty() && asked.is_empty() && given.is_empty() {
        return Ok(Vec::new());
    }
    let made = Made { tasks: &tasks, questions: &asked, given: &given };
    let (queries, counters) = queries(asker, &made)?;
    note("queries", counters);
    Ok(queries)
}

/// Rows of an earlier run.
fn read_array(path: &std::path::Path) -> Result<Vec<Row>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| DataProblem::Read { path: path.to_owned(), source })?;
    let rows = serde_json::from_str(&text).map_err(|error| DataProblem::Content {
        file: path.display().to_string(),
        line: Some(error.line()),
        reason: error.to_string(),
    });
    Ok(rows?)
}
