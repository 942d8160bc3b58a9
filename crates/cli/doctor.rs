//! `savi doctor`: what this machine offers, and what would not work on it.

use std::path::{Path, PathBuf};

use savi_data::hub::Hub;
use savi_endpoint::{Endpoint, EndpointOptions};
use savi_run::{disk_space, machine_memory};
use serde_json::{Map, Value, json};

use crate::Global;

/// Look at the machine: processor, memory, disk, GPU, FFmpeg, the hub's cache, a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that runs are to be made in.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Ask this OpenAI-compatible server whether it answers.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Environment variable with the server's key.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    api_key_env: Option<String>,
    /// The model to ask for, where the server has several.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    model: Option<String>,
    /// Count a GPU that cannot be used as broken.
    #[arg(long)]
    cuda: bool,
}

/// One thing that was looked at.
struct Finding {
    name: &'static str,
    /// For people.
    words: String,
    /// For programs.
    value: Value,
    /// Whether something that is needed does not work.
    broken: bool,
}

fn fine(name: &'static str, words: String, value: Value) -> Finding {
    Finding { name, words, value, broken: false }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let mut findings = vec![version(), processor(), memory(), disk("disk", &args.dir)];
    findings.push(gpu(args.cuda));
    findings.push(video());
    findings.extend(hub());
    if let Some(url) = &args.endpoint {
        findings.push(endpoint(url, args));
    }
    let broken: Vec<&str> = findings.iter().filter(|f| f.broken).map(|f| f.name).collect();
    if global.json {
        let found = findings.iter().map(|f| (f.name.to_owned(), f.value.clone()));
        let mut told: Map<String, Value> = found.collect();
        told.insert("broken".to_owned(), json!(broken));
        println!("{}", Value::Object(told));
    } else {
        for finding in &findings {
            let mark = if finding.broken { "BROKEN " } else { "" };
            println!("{:<10} {mark}{}", finding.name, finding.words);
        }
    }
    anyhow::ensure!(broken.is_empty(), "does not work: {}", broken.join(", "));
    Ok(())
}

fn version() -> Finding {
    let (own, os, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let features = [("cuda", cfg!(feature = "cuda")), ("hub", cfg!(feature = "hub"))];
    let features = features.into_iter().chain([("video", cfg!(feature = "video"))]);
    let built: Vec<&str> = features.filter(|(_, has)| *has).map(|(name, _)| name).collect();
    let words = format!("savi {own} on {os}, {arch}; built with {}", built.join(", "));
    let value = json!({"savi": own, "os": os, "arch": arch, "features": built});
    fine("version", words, value)
}

fn processor() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let features = processor_features();
    let listed: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(n, _)| *n).collect();
    let told = if listed.is_empty() { "no vector features".to_owned() } else { listed.join(", ") };
    let by_name = |&(name, has): &(&str, bool)| (name.to_owned(), json!(has));
    let all: Map<String, Value> = features.iter().map(by_name).collect();
    fine("processor", format!("{cores} cores; {told}"), json!({"cores": cores, "features": all}))
}

#[cfg(target_arch = "x86_64")]
fn processor_features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

fn memory() -> Finding {
    match machine_memory() {
        Some((all, free)) => {
            let words = format!("{}, {} free", gib(all), gib(free));
            fine("memory", words, json!({"total": all, "available": free}))
        }
        None => fine("memory", "not told by this system".to_owned(), Value::Null),
    }
}

/// A folder that has to be written to.
fn disk(name: &'static str, dir: &Path) -> Finding {
    let shown = dir.display();
    let space = disk_space(dir);
    let writable = std::path::absolute(dir).ok().and_then(|path| {
        let there = path.ancestors().find(|folder| folder.exists())?.to_owned();
        let probe = there.join(format!(".savi-doctor-{}", std::process::id()));
        let written = std::fs::write(&probe, "x");
        let _ = std::fs::remove_file(&probe);
        written.err()
    });
    let (free, total) = space.unzip();
    let value = json!({"path": dir, "free": free, "total": total,
        "error": writable.as_ref().map(ToString::to_string)});
    let words = match (&writable, free) {
        (Some(error), _) => format!("{shown}: cannot be written: {error}"),
        (None, Some(free)) => format!("{shown}: {} free", gib(free)),
        (None, None) => format!("{shown}: can be written"),
    };
    Finding { name, words, value, broken: writable.is_some() }
}

