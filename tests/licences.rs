//! Every dependency's licence is one that `deny.toml` allows, and none is banned there. cargo-deny
//! checks the same where it is installed; this runs everywhere.

use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand, PackageId};

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc");
    let text = String::from_utf8(output.stdout).unwrap();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("host of rustc").to_owned()
}

fn rules() -> toml::Table {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

/// Everything that is built here. Offline and for this platform only: what a build has already
/// downloaded.
fn metadata() -> Metadata {
    let options = ["--offline".to_owned(), "--filter-platform".to_owned(), host()];
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(options)
        .exec()
        .expect("cargo metadata")
}

fn allowed() -> Vec<String> {
    let table = rules();
    let list = table["licenses"]["allow"].as_array().unwrap();
    list.iter().map(|licence| licence.as_str().unwrap().to_owned()).collect()
}

/// Whether an SPDX expression can be met with `allowed` licences. `/` is the old spelling of `OR`;
/// `AND` binds closer than `OR`, parentheses closest.
fn met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = alternatives(&tokens, &mut at, allowed);
    assert_eq!(at, tokens.len(), "cannot read the licence {expression:?}");
    value
}

fn alternatives(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut value = all_of(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        value |= all_of(tokens, at, allowed);
    }
    value
}

fn all_of(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut value = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        value &= one(tokens, at, allowed);
    }
    value
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let token = tokens[*at];
    *at += 1;
    if token == "(" {
        let value = alternatives(tokens, at, allowed);
        *at += 1;
        return value;
    }
    let mut name = token.to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        name = format!("{token} WITH {}", tokens[*at + 1]);
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn expressions() {
    let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND Apache-2.0", true),
        ("Apache-2.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(met(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn all_dependencies_may_be_used() {
    let allowed = allowed();
    let metadata = metadata();
    assert!(metadata.packages.len() > metadata.workspace_members.len());
    let refused: Vec<String> = metadata
        .packages
        .iter()
        .filter(|p| !p.license.as_deref().is_some_and(|licence| met(licence, &allowed)))
        .map(|p| format!("{} {}: {:?}", p.name, p.version, p.license))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml:\n{}", refused.join("\n"));
}

#[test]
fn nothing_banned_is_built() {
    let (table, metadata) = (rules(), metadata());
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let name =
        |id: &PackageId| &metadata.packages.iter().find(|p| p.id == *id).expect("a package").name;
    let bans = table["bans"]["deny"].as_array().unwrap();
    assert!(!bans.is_empty());
    let mut faults = Vec::new();
    for ban in bans {
        let banned = ban["crate"].as_str().unwrap();
        let wrappers: Vec<&str> = ban.get("wrappers").map_or(Vec::new(), |list| {
            list.as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect()
        });
        for node in &resolve.nodes {
            let uses = node.deps.iter().any(|dep| name(&dep.pkg).as_str() == banned);
            if uses && !wrappers.contains(&name(&node.id).as_str()) {
                faults.push(format!("{} uses {banned}", name(&node.id)));
            }
        }
    }
    assert!(faults.is_empty(), "banned by deny.toml:\n{}", faults.join("\n"));
}

#[test]
fn candle_multiplies_with_avx512_where_there_is_any() {
    let metadata = metadata();
    let package = metadata.packages.iter().find(|p| p.name.as_str() == "gemm").expect("gemm");
    let nodes = &metadata.resolve.as_ref().expect("a resolved graph").nodes;
    let node = nodes.iter().find(|node| node.id == package.id).expect("its node");
    assert!(node.features.iter().any(|f| *f == "x86-v4"), "{:?}", node.features);
}
