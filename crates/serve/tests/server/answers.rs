//! Answers that come as one: their shapes, and what the back end was asked for.

use savi_schema::{Message, RawPrompt, Role, Sampling};
use serde_json::{Value, json};

use crate::client::{chat, server};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_chat_has_the_shape_of_openai() {
    let server = server();
    let answer = server.chat("one two three", json!({"model": "org/tiny"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/json");
    let value = answer.json();
    assert_eq!(
        keys(&value),
        ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    );
    assert!(value["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(value["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(value["object"], "chat.completion");
    assert_eq!(value["model"], "org/tiny");
    assert_eq!(value["system_fingerprint"], "fp_1");
    assert_eq!(
        value["choices"],
        json!([{"index": 0, "message": {"role": "assistant", "content": "one two three",
            "refusal": null}, "logprobs": null, "finish_reason": "stop"}])
    );
    assert_eq!(
        value["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 1}})
    );
    let again = server.chat("one two three", json!({})).json();
    assert_ne!(again["id"], value["id"]);
    assert_eq!(again["model"], "tiny");
}

#[test]
fn a_completion_has_the_shape_of_openai() {
    let server = server();
    let value = server.complete(json!("words 20"), json!({})).json();
    assert_eq!(value["object"], "text_completion");
    assert!(value["id"].as_str().unwrap().starts_with("cmpl-"));
    let choice = &value["choices"][0];
    assert_eq!(keys(choice), ["index", "text", "logprobs", "finish_reason"]);
    // The length of completions that name none is 16.
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["text"].as_str().unwrap().split_whitespace().count(), 16);
    assert_eq!(value["usage"]["completion_tokens"], 16);
}

#[test]
fn prompts_of_all_kinds() {
    let server = server();
    for (prompt, texts) in [
        (json!("a b"), vec!["a b"]),
        (json!(["a", "b c"]), vec!["a", "b c"]),
        (json!([1, 2]), vec!["1 2"]),
        (json!([[1, 2], [3]]), vec!["1 2", "3"]),
    ] {
        let value = server.complete(prompt.clone(), json!({"n": 2})).json();
        let choices = value["choices"].as_array().unwrap();
        let expected: Vec<&str> = texts.iter().flat_map(|text| [*text, *text]).collect();
        let found: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
        assert_eq!(found, expected, "{prompt}");
        let indices: Vec<u64> = choices.iter().map(|c| c["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..expected.len() as u64).collect::<Vec<_>>());
    }
    let seen = server.backend.seen();
    assert_eq!(seen[0].raw, Some(RawPrompt::Text("a b".to_owned())));
    assert_eq!(seen[3].raw, Some(RawPrompt::Tokens(vec![1, 2])));
    assert!(seen.iter().all(|request| request.messages.is_empty()));
}

#[test]
fn every_field_reaches_the_back_end() {
    let server = server();
    let answer = server.chat(
        "hello",
        json!({
            "n": 2, "seed": -1, "stop": ["x", "y"], "temperature": 0.5, "top_p": 0.25, "top_k": 7,
            "min_p": 0.125, "typical_p": 0.75, "repetition_penalty": 1.5, "presence_penalty": 0.5,
            "frequency_penalty": -0.5, "logit_bias": {"5": 2, "6": -100}, "logprobs": true,
            "top_logprobs": 3, "max_completion_tokens": 40, "max_tokens": 40, "min_tokens": 4,
            "stop_token_ids": [8, 9], "ignore_eos": true, "no_repeat_ngram_size": 3,
            "structured_outputs": {"regex": "a+"},
            // These change nothing.
            "user": "me", "metadata": {"a": "b"}, "store": true, "tools": [], "tool_choice": "none",
            "best_of": 2, "parallel_tool_calls": false, "modalities": ["text"], "audio": null,
            "skip_special_tokens": true, "bad_words": [], "use_beam_search": false,
        }),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = server.backend.seen().remove(0);
    assert_eq!(seen.id, "request");
    assert_eq!(seen.seed, u64::MAX);
    assert_eq!(seen.messages, [Message::text(Role::User, "hello")]);
    let expected = Sampling {
        temperature: 0.5,
        top_p: 0.25,
        top_k: 7,
        min_p: 0.125,
        typical_p: 0.75,
        repetition_penalty: 1.5,
        presence_penalty: 0.5,
        frequency_penalty: -0.5,
        logit_bias: [(5, 2.0), (6, -100.0)].into(),
        no_repeat_ngram_size: 3,
        min_tokens: 4,
        max_tokens: 40,
        stop: vec!["x".to_owned(), "y".to_owned()],
        stop_token_ids: vec![8, 9],
        ignore_eos: true,
        constraint: Some(savi_schema::Constraint::Regex("a+".to_owned())),
        top_logprobs: 3,
        ..Sampling::default()
    };
    assert_eq!(seen.samplings, [expected.clone(), expected]);
}

#[test]
fn what_is_not_said_is_as_openai_has_it() {
    let server = server();
    server.chat("hello", json!({"temperature": null, "stop": null, "top_k": -1}));
    let seen = server.backend.seen().remove(0);
    let expected =
        Sampling { temperature: 1.0, max_tokens: Sampling::ALL_ROOM, ..Sampling::default() };
    assert_eq!(seen.samplings, [expected]);
}

#[test]
fn roles_and_parts() {
    let server = server();
    let messages = json!([
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        {"role": "assistant", "content": "e", "refusal": null, "tool_calls": null, "annotations": []},
    ]);
    let body = json!({"messages": messages, "continue_final_message": true,
        "add_generation_prompt": false});
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
    let seen = server.backend.seen().remove(0).messages;
    let roles: Vec<Role> = seen.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::System, Role::User, Role::Assistant]);
    let words: Vec<String> = seen.iter().map(Message::words).collect();
    assert_eq!(words, ["a", "b", "cd", "e"]);
    assert_eq!(seen[2].content.len(), 2);
}

#[test]
fn equal_seeds_give_equal_texts_in_any_company() {
    let server = server();
    let text = |value: &Value, index: usize| value["choices"][index]["text"].clone();
    let alone = server.complete(json!("draw"), json!({"seed": 5})).json();
    let again = server.complete(json!("draw"), json!({"seed": 5, "n": 2})).json();
    let listed = server.complete(json!(["words 3", "draw"]), json!({"seed": 5})).json();
    assert_eq!(text(&alone, 0), text(&again, 0));
    assert_eq!(text(&alone, 0), text(&listed, 1));
    assert_ne!(text(&again, 0), text(&again, 1));
    let other = server.complete(json!("draw"), json!({"seed": 6})).json();
    assert_ne!(text(&alone, 0), text(&other, 0));
    // Without a seed every prompt has one of its own.
    let none = server.complete(json!(["draw", "draw"]), json!({})).json();
    assert_ne!(text(&none, 0), text(&none, 1));
    let greedy = server.complete(json!(["draw", "draw"]), json!({"temperature": 0})).json();
    assert_eq!(text(&greedy, 0), text(&greedy, 1));
}

#[test]
fn ends_are_told() {
    let server = server();
    let choice = |fields| server.chat("words 9", fields).json()["choices"][0].clone();
    let stopped = choice(json!({"stop": "w3"}));
    assert_eq!(stopped["message"]["content"], "w0 w1 w2 ");
    assert_eq!(stopped["finish_reason"], "stop");
    let cut = choice(json!({"max_tokens": 2}));
    assert_eq!(cut["message"]["content"], "w0 w1 ");
    assert_eq!(cut["finish_reason"], "length");
}

#[test]
fn log_probabilities_are_told() {
    let server = server();
    let chat = server.chat("a b", json!({"logprobs": true, "top_logprobs": 2})).json();
    let content = chat["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(
        content[0],
        json!({"token": "a ", "logprob": -0.5, "bytes": [97, 32], "top_logprobs": [
            {"token": "a ", "logprob": -0.5, "bytes": [97, 32]},
            {"token": "other1", "logprob": -1.0, "bytes": [111, 116, 104, 101, 114, 49]}]})
    );
    assert_eq!(content.len(), 2);
    let bare = server.chat("a b", json!({"logprobs": true})).json();
    assert_eq!(bare["choices"][0]["logprobs"]["content"][1]["top_logprobs"], json!([]));
    let text = server.complete(json!("a b"), json!({"logprobs": 1})).json();
    assert_eq!(
        text["choices"][0]["logprobs"],
        json!({"text_offset": [0, 2], "token_logprobs": [-0.5, -0.5], "tokens": ["a ", "b"],
            "top_logprobs": [{"a ": -0.5}, {"b": -0.5}]})
    );
    let none = server.complete(json!("a b"), json!({"logprobs": 0})).json();
    assert_eq!(none["choices"][0]["logprobs"]["top_logprobs"], Value::Null);
    assert_eq!(none["choices"][0]["logprobs"]["tokens"], json!(["a ", "b"]));
}

#[test]
fn models_health_tokens_and_metrics() {
    let server = server();
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    let names: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(names, ["tiny", "org/tiny"]);
    assert_eq!(server.get("/v1/models/org/tiny").json()["id"], "org/tiny");
    assert_eq!(server.get("/v1/models/other").refused(404)["code"], "model_not_found");
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    let tokens = server.post("/tokenize", &json!({"prompt": "a b c"})).json();
    assert_eq!(tokens, json!({"count": 3, "tokens": [0, 1, 2]}));

    server.post("/v1/chat/completions", &chat("a b c", json!({"max_tokens": 2})));
    server.chat("x", json!({"n": 0}));
    assert_eq!(server.metric("savi_prompt_tokens_total"), 3.0);
    assert_eq!(server.metric("savi_cached_prompt_tokens_total"), 1.0);
    assert_eq!(server.metric("savi_generated_tokens_total"), 2.0);
    assert_eq!(server.metric("savi_cancellations_total"), 0.0);
    assert_eq!(server.metric("savi_running"), 0.0);
    assert_eq!(server.metric("savi_time_to_first_token_seconds_count"), 1.0);
    assert_eq!(server.metric("savi_time_per_output_token_seconds_count"), 1.0);
    assert_eq!(server.metric("savi_request_duration_seconds_count"), 1.0);
    assert_eq!(server.metric("savi_refusals_total{reason=\"invalid_value\"}"), 1.0);
    let endpoint = "endpoint=\"/v1/chat/completions\"";
    assert_eq!(server.metric(&format!("savi_requests_total{{{endpoint},status=\"200\"}}")), 1.0);
    assert_eq!(server.metric(&format!("savi_requests_total{{{endpoint},status=\"400\"}}")), 1.0);
}
