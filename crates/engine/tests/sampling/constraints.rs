//! Texts that are held to a form.

use std::collections::BTreeMap;

use savi_schema::{Completion, Constraint, FinishReason, Generate, Sampling};
use serde_json::{Value, json};

use crate::{draw, engine, messages, request};

fn held(constraint: Constraint) -> Sampling {
    Sampling {
        temperature: 1.0,
        max_tokens: 200,
        constraint: Some(constraint),
        ..Sampling::default()
    }
}

fn choice(choices: &[&str]) -> Constraint {
    Constraint::Choice(choices.iter().map(ToString::to_string).collect())
}

/// Of all completions the texts with their numbers, all of them whole.
fn texts(completions: &[Completion]) -> BTreeMap<&str, usize> {
    let mut texts = BTreeMap::new();
    for completion in completions {
        assert_eq!(completion.finish_reason, FinishReason::Stop, "{completion:?}");
        *texts.entry(completion.text.as_str()).or_default() += 1;
    }
    texts
}

#[test]
fn every_choice_comes_and_nothing_else() {
    let choices = ["left", "left and up", "right", "日本 🙂", "\"up\"\n", "cyan square"];
    // A high temperature, so that what the model finds unlikely comes, too.
    let sampling = Sampling { temperature: 50.0, ..held(choice(&choices)) };
    let completions: Vec<Completion> =
        (0..4).flat_map(|seed| draw(vec![sampling.clone(); 150], seed)).collect();
    let texts = texts(&completions);
    assert!(choices.iter().all(|choice| texts.contains_key(choice)), "{texts:?}");
    assert_eq!(texts.len(), choices.len(), "{texts:?}");
    // Greedily, beside bans, with a short text that a longer one begins with.
    let greedy = Sampling { temperature: 0.0, ..sampling.clone() };
    assert!(choices.contains(&draw(vec![greedy], 0)[0].text.as_str()));
    let banned =
        Sampling { banned_tokens: engine().text().ends().to_vec(), ..held(choice(&choices[..2])) };
    let all = draw(vec![banned; 20], 3);
    assert_eq!(super::constraints::texts(&all).into_keys().collect::<Vec<_>>(), ["left and up"]);
    // What is whole from the start.
    let empty = &draw(vec![held(choice(&[""]))], 0)[0];
    assert_eq!((empty.text.as_str(), empty.token_ids.len()), ("", 0));
    assert_eq!(empty.finish_reason, FinishReason::Stop);
}

fn is_of_the_schema(value: &Value) -> bool {
    let Some(keys) = value.as_object() else { return false };
    let known = ["colour", "count", "tags", "inner"];
    let colour = matches!(value["colour"].as_str(), Some("red" | "blue"));
    let count = value["count"].as_i64().is_some_and(|count| (-3..=12).contains(&count));
    let tags = value["tags"].as_array().is_some_and(|tags| {
        (1..=2).contains(&tags.len())
            && tags.iter().all(|tag| tag.as_str().is_some_and(|tag| tag.chars().count() <= 4))
    });
    let inner = value.get("inner").is_none_or(|inner| inner["flag"].is_boolean());
    colour && count && tags && inner && keys.keys().all(|key| known.contains(&key.as_str()))
}

#[test]
fn json_parses_and_is_of_its_schema() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["colour", "count", "tags"],
        "properties": {
            "colour": {"enum": ["red", "blue"]},
            "count": {"type": "integer", "minimum": -3, "maximum": 12},
            "tags": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string", "maxLength": 4}},
            "inner": {"$ref": "#/$defs/inner"},
        },
        "$defs": {"inner": {"type": "object", "additionalProperties": false, "required": ["flag"],
            "properties": {"flag": {"type": "boolean"}}}},
    });
    let mut inner = 0;
    for temperature in [0.7, 3.0] {
        let sampling = Sampling {
            temperature,
            max_tokens: 600,
            ..held(Constraint::JsonSchema(schema.clone()))
        };
        for completion in draw(vec![sampling; 60], 1) {
            assert_eq!(completion.finish_reason, FinishReason::Stop, "{completion:?}");
            let value: Value = serde_json::from_str(&completion.text).unwrap();
            assert!(is_of_the_schema(&value), "{value}");
            inner += usize::from(value.get("inner").is_some());
        }
    }
    assert!(inner > 0);
    // Any object: it may be longer than there is room for; what ended by itself parses.
    let mut whole = 0;
    for completion in draw(vec![held(Constraint::JsonObject); 40], 2) {
        if completion.finish_reason == FinishReason::Stop {
            let value: Value = serde_json::from_str(&completion.text).unwrap();
            assert!(value.is_object());
            whole += 1;
        } else {
            assert_eq!(completion.token_ids.len(), 200);
            assert!(completion.text.starts_with('{'));
        }
    }
    assert!(whole > 0);
}

