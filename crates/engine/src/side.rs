//! What lies beside weights and config in a model's directory: tokenizer, templates, processors. It is
//! copied byte by byte into whatever is made of the model, so that transformers finds it unchanged.

use std::fs;
use std::path::Path;

use savi_data::hub::BESIDE_WEIGHTS;
use serde_json::{Value, json};

use crate::media::Processor;
use crate::{EngineError, TextFiles};

/// Where further chat templates lie.
const TEMPLATES: &str = "additional_chat_templates";

/// Files by their names.
pub(crate) type SideFiles = Vec<(String, Vec<u8>)>;

/// Reads a directory's. Code that comes along with a model whose config asks for it is among them.
pub(crate) fn read(dir: &Path, config: &Value) -> Result<SideFiles, EngineError> {
    let mut names: Vec<String> = BESIDE_WEIGHTS.iter().map(|&name| name.to_owned()).collect();
    if config.get("auto_map").is_some() {
        names.extend(listed(dir, "py")?);
    }
    let templates = listed(&dir.join(TEMPLATES), "jinja")?;
    names.extend(templates.into_iter().map(|name| format!("{TEMPLATES}/{name}")));
    let mut files = SideFiles::new();
    for name in names {
        let path = dir.join(&name);
        if path.is_file() {
            let bytes = fs::read(&path).map_err(|source| EngineError::Io { path, source })?;
            files.push((name, bytes));
        }
    }
    Ok(files)
}

/// Names in a folder with this extension, in order; none where there is no folder.
fn listed(dir: &Path, extension: &str) -> Result<Vec<String>, EngineError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let io = |source| EngineError::Io { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|found| found == extension) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The files of a model that has no directory.
pub(crate) fn generated(text: &TextFiles, processor: Option<&Processor>) -> SideFiles {
    let pretty = |value: &Value| serde_json::to_vec_pretty(value).unwrap_or_default();
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
    });
    for (key, token) in [("bos_token", &text.bos), ("eos_token", &text.eos)] {
        if let Some(token) = token {
            settings[key] = json!(token);
        }
    }
    let mut files = vec![
        ("tokenizer.json".to_owned(), text.tokenizer.clone()),
        ("tokenizer_config.json".to_owned(), pretty(&settings)),
    ];
    if let Some(processor) = processor {
        let processor = serde_json::to_value(processor).unwrap_or_default();
        files.push(("processor.json".to_owned(), pretty(&processor)));
    }
    if let Some(template) = &text.template {
        files.push(("chat_template.jinja".to_owned(), template.clone().into_bytes()));
    }
    if !text.eos_ids.is_empty() {
        let ends = json!({"eos_token_id": text.eos_ids});
        files.push(("generation_config.json".to_owned(), pretty(&ends)));
    }
    files
}
