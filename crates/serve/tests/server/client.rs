//! A server on a scripted back end, and a client that can misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use savi_serve::{ServeError, ServeOptions, serve_blocking};
use serde_json::{Value, json};

use crate::fake::{Limits, Scripted};

/// A server; it is stopped and waited for at the end of the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) backend: Arc<Scripted>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    /// Whether the body ended as it said that it would.
    pub(crate) whole: bool,
}

pub(crate) fn options() -> ServeOptions {
    ServeOptions {
        models: vec!["tiny".to_owned(), "org/tiny".to_owned()],
        fingerprint: Some("fp_1".to_owned()),
        drain: Duration::from_secs(5),
        ..ServeOptions::default()
    }
}

/// A server with ample room.
pub(crate) fn server() -> Server {
    server_with(options(), Limits { running: 64, waiting: 1000 })
}

pub(crate) fn server_with(options: ServeOptions, limits: Limits) -> Server {
    let backend = Arc::new(Scripted::new(limits));
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, shared) = (stop.clone(), backend.clone());
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || {
        let listening = |address| sender.send(address).unwrap();
        serve_blocking("127.0.0.1:0", shared, options, listening, move || {
            flag.load(Ordering::Relaxed)
        })
    });
    let address = receiver.recv().expect("the server listens");
    Server { address, backend, stop, thread: Some(thread) }
}

impl Server {
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends bytes and reads the answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        answer(&mut BufReader::new(stream))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw(post(path, &body.to_string(), "").as_bytes())
    }

    /// A chat of one turn, with more fields.
    pub(crate) fn chat(&self, words: &str, fields: Value) -> Answer {
        self.post("/v1/chat/completions", &chat(words, fields))
    }

    pub(crate) fn complete(&self, prompt: Value, mut fields: Value) -> Answer {
        fields["prompt"] = prompt;
        self.post("/v1/completions", &fields)
    }

    /// Tells the server to end, and waits until it has.
    pub(crate) fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic").expect("the server ends well");
        }
    }

    pub(crate) fn tell_to_end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Data of the events of a stream, its end left out.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.body.ends_with("data: [DONE]\n\n") && self.whole, "{self:?}");
        let lines = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        let data = lines.filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// The error of a refusal with this status.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
        assert!(error["type"].is_string() && error["code"].is_string(), "{error}");
        error
    }
}

/// A request for a chat of one turn, with more fields.
pub(crate) fn chat(words: &str, mut fields: Value) -> Value {
    fields["messages"] = json!([{"role": "user", "content": words}]);
    fields
}

/// The bytes of a request; `headers` end in line breaks.
pub(crate) fn post(path: &str, body: &str, headers: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// Reads an answer to its end.
pub(crate) fn answer(stream: &mut impl BufRead) -> Answer {
    let (status, headers) = head(stream);
    let mut bytes = Vec::new();
    let mut whole = true;
    if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                whole = false;
                break;
            }
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            if stream.read_exact(&mut chunk).is_err() {
                whole = false;
                break;
            }
            if length == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..length]);
        }
    } else if let Some(length) = headers.get("content-length") {
        bytes = vec![0; length.parse().unwrap()];
        whole = stream.read_exact(&mut bytes).is_ok();
    }
    Answer { status, headers, body: String::from_utf8(bytes).unwrap(), whole }
}

/// Status and headers.
pub(crate) fn head(stream: &mut impl BufRead) -> (u16, HashMap<String, String>) {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}"));
    let status = status.parse().unwrap();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    (status, headers)
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}
