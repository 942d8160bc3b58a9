//! Asking the model, and stages whose units are requests.

use savi_run::{Interrupt, Key, Progress, Record, RunFolder, Stage};
use savi_schema::{FinishReason, Generate, RawPrompt, Request, Sampling};

use crate::Error;
use crate::records::{Counters, told};

/// The model as it is now, and where its stages lie.
pub(crate) struct Asker<'a> {
    pub(crate) model: &'a dyn Generate,
    pub(crate) seed: u64,
    /// Prompts in one call.
    pub(crate) at_once: usize,
    pub(crate) folder: &'a RunFolder,
    pub(crate) interrupt: &'a Interrupt,
}

/// What the model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) text: String,
    /// It reached the token limit.
    pub(crate) cut: bool,
}

impl Asker<'_> {
    /// The key on which the stages of this model build.
    pub(crate) fn key(&self, stage: &str) -> Key {
        Key::new(stage).with("seed", &self.seed).with("model", &self.model.fingerprint())
    }

    /// Opens a stage.
    pub(crate) fn stage<R: Record>(
        &self,
        folder: &'static str,
        key: &Key,
    ) -> Result<Stage<R>, Error> {
        Ok(Stage::open(self.folder, folder, &key.finish())?)
    }

    /// One reply for each prompt. A reply depends on the seed, the stage and the prompt's id, not on its company.
    pub(crate) fn draw(
        &self,
        stage: &'static str,
        prompts: Vec<(String, String)>,
        sampling: &Sampling,
    ) -> Result<Vec<Reply>, Error> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        self.interrupt.check()?;
        let requests: Vec<Request> = prompts
            .into_iter()
            .map(|(id, prompt)| Request {
                id: format!("{stage}/{id}"),
                messages: Vec::new(),
                raw: Some(RawPrompt::Text(prompt)),
                samplings: vec![sampling.clone()],
                seed: self.seed,
            })
            .collect();
        let drawn =
            self.model.generate(&requests).map_err(|source| Error::of_model(stage, source))?;
        let got = drawn.iter().map(Vec::len).sum();
        if drawn.len() != requests.len() || drawn.iter().any(|drawn| drawn.len() != 1) {
            return Err(Error::WrongCount { stage, asked: requests.len(), got });
        }
        let reply = |completion: savi_schema::Completion| Reply {
            cut: completion.finish_reason == FinishReason::Length,
            text: completion.text,
        };
        Ok(drawn.into_iter().flatten().map(reply).collect())
    }

    /// Makes the records of `units` that are missing, so many at once, and gives all of them in order. `make` gets
    /// places in `units`.
    pub(crate) fn each<R: Record>(
        &self,
        stage: &mut Stage<R>,
        label: &str,
        units: &[String],
        mut make: impl FnMut(&[usize]) -> Result<Vec<R>, Error>,
    ) -> Result<Vec<R>, Error> {
        let mut progress = Progress::new(label, units.len() as u64);
        progress.resume_at(units.iter().filter(|unit| stage.has(unit)).count() as u64);
        let mut records = Vec::with_capacity(units.len());
        for (number, chunk) in units.chunks(self.at_once.max(1)).enumerate() {
            let first = number * self.at_once.max(1);
            let names: Vec<&str> = chunk.iter().map(String::as_str).collect();
            let made = stage.run(&names, |missing| {
                let places: Vec<usize> = missing.iter().map(|&at| first + at).collect();
                Ok::<_, Error>(make(&places)?.into_iter().map(|record| vec![record]).collect())
            })?;
            records.extend(made.into_iter().flatten());
            progress.reach((first + chunk.len()) as u64);
        }
        progress.finish();
        Ok(records)
    }
}

/// Finishes a stage and says what it made.
pub(crate) fn finish<R: Record>(
    stage: Stage<R>,
    label: &'static str,
    count: impl Fn(&[R]) -> Counters,
) -> Result<(Vec<R>, Counters), Error> {
    let records = stage.finish(&count)?;
    let counters = count(&records);
    tracing::info!("{label}: {}", told(&counters));
    Ok((records, counters))
}

/// `sampling` that cannot end before its token limit, where that is wanted.
pub(crate) fn unending(sampling: &Sampling, forbid_end: bool) -> Sampling {
    let mut sampling = sampling.clone();
    if forbid_end {
        sampling.min_tokens = sampling.max_tokens;
    }
    sampling
}
