//! `POST /v1/chat/completions`: conversations.

use savi_schema::Role;
use serde_json::{Value, json};

use super::content::{Counts, content, kwargs};
use super::{Asked, Draft, DraftMessage, Shape, common};
use crate::fields::Fields;
use crate::options::ServeOptions;
use crate::refusal::Refusal;

const FIELD: &str = "messages";

/// Reads a request.
pub(crate) fn chat(body: Value, options: &ServeOptions) -> Result<Asked, Refusal> {
    let mut fields = Fields::new(body, "")?;
    let asked = common(&mut fields, Shape::Chat, options)?;
    let policy = kwargs(&mut fields, options)?;
    let Some(list) = fields.list(FIELD)? else {
        return Err(Refusal::missing(FIELD, "is not there"));
    };
    if list.is_empty() {
        return Err(Refusal::value(FIELD, "is an empty list"));
    }
    let mut counts = Counts::new(policy, options);
    let message = |(at, value)| message(value, at, &mut counts);
    let messages: Vec<DraftMessage> =
        list.into_iter().enumerate().map(message).collect::<Result<_, _>>()?;
    goes_on(&mut fields, &messages)?;
    let template = "the model's own chat template is used";
    fields.only("chat_template", &[], template)?;
    fields.only("chat_template_kwargs", &[json!({})], template)?;
    fields.only("documents", &[json!([])], template)?;
    let specials = "the chat template says which special tokens stand in a prompt";
    fields.only("add_special_tokens", &[json!(false)], specials)?;
    fields.only("echo", &[json!(false)], "the prompt is not part of the answer")?;
    fields.only("prompt", &[], "prompts without a chat template are for /v1/completions")?;
    fields.finish()?;
    Ok(Asked { prompts: vec![Draft::Messages(messages)], ..asked })
}

/// The last turn, where it is the assistant's, is continued; in any other case a new one is begun. What a
/// request says of it has to agree.
fn goes_on(fields: &mut Fields, messages: &[DraftMessage]) -> Result<(), Refusal> {
    let last = messages.last().is_some_and(|message| message.role == Role::Assistant);
    let goes_on = fields.flag("continue_final_message")?;
    let begins = fields.flag("add_generation_prompt")?;
    if goes_on == Some(true) && !last {
        let reason = "the last turn is not the assistant's, so there is nothing to continue";
        return Err(Refusal::value("continue_final_message", reason));
    }
    if goes_on == Some(false) && last {
        let reason = "the last turn is the assistant's, and is always continued here";
        return Err(Refusal::unsupported("continue_final_message", reason));
    }
    match begins {
        Some(true) if last => Err(Refusal::unsupported(
            "add_generation_prompt",
            "the last turn is the assistant's, and is always continued here",
        )),
        Some(false) if !last => Err(Refusal::unsupported(
            "add_generation_prompt",
            "the last turn is not the assistant's, so a new one is begun",
        )),
        _ => Ok(()),
    }
}

fn message(value: Value, at: usize, counts: &mut Counts<'_>) -> Result<DraftMessage, Refusal> {
    let path = format!("{FIELD}[{at}]");
    let mut fields = Fields::new(value, &path)?;
    let name = fields.name("role");
    let role = match fields.text("role")?.as_deref() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some(tool @ ("tool" | "function")) => {
            let reason = format!("tools are not called here, so there is no role {tool}");
            return Err(Refusal::unsupported(name, reason));
        }
        Some(other) => {
            let other: String = other.chars().take(100).collect();
            let reason = format!("{other:?} is none of system, developer, user and assistant");
            return Err(Refusal::value(name, reason));
        }
        None => return Err(Refusal::missing(name, "is not there")),
    };
    let name = fields.name("content");
    let content = match fields.take("content") {
        Some(value) => content(value, &name, counts)?,
        None => return Err(Refusal::missing(name, "is not there")),
    };
    // What the answers of servers have beside it, so that they can be sent back as they are.
    let none = json!([]);
    let tools = "tools are not called here";
    fields.only("tool_calls", std::slice::from_ref(&none), tools)?;
    fields.only("tool_call_id", &[], tools)?;
    fields.only("function_call", &[], tools)?;
    fields.only("refusal", &[], "refusals are not told apart here")?;
    fields.only("audio", &[], "nothing is heard here")?;
    fields.only("annotations", std::slice::from_ref(&none), "chat templates know none")?;
    fields.only("reasoning_content", &[json!("")], "chat templates get the content alone")?;
    fields.only("reasoning", &[json!("")], "chat templates get the content alone")?;
    fields.only("name", &[], "chat templates know roles, not names")?;
    fields.finish()?;
    Ok(DraftMessage { role, content })
}
