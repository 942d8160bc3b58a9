//! `savi plan`: what a training will take, before anything runs.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use savi_run::{disk_space, machine_memory};
use savi_train::Plan;
use serde_json::{Value, json};

use crate::Global;
use crate::exit::BadInput;
use crate::run_args::RunArgs;
use crate::train;

/// Tokens, steps, memory, time and disk of a training, before it begins.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A config of `savi train dpo`, `grpo`, `ppo`, of `savi train sft` on files, or of `savi text sar`, `dno`,
    /// `self-align`.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a config key, for example dpo.optim.max_steps=10.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Memory that there is, in GiB [default: that of this machine].
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
    /// The folder that the run is to be made in.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let memory = match args.memory {
        Some(gib) if gib.is_finite() && gib > 0.0 => Some((gib * (1u64 << 30) as f64) as u64),
        Some(gib) => return Err(BadInput(anyhow!("--memory {gib}: a positive number")).into()),
        None => machine_memory().map(|(all, _)| all),
    };
    let run = RunArgs { config: args.config.clone(), set: args.set.clone(), ..RunArgs::default() };
    let text = std::fs::read_to_string(&args.config).unwrap_or_default();
    let table = toml::from_str::<toml::Table>(&text).unwrap_or_default();
    let plan = match table.contains_key("method") {
        true => crate::text::plan(&run, &table, memory)?,
        false => train::plan(&run, &table, memory)?,
    };
    let disk = disk_space(&args.dir).map(|(free, _)| free);
    if global.json {
        let mut told = serde_json::to_value(&plan)?;
        told["machine"] = json!({"memory": memory, "disk_free": disk});
        println!("{told}");
    } else {
        show(&plan, memory, disk);
    }
    check(&plan, memory, disk, &args.dir).map_err(|error| BadInput(error).into())
}

fn check(plan: &Plan, memory: Option<u64>, disk: Option<u64>, dir: &Path) -> anyhow::Result<()> {
    if let Some(memory) = memory {
        ensure!(
            plan.memory.total <= memory,
            "it cannot fit: {} of memory are needed, {} are there; a smaller \
             per_device_train_batch_size, gradient_checkpointing or a smaller lora_r take less",
            gib(plan.memory.total),
            gib(memory)
        );
    }
    if let Some(free) = disk {
        ensure!(
            plan.disk_bytes <= free,
            "it cannot fit: {} of disk are needed, {} are free in {}; a smaller save_total_limit takes less",
            gib(plan.disk_bytes),
            gib(free),
            dir.display()
        );
    }
    Ok(())
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

fn show(plan: &Plan, memory: Option<u64>, disk: Option<u64>) {
    let of =
        |there: Option<u64>| there.map_or(String::new(), |there| format!(" of {}", gib(there)));
    println!("records    {}, the longest of {} tokens", plan.records, plan.longest_record);
    println!("steps      {} ({:.2} epochs)", plan.steps, plan.epochs);
    println!("tokens     {} ({} an epoch)", plan.tokens, plan.tokens_per_epoch);
    println!("weights    {}, of which {} train", plan.parameters, plan.trainable);
    println!("memory     {}{}", gib(plan.memory.total), of(memory));
    if let Ok(Value::Object(parts)) = serde_json::to_value(plan.memory) {
        for (name, bytes) in parts.iter().filter(|(name, _)| *name != "total") {
            println!("  {name:<12} {}", gib(bytes.as_u64().unwrap_or(0)));
        }
    }
    println!("time       about {:.0} s", plan.seconds);
    println!("disk       {}{}", gib(plan.disk_bytes), of(disk));
}
