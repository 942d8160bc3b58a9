//! Log-probs of given continuations.

use savi_schema::{Continuation, Media, Message, Part, RawPrompt, Role, Score, ScoreRequest};
use serde_json::{Value, json};

use crate::fake::*;

/// A token a byte.
fn tokens(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// The prompt of a conversation as a template might write it.
fn rendered(body: &Value) -> Vec<u32> {
    let messages = body["messages"].as_array().unwrap();
    let words = |message: &Value| match message["content"].as_str() {
        Some(words) => words.to_owned(),
        None => "<pic>".to_owned(),
    };
    let mut text = String::new();
    for message in messages {
        let last = message["role"] == "assistant";
        text += &format!("{}:{}", message["role"].as_str().unwrap(), words(message));
        text += if last { "" } else { "|" };
    }
    if body["continue_final_message"] != json!(true) {
        text += "assistant:";
    }
    tokens(&text)
}

/// The log-prob of a token in the fakes: less for each place.
fn logp(place: usize, token: u32) -> f64 {
    -(place as f64) - f64::from(token) / 1024.0
}

fn prompt_logprobs(all: &[u32]) -> Value {
    let entry = |(place, &token): (usize, &u32)| match place {
        0 => Value::Null,
        _ => {
            json!({token.to_string(): {"logprob": logp(place, token), "rank": 1, "decoded_token": "x"}})
        }
    };
    all.iter().enumerate().map(entry).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn tokenized(asked: &Asked) -> Reply {
    let tokens = match asked.body.get("messages") {
        Some(_) => rendered(&asked.body),
        None => {
            let own = tokens(asked.body["prompt"].as_str().unwrap());
            match asked.body["add_special_tokens"] == json!(false) {
                true => own,
                false => [vec![1], own].concat(),
            }
        }
    };
    Reply::Json(json!({"tokens": tokens, "count": tokens.len(), "max_model_len": 100}))
}

fn vllm(asked: &Asked) -> Reply {
    match asked.path.as_str() {
        "/tokenize" => tokenized(asked),
        "/v1/completions" => {
            assert_eq!(
                (&asked.body["prompt_logprobs"], &asked.body["max_tokens"]),
                (&json!(0), &json!(1))
            );
            let mut answer = completions(&["x"]);
            answer["choices"][0]["prompt_logprobs"] = prompt_logprobs(&ids(&asked.body["prompt"]));
            Reply::Json(answer)
        }
        _ => {
            let all = rendered(&asked.body);
            let mut answer = chat(&["x"]);
            answer["prompt_logprobs"] = match asked.body.get("prompt_logprobs") {
                Some(_) => prompt_logprobs(&all),
                None => Value::Null,
            };
            answer["prompt_token_ids"] = json!(all);
            Reply::Json(answer)
        }
    }
}

fn sglang(asked: &Asked) -> Reply {
    if asked.path == "/tokenize" {
        return tokenized(asked);
    }
    assert_eq!(asked.path, "/generate");
    let start = asked.body["logprob_start_len"].as_u64().unwrap() as usize;
    let entries: Vec<Value> = ids(&asked.body["input_ids"])
        .iter()
        .enumerate()
        .skip(start)
        .map(|(place, &token)| match place == start {
            true => json!([null, token, null]),
            false => json!([logp(place, token), token, null]),
        })
        .collect();
    let meta = json!({"input_token_logprobs": entries, "prompt_tokens": entries.len(), "completion_tokens": 1});
    Reply::Json(json!({"text": "x", "meta_info": meta}))
}

fn request(words: &str) -> ScoreRequest {
    let continuations = ["left", "", "up"].map(Continuation::from).to_vec();
    ScoreRequest { messages: vec![Message::text(Role::User, words)], raw: None, continuations }
}

#[test]
fn words_after_words() {
    for (owner, play) in [("vllm", vllm as fn(&Asked) -> Reply), ("sglang", sglang)] {
        let fake = Fake::new(owner, move |asked, _| play(asked));
        let mut begun = request("Which way?");
        begun.messages.push(Message::text(Role::Assistant, "To the "));
        let raw = Some(RawPrompt::Text("It goes ".to_owned()));
        let raw = ScoreRequest { raw, messages: Vec::new(), ..request("") };
        let ids = Some(RawPrompt::Tokens(vec![9, 8]));
        let ids = ScoreRequest { raw: ids, messages: Vec::new(), ..request("") };
        let requests = [request("Which way?"), begun, raw, ids];
        let scores = fake.endpoint().score(&requests).unwrap();
        let starts = [
            "user:Which way?|assistant:".len(),
            "user:Which way?|assistant:To the ".len(),
            1 + "It goes ".len(),
            2,
        ];
        for (scores, start) in scores.iter().zip(starts) {
            assert_eq!(scores.len(), 3);
            for (score, words) in scores.iter().zip(["left", "", "up"]) {
                assert_eq!(score.token_ids, tokens(words));
                let expected: Vec<f32> = tokens(words)
                    .iter()
                    .enumerate()
                    .map(|(at, &token)| logp(start + at, token) as f32)
                    .collect();
                assert_eq!(score.logps, expected, "{owner}");
            }
        }
    }
}

#[test]
fn words_after_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    image::RgbImage::new(2, 2).save(&path).unwrap();
    let shown = || {
        let media = Media { source: path.display().to_string(), policy: None };
        let content = vec![Part::Image(media), Part::Text { text: "?".to_owned() }];
        ScoreRequest { messages: vec![Message { role: Role::User, content }], ..request("") }
    };
    let fake = Fake::new("vllm", |asked, _| vllm(asked));
    let scores = fake.endpoint().score(&[shown()]).unwrap();
    let start = "user:<pic>|assistant:".len();
    assert_eq!(scores[0][2].token_ids, tokens("up"));
    assert_eq!(scores[0][2].logps[0], logp(start, u32::from(b'u')) as f32);
    assert_eq!(fake.asked().len(), 3);
    let fake = Fake::new("sglang", |asked, _| sglang(asked));
    let error = fake.endpoint().score(&[shown()]).unwrap_err().to_string();
    assert!(error.contains("pictures and clips"), "{error}");
    // A template that writes a finished turn otherwise than one that is begun.
    let fake = Fake::new("vllm", |asked, _| {
        let Reply::Json(mut answer) = vllm(asked) else { unreachable!() };
        if asked.body.get("continue_final_message").is_some() {
            answer["prompt_token_ids"][0] = json!(0);
        }
        Reply::Json(answer)
    });
    let error = fake.endpoint().score(&[shown()]).unwrap_err().to_string();
    assert!(error.contains("do not begin with"), "{error}");
}

#[test]
fn counts_are_checked() {
    let fake = Fake::new("vllm", |asked, _| {
        let Reply::Json(mut answer) = vllm(asked) else { unreachable!() };
        if asked.path == "/v1/completions" {
            answer["choices"][0]["prompt_logprobs"].as_array_mut().unwrap().pop();
        }
        Reply::Json(answer)
    });
    let error = fake.endpoint().score(&[request("a")]).unwrap_err().to_string();
    assert!(error.contains("log-probs were told of"), "{error}");
    let fake = Fake::new("openai", |_, _| Reply::Json(chat(&["x"])));
    let error = fake.endpoint().score(&[request("a")]).unwrap_err().to_string();
    assert!(error.contains("openai") && fake.asked().is_empty(), "{error}");
}
