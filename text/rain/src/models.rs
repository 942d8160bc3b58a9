//! What a search asks of real models: candidates, simulations, judgements and embeddings.
//!
//! Every request continues the prompt's tokens and the answer so far, so an engine that keeps keys and values by
//! content finds all but the last set computed; going back to the root costs nothing.

use savi_schema::{
    Completion, Embed, Generate, Message, RawPrompt, Request, Sampling, Score, Tokenize,
};

use crate::formulae::{self, Draw};
use crate::trace::{Reading, Simulation};
use crate::{Error, Judge, Judgement, Offer, Oracle, Search};

/// The models of a search.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// Draws candidates and simulations.
    pub generator: &'a dyn Generate,
    /// Knows the generator's tokens.
    pub tokens: &'a dyn Tokenize,
    /// Tells the log-probabilities of finished answers; the generator's own model.
    pub scorer: &'a dyn Score,
    /// Judges.
    pub judge: &'a dyn Judge,
    /// Embeds texts; without one there is neither similarity nor addition of nodes.
    pub embedder: Option<&'a dyn Embed>,
}

impl std::fmt::Debug for Models<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("embeds", &self.embedder.is_some()).finish()
    }
}

/// A question that is searched for.
#[derive(Debug, Clone, PartialEq)]
pub struct Question<'a> {
    /// Unique within a run; random numbers depend on it, the seed and the answer so far, on nothing else.
    pub id: &'a str,
    /// See `id`.
    pub seed: u64,
    /// The conversation that the judge sees.
    pub messages: &'a [Message],
    /// Tokens of the prompt.
    pub prompt: &'a [u32],
}

/// Asks models about one question.
#[derive(Debug)]
pub struct Asking<'a> {
    models: Models<'a>,
    config: &'a Search,
    question: Question<'a>,
    whole_sentences: bool,
    ends: Vec<u32>,
}

impl<'a> Asking<'a> {
    /// `whole_sentences`: the judge sees answers up to their last full stop.
    pub fn new(
        models: Models<'a>,
        config: &'a Search,
        question: Question<'a>,
        whole_sentences: bool,
    ) -> Self {
        Self { models, config, question, whole_sentences, ends: models.tokens.end_tokens() }
    }

    fn wrong(&self, what: &'static str, reason: impl Into<String>) -> Error {
        Error::Answer { what, id: self.question.id.to_owned(), reason: reason.into() }
    }

    /// Draws after an answer; `name` tells its draws from all others of the question.
    fn draw(
        &self,
        what: &'static str,
        name: &str,
        answer: &[u32],
        samplings: Vec<Sampling>,
    ) -> Result<Vec<Completion>, Error> {
        let asked = samplings.len();
        let tokens = [self.question.prompt, answer].concat();
        let request = Request {
            id: format!("{}/{what}/{}/{name}", self.question.id, hash_of(answer)),
            raw: Some(RawPrompt::Tokens(tokens)),
            samplings,
            seed: self.question.seed,
            ..Request::default()
        };
        let drawn = self.models.generator.generate(std::slice::from_ref(&request));
        let drawn = drawn.map_err(|source| Error::model(what, self.question.id, source))?;
        let drawn = drawn.into_iter().next().unwrap_or_default();
        if drawn.len() != asked || drawn.iter().any(|completion| completion.token_ids.is_empty()) {
            let reason =
                format!("{} completions with tokens where {asked} were asked for", drawn.len());
            return Err(self.wrong(what, reason));
        }
        Ok(drawn)
    }

    /// Tokens that an answer may still get.
    fn room(&self, answer: usize) -> usize {
        let total = self.config.max_length.saturating_sub(self.question.prompt.len() + answer);
        total.min(self.config.max_new_tokens.saturating_sub(answer))
    }

    fn words(&self, tokens: &[u32]) -> Result<String, Error> {
        let words = self.models.tokens.words(tokens);
        words.map_err(|source| Error::model("reading", self.question.id, source))
    }

    /// The text up to the first stop string, and whether there is one.
    fn cut(&self, mut text: String) -> (String, bool) {
        let first = self.config.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        if let Some(at) = first {
            text.truncate(at);
        }
        (text, first.is_some())
    }

    fn judged_text(&self, tokens: &[u32]) -> Result<String, Error> {
        let (mut text, _) = self.cut(self.words(tokens)?);
        if self.whole_sentences
            && let Some(stop) = text.rfind('.')
        {
            text.truncate(stop + 1);
        }
        Ok(text)
    }

    /// The log-probability of the greedy set under the distribution that the others are drawn from.
    fn greedy_logp(&self, greedy: &Completion) -> Result<f64, Error> {
        let mut sum = 0.0;
        for (at, &logp) in greedy.logps.iter().enumerate() {
            let Some(top) = greedy.top_logps.get(at).filter(|top| !top.is_empty()) else {
                let reason = "the back end does not tell the likeliest tokens";
                return Err(self.wrong("candidates", reason));
            };
            let temperature = self.config.temperature;
            let weight = |l: f32| (f64::from(l - logp) / temperature).exp();
            let total: f64 = top.iter().map(|token| weight(token.logp)).sum();
            sum -= total.ln();
        }
        Ok(sum)
    }
}

fn hash_of(tokens: &[u32]) -> String {
    let mut hasher = blake3::Hasher::new();
    tokens.iter().for_each(|token| {
        hasher.update(&token.to_le_bytes());
    });
    hasher.finalize().to_hex()[..16].to_owned()
}