#[test]
fn regular_expressions_and_grammars_hold() {
    let is_time = |text: &str| {
        let digits: Vec<&str> = text.split(':').collect();
        matches!(digits[..], [hours, minutes] if hours.len() == 2 && minutes.len() == 2
            && hours.parse::<u8>().is_ok_and(|hours| hours < 20) && minutes.parse::<u8>().is_ok())
    };
    let sampling = held(Constraint::Regex("[01][0-9]:[0-9]{2}".to_owned()));
    let times = draw(vec![sampling; 50], 5);
    assert!(texts(&times).keys().all(|text| is_time(text)), "{times:?}");
    let lark = "start: thing (\", \" thing)*\nthing: COLOUR \" \" SHAPE\nCOLOUR: \"red\" | \"blue\"\nSHAPE: \"circle\" | \"square\"";
    let sampling = held(Constraint::Grammar(lark.to_owned()));
    let things = draw(vec![sampling; 50], 6);
    for text in things.iter().filter(|c| c.finish_reason == FinishReason::Stop).map(|c| &c.text) {
        for thing in text.split(", ") {
            assert!(
                ["red circle", "red square", "blue circle", "blue square"].contains(&thing),
                "{text}"
            );
        }
    }
    assert!(things.iter().any(|thing| thing.finish_reason == FinishReason::Stop));
}

/// The tokens' log-probabilities stay the model's; those of the draw are the model's over what is allowed.
#[test]
fn log_probabilities_are_those_of_the_model_and_of_the_masked_distribution() {
    let choices = ["left", "right", "up and down", "日本"];
    let completions = draw(vec![held(choice(&choices)); 30], 9);
    let engine = engine();
    let prompt = engine.prompt(&messages()).unwrap();
    for completion in &completions {
        // Where the model drew its end, it is among the tokens.
        let scored = engine.score_tokens(&prompt, vec![completion.token_ids.clone()]).unwrap();
        for (told, scored) in completion.logps.iter().zip(&scored[0].logps) {
            assert!((told - scored).abs() < 1e-4, "{told} and {scored}");
        }
        let mut so_far: Vec<u8> = Vec::new();
        for (at, &token) in completion.token_ids.iter().enumerate() {
            let fits = |token: &u32| {
                let longer = [&so_far[..], engine.text().token_bytes(*token)].concat();
                longer.len() > so_far.len()
                    && choices.iter().any(|c| c.as_bytes().starts_with(&longer))
            };
            let ends = engine.text().ends();
            let complete = choices.iter().any(|choice| choice.as_bytes() == so_far);
            let allowed: Vec<u32> = (0..1200)
                .filter(|token| if ends.contains(token) { complete } else { fits(token) })
                .collect();
            let mut before = prompt.clone();
            before.ids.extend(&completion.token_ids[..at]);
            let each = allowed.iter().map(|&token| vec![token]).collect();
            let scored = engine.score_tokens(&before, each).unwrap();
            let total: f64 = scored.iter().map(|score| score.sum().exp()).sum();
            let own = allowed.iter().position(|&of| of == token).unwrap();
            let want = scored[own].sum() - total.ln();
            let told = f64::from(completion.sampling_logps[at]);
            assert!((told - want).abs() < 1e-4, "{told}, not {want}");
            so_far.extend(engine.text().token_bytes(token));
        }
    }
}

/// Forced tokens are followed where they fit, and refused where they do not; bans that leave nothing are said.
#[test]
fn forced_tokens_and_bans_have_to_leave_a_text() {
    let ids = |text: &str| engine().text().encode(text).unwrap();
    let sampling =
        Sampling { forced_tokens: ids("le"), ..held(choice(&["left", "lemon", "right"])) };
    let forced = draw(vec![sampling; 30], 4);
    assert_eq!(texts(&forced).into_keys().collect::<Vec<_>>(), ["left", "lemon"]);
    let refused = |sampling: Sampling| {
        engine().generate(&[request(vec![sampling], 0)]).unwrap_err().to_string()
    };
    let astray = Sampling { forced_tokens: ids("down"), ..held(choice(&["left"])) };
    let error = refused(astray);
    assert!(error.contains("request a") && error.contains("does not fit"), "{error}");
    let banned = Sampling { banned_tokens: (0..1200).collect(), ..held(choice(&["left"])) };
    let error = refused(banned);
    assert!(error.contains("request a") && error.contains("leave no token"), "{error}");
    for (constraint, want) in [
        (Constraint::Regex("a(".to_owned()), "constraint.regex"),
        (Constraint::JsonSchema(json!({"type": "nonsense"})), "nonsense"),
        (Constraint::Grammar("start: thing".to_owned()), "thing"),
    ] {
        let error = refused(held(constraint));
        assert!(error.contains("request a") && error.contains(want), "{error}");
    }
}

/// Without the model's ends a text goes on until nothing can follow; a token that ends the request's texts does so where the
/// text is whole.
#[test]
fn ends_come_where_the_text_is_whole() {
    let both = choice(&["left", "left and right"]);
    let ignoring = Sampling { ignore_eos: true, ..held(both.clone()) };
    let all = draw(vec![ignoring; 20], 8);
    assert_eq!(texts(&all).into_keys().collect::<Vec<_>>(), ["left and right"]);
    let stop = engine().text().encode(" ").unwrap();
    let stopped =
        Sampling { ignore_eos: true, stop_token_ids: stop.clone(), temperature: 9.0, ..held(both) };
    let all = draw(vec![stopped; 60], 8);
    assert!(texts(&all).contains_key("left"), "{:?}", texts(&all));
    for completion in all.iter().filter(|completion| completion.text == "left") {
        assert_eq!(completion.token_ids.last(), stop.last());
    }
    // A shortest length gives way where nothing but the end can follow.
    let long = Sampling { min_tokens: 50, ..held(choice(&["up"])) };
    assert_eq!(draw(vec![long], 0)[0].text, "up");
}
