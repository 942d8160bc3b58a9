//! `savi generate`: what a model says to a prompt, or to each request of a file.

mod rain;
mod results;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use savi_engine::{Engine, EngineOptions, FeatureFolder};
use savi_run::{Interrupt, Key, Progress};
use savi_schema::{
    Completion, Constraint, Event, FinishReason, Generate, GenerateError, Message, RawPrompt,
    Request, Role, Sampling,
};
use serde_json::{Map, Value, json};

use crate::Global;
use crate::asked::{Asked, Look};
use crate::exit::{BadInput, Interrupted};
use results::Results;

/// Continue a prompt, or every request of a file.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("before").required(true)))]
pub(crate) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    asked: Asked,
    /// Requests, a JSON object a line: "prompt" (what the user says), "messages" (a conversation) or "raw" (a
    /// text or tokens as they are), and where they like "id", "n", "seed" and settings of sampling.
    #[arg(long, value_name = "FILE", group = "before")]
    requests: Option<PathBuf>,
    /// Write results here instead of printing them, a JSON object a line in the order of the requests. What
    /// an interrupted run has written is kept, and goes on.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the text as it is written.
    #[arg(long, conflicts_with_all = ["requests", "out"])]
    stream: bool,
    /// Search each answer by RAIN, without an embedder; the file has the keys of the section method in
    /// configs/text/rain.toml. Of the sampling, --max-tokens and --stop hold.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["requests", "stream", "raw", "prompt_tokens"]
    )]
    rain: Option<PathBuf>,
    /// Completions of each prompt.
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// Random numbers depend on it and the request's id.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Where a model runs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EngineArgs {
    /// A Hugging Face folder, a .gguf file, a name on the hub or builtin:tiny.
    #[arg(long)]
    pub(crate) model: String,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: String,
    /// GiB of keys and values in memory.
    #[arg(long, value_name = "GIB", default_value_t = 1.0)]
    pub(crate) kv_cache: f64,
    /// Compute every prompt by itself, also what it has in common with others.
    #[arg(long)]
    pub(crate) no_prefix_sharing: bool,
    /// Rows that decode together.
    #[arg(long, value_name = "N", default_value_t = 192)]
    pub(crate) max_rows: usize,
    /// Tokens of prompts that one pass takes in.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(crate) prefill_chunk: usize,
    /// Keep visual tokens of pictures and clips in this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) feature_cache: Option<PathBuf>,
    /// GiB of that folder.
    #[arg(long, value_name = "GIB", default_value_t = 10.0)]
    pub(crate) feature_cache_size: f64,
}

impl EngineArgs {
    pub(crate) fn options(&self) -> anyhow::Result<EngineOptions> {
        let bytes = |name: &str, gib: f64| {
            let fits = gib > 0.0 && gib < 1e6;
            let wrong = || BadInput(anyhow!("--{name} {gib}: not a size in GiB"));
            fits.then_some((gib * f64::from(1 << 30)) as u64).ok_or_else(wrong)
        };
        let max_bytes = bytes("feature-cache-size", self.feature_cache_size)?;
        Ok(EngineOptions {
            device: self.device.clone(),
            dtype: self.dtype.clone(),
            kv_budget: bytes("kv-cache", self.kv_cache)? as usize,
            prefix_sharing: !self.no_prefix_sharing,
            max_rows: self.max_rows,
            prefill_chunk: self.prefill_chunk,
            feature_folder: self.feature_cache.clone().map(|dir| FeatureFolder { dir, max_bytes }),
            ..EngineOptions::default()
        })
    }

    pub(crate) fn load(&self, options: &EngineOptions) -> anyhow::Result<Engine> {
        crate::hub::fetch(&self.model)?;
        Ok(Engine::load(&self.model, options).map_err(|error| BadInput(error.into()))?)
    }
}

/// How tokens are drawn.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Draw from the likeliest tokens that hold this share of the probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Draw from so many of the likeliest tokens; 0: from all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Draw from tokens of at least this share of the likeliest one's probability.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Draw from the most typical tokens that hold this share of the probability.
    #[arg(long, default_value_t = 1.0)]
    typical_p: f64,
    /// Logits of tokens that were said are divided by this.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Taken off the logits of tokens that were drawn.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f64,
    /// Taken off the logits of drawn tokens for every time.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f64,
    /// No n-gram of this length comes twice.
    #[arg(long, default_value_t = 0)]
    no_repeat_ngram_size: usize,
    /// Fewest tokens.
    #[arg(long, default_value_t = 0)]
    min_tokens: usize,
    /// Most tokens.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Ends the text, and is no part of it; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Ends the text; several by commas.
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',')]
    stop_token_ids: Vec<u32>,
    /// Go on where the model would end.
    #[arg(long)]
    ignore_eos: bool,
    /// Tell the likeliest tokens of each place, with --json.
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_logprobs: usize,
    /// The text is one of these; may be given several times.
    #[arg(long, value_name = "TEXT", group = "constraint")]
    choice: Vec<String>,
    /// The text is JSON that the schema in this file describes.
    #[arg(long, value_name = "FILE", group = "constraint")]
    json_schema: Option<PathBuf>,
    /// The text is a JSON object.
    #[arg(long, group = "constraint")]
    json_object: bool,
    /// The text matches this regular expression.
    #[arg(long, value_name = "REGEX", group = "constraint")]
    regex: Option<String>,
    /// The text is of the Lark grammar in this file.
    #[arg(long, value_name = "FILE", group = "constraint")]
    grammar: Option<PathBuf>,
}

