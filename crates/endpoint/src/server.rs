//! What a server says about itself: its dialect, and what it serves.

use savi_schema::GenerateError;
use serde_json::Value;

use crate::http::{Client, Sent, Wrong};
use crate::{Dialect, EndpointError, EndpointOptions};

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) dialect: Dialect,
    pub(crate) model: String,
    /// What it serves under that name, where it says so (vLLM, SGLang: the path of the weights).
    pub(crate) serves: Option<String>,
}

impl Server {
    /// Asks the server. One without a list of models is taken at the options' word.
    pub(crate) fn find(client: &Client, options: &EndpointOptions) -> Result<Self, EndpointError> {
        let fail = |reason: String| EndpointError::Server { url: options.base_url.clone(), reason };
        let list = match look(client, "/v1/models", false) {
            Ok(list) => Some(list),
            Err(GenerateError::BadRequest { .. }) => None,
            Err(error) => return Err(fail(error.to_string())),
        };
        let cards: Vec<&Value> =
            list.iter().filter_map(|list| list.get("data")?.as_array()).flatten().collect();
        let text =
            |card: &Value, key: &str| card.get(key).and_then(Value::as_str).map(str::to_owned);
        let model = match (options.model.as_str(), cards.as_slice()) {
            ("", [one]) => text(one, "id").unwrap_or_default(),
            ("", []) => return Err(fail("lists no model: give its name as model".to_owned())),
            ("", many) => {
                let ids = many.iter().filter_map(|card| text(card, "id"));
                let some: Vec<String> = ids.take(8).collect();
                let (count, some) = (many.len(), some.join(", "));
                return Err(fail(format!("serves {count} models: give one as model ({some} ...)")));
            }
            (name, _) => name.to_owned(),
        };
        let card = cards.iter().find(|card| text(card, "id").as_deref() == Some(model.as_str()));
        if card.is_none() && !cards.is_empty() {
            tracing::warn!("{}: does not list the model {model}", options.base_url);
        }
        let owner = card.or(cards.first()).and_then(|card| text(card, "owned_by"));
        let dialect = match (options.dialect, owner.as_deref()) {
            (Dialect::Auto, Some("vllm")) => Dialect::Vllm,
            (Dialect::Auto, Some("sglang")) => Dialect::Sglang,
            (Dialect::Auto, Some("llamacpp")) => Dialect::LlamaCpp,
            (Dialect::Auto, Some("savi")) => Dialect::Savi,
            (Dialect::Auto, _) => told(client),
            (dialect, _) => dialect,
        };
        let serves = card.and_then(|card| text(card, "root")).filter(|root| *root != model);
        Ok(Self { dialect, model, serves })
    }
}

/// The dialect by what only one server has: vLLM's `/version`, llama.cpp's `/props`.
fn told(client: &Client) -> Dialect {
    let version = look(client, "/version", true).ok();
    let is_version = |value: &Value| {
        let fields = value.as_object();
        fields.is_some_and(|fields| fields.len() == 1) && value["version"].is_string()
    };
    if version.as_ref().is_some_and(is_version) {
        return Dialect::Vllm;
    }
    let props = look(client, "/props", true).ok();
    match props.is_some_and(|props| props.get("default_generation_settings").is_some()) {
        true => Dialect::LlamaCpp,
        false => Dialect::OpenAi,
    }
}

fn look(client: &Client, path: &str, once: bool) -> Result<Value, GenerateError> {
    let read = |answer: &Value| match answer {
        Value::Object(_) => Ok(()),
        _ => Err(Wrong::Refusal("the answer is no object".to_owned())),
    };
    let sent = Sent { id: "look", path, body: None, once, waiting: 1, stop: &|| false };
    client.ask(sent, &read).map(|(answer, ())| answer)
}
