//! The file of results: what an interrupted run leaves of it is taken up again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

/// Results by id, each written as soon as it is there.
pub(super) struct Results {
    out: Option<(PathBuf, PathBuf, File)>,
    pub(super) lines: BTreeMap<String, String>,
}

impl Results {
    /// With what an interrupted run has left of the very requests whose ids have these keys.
    pub(super) fn open(out: Option<&Path>, keys: &HashMap<String, String>) -> anyhow::Result<Self> {
        let Some(out) = out else { return Ok(Self { out: None, lines: BTreeMap::new() }) };
        let mut name = out.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let context = || partial.display().to_string();
        let mut lines = BTreeMap::new();
        if let Ok(file) = File::open(&partial) {
            for line in BufReader::new(file).split(b'\n') {
                let line = line.with_context(context)?;
                // The last line of a killed run may be torn; failures are tried again.
                let Ok(value) = serde_json::from_slice::<Value>(&line) else { continue };
                let word = |name: &str| value.get(name).and_then(Value::as_str);
                let (Some(id), Some(key)) = (word("id"), word("key")) else { continue };
                if keys.get(id).is_some_and(|wanted| wanted == key) {
                    lines.insert(id.to_owned(), value.to_string());
                }
            }
        }
        let whole: String = lines.values().map(|line| format!("{line}\n")).collect();
        savi_run::write_atomic(&partial, whole.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&partial).with_context(context)?;
        Ok(Self { out: Some((out.to_owned(), partial, file)), lines })
    }

    pub(super) fn add(&mut self, id: &str, line: &Value) -> anyhow::Result<()> {
        let line = line.to_string();
        match &mut self.out {
            Some((_, partial, file)) => {
                writeln!(file, "{line}").with_context(|| partial.display().to_string())?;
            }
            None => println!("{line}"),
        }
        self.lines.insert(id.to_owned(), line);
        Ok(())
    }

    /// The whole file, in the order of the requests.
    pub(super) fn finish(self, order: &[String]) -> anyhow::Result<()> {
        let Some((out, partial, _)) = self.out else { return Ok(()) };
        let lines = order.iter().filter_map(|id| self.lines.get(id));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        savi_run::write_atomic(&out, text.as_bytes())?;
        std::fs::remove_file(&partial).with_context(|| partial.display().to_string())
    }
}
