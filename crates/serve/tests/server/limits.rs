//! Limits of length, time and number.

use std::io::{BufReader, Read, Write};
use std::time::{Duration, Instant};

use savi_serve::ServeOptions;
use serde_json::json;

use crate::client::{answer, chat, options, post, server, server_with, until};
use crate::fake::Limits;

const ROOM: Limits = Limits { running: 8, waiting: 8 };

#[test]
fn bodies_above_the_limit() {
    let options = ServeOptions { max_body_bytes: 1000, ..options() };
    let server = server_with(options, ROOM);
    let long = chat(&"x".repeat(2000), json!({})).to_string();
    let error = server.raw(post("/v1/chat/completions", &long, "").as_bytes()).refused(413);
    assert_eq!(error["code"], "request_too_large");
    // One that does not say how long it is.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 600, "y".repeat(600));
    let chunked = format!("{head}{chunk}{chunk}0\r\n\r\n");
    server.raw(chunked.as_bytes()).refused(413);
    assert_eq!(server.chat("short", json!({})).status, 200);
}

#[test]
fn bodies_that_never_end() {
    let options = ServeOptions { read_timeout: Duration::from_millis(300), ..options() };
    let server = server_with(options, ROOM);
    let mut stream = server.connect();
    let begun = Instant::now();
    let whole = post("/v1/completions", "{\"prompt\": \"a\"}", "");
    stream.write_all(&whole.as_bytes()[..whole.len() - 3]).unwrap();
    let answer = answer(&mut BufReader::new(stream));
    assert_eq!(answer.refused(408)["code"], "request_timeout");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // Nor does one that comes byte by byte last for ever.
    let mut stream = server.connect();
    stream.write_all(&whole.as_bytes()[..whole.len() - 12]).unwrap();
    for _ in 0..8 {
        let _ = stream.write_all(b" ");
        std::thread::sleep(Duration::from_millis(60));
    }
    let answer = crate::client::answer(&mut BufReader::new(stream));
    answer.refused(408);
    // A head that never ends costs a connection alone, and that is closed.
    let mut stream = server.connect();
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    // Nor does one that says nothing, before its first request or after one, stay open.
    let silent = server.connect();
    let mut again = server.connect();
    again.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(crate::client::answer(&mut BufReader::new(&again)).status, 200);
    for mut stream in [silent, again] {
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    until("no connection stays", || server.metric("savi_connections") <= 1.0);
    assert_eq!(server.chat("hello", json!({})).status, 200);
}

#[test]
fn bodies_that_break_off() {
    let server = server();
    let whole = post("/v1/completions", "{\"prompt\": \"a\"}", "");
    let mut stream = server.connect();
    stream.write_all(&whole.as_bytes()[..whole.len() - 3]).unwrap();
    drop(stream);
    until("the request is over", || server.metric("savi_open_requests") == 0.0);
    assert!(server.backend.seen().is_empty());
}

#[test]
fn memory_for_bodies_is_shared() {
    let options = ServeOptions { max_body_bytes: 100_000, max_bodies_bytes: 100_000, ..options() };
    let server = server_with(options, ROOM);
    let long = chat(&"x".repeat(60_000), json!({})).to_string();
    let whole = post("/v1/chat/completions", &long, "");
    let mut first = server.connect();
    first.write_all(&whole.as_bytes()[..whole.len() - 1]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let answer = server.raw(whole.as_bytes());
    assert_eq!(answer.refused(429)["code"], "too_many_bytes");
    assert!(answer.headers.contains_key("retry-after"));
    first.write_all(&whole.as_bytes()[whole.len() - 1..]).unwrap();
    assert_eq!(crate::client::answer(&mut BufReader::new(first)).status, 200);
    assert_eq!(server.raw(whole.as_bytes()).status, 200);
}

#[test]
fn a_full_queue() {
    let server = server_with(options(), Limits { running: 1, waiting: 1 });
    std::thread::scope(|scope| {
        let long = || server.chat("words 10\npause 100", json!({}));
        let first = scope.spawn(long);
        until("the first runs", || server.metric("savi_running") == 1.0);
        let second = scope.spawn(long);
        until("the second waits", || server.metric("savi_waiting") == 1.0);
        let answer = server.chat("hello", json!({}));
        assert_eq!(answer.refused(429)["code"], "queue_full");
        assert_eq!(answer.headers["retry-after"], "1");
        // Of several prompts none is left behind.
        server.complete(json!(["a", "b", "c"]), json!({})).refused(429);
        assert_eq!(first.join().unwrap().status, 200);
        assert_eq!(second.join().unwrap().status, 200);
    });
    until("nothing is left", || {
        server.metric("savi_waiting") + server.metric("savi_running") == 0.0
    });
}

#[test]
fn more_requests_than_are_taken() {
    let options = ServeOptions { max_requests: 1, ..options() };
    let server = server_with(options, ROOM);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.chat("words 5\npause 100", json!({"stream": true})));
        until("the first runs", || server.metric("savi_running") == 1.0);
        let error = server.chat("hello", json!({})).refused(429);
        assert_eq!(error["code"], "too_many_requests");
        first.join().unwrap().events();
    });
    assert_eq!(server.chat("hello", json!({})).status, 200);
}

