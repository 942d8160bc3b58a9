//! Stage 3, principle engraving: the base learns the answers without principles, examples and thoughts. Only answers
//! are learnt; no end of text comes after them but the terminator, which becomes the model's own way to stop.

use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_run::write_json_atomic;
use savi_schema::{Demonstration, Taught};
use savi_train::{Learner, Material, Rounds, teach};

use crate::prompts::Form;
use crate::records::{Answered, Row};
use crate::run::Outputs;
use crate::{Data, Error, Persona, Prompts, Truncated};

/// What is taught: the answers that are used, numbered on, and what the assistant says of itself; shuffled.
pub(crate) fn rows(
    answers: &[Answered],
    data: &Data,
    persona: &Persona,
    identity: bool,
    (seed, stage): (u64, &str),
) -> Vec<Row> {
    let used = answers.iter().filter(|answer| answer.dropped.is_none());
    let used = used.map(|answer| Row {
        example_id: 0,
        instruction: answer.instruction.clone(),
        input: answer.input.clone(),
        output: answer.answer.clone(),
        truncated: answer.truncated,
    });
    let identity = data.identity.iter().filter(|_| identity).map(|said| Row {
        example_id: 0,
        instruction: persona.fill(&said.user),
        input: String::new(),
        output: persona.fill(&said.assistant),
        truncated: false,
    });
    let mut rows: Vec<Row> = used.chain(identity).collect();
    let terminator = persona.terminator();
    for (number, row) in rows.iter_mut().enumerate() {
        row.example_id = number;
        if !row.truncated {
            row.output.push_str(&terminator);
        }
    }
    rows.shuffle(&mut seeded_rng(seed, &[stage, "rows"]));
    rows
}

/// Rows as the learner takes them, each under the prompt that `form` gives its number.
pub(crate) fn demonstrations(
    rows: &[Row],
    truncated: Truncated,
    prompts: &Prompts,
    form: impl Fn(usize) -> Form,
) -> Result<Vec<Demonstration>, Error> {
    let taught = rows.iter().filter(|row| truncated == Truncated::Teach || !row.truncated);
    let shown = taught.map(|row| {
        let prompt = prompts.query(form(row.example_id), &row.instruction, &row.input)?;
        let taught = Taught::Continuation { prompt, completion: row.output.clone(), open: true };
        Ok(Demonstration { id: format!("{:07}", row.example_id), taught, weight: 1.0 })
    });
    shown.collect()
}

/// A training: what its files are called and which round of the run it is.
pub(crate) struct Lesson {
    pub(crate) stage: &'static str,
    /// The folder of the records that its rows are of.
    pub(crate) folder: &'static str,
    pub(crate) round: u32,
    pub(crate) steps_before: u64,
}

/// Keeps the rows in `data/` and teaches them.
pub(crate) fn learn(
    learner: &mut dyn Learner,
    lesson: &Lesson,
    rows: &[Row],
    shown: &[Demonstration],
    outputs: &Outputs<'_>,
) -> Result<u64, Error> {
    let stage = lesson.stage;
    write_json_atomic(&outputs.folder.path("data").join(format!("{stage}.json")), &rows)?;
    if shown.is_empty() {
        let counts = format!("{} rows, all of them truncated", rows.len());
        return Err(Error::Nothing { stage, counts, folder: lesson.folder });
    }
    let left_out = rows.len() - shown.len();
    tracing::info!("{stage}: {} rows are taught, {left_out} truncated ones left out", shown.len());
    teach_rows(learner, lesson, shown, outputs)
}

/// Teaches what is shown, or takes up what was learnt of it.
pub(crate) fn teach_rows(
    learner: &mut dyn Learner,
    lesson: &Lesson,
    shown: &[Demonstration],
    outputs: &Outputs<'_>,
) -> Result<u64, Error> {
    let Outputs { folder, metrics, interrupt } = *outputs;
    let at = Rounds { folder, metrics, interrupt };
    let learnt =
        teach(learner, Material::Demonstrations(shown), lesson.round, lesson.steps_before, &at);
    Ok(learnt.map_err(|error| Error::of_learning(lesson.stage, error))?.steps)
}
