//! `savi model`: what a model is made of, and what can be made of it.

use std::collections::BTreeMap;

use savi_engine::ModelDir;
use savi_models::Model;
use serde_json::{Value, json};

use crate::convert::{self, Convert, Merge};
use crate::exit::BadInput;
use crate::{Global, hub};

/// Look at models, convert and merge them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Family, shape, parameters and the memory that they take.
    Show(Show),
    /// Write a model in another format or with other types of values.
    Convert(Convert),
    /// Add PEFT adapters to the weights of a model.
    Merge(Merge),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// A Hugging Face folder, a .gguf file, a name on the hub or builtin:tiny.
    model: String,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Show(show) => run_show(&show, global),
        Command::Convert(args) => convert::run_convert(&args, global),
        Command::Merge(args) => convert::run_merge(&args, global),
    }
}

fn run_show(args: &Show, global: &Global) -> anyhow::Result<()> {
    hub::fetch(&args.model)?;
    let dir = ModelDir::find(&args.model).map_err(|e| BadInput(e.into()))?;
    let config = &dir.files.config;
    let decoder = Model::decoder_config(config).map_err(|e| BadInput(e.into()))?;
    let family = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    // Parts by the start of their names, which ends before the first number.
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    let mut stored: BTreeMap<String, u64> = BTreeMap::new();
    for (name, kind, shape) in dir.files.tensors.shapes() {
        let count = shape.iter().map(|&n| n as u64).product::<u64>();
        let steps = name.split('.').take_while(|step| step.parse::<u64>().is_err());
        let mut steps: Vec<&str> = steps.collect();
        if steps.len() > 1 && matches!(steps.last(), Some(&"weight" | &"bias")) {
            steps.pop();
        }
        *parts.entry(steps.join(".")).or_default() += count;
        *stored.entry(kind).or_default() += count;
    }
    let total: u64 = parts.values().sum();
    let head = decoder.num_key_value_heads * decoder.head_dim;
    // Keys and values of a token in all layers.
    let cached = 2 * (decoder.layers.len() * head) as u64;
    let memory = |bytes: u64| {
        json!({
            "weights": total * bytes,
            "kv_per_1000_tokens": cached * bytes * 1000,
            // Gradients in the weights' type, both moments of AdamW in f32.
            "train": total * (2 * bytes + 8),
        })
    };
    let windows: Vec<Option<usize>> = decoder.layers.iter().map(|layer| layer.window).collect();
    let shown = json!({
        "model": args.model,
        "family": family,
        "parameters": total,
        "parts": parts,
        "stored": stored,
        "decoder": {
            "layers": decoder.layers.len(),
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.intermediate_size,
            "num_attention_heads": decoder.num_attention_heads,
            "num_key_value_heads": decoder.num_key_value_heads,
            "head_dim": decoder.head_dim,
            "vocab_size": decoder.vocab_size,
            "max_position_embeddings": decoder.max_position_embeddings,
            "tied": decoder.tied,
            "windows": windows,
        },
        "memory": {"f32": memory(4), "bf16": memory(2)},
        "chat_template": dir.text.template.is_some(),
    });
    if global.json {
        println!("{shown}");
        return Ok(());
    }
    println!("{:<12}{family}", "family");
    println!("{:<12}{}", "parameters", grouped(total));
    for (part, count) in &parts {
        println!("  {:<58}{:>16}", part, grouped(*count));
    }
    let kinds = stored.iter().map(|(kind, count)| format!("{} as {kind}", grouped(*count)));
    println!("{:<12}{}", "stored", kinds.collect::<Vec<_>>().join(", "));
    println!(
        "{:<12}{} layers of {}, {} heads of {} ({} for keys), MLP {}, vocabulary {}, {} positions",
        "decoder",
        decoder.layers.len(),
        decoder.hidden_size,
        decoder.num_attention_heads,
        decoder.head_dim,
        decoder.num_key_value_heads,
        decoder.intermediate_size,
        decoder.vocab_size,
        decoder.max_position_embeddings
    );
    let windowed = windows.iter().filter(|window| window.is_some()).count();
    if let (Some(Some(window)), true) = (windows.iter().find(|w| w.is_some()), windowed > 0) {
        println!("{:<12}{windowed} of the layers look back over {window} tokens", "windows");
    }
    for (dtype, bytes) in [("f32", 4), ("bf16", 2)] {
        println!(
            "{:<12}{} to run, {} more for 1,000 tokens; {} to train all of it",
            dtype,
            mebibytes(total * bytes),
            mebibytes(cached * bytes * 1000),
            mebibytes(total * (2 * bytes + 8)),
        );
    }
    println!("{:<12}{}", "template", if dir.text.template.is_some() { "yes" } else { "none" });
    Ok(())
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