impl SamplingArgs {
    fn sampling(&self) -> anyhow::Result<Sampling> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)
        };
        let constraint = if !self.choice.is_empty() {
            Some(Constraint::Choice(self.choice.clone()))
        } else if let Some(path) = &self.json_schema {
            let schema = serde_json::from_str(&read(path)?)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)?;
            Some(Constraint::JsonSchema(schema))
        } else if self.json_object {
            Some(Constraint::JsonObject)
        } else if let Some(path) = &self.grammar {
            Some(Constraint::Grammar(read(path)?))
        } else {
            self.regex.clone().map(Constraint::Regex)
        };
        Ok(Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            min_tokens: self.min_tokens,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            ignore_eos: self.ignore_eos,
            top_logprobs: self.top_logprobs,
            constraint,
            ..Sampling::default()
        })
    }
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    if args.n == 0 {
        return Err(BadInput(anyhow!("--n 0 asks for nothing")).into());
    }
    let sampling = args.sampling.sampling()?;
    sampling.check().map_err(|reason| BadInput(anyhow!(reason)))?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let mut options = args.engine.options()?;
    options.interrupt = Some(interrupt.flag());
    let engine = args.engine.load(&options)?;
    let ended = match (&args.requests, &args.rain) {
        (Some(path), _) => file(&args, &engine, path, &sampling),
        (None, Some(path)) => {
            let messages = args.asked.conversation()?;
            let samplings = vec![sampling; args.n];
            rain::answers(path, &engine, messages, samplings, args.seed, &interrupt)
                .and_then(|done| tell(&args, &done, global))
        }
        (None, None) => one(&args, &engine, sampling, global),
    };
    let counts = engine.counts();
    tracing::info!(
        "{} prompt tokens, {} of them found computed; {} tokens drawn",
        counts.prompt_tokens,
        counts.cached_tokens,
        counts.decoded_tokens
    );
    ended
}

/// What a library's error means to the shell.
fn failure(error: GenerateError) -> anyhow::Error {
    match error {
        GenerateError::Interrupted => Interrupted.into(),
        GenerateError::BadRequest { .. }
        | GenerateError::TooLong { .. }
        | GenerateError::Media { .. } => BadInput(error.into()).into(),
        GenerateError::Backend(_) | GenerateError::Busy { .. } => error.into(),
    }
}

fn one(args: &Args, engine: &Engine, sampling: Sampling, global: &Global) -> anyhow::Result<()> {
    let tokens = args.asked.prompt(engine)?;
    let samplings = vec![sampling; args.n];
    let mut done: Vec<Option<Completion>> = vec![None; args.n];
    let mut failed = None;
    let mut broken = Ok(());
    let ended = engine.follow_prompt(tokens, samplings, args.seed, args.stream, |event| {
        match event {
            Event::Delta { index: 0, text, .. } if args.stream && args.n == 1 => {
                broken = write_out(&text);
                return broken.is_ok();
            }
            Event::Done { index, completion } => done[index] = Some(completion),
            Event::Failed(error) => failed = Some(error),
            Event::Waiting | Event::Started { .. } | Event::Delta { .. } => {}
        }
        true
    });
    broken?;
    if let Some(error) = failed {
        return Err(failure(error));
    }
    ended.map_err(failure)?;
    let done: Vec<Completion> = done.into_iter().flatten().collect();
    tell(args, &done, global)
}

/// Completions of one prompt, to where they are wanted.
fn tell(args: &Args, done: &[Completion], global: &Global) -> anyhow::Result<()> {
    if let Some(path) = &args.out {
        let line = format!("{}\n", record("0", done));
        return Ok(savi_run::write_atomic(path, line.as_bytes())?);
    }
    if global.json {
        println!("{}", record("0", done));
    } else if args.stream && args.n == 1 {
        println!();
    } else {
        for (i, completion) in done.iter().enumerate() {
            if args.n > 1 {
                println!("--- {i} ({})", reason(completion));
            }
            println!("{}", completion.text);
        }
    }
    Ok(())
}

