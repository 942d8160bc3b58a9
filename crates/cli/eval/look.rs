//! `savi eval list` and `savi eval check`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use savi_run::write_atomic;
use savi_suites::{Ask, catalog};
use serde_json::json;

use super::bench::find;
use super::worlds;
use crate::Global;
use crate::exit::BadInput;

/// The suites.
#[derive(Debug, clap::Args)]
pub(crate) struct List {}

/// Read a suite's files.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The suite.
    suite: String,
    /// The folder of its annotation files.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Which split, in place of the suite's own.
    #[arg(long)]
    split: Option<String>,
    /// Take items that are not the published ones.
    #[arg(long)]
    any_rows: bool,
    /// Write the rows' marks here, by which an altered row is told.
    #[arg(long, value_name = "FILE")]
    marks: Option<PathBuf>,
}

pub(crate) fn list(_: &List, global: &Global) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for suite in worlds::SUITES.into_iter().chain(catalog::suites()) {
        let scored: Vec<&str> = match suite.ask {
            Ask::LogProbs { .. } => vec!["log-probabilities"],
            Ask::Reply { .. } if suite.readers().is_empty() => vec!["a judge"],
            Ask::Reply { .. } => suite.readers().into_iter().map(|(name, _)| name).collect(),
        };
        let about = match suite.manifest() {
            Ok(manifest) => {
                let split = &manifest.splits[&manifest.split];
                let rows = split.rows.map_or("-".to_owned(), |rows| rows.to_string());
                (rows, manifest.split, manifest.page, manifest.description)
            }
            Err(_) => ("-".to_owned(), "dev".to_owned(), String::new(), worlds::about(suite.name)),
        };
        rows.push((suite.name, scored.join(", "), about));
    }
    if global.json {
        let row = |(name, scored, (items, split, page, description)): &(
            &str,
            String,
            (String, String, String, String),
        )| {
            json!({"name": name, "scored_by": scored, "items": items, "split": split, "page": page,
                "description": description})
        };
        println!("{}", serde_json::to_string_pretty(&rows.iter().map(row).collect::<Vec<_>>())?);
        return Ok(());
    }
    println!("{:<18} {:>7} {:<12} {:<44} about", "suite", "items", "split", "scored by");
    for (name, scored, (items, split, _, description)) in rows {
        println!("{name:<18} {items:>7} {split:<12} {scored:<44} {description}");
    }
    Ok(())
}

pub(crate) fn check(args: &Check, global: &Global) -> anyhow::Result<()> {
    let suite = find(&args.suite)?;
    let open = suite
        .open(args.split.as_deref(), &args.data, args.any_rows)
        .map_err(|error| BadInput(error.into()))?;
    let clusters: BTreeSet<&str> = open.items.iter().map(|item| item.cluster.as_str()).collect();
    let mut categories: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for item in &open.items {
        for (kind, category) in &item.categories {
            *categories.entry(kind).or_default().entry(category).or_default() += 1;
        }
    }
    if let Some(path) = &args.marks {
        write_atomic(path, format!("{}\n", open.marks).as_bytes())?;
    }
    if global.json {
        let all = json!({"suite": suite.name, "items": open.items.len(), "clusters": clusters.len(),
            "hash": open.hash, "published": open.published, "categories": categories, "files": open.files});
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let published = match open.published {
        Some(true) => "the published ones",
        Some(false) => "not the published ones",
        None => "whether they are the published ones is not known",
    };
    println!(
        "{}: {} items about {} clusters, {published}",
        suite.name,
        open.items.len(),
        clusters.len()
    );
    println!("hash {}", open.hash);
    for (kind, counts) in categories {
        let counts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!("{kind}: {}", counts.join(", "));
    }
    Ok(())
}
