//! The tree keeps its promises: file sizes, documented crates, no stubs, configs and manifests that
//! parse, goldens with their scripts, documents whose commands and links exist, no paths of anybody's
//! machine.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below the given folders of the tree, built and downloaded things left out.
fn files(folders: &[&str], extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "runs", ".git", ".cuda", ".gpu", ".savi"].contains(&name.as_str()) {
                    open.push(path);
                }
            } else if extensions.iter().any(|e| path.extension().is_some_and(|x| x == *e)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

fn sources() -> Vec<PathBuf> {
    files(&["crates", "video", "text", "tests", "benches", "fuzz"], &["rs"])
}

fn none_of(faults: Vec<String>) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_file_is_about_one_thing() {
    let long = |path: &PathBuf| {
        let lines = read(path).lines().count();
        (lines > 500).then(|| format!("{}: {lines} lines", short(path)))
    };
    let sources = sources();
    assert!(sources.len() > 50, "sources were not found");
    none_of(sources.iter().filter_map(long).collect());
}

#[test]
fn every_crate_says_what_it_owns() {
    let mut faults = Vec::new();
    for manifest in files(&["crates", "video", "text"], &["toml"]) {
        if manifest.file_name().is_some_and(|name| name != "Cargo.toml") {
            continue;
        }
        let lib = manifest.with_file_name("src").join("lib.rs");
        let text = read(&lib);
        let words: usize = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .map(|line| line.split_whitespace().count())
            .sum();
        if words < 20 {
            faults.push(format!("{} opens with {words} words of docs", short(&lib)));
        }
        if !read(&manifest).contains("[lints]\nworkspace = true") {
            faults.push(format!("{} does not take the workspace's lints", short(&manifest)));
        }
    }
    none_of(faults);
}

#[test]
fn nothing_is_a_stub() {
    // Put together here, so that this file does not hold them.
    let stubs = [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["FIX", "ME"].concat()];
    let stub = |path: &PathBuf| {
        let text = read(path);
        let found = stubs.iter().find(|stub| text.contains(stub.as_str()))?;
        Some(format!("{}: {found}", short(path)))
    };
    none_of(sources().iter().filter_map(stub).collect());
}

/// A model that takes a weight's own value passes over an adapter's copy of it.
#[test]
fn models_take_what_adapters_put_in_place() {
    let past = [".tensor(", "mode.train)"].concat();
    let models = files(&["crates/models/src"], &["rs"]);
    let past = |path: &PathBuf| {
        read(path).contains(&past).then(|| format!("{}: take value(mode)", short(path)))
    };
    none_of(models.iter().filter_map(past).collect());
}

#[test]
fn nobody_s_machine_is_named() {
    let paths = ["work", "root", "home", "Users"].map(|folder| format!("/{folder}/"));
    // Nor a folder beside the checkout that only its author has.
    let beside = ["..", "shared"].join("/");
    let kinds = ["rs", "toml", "md", "sh", "py", "json", "html", "jinja", "txt"];
    let named = |path: &PathBuf| {
        // Sources of videos and other text may hold anything after a scheme; only whole paths count.
        let text = read(path);
        if text.contains(&beside) {
            return Some(format!("{}: {beside}", short(path)));
        }
        let found = paths.iter().find(|machine| {
            let starts = text.match_indices(machine.as_str());
            let mut before = starts.map(|(at, _)| text[..at].chars().next_back());
            before.any(|c| c.is_none_or(|c| c.is_whitespace() || "\"'`(=:".contains(c)))
        })?;
        Some(format!("{}: {found}", short(path)))
    };
    none_of(files(&["."], &kinds).iter().filter(|path| path.is_file()).filter_map(named).collect());
}

#[test]
fn configs_parse_and_say_how_to_run_them() {
    let mut faults = Vec::new();
    for path in files(&["configs"], &["toml"]) {
        let text = read(&path);
        if let Err(error) = toml::from_str::<toml::Table>(&text) {
            faults.push(format!("{}: {error}", short(&path)));
        }
        let header: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        if !header.contains("savi ") || !header.contains(&short(&path)) {
            faults.push(format!("{}: no command in its header", short(&path)));
        }
    }
    none_of(faults);
}

#[test]
fn manifests_of_data_sets_parse() {
    let mut faults = Vec::new();
    for path in files(&["datasets"], &["toml"]) {
        let folder = path.parent().unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        // Those of benchmarks are checked with the suite that they belong to.
        let of_suite = savi_suites::catalog::suite(name).is_some();
        if path.file_name().is_some_and(|name| name == "manifest.toml")
            && !of_suite
            && let Err(error) = savi_data::Manifest::load(folder)
        {
            faults.push(error.to_string());
        }
    }
    none_of(faults);
}

#[test]
fn goldens_lie_beside_the_script_that_made_them() {
    let folder = root().join("tests/goldens");
    let readme = read(&folder.join("README.md"));
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let scripts = files(&[&short(&path)], &["py"]);
        if !scripts.iter().any(|script| script.ends_with("make.py")) {
            faults.push(format!("{} has no make.py", short(&path)));
        }
        let name = path.file_name().unwrap().to_string_lossy();
        if !readme.contains(&format!("`{name}/")) {
            faults.push(format!("{name} is not in tests/goldens/README.md"));
        }
    }
    none_of(faults);
}

