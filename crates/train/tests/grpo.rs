//! Group-relative and proximal policy optimisation on a tiny model: what is rewarded comes oftener, a stopped training
//! goes on to the same bytes, and the trainer sees the log-probs that the sampler saw.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use savi_engine::Engine;
use savi_engine::testing::random_text_engine;
use savi_run::{Interrupt, Metrics};
use savi_schema::{
    Completed, Completion, Generate, GenerateError, Message, PromptRecord, Reward, Role, Score,
    Verdict, judge_each,
};
use savi_train::{
    AdvEstimator, FilterGroups, GrpoConfig, KlCtrl, KlCtrlType, OptimConfig, PpoConfig, Ranks,
    Rewards, Scale, TrainError, TrainIo, TrainSummary, grpo, ppo,
};
use serde_json::{Value, json};

/// Share of a completion's tokens that are even; stops the training once so many groups were judged.
struct Even {
    calls: AtomicUsize,
    stop: Option<(usize, Interrupt)>,
}

impl Even {
    fn new(stop: Option<(usize, Interrupt)>) -> Self {
        Self { calls: AtomicUsize::new(0), stop }
    }
}

impl Reward for Even {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let before = self.calls.fetch_add(groups.len(), Ordering::SeqCst);
        if let Some((at, interrupt)) = &self.stop
            && (before + 1..=before + groups.len()).contains(at)
        {
            interrupt.set();
        }
        let score = |_: &PromptRecord, completion: &Completion| {
            let even = completion.token_ids.iter().filter(|&&id| id % 2 == 0).count();
            let score = even as f64 / completion.token_ids.len() as f64;
            Some(Verdict { score, criteria: serde_json::Map::default(), raw: String::new() })
        };
        Ok(judge_each(groups, score))
    }
}

fn prompts() -> Vec<PromptRecord> {
    ["left right", "up", "which way", "down down"]
        .iter()
        .enumerate()
        .map(|(i, words)| PromptRecord {
            id: format!("p{i}"),
            prompt: vec![Message::text(Role::User, *words)],
            columns: serde_json::Map::new(),
        })
        .collect()
}

fn config(steps: u64) -> GrpoConfig {
    GrpoConfig {
        num_generations: 8,
        max_completion_length: 6,
        lora_r: 4,
        lora_alpha: 16.0,
        optim: OptimConfig {
            learning_rate: 2e-2,
            per_device_train_batch_size: 32,
            gradient_accumulation_steps: 1,
            max_steps: steps,
            warmup_ratio: 0.0,
            ..OptimConfig::default()
        },
        ..GrpoConfig::default()
    }
}

