//! Chat templates as they are shipped: Jinja with what transformers' `apply_chat_template` gives to them.
//!
//! A template sees `messages`, `tools`, `documents` and `add_generation_prompt`, the special tokens by their
//! names, `raise_exception`, `strftime_now` and a `tojson` that writes what Python's `json.dumps` writes.
//! `{% generation %}` blocks say which words are the assistant's.

mod date;
mod generation;
mod json;
mod methods;
mod python;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, Value as Any};
use serde_json::Value;

use crate::EngineError;

/// What errors call the template.
const NAME: &str = "chat template";
/// Around the words of a generation block. Unicode keeps these two for use within programs.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// What a template is asked to write down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chat<'a> {
    /// The turns: objects with `role` and `content`, and whatever else the template reads.
    pub messages: &'a [Value],
    /// Functions that the model may call; null where there are none.
    pub tools: &'a Value,
    /// Whether the assistant's next turn is opened at the end.
    pub go_on: bool,
}

impl<'a> Chat<'a> {
    /// A conversation without tools.
    pub fn new(messages: &'a [Value], go_on: bool) -> Self {
        Self { messages, tools: &Value::Null, go_on }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    plain: Environment<'static>,
    /// The same, with marks around generation blocks; where the template has any.
    marked: Option<Environment<'static>>,
    tokens: BTreeMap<String, String>,
    now: Arc<AtomicI64>,
}

impl ChatTemplate {
    /// Compiles a template. `tokens` are special tokens by the names that templates have for them, as `bos_token`.
    pub fn new(source: &str, tokens: BTreeMap<String, String>) -> Result<Self, EngineError> {
        let now = Arc::new(AtomicI64::new(date::now()));
        let (source, generates) = generation::rewritten(source);
        let mut plain = environment(&now);
        plain.add_template_owned(NAME, source).map_err(|error| EngineError::Malformed {
            file: place(&error),
            reason: reason(&error),
        })?;
        let marked = generates.then(|| {
            let mut marked = plain.clone();
            marked.add_function(generation::FUNCTION, marked_block);
            marked
        });
        Ok(Self { plain, marked, tokens, now })
    }

    /// Sets the time, in seconds since 1970, that `strftime_now` tells (in UTC). It is else that of
    /// `SOURCE_DATE_EPOCH`, or when the template was compiled.
    pub fn set_now(&self, seconds: i64) {
        self.now.store(seconds, Ordering::Relaxed);
    }

    /// Whether the template says itself which words are the assistant's.
    pub fn generates(&self) -> bool {
        self.marked.is_some()
    }

    /// The conversation as text.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, EngineError> {
        self.render_in(&self.plain, chat)
    }

    /// The conversation as text and the bytes of it that stand in generation blocks.
    pub fn render_spans(
        &self,
        chat: &Chat<'_>,
    ) -> Result<(String, Vec<Range<usize>>), EngineError> {
        let Some(marked) = &self.marked else { return Ok((self.render(chat)?, Vec::new())) };
        if let Some(mark) = marks_in(chat.messages).or_else(|| marks_in([chat.tools])) {
            return Err(EngineError::Conversation(format!(
                "contains U+{:X}, which is no character",
                u32::from(mark)
            )));
        }
        let text = self.render_in(marked, chat)?;
        let (mut plain, mut spans) = (String::with_capacity(text.len()), Vec::new());
        let (mut depth, mut start) = (0usize, 0);
        for letter in text.chars() {
            if letter == MARKS[0] {
                if depth == 0 {
                    start = plain.len();
                }
                depth += 1;
            } else if letter == MARKS[1] {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    spans.push(start..plain.len());
                }
            } else {
                plain.push(letter);
            }
        }
        Ok((plain, spans))
    }

    fn render_in(
        &self,
        environment: &Environment<'static>,
        chat: &Chat<'_>,
    ) -> Result<String, EngineError> {
        let mut context: BTreeMap<&str, Any> =
            self.tokens.iter().map(|(name, token)| (name.as_str(), Any::from(token))).collect();
        let messages: Vec<Any> = chat.messages.iter().map(python::value).collect();
        context.insert("messages", Any::from(messages));
        context.insert("tools", python::value(chat.tools));
        context.insert("documents", Any::from(()));
        context.insert("add_generation_prompt", Any::from(chat.go_on));
        let rendered = environment.get_template(NAME).and_then(|template| template.render(context));
        rendered.map_err(|error| {
            EngineError::Conversation(format!("{}: {}", place(&error), reason(&error)))
        })
    }
}

/// The template and the line that an error is about.
fn place(error: &Error) -> String {
    match error.line() {
        Some(line) => format!("{NAME}, line {line}"),
        None => NAME.to_owned(),
    }
}

