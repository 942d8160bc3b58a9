//! Answers that are not asked for twice, and the key that is nowhere to be seen.

use std::fmt::Write as _;
use std::sync::Mutex;

use savi_endpoint::{Endpoint, EndpointOptions};
use savi_schema::{Generate, Media, Message, Part, Request, Role};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::fake::*;

fn three() -> Vec<Request> {
    ["a", "b", "c"].iter().map(|id| request(id, vec![warm(), greedy(), warm()])).collect()
}

fn reply(asked: &Asked) -> Reply {
    let choices = asked.body["n"].as_u64().unwrap_or(1);
    let texts: Vec<String> =
        (0..choices).map(|at| format!("{} {} {at}", said(asked), asked.body["seed"])).collect();
    Reply::Json(chat(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[test]
fn nothing_is_paid_twice() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Some(dir.path().join("answers.jsonl"));
    let fake = Fake::new("vllm", |asked, _| reply(asked));
    let options = EndpointOptions { cache, ..fake.options() };
    let endpoint = Endpoint::new(options.clone()).unwrap();
    let first = endpoint.generate(&three()).unwrap();
    assert_eq!(fake.asked().len(), 6);
    assert_eq!(endpoint.generate(&three()).unwrap(), first);
    drop(endpoint);
    // Another address of the same model, in another process.
    let second = Fake::new("vllm", |asked, _| reply(asked));
    let moved = EndpointOptions { base_url: second.url.clone(), ..options.clone() };
    let endpoint = Endpoint::new(moved).unwrap();
    let mut turned = three();
    turned.reverse();
    let mut again = endpoint.generate(&turned).unwrap();
    again.reverse();
    assert_eq!((again, second.asked().len()), (first, 0));
    let usage = endpoint.usage();
    assert_eq!((usage.cached_answers, usage.prompt_tokens), (6, 0));
    // Another seed is another draw; what is greedy stays.
    let other: Vec<Request> = three().into_iter().map(|r| Request { seed: 9, ..r }).collect();
    endpoint.generate(&other).unwrap();
    assert_eq!(second.asked().len(), 3);
}

#[test]
fn what_was_answered_before_a_failure_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Some(dir.path().join("answers.jsonl"));
    let fake = Fake::new("vllm", |asked, number| match said(asked).as_str() {
        "c" if number < 3 => Reply::Status(400, Vec::new(), "no".to_owned()),
        _ => Reply::Json(chat(&["x"])),
    });
    let options = EndpointOptions { cache, concurrency: 1, ..fake.options() };
    let requests: Vec<Request> =
        ["a", "b", "c"].iter().map(|id| request(id, vec![greedy()])).collect();
    Endpoint::new(options.clone()).unwrap().generate(&requests).unwrap_err();
    assert_eq!(fake.asked().len(), 3);
    Endpoint::new(options).unwrap().generate(&requests).unwrap();
    assert_eq!(fake.asked().len(), 4);
}

/// Killed in the middle of a row, the cache goes on with the rows before it.
#[test]
fn a_killed_writer_costs_one_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.jsonl");
    let fake = Fake::new("vllm", |asked, _| reply(asked));
    let options = EndpointOptions { cache: Some(path.clone()), concurrency: 1, ..fake.options() };
    let first = Endpoint::new(options.clone()).unwrap().generate(&three()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    assert_eq!(Endpoint::new(options).unwrap().generate(&three()).unwrap(), first);
    assert_eq!(fake.asked().len(), 7);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

#[test]
fn media_count_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Some(dir.path().join("answers.jsonl"));
    let fake = Fake::new("vllm", |_, _| Reply::Json(chat(&["x"])));
    let options = EndpointOptions { cache, ..fake.options() };
    let ask = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let media = Media { source: path.display().to_string(), policy: None };
        let messages = vec![Message { role: Role::User, content: vec![Part::Video(media)] }];
        let endpoint = Endpoint::new(options.clone()).unwrap();
        endpoint.generate(&[Request { messages, ..request("a", vec![greedy()]) }]).unwrap();
        fake.asked().len()
    };
    assert_eq!(ask("a.mp4", b"one"), 1);
    assert_eq!(ask("a.mp4", b"one"), 1);
    assert_eq!(ask("b.mp4", b"one"), 1);
    assert_eq!(ask("a.mp4", b"two"), 2);
    let cache = std::fs::read_to_string(dir.path().join("answers.jsonl")).unwrap();
    assert_eq!(cache.lines().count(), 2);
}

/// Everything that is logged, as text.
struct Log;

static LOGGED: Mutex<String> = Mutex::new(String::new());

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(LOGGED.lock().unwrap(), "{field} {value:?}").unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut Log);
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Log);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Log);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn the_key_is_sent_and_never_seen() {
    // The program sets none, and this is the only test that reads this one.
    let variable = "SAVI_ENDPOINT_TEST_KEY";
    let Some(key) = std::env::var_os(variable) else {
        // A process of its own, whose environment holds the key.
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cached::the_key_is_sent_and_never_seen", "--nocapture"])
            .env(variable, "sk-very-secret-key")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    tracing::subscriber::set_global_default(Log).unwrap();
    let key = key.into_string().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.jsonl");
    let told = key.clone();
    let fake = Fake::new("vllm", move |asked, number| match (number, said(asked).as_str()) {
        (0, _) => Reply::Status(500, Vec::new(), format!("no place for {told}")),
        (_, "bad") => Reply::Status(401, Vec::new(), format!("wrong key: {told}")),
        _ => Reply::Json(chat(&[&format!("your key is {told}")])),
    });
    let options = EndpointOptions {
        cache: Some(path.clone()),
        api_key_env: Some(variable.to_owned()),
        headers_env: [("x-other".to_owned(), variable.to_owned())].into(),
        ..fake.options()
    };
    let endpoint = Endpoint::new(options.clone()).unwrap();
    let drawn = endpoint.generate(&[request("a", vec![greedy()])]).unwrap();
    let error = endpoint.generate(&[request("bad", vec![greedy()])]).unwrap_err();
    let call = &fake.asked()[0];
    assert_eq!(call.header("authorization"), Some(format!("Bearer {key}").as_str()));
    assert_eq!(call.header("x-other"), Some(key.as_str()));
    let logged = LOGGED.lock().unwrap().clone();
    assert!(logged.contains("try 2 of 4"), "{logged}");
    for seen in [
        std::fs::read_to_string(path).unwrap(),
        format!("{endpoint:?} {options:?} {drawn:?} {error} {error:?}"),
        endpoint.fingerprint(),
        logged,
    ] {
        assert!(!seen.is_empty() && !seen.contains("very-secret"), "{seen}");
    }
    let missing = EndpointOptions { api_key_env: Some("SAVI_NO_SUCH_KEY".to_owned()), ..options };
    let error = Endpoint::new(EndpointOptions { cache: None, ..missing }).unwrap_err().to_string();
    assert!(error.contains("SAVI_NO_SUCH_KEY"), "{error}");
}
