//! `savi serve`: the program itself over HTTP. What the server's fields, limits and media do is tested in its
//! own crate, on a scripted back end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(address: &str, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_savi"))
            .args(["serve", "--model", "builtin:tiny", "--device", "cpu", "--addr", address])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some((_, rest)) = line.split_once("listens on http://") {
                break rest.trim_end_matches("/v1").to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    fn send(&self, path: &str, body: Option<&Value>) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let body = body.map(Value::to_string);
        let (method, body) = body.map_or(("GET", String::new()), |body| ("POST", body));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        stream
    }

    /// Status and body.
    fn ask(&self, path: &str, body: Option<&Value>) -> (u16, String) {
        let mut answer = String::new();
        self.send(path, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            return (status, body.to_owned());
        }
        let (mut whole, mut rest) = (String::new(), body);
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            if size == 0 {
                break;
            }
            whole.push_str(&after[..size]);
            rest = &after[size + 2..];
        }
        (status, whole)
    }

    fn json(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.ask(path, Some(body));
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.ask("/metrics", None);
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chat(words: &str, more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": words}], "max_tokens": 12, "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_server_answers_streams_and_stops_when_it_is_told() {
    let server = Server::start("127.0.0.1:0", &[]);
    assert_eq!(server.ask("/health", None).0, 200);
    let whole = server.json("/v1/chat/completions", &chat("Where is the red circle?", &json!({})));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(!text.is_empty());
    assert_eq!(
        whole["usage"]["completion_tokens"],
        12.min(whole["usage"]["completion_tokens"].as_u64().unwrap())
    );
    // The program itself says the same.
    let said = Command::new(env!("CARGO_BIN_EXE_savi"))
        .args(["generate", "--model", "builtin:tiny", "--device", "cpu", "--max-tokens", "12"])
        .args(["--prompt", "Where is the red circle?"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim_end_matches('\n'), text);

    let body = chat(
        "Where is the red circle?",
        &json!({"stream": true, "logprobs": true, "top_logprobs": 2}),
    );
    let (status, events) = server.ask("/v1/chat/completions", Some(&body));
    assert_eq!(status, 200);
    let events: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let (mut streamed, mut tokens) = (String::new(), 0);
    for event in &events[..events.len() - 1] {
        let event: Value = serde_json::from_str(event).unwrap();
        for choice in event["choices"].as_array().unwrap() {
            streamed.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
                assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
                tokens += 1;
            }
        }
    }
    assert_eq!(streamed, text);
    assert_eq!(tokens, whole["usage"]["completion_tokens"].as_u64().unwrap());

    // A seed gives the same texts in any company; the prompt is computed once.
    let warm = chat("Which way?", &json!({"temperature": 1, "n": 4, "seed": 5}));
    let first = server.json("/v1/chat/completions", &warm);
    let many: Vec<Value> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..6).map(|_| scope.spawn(|| server.json("/v1/chat/completions", &warm))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    for other in &many {
        assert_eq!(other["choices"], first["choices"]);
        let cached = &other["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert_eq!(cached, &other["usage"]["prompt_tokens"]);
    }
    let form =
        chat("left or right?", &json!({"temperature": 1, "guided_choice": ["left", "right"]}));
    let held = server.json("/v1/chat/completions", &form);
    let held = held["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(["left", "right"].contains(&held), "{held}");

    // What does not fit is refused with its reason.
    let long = chat(&"left ".repeat(9000), &json!({}));
    let (status, text) = server.ask("/v1/chat/completions", Some(&long));
    assert!(status == 400 && text.contains("context_length_exceeded"), "{status} {text}");
    assert_eq!(server.stop(), Some(0));
}

/// A clip by file://, from the one folder that is allowed.
#[test]
fn a_clip_is_shown_from_an_allowed_folder_and_from_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let golden =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/ingest/h264-bframes-long-gop.mp4");
    for folder in ["in", "out"] {
        let folder = dir.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(golden, folder.join("clip.mp4")).unwrap();
    }
    let allowed = dir.path().join("in");
    let server = Server::start("127.0.0.1:0", &["--allow-files", allowed.to_str().unwrap()]);
    let shown = |folder: &str| {
        let url = format!("file://{}", dir.path().join(folder).display());
        let content = json!([
            {"type": "video_url", "video_url": {"url": url}},
            {"type": "text", "text": "Where is the red circle?"},
        ]);
        let body = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 8});
        server.ask("/v1/chat/completions", Some(&body))
    };
    let (status, text) = shown("in/clip.mp4");
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 100, "{answer}");
    let (status, text) = shown("out/clip.mp4");
    assert_eq!(status, 400, "{text}");
}

#[test]
fn a_client_that_leaves_frees_its_rows() {
    let server = Server::start("127.0.0.1:0", &[]);
    let endless = json!({"stream": true, "max_tokens": 600, "ignore_eos": true, "n": 4});
    let mut stream = server.send("/v1/chat/completions", Some(&chat("left", &endless)));
    let mut some = [0; 400];
    stream.read_exact(&mut some).unwrap();
    drop(stream);
    let end = Instant::now() + Duration::from_secs(30);
    while server.metric("savi_running") > 0.0 {
        assert!(Instant::now() < end, "the request is still running");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.json("/v1/chat/completions", &chat("left", &json!({})));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_killed_server_starts_again_in_its_place() {
    let mut server = Server::start("127.0.0.1:0", &[]);
    let address = server.address.clone();
    let want = server.json("/v1/chat/completions", &chat("Which way?", &json!({})));
    let mut open = server.send(
        "/v1/chat/completions",
        Some(&chat("left", &json!({"stream": true, "max_tokens": 500, "ignore_eos": true}))),
    );
    let mut some = [0; 100];
    open.read_exact(&mut some).unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    // Who was being answered sees the end of it, not silence.
    let mut rest = Vec::new();
    let ended = open.read_to_end(&mut rest);
    assert!(ended.is_err() || !String::from_utf8_lossy(&rest).contains("[DONE]"));
    let again = Server::start(&address, &[]);
    assert_eq!(again.address, address);
    let got = again.json("/v1/chat/completions", &chat("Which way?", &json!({})));
    assert_eq!(got["choices"], want["choices"]);
}

#[test]
fn keys_and_bad_options() {
    let server = Server::start("127.0.0.1:0", &["--api-key", "secret"]);
    let (status, text) = server.ask("/v1/models", None);
    assert_eq!(status, 401, "{text}");
    assert_eq!(server.ask("/health", None).0, 200);
    drop(server);
    for args in [vec!["--addr", "nowhere:x"], vec!["--kv-cache", "-1"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_savi"))
            .args(["serve", "--model", "builtin:tiny", "--device", "cpu"])
            .args(&args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
