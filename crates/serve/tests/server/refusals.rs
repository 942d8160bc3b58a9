//! Refusals: each has its status, its code and the name of the field.

use serde_json::{Value, json};

use crate::client::{chat, options, post, server, server_with};
use crate::fake::Limits;

/// Fields of a chat, what is named as wrong, the code, and words of the message.
fn chats() -> Vec<(Value, &'static str, &'static str, &'static str)> {
    let value = "invalid_value";
    let unsupported = "unsupported_parameter";
    vec![
        (json!({"temprature": 1}), "temprature", "unknown_parameter", "is temperature meant?"),
        (json!({"zebra": 1}), "zebra", "unknown_parameter", "no such field"),
        (json!({"temperature": -1}), "temperature", value, "-1 is not a number from 0 on"),
        (json!({"temperature": "hot"}), "temperature", value, "\"hot\" is not a number"),
        (json!({"top_p": 0}), "top_p", value, "above 0 and at most 1"),
        (json!({"top_k": -2}), "top_k", value, "neither -1 nor 0"),
        (json!({"top_k": 1.5}), "top_k", value, "not a whole number"),
        (json!({"min_p": 1}), "min_p", value, "from 0 to below 1"),
        (json!({"typical_p": 2}), "typical_p", value, "at most 1"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", value, "above 0"),
        (json!({"presence_penalty": 3}), "presence_penalty", value, "from -2 to 2"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", value, "from -2 to 2"),
        (json!({"n": 0}), "n", value, "from 1 to 128"),
        (json!({"n": 1000}), "n", value, "from 1 to 128"),
        (json!({"seed": 1.5}), "seed", value, "1.5 is not a whole number"),
        (json!({"stream": "yes"}), "stream", value, "is a string, not true or false"),
        (json!({"stream_options": {}}), "stream_options", value, "stream is not true"),
        (
            json!({"stream": true, "stream_options": {"usage": true}}),
            "stream_options.usage",
            "unknown_parameter",
            "no such field",
        ),
        (json!({"max_tokens": 0}), "max_tokens", value, "from 1"),
        (json!({"max_tokens": -5}), "max_tokens", value, "-5"),
        (
            json!({"max_tokens": 3, "max_completion_tokens": 4}),
            "max_completion_tokens",
            value,
            "not the 3 of max_tokens",
        ),
        (json!({"min_tokens": 5, "max_tokens": 4}), "min_tokens", value, "more than max_tokens"),
        (json!({"stop": ""}), "stop", value, "empty string"),
        (json!({"stop": [1]}), "stop", value, "has a number, not a string"),
        (json!({"stop": vec!["a"; 17]}), "stop", value, "17 strings are more than 16"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids", value, "-1 is not the number"),
        (json!({"logit_bias": {"a": 1}}), "logit_bias", value, "\"a\" is not the number"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias", value, "from -100 to 100"),
        (json!({"logit_bias": [1]}), "logit_bias", value, "is a list, not an object"),
        (json!({"top_logprobs": 3}), "top_logprobs", value, "only where logprobs is true"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", value, "from 0 to 20"),
        (json!({"logprobs": 2}), "logprobs", value, "is a number, not true or false"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", value, "\"xml\""),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            "missing_required_parameter",
            "is not there",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}),
            "response_format.json_schema.schema",
            value,
            "not a JSON schema",
        ),
        (json!({"guided_choice": []}), "guided_choice", value, "empty list"),
        (json!({"guided_json": "{"}), "guided_json", value, "is not JSON"),
        (
            json!({"guided_regex": "a", "guided_choice": ["b"]}),
            "guided_regex",
            value,
            "ask for one",
        ),
        (
            json!({"structured_outputs": {"xml": 1}}),
            "structured_outputs.xml",
            "unknown_parameter",
            "no such field",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools", unsupported, "tools are not called"),
        (json!({"audio": {}}), "audio", unsupported, "answers are text"),
        (json!({"best_of": 3}), "best_of", unsupported, "ask for n"),
        (json!({"bad_words": ["x"]}), "bad_words", unsupported, "logit_bias"),
        (json!({"use_beam_search": true}), "use_beam_search", unsupported, "beams"),
        (json!({"echo": true}), "echo", unsupported, "not part of the answer"),
        (json!({"add_generation_prompt": false}), "add_generation_prompt", unsupported, "begun"),
        (json!({"continue_final_message": true}), "continue_final_message", value, "nothing to"),
        (
            json!({"mm_processor_kwargs": {"fps": 1, "num_frames": 2}}),
            "mm_processor_kwargs.fps",
            value,
            "say one",
        ),
        (
            json!({"mm_processor_kwargs": {"num_frames": 0}}),
            "mm_processor_kwargs.num_frames",
            value,
            "from 1 to 768",
        ),
        (
            json!({"mm_processor_kwargs": {"max_pixels": 5}}),
            "mm_processor_kwargs.max_pixels",
            "unknown_parameter",
            "no such field",
        ),
        (json!({"chat_template": "x"}), "chat_template", unsupported, "the model's own"),
    ]
}

#[test]
fn fields_of_a_chat() {
    let server = server();
    for (fields, param, code, words) in chats() {
        let error = server.chat("hello", fields.clone()).refused(400);
        assert_eq!(error["param"], param, "{fields}: {error}");
        assert_eq!(error["code"], code, "{fields}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(words), "{fields}: {error}");
    }
    assert!(server.backend.seen().is_empty());
}

#[test]
fn turns_of_a_chat() {
    let server = server();
    let url = |url: &str| {
        json!([{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}}]}])
    };
    for (messages, param, words) in [
        (json!(null), "messages", "is not there"),
        (json!([]), "messages", "is an empty list"),
        (json!("hello"), "messages", "is a string, not a list"),
        (json!([5]), "messages[0]", "is a number, not an object"),
        (json!([{"role": "user"}]), "messages[0].content", "is not there"),
        (json!([{"content": "a"}]), "messages[0].role", "is not there"),
        (json!([{"role": "pope", "content": "a"}]), "messages[0].role", "\"pope\" is none of"),
        (json!([{"role": "tool", "content": "a"}]), "messages[0].role", "tools are not called"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content", "neither a string nor"),
        (json!([{"role": "user", "content": []}]), "messages[0].content", "empty list"),
        (json!([{"role": "user", "content": "a", "nam": 1}]), "messages[0].nam", "name meant?"),
        (
            json!([{"role": "assistant", "content": "a", "tool_calls": [{}]}]),
            "messages[0].tool_calls",
            "tools are not called",
        ),
        (
            json!([{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text"}]}]),
            "messages[1].content[0].text",
            "is not there",
        ),
        (
            json!([{"role": "user", "content": [{"type": "input_audio"}]}]),
            "messages[0].content[0].type",
            "nothing is heard",
        ),
        (
            json!([{"role": "user", "content": [{"type": "smell"}]}]),
            "messages[0].content[0].type",
            "is none of text",
        ),
        (url("no address"), "messages[0].content[0].image_url.url", "no data:, file: or http"),
        (url("data:image/png;base64,!"), "messages[0].content[0].image_url.url", "not base64"),
        (url("data:image/png;base64,AAAA"), "messages[0].content[0].image_url.url", "none of PNG"),
        (url("file:///etc/passwd"), "messages[0].content[0].image_url.url", "no files of its own"),
        (url("http://localhost/a"), "messages[0].content[0].image_url.url", "fetches nothing"),
    ] {
        let body = json!({"messages": messages});
        let error = server.post("/v1/chat/completions", &body).refused(400);
        assert_eq!(error["param"], param, "{messages}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{messages}: {error}");
    }
    let body = json!({"messages": [{"role": "assistant", "content": "a"}],
        "add_generation_prompt": true});
    let error = server.post("/v1/chat/completions", &body).refused(400);
    assert_eq!(error["param"], "add_generation_prompt");
    assert!(server.backend.seen().is_empty());
}

#[test]
fn fields_of_a_completion() {
    let server = server();
    for (fields, param, words) in [
        (json!({}), "prompt", "is not there"),
        (json!({"prompt": ""}), "prompt", "empty string"),
        (json!({"prompt": []}), "prompt", "empty list"),
        (json!({"prompt": {}}), "prompt", "neither a string nor a list"),
        (json!({"prompt": [1, "a"]}), "prompt", "\"a\" is not the number of a token"),
        (json!({"prompt": ["a", 1]}), "prompt[1]", "is a number"),
        (json!({"prompt": [[]]}), "prompt[0]", "empty list"),
        (json!({"prompt": [[1], [-1]]}), "prompt[1]", "-1 is not the number"),
        (json!({"prompt": vec!["a"; 65], "n": 2}), "prompt", "more than 128 choices"),
        (json!({"prompt": "a", "echo": true}), "echo", "not part of the answer"),
        (json!({"prompt": "a", "suffix": "b"}), "suffix", "filled in"),
        (json!({"prompt": "a", "logprobs": 6}), "logprobs", "from 0 to 5"),
        (json!({"prompt": "a", "logprobs": true}), "logprobs", "true is not a whole number"),
        (json!({"prompt": "a", "top_logprobs": 1}), "top_logprobs", "logprobs = 0 to 5"),
        (json!({"prompt": "a", "messages": []}), "messages", "/v1/chat/completions"),
        (json!({"prompt": "a", "max_completion_tokens": 5}), "max_completion_tokens", "max_tokens"),
    ] {
        let error = server.post("/v1/completions", &fields).refused(400);
        assert_eq!(error["param"], param, "{fields}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{fields}: {error}");
    }
}

#[test]
fn bodies_that_are_no_json() {
    let server = server();
    for body in ["", "{", "[]", "null", "5", "{\"messages\": [}", "\u{1}", &"[".repeat(10_000)] {
        let answer = server.raw(post("/v1/chat/completions", body, "").as_bytes());
        assert_eq!(answer.refused(400)["code"], "invalid_json", "{body:.20}");
    }
    let mut bytes = post("/v1/completions", "??", "").into_bytes();
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(b"\xff\xfe");
    assert_eq!(server.raw(&bytes).refused(400)["code"], "invalid_json");
    // A page of any origin could send this.
    let plain = post("/v1/completions", "{}", "").replace("application/json", "text/plain");
    let error = server.raw(plain.as_bytes()).refused(415);
    assert!(error["message"].as_str().unwrap().contains("text/plain"));
}

#[test]
fn names_paths_and_methods() {
    let server = server();
    let error = server.chat("a", json!({"model": "gpt-5"})).refused(404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    assert!(error["message"].as_str().unwrap().contains("tiny, org/tiny"));
    let error = server.get("/v1/engines").refused(404);
    assert_eq!(error["code"], "unknown_url");
    assert_eq!(error["param"], Value::Null);
    let answer = server.get("/v1/chat/completions");
    assert_eq!(answer.refused(405)["code"], "method_not_allowed");
    assert_eq!(answer.headers["allow"], "POST");
    server.post("/health", &json!({})).refused(405);
}

#[test]
fn what_the_back_end_says() {
    let server = server();
    let error = server.chat("refuse such words", json!({})).refused(400);
    assert_eq!(error["message"], "such words");
    let error = server.chat("too-long", json!({})).refused(400);
    assert_eq!(error["code"], "context_length_exceeded");
    let error = server.chat("media-fail no frames", json!({})).refused(400);
    assert!(error["message"].as_str().unwrap().ends_with("no frames"));
    let error = server.chat("fail at a secret", json!({})).refused(500);
    assert!(!error["message"].as_str().unwrap().contains("secret"));
    let answer = server.chat("interrupted", json!({}));
    assert_eq!(answer.refused(503)["code"], "shutting_down");
    assert!(answer.headers.contains_key("retry-after"));
    server.chat("vanish", json!({})).refused(500);
    server.chat("vanish", json!({"stream": true})).refused(500);
    // A panic ends a request and nothing else.
    server.chat("panic", json!({})).refused(500);
    assert_eq!(server.chat("hello", json!({})).status, 200);
    assert_eq!(server.metric("savi_cancellations_total"), 0.0);
    assert_eq!(server.metric("savi_open_requests"), 0.0);
}

#[test]
fn keys() {
    let keys = vec![savi_serve::ApiKey::new("one"), savi_serve::ApiKey::new("two")];
    let options = savi_serve::ServeOptions { keys, ..options() };
    let server = server_with(options, Limits { running: 1, waiting: 1 });
    let body = chat("hello", json!({})).to_string();
    let with = |header: &str| server.raw(post("/v1/chat/completions", &body, header).as_bytes());
    let answer = with("");
    assert_eq!(answer.refused(401)["code"], "invalid_api_key");
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    with("Authorization: Bearer three\r\n").refused(401);
    with("Authorization: Basic one\r\n").refused(401);
    assert_eq!(with("Authorization: Bearer one\r\n").status, 200);
    assert_eq!(with("Authorization: Bearer two\r\n").status, 200);
    for path in ["/v1/models", "/metrics", "/nowhere"] {
        server.get(path).refused(401);
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn other_origins() {
    let ask = |server: &crate::client::Server, method: &str| {
        server.raw(
            format!(
                "{method} /v1/models HTTP/1.1\r\nHost: a\r\nOrigin: https://page.example\r\n\
                 Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n"
            )
            .as_bytes(),
        )
    };
    let closed = server();
    assert!(!ask(&closed, "GET").headers.contains_key("access-control-allow-origin"));
    ask(&closed, "OPTIONS").refused(405);
    let origins = vec!["https://page.example".to_owned()];
    let options = savi_serve::ServeOptions { origins, ..options() };
    let open = server_with(options, Limits { running: 1, waiting: 1 });
    for method in ["GET", "OPTIONS"] {
        let answer = ask(&open, method);
        assert_eq!(answer.headers["access-control-allow-origin"], "https://page.example");
    }
    assert!(
        ask(&open, "OPTIONS").headers["access-control-allow-headers"].contains("authorization")
    );
    let other =
        b"GET /health HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\nConnection: close\r\n\r\n";
    assert!(!open.raw(other).headers.contains_key("access-control-allow-origin"));
}
