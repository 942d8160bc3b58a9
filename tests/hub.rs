//! Models by their names on a hub: from a cache as huggingface_hub lays it out, and downloaded from a
//! hub that this test plays.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_neverToBeSeen";

fn tiny() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "datasets/builtin-tiny"].iter().collect()
}

/// The program, in a folder, with only these settings of a hub.
fn savi(folder: &Path, model: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy().to_ascii_uppercase();
        if ["HF_", "HUGGING", "TRANSFORMERS_", "XDG_"].iter().any(|start| name.starts_with(start))
            || name.ends_with("_PROXY")
        {
            command.env_remove(&key);
        }
    }
    command.current_dir(folder).env("HOME", folder).envs(settings.iter().copied());
    let tokens = ["--prompt-tokens", "5,6,7", "--continuation-tokens", "8,9"];
    command.args(["score", "--device", "cpu", "--json", "--log", "trace", "--model", model]);
    command.args(tokens).output().unwrap()
}

fn scores(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output, parts: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    let line = told.lines().find(|line| line.starts_with("error: ")).unwrap();
    for part in parts {
        assert!(line.contains(part), "{line:?} does not name {part:?}");
    }
    hides_the_token(output);
}

fn hides_the_token(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(text).contains(TOKEN));
    }
}

/// A cache with the built-in model in it, as Python's huggingface_hub would leave it.
fn cached(cache: &Path) -> PathBuf {
    let repository = cache.join("models--org--tiny");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    fs::write(repository.join("refs/v1"), COMMIT).unwrap();
    for (i, name) in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "processor.json",
    ]
    .iter()
    .enumerate()
    {
        fs::copy(tiny().join(name), repository.join(format!("blobs/blob{i}"))).unwrap();
        let target = format!("../../blobs/blob{i}");
        std::os::unix::fs::symlink(target, snapshot.join(name)).unwrap();
    }
    snapshot
}

#[test]
fn a_model_in_the_cache_needs_no_hub() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let want = scores(&savi(here, "builtin:tiny", &[]));
    let home = here.join("home");
    let snapshot = cached(&home.join("hub"));
    let (home, cache) = (home.display().to_string(), home.join("hub").display().to_string());
    let offline = ("HF_HUB_OFFLINE", "1");
    for place in [("HF_HOME", &home), ("HF_HUB_CACHE", &cache), ("HUGGINGFACE_HUB_CACHE", &cache)] {
        let settings = [(place.0, place.1.as_str()), offline];
        for name in ["org/tiny", "org/tiny@main", "org/tiny@v1", &format!("org/tiny@{COMMIT}")] {
            assert_eq!(scores(&savi(here, name, &settings)), want, "{name}");
        }
    }
    // Complete, it is used without asking, whether or not there is a hub.
    let nowhere = ("HF_ENDPOINT", "http://127.0.0.1:9");
    assert_eq!(scores(&savi(here, "org/tiny", &[("HF_HOME", &home), nowhere])), want);

    let settings = [("HF_HOME", home.as_str()), offline, ("HF_TOKEN", TOKEN)];
    refused(
        &savi(here, "org/other", &settings),
        &["org/other", "main", "HF_HUB_OFFLINE", "models--org--other"],
    );
    refused(&savi(here, "org/tiny@v2", &settings), &["org/tiny@v2", "v2", "HF_HUB_OFFLINE"]);
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    refused(
        &savi(here, "org/tiny", &settings),
        &["model.safetensors", "tokenizer.json", "HF_HUB_OFFLINE"],
    );

    // What exists here goes before the hub, even where it is no model.
    fs::create_dir_all(here.join("org/tiny")).unwrap();
    refused(&savi(here, "org/tiny", &settings), &["org/tiny/config.json"]);
}

/// A hub as far as a download sees one. Large files lie on another host.
#[derive(Default)]
struct Played {
    files: BTreeMap<String, Vec<u8>>,
    /// An answer from where large files lie ends after so many bytes.
    cut: Option<usize>,
    /// What is asked for without this token is refused.
    token: Option<String>,
    /// Method, path, Range and Authorization of every request.
    seen: Vec<(String, String, Option<String>, Option<String>)>,
}

type Shared = Arc<Mutex<Played>>;

