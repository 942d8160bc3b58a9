//! What goes wrong, and when it is tried again.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use savi_endpoint::{Dialect, Endpoint, EndpointOptions};
use savi_schema::{Generate, GenerateError, Request};
use serde_json::json;

use crate::fake::*;

fn one() -> [Request; 1] {
    [request("a", vec![greedy()])]
}

/// The first call goes wrong; the next is answered.
fn heals(fault: impl Fn() -> Reply + Send + Sync + 'static) {
    let fake = Fake::new("vllm", move |_, number| match number {
        0 => fault(),
        _ => Reply::Json(chat(&["fine"])),
    });
    let endpoint = fake.endpoint();
    assert_eq!(endpoint.generate(&one()).unwrap()[0][0].text, "fine");
    assert_eq!((fake.asked().len(), endpoint.usage().retries), (2, 1));
}

/// Every call goes wrong; the error says what happened.
fn lasts(timeout: f64, fault: impl Fn() -> Reply + Send + Sync + 'static, words: &str) {
    let fake = Fake::new("vllm", move |_, _| fault());
    let options = EndpointOptions { max_retries: 1, ..fake.options() };
    let endpoint = Endpoint::new(EndpointOptions { timeout, ..options }).unwrap();
    let error = endpoint.generate(&one()).unwrap_err().to_string();
    for word in [words, "request a", "2 tries", "/v1/chat/completions"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert_eq!(fake.asked().len(), 2);
}

fn status(status: u16) -> Reply {
    Reply::Status(status, Vec::new(), json!({"error": {"message": "tired"}}).to_string())
}

/// An answer whose connection is used no more: a client that went on with it could meet its end, and
/// try once more.
fn body(length: usize, text: &str) -> Reply {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
    Reply::Bytes(format!("{head} {length}\r\n\r\n{text}").into_bytes())
}

#[test]
fn what_passes_is_tried_again() {
    for number in [408, 409, 429, 500, 502, 503, 504] {
        heals(move || status(number));
    }
    heals(|| Reply::Closed);
    // Cut in the middle of the body, by its length and in the middle of JSON.
    heals(|| body(500, "{\"choices\": ["));
    heals(|| body(13, "{\"choices\": ["));
    heals(|| body(6, "<html>"));
    heals(|| Reply::Bytes(b"nonsense\r\n\r\n".to_vec()));
    heals(|| Reply::Json(json!({"choices": []})));
    heals(|| Reply::Json(json!({"choose": 1})));
    heals(|| Reply::Json(json!({"error": {"message": "overloaded", "code": 503}})));
}

#[test]
fn what_lasts_is_told() {
    lasts(10.0, || status(503), "answers 503: tired");
    lasts(10.0, || Reply::Json(json!({"choices": []})), "0 choices where 1");
    lasts(10.0, || Reply::Json(json!({"choose": 1})), "no choices");
    lasts(10.0, || body(6, "<html>"), "<html>");
    lasts(0.7, || Reply::Silence(Duration::from_secs(2)), "timeout");
    let begin = Instant::now();
    lasts(0.7, || Reply::Drip, "timeout");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_silent_server_is_asked_again() {
    let fake = Fake::new("vllm", |_, number| match number {
        0 => Reply::Silence(Duration::from_secs(4)),
        _ => Reply::Json(chat(&["fine"])),
    });
    let endpoint = Endpoint::new(EndpointOptions { timeout: 1.5, ..fake.options() }).unwrap();
    assert_eq!(endpoint.generate(&one()).unwrap()[0][0].text, "fine");
    assert!(fake.asked().len() >= 2);
}

/// A socket that is dropped with bytes unread resets its connection.
#[test]
fn a_reset_connection_is_made_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for (number, stream) in listener.incoming().take(3).enumerate() {
            let mut stream = stream.unwrap();
            if number == 1 {
                stream.read_exact(&mut [0]).unwrap();
                continue;
            }
            // To the end of the head, and of the body where there is one: it closes as many braces as it opens.
            let (mut bytes, mut open) = (Vec::new(), 0);
            let head: &[u8] = b"\r\n\r\n";
            while !(bytes.ends_with(head) && number == 0 || bytes.ends_with(b"}") && open == 0) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                open += i32::from(byte[0] == b'{') - i32::from(byte[0] == b'}');
                bytes.extend(byte);
            }
            let text = if number == 0 { json!({"data": []}) } else { chat(&["fine"]) }.to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}", text.len());
            stream.write_all(format!("{head}\r\n\r\n{text}").as_bytes()).unwrap();
        }
    });
    let dialect = Dialect::OpenAi;
    let options = EndpointOptions { dialect, backoff: 0.001, ..EndpointOptions::new(url, "m") };
    let endpoint = Endpoint::new(options).unwrap();
    assert_eq!(endpoint.generate(&one()).unwrap()[0][0].text, "fine");
    assert_eq!(endpoint.usage().retries, 1);
    server.join().unwrap();
}

#[test]
fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let options =
        EndpointOptions { max_retries: 1, backoff: 0.001, ..EndpointOptions::new(url, "m") };
    let error = Endpoint::new(options).unwrap_err().to_string();
    assert!(error.contains("2 tries") && error.contains("refused"), "{error}");
}

