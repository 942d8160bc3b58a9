//! Clients that leave, and clients that take nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use savi_serve::ServeOptions;
use serde_json::{Value, json};

use crate::client::{Server, chat, options, post, server, server_with, until};
use crate::fake::Limits;

const LONG: &str = "words 100000\npause 20";

fn begin(server: &Server, fields: Value) -> std::net::TcpStream {
    let mut stream = server.connect();
    let body = chat(LONG, fields).to_string();
    stream.write_all(post("/v1/chat/completions", &body, "").as_bytes()).unwrap();
    until("it runs", || server.metric("savi_running") == 1.0);
    stream
}

fn is_let_go(server: &Server) {
    until("the back end is told", || server.backend.cancelled() == 1);
    until("it is counted", || server.metric("savi_cancellations_total") == 1.0);
    until("nothing is left", || {
        server.metric("savi_running") + server.metric("savi_open_requests") == 0.0
    });
}

#[test]
fn in_the_middle_of_a_stream() {
    let server = server();
    let stream = begin(&server, json!({"stream": true}));
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().unwrap().unwrap().contains("w3") {}
    drop(lines);
    is_let_go(&server);
}

#[test]
fn before_an_answer_that_comes_as_one() {
    let server = server();
    let stream = begin(&server, json!({}));
    stream.shutdown(Shutdown::Both).unwrap();
    is_let_go(&server);
}

#[test]
fn while_waiting_for_the_turn() {
    let server = server_with(options(), Limits { running: 1, waiting: 9 });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.chat("words 20\npause 100", json!({"max_tokens": 20})));
        until("the first runs", || server.metric("savi_running") == 1.0);
        for (before, fields) in [json!({}), json!({"stream": true})].into_iter().enumerate() {
            let mut stream = server.connect();
            let body = chat("hello", fields).to_string();
            stream.write_all(post("/v1/chat/completions", &body, "").as_bytes()).unwrap();
            until("it waits", || server.metric("savi_waiting") == 1.0);
            drop(stream);
            until("its place is free", || server.metric("savi_open_requests") == 1.0);
            // Long before its turn.
            until("the back end is told", || server.backend.cancelled() == before + 1);
            assert_eq!(server.metric("savi_running"), 1.0);
        }
        assert_eq!(first.join().unwrap().status, 200);
    });
}

#[test]
fn a_client_that_takes_nothing_is_gone_after_a_while() {
    let options = ServeOptions { write_timeout: Duration::from_millis(500), ..options() };
    let server = server_with(options, Limits { running: 4, waiting: 4 });
    let mut stream = server.connect();
    // More than the system keeps for a connection.
    let body = chat("words 1000\nbig 100000", json!({"stream": true, "max_tokens": 1000}));
    stream.write_all(post("/v1/chat/completions", &body.to_string(), "").as_bytes()).unwrap();
    let begun = Instant::now();
    until("its connection is closed", || {
        server.metric("savi_open_requests") == 0.0 && server.metric("savi_connections") <= 1.0
    });
    assert!(begun.elapsed() >= Duration::from_millis(500));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the stream cannot have come to its end");
}

#[test]
fn a_client_that_reads_slowly_gets_every_word() {
    let server = server();
    let mut stream = server.connect();
    let body = chat("words 400\nbig 50000", json!({"stream": true, "max_tokens": 1000}));
    stream.write_all(post("/v1/chat/completions", &body.to_string(), "").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let answer = crate::client::answer(&mut BufReader::new(stream));
    let events = answer.events();
    let words: String =
        events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    let expected: String = (0..400).map(|at| format!("w{at}{} ", "x".repeat(50_000))).collect();
    assert!(words == expected, "{} bytes of {}", words.len(), expected.len());
    // Words joined while the client took none.
    assert!(events.len() < 300, "{} events", events.len());
}