fn gpu(needed: bool) -> Finding {
    match savi_nn::device::probe_cuda() {
        Ok(devices) => fine("cuda", format!("{devices} devices"), json!({"devices": devices})),
        Err(why) => {
            let value = json!({"devices": 0, "reason": why});
            Finding { name: "cuda", words: format!("not used: {why}"), value, broken: needed }
        }
    }
}

#[cfg(feature = "video")]
fn video() -> Finding {
    let found = savi_video_ingest::libraries();
    let versions = found.versions.iter().map(|(name, version)| format!("{name} {version}"));
    let versions: Vec<String> = versions.collect();
    let with = |wanted: bool| -> Vec<&str> {
        found.decoders.iter().filter(|(_, has)| *has == wanted).map(|(name, _)| *name).collect()
    };
    let mut words = format!("{}; decodes {}", versions.join(", "), with(true).join(", "));
    if !with(false).is_empty() {
        words = format!("{words}; without {}", with(false).join(", "));
    }
    let decoders = found.decoders.iter().map(|(name, has)| ((*name).to_owned(), json!(has)));
    let libraries = found.versions.iter().map(|(name, v)| ((*name).to_owned(), json!(v)));
    let (libraries, decoders): (Map<_, _>, Map<_, _>) = (libraries.collect(), decoders.collect());
    let value = json!({"libraries": libraries, "decoders": decoders});
    Finding { name: "ffmpeg", words, value, broken: with(true).is_empty() }
}

#[cfg(not(feature = "video"))]
fn video() -> Finding {
    let words = "this build reads no video files (feature `video`)".to_owned();
    fine("ffmpeg", words.clone(), json!({"reason": words}))
}

/// The hub's settings and its cache; a token is only said to be there.
fn hub() -> Vec<Finding> {
    let hub = match Hub::from_env() {
        Ok(hub) => hub,
        Err(error) => {
            let words = error.to_string();
            return vec![fine("hub", words.clone(), json!({"reason": words}))];
        }
    };
    let (token, offline) = (hub.has_token(), hub.is_offline());
    let words = format!(
        "{}; {}{}; models in {}",
        hub.endpoint(),
        if token { "with a token" } else { "no token" },
        if offline { "; offline" } else { "" },
        hub.cache().display()
    );
    let value = json!({"endpoint": hub.endpoint(), "token": token, "offline": offline,
        "cache": hub.cache(), "cache_exists": hub.cache().exists()});
    let mut found = vec![fine("hub", words, value)];
    let cache = disk("hub cache", hub.cache());
    // A cache that others fill serves just as well.
    found.push(Finding { broken: false, ..cache });
    found
}

fn endpoint(url: &str, args: &Args) -> Finding {
    let options = EndpointOptions {
        base_url: url.to_owned(),
        model: args.model.clone().unwrap_or_default(),
        api_key_env: args.api_key_env.clone(),
        max_retries: 0,
        ..EndpointOptions::default()
    };
    match Endpoint::new(options) {
        Ok(server) => {
            let (model, dialect) = (server.model().to_owned(), server.dialect().name());
            let words = format!("{} answers with {model} (dialect {dialect})", server.base_url());
            fine("endpoint", words, json!({"url": url, "model": model, "dialect": dialect}))
        }
        Err(error) => {
            let words = format!("{url}: {error}");
            let value = json!({"url": url, "error": error.to_string()});
            Finding { name: "endpoint", words, value, broken: true }
        }
    }
}
