//! What a sampling is called in each dialect, and what a dialect does not have.

use savi_schema::{Constraint, Sampling};
use serde_json::{Map, Value, json};

use crate::Dialect;

/// Which of a server's interfaces is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// What the words of a sampling depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) dialect: Dialect,
    pub(crate) interface: Interface,
    /// Whether log-probs are wanted.
    pub(crate) logprobs: bool,
    /// Whether the server is OpenAI's own, where `max_tokens` has another name in chat.
    pub(crate) openai_itself: bool,
}

/// The part of a body that says how to draw, without `n` and seed. What the dialect does not have is an
/// error that names it.
pub(crate) fn fields(sampling: &Sampling, manner: Manner) -> Result<Map<String, Value>, String> {
    sampling.check()?;
    if let Some(lacking) = lacking(sampling, manner) {
        let dialect = manner.dialect.name();
        return Err(format!("{lacking} cannot be asked of an endpoint of the dialect {dialect}"));
    }
    let dialect = manner.dialect;
    let mut fields = Map::new();
    let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    let tokens = match (manner.openai_itself, manner.interface) {
        (true, Interface::Chat) => "max_completion_tokens",
        _ => "max_tokens",
    };
    set(tokens, sampling.max_tokens.into());
    set("temperature", sampling.temperature.into());
    set("top_p", sampling.top_p.into());
    for (key, value) in [
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
    ] {
        if value != 0.0 {
            set(key, value.into());
        }
    }
    if !sampling.stop.is_empty() {
        set("stop", json!(sampling.stop));
    }
    // What follows is sent even where it changes nothing: servers have defaults of their own.
    let every = if dialect == Dialect::LlamaCpp { 0 } else { -1 };
    let top_k = if sampling.top_k == 0 { json!(every) } else { json!(sampling.top_k) };
    match dialect {
        Dialect::Auto | Dialect::OpenAi => {}
        Dialect::Vllm | Dialect::Sglang | Dialect::Savi => {
            set("top_k", top_k);
            set("min_p", sampling.min_p.into());
            set("repetition_penalty", sampling.repetition_penalty.into());
            if sampling.min_tokens > 0 {
                set("min_tokens", sampling.min_tokens.into());
            }
            if !sampling.stop_token_ids.is_empty() {
                set("stop_token_ids", json!(sampling.stop_token_ids));
            }
            if dialect == Dialect::Savi {
                set("typical_p", sampling.typical_p.into());
                set("no_repeat_ngram_size", sampling.no_repeat_ngram_size.into());
            } else {
                set("return_token_ids", true.into());
            }
        }
        Dialect::LlamaCpp => {
            set("top_k", top_k);
            set("min_p", sampling.min_p.into());
            set("typical_p", sampling.typical_p.into());
            set("repeat_penalty", sampling.repetition_penalty.into());
            set("repeat_last_n", json!(-1));
            // In the order of `Sampling`.
            set(
                "samplers",
                json!(["penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"]),
            );
        }
    }
    if sampling.ignore_eos {
        set("ignore_eos", true.into());
    }
    if dialect == Dialect::LlamaCpp {
        let biases = sampling.logit_bias.iter().map(|(id, bias)| json!([id, bias]));
        let banned = sampling.banned_tokens.iter().map(|id| json!([id, false]));
        let all: Vec<Value> = biases.chain(banned).collect();
        if !all.is_empty() {
            set("logit_bias", all.into());
        }
    } else if !sampling.logit_bias.is_empty() {
        let biases = sampling.logit_bias.iter().map(|(id, &bias)| (id.to_string(), bias.into()));
        set("logit_bias", Value::Object(biases.collect()));
    }
    if let Some(constraint) = &sampling.constraint {
        let (key, value) = constrained(constraint, dialect)?;
        set(key, value);
    }
    if manner.logprobs && tells_logps(sampling, dialect) {
        // llama.cpp tells of no token where it is asked for none of the likeliest.
        let least = usize::from(dialect == Dialect::LlamaCpp);
        let top = sampling.top_logprobs.max(least);
        match manner.interface {
            Interface::Chat => {
                set("logprobs", true.into());
                if top > 0 {
                    set("top_logprobs", top.into());
                }
            }
            Interface::Completions => drop(set("logprobs", top.into())),
        }
    }
    Ok(fields)
}