fn write_out(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn reason(completion: &Completion) -> &'static str {
    match completion.finish_reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// One line of results.
fn record(id: &str, completions: &[Completion]) -> Value {
    json!({"schema": savi_schema::SCHEMA_VERSION, "id": id, "completions": completions})
}

/// Equal keys mean the same request to the same model.
fn key(engine: &Engine, request: &Request) -> String {
    let key = Key::new("generate").with("model", &engine.fingerprint());
    key.with("request", request).finish()
}

/// Every request of a file.
fn file(args: &Args, engine: &Engine, path: &Path, sampling: &Sampling) -> anyhow::Result<()> {
    let requests = read_requests(args, path, sampling)?;
    let total = requests.len();
    let order: Vec<String> = requests.iter().map(|request| request.id.clone()).collect();
    let keys: HashMap<String, String> =
        requests.iter().map(|request| (request.id.clone(), key(engine, request))).collect();
    let mut results = Results::open(args.out.as_deref(), &keys)?;
    let requests: Vec<Request> =
        requests.into_iter().filter(|request| !results.lines.contains_key(&request.id)).collect();
    let mut progress = Progress::new("requests", total as u64);
    progress.resume_at((total - requests.len()) as u64);
    let mut drawn: HashMap<usize, Vec<Option<Completion>>> = HashMap::new();
    let (mut failed, mut broken) = (0usize, None);
    let ended = engine.follow(requests.iter().cloned(), false, |number, event| {
        let id = &requests[number].id;
        let line = match event {
            Event::Done { index, completion } => {
                let of = drawn
                    .entry(number)
                    .or_insert_with(|| vec![None; requests[number].samplings.len()]);
                of[index] = Some(completion);
                if of.iter().any(Option::is_none) {
                    return true;
                }
                let of: Vec<Completion> =
                    drawn.remove(&number).unwrap_or_default().into_iter().flatten().collect();
                let mut line = record(id, &of);
                line["key"] = json!(keys.get(id));
                line
            }
            Event::Failed(error) => {
                failed += 1;
                tracing::error!("{error}");
                json!({"schema": savi_schema::SCHEMA_VERSION, "id": id, "error": error.to_string()})
            }
            Event::Waiting | Event::Started { .. } | Event::Delta { .. } => return true,
        };
        if let Err(error) = results.add(id, &line) {
            broken = Some(error);
            return false;
        }
        progress.set(results.lines.len() as u64);
        true
    });
    if let Some(error) = broken {
        return Err(error);
    }
    ended.map_err(failure)?;
    progress.finish();
    results.finish(&order)?;
    if failed > 0 {
        return Err(anyhow!("{failed} of {total} requests failed; their lines say why"));
    }
    Ok(())
}

fn read_requests(args: &Args, path: &Path, sampling: &Sampling) -> anyhow::Result<Vec<Request>> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone()).map_err(BadInput)?;
    let (mut requests, mut ids) = (Vec::new(), std::collections::HashSet::new());
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| name.clone()).map_err(BadInput)?;
        if line.trim().is_empty() {
            continue;
        }
        let whose = format!("{name}:{}", i + 1);
        let request = parse(args, &line, i, sampling, &whose)
            .with_context(|| whose.clone())
            .map_err(BadInput)?;
        if !ids.insert(request.id.clone()) {
            return Err(BadInput(anyhow!("{whose}: the id {:?} comes twice", request.id)).into());
        }
        requests.push(request);
    }
    Ok(requests)
}

/// One request; what it does not say is as on the command line.
fn parse(
    args: &Args,
    line: &str,
    index: usize,
    sampling: &Sampling,
    whose: &str,
) -> anyhow::Result<Request> {
    let mut row: Map<String, Value> = serde_json::from_str(line)?;
    let id = match row.remove("id") {
        Some(Value::String(id)) => id,
        Some(other) => other.to_string(),
        None => index.to_string(),
    };
    let look: &Look = &args.asked.look;
    let before = ["messages", "prompt", "raw"].map(|key| row.remove(key));
    let (messages, raw) = match before {
        [Some(Value::Array(list)), None, None] => (look.messages(&list, whose)?, None),
        [None, Some(Value::String(text)), None] => (vec![Message::text(Role::User, text)], None),
        [None, None, Some(Value::String(text))] => (Vec::new(), Some(RawPrompt::Text(text))),
        [None, None, Some(tokens @ Value::Array(_))] => {
            let tokens = serde_json::from_value(tokens).context("raw")?;
            (Vec::new(), Some(RawPrompt::Tokens(tokens)))
        }
        _ => {
            return Err(anyhow!(
                "needs one of \"prompt\" (what the user says), \"messages\" (a conversation) and \"raw\" (a \
                 text or tokens as they are)"
            ));
        }
    };
    let count = match row.remove("n") {
        Some(n) => serde_json::from_value::<usize>(n).context("n")?,
        None => args.n,
    };
    if count == 0 {
        return Err(anyhow!("n = 0 asks for nothing"));
    }
    let seed = match row.remove("seed") {
        Some(seed) => serde_json::from_value(seed).context("seed")?,
        None => args.seed,
    };
    let Value::Object(mut settings) = serde_json::to_value(sampling)? else {
        return Err(anyhow!("the settings of sampling are no object"));
    };
    settings.extend(row);
    let sampling: Sampling = serde_json::from_value(Value::Object(settings))?;
    sampling.check().map_err(|reason| anyhow!(reason))?;
    Ok(Request { id, messages, raw, samplings: vec![sampling; count], seed })
}