#[test]
fn other_refusals_are_final() {
    for (number, words) in
        [(400, "tired"), (401, "api_key_env"), (403, "api_key_env"), (404, "tired"), (422, "tired")]
    {
        let fake = Fake::new("vllm", move |_, _| status(number));
        let error = fake.endpoint().generate(&one()).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("request a") && told.contains(words), "{told}");
        assert_eq!(
            matches!(error, GenerateError::BadRequest { .. }),
            ![401, 403].contains(&number)
        );
        assert_eq!(fake.asked().len(), 1, "{number}");
    }
    let mut filtered = chat(&["x"]);
    filtered["choices"][0]["finish_reason"] = json!("content_filter");
    let fake = Fake::new("vllm", move |_, _| Reply::Json(filtered.clone()));
    let error = fake.endpoint().generate(&one()).unwrap_err().to_string();
    assert!(error.contains("content_filter") && fake.asked().len() == 1, "{error}");
}

#[test]
fn one_failure_is_that_of_the_call() {
    let fake = Fake::new("vllm", |asked, _| match said(asked).as_str() {
        "b" => status(400),
        _ => Reply::Late(Duration::from_millis(50), chat(&["x"])),
    });
    let requests: Vec<Request> =
        ["a", "b", "c"].iter().map(|id| request(id, vec![greedy()])).collect();
    let error = fake.endpoint().generate(&requests).unwrap_err().to_string();
    assert!(error.starts_with("request b"), "{error}");
}

#[test]
fn a_server_that_asks_for_rest_has_it() {
    let fake = Fake::new("vllm", |_, number| match number {
        0 => Reply::Status(429, vec![("Retry-After", "0.4".to_owned())], String::new()),
        _ => Reply::Late(Duration::from_millis(30), chat(&["x"])),
    });
    let options = EndpointOptions { concurrency: 2, ..fake.options() };
    let requests: Vec<Request> =
        (0..6).map(|id| request(&id.to_string(), vec![greedy()])).collect();
    Endpoint::new(options).unwrap().generate(&requests).unwrap();
    let calls = fake.asked();
    assert_eq!(calls.len(), 7);
    // Calls that were under way may come; after them nobody asks until the time is over.
    let begin = calls[0].at;
    let early = calls[1..].iter().filter(|call| call.at - begin < Duration::from_millis(390));
    assert!(early.count() <= 1);
}

#[test]
fn used_up_limits_are_waited_for() {
    let headers = || {
        vec![
            ("x-ratelimit-remaining-requests", "0".to_owned()),
            ("x-ratelimit-reset-requests", "300ms".to_owned()),
        ]
    };
    let fake = Fake::new("vllm", move |_, number| match number {
        0 => Reply::Status(200, headers(), chat(&["x"]).to_string()),
        _ => Reply::Json(chat(&["x"])),
    });
    let endpoint = fake.endpoint();
    endpoint.generate(&one()).unwrap();
    endpoint.generate(&one()).unwrap();
    let calls = fake.asked();
    assert!(calls[1].at - calls[0].at >= Duration::from_millis(290));
}

#[test]
fn too_many_requests_in_the_end() {
    let fake = Fake::new("vllm", |_, _| status(429));
    let error = fake.endpoint().generate(&one()).unwrap_err();
    assert!(matches!(error, GenerateError::Busy { waiting: 1 }), "{error}");
    assert_eq!(fake.asked().len(), 4);
    // Nobody waits for a day.
    let fake = Fake::new("vllm", |_, _| {
        Reply::Status(429, vec![("Retry-After", "86400".to_owned())], String::new())
    });
    let error = fake.endpoint().generate(&one()).unwrap_err();
    assert!(matches!(error, GenerateError::Busy { .. }) && fake.asked().len() == 1, "{error}");
    let fake = Fake::new("vllm", |_, _| {
        let error = json!({"error": {"message": "pay", "code": "insufficient_quota"}});
        Reply::Status(429, Vec::new(), error.to_string())
    });
    let error = fake.endpoint().generate(&one()).unwrap_err().to_string();
    assert!(error.contains("insufficient_quota") && fake.asked().len() == 1, "{error}");
}

#[test]
fn never_more_at_once_than_allowed() {
    for limit in [1, 3] {
        let fake = Fake::new("vllm", |_, _| Reply::Late(Duration::from_millis(25), chat(&["x"])));
        let options = EndpointOptions { concurrency: limit, ..fake.options() };
        let endpoint = Endpoint::new(options).unwrap();
        let requests: Vec<Request> =
            (0..8).map(|id| request(&id.to_string(), vec![greedy()])).collect();
        // Two callers share the limit.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| endpoint.generate(&requests).unwrap());
            }
        });
        assert_eq!((fake.most(), fake.asked().len()), (limit, 16));
    }
}

#[test]
fn a_redirection_is_not_followed() {
    let other = Fake::bare(|_, _| Reply::Json(chat(&["stolen"])));
    let to = format!("{}/v1/chat/completions", other.url);
    for number in [301, 302, 307, 308] {
        let to = to.clone();
        let fake = Fake::new("vllm", move |_, _| {
            Reply::Status(number, vec![("Location", to.clone())], String::new())
        });
        let error = fake.endpoint().generate(&one()).unwrap_err().to_string();
        assert!(error.contains("base_url") && error.contains(&other.url), "{error}");
        assert_eq!(fake.asked().len(), 1);
    }
    assert!(other.all().is_empty());
}

#[test]
fn an_interruption_ends_waits() {
    let fake = Fake::new("vllm", |_, _| {
        Reply::Status(503, vec![("Retry-After", "60".to_owned())], String::new())
    });
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    let endpoint = fake.endpoint().with_stop(move || seen.load(Ordering::Relaxed));
    let begin = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        flag.store(true, Ordering::Relaxed);
    });
    let error = endpoint.generate(&one()).unwrap_err();
    assert!(matches!(error, GenerateError::Interrupted), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    let error = endpoint.generate(&one()).unwrap_err();
    assert!(matches!(error, GenerateError::Interrupted), "{error}");
}
