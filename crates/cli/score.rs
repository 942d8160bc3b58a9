//! `savi score`: log-probabilities of continuations, token by token.

use anyhow::anyhow;
use savi_engine::{Engine, EngineOptions};
use serde_json::json;

use crate::Global;
use crate::asked::Asked;
use crate::exit::BadInput;

/// Log-probabilities of a continuation after a prompt, token by token.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("before").required(true)))]
#[command(group(clap::ArgGroup::new("after").required(true)))]
pub(crate) struct Args {
    /// A Hugging Face folder, a .gguf file, a name on the hub or builtin:tiny.
    #[arg(long)]
    model: String,
    #[command(flatten)]
    asked: Asked,
    /// What follows; of several, each is scored after the prompt, all in one pass.
    #[arg(long, value_name = "TEXT", group = "after")]
    continuation: Vec<String>,
    /// What follows, as tokens.
    #[arg(
        long,
        value_name = "ID,ID,...",
        value_delimiter = ',',
        group = "after",
        conflicts_with = "continuation"
    )]
    continuation_tokens: Option<Vec<u32>>,
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
    let prompt = args.asked.prompt(&engine)?;
    let encode = |text: &String| engine.text().encode(text).map_err(|e| BadInput(e.into()));
    let continuations = match args.continuation_tokens {
        Some(tokens) => vec![tokens],
        None => args.continuation.iter().map(encode).collect::<Result<_, _>>()?,
    };
    if continuations.iter().any(Vec::is_empty) {
        return Err(BadInput(anyhow!("the continuation has no tokens")).into());
    }
    let scored = engine.score_tokens(&prompt, continuations).map_err(|e| BadInput(e.into()))?;
    for score in &scored {
        if global.json {
            let out = json!({
                "prompt_tokens": prompt.ids,
                "tokens": score.token_ids,
                "logprobs": score.logps,
                "total": score.sum(),
            });
            println!("{out}");
            continue;
        }
        for (&token, logp) in score.token_ids.iter().zip(&score.logps) {
            println!("{logp:>10.4}  {token:>7}  {:?}", engine.text().decode(&[token])?);
        }
        let (total, count) = (score.sum(), score.token_ids.len());
        let perplexity = score.perplexity();
        println!("{total:>10.4}  in all, {count} tokens, perplexity {perplexity:.4}");
    }
    Ok(())
}
