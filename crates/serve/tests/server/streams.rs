//! Answers that come word by word.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{options, server, server_with};
use crate::fake::Limits;

/// The joined words of one choice of a chat.
fn words(events: &[Value], index: u64) -> String {
    let choices = events.iter().filter_map(|event| event["choices"].get(0));
    let mine = choices.filter(|choice| choice["index"] == index);
    mine.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

#[test]
fn a_chat_comes_in_the_chunks_of_openai() {
    let server = server();
    let answer = server.chat("words 7", json!({"stream": true}));
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    let events = answer.events();
    assert_eq!(
        events[0]["choices"],
        json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null,
            "finish_reason": null}])
    );
    let last = events.last().unwrap();
    assert_eq!(
        last["choices"],
        json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}])
    );
    for event in &events {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["id"], events[0]["id"]);
        assert_eq!(event["system_fingerprint"], "fp_1");
        assert!(event.get("usage").is_none());
    }
    assert_eq!(words(&events, 0), "w0 w1 w2 w3 w4 w5 w6 ");
}

#[test]
fn words_add_up_to_the_text_of_every_choice() {
    let server = server();
    let fields = json!({"seed": 3, "n": 3, "max_tokens": 20});
    let whole = server.chat("draw\nwords 9", fields.clone()).json();
    let mut fields = fields;
    fields["stream"] = json!(true);
    let events = server.chat("draw\nwords 9", fields).events();
    for index in 0..3 {
        let text = &whole["choices"][index as usize]["message"]["content"];
        assert_eq!(words(&events, index), *text);
    }
}

#[test]
fn a_text_that_comes_all_at_once_is_streamed_all_the_same() {
    let server = server();
    let events = server.chat("silent\nwords 3", json!({"stream": true})).events();
    assert_eq!(words(&events, 0), "w0 w1 w2 ");
    let events = server.complete(json!("silent\nwords 3"), json!({"stream": true})).events();
    assert_eq!(events[0]["choices"][0]["text"], "w0 w1 w2 ");
}

#[test]
fn usage_comes_last_where_it_is_asked_for() {
    let server = server();
    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.chat("a b c d", fields.clone()).events();
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(
        last["usage"],
        json!({"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2}})
    );
    assert!(others.iter().all(|event| event["usage"] == Value::Null));
    let events = server.complete(json!(["a", "b c"]), fields).events();
    assert_eq!(events.last().unwrap()["usage"]["prompt_tokens"], 3);
}

#[test]
fn a_completion_comes_in_chunks() {
    let server = server();
    let fields = json!({"stream": true, "logprobs": 1});
    let events = server.complete(json!(["a b c d", "e"]), fields).events();
    let mut texts = [String::new(), String::new()];
    let mut tokens = [String::new(), String::new()];
    let mut offsets = Vec::new();
    for event in &events {
        assert_eq!(event["object"], "text_completion");
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["text"].as_str().unwrap());
        if let Some(list) = choice["logprobs"]["tokens"].as_array() {
            tokens[index].extend(list.iter().map(|token| token.as_str().unwrap()));
            if index == 0 {
                offsets.extend(choice["logprobs"]["text_offset"].as_array().unwrap().clone());
            }
        }
    }
    assert_eq!(texts, ["a b c d", "e"]);
    // Words that wait lose no token.
    assert_eq!(tokens, texts);
    assert_eq!(offsets, [0, 2, 4, 6]);
}

#[test]
fn log_probabilities_of_a_stream_lose_no_token() {
    let server = server();
    let fields = json!({"stream": true, "logprobs": true, "top_logprobs": 1});
    let events = server.chat("words 10", fields).events();
    let lists = events.iter().filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
    let tokens: String = lists.flatten().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(tokens, words(&events, 0));
}

#[test]
fn what_is_wrong_before_the_start_has_a_status() {
    let server = server();
    let stream = || json!({"stream": true});
    let error = server.chat("too-long", stream()).refused(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert!(error["message"].as_str().unwrap().contains("maximum context length of 1000"));
    server.chat("fail its secret", stream()).refused(500);
    server.chat("interrupted", stream()).refused(503);
}

#[test]
fn what_is_wrong_after_the_start_is_an_event() {
    let server = server();
    let answer = server.chat("words 9\nlate-fail of its secret", json!({"stream": true}));
    let events = answer.events();
    assert!(answer.body.contains("event: error\ndata: {\"error\""), "{}", answer.body);
    assert_eq!(words(&events, 0), "w0 w1 ");
    let error = &events.last().unwrap()["error"];
    assert_eq!(error["code"], "internal_error");
    assert!(!answer.body.contains("secret"));
    // Not a client's doing.
    assert_eq!(server.metric("savi_cancellations_total"), 0.0);
}

#[test]
fn long_silences_are_broken_by_comments() {
    let options = savi_serve::ServeOptions { keep_alive: Duration::from_millis(50), ..options() };
    let server = server_with(options, Limits { running: 1, waiting: 9 });
    let answer = server.chat("words 3\npause 200", json!({"stream": true}));
    assert!(answer.body.matches(": still here\n\n").count() >= 3, "{}", answer.body);
    assert_eq!(words(&answer.events(), 0), "w0 w1 w2 ");
    // Whoever waits for the turn hears that, too.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.chat("words 5\npause 100", json!({"stream": true})));
        std::thread::sleep(Duration::from_millis(100));
        let second = server.chat("words 1", json!({"stream": true}));
        assert!(second.body.starts_with(": still here\n\n"), "{}", second.body);
        assert_eq!(words(&second.events(), 0), "w0 ");
        first.join().unwrap().events();
    });
}