/// Whether the dialect's log-probs under this sampling are the model's own.
fn tells_logps(sampling: &Sampling, dialect: Dialect) -> bool {
    let plain = [0.0, 1.0].contains(&sampling.temperature)
        && sampling.repetition_penalty == 1.0
        && sampling.presence_penalty == 0.0
        && sampling.frequency_penalty == 0.0
        && sampling.logit_bias.is_empty()
        && sampling.constraint.is_none()
        && sampling.min_tokens == 0;
    dialect != Dialect::Sglang || plain
}

/// The first thing of a sampling that the dialect does not have.
fn lacking(sampling: &Sampling, manner: Manner) -> Option<String> {
    let Manner { dialect, interface, logprobs, .. } = manner;
    let (llama, bare) = (dialect == Dialect::LlamaCpp, dialect == Dialect::OpenAi);
    let savi = dialect == Dialect::Savi;
    let beyond = sampling.logit_bias.values().find(|bias| bias.abs() > 100.0);
    let constraint = sampling.constraint.as_ref().map(|constraint| match constraint {
        Constraint::Choice(_) => ("constraint.choice", !bare),
        Constraint::JsonSchema(_) => ("constraint.json_schema", true),
        Constraint::JsonObject => ("constraint.json_object", true),
        Constraint::Regex(_) => ("constraint.regex", !bare && !llama),
        Constraint::Grammar(_) => ("constraint.grammar (Lark)", savi || dialect == Dialect::Vllm),
    });
    let (constraint, constrained) = constraint.unwrap_or(("", true));
    let never = false;
    // Name, whether it is asked for, whether the dialect has it.
    let rows = [
        ("max_tokens without a limit", sampling.max_tokens == Sampling::ALL_ROOM, never),
        ("ngram_penalties", !sampling.ngram_penalties.is_empty(), never),
        ("no_repeat_ngram_size", sampling.no_repeat_ngram_size > 0, savi),
        ("forced_tokens", !sampling.forced_tokens.is_empty(), never),
        ("banned_tokens", !sampling.banned_tokens.is_empty(), llama),
        ("typical_p", sampling.typical_p != 1.0, llama || savi),
        ("top_k", sampling.top_k > 0, !bare),
        ("min_p", sampling.min_p > 0.0, !bare),
        ("repetition_penalty", sampling.repetition_penalty != 1.0, !bare),
        ("ignore_eos", sampling.ignore_eos, !bare),
        ("min_tokens", sampling.min_tokens > 0, !bare && !llama),
        ("stop_token_ids", !sampling.stop_token_ids.is_empty(), !bare && !llama),
        ("a logit_bias beyond 100", beyond.is_some(), llama),
        (constraint, sampling.constraint.is_some(), constrained),
        (
            "a constraint of a raw prompt",
            sampling.constraint.is_some(),
            !(bare && interface == Interface::Completions),
        ),
        ("top_logprobs without logprobs", sampling.top_logprobs > 0, logprobs),
        (
            "top_logprobs at this temperature or with penalties, biases or constraints",
            sampling.top_logprobs > 0,
            tells_logps(sampling, dialect),
        ),
    ];
    rows.into_iter().find(|(_, asked, has)| *asked && !has).map(|(name, ..)| name.to_owned())
}

fn constrained(constraint: &Constraint, dialect: Dialect) -> Result<(&'static str, Value), String> {
    let format = |schema: &Value| {
        let schema = json!({"name": "answer", "schema": schema, "strict": true});
        json!({"type": "json_schema", "json_schema": schema})
    };
    Ok(match (dialect, constraint) {
        (Dialect::Vllm | Dialect::Savi, Constraint::Choice(texts)) => {
            ("structured_outputs", json!({"choice": texts}))
        }
        (Dialect::Vllm | Dialect::Savi, Constraint::JsonSchema(schema)) => {
            ("structured_outputs", json!({"json": schema}))
        }
        (Dialect::Vllm | Dialect::Savi, Constraint::JsonObject) => {
            ("structured_outputs", json!({"json_object": true}))
        }
        (Dialect::Vllm | Dialect::Savi, Constraint::Regex(regex)) => {
            ("structured_outputs", json!({"regex": regex}))
        }
        (Dialect::Vllm | Dialect::Savi, Constraint::Grammar(grammar)) => {
            ("structured_outputs", json!({"grammar": grammar}))
        }
        (Dialect::LlamaCpp, Constraint::JsonSchema(schema)) => ("json_schema", schema.clone()),
        (Dialect::LlamaCpp, Constraint::JsonObject) => ("json_schema", json!({"type": "object"})),
        (Dialect::LlamaCpp, Constraint::Choice(texts)) => ("grammar", gbnf(texts).into()),
        (Dialect::Sglang, Constraint::Regex(regex)) => ("regex", regex.clone().into()),
        (Dialect::Sglang, Constraint::Choice(texts)) => {
            let texts: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
            ("regex", format!("({})", texts.join("|")).into())
        }
        (_, Constraint::JsonSchema(schema)) => ("response_format", format(schema)),
        (_, Constraint::JsonObject) => ("response_format", json!({"type": "json_object"})),
        (_, constraint) => return Err(format!("{constraint:?} has no words in this dialect")),
    })
}

