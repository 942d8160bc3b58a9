//! Reads frames of one clip and prints, as one line of JSON, what that cost: CPU time of all threads
//! (user and system) from opening the file to the last frame, wall time, and the resident memory of
//! the process before that and at its peak. For the decode bench and for comparisons with other readers.
//!
//!     read_frames FILE WIDTHxHEIGHT|- all|INDEX,INDEX,.. [RAW_RGB_OUT]

#![allow(clippy::print_stdout, reason = "the result goes to stdout")]

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use savi_schema::{CountRule, FrameSampling, MediaPolicy};
use savi_video_ingest::{IngestOptions, probe, read_clip};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, size, frames, rest @ ..] = arguments.as_slice() else {
        return Err("read_frames FILE WIDTHxHEIGHT|- all|N|S,S,.. [RAW_RGB_OUT]".into());
    };
    let options = IngestOptions { threads: 1, ..IngestOptions::default() };
    let mut policy = match frames.as_str() {
        "all" => {
            let count = probe(file, &options)?.frame_count;
            MediaPolicy::count(usize::try_from(count)?, CountRule::Linspace)
        }
        list if list.contains(',') => {
            let times = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            MediaPolicy::new(FrameSampling::Times { times })
        }
        count => MediaPolicy::count(count.parse()?, CountRule::MidSegment),
    };
    if let Some((width, height)) = size.split_once('x') {
        policy = policy.with_size(width.parse()?, height.parse()?);
    }
    let base = status_kib("VmRSS:")?;
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    let clip = read_clip(file, &policy, &options)?;
    let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
    let times: Vec<f64> = clip.frames.iter().map(|f| f.time).collect();
    let indices: Vec<u64> = clip.frames.iter().filter_map(|f| f.index).collect();
    let peak = status_kib("VmHWM:")?;
    if let [out] = rest {
        let mut out = std::io::BufWriter::new(std::fs::File::create(out)?);
        for frame in &clip.frames {
            out.write_all(&frame.image.data)?;
        }
    }
    let m = clip.metadata;
    println!(
        "{{\"cpu\":{cpu},\"wall\":{wall},\"base_kib\":{base},\"peak_kib\":{peak},\"width\":{},\"height\":{},\
         \"frame_count\":{},\"times\":{times:?},\"indices\":{indices:?}}}",
        m.width, m.height, m.frame_count
    );
    Ok(())
}

fn cpu_seconds() -> f64 {
    // SAFETY: getrusage only fills the struct it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// A field of the process's status, in KiB.
fn status_kib(field: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
