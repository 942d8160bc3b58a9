//! Plans of trainings that draw their own completions: every completion as long as it may be.

use savi_engine::Engine;
use savi_models::LoraConfig;
use savi_schema::PromptRecord;

use super::{Drawn, Kind, Plan, plan, size};
use crate::pack::{Branch, Tree};
use crate::{GrpoConfig, OptimConfig, PpoConfig, TrainError, adapter};

/// What of the settings a plan asks.
struct Online<'a> {
    optim: &'a OptimConfig,
    lora: Option<LoraConfig>,
    reference: bool,
    num_generations: usize,
    max_tokens: usize,
    passes: u64,
    /// Steps that a pass over what is drawn at once is cut into.
    slices: usize,
}

/// Plans [`grpo`](crate::grpo()) for the longest completions. The engine gets the adapter that training would attach.
pub fn plan_grpo(
    engine: &Engine,
    prompts: &[PromptRecord],
    config: &GrpoConfig,
) -> Result<Plan, TrainError> {
    config.validate()?;
    plan_online(
        engine,
        prompts,
        Online {
            optim: &config.optim,
            lora: config.adapter(),
            reference: config.beta != 0.0,
            num_generations: config.num_generations,
            max_tokens: config.max_completion_length,
            passes: config.num_iterations,
            slices: config.slices() as usize,
        },
    )
}

/// Plans [`ppo`](crate::ppo()) likewise.
pub fn plan_ppo(
    engine: &Engine,
    prompts: &[PromptRecord],
    config: &PpoConfig,
) -> Result<Plan, TrainError> {
    config.validate()?;
    plan_online(
        engine,
        prompts,
        Online {
            optim: &config.optim,
            lora: config.adapter(),
            reference: config.kl_coef != 0.0,
            num_generations: 1,
            max_tokens: config.response_length,
            passes: config.num_ppo_epochs,
            slices: config.num_mini_batches as usize,
        },
    )
}

fn plan_online(
    engine: &Engine,
    prompts: &[PromptRecord],
    online: Online<'_>,
) -> Result<Plan, TrainError> {
    let (model, params) = (engine.model(), engine.model().params());
    match &online.lora {
        Some(lora) => adapter::attach(engine, lora, online.optim.seed)?,
        None => {
            params.set_trains(|name| model.in_decoder(name) && !model.is_idle(name));
            if online.reference {
                params.keep_reference()?;
            }
        }
    }
    let trees = prompts.iter().map(|prompt| tree(engine, prompt, &online));
    let trees = trees.collect::<Result<Vec<_>, TrainError>>()?;
    // A record of the optimiser's batch is a completion, a tree is all those of a prompt.
    let of_device = (online.optim.per_device_train_batch_size / online.num_generations).max(1);
    let optim = OptimConfig { per_device_train_batch_size: of_device, ..online.optim.clone() };
    let longest = trees.iter().map(size).max().unwrap_or(0);
    let at_once = optim.step_records() * online.slices * longest;
    // Completions that find no room wait for it.
    let sampling = (engine.token_bytes() * at_once).min(engine.kv_budget()) as u64;
    let drawn = Drawn { passes: online.passes, sampling };
    let reference = online.reference;
    let kind = Kind { optim: &optim, lora: online.lora, reference, drawn: Some(drawn) };
    plan(engine, &trees, &kind)
}

fn tree(engine: &Engine, prompt: &PromptRecord, online: &Online<'_>) -> Result<Tree, TrainError> {
    let tokens = engine.prompt(&prompt.prompt)?;
    let Some(shared) = tokens.ids.len().checked_sub(1) else {
        let reason = "has an empty prompt".to_owned();
        return Err(TrainError::Record { id: prompt.id.clone(), reason });
    };
    // Any token: only the number counts.
    let answer = vec![tokens.ids[shared]; online.max_tokens + 1];
    let branches = vec![Branch { ids: answer, targets: 1 }; online.num_generations];
    Ok(Tree { id: prompt.id.clone(), root: tokens.start(shared), branches })
}
