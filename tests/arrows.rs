//! Who may depend on whom. Workspace crates stand in one row and use only what stands before them;
//! a few external crates belong to a few of ours.

use std::collections::{BTreeMap, HashMap};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The row. Methods (`video/*`, `text/*`) stand after it, beside each other; the binary comes last.
const ROW: [&str; 15] = [
    "savi-schema",
    "savi-data",
    "savi-nn",
    "savi-objectives",
    "savi-video-ingest",
    "savi-endpoint",
    "savi-models",
    "savi-engine",
    "savi-judge",
    "savi-serve",
    "savi-run",
    "savi-train",
    "savi-suites",
    "savi-report",
    "savi-worlds",
];

const BINARY: &str = "savi";

/// What a method may not use: worlds carry the truth about their clips, methods must do without it.
const HIDDEN_FROM_METHODS: &str = "savi-worlds";

const TENSORS: &[&str] =
    &["savi-nn", "savi-objectives", "savi-models", "savi-engine", "savi-train"];

/// External crates (by name, or by the start of it) and the only crates that may name them.
const EXTERNAL: [(&str, &[&str]); 21] = [
    ("ffmpeg-", &["savi-video-ingest"]),
    ("candle-", TENSORS),
    ("gemm", &["savi-nn"]),
    ("cudarc", &["savi-nn"]),
    ("tokenizers", &["savi-engine"]),
    ("llguidance", &["savi-engine"]),
    ("toktrie", &["savi-engine"]),
    ("mpi", &["savi-train"]),
    ("csv", &["savi-data"]),
    ("flate2", &["savi-data"]),
    ("parquet", &["savi-data"]),
    ("rustls", &["savi-data"]),
    ("ureq", &["savi-data", "savi-endpoint", "savi-serve"]),
    ("axum", &["savi-serve"]),
    ("hyper", &["savi-serve"]),
    ("hyper-util", &["savi-serve"]),
    ("tokio", &["savi-serve"]),
    ("prometheus-client", &["savi-serve"]),
    ("clap", &[BINARY]),
    ("mimalloc", &[BINARY]),
    ("tracing-subscriber", &[BINARY]),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata")
}

/// Everything wrong with `package`'s dependencies. Dev-dependencies are exempt from the row, not
/// from the lists of external crates.
fn faults(package: &Package, places: &HashMap<String, usize>) -> Vec<String> {
    let mut faults = Vec::new();
    let name = package.name.as_str();
    let is_method = !ROW.contains(&name) && name != BINARY;
    for dependency in &package.dependencies {
        let used = dependency.name.as_str();
        let test_only = dependency.kind == DependencyKind::Development;
        if let Some(place) = places.get(used)
            && !test_only
        {
            if *place >= places[name] {
                faults.push(format!("{name} must not use {used}: it does not stand before it"));
            }
            if is_method && used == HIDDEN_FROM_METHODS {
                faults.push(format!("{name} is a method and must not know {used}"));
            }
        }
        for (external, allowed) in EXTERNAL {
            let matches =
                used == external || (external.ends_with('-') && used.starts_with(external));
            if matches && !allowed.contains(&name) {
                faults.push(format!("{name} must not use {used}: only {}", allowed.join(", ")));
            }
        }
    }
    faults
}

/// Place of every workspace crate; methods share one, so that none of them stands before another.
fn places(metadata: &Metadata) -> HashMap<String, usize> {
    let place = |name: &str| match ROW.iter().position(|&known| known == name) {
        Some(place) => place,
        None if name == BINARY => ROW.len() + 1,
        None => ROW.len(),
    };
    metadata
        .workspace_packages()
        .iter()
        .map(|package| (package.name.to_string(), place(&package.name)))
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let places = places(&metadata);
    let faults: Vec<String> =
        metadata.workspace_packages().iter().flat_map(|p| faults(p, &places)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_crate_has_its_place() {
    let metadata = metadata();
    let root = metadata.workspace_root.clone();
    for package in metadata.workspace_packages() {
        let folder =
            package.manifest_path.parent().unwrap().strip_prefix(&root).unwrap().to_string();
        let name = package.name.as_str();
        let expected = match name.strip_prefix("savi-") {
            None => String::new(),
            Some(short) if ROW.contains(&name) => format!("crates/{short}"),
            Some(short) => {
                assert!(
                    folder == format!("video/{short}") || folder == format!("text/{short}"),
                    "{name} lies in {folder}: a crate outside the row is a method"
                );
                continue;
            }
        };
        assert_eq!(folder, expected, "{name}");
    }
}

#[test]
fn the_check_sees_a_wrong_arrow() {
    let metadata = metadata();
    let places = places(&metadata);
    let by_name: BTreeMap<&str, &Package> =
        metadata.workspace_packages().into_iter().map(|p| (p.name.as_str(), p)).collect();
    // The judge's dependencies, seen as the schema's: the schema itself is no longer before it.
    let mut schema = by_name["savi-judge"].clone();
    schema.name = by_name["savi-schema"].name.clone();
    assert!(faults(&schema, &places).iter().any(|f| f.contains("must not use savi-schema")));
    // Tensor code outside its rooms, and a second user of FFmpeg.
    let mut judge = by_name["savi-video-ingest"].clone();
    judge.name = by_name["savi-judge"].name.clone();
    assert!(faults(&judge, &places).iter().any(|f| f.contains("ffmpeg-next")));
    let mut report = by_name["savi-objectives"].clone();
    report.name = by_name["savi-report"].name.clone();
    assert!(faults(&report, &places).iter().any(|f| f.contains("candle-core")));
}

#[test]
fn candle_and_ffmpeg_are_pinned() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        for dependency in &package.dependencies {
            let expected = match dependency.name.as_str() {
                "candle-core" | "candle-nn" | "candle-transformers" => "=0.11.1",
                "ffmpeg-next" => "=9.0.0",
                _ => continue,
            };
            assert_eq!(
                dependency.req.to_string(),
                expected,
                "{} {}",
                package.name,
                dependency.name
            );
        }
    }
}
