//! A server over real sockets that does what it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use savi_endpoint::{Endpoint, EndpointOptions};
use savi_schema::{Message, Request, Role, Sampling};
use serde_json::{Value, json};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
    pub(crate) at: Instant,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What is done about it.
pub(crate) enum Reply {
    /// An answer.
    Json(Value),
    /// Another status, with headers.
    Status(u16, Vec<(&'static str, String)>, String),
    /// These bytes and no more.
    Bytes(Vec<u8>),
    /// The connection is closed without a word.
    Closed,
    /// Nothing, for so long.
    Silence(Duration),
    /// The head of an answer, then a byte now and then without end.
    Drip,
    /// An answer, after so long.
    Late(Duration, Value),
}

type Play = dyn Fn(&Asked, usize) -> Reply + Send + Sync;

pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    most: Arc<AtomicUsize>,
}

impl Fake {
    /// A server of one model that `owner` owns; `play` is told the call and its number from 0, the look
    /// at the models left out.
    pub(crate) fn new(
        owner: &'static str,
        play: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let models = json!({"object": "list", "data": [
            {"id": "m", "object": "model", "owned_by": owner, "root": "/weights/m"}]});
        Self::bare(move |asked, number| match asked.path.as_str() {
            "/v1/models" => Reply::Json(models.clone()),
            _ => play(asked, number),
        })
    }

    /// The same without a list of models.
    pub(crate) fn bare(play: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let most = Arc::new(AtomicUsize::new(0));
        let play: Arc<Play> = Arc::new(play);
        let fake = Self { url, asked: asked.clone(), most: most.clone() };
        let now = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, play) = (asked.clone(), play.clone());
                let (most, now) = (most.clone(), now.clone());
                std::thread::spawn(move || {
                    let Ok(stream) = stream else { return };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let _ = serve(stream, &asked, &*play, &now);
                });
            }
        });
        fake
    }

    /// The calls so far, the look at the models left out.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| !is_look(&asked.path)).cloned().collect()
    }

    /// Everything, looks too.
    pub(crate) fn all(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Most connections at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub(crate) fn options(&self) -> EndpointOptions {
        EndpointOptions {
            backoff: 0.001,
            max_backoff: 0.01,
            max_retries: 3,
            timeout: 10.0,
            ..EndpointOptions::new(self.url.clone(), "m")
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.options()).unwrap()
    }
}

fn is_look(path: &str) -> bool {
    ["/v1/models", "/version", "/props"].contains(&path)
}

fn serve(
    stream: TcpStream,
    asked: &Mutex<Vec<Asked>>,
    play: &Play,
    now: &AtomicUsize,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().unwrap();
        }
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let call = Asked { path, headers, body, at: Instant::now() };
    let number = {
        let mut asked = asked.lock().unwrap();
        asked.push(call.clone());
        asked.iter().filter(|asked| !is_look(&asked.path)).count().saturating_sub(1)
    };
    let json = |value: Value| {
        let text = value.to_string();
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
    };
    let reply = play(&call, number);
    let bytes = match reply {
        Reply::Json(value) => json(value),
        Reply::Late(rest, value) => {
            std::thread::sleep(rest);
            json(value)
        }
        Reply::Status(status, headers, text) => {
            let headers: String =
                headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("HTTP/1.1 {status} Words\r\nConnection: close\r\n{headers}");
            format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
        }
        Reply::Bytes(bytes) => bytes,
        Reply::Closed => Vec::new(),
        Reply::Silence(rest) => {
            std::thread::sleep(rest);
            Vec::new()
        }
        Reply::Drip => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{\"choices\": ")?;
            loop {
                stream.write_all(b" ")?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    };
    // The client may be gone on, and ask again, as soon as it has all bytes.
    now.fetch_sub(1, Ordering::SeqCst);
    stream.write_all(&bytes)?;
    stream.flush()
}

pub(crate) fn usage(prompt: u64, completion: u64) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion})
}

/// An answer of chat with these texts.
pub(crate) fn chat(texts: &[&str]) -> Value {
    let choices: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            json!({"index": index, "finish_reason": "stop",
                "message": {"role": "assistant", "content": text}})
        })
        .collect();
    json!({"id": "x", "choices": choices, "usage": usage(10, 3)})
}

/// An answer of completions with these texts.
pub(crate) fn completions(texts: &[&str]) -> Value {
    let choices: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| json!({"index": index, "finish_reason": "length", "text": text}))
        .collect();
    json!({"choices": choices, "usage": usage(10, 3)})
}

/// What the user said in a call of chat.
pub(crate) fn said(asked: &Asked) -> String {
    asked.body["messages"][0]["content"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn request(id: &str, samplings: Vec<Sampling>) -> Request {
    Request {
        id: id.to_owned(),
        messages: vec![Message::text(Role::User, id)],
        raw: None,
        samplings,
        seed: 7,
    }
}

pub(crate) fn greedy() -> Sampling {
    Sampling { max_tokens: 5, ..Sampling::default() }
}

pub(crate) fn warm() -> Sampling {
    Sampling { temperature: 1.0, ..greedy() }
}