/// The documents a reader starts from.
const DOCUMENTS: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "PAPERS.md"];

#[test]
fn links_of_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for document in DOCUMENTS {
        let text = read(&root().join(document));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if !link.contains("://") && !file.is_empty() && !root().join(file).exists() {
                faults.push(format!("{document}: {link}"));
            }
        }
    }
    none_of(faults);
}

/// Lines of fenced blocks that start the program, after its name.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            continue;
        }
        let line = line.split("  #").next().unwrap().trim();
        let call = line.strip_prefix("savi ").or_else(|| {
            line.contains("cargo run")
                .then(|| line.split_once(" -- "))
                .flatten()
                .map(|(_, call)| call)
        });
        if inside && let Some(call) = call {
            found.push(call.split_whitespace().map(str::to_owned).collect());
        }
    }
    found
}

#[test]
fn commands_of_documents_exist() {
    let mut faults = Vec::new();
    let mut checked = 0;
    for document in DOCUMENTS {
        for call in commands(&read(&root().join(document))) {
            checked += 1;
            let is_name = |word: &&String| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
            };
            let names: Vec<&String> = call.iter().take_while(is_name).collect();
            let help = Command::new(env!("CARGO_BIN_EXE_savi"))
                .args(&names)
                .arg("--help")
                .output()
                .unwrap();
            let line = call.join(" ");
            if !help.status.success() {
                faults.push(format!("{document}: savi {line}: no such command"));
                continue;
            }
            let help = String::from_utf8(help.stdout).unwrap();
            let known = |flag: &str| {
                help.split(|c: char| c.is_whitespace() || c == ',' || c == '=').any(|w| w == flag)
            };
            for flag in call.iter().filter(|word| word.starts_with("--")) {
                if !known(flag) {
                    faults.push(format!("{document}: savi {line}: no {flag}"));
                }
            }
            for file in call.iter().filter(|word| word.starts_with("configs/")) {
                if !root().join(file).is_file() {
                    faults.push(format!("{document}: savi {line}: no {file}"));
                }
            }
        }
    }
    assert!(checked >= 2, "the documents' commands were not found");
    none_of(faults);
}

#[test]
fn scripts_of_documents_exist_and_can_be_run() {
    let mut faults = Vec::new();
    for document in DOCUMENTS {
        let text = read(&root().join(document));
        for word in text.split(|c: char| c.is_whitespace() || "`(),;".contains(c)) {
            let is_script = word.starts_with("ci/") || word.starts_with(".ci/");
            if is_script && !root().join(word.trim_end_matches(['.', ':'])).exists() {
                faults.push(format!("{document}: {word}"));
            }
        }
    }
    for script in [
        "ci/setup.sh",
        "ci/setup-cuda.sh",
        "ci/cuda-stubs.sh",
        "ci/fake-nvcc",
        "ci/nvcc-lite",
        ".ci/run",
    ] {
        let path = root().join(script);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            if std::fs::metadata(&path).unwrap().permissions().mode() & 0o111 == 0 {
                faults.push(format!("{script} cannot be run"));
            }
        }
    }
    none_of(faults);
}