fn play(played: Played) -> (String, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = Arc::new(Mutex::new(played));
    let state = shared.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, port, &state);
        }
    });
    (format!("http://127.0.0.1:{port}"), shared)
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(mut stream: TcpStream, port: u16, state: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((key, value)) = line.split_once(": ") else { break };
        headers.insert(key.to_ascii_lowercase(), value.to_owned());
    }
    let mut state = state.lock().unwrap();
    let (range, sent) = (headers.get("range").cloned(), headers.get("authorization").cloned());
    state.seen.push((method.clone(), path.clone(), range.clone(), sent.clone()));
    let mut head = |status: &str, more: &str, length: usize| {
        let common =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n");
        stream.write_all(format!("{common}{more}\r\n").as_bytes())
    };
    if let Some(name) = path.strip_prefix("/cdn/") {
        let bytes = &state.files[name];
        let start: usize = range.map_or(0, |range| {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
        });
        let rest = &bytes[start..];
        let place = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
        head(status, if start > 0 { &place } else { "" }, rest.len())?;
        return stream.write_all(&rest[..state.cut.unwrap_or(rest.len()).min(rest.len())]);
    }
    if state.token.is_some() && sent != state.token {
        return head("401 Unauthorized", "", 0);
    }
    let asked = path.strip_prefix("/api/models/org/tiny/revision/");
    if let Some(revision) = asked.or(path.strip_prefix("/api/datasets/lmms-lab/NExTQA/revision/")) {
        if revision != "main" && revision != "refs%2Fpr%2F1" {
            return head("404 Not Found", "", 0);
        }
        let names = state.files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}"));
        let names = names.collect::<Vec<_>>().join(", ");
        let body = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{names}]}}");
        head("200 OK", "", body.len())?;
        return stream.write_all(body.as_bytes());
    }
    // A renamed repository: a redirection within the hub.
    if let Some(rest) = path.strip_prefix("/org/tiny/resolve/") {
        let to = format!("Location: /org/small/resolve/{rest}\r\n");
        return head("307 Temporary Redirect", &to, 0);
    }
    let of_model = path.strip_prefix(&format!("/org/small/resolve/{COMMIT}/"));
    let of_data = path.strip_prefix(&format!("/datasets/lmms-lab/NExTQA/resolve/{COMMIT}/"));
    let name = of_model.or(of_data).unwrap_or_default();
    let Some(bytes) = state.files.get(name) else { return head("404 Not Found", "", 0) };
    if name.ends_with(".safetensors") {
        let more = format!(
            "X-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\nX-Repo-Commit: {COMMIT}\r\n\
             Location: http://localhost:{port}/cdn/{name}\r\n",
            hash(bytes),
            bytes.len()
        );
        return head("302 Found", &more, 0);
    }
    let more = format!("ETag: W/\"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", &hash(bytes)[..40]);
    head("200 OK", &more, bytes.len())?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(bytes) }
}

fn repository() -> BTreeMap<String, Vec<u8>> {
    let files = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "processor.json",
    ];
    let mut all: BTreeMap<String, Vec<u8>> =
        files.iter().map(|&name| (name.to_owned(), fs::read(tiny().join(name)).unwrap())).collect();
    for name in ["README.md", "pytorch_model.bin", "onnx/model.onnx"] {
        all.insert(name.to_owned(), b"not needed".to_vec());
    }
    all
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let want = scores(&savi(here, "builtin:tiny", &[]));
    let files = repository();
    let length = files["model.safetensors"].len();
    // Five attempts are not enough, ten are.
    let cut = Some(length / 8);
    let token = Some(format!("Bearer {TOKEN}"));
    let (endpoint, hub) = play(Played { files, cut, token, ..Played::default() });
    let home = here.join("home").display().to_string();
    fs::create_dir_all(&home).unwrap();
    fs::write(here.join("home/token"), format!("{TOKEN}\n")).unwrap();
    let settings = [("HF_HOME", home.as_str()), ("HF_ENDPOINT", &endpoint)];

    let output = savi(here, "org/tiny", &settings);
    refused(&output, &["org/tiny", &endpoint, "model.safetensors"]);
    let folder = here.join("home/hub/models--org--tiny");
    assert!(!folder.join("refs/main").exists());
    let half = hub.lock().unwrap().seen.len();
    let output = savi(here, "org/tiny", &settings);
    assert_eq!(scores(&output), want);
    hides_the_token(&output);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("model.safetensors"), "{told}");

    let seen = hub.lock().unwrap().seen.clone();
    let parts: Vec<_> = seen.iter().filter(|(_, path, ..)| path.starts_with("/cdn/")).collect();
    let starts: Vec<usize> = parts
        .iter()
        .map(|(.., range, _)| range.as_deref().map_or(0, |r| r[6..r.len() - 1].parse().unwrap()))
        .collect();
    assert_eq!(starts[0], 0);
    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{starts:?}");
    assert!(
        seen[half..].iter().any(|(_, path, range, _)| path.starts_with("/cdn/") && range.is_some())
    );
    // The other host is told nothing; what is not needed is not asked for.
    assert!(parts.iter().all(|(.., token)| token.is_none()));
    assert!(seen.iter().all(|(_, path, ..)| !path.contains("README") && !path.contains("bin")));

    // The layout is huggingface_hub's, and a second start asks nobody.
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(folder.join(format!("snapshots/{COMMIT}/model.safetensors"))).unwrap();
    let blob =
        format!("../../blobs/{}", hash(&fs::read(tiny().join("model.safetensors")).unwrap()));
    assert_eq!(link, PathBuf::from(blob));
    let blobs = fs::read_dir(folder.join("blobs")).unwrap();
    assert!(blobs.flatten().all(|file| !file.file_name().to_string_lossy().contains("incomplete")));
    assert_eq!(scores(&savi(here, "org/tiny", &settings)), want);
    assert_eq!(hub.lock().unwrap().seen.len(), seen.len());
    let offline = [("HF_HOME", home.as_str()), ("HF_HUB_OFFLINE", "1")];
    assert_eq!(scores(&savi(here, "org/tiny", &offline)), want);
}

