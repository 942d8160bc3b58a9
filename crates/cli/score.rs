//! `savi score`: log-probabilities of a continuation, token by token.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use savi_engine::{Engine, EngineOptions, Prompt};
use savi_schema::{Media, Message, Part, Role};
use serde_json::{Value, json};

use crate::Global;
use crate::exit::BadInput;

/// Log-probabilities of a continuation after a prompt, token by token.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("before").required(true)))]
#[command(group(clap::ArgGroup::new("after").required(true)))]
pub(crate) struct Args {
    /// A Hugging Face folder or builtin:tiny.
    #[arg(long)]
    model: String,
    /// A clip that the user's turn shows before its words; may be given several times.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["messages", "raw", "prompt_tokens"])]
    video: Vec<String>,
    /// What the user says.
    #[arg(long, value_name = "TEXT", group = "before")]
    prompt: Option<String>,
    /// A conversation as JSON: a list of {"role": ..., "content": text or parts}.
    #[arg(long, value_name = "FILE", group = "before")]
    messages: Option<PathBuf>,
    /// The prompt as tokens, template and all.
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', group = "before")]
    prompt_tokens: Option<Vec<u32>>,
    /// What follows.
    #[arg(long, value_name = "TEXT", group = "after")]
    continuation: Option<String>,
    /// What follows, as tokens.
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', group = "after")]
    continuation_tokens: Option<Vec<u32>>,
    /// Take the prompt as it is, without the chat template.
    #[arg(long, requires = "prompt")]
    raw: bool,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let options = EngineOptions {
        device: args.device.clone(),
        dtype: args.dtype.clone(),
        ..EngineOptions::default()
    };
    let engine = Engine::load(&args.model, &options).map_err(|e| BadInput(e.into()))?;
    let prompt = prompt(&engine, &args)?;
    let tokens = match (&args.continuation_tokens, &args.continuation) {
        (Some(tokens), _) => tokens.clone(),
        (None, Some(text)) => engine.text().encode(text).map_err(|e| BadInput(e.into()))?,
        (None, None) => Vec::new(),
    };
    if tokens.is_empty() {
        return Err(BadInput(anyhow!("the continuation has no tokens")).into());
    }
    let scored = engine.score_tokens(&prompt, vec![tokens]).map_err(|e| BadInput(e.into()))?;
    let Some(score) = scored.into_iter().next() else {
        return Err(anyhow!("the continuation was not scored"));
    };
    let total: f64 = score.logps.iter().map(|&logp| f64::from(logp)).sum();
    if global.json {
        let out = json!({
            "prompt_tokens": prompt.ids,
            "tokens": score.token_ids,
            "logprobs": score.logps,
            "total": total,
        });
        println!("{out}");
        return Ok(());
    }
    for (&token, logp) in score.token_ids.iter().zip(&score.logps) {
        println!("{logp:>10.4}  {token:>7}  {:?}", engine.text().decode(&[token])?);
    }
    let count = score.token_ids.len();
    let perplexity = (-total / count as f64).exp();
    println!("{total:>10.4}  in all, {count} tokens, perplexity {perplexity:.4}");
    Ok(())
}

fn prompt(engine: &Engine, args: &Args) -> anyhow::Result<Prompt> {
    if let Some(ids) = &args.prompt_tokens {
        return Ok(Prompt { ids: ids.clone(), clips: Vec::new() });
    }
    let messages = match (&args.prompt, &args.messages) {
        (Some(text), _) if args.raw => {
            return Ok(engine.text().raw(text).map_err(|e| BadInput(e.into()))?);
        }
        (Some(text), _) => {
            let clips = args.video.iter().map(|source| video(source.clone()));
            let words = Part::Text { text: text.clone() };
            vec![Message { role: Role::User, content: clips.chain([words]).collect() }]
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)?;
            let list: Vec<Value> = serde_json::from_str(&text)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)?;
            let parsed = list.iter().enumerate().map(|(i, value)| {
                message(value).with_context(|| format!("{}: message {i}", path.display()))
            });
            parsed.collect::<anyhow::Result<_>>().map_err(BadInput)?
        }
        (None, None) => Vec::new(),
    };
    Ok(engine.prompt(&messages).map_err(|e| BadInput(e.into()))?)
}

fn video(source: String) -> Part {
    Part::Video(Media { source, policy: None })
}

/// A message as the field writes them: content is a text, or parts that hold a text or a clip.
fn message(value: &Value) -> anyhow::Result<Message> {
    let role = value.get("role").cloned().unwrap_or_default();
    let role = serde_json::from_value(role).context("role")?;
    let content = match value.get("content") {
        Some(Value::String(text)) => vec![Part::Text { text: text.clone() }],
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<anyhow::Result<_>>()?,
        _ => return Err(anyhow!("content is neither a text nor a list of parts")),
    };
    Ok(Message { role, content })
}

fn part(value: &Value) -> anyhow::Result<Part> {
    let word = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    match word("type").as_deref() {
        Some("text") => Ok(Part::Text { text: word("text").context("a part without its text")? }),
        Some("video") => ["source", "video", "path", "url"]
            .iter()
            .find_map(|key| word(key))
            .map(video)
            .context("a video part without its source"),
        Some("image") => Err(anyhow!("still pictures are not supported yet")),
        other => Err(anyhow!("a part of the unknown type {other:?}")),
    }
}
