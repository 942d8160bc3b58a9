//! Forms that a text is held to: `response_format` as OpenAI has it, `guided_*` and
//! `structured_outputs` as vLLM has them.

use savi_schema::Constraint;
use serde_json::{Value, json};

use crate::fields::{Fields, kind};
use crate::refusal::Refusal;

/// The one form that a request asks for, if any.
pub(super) fn constraint(fields: &mut Fields) -> Result<Option<Constraint>, Refusal> {
    let mut found: Vec<(String, Constraint)> = Vec::new();
    if let Some(format) = fields.object("response_format")?
        && let Some(constraint) = response_format(format)?
    {
        found.push(("response_format".to_owned(), constraint));
    }
    let names = ["guided_choice", "guided_regex", "guided_json", "guided_grammar"];
    named(fields, names, &mut found)?;
    if let Some(mut outputs) = fields.object("structured_outputs")? {
        named(&mut outputs, ["choice", "regex", "json", "grammar"], &mut found)?;
        if outputs.flag("json_object")?.unwrap_or(false) {
            found.push((outputs.name("json_object"), Constraint::JsonObject));
        }
        outputs.only("structural_tag", &[], "tags are not held to forms here")?;
        outputs.finish()?;
    }
    if let [(first, _), (second, _), ..] = &found[..] {
        let reason = format!("{first} holds the text to a form already; ask for one");
        return Err(Refusal::value(second.clone(), reason));
    }
    Ok(found.pop().map(|(_, constraint)| constraint))
}

fn response_format(mut format: Fields) -> Result<Option<Constraint>, Refusal> {
    let constraint = match format.text("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(Constraint::JsonObject),
        Some("json_schema") => {
            let Some(mut named) = format.object("json_schema")? else {
                return Err(Refusal::missing(format.name("json_schema"), "is not there"));
            };
            // The text is always held to the schema, so strict changes nothing.
            named.ignore(&["name", "description", "strict"]);
            let field = named.name("schema");
            let Some(value) = named.take("schema") else {
                return Err(Refusal::missing(field, "is not there"));
            };
            named.finish()?;
            Some(Constraint::JsonSchema(schema(value, &field)?))
        }
        Some(other) => {
            let other: String = other.chars().take(100).collect();
            let reason = format!("{other:?} is none of text, json_object and json_schema");
            return Err(Refusal::value(format.name("type"), reason));
        }
        None => return Err(Refusal::missing(format.name("type"), "is not there")),
    };
    if constraint.is_none() {
        format.only("json_schema", &[], "is for the type json_schema")?;
    }
    format.finish()?;
    Ok(constraint)
}

/// The fields for choices, regular expressions, JSON and grammars, under these names.
fn named(
    fields: &mut Fields,
    [choice, regex, json, grammar]: [&'static str; 4],
    found: &mut Vec<(String, Constraint)>,
) -> Result<(), Refusal> {
    if let Some(list) = fields.list(choice)? {
        let field = fields.name(choice);
        if list.is_empty() {
            return Err(Refusal::value(field, "is an empty list"));
        }
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(Refusal::value(&field, format!("has {}, not a string", kind(&other)))),
        };
        let choices = list.into_iter().map(text).collect::<Result<_, _>>()?;
        found.push((field.clone(), Constraint::Choice(choices)));
    }
    if let Some(text) = fields.text(regex)? {
        found.push((fields.name(regex), Constraint::Regex(text)));
    }
    if let Some(value) = fields.take(json) {
        let field = fields.name(json);
        let value = match value {
            // vLLM takes a schema that is written as a string, too.
            Value::String(text) => serde_json::from_str(&text)
                .map_err(|error| Refusal::value(&field, format!("is not JSON: {error}")))?,
            value => value,
        };
        found.push((field.clone(), Constraint::JsonSchema(schema(value, &field)?)));
    }
    if let Some(text) = fields.text(grammar)? {
        found.push((fields.name(grammar), Constraint::Grammar(text)));
    }
    Ok(())
}

fn schema(value: Value, field: &str) -> Result<Value, Refusal> {
    if value.is_object() || value == json!(true) {
        return Ok(value);
    }
    Err(Refusal::value(field, format!("is {}, not a JSON schema", kind(&value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_by_all_their_names() {
        let schema = json!({"type": "object"});
        let by_schema = || Constraint::JsonSchema(schema.clone());
        let named = json!({"name": "a", "strict": true, "schema": schema});
        let choice = || Constraint::Choice(vec!["a".to_owned(), "b".to_owned()]);
        let cases = [
            (json!({}), None),
            (json!({"response_format": {"type": "text"}}), None),
            (json!({"response_format": {"type": "json_object"}}), Some(Constraint::JsonObject)),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": named}}),
                Some(by_schema()),
            ),
            (json!({"guided_json": schema}), Some(by_schema())),
            (json!({"guided_json": "{\"type\": \"object\"}"}), Some(by_schema())),
            (json!({"guided_choice": ["a", "b"]}), Some(choice())),
            (json!({"guided_regex": "a+"}), Some(Constraint::Regex("a+".to_owned()))),
            (
                json!({"guided_grammar": "start: x"}),
                Some(Constraint::Grammar("start: x".to_owned())),
            ),
            (json!({"structured_outputs": {"choice": ["a", "b"]}}), Some(choice())),
            (json!({"structured_outputs": {"json": schema}}), Some(by_schema())),
            (json!({"structured_outputs": {"json_object": true}}), Some(Constraint::JsonObject)),
            (
                json!({"structured_outputs": {"grammar": "g"}, "guided_json": null}),
                Some(Constraint::Grammar("g".to_owned())),
            ),
        ];
        for (body, expected) in cases {
            let mut fields = Fields::new(body.clone(), "").unwrap();
            assert_eq!(constraint(&mut fields), Ok(expected), "{body}");
            assert_eq!(fields.finish(), Ok(()), "{body}");
        }
    }
}