#[test]
fn what_a_hub_does_not_give_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let token = Some("Bearer another".to_owned());
    let (endpoint, hub) = play(Played { files: repository(), token, ..Played::default() });
    let home = here.join("home").display().to_string();
    let settings =
        [("HF_HOME", home.as_str()), ("HF_ENDPOINT", endpoint.as_str()), ("HF_TOKEN", TOKEN)];
    refused(&savi(here, "org/tiny", &settings), &["401", "HF_TOKEN", "org/tiny"]);
    refused(&savi(here, "org/tiny", &settings[..2]), &["401", "set HF_TOKEN"]);
    hub.lock().unwrap().token = None;
    refused(&savi(here, "org/none", &settings), &["404", "org/none", "folder"]);
    refused(&savi(here, "org/tiny@gone", &settings), &["404", "gone"]);

    // Bytes that are not those of the etag.
    let whole = hub.lock().unwrap().files.clone();
    hub.lock().unwrap().files.remove("model.safetensors");
    refused(&savi(here, "org/tiny", &settings), &["model.safetensors", "safetensors"]);
    let mut wrong = whole["model.safetensors"].clone();
    let (_, last) = (wrong.pop(), wrong.len());
    wrong.push(!whole["model.safetensors"][last]);
    let blobs = here.join("home/hub/models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let name = format!("{}.incomplete", hash(&whole["model.safetensors"]));
    fs::write(blobs.join(&name), &wrong).unwrap();
    hub.lock().unwrap().files = whole;
    refused(&savi(here, "org/tiny", &settings), &["model.safetensors", "not those"]);
    assert!(!blobs.join(&name).exists());
    // The next attempt begins anew; a branch may have blanks of a path in its name.
    scores(&savi(here, "org/tiny@refs/pr/1", &settings));

    let nobody = [("HF_HOME", "elsewhere"), ("HF_ENDPOINT", "http://127.0.0.1:9")];
    refused(&savi(here, "org/tiny", &nobody), &["org/tiny", "127.0.0.1:9"]);
}

#[test]
fn a_suite_without_a_folder_comes_from_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let rows = "video,question,answer,qid,type,a0,a1,a2,a3,a4\n7,why,2,0,CW,a,b,c,d,e\n";
    let files = [("test.csv", rows), ("README.md", "not needed")];
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let (endpoint, hub) = play(Played { files: files.into(), ..Played::default() });
    let ask = |out: &str, settings: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
        command.args(["eval", "run", "--model", "builtin:tiny", "--device", "cpu", "--any-rows"]);
        command.args(["--suite", "nextqa-mc", "--view", "blind", "--out", out]);
        command.current_dir(here).env("HOME", here).envs(settings.iter().copied());
        command.output().unwrap()
    };
    let settings = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HOME", "home")];
    let offline = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", "home")];
    refused(
        &ask("x", &offline),
        &["nextqa-mc without --data", "HF_HUB_OFFLINE", "datasets--lmms-lab"],
    );
    let output = ask("first", &settings);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen = hub.lock().unwrap().seen.clone();
    assert!(seen.iter().all(|(_, path, ..)| !path.contains("README")), "{seen:?}");
    assert!(
        here.join(format!("home/hub/datasets--lmms-lab--NExTQA/snapshots/{COMMIT}/test.csv"))
            .exists()
    );
    // Once there, nobody is asked.
    assert!(ask("second", &offline).status.success());
    hub.lock().unwrap().files.remove("test.csv");
    let elsewhere = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HOME", "elsewhere")];
    refused(&ask("x", &elsewhere), &["none of the files that were looked for"]);
}
