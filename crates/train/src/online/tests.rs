//! Gradients of both objectives against differences of their losses, on completions that a tiny model drew.

use candle_core::Tensor;
use savi_engine::Engine;
use savi_engine::testing::random_text_engine;
use savi_models::LoraOptions;
use savi_nn::Weight;
use savi_schema::{
    Completed, Completion, GenerateError, Message, Role, Score, Verdict, judge_each,
};
use serde_json::json;

use super::grpo::GroupRelative;
use super::ppo::ActorCritic;
use super::*;

struct Even;

impl Reward for Even {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let score = |_: &PromptRecord, c: &Completion| {
            let even = c.token_ids.iter().filter(|&&id| id % 2 == 0).count();
            let score = even as f64 / c.token_ids.len() as f64;
            Some(Verdict { score, criteria: serde_json::Map::new(), raw: String::new() })
        };
        Ok(judge_each(groups, score))
    }
}

fn prompts() -> Vec<PromptRecord> {
    let prompt = |(i, words): (usize, &&str)| PromptRecord {
        id: format!("p{i}"),
        prompt: vec![Message::text(Role::User, *words)],
        columns: serde_json::Map::new(),
    };
    ["left right", "up", "which way", "down down"].iter().enumerate().map(prompt).collect()
}

/// Holds the gradient of every group of weights against the loss a little way along it and back.
fn check_gradients(
    engine: &Engine,
    objective: &impl Objective,
    settings: Settings<'_>,
    weights: &[Arc<Weight>],
) {
    let (prompts, reward) = (prompts(), [("even".to_owned(), &Even as &(dyn Reward + Sync))]);
    let session = Session {
        prompts: &prompts,
        rewards: &reward,
        reward_weights: vec![1.0],
        settings,
        backward: Backward::new(crate::Ranks::alone(), weights),
    };
    let mut rollout = Rollout::draw(engine, &session, &[0, 1, 2, 3], 0).unwrap();
    let mut control = Control::default();
    objective.credit(engine, &session, &mut rollout, &mut control).unwrap();
    let groups: Vec<&Group> = rollout.groups.iter().collect();
    let loss = || objective.learn(engine, &session, &groups, 0, &mut control.clone()).unwrap();
    let grads = loss().grads;
    let mut seen = 0;
    for weight in weights {
        let value = weight.tensor(true);
        let Some(grad) = grads.get(&value) else { continue };
        let norm = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        if norm < 1e-3 {
            continue;
        }
        // A copy: the weight is changed in place.
        let before = value.detach().copy().unwrap();
        let moved = |by: f64| -> f64 {
            let step: Tensor = (grad * (by / f64::from(norm))).unwrap();
            weight.set(&(&before + step).unwrap()).unwrap();
            loss().loss
        };
        let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        weight.set(&before).unwrap();
        let apart = (slope - f64::from(norm)).abs();
        assert!(apart <= 0.02 * f64::from(norm) + 2e-4, "{}: {slope} by {norm}", weight.name());
        seen += 1;
    }
    assert!(seen > 3, "{seen} of {} weights have a gradient to speak of", weights.len());
}

const STEP: f64 = 5e-3;

fn optim() -> OptimConfig {
    OptimConfig { per_device_train_batch_size: 16, ..OptimConfig::default() }
}

/// A model with an adapter that says something already, as after some steps.
fn adapted(lora: &LoraConfig) -> (Engine, Vec<Arc<Weight>>) {
    let engine = random_text_engine(3, &json!({})).unwrap();
    adapter::attach(&engine, lora, 0).unwrap();
    let weights = engine.model().params().trainable();
    for (i, weight) in weights.iter().enumerate() {
        let value = weight.tensor(false);
        let noise = savi_nn::check::normal(value.dims(), &format!("noise {i}"), value.dtype());
        weight.set(&(&value + (noise.unwrap() * 0.05).unwrap()).unwrap()).unwrap();
    }
    (engine, weights)
}

#[test]
fn gradients_of_grpo_are_those_of_its_loss() {
    let config = GrpoConfig {
        num_generations: 4,
        max_completion_length: 6,
        temperature: 0.8,
        beta: 1.0,
        // The ratio is taken against what was drawn.
        num_iterations: 2,
        epsilon: 0.9,
        entropy_coef: 0.5,
        lora_r: 4,
        lora_alpha: 16.0,
        lora: LoraOptions::default(),
        optim: optim(),
        ..GrpoConfig::default()
    };
    let (engine, weights) = adapted(&config.adapter().unwrap());
    let settings = config.settings();
    check_gradients(&engine, &GroupRelative { config: &config }, settings, &weights);
    // With a layer at a time, parts of the logits among them, and with advantages of tokens.
    let mut again = GrpoConfig {
        adv_estimator: AdvEstimator::ReinforcePlusPlus,
        use_kl_in_reward: true,
        ..config
    };
    again.optim.gradient_checkpointing = true;
    check_gradients(&engine, &GroupRelative { config: &again }, again.settings(), &weights);
}

#[test]
fn gradients_of_ppo_are_those_of_its_loss() {
    let config = PpoConfig {
        response_length: 6,
        cliprange: 0.9,
        cliprange_value: 100.0,
        vf_coef: 1.0,
        missing_eos_penalty: Some(0.5),
        whiten_rewards: true,
        entropy_coef: 0.5,
        lora_r: 4,
        lora_alpha: 16.0,
        optim: optim(),
        ..PpoConfig::default()
    };
    let (engine, mut weights) = adapted(&config.adapter().unwrap());
    let objective = ActorCritic::new(&engine, &config).unwrap();
    weights.extend(objective.weights());
    let settings = config.settings();
    check_gradients(&engine, &objective, settings, &weights);
}
