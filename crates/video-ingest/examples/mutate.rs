//! Mutation fuzzing of the reader: damages clips at random for a while, and reads each damaged file
//! in a process that may crash, hang or grow without harm to the rest.
//!
//!     mutate SECONDS SEED CLIP...
//!
//! Exits with 1 if a process died, took longer than its time, or read frames that are none. The files
//! that did it are kept, and named with their seeds.

#![allow(clippy::print_stdout, reason = "the result goes to stdout")]

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use savi_schema::{CountRule, MediaPolicy};
use savi_video_ingest::{IngestOptions, read_clip};

/// Files that one process reads.
const BATCH: u64 = 50;
/// Time that one file may take; the reader's own deadline is shorter.
const TIME: Duration = Duration::from_secs(20);
/// Address space of a process, in KiB.
const MEMORY_KIB: u64 = 3 << 20;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [mode, seed, file, clips @ ..] if mode == "--batch" && !clips.is_empty() => {
            batch(seed.parse()?, Path::new(file), clips)?;
            Ok(ExitCode::SUCCESS)
        }
        [seconds, seed, clips @ ..] if !clips.is_empty() => {
            fuzz(Duration::from_secs(seconds.parse()?), seed.parse()?, clips)
        }
        _ => Err("mutate SECONDS SEED CLIP...".into()),
    }
}

fn fuzz(length: Duration, seed: u64, clips: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let started = Instant::now();
    let (mut files, mut read, mut faults) = (0u64, 0u64, 0u64);
    let mut batch = seed << 32;
    while started.elapsed() < length {
        let file = folder.path().join("damaged");
        let log = folder.path().join("log");
        let mut child = Command::new("sh")
            .args([
                "-c",
                &format!("ulimit -c 0; ulimit -v {MEMORY_KIB} || exit 99; exec \"$@\""),
                "sh",
            ])
            .arg(std::env::current_exe()?)
            .args(["--batch", &batch.to_string()])
            .arg(&file)
            .args(clips)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&log)?)
            .spawn()?;
        let mut last_case = (0, Instant::now());
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            let lines = std::fs::read(&log)?.len();
            if lines != last_case.0 {
                last_case = (lines, Instant::now());
            } else if last_case.1.elapsed() > TIME {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let log = std::fs::read_to_string(&log)?;
        files += log.lines().count() as u64;
        read += log.lines().filter(|line| line.ends_with("read")).count() as u64;
        if !status.is_some_and(|status| status.success()) {
            faults += 1;
            let kept = PathBuf::from(format!("mutate-{batch}"));
            if file.exists() {
                std::fs::copy(&file, &kept)?;
            }
            let last = log.lines().last().unwrap_or_default();
            println!("{status:?} after {last:?} of batch {batch}: {}", kept.display());
        }
        batch += 1;
    }
    let seconds = started.elapsed().as_secs();
    println!("{files} damaged files in {seconds} s: {read} were read, {faults} faults");
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn batch(seed: u64, file: &Path, clips: &[String]) -> Result<(), Box<dyn Error>> {
    let clips = clips.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let name = file.to_str().ok_or("the folder's name is no UTF-8")?;
    for case in 0..BATCH {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(case);
        let mut below = |n: usize| random.next_u32() as usize % n.max(1);
        let mut bytes = clips[below(clips.len())].clone();
        for _ in 0..1 + below(12) {
            damage(&mut bytes, &clips, &mut below);
        }
        std::fs::write(file, &bytes)?;
        let options = IngestOptions {
            deadline: Some(Duration::from_secs(15)),
            allow_partial: below(2) == 0,
            ..IngestOptions::default()
        };
        let rule = [CountRule::MidSegment, CountRule::Linspace][below(2)];
        print!("{case} ");
        std::io::stdout().flush()?;
        let outcome = match read_clip(name, &MediaPolicy::count(1 + below(6), rule), &options) {
            Ok(clip) if clip.frames.is_empty() => return Err("no frames and no error".into()),
            Ok(_) => "read",
            Err(_) => "refused",
        };
        println!("{outcome}");
    }
    Ok(())
}

fn damage(bytes: &mut Vec<u8>, clips: &[Vec<u8>], below: &mut impl FnMut(usize) -> usize) {
    if bytes.len() < 8 {
        return;
    }
    // Headers and indices are at either end.
    let at = match below(3) {
        0 => below(bytes.len().min(2048)),
        1 => bytes.len() - 1 - below(bytes.len().min(2048)),
        _ => below(bytes.len()),
    };
    match below(8) {
        0 => bytes[at] ^= 1 << below(8),
        1 => bytes[at] = below(256) as u8,
        2 => {
            let value: u32 = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff][below(5)];
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&value.to_be_bytes()[..end - at]);
        }
        3 => bytes.truncate(at.max(1)),
        4 => {
            let end = (at + 1 + below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        5 => {
            let from = below(bytes.len());
            let piece = bytes[from..(from + 1 + below(64)).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        6 => {
            let other = &clips[below(clips.len())];
            let from = below(other.len());
            let piece = &other[from..(from + 1 + below(256)).min(other.len())];
            let end = (at + piece.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&piece[..end - at]);
        }
        _ => {
            let end = (at + 1 + below(4096)).min(bytes.len());
            bytes[at..end].fill([0, 0xff][below(2)]);
        }
    }
}
