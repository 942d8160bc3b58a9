//! `savi score`: log-probabilities of a continuation, token by token.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use savi_engine::{Engine, EngineOptions, Prompt, Shown};
use savi_models::VisualKind;
use savi_schema::{CountRule, FrameSampling, Media, MediaPolicy, Message, Part, Role};
use serde_json::{Value, json};

use crate::Global;
use crate::exit::BadInput;

/// Log-probabilities of a continuation after a prompt, token by token.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("before").required(true)))]
#[command(group(clap::ArgGroup::new("after").required(true)))]
pub(crate) struct Args {
    /// A Hugging Face folder, a .gguf file, a name on the hub or builtin:tiny.
    #[arg(long)]
    model: String,
    /// A picture that the user's turn shows before its words; may be given several times. With --raw,
    /// the model's marks for pictures in the prompt are their places.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["messages", "prompt_tokens"])]
    image: Vec<String>,
    /// A clip, likewise.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["messages", "prompt_tokens"])]
    video: Vec<String>,
    /// Frames of every clip: the first of so many equal parts. Without it and --fps, as the model's own
    /// files say.
    #[arg(long, value_name = "N", conflicts_with = "fps")]
    frames: Option<usize>,
    /// Frames of every clip: so many a second.
    #[arg(long)]
    fps: Option<f64>,
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
    crate::hub::fetch(&args.model)?;
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
        return Ok(Prompt { ids: ids.clone(), ..Prompt::default() });
    }
    let messages = match (&args.prompt, &args.messages) {
        (Some(text), _) if args.raw => {
            let of = |kind, sources: &[String]| -> Vec<Shown> {
                let media = sources.iter().map(|source| args.media(source));
                media.map(|media| Shown { kind, media, pictures: 0 }).collect()
            };
            let shown = [of(VisualKind::Image, &args.image), of(VisualKind::Video, &args.video)];
            return Ok(engine.raw_prompt(text, shown.concat()).map_err(|e| BadInput(e.into()))?);
        }
        (Some(text), _) => {
            let images = args.image.iter().map(|source| Part::Image(args.media(source)));
            let clips = args.video.iter().map(|source| Part::Video(args.media(source)));
            let words = Part::Text { text: text.clone() };
            let content = images.chain(clips).chain([words]).collect();
            vec![Message { role: Role::User, content }]
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)?;
            let list: Vec<Value> = serde_json::from_str(&text)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)?;
            let parsed = list.iter().enumerate().map(|(i, value)| {
                message(value, args).with_context(|| format!("{}: message {i}", path.display()))
            });
            parsed.collect::<anyhow::Result<_>>().map_err(BadInput)?
        }
        (None, None) => Vec::new(),
    };
    Ok(engine.prompt(&messages).map_err(|e| BadInput(e.into()))?)
}

impl Args {
    fn media(&self, source: &str) -> Media {
        let policy = match (self.frames, self.fps) {
            (Some(frames), _) => Some(MediaPolicy::count(frames, CountRule::SegmentStart)),
            (None, Some(fps)) => Some(MediaPolicy::new(FrameSampling::Fps {
                fps,
                min_frames: 1,
                max_frames: 768,
                multiple_of: 1,
                rule: CountRule::SegmentStart,
            })),
            (None, None) => None,
        };
        Media { source: source.to_owned(), policy }
    }
}

/// A message as the field writes them: content is a text, or parts that hold a text or a clip.
fn message(value: &Value, args: &Args) -> anyhow::Result<Message> {
    let role = value.get("role").cloned().unwrap_or_default();
    let role = serde_json::from_value(role).context("role")?;
    let content = match value.get("content") {
        Some(Value::String(text)) => vec![Part::Text { text: text.clone() }],
        Some(Value::Array(parts)) => {
            parts.iter().map(|value| part(value, args)).collect::<anyhow::Result<_>>()?
        }
        _ => return Err(anyhow!("content is neither a text nor a list of parts")),
    };
    Ok(Message { role, content })
}

fn part(value: &Value, args: &Args) -> anyhow::Result<Part> {
    let word = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let media = |kind: &str| {
        let source = ["source", kind, "path", "url"].iter().find_map(|key| word(key));
        source
            .map(|source| args.media(&source))
            .context(format!("a part of type {kind} without its source"))
    };
    match word("type").as_deref() {
        Some("text") => Ok(Part::Text { text: word("text").context("a part without its text")? }),
        Some("video") => media("video").map(Part::Video),
        Some("image") => media("image").map(Part::Image),
        other => Err(anyhow!("a part of the unknown type {other:?}")),
    }
}
