//! Answers by RAIN's search in place of plain drawing.

use std::path::Path;

use savi_engine::Engine;
use savi_rain::judge::SelfJudge;
use savi_rain::{Config, Models, Prompts, Rain};
use savi_run::Interrupt;
use savi_schema::{Completion, Generate, Message, Request, Sampling};

use crate::exit::BadInput;

/// One answer for each of the samplings, of which `max_tokens` and `stop` hold; `path` is the method's part of a config.
pub(super) fn answers(
    path: &Path,
    engine: &Engine,
    messages: Vec<Message>,
    samplings: Vec<Sampling>,
    seed: u64,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Completion>> {
    let loaded = savi_run::load::<Config>(path, &[]).map_err(|error| BadInput(error.into()))?;
    let config = &loaded.value;
    config.validate().map_err(|error| BadInput(error.into()))?;
    let prompts = Prompts::load(&config.prompts, config.form, &config.judge)
        .map_err(|error| BadInput(error.into()))?;
    let judge = SelfJudge { scorer: engine, prompts: &prompts, config: &config.judge };
    let models =
        Models { generator: engine, tokens: engine, scorer: engine, judge: &judge, embedder: None };
    let rain = Rain { models, embedder: "", config, prompts: &prompts, interrupt };
    let request = Request { id: "0".to_owned(), messages, raw: None, samplings, seed };
    let told = rain.generate(std::slice::from_ref(&request)).map_err(super::failure)?;
    Ok(told.into_iter().flatten().collect())
}