/// What an error says, and what it says of its cause.
fn reason(error: &Error) -> String {
    let mut reason = match (error.kind(), error.detail()) {
        // A template's own words come as they are.
        (ErrorKind::EvalBlock, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        reason.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    reason
}

fn marks_in<'a>(values: impl IntoIterator<Item = &'a Value>) -> Option<char> {
    values.into_iter().find_map(|value| match value {
        Value::String(text) => text.chars().find(|letter| MARKS.contains(letter)),
        Value::Array(list) => marks_in(list),
        Value::Object(map) => {
            let of_keys = map.keys().flat_map(|key| key.chars()).find(|c| MARKS.contains(c));
            of_keys.or_else(|| marks_in(map.values()))
        }
        _ => None,
    })
}

/// A generation block: its words, as `{% call %}` hands them over.
fn block(state: &State<'_, '_>, arguments: Kwargs) -> Result<Any, Error> {
    let caller: Any = arguments.get("caller")?;
    caller.call(state, &[])
}

fn marked_block(state: &State<'_, '_>, arguments: Kwargs) -> Result<Any, Error> {
    let words = block(state, arguments)?;
    Ok(Any::from(format!("{}{words}{}", MARKS[0], MARKS[1])))
}

/// Jinja as transformers sets it up.
fn environment(now: &Arc<AtomicI64>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    python::set_up(&mut environment);
    environment.add_filter("tojson", json::tojson);
    environment.add_function(generation::FUNCTION, block);
    environment.add_function("raise_exception", |reason: String| -> Result<Any, _> {
        Err(Error::new(ErrorKind::EvalBlock, reason))
    });
    let now = Arc::clone(now);
    environment.add_function("strftime_now", move |format: String| {
        date::written(now.load(Ordering::Relaxed), &format)
            .map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(source: &str) -> Result<ChatTemplate, EngineError> {
        ChatTemplate::new(source, BTreeMap::new())
    }

    #[test]
    fn errors_name_the_template_and_the_line() {
        let error = template("a\n{% if x %}\n{% endfor %}").unwrap_err().to_string();
        assert!(error.starts_with("chat template, line 3: syntax error"), "{error}");
        let told = |source: &str| {
            let messages = [json!({"role": "user", "content": "Hi."})];
            let template = template(source).unwrap();
            template.render(&Chat::new(&messages, true)).unwrap_err().to_string()
        };
        let error = told("a\n\n{{ raise_exception('No ' ~ messages[0].role ~ '.') }}");
        assert_eq!(error, "conversation: chat template, line 3: No user.");
        let error = told("{% for m in messages %}\n{{ m.words.more }}{% endfor %}");
        assert!(error.contains("chat template, line 2: undefined value"), "{error}");
        let error = told("{{ strftime_now('%Q') }}");
        assert!(error.contains("line 1") && error.contains("%Q"), "{error}");
        let error = told("{{ nothing() }}");
        assert!(error.contains("line 1") && error.contains("nothing"), "{error}");
    }

    #[test]
    fn spans_are_the_words_in_generation_blocks() {
        let source = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}\
            {%- generation -%}  {{ m.content }}|{{ loop.index0 }}{%- endgeneration %}{% else %}\
            {{ m.content }}{% endif %};{% endfor %}";
        let template = template(source).unwrap();
        assert!(template.generates());
        let messages = [
            json!({"role": "user", "content": "é"}),
            json!({"role": "assistant", "content": "A"}),
            json!({"role": "assistant", "content": "B"}),
        ];
        let (text, spans) = template.render_spans(&Chat::new(&messages, false)).unwrap();
        assert_eq!(text, "[user]é;[assistant]A|1;[assistant]B|2;");
        assert_eq!(text, template.render(&Chat::new(&messages, false)).unwrap());
        let words: Vec<&str> = spans.into_iter().map(|span| &text[span]).collect();
        assert_eq!(words, ["A|1", "B|2"]);
        let forged = [json!({"role": "user", "content": [{"text": "\u{fdd1}"}]})];
        let error = template.render_spans(&Chat::new(&forged, false)).unwrap_err().to_string();
        assert!(error.contains("U+FDD1"), "{error}");
    }

    /// Any cut of a template, and any byte of it left out, is an error or a text.
    #[test]
    fn broken_templates_do_not_panic() {
        let source = include_str!("../../../../tests/goldens/templates/qwen3.jinja");
        let messages = [json!({"role": "user", "content": "Hi."})];
        let chat = Chat::new(&messages, true);
        let mut refused = 0;
        let mut check = |text: &str| match template(text) {
            Ok(template) => drop(template.render(&chat)),
            Err(_) => refused += 1,
        };
        for (at, letter) in source.char_indices().step_by(3) {
            check(&source[..at]);
            check(&format!("{}{}", &source[..at], &source[at + letter.len_utf8()..]));
        }
        assert!(refused > 100, "{refused}");
    }
}
