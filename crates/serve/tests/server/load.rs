//! Many clients at once, of all kinds.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::client::{chat, options, post, server_with, until};
use crate::fake::Limits;

#[test]
fn nothing_that_was_accepted_is_lost() {
    const CLIENTS: usize = 200;
    const REQUESTS: usize = 5;
    let server = server_with(options(), Limits { running: 8, waiting: 64 });
    let [accepted, refused, busy, left] = [(); 4].map(|()| AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, accepted, refused) = (&server, &accepted, &refused);
            let (busy, left) = (&busy, &left);
            scope.spawn(move || {
                for turn in 0..REQUESTS {
                    let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
                    match (client + turn) % 8 {
                        // Malformed in several ways.
                        0 => {
                            let answer = server.raw(post("/v1/completions", "{", "").as_bytes());
                            answer.refused(400);
                            count(refused);
                        }
                        1 => {
                            server.chat("a", json!({"temperature": "hot"})).refused(400);
                            count(refused);
                        }
                        2 => {
                            let mut stream = server.connect();
                            let body = chat("words 50\npause 5", json!({"stream": true}));
                            let whole = post("/v1/chat/completions", &body.to_string(), "");
                            stream.write_all(whole.as_bytes()).unwrap();
                            count(left);
                        }
                        kind => {
                            let words = format!("client {client} turn {turn}");
                            let stream = kind % 2 == 0;
                            let answer = server.chat(&words, json!({"stream": stream}));
                            if answer.status == 429 {
                                answer.refused(429);
                                count(busy);
                                continue;
                            }
                            let text = if stream {
                                let events = answer.events();
                                let choices = events.iter().map(|e| &e["choices"][0]["delta"]);
                                choices.filter_map(|delta| delta["content"].as_str()).collect()
                            } else {
                                let value = answer.json();
                                let content = &value["choices"][0]["message"]["content"];
                                content.as_str().unwrap_or_default().to_owned()
                            };
                            assert_eq!(text, words);
                            count(accepted);
                        }
                    }
                }
            });
        }
    });
    let [accepted, refused, busy, left] = [accepted, refused, busy, left].map(|c| c.into_inner());
    assert_eq!(accepted + refused + busy + left, CLIENTS * REQUESTS);
    assert!(accepted > 0 && refused > 0);
    until("nothing is left", || {
        server.metric("savi_open_requests") + server.metric("savi_running") == 0.0
    });
    assert_eq!(server.metric("savi_refusals_total{reason=\"invalid_json\"}"), 125.0);
}
