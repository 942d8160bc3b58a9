//! How many tokens go through the model in one search, here and in the reference implementation.
//!
//! `rain_worker [MODEL]` searches one answer and prints a line of JSON. Ours are counted by the engine: tokens of prompts
//! and of labels that were computed, and tokens that were drawn. The reference's are counted by its procedure for the very
//! same search: it keeps keys and values within one candidate or one simulation, so each of them begins with the whole
//! prefix again, and both of the judge's prompts are computed whole; logits after a prefix that it has seen are looked up.
//! The sentence encoder is left out on both sides.

#![allow(clippy::print_stdout, reason = "the figures go to whoever asked")]

use std::collections::HashSet;

use savi_engine::{Engine, EngineOptions};
use savi_rain::formulae::Draw;
use savi_rain::judge::SelfJudge;
use savi_rain::models::{Asking, Question};
use savi_rain::trace::{Begin, Journal, Reading, Simulation, TRACE_SCHEMA};
use savi_rain::{
    Error, JudgeConfig, Judgement, Models, Offer, Oracle, PromptFiles, PromptForm, Prompts, Search,
    Searching,
};
use savi_run::Interrupt;
use savi_schema::{Message, Role, Tokenize};
use serde_json::json;

/// Asks real models, and counts what the reference would have computed.
struct Counting<'a> {
    asking: Asking<'a>,
    engine: &'a Engine,
    prompts: &'a Prompts,
    messages: &'a [Message],
    prompt: usize,
    /// Prefixes whose logits the reference has kept.
    seen: HashSet<Vec<u32>>,
    candidates: u64,
    simulations: u64,
    judge: u64,
}

impl Counting<'_> {
    /// Tokens of prefixes that are computed to go on from `answer` by `tokens`, one after the other.
    fn walk(&mut self, answer: &[u32], tokens: &[u32]) -> u64 {
        let (mut state, mut has_cache, mut computed) = (answer.to_vec(), false, 0);
        for &token in tokens {
            let is_known = !self.seen.insert(state.clone());
            if !is_known {
                computed += if has_cache { 1 } else { (self.prompt + state.len()) as u64 };
            }
            has_cache = !is_known;
            state.push(token);
        }
        computed
    }
}

impl Oracle for Counting<'_> {
    fn offer(
        &mut self,
        answer: &[u32],
        length: usize,
        more: Option<usize>,
    ) -> Result<Offer, Error> {
        let offer = self.asking.offer(answer, length, more)?;
        match &offer {
            Offer::Tokens(tokens) => {
                let first: Vec<u32> = tokens.iter().take(1).map(|token| token.0).collect();
                self.candidates += self.walk(answer, &first);
            }
            Offer::Sets { greedy, drawn } => {
                for Draw { tokens, .. } in [greedy].into_iter().chain(drawn) {
                    self.candidates += self.walk(answer, tokens);
                }
            }
        }
        Ok(offer)
    }

    fn simulate(&mut self, answer: &[u32]) -> Result<Simulation, Error> {
        let simulation = self.asking.simulate(answer)?;
        self.simulations += self.walk(answer, &simulation.tokens);
        Ok(simulation)
    }

    fn judge(&mut self, answer: &[u32], simulation: &Simulation) -> Result<Judgement, Error> {
        let model = |source| Error::Model { what: "counting", id: String::new(), source };
        let said = [answer, &simulation.tokens].concat();
        let text = self.engine.words(&said).map_err(model)?;
        for request in self.prompts.judge_requests(self.messages, &text, &[])? {
            let tokens = self.engine.prompt_tokens(&request.messages, request.raw.as_ref());
            self.judge += tokens.map_err(model)?.len() as u64;
        }
        self.asking.judge(answer, simulation)
    }

    fn embed(&mut self, pieces: &[&[u32]]) -> Result<Option<Vec<Vec<f32>>>, Error> {
        self.asking.embed(pieces)
    }

    fn read(&mut self, answer: &[u32]) -> Result<Reading, Error> {
        self.asking.read(answer)
    }
}

fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "builtin:tiny-text".to_owned());
    let engine = Engine::load(&name, &EngineOptions::default())?;
    // About as long as the published set-up: four dialogues before the question, ten examples for the judge.
    let examples =
        "Ann has 3 apples and gets 4 more. How many apples does she have? She has 7 apples.\n";
    let question =
        format!("{}Tom has 9 coins and loses 2. How many coins are left?", examples.repeat(10));
    let messages = [Message::text(Role::User, question)];
    let config = JudgeConfig { criterion: examples.repeat(10), ..JudgeConfig::default() };
    let prompts = Prompts::load(&PromptFiles::default(), PromptForm::Chat, &config)?;
    let judge = SelfJudge { scorer: &engine, prompts: &prompts, config: &config };
    let models = Models {
        generator: &engine,
        tokens: &engine,
        scorer: &engine,
        judge: &judge,
        embedder: None,
    };
    let search = Search { max_new_tokens: 60, simulation_tokens: 30, ..Search::default() };
    let prompt = engine.prompt_tokens(&messages, None)?;
    let question = Question { id: "q", seed: 1, messages: &messages, prompt: &prompt };
    let mut counting = Counting {
        asking: Asking::new(models, &search, question, false),
        engine: &engine,
        prompts: &prompts,
        messages: &messages,
        prompt: prompt.len(),
        seen: HashSet::new(),
        candidates: 0,
        simulations: 0,
        judge: 0,
    };
    let begin = Begin {
        schema: TRACE_SCHEMA,
        id: "q".to_owned(),
        key: String::new(),
        prompt_tokens: prompt.len(),
        search: search.clone(),
    };
    let (mut journal, interrupt) = (Journal::in_memory("q"), Interrupt::new());
    let searching = Searching::new(&search, &mut counting, &mut journal, &interrupt);
    let answer = searching.run(&begin, &mut |_, _| {})?;
    let counts = engine.counts();
    let ours = counts.computed_tokens + counts.decoded_tokens;
    let reference = counting.candidates + counting.simulations + counting.judge;
    let told = json!({
        "model": name,
        "prompt_tokens": prompt.len(),
        "answer_tokens": answer.token_ids.len(),
        "iterations": answer.costs.iterations,
        "judge_prompts": answer.costs.judge_prompts,
        "ours": {"prompts_and_labels": counts.computed_tokens, "drawn": counts.decoded_tokens, "all": ours},
        "reference": {
            "candidates": counting.candidates,
            "simulations": counting.simulations,
            "judge": counting.judge,
            "all": reference,
        },
        "ratio": reference as f64 / ours as f64,
    });
    println!("{told}");
    Ok(())
}