/// One of some texts, in llama.cpp's notation of grammars.
fn gbnf(texts: &[String]) -> String {
    let literal = |text: &String| {
        let mut literal = String::from('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => literal.extend(['\\', c]),
                '\n' => literal.push_str("\\n"),
                '\r' => literal.push_str("\\r"),
                '\t' => literal.push_str("\\t"),
                c => literal.push(c),
            }
        }
        literal.push('"');
        literal
    };
    format!("root ::= {}", texts.iter().map(literal).collect::<Vec<_>>().join(" | "))
}

/// A text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// The seed of one draw: what a sample is depends on the run's seed, its request and its place alone.
/// vLLM counts on from it for further choices, so there is room above; the other servers take 31 bits.
pub(crate) fn seed(dialect: Dialect, seed: u64, id: &str, sample: usize) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(b"savi-endpoint seed\0").update(&seed.to_le_bytes());
    hash.update(&(sample as u64).to_le_bytes()).update(id.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    let bits = if dialect == Dialect::Vllm { 62 } else { 31 };
    u64::from_le_bytes(bytes) >> (64 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(dialect: Dialect, interface: Interface) -> Manner {
        Manner { dialect, interface, logprobs: true, openai_itself: false }
    }

    fn chat(dialect: Dialect, sampling: &Sampling) -> Result<Value, String> {
        fields(sampling, manner(dialect, Interface::Chat)).map(Value::Object)
    }

    #[test]
    fn each_dialect_has_its_words() {
        let sampling = Sampling {
            temperature: 1.0,
            top_k: 20,
            min_p: 0.1,
            repetition_penalty: 1.5,
            stop: vec!["\n".to_owned()],
            max_tokens: 7,
            ..Sampling::default()
        };
        let vllm = chat(Dialect::Vllm, &sampling).unwrap();
        assert_eq!(
            vllm,
            json!({"max_tokens": 7, "temperature": 1.0, "top_p": 1.0, "stop": ["\n"], "top_k": 20,
                "min_p": 0.1, "repetition_penalty": 1.5, "return_token_ids": true,
                "logprobs": true})
        );
        let llama = chat(Dialect::LlamaCpp, &sampling).unwrap();
        assert_eq!((&llama["repeat_penalty"], &llama["top_logprobs"]), (&json!(1.5), &json!(1)));
        // Penalties spoil SGLang's log-probs.
        assert!(chat(Dialect::Sglang, &sampling).unwrap().get("logprobs").is_none());
        let error = chat(Dialect::OpenAi, &sampling).unwrap_err();
        assert!(error.contains("top_k") && error.contains("openai"), "{error}");
    }

    #[test]
    fn defaults_of_servers_are_overruled() {
        let greedy = Sampling::default();
        for (dialect, top_k) in [(Dialect::Vllm, -1), (Dialect::Sglang, -1), (Dialect::LlamaCpp, 0)]
        {
            let fields = chat(dialect, &greedy).unwrap();
            assert_eq!((&fields["top_k"], &fields["min_p"]), (&json!(top_k), &json!(0.0)));
            assert_eq!(fields["temperature"], json!(0.0));
        }
        let plain = chat(Dialect::OpenAi, &greedy).unwrap();
        let keys: Vec<&String> = plain.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["max_tokens", "temperature", "top_p", "logprobs"]);
        let itself = Manner { openai_itself: true, ..manner(Dialect::OpenAi, Interface::Chat) };
        assert!(fields(&greedy, itself).unwrap().contains_key("max_completion_tokens"));
        let raw = fields(&greedy, manner(Dialect::OpenAi, Interface::Completions)).unwrap();
        assert_eq!(raw["logprobs"], json!(0));
    }

    /// Every option is either in what is sent or refused by name, in every dialect.
    #[test]
    fn nothing_is_dropped() {
        let choice = || Constraint::Choice(vec!["a|b".to_owned(), "\"c\"".to_owned()]);
        type Change = (&'static str, fn(&mut Sampling), [bool; 5]);
        let changes: &[Change] = &[
            ("top_p", |s| s.top_p = 0.5, [true; 5]),
            ("top_k", |s| s.top_k = 3, [false, true, true, true, true]),
            ("min_p", |s| s.min_p = 0.5, [false, true, true, true, true]),
            ("typical_p", |s| s.typical_p = 0.5, [false, false, false, true, true]),
            ("repetition_penalty", |s| s.repetition_penalty = 2.0, [false, true, true, true, true]),
            ("presence_penalty", |s| s.presence_penalty = 0.5, [true; 5]),
            ("frequency_penalty", |s| s.frequency_penalty = 0.5, [true; 5]),
            ("ngram_penalties", |s| s.ngram_penalties = [(2, 1.0)].into(), [false; 5]),
            (
                "no_repeat_ngram_size",
                |s| s.no_repeat_ngram_size = 3,
                [false, false, false, false, true],
            ),
            ("logit_bias", |s| s.logit_bias = [(5, 1.0)].into(), [true; 5]),
            (
                "logit_bias",
                |s| s.logit_bias = [(5, 101.0)].into(),
                [false, false, false, true, false],
            ),
            ("banned_tokens", |s| s.banned_tokens = vec![5], [false, false, false, true, false]),
            ("forced_tokens", |s| s.forced_tokens = vec![5], [false; 5]),
            ("min_tokens", |s| s.min_tokens = 5, [false, true, true, false, true]),
            ("max_tokens", |s| s.max_tokens = 5, [true; 5]),
            ("max_tokens", |s| s.max_tokens = Sampling::ALL_ROOM, [false; 5]),
            ("stop", |s| s.stop = vec!["x".to_owned()], [true; 5]),
            ("stop_token_ids", |s| s.stop_token_ids = vec![5], [false, true, true, false, true]),
            ("ignore_eos", |s| s.ignore_eos = true, [false, true, true, true, true]),
            ("top_logprobs", |s| s.top_logprobs = 2, [true; 5]),
            ("json_object", |s| s.constraint = Some(Constraint::JsonObject), [true; 5]),
            (
                "json_schema",
                |s| s.constraint = Some(Constraint::JsonSchema(json!({"type": "array"}))),
                [true; 5],
            ),
            (
                "regex",
                |s| s.constraint = Some(Constraint::Regex("a+".to_owned())),
                [false, true, true, false, true],
            ),
            (
                "grammar",
                |s| s.constraint = Some(Constraint::Grammar("start: \"a\"".to_owned())),
                [false, true, false, false, true],
            ),
        ];
        let dialects =
            [Dialect::OpenAi, Dialect::Vllm, Dialect::Sglang, Dialect::LlamaCpp, Dialect::Savi];
        for (name, change, has) in changes {
            for (dialect, has) in dialects.into_iter().zip(has) {
                let mut sampling = Sampling { temperature: 1.0, ..Sampling::default() };
                let before = chat(dialect, &sampling).unwrap();
                change(&mut sampling);
                match chat(dialect, &sampling) {
                    Ok(after) => assert!(*has && before != after, "{name} {dialect:?}: {after}"),
                    Err(error) => {
                        assert!(!has && error.contains(name), "{name} {dialect:?}: {error}")
                    }
                }
            }
        }
        let mut sampling = Sampling { constraint: Some(choice()), ..Sampling::default() };
        let llama = chat(Dialect::LlamaCpp, &sampling).unwrap();
        assert_eq!(llama["grammar"], json!(r#"root ::= "a|b" | "\"c\"""#));
        assert_eq!(chat(Dialect::Sglang, &sampling).unwrap()["regex"], json!(r#"(a\|b|"c")"#));
        assert!(chat(Dialect::OpenAi, &sampling).unwrap_err().contains("choice"));
        sampling.constraint = None;
        (sampling.top_logprobs, sampling.temperature) = (3, 0.7);
        assert!(chat(Dialect::Sglang, &sampling).unwrap_err().contains("temperature"));
    }

    #[test]
    fn seeds_depend_on_seed_request_and_place() {
        let base = seed(Dialect::Vllm, 1, "a", 0);
        assert_eq!(base, seed(Dialect::Vllm, 1, "a", 0));
        for other in [(2, "a", 0), (1, "b", 0), (1, "a", 1)] {
            assert_ne!(base, seed(Dialect::Vllm, other.0, other.1, other.2));
        }
        assert!(base < 1 << 62 && seed(Dialect::LlamaCpp, 1, "a", 0) < 1 << 31);
    }
}