impl Oracle for Asking<'_> {
    fn offer(
        &mut self,
        answer: &[u32],
        length: usize,
        more: Option<usize>,
    ) -> Result<Offer, Error> {
        let what = "candidates";
        let config = self.config;
        if length == 1 {
            // Children that come later are taken from the same list.
            let kept = if config.addition { config.max_children + 1 } else { 0 };
            let top_logprobs = config.candidates.max(kept);
            let sampling = Sampling { max_tokens: 1, top_logprobs, ..Sampling::default() };
            let drawn = self.draw(what, "tokens", answer, vec![sampling])?;
            let top = drawn.first().and_then(|drawn| drawn.top_logps.first());
            let top = top.filter(|top| !top.is_empty()).ok_or_else(|| {
                self.wrong(what, "the back end does not tell the likeliest tokens")
            })?;
            let tokens = top.iter().map(|token| (token.token_id, f64::from(token.logp)));
            return Ok(Offer::Tokens(tokens.collect()));
        }
        let length = length.min(self.room(answer.len())).max(1);
        let (most, draws) = match more {
            None => (config.candidates - 1, config.draws),
            Some(_) => (1, config.addition_draws),
        };
        let name = more.map_or_else(|| "sets".to_owned(), |children| format!("more-{children}"));
        let at_first = most.min(draws);
        let mut samplings = vec![config.greedy(length)];
        samplings.extend(std::iter::repeat_n(config.sampled(length), at_first));
        let mut drawn = self.draw(what, &name, answer, samplings)?;
        let first = drawn.remove(0);
        let greedy = Draw { logp: self.greedy_logp(&first)?, tokens: first.token_ids };
        let as_draw = |completion: Completion| {
            let told = &completion.sampling_logps;
            if told.len() != completion.token_ids.len() {
                let reason = "the back end does not tell how likely it drew its tokens";
                return Err(self.wrong(what, reason));
            }
            let logp = told.iter().map(|&logp| f64::from(logp)).sum();
            Ok(Draw { tokens: completion.token_ids, logp })
        };
        let mut drawn = drawn.into_iter().map(as_draw).collect::<Result<Vec<_>, _>>()?;
        // The rest is drawn only where twins left places free.
        let found = formulae::candidates(&greedy, &drawn, most).len() - 1;
        if found < most && draws > at_first {
            let samplings = vec![config.sampled(length); draws - at_first];
            let again = self.draw(what, &format!("{name}-again"), answer, samplings)?;
            drawn.extend(again.into_iter().map(as_draw).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(Offer::Sets { greedy, drawn })
    }

    fn simulate(&mut self, answer: &[u32]) -> Result<Simulation, Error> {
        let config = self.config;
        let mut said = answer.to_vec();
        let has_ended = |said: &[u32]| said.last().is_some_and(|last| self.ends.contains(last));
        let (_, stopped) = self.cut(self.words(&said)?);
        let ended = stopped || has_ended(&said) || self.room(said.len()) == 0;
        let mut rounds = 0;
        loop {
            let (text, stopped) = self.cut(self.words(&said)?);
            let is_clause = config.simulation_end.iter().any(|end| text.ends_with(end));
            let drawn = said.len() - answer.len();
            let room = self.room(said.len()).min(config.simulation_tokens.saturating_sub(drawn));
            if ended || stopped || is_clause || has_ended(&said) || room == 0 {
                break;
            }
            // A string that ends a simulation may come in the middle of a token; then it goes on.
            let sampling = Sampling {
                temperature: config.simulation_temperature,
                max_tokens: room,
                stop: config.simulation_end.iter().chain(&config.stop).cloned().collect(),
                ..Sampling::default()
            };
            let drawn = self.draw("simulation", &rounds.to_string(), &said, vec![sampling])?;
            drawn.into_iter().for_each(|drawn| said.extend(drawn.token_ids));
            rounds += 1;
        }
        let text = self.judged_text(&said)?;
        let hash = hash_of_text(&text);
        Ok(Simulation { tokens: said.split_off(answer.len()), ended, hash })
    }

    fn judge(&mut self, answer: &[u32], simulation: &Simulation) -> Result<Judgement, Error> {
        let text = self.judged_text(&[answer, &simulation.tokens].concat())?;
        let Question { id, messages, .. } = self.question;
        let mut judged = self.models.judge.judge(id, messages, &[text])?;
        match (judged.pop(), judged.is_empty()) {
            (Some(judgement), true) if (-1.0..=1.0).contains(&judgement.score) => Ok(judgement),
            _ => Err(self.wrong("judging", "not one score from -1 to 1")),
        }
    }

    fn embed(&mut self, pieces: &[&[u32]]) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let Some(embedder) = self.models.embedder else { return Ok(None) };
        let texts = pieces.iter().map(|piece| self.words(piece)).collect::<Result<Vec<_>, _>>()?;
        let vectors = embedder
            .embed_texts(&texts)
            .map_err(|source| Error::model("embedding", self.question.id, source))?;
        if vectors.len() != texts.len() {
            return Err(self.wrong("embedding", "another number of vectors than of texts"));
        }
        Ok(Some(vectors))
    }

    fn read(&mut self, answer: &[u32]) -> Result<Reading, Error> {
        let (text, stopped) = self.cut(self.words(answer)?);
        let ended = stopped || answer.last().is_some_and(|last| self.ends.contains(last));
        Ok(Reading { text, ended, hash: hash_of_text(&self.judged_text(answer)?) })
    }
}

fn hash_of_text(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}
