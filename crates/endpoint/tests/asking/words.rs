//! What is sent, and what is read of what comes back.

use std::time::Duration;

use base64::Engine as _;
use proptest::prelude::*;
use savi_endpoint::{Dialect, Endpoint, EndpointOptions, VideoForm};
use savi_schema::{
    CountRule, FinishReason, Generate, Media, MediaPolicy, Message, Part, RawPrompt, Request, Role,
    Sampling,
};
use serde_json::{Value, json};

use crate::fake::*;

#[test]
fn a_conversation() {
    let fake = Fake::new("vllm", |_, _| Reply::Json(chat(&["Hello."])));
    let mut asked = request("a", vec![greedy()]);
    asked.messages.insert(0, Message::text(Role::System, "Be brief."));
    let drawn = fake.endpoint().generate(&[asked]).unwrap();
    assert_eq!(drawn[0][0].text, "Hello.");
    assert_eq!(drawn[0][0].finish_reason, FinishReason::Stop);
    let calls = fake.asked();
    assert_eq!(calls[0].path, "/v1/chat/completions");
    assert_eq!(
        calls[0].body,
        json!({"model": "m", "messages": [
                {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
            "max_tokens": 5, "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
            "repetition_penalty": 1.0, "return_token_ids": true, "logprobs": true})
    );
    assert_eq!(calls[0].header("authorization"), None);
    assert_eq!(calls[0].header("content-type"), Some("application/json"));
}

#[test]
fn raw_prompts() {
    let fake = Fake::new("openai", |_, _| Reply::Json(completions(&["more"])));
    let raw =
        |raw| Request { raw: Some(raw), messages: Vec::new(), ..request("a", vec![greedy()]) };
    let requests = [raw(RawPrompt::Text("Once".to_owned())), raw(RawPrompt::Tokens(vec![3, 1, 4]))];
    let endpoint = Endpoint::new(EndpointOptions { concurrency: 1, ..fake.options() }).unwrap();
    let drawn = endpoint.generate(&requests).unwrap();
    assert_eq!(drawn[1][0].text, "more");
    assert_eq!(drawn[1][0].finish_reason, FinishReason::Length);
    let calls = fake.asked();
    assert_eq!(calls[0].path, "/v1/completions");
    assert_eq!((&calls[0].body["prompt"], &calls[0].body["logprobs"]), (&json!("Once"), &json!(0)));
    assert_eq!(calls[1].body["prompt"], json!([3, 1, 4]));
    let empty = endpoint.generate(&[raw(RawPrompt::Tokens(Vec::new()))]).unwrap_err();
    assert!(empty.to_string().contains("empty"), "{empty}");
}

/// Texts by place: `seed/choice`.
fn by_seed(asked: &Asked) -> Reply {
    let choices = asked.body["n"].as_u64().unwrap_or(1);
    let texts: Vec<String> =
        (0..choices).map(|at| format!("{}/{at}", asked.body["seed"])).collect();
    Reply::Json(chat(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[test]
fn equal_samplings_are_one_call() {
    let fake = Fake::new("vllm", |asked, _| by_seed(asked));
    let cold = Sampling { temperature: 0.5, ..greedy() };
    let samplings = vec![warm(), greedy(), warm(), cold, greedy()];
    let drawn = fake.endpoint().generate(&[request("a", samplings)]).unwrap();
    let texts: Vec<&str> = drawn[0].iter().map(|c| c.text.as_str()).collect();
    let calls = fake.asked();
    let mut counts: Vec<Option<u64>> = calls.iter().map(|c| c.body["n"].as_u64()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [None, None, Some(2)]);
    assert_eq!((texts[1], texts[4]), ("null/0", "null/0"));
    let seed = texts[0].strip_suffix("/0").unwrap();
    assert_eq!(texts[2], format!("{seed}/1"));
    assert!(texts[3].ends_with("/0") && !texts[3].starts_with(seed));
}

#[test]
fn without_n_each_sample_has_its_call_and_seed() {
    for (owner, several) in [("llamacpp", true), ("openai", false)] {
        let fake = Fake::new(owner, |asked, _| by_seed(asked));
        let options = EndpointOptions { several_choices: several, ..fake.options() };
        let endpoint = Endpoint::new(options).unwrap();
        let drawn = endpoint.generate(&[request("a", vec![warm(); 3])]).unwrap();
        let mut texts: Vec<&str> = drawn[0].iter().map(|c| c.text.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!((texts.len(), fake.asked().len()), (3, 3), "{owner}");
        assert!(fake.asked().iter().all(|call| call.body.get("n").is_none()));
    }
}

#[test]
fn seeds_do_not_depend_on_batch_or_order() {
    let fake = Fake::new("openai", |asked, _| by_seed(asked));
    let endpoint = fake.endpoint();
    let text =
        |requests: &[Request], at: usize| endpoint.generate(requests).unwrap()[at][0].text.clone();
    let (a, b) = (request("a", vec![warm()]), request("b", vec![warm()]));
    let alone = text(std::slice::from_ref(&a), 0);
    assert_eq!(alone, text(&[b.clone(), a.clone()], 1));
    assert_ne!(alone, text(&[b], 0));
    assert_ne!(alone, text(&[Request { seed: 8, ..a }], 0));
}

#[test]
fn log_probs_are_asked_for_and_read() {
    let fake = Fake::new("vllm", |asked, _| {
        assert_eq!(asked.body["top_logprobs"], json!(2));
        let mut answer = chat(&["ab"]);
        answer["choices"][0]["token_ids"] = json!([4, 5]);
        let token = |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
        let mut first = token("a", -0.5);
        first["top_logprobs"] = json!([token("a", -0.5), token("c", -1.5)]);
        answer["choices"][0]["logprobs"] = json!({"content": [first, token("b", -0.25)]});
        Reply::Json(answer)
    });
    let sampling = Sampling { top_logprobs: 2, ..greedy() };
    let drawn = &fake.endpoint().generate(&[request("a", vec![sampling])]).unwrap()[0][0];
    assert_eq!(
        (drawn.token_ids.as_slice(), drawn.logps.as_slice()),
        (&[4, 5][..], &[-0.5, -0.25][..])
    );
    assert_eq!(drawn.top_logps[0][1].bytes, b"c");
    assert!(drawn.sampling_logps.is_empty());
    let silent = Endpoint::new(EndpointOptions { logprobs: false, ..fake.options() }).unwrap();
    let sampling = Sampling { top_logprobs: 2, ..greedy() };
    let error = silent.generate(&[request("a", vec![sampling])]).unwrap_err();
    assert!(error.to_string().contains("top_logprobs"), "{error}");
}

#[test]
fn what_a_dialect_lacks_is_refused_before_anything_is_sent() {
    let fake = Fake::new("openai", |_, _| Reply::Json(chat(&["x"])));
    let lacking = Sampling { top_k: 3, ..greedy() };
    let requests = [request("good", vec![greedy()]), request("bad", vec![lacking])];
    let error = fake.endpoint().generate(&requests).unwrap_err().to_string();
    assert!(error.contains("request bad") && error.contains("top_k"), "{error}");
    assert!(fake.asked().is_empty());
}

#[test]
fn a_last_turn_of_the_assistant_goes_on() {
    let mut begun = request("a", vec![greedy()]);
    begun.messages.push(Message::text(Role::Assistant, "It is"));
    for (owner, told) in [("vllm", json!(false)), ("sglang", Value::Null), ("savi", json!(false))] {
        let fake = Fake::new(owner, |_, _| Reply::Json(chat(&[" red."])));
        let drawn = fake.endpoint().generate(std::slice::from_ref(&begun)).unwrap();
        assert_eq!(drawn[0][0].text, " red.");
        let body = &fake.asked()[0].body;
        assert_eq!(body["continue_final_message"], json!(true));
        assert_eq!(body["add_generation_prompt"], told, "{owner}");
        assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "It is"}));
    }
    for owner in ["openai", "llamacpp"] {
        let fake = Fake::new(owner, |_, _| Reply::Json(chat(&["x"])));
        let error = fake.endpoint().generate(std::slice::from_ref(&begun)).unwrap_err();
        assert!(error.to_string().contains("continue"), "{error}");
    }
}

fn frames(dir: &std::path::Path) {
    for number in 0u8..4 {
        let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([60 * number, 0, 0]));
        picture.save(dir.join(format!("{number}.png"))).unwrap();
    }
}

fn shown(part: Part) -> Request {
    let content = vec![part, Part::Text { text: "What is it?".to_owned() }];
    let messages = vec![Message { role: Role::User, content }];
    Request { messages, ..request("a", vec![greedy()]) }
}

#[test]
fn pictures_and_clips() {
    let dir = tempfile::tempdir().unwrap();
    frames(dir.path());
    let source = dir.path().display().to_string();
    let picture = Media { source: format!("{source}/2.png"), policy: None };
    let policy = Some(MediaPolicy::count(2, CountRule::Linspace));
    let clip = Media { source: source.clone(), policy };
    let whole = dir.path().join("clip.mp4");
    std::fs::write(&whole, b"not looked at").unwrap();
    let file = Media { source: whole.display().to_string(), policy: None };
    let ask = |owner: &'static str, part: Part| {
        let fake = Fake::new(owner, |_, _| Reply::Json(chat(&["x"])));
        fake.endpoint().generate(&[shown(part)]).unwrap();
        fake.asked()[0].body.clone()
    };
    let parts = |body: &Value| body["messages"][0]["content"].as_array().unwrap().clone();

    let body = ask("openai", Part::Image(picture.clone()));
    let content = parts(&body);
    assert_eq!(content[1], json!({"type": "text", "text": "What is it?"}));
    let url = content[0]["image_url"]["url"].as_str().unwrap();
    let sent = url.strip_prefix("data:image/png;base64,").unwrap();
    let sent = base64::engine::general_purpose::STANDARD.decode(sent).unwrap();
    assert_eq!(sent, std::fs::read(&picture.source).unwrap());

    let content = parts(&ask("openai", Part::Video(clip.clone())));
    let kinds: Vec<&str> = content.iter().map(|part| part["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["image_url", "image_url", "text"]);
    let body = ask("vllm", Part::Video(clip.clone()));
    let url = parts(&body)[0]["video_url"]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("data:video/jpeg;base64,") && url.matches(',').count() == 2);
    assert_eq!(body["media_io_kwargs"]["video"]["num_frames"], json!(-1));
    let body = ask("vllm", Part::Video(file));
    let url = parts(&body)[0]["video_url"]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("data:video/mp4;base64,"), "{url}");
    assert!(body.get("media_io_kwargs").is_none());
    let missing = Media { source: format!("{source}/none.mp4"), policy: None };
    let fake = Fake::new("vllm", |_, _| Reply::Json(chat(&["x"])));
    let error = fake.endpoint().generate(&[shown(Part::Video(missing))]).unwrap_err().to_string();
    assert!(error.contains("request a") && error.contains("none.mp4"), "{error}");
    let options = EndpointOptions { video: VideoForm::Url, ..fake.options() };
    let error = Endpoint::new(options).unwrap().generate(&[shown(Part::Video(clip))]).unwrap_err();
    assert!(error.to_string().contains("frames"), "{error}");
}

#[test]
fn servers_are_told_apart() {
    for (owner, dialect) in [
        ("vllm", Dialect::Vllm),
        ("sglang", Dialect::Sglang),
        ("llamacpp", Dialect::LlamaCpp),
        ("savi", Dialect::Savi),
        ("openai", Dialect::OpenAi),
    ] {
        let none = |_: &Asked, _| Reply::Status(404, Vec::new(), String::new());
        let fake = Fake::new(owner, none);
        let endpoint = fake.endpoint();
        assert_eq!((endpoint.dialect(), endpoint.model()), (dialect, "m"));
        // The only model needs no name, with or without /v1.
        let url = format!("{}/v1/", fake.url);
        let unnamed = EndpointOptions { base_url: url, model: String::new(), ..fake.options() };
        let unnamed = Endpoint::new(unnamed).unwrap();
        assert_eq!(unnamed.model(), "m");
        assert_eq!(unnamed.fingerprint(), endpoint.fingerprint());
        let print = endpoint.fingerprint();
        for word in ["m at http://127.0.0.1", dialect.name(), "/weights/m"] {
            assert!(print.contains(word), "{print}");
        }
        let other = EndpointOptions { video: VideoForm::Frames, ..fake.options() };
        assert_ne!(Endpoint::new(other).unwrap().fingerprint(), print);
    }
    let version = Fake::bare(|asked, _| match asked.path.as_str() {
        "/version" => Reply::Json(json!({"version": "0.12.0"})),
        _ => Reply::Status(404, Vec::new(), String::new()),
    });
    assert_eq!(version.endpoint().dialect(), Dialect::Vllm);
    let props = Fake::bare(|asked, _| match asked.path.as_str() {
        "/props" => Reply::Json(json!({"default_generation_settings": {}})),
        _ => Reply::Status(404, Vec::new(), String::new()),
    });
    assert_eq!(props.endpoint().dialect(), Dialect::LlamaCpp);
}

#[test]
fn a_model_has_to_be_named_where_there_are_several() {
    let models = |count: usize| {
        let cards: Vec<Value> = (0..count).map(|at| json!({"id": format!("m{at}")})).collect();
        let list = json!({"data": cards});
        Fake::bare(move |asked, _| match asked.path.as_str() {
            "/v1/models" => Reply::Json(list.clone()),
            _ => Reply::Status(404, Vec::new(), String::new()),
        })
    };
    for (count, words) in [(0, "lists no model"), (3, "m0, m1, m2")] {
        let fake = models(count);
        let options = EndpointOptions { model: String::new(), ..fake.options() };
        let error = Endpoint::new(options).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn tokens_are_counted() {
    let fake = Fake::new("vllm", |_, _| Reply::Json(chat(&["x"])));
    let prices = savi_endpoint::Prices { prompt: 1e6, cached_prompt: None, completion: 2e6 };
    let endpoint = Endpoint::new(EndpointOptions { prices, ..fake.options() }).unwrap();
    endpoint.generate(&[request("a", vec![greedy()]), request("b", vec![greedy()])]).unwrap();
    let usage = endpoint.usage();
    assert_eq!((usage.requests - 1, usage.prompt_tokens, usage.completion_tokens), (2, 20, 6));
    assert!((usage.cost - 32.0).abs() < 1e-9);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whoever is answered first, answers stand in the order of requests and samplings.
    #[test]
    fn results_stand_in_order(rests in prop::collection::vec((0u64..30, 0usize..4), 1..12), concurrency in 1usize..9) {
        let waits: Vec<u64> = rests.iter().map(|(rest, _)| *rest).collect();
        let fake = Fake::new("openai", move |asked, _| {
            let id = said(asked);
            let texts: Vec<String> = (0..asked.body["n"].as_u64().unwrap_or(1))
                .map(|at| format!("{id}/{}/{at}", asked.body["temperature"])).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            Reply::Late(Duration::from_millis(waits[id.parse::<usize>().unwrap()]), chat(&texts))
        });
        let requests: Vec<Request> = rests.iter().enumerate().map(|(id, (_, samples))| {
            let sampling = |at: usize| if at.is_multiple_of(2) { warm() } else { greedy() };
            request(&id.to_string(), (0..*samples).map(sampling).collect())
        }).collect();
        let endpoint = Endpoint::new(EndpointOptions { concurrency, ..fake.options() }).unwrap();
        let drawn = endpoint.generate(&requests).unwrap();
        for ((id, request), drawn) in requests.iter().enumerate().zip(drawn) {
            let texts: Vec<String> = drawn.into_iter().map(|c| c.text).collect();
            let expected: Vec<String> = (0..request.samplings.len()).map(|at| match at % 2 {
                0 => format!("{id}/1.0/{}", at / 2),
                _ => format!("{id}/0.0/0"),
            }).collect();
            prop_assert_eq!(texts, expected);
        }
    }
}