/// Either objective.
trait Config {
    fn train(
        &self,
        engine: &mut Engine,
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError>;
}

impl Config for GrpoConfig {
    fn train(
        &self,
        engine: &mut Engine,
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError> {
        grpo(engine, &prompts(), rewards, self, io)
    }
}

impl Config for PpoConfig {
    fn train(
        &self,
        engine: &mut Engine,
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError> {
        ppo(engine, &prompts(), rewards, self, io)
    }
}

fn ppo_config(steps: u64) -> PpoConfig {
    PpoConfig {
        response_length: 6,
        num_ppo_epochs: 2,
        num_mini_batches: 2,
        missing_eos_penalty: Some(0.5),
        lora_r: 4,
        lora_alpha: 16.0,
        optim: OptimConfig { per_device_train_batch_size: 4, ..config(steps).optim },
        ..PpoConfig::default()
    }
}

fn run(
    dir: &Path,
    config: &impl Config,
    reward: &(dyn Reward + Sync),
    interrupt: &Interrupt,
) -> Result<(Engine, Vec<Value>), TrainError> {
    let mut engine = random_text_engine(3, &json!({})).unwrap();
    let metrics = Metrics::open(dir).unwrap();
    let io = TrainIo { dir, metrics: &metrics, interrupt, ranks: Ranks::alone() };
    config.train(&mut engine, &[("even".to_owned(), reward)], &io)?;
    Ok((engine, metrics.lines().iter().map(|line| json!(line)).collect()))
}

fn whole(config: &impl Config) -> (Engine, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), config, &Even::new(None), &Interrupt::new()).unwrap()
}

fn figure(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

#[test]
fn what_is_rewarded_comes_oftener() {
    // All weights: without its head, whose rows are short, a random model's words hardly move.
    for loss_type in ["dapo", "dr_grpo", "cispo"] {
        let config = GrpoConfig { lora_r: 0, loss_type: loss_type.to_owned(), ..config(40) };
        let (_, lines) = whole(&config);
        let mean = |lines: &[Value]| {
            lines.iter().map(|line| figure(line, "reward")).sum::<f64>() / lines.len() as f64
        };
        let (first, last) = (mean(&lines[..3]), mean(&lines[37..]));
        assert!(last > first + 0.2, "{loss_type}: {first} to {last}");
    }
}

#[test]
fn a_value_head_learns_what_a_completion_is_worth() {
    let config = PpoConfig { lora_r: 0, kl_coef: 0.0, missing_eos_penalty: None, ..ppo_config(80) };
    let mut config = PpoConfig { temperature: 1.0, vf_coef: 0.5, ..config };
    config.optim.per_device_train_batch_size = 16;
    let (_, lines) = whole(&config);
    let mean = |name: &str, lines: &[Value]| {
        lines.iter().map(|line| figure(line, name)).sum::<f64>() / lines.len() as f64
    };
    for name in ["objective/scores", "critic/values/mean"] {
        let (first, last) = (mean(name, &lines[..4]), mean(name, &lines[76..]));
        assert!(last > first + 0.15, "{name}: {first} to {last}");
    }
    // With nothing paid for divergence, no reference is asked.
    assert_eq!(lines[0].get("objective/kl"), None);
}

#[test]
fn the_sampler_is_the_policy() {
    let cold = GrpoConfig { temperature: 0.7, ..config(3) };
    for line in whole(&config(3)).1.iter().chain(&whole(&cold).1) {
        assert!(figure(line, "sampling/sampling_logp_difference/max") < 1e-5, "{line}");
        // All ratios are 1 where a step learns from what it has drawn.
        assert_eq!(figure(line, "clip_ratio/region_mean"), 0.0);
    }
    // Behind a cut the sampler's log-probs are not those of the policy: they are computed again.
    let cut = GrpoConfig { top_p: 0.9, num_iterations: 2, ..cold };
    let (_, lines) = whole(&cut);
    assert_eq!(lines[0].get("sampling/sampling_logp_difference/max"), None);
    assert!((figure(&lines[0], "val/ratio") - 1.0).abs() < 1e-6, "{}", lines[0]);
    // With the policy as it was for reference nothing is apart at first, and then ever more.
    for lora_r in [4, 0] {
        let (_, lines) = whole(&GrpoConfig { beta: 0.1, lora_r, ..config(3) });
        assert!(figure(&lines[0], "kl").abs() < 1e-9, "{}", lines[0]);
        assert!(figure(&lines[2], "kl") > 1e-6, "{}", lines[2]);
    }
}

#[test]
fn a_stopped_training_goes_on_to_the_same_bytes() {
    // The second step of a generation learns from completions whose weights are gone.
    let mut iterated = GrpoConfig { num_iterations: 2, beta: 0.02, ..config(6) };
    iterated.optim.per_device_train_batch_size = 16;
    iterated.steps_per_generation = Some(2);
    goes_on(&iterated, &[1, 6]);
    goes_on(&ppo_config(6), &[3, 10]);
    // The reference is what the weights were at first, and not where the second start found them.
    goes_on(&GrpoConfig { lora_r: 0, ..iterated }, &[6]);
    goes_on(&PpoConfig { lora_r: 0, ..ppo_config(6) }, &[10]);
}

/// What is carried from step to step goes with the checkpoints: how often completions were drawn, and coefficients.
#[test]
fn coefficients_and_draws_go_on_where_they_were() {
    let adaptive = KlCtrl { r#type: KlCtrlType::Adaptive, target_kl: 1e-3, horizon: 64.0 };
    let config = GrpoConfig {
        adv_estimator: AdvEstimator::Rloo,
        beta: 0.1,
        use_kl_in_reward: true,
        kl_ctrl: adaptive,
        use_adaptive_entropy: true,
        entropy_target: 9.0,
        entropy_coef_delta: 0.1,
        filter_groups: Some(even(3)),
        ..config(6)
    };
    goes_on(&config, &[5, 13]);
    let (_, lines) = whole(&config);
    for name in ["actor/reward_kl_penalty_coeff", "entropy_coef"] {
        assert!(figure(&lines[0], name) != figure(&lines[5], name), "{name} stays");
    }
    let config = PpoConfig { kl_ctrl: adaptive, entropy_coef: 0.01, ..ppo_config(8) };
    goes_on(&config, &[10]);
    let (_, lines) = whole(&config);
    let coefficient = |at: usize| figure(&lines[at], "actor/reward_kl_penalty_coeff");
    // A generation is learnt from for four steps.
    assert_eq!((coefficient(0), coefficient(3)), (0.05, 0.05));
    assert!(coefficient(4) < 0.05, "nothing was apart at first: {}", coefficient(4));
}

fn even(max_num_gen_batches: u64) -> FilterGroups {
    FilterGroups { metric: "even".to_owned(), max_num_gen_batches }
}

/// The rewards of [`Even`], but the same for all completions of some prompts.
struct Decided(fn(&str) -> bool);

impl Reward for Decided {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        policy: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let mut verdicts = Even::new(None).judge(groups, policy)?;
        for (group, verdicts) in groups.iter().zip(&mut verdicts) {
            if (self.0)(&group.prompt.id) {
                verdicts.iter_mut().flatten().for_each(|verdict| verdict.score = 1.0);
            }
        }
        Ok(verdicts)
    }
}

#[test]
fn groups_that_do_not_vary_are_drawn_again() {
    let config = GrpoConfig { filter_groups: Some(even(4)), ..config(3) };
    let judged = |reward: &Decided| {
        let dir = tempfile::tempdir().unwrap();
        let (_, lines) = run(dir.path(), &config, reward, &Interrupt::new()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("completions.jsonl")).unwrap();
        (lines, text)
    };
    let told = |line: &Value| {
        ["num_gen_batches", "dropped", "surplus", "unvaried"]
            .map(|name| figure(line, &format!("filter_groups/{name}")))
    };
    // One prompt of four: a second draw gives the group that lacks, and two more.
    let (lines, text) = judged(&Decided(|id| id == "p1"));
    for line in &lines {
        assert_eq!(told(line), [2.0, 2.0, 2.0, 0.0]);
        assert_eq!(figure(line, "frac_reward_zero_std"), 0.0);
    }
    assert!(!text.contains("\"p1\"") && text.lines().count() == 3 * 32);
    // Nothing ever varies: after four draws what was drawn first is taken.
    let (lines, text) = judged(&Decided(|_| true));
    for line in &lines {
        assert_eq!(told(line), [4.0, 12.0, 0.0, 4.0]);
        assert_eq!(figure(line, "grad_norm"), 0.0);
    }
    assert!(text.contains("\"p1\""));
}

/// The advantages of the first generation, and the tokens of its completions.
fn credited(config: &GrpoConfig) -> (Vec<f64>, Vec<f64>) {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), config, &Even::new(None), &Interrupt::new()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("completions.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tokens = rows.iter().map(|row| figure(row, "tokens")).collect();
    (rows.iter().filter_map(|row| row["advantage"].as_f64()).collect(), tokens)
}

#[test]
fn advantages_are_those_of_the_estimator() {
    let by = |adv_estimator| GrpoConfig { adv_estimator, ..config(1) };
    let centred = GrpoConfig { scale_rewards: Scale::None, ..config(1) };
    let ((rloo, _), (centred, _)) = (credited(&by(AdvEstimator::Rloo)), credited(&centred));
    // The mean of the others is the mean of all without the own share.
    for (rloo, centred) in rloo.iter().zip(&centred) {
        assert!((rloo - centred * 8.0 / 7.0).abs() < 1e-9, "{rloo} {centred}");
    }
    let (advantages, tokens) = credited(&by(AdvEstimator::ReinforcePlusPlusBaseline));
    let count = tokens.iter().sum::<f64>();
    let mean = advantages.iter().zip(&tokens).map(|(a, n)| a * n).sum::<f64>() / count;
    let square = advantages.iter().zip(&tokens).map(|(a, n)| a * a * n).sum::<f64>();
    assert!(mean.abs() < 1e-9 && (square / (count - 1.0) - 1.0).abs() < 1e-4, "{mean} {square}");
    // Tokens have their own: no number stands for a completion.
    assert!(credited(&by(AdvEstimator::ReinforcePlusPlus)).0.is_empty());
    let discounted = GrpoConfig { gamma: 0.5, ..by(AdvEstimator::ReinforcePlusPlus) };
    let loss = |config: &GrpoConfig| figure(&whole(config).1[0], "loss");
    assert!(loss(&discounted) != loss(&by(AdvEstimator::ReinforcePlusPlus)));
}

#[test]
fn what_an_entropy_bonus_pays_for_stays() {
    let last = |entropy_coef: f64| {
        let (_, lines) = whole(&GrpoConfig { lora_r: 0, entropy_coef, ..config(30) });
        figure(&lines[29], "entropy")
    };
    let (without, with) = (last(0.0), last(1.0));
    assert!(with > without + 0.2, "{without} without, {with} with");
}

#[test]
fn a_penalty_in_rewards_is_no_term_of_the_loss() {
    let config = GrpoConfig { beta: 1.0, use_kl_in_reward: true, ..config(4) };
    let (_, lines) = whole(&config);
    // What the sampler drew first is the reference's own; later completions pay.
    assert!(figure(&lines[0], "kl").abs() < 1e-6, "{}", lines[0]);
    assert_eq!(figure(&lines[0], "actor/reward_kl_penalty_coeff"), 1.0);
    let (_, free) = whole(&GrpoConfig { beta: 0.0, use_kl_in_reward: false, ..config });
    let norms = |at: usize| (figure(&lines[at], "grad_norm"), figure(&free[at], "grad_norm"));
    let same = |(a, b): (f64, f64)| (a - b).abs() < 1e-5 * b;
    assert!(same(norms(0)) && !same(norms(3)), "{:?} {:?}", norms(0), norms(3));
}

fn goes_on(config: &impl Config, stops: &[usize]) {
    let (engine, lines) = whole(config);
    for &stop in stops {
        let dir = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::new();
        let reward = Even::new(Some((stop, interrupt.clone())));
        let stopped = run(dir.path(), config, &reward, &interrupt);
        assert!(matches!(stopped, Err(TrainError::Interrupted)), "{:?}", stopped.err());
        let (again, resumed) =
            run(dir.path(), config, &Even::new(None), &Interrupt::new()).unwrap();
        assert_eq!(again.fingerprint(), engine.fingerprint(), "stopped at {stop}");
        for (a, b) in resumed.iter().zip(&lines) {
            assert_eq!(a["loss"], b["loss"]);
            assert_eq!(a["reward"], b["reward"]);
            assert_eq!(a["grad_norm"], b["grad_norm"]);
        }
    }
}

#[test]
fn accumulation_equals_one_batch() {
    for loss_type in ["grpo", "dapo", "dr_grpo"] {
        let config = GrpoConfig { loss_type: loss_type.to_owned(), ..config(2) };
        let mut parts = config.clone();
        parts.optim.per_device_train_batch_size = 8;
        parts.optim.gradient_accumulation_steps = 4;
        let (one, many) = (whole(&config).1, whole(&parts).1);
        for (a, b) in one.iter().zip(&many) {
            for name in ["loss", "grad_norm", "reward"] {
                let (a, b) = (figure(a, name), figure(b, name));
                assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-2), "{loss_type} {name}: {a} {b}");
            }
        }
    }
}

