//! Damaged files end in an error that names them, or in a flagged part; each is read by a process of
//! its own, within bounds of time and memory, so that a crash inside FFmpeg is seen.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Address space of a child, in KiB: the program's own reserves, and room for no forged header.
const MEMORY_KIB: u64 = 3 << 20;
/// A sound file of this size takes a tenth of a second.
const TIME: Duration = Duration::from_secs(30);

struct Case {
    name: String,
    bytes: Vec<u8>,
    /// The file ends early, and its container declares its length.
    plainly_cut: bool,
}

#[test]
fn damaged_files_end_in_an_error_or_a_flagged_part() {
    let cases = cases();
    assert!(cases.len() >= 200, "{}", cases.len());
    let folder = tempfile::tempdir().unwrap();
    let (queue, faults) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().next() else { break };
                    for partial in [false, true] {
                        if let Err(fault) = check(case, partial, folder.path()) {
                            faults.lock().unwrap().push(format!("{}: {fault}", case.name));
                        }
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

fn check(case: &Case, partial: bool, folder: &Path) -> Result<(), String> {
    let file = folder.join(&case.name);
    let out = folder.join(format!("{}-{partial}", case.name));
    std::fs::write(&file, &case.bytes).unwrap();
    let mut child = Command::new("sh");
    child
        .arg("-c")
        .arg(format!("ulimit -v {MEMORY_KIB} && ulimit -c 0 || exit 99; exec \"$@\""))
        .arg("sh");
    child.arg(env!("CARGO_BIN_EXE_savi")).args(["ingest", "--frames", "4", "--deadline", "20"]);
    child.args(partial.then_some("--allow-partial")).arg("--out").arg(&out).arg(&file);
    let errors = folder.join(format!("{}-{partial}.stderr", case.name));
    child.stdin(Stdio::null()).stdout(Stdio::null());
    child.stderr(std::fs::File::create(&errors).unwrap());
    let status = wait(child.spawn().unwrap())?;
    let stderr = String::from_utf8_lossy(&std::fs::read(&errors).unwrap()).into_owned();
    match status.code() {
        Some(0) => {
            let text =
                std::fs::read_to_string(out.join("frames.json")).map_err(|e| e.to_string())?;
            let report: serde_json::Value =
                serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let frames = report["frames"].as_array().map_or(0, Vec::len);
            let flagged = report["partial"].is_string();
            if frames == 0 || frames > 4 || (frames < 4 && !flagged) {
                return Err(format!("{frames} frames, flagged: {flagged}"));
            }
            if flagged && !partial {
                return Err("a part that was not asked for".to_owned());
            }
            if case.plainly_cut && !flagged {
                return Err("read as whole".to_owned());
            }
            Ok(())
        }
        Some(2) if stderr.contains(&case.name) && !stderr.contains("panicked") => Ok(()),
        _ => Err(format!("{status}: {stderr}")),
    }
}

fn wait(mut child: Child) -> Result<ExitStatus, String> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Ok(status);
        }
        if started.elapsed() > TIME {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("still running after {TIME:?}"));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ingest");
    let mut clips: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension().is_some_and(|e| !["py", "json", "png"].contains(&e.to_str().unwrap()))
        })
        .collect();
    clips.sort();
    // One clip of each kind is enough for the damage that headers decide.
    let clips: Vec<(String, Vec<u8>)> = clips
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains("rotate"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(20);
    let mut cases = Vec::new();
    for (number, (name, bytes)) in clips.iter().enumerate() {
        let mut add = |kind: &str, bytes: Vec<u8>, plainly_cut: bool| {
            cases.push(Case { name: format!("{kind}-{name}"), bytes, plainly_cut });
        };
        let declares = ["mp4", "mov", "avi"].iter().any(|e| name.ends_with(e));
        let percent = 10 + random.next_u32() as usize % 85;
        add("cut-anywhere", bytes[..bytes.len() * percent / 100].to_vec(), declares);
        add("cut-last-byte", bytes[..bytes.len() - 1].to_vec(), name.ends_with("mp4"));
        for (kind, flips) in [("flip-3", 3), ("flip-300", 300)] {
            let mut damaged = bytes.clone();
            for _ in 0..flips {
                let at = random.next_u32() as usize % damaged.len();
                damaged[at] ^= 1 << (random.next_u32() % 8);
            }
            add(kind, damaged, false);
        }
        // Sizes and counts live in the first and last kilobyte; one of them becomes huge.
        let mut huge = bytes.clone();
        for _ in 0..4 {
            let within = huge.len().min(1024) - 4;
            let at = random.next_u32() as usize % within;
            let at = if random.next_u32().is_multiple_of(2) { at } else { huge.len() - 4 - at };
            huge[at..at + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
        }
        add("huge", huge, false);
        let other = &clips[(number + 7) % clips.len()].1;
        let head = 200.min(bytes.len()).min(other.len());
        add("swapped-head", [&other[..head], &bytes[head..]].concat(), false);
        let mut hole = bytes.clone();
        let (from, to) = (hole.len() / 3, hole.len() / 2);
        hole[from..to].fill(0);
        add("hole", hole, false);
    }
    // Found by mutation: the AV1 decoder's threads waited for one another.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ingest");
    cases.push(Case {
        name: "dav1d-threads.mkv".to_owned(),
        bytes: std::fs::read(fixture.join("dav1d-threads.mkv")).unwrap(),
        plainly_cut: false,
    });
    let mut add = |name: &str, bytes: &[u8]| {
        cases.push(Case { name: name.to_owned(), bytes: bytes.to_vec(), plainly_cut: true });
    };
    add("empty.mp4", b"");
    add("one-byte.mkv", b"\x1a");
    add("text.mp4", "Not a video, however long one looks at it.\n".repeat(200).as_bytes());
    add("art.nfo", "\x1b[31m###\n".repeat(100).as_bytes());
    add("zeros.ts", &[0; 20_000]);
    add("playlist.m3u8", b"#EXTM3U\n#EXTINF:10,\n/dev/zero\n#EXT-X-ENDLIST\n");
    add("concat.txt", b"ffconcat version 1.0\nfile /dev/zero\n");
    add("session.sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n");
    let mut noise = vec![0; 30_000];
    random.fill_bytes(&mut noise);
    add("noise.webm", &noise);
    cases
}