#[test]
fn more_connections_than_are_taken() {
    let options = ServeOptions { max_connections: 2, ..options() };
    let server = server_with(options, ROOM);
    let (one, two) = (server.connect(), server.connect());
    // Accepted once another has gone.
    let mut third = server.connect();
    third.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(third.read(&mut [0]).is_err());
    drop(one);
    third.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(answer(&mut BufReader::new(third)).status, 200);
    drop(two);
}

#[test]
fn what_was_taken_up_ends_before_the_server_does() {
    let mut server = server();
    let address = server.address;
    let mut idle = server.connect();
    let mut stream = server.connect();
    let body = chat("words 10\npause 50", json!({"stream": true})).to_string();
    stream.write_all(post("/v1/chat/completions", &body, "").as_bytes()).unwrap();
    let mut one = server.connect();
    let body = chat("words 10\npause 50", json!({})).to_string();
    one.write_all(post("/v1/chat/completions", &body, "").as_bytes()).unwrap();
    until("both run", || server.metric("savi_running") == 2.0);
    server.tell_to_end();
    let streamed = answer(&mut BufReader::new(stream));
    assert_eq!(streamed.events().len(), 2 + 7);
    assert_eq!(answer(&mut BufReader::new(one)).status, 200);
    server.end();
    // A connection without a request is closed, and none is accepted.
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn what_does_not_end_in_time_is_cut() {
    let options = ServeOptions { drain: Duration::from_millis(200), ..options() };
    let mut server = server_with(options, ROOM);
    let mut stream = server.connect();
    let body = chat("words 1000\npause 100", json!({"stream": true})).to_string();
    stream.write_all(post("/v1/chat/completions", &body, "").as_bytes()).unwrap();
    until("it runs", || server.metric("savi_running") == 1.0);
    let begun = Instant::now();
    server.end();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(!answer(&mut BufReader::new(stream)).whole);
}

#[test]
fn options_that_mean_nothing() {
    let backend = || std::sync::Arc::new(crate::fake::Scripted::new(ROOM));
    let refused = |options: ServeOptions| {
        let served = savi_serve::serve_blocking("127.0.0.1:0", backend(), options, |_| (), || true);
        served.unwrap_err().to_string()
    };
    let base = options;
    assert!(refused(ServeOptions { models: Vec::new(), ..base() }).starts_with("models"));
    assert!(refused(ServeOptions { max_choices: 0, ..base() }).starts_with("max_choices"));
    let folders = vec!["no/such/folder".into()];
    assert!(refused(ServeOptions { allow_files: folders, ..base() }).contains("no/such/folder"));
    let keys = vec![savi_serve::ApiKey::new(" ")];
    assert!(refused(ServeOptions { keys, ..base() }).starts_with("keys"));
    let served = savi_serve::serve_blocking("256.0.0.1:0", backend(), base(), |_| (), || true);
    assert!(served.unwrap_err().to_string().starts_with("256.0.0.1:0"));
}