#[test]
fn completions_that_were_cut_off_can_teach_nothing() {
    // Nobody ends within one token but by its end.
    let config =
        GrpoConfig { mask_truncated_completions: true, max_completion_length: 1, ..config(2) };
    let (_, lines) = whole(&config);
    assert!(figure(&lines[0], "completions/clipped_ratio") > 0.5);
    assert!(lines.iter().all(|line| figure(line, "loss").is_finite()));
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let refused = |config: GrpoConfig| config.validate().unwrap_err().to_string();
    assert!(
        refused(GrpoConfig { num_generations: 1, ..config(1) }).contains("num_generations = 1")
    );
    assert!(refused(GrpoConfig { num_generations: 5, ..config(1) }).contains("multiple"));
    assert!(refused(GrpoConfig { temperature: 0.0, ..config(1) }).contains("temperature = 0"));
    let unread = [
        (GrpoConfig { gamma: 0.9, ..config(1) }, "gamma = 0.9"),
        (GrpoConfig { normalize_advantages: true, ..config(1) }, "rloo alone"),
        (GrpoConfig { use_kl_in_reward: true, ..config(1) }, "needs beta"),
        (GrpoConfig { filter_groups: Some(even(0)), ..config(1) }, "max_num_gen_batches = 0"),
        (GrpoConfig { entropy_coef: f64::NAN, ..config(1) }, "entropy_coef = NaN"),
    ];
    for (config, words) in unread {
        assert!(refused(config).contains(words), "{words}");
    }
    let sliced = GrpoConfig { steps_per_generation: Some(0), ..config(1) };
    assert!(refused(sliced).contains("steps_per_generation = 0"));
    let unknown = refused(GrpoConfig { loss_type: "gspo".to_owned(), ..config(1) });
    assert!(unknown.contains("gspo") && unknown.contains("dr_grpo"), "{unknown}");
    let config = GrpoConfig { reward_weights: vec![1.0, 2.0], ..config(1) };
    let dir = tempfile::tempdir().unwrap();
    let error = run(dir.path(), &config, &Even::new(None), &Interrupt::new()).err().unwrap();
    assert!(error.to_string().contains("reward_weights"), "{error}");
    let filter = FilterGroups { metric: "odd".to_owned(), ..even(2) };
    let config = GrpoConfig { reward_weights: Vec::new(), filter_groups: Some(filter), ..config };
    let error = run(dir.path(), &config, &Even::new(None), &Interrupt::new()).err().unwrap();
    assert!(error.to_string().contains("filter_groups.metric = odd"), "{error}");
}
