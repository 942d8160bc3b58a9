//! `POST /v1/completions`: prompts as they are, without a chat template.

use savi_schema::RawPrompt;
use serde_json::{Value, json};

use super::sampling::token;
use super::{Asked, Draft, Shape, common};
use crate::fields::{Fields, kind};
use crate::options::ServeOptions;
use crate::refusal::Refusal;

const FIELD: &str = "prompt";

/// Reads a request.
pub(crate) fn completion(body: Value, options: &ServeOptions) -> Result<Asked, Refusal> {
    let mut fields = Fields::new(body, "")?;
    let asked = common(&mut fields, Shape::Text, options)?;
    let Some(prompt) = fields.take(FIELD) else {
        return Err(Refusal::missing(FIELD, "is not there"));
    };
    let prompts = prompts(prompt)?;
    let choices = prompts.len().saturating_mul(asked.choices);
    if choices > options.max_choices {
        let reason = format!(
            "{} prompts with {} choices each are more than {} choices",
            prompts.len(),
            asked.choices,
            options.max_choices
        );
        return Err(Refusal::value(FIELD, reason));
    }
    fields.only("echo", &[json!(false)], "the prompt is not part of the answer")?;
    fields.only("suffix", &[json!("")], "nothing is filled in between")?;
    fields.only(
        "add_special_tokens",
        &[json!(true)],
        "prompts are tokenised as the model's own",
    )?;
    fields.only("max_completion_tokens", &[], "a completion says max_tokens")?;
    fields.only("messages", &[], "conversations are for /v1/chat/completions")?;
    fields.finish()?;
    Ok(Asked { prompts, ..asked })
}

/// A text, a list of texts, a list of tokens or a list of such lists.
fn prompts(value: Value) -> Result<Vec<Draft>, Refusal> {
    let text = |text: String| Draft::Raw(RawPrompt::Text(text));
    let list = match value {
        Value::String(words) if words.is_empty() => {
            return Err(Refusal::value(FIELD, "is an empty string"));
        }
        Value::String(words) => return Ok(vec![text(words)]),
        Value::Array(list) => list,
        other => {
            let reason = format!("is {}, neither a string nor a list", kind(&other));
            return Err(Refusal::value(FIELD, reason));
        }
    };
    match list.first() {
        None => Err(Refusal::value(FIELD, "is an empty list")),
        Some(Value::Number(_)) => Ok(vec![tokens(&list, FIELD)?]),
        Some(_) => {
            let prompt = |(at, value): (usize, Value)| {
                let field = format!("{FIELD}[{at}]");
                match value {
                    Value::String(words) if words.is_empty() => {
                        Err(Refusal::value(field, "is an empty string"))
                    }
                    Value::String(words) => Ok(text(words)),
                    Value::Array(list) => tokens(&list, &field),
                    other => {
                        let reason =
                            format!("is {}, neither a string nor a list of tokens", kind(&other));
                        Err(Refusal::value(field, reason))
                    }
                }
            };
            list.into_iter().enumerate().map(prompt).collect()
        }
    }
}

fn tokens(list: &[Value], field: &str) -> Result<Draft, Refusal> {
    if list.is_empty() {
        return Err(Refusal::value(field, "is an empty list"));
    }
    let tokens = list.iter().map(|value| token(value, field)).collect::<Result<_, _>>()?;
    Ok(Draft::Raw(RawPrompt::Tokens(tokens)))
}
