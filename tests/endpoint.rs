//! A server that generates in place of a model here: `savi eval run --endpoint`, and `[generation]` of a
//! video run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A server over a real socket that replies by what it is asked; it keeps what that was.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    fn new(reply: fn(&str) -> &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || answer(stream, reply, &kept));
            }
        });
        Self { url, asked }
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn answer(
    mut stream: TcpStream,
    reply: fn(&str) -> &'static str,
    kept: &Mutex<Vec<Value>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = if length == 0 {
        json!({"data": [{"id": "big", "owned_by": "elsewhere", "root": "weights-7"}]})
    } else {
        let asked: Value = serde_json::from_slice(&body).unwrap();
        let mut words = String::new();
        for part in asked["messages"].as_array().unwrap().iter().map(|turn| &turn["content"]) {
            let parts = part.as_array().into_iter().flatten();
            words += part.as_str().unwrap_or_default();
            words.extend(parts.filter_map(|part| part["text"].as_str()));
        }
        let choices: Vec<Value> = (0..asked["n"].as_u64().unwrap_or(1))
            .map(|index| {
                let message = json!({"role": "assistant", "content": reply(&words)});
                json!({"index": index, "finish_reason": "stop", "message": message})
            })
            .collect();
        kept.lock().unwrap().push(asked);
        json!({"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
    };
    let text = answer.to_string();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{text}", text.len()).as_bytes())
}

fn savi(args: &[&str], dir: &Path) -> (Option<i32>, String) {
    let program = Command::new(env!("CARGO_BIN_EXE_savi")).args(args).current_dir(dir).output();
    let output = program.expect("the program starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_suite_is_asked_of_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = ["data", "make", "moving-shapes", "--split-clips", "dev=2", "--out", "data"];
    let (code, stderr) = savi(&make, dir);
    assert_eq!(code, Some(0), "{stderr}");
    let server = Server::new(|_| "left");
    let run = |out: &str, more: &[&str]| {
        let endpoint = ["--endpoint", &server.url, "--endpoint-frames", "2"];
        let args = ["eval", "run", "--data", "data", "--view", "normal", "--out", out];
        let all = [&args, &endpoint[..], more].concat();
        savi(&all, dir)
    };
    let (code, stderr) = run("first", &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("big answers at http://127.0.0.1"), "{stderr}");
    let answers = read(&dir.join("first/samples_moving-shapes.jsonl"));
    let asked = server.count();
    assert!(asked > 2 && asked <= answers.lines().count(), "{asked}");
    {
        let calls = server.asked.lock().unwrap();
        let content = calls[0]["messages"][0]["content"].as_array().unwrap();
        assert_eq!(content.iter().filter(|part| part["type"] == "image_url").count(), 2);
        assert_eq!(calls[0]["model"], "big");
    }
    assert!(read(&dir.join("first/manifest.json")).contains("weights-7"));
    // Started again, it asks for nothing.
    let (code, stderr) = run("first", &[]);
    assert_eq!((code, server.count()), (Some(0), asked), "{stderr}");
    assert_eq!(read(&dir.join("first/samples_moving-shapes.jsonl")), answers);
    let (code, stderr) = run("other", &["--model", "builtin:tiny"]);
    assert!(code == Some(2) && stderr.contains("--endpoint"), "{stderr}");
    let key = ["--endpoint-key-env", "SAVI_NO_SUCH_KEY"];
    let (code, stderr) = run("other", &key);
    assert!(code == Some(2) && stderr.contains("SAVI_NO_SUCH_KEY"), "{stderr}");
}

const CONFIG: &str = "
    model = 'builtin:tiny'
    videos = ['*.mp4']
    frames = { sampling = { by = 'count', frames = 2 } }
    [method]
    rounds = 1
    learn = 'nothing'
    no_pairs = 'skip'
    [generation.endpoint]
    base_url = 'URL'
    pictures = 'png'
";

#[test]
fn a_round_is_drawn_by_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ingest");
    std::fs::copy(goldens.join("h264-plain.mp4"), dir.join("clip.mp4")).unwrap();
    let server = Server::new(|words| match words {
        words if words.contains("Ask one question") => "What moves in the clip?",
        words if words.contains("rate each answer") => "Evidence: none.",
        _ => "A ball.",
    });
    std::fs::write(dir.join("run.toml"), CONFIG.replace("URL", &server.url)).unwrap();
    let run =
        |more: &[&str]| savi(&[&["video", "run", "--config", "run.toml"], more].concat(), dir);
    let (code, stderr) = run(&[]);
    assert_eq!(code, Some(0), "{stderr}");
    let stage = |name: &str| read(&dir.join("runs/run/stages").join(name).join("records.jsonl"));
    let by_server = |name: &str| stage(name).contains("big at http://127.0.0.1");
    assert!(by_server("11-ask") && by_server("12-answer"));
    let asked = server.count();
    assert!(asked > 0 && read(&dir.join("runs/run/answers-of-endpoint.jsonl")).lines().count() > 0);
    let (code, stderr) = run(&[]);
    assert_eq!((code, server.count()), (Some(0), asked), "{stderr}");
    // What later rounds learn from has to come from the model that learns.
    let (code, stderr) = run(&["--set", "method.rounds=2", "--run-dir", "other"]);
    assert!(code == Some(2) && stderr.contains("generation.draws"), "{stderr}");
}
