//! The table of a clip's frames: when each is shown and from which key frame it is decoded.
//!
//! It comes from reading the packets' headers once, without decoding. Three kinds of file have
//! packets that do not tell: no presentation times or made-up ones, several packets per picture,
//! packets that yield no picture. For those the table is made by decoding the clip once.

use ffmpeg_next::ffi;

use super::decoder::{Decoder, Output};
use super::demuxer::{Clock, Demuxer, PacketHeader, Read};
use super::describe;
use crate::{IngestError, IngestOptions};

/// One shown frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Presentation time in ticks of the stream's time base.
    pub(super) pts: i64,
    /// Number of its packet in the file, or of the picture in decoder output (`by_decoding`).
    pub(super) packet: u32,
    /// Number of the key in [`Timeline::keys`] that decoding starts from.
    pub(super) key: u32,
}

/// A packet that decoding can start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) packet: u32,
    pub(super) header: PacketHeader,
}

/// The frames of a clip in presentation order; never empty.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) entries: Vec<Entry>,
    pub(super) keys: Vec<Key>,
    /// End of the last frame, in ticks.
    pub(super) end: i64,
    pub(super) time_base: ffi::AVRational,
    /// Average rate, frames per second.
    pub(super) fps: f64,
    /// Whether every frame lies within half a frame of an even grid.
    pub(super) even: bool,
    /// Entries number decoder output, not packets.
    pub(super) by_decoding: bool,
    /// Frames before the first key frame's time may not be decodable; only decoding tells.
    pub(super) leading: bool,
    /// Why the file is thought to go on beyond what could be read.
    pub(super) cut: Option<String>,
}

impl Timeline {
    /// Ticks since the first frame, in seconds.
    pub(super) fn seconds(&self, pts: i64) -> f64 {
        let first = self.entries.first().map_or(pts, |e| e.pts);
        seconds(pts.saturating_sub(first), self.time_base)
    }

    /// Length in seconds, from the first shown frame to the end of the last.
    pub(super) fn duration(&self) -> f64 {
        self.seconds(self.end)
    }

    /// Number of the frame that is shown at `time`: the last that starts at or before it.
    pub(super) fn shown_at(&self, time: f64, tolerance: f64) -> usize {
        let after = self.entries.partition_point(|e| self.seconds(e.pts) <= time + tolerance);
        after.saturating_sub(1)
    }

    /// One tick in seconds.
    pub(super) fn tick(&self) -> f64 {
        seconds(1, self.time_base)
    }
}

fn seconds(ticks: i64, base: ffi::AVRational) -> f64 {
    ticks as f64 * f64::from(base.num) / f64::from(base.den.max(1))
}

/// What the packets said, before it is put in order.
struct Scan {
    headers: Vec<PacketHeader>,
    failure: Option<i32>,
}

impl Scan {
    /// Seconds from the earliest to the latest time of a packet, its duration included.
    fn span(&self, base: ffi::AVRational) -> f64 {
        let times = || self.headers.iter().filter_map(|h| Some((h.pts.or(h.dts)?, h.duration)));
        let start = times().map(|(time, _)| time).min().unwrap_or(0);
        let end = times().map(|(time, duration)| time.saturating_add(duration)).max().unwrap_or(0);
        seconds(end.saturating_sub(start), base)
    }
}

/// What the packets tell.
pub(super) enum Table {
    Known(Timeline),
    /// Number of packets, the seconds they span, and why the file seems cut.
    Unknown {
        packets: u64,
        span: f64,
        cut: Option<String>,
    },
}

/// Reads every packet header of the video stream.
pub(super) fn scan(
    demuxer: &mut Demuxer<'_>,
    file: &str,
    options: &IngestOptions,
    clock: &Clock,
) -> Result<Table, IngestError> {
    let scan = read_headers(demuxer, file, options, clock)?;
    let shown = scan.headers.iter().filter(|h| !h.hidden).count();
    let cut = cut_reason(demuxer, &scan);
    if shown == 0 {
        return Err(match cut {
            Some(reason) => IngestError::Truncated { file: file.to_owned(), reason },
            None => IngestError::NoFrames { file: file.to_owned() },
        });
    }
    let span = scan.span(demuxer.time_base());
    let unknown = |cut| Ok(Table::Unknown { packets: shown as u64, span, cut });
    // Pictures are reordered, yet shown when they are decoded: a writer that knew no B-frames made
    // these times up, and only the decoder's order is right.
    if demuxer.reorders() && shown > 2 && scan.headers.iter().all(|h| h.pts == h.dts) {
        return unknown(cut);
    }
    let keys: Vec<Key> = (0u32..)
        .zip(&scan.headers)
        .filter(|(packet, header)| header.key || *packet == 0)
        .map(|(packet, header)| Key { packet, header: *header })
        .collect();
    let mut entries = Vec::with_capacity(shown);
    for (packet, header) in (0u32..).zip(&scan.headers) {
        if header.hidden {
            continue;
        }
        let Some(pts) = header.pts else { return unknown(cut) };
        entries.push(Entry { pts, packet, key: 0 });
    }
    // In decode order, the last key at or before each packet whose time is not after it: pictures
    // that lead a key frame in time hang on the key before (open GOP).
    let mut reached = 0usize;
    for entry in &mut entries {
        while reached + 1 < keys.len() && keys[reached + 1].packet <= entry.packet {
            reached += 1;
        }
        // An earlier start is never wrong, so the search may give up on absurd files.
        let fits = |&key: &usize| keys[key].header.pts.is_some_and(|pts| pts <= entry.pts);
        entry.key = (0..=reached).rev().take(64).find(fits).unwrap_or(0) as u32;
    }
    entries.sort_by_key(|e| e.pts);
    if entries.windows(2).any(|pair| pair[0].pts == pair[1].pts) {
        return unknown(cut);
    }
    let first_key = keys.first().and_then(|k| k.header.pts);
    let leading = first_key.is_none_or(|pts| entries[0].pts < pts) || !scan.headers[0].key;
    let last = entries[entries.len() - 1];
    let last_duration = scan.headers[last.packet as usize].duration;
    let mut timeline = finish(demuxer, entries, keys, last_duration);
    timeline.leading = leading;
    timeline.cut = cut;
    check_duration(&timeline, file, options)?;
    Ok(Table::Known(timeline))
}

/// Makes the table by decoding the clip from its start.
pub(super) fn by_decoding(
    demuxer: &mut Demuxer<'_>,
    decoder: &mut Decoder,
    file: &str,
    options: &IngestOptions,
    clock: &Clock,
) -> Result<Timeline, IngestError> {
    let mut times: Vec<Option<i64>> = Vec::new();
    let mut stamps: Vec<i64> = Vec::new();
    let mut last_duration = 0;
    let mut damage = None;
    let mut ended = false;
    while !ended {
        let header = loop {
            match demuxer.read() {
                Read::Packet(header) => break Some(header),
                Read::Other => {}
                Read::End => break None,
                Read::Failed(code) => {
                    damage.get_or_insert(code);
                    break None;
                }
            }
            if clock.expired() {
                return Err(clock.error(file));
            }
        };
        if let Some(header) = header {
            last_duration = header.duration;
            stamps.extend(header.pts.or(header.dts));
        }
        let packet = if header.is_some() { demuxer.packet() } else { std::ptr::null() };
        let mut sent = false;
        while !sent {
            match decoder.send(packet) {
                Ok(done) => sent = done,
                Err(code) => {
                    damage.get_or_insert(code);
                    sent = true;
                }
            }
            loop {
                match decoder.receive() {
                    Output::Picture { time, .. } => {
                        times.push(time);
                        if times.len() as u64 > options.limits.max_frame_count {
                            return Err(too_many(file, times.len(), options));
                        }
                    }
                    Output::Hungry => break,
                    Output::Done => {
                        ended = true;
                        break;
                    }
                    Output::Failed(code) => {
                        damage.get_or_insert(code);
                        ended |= header.is_none();
                        break;
                    }
                }
            }
            if clock.expired() {
                return Err(clock.error(file));
            }
        }
    }
    if times.is_empty() {
        return Err(match damage {
            Some(code) => {
                IngestError::Decode { file: file.to_owned(), time: 0.0, reason: describe(code) }
            }
            None => IngestError::NoFrames { file: file.to_owned() },
        });
    }
    let entries = (0u32..)
        .zip(output_times(&times, stamps, last_duration))
        .map(|(packet, pts)| Entry { pts, packet, key: 0 })
        .collect();
    let mut timeline = finish(demuxer, entries, Vec::new(), last_duration);
    timeline.by_decoding = true;
    timeline.cut = damage.map(|code| format!("damaged: {}", describe(code)));
    check_duration(&timeline, file, options)?;
    Ok(timeline)
}

/// Times of pictures in the order in which they came out, which is the order of presentation. Their
/// own times count if every one is later than the one before. If not (AVI with B-frames tells only
/// when packets are decoded), the packets' times in ascending order are the pictures' times; where
/// there are none either, pictures follow one another.
fn output_times(times: &[Option<i64>], mut stamps: Vec<i64>, duration: i64) -> Vec<i64> {
    let rising = |times: &[i64]| times.windows(2).all(|pair| pair[0] < pair[1]);
    let own: Vec<i64> = times.iter().flatten().copied().collect();
    if own.len() == times.len() && rising(&own) {
        return own;
    }
    stamps.sort_unstable();
    if stamps.len() >= times.len() && rising(&stamps) {
        stamps.truncate(times.len());
        return stamps;
    }
    let start = own.first().copied().unwrap_or(0);
    (0i64..)
        .take(times.len())
        .map(|i| start.saturating_add(i.saturating_mul(duration.max(1))))
        .collect()
}

fn read_headers(
    demuxer: &mut Demuxer<'_>,
    file: &str,
    options: &IngestOptions,
    clock: &Clock,
) -> Result<Scan, IngestError> {
    let mut scan = Scan { headers: Vec::new(), failure: None };
    let mut others = 0u64;
    let limit = options.limits.max_frame_count;
    loop {
        if clock.expired() {
            return Err(clock.error(file));
        }
        match demuxer.read() {
            Read::Packet(header) => {
                scan.headers.push(header);
                if scan.headers.len() as u64 > limit {
                    return Err(too_many(file, scan.headers.len(), options));
                }
            }
            Read::Other => {
                // Sound has more packets than video has frames, but not without bound.
                others += 1;
                if others > limit.saturating_mul(u64::from(options.limits.max_streams)) {
                    return Err(too_many(
                        file,
                        usize::try_from(others).unwrap_or(usize::MAX),
                        options,
                    ));
                }
            }
            Read::End => return Ok(scan),
            Read::Failed(code) => {
                if clock.expired() {
                    return Err(clock.error(file));
                }
                scan.failure = Some(code);
                return Ok(scan);
            }
        }
    }
}

/// Whether the file ends too early: its structure says so, reading fails, the last packet is
/// incomplete, or declared frames are not there.
fn cut_reason(demuxer: &Demuxer<'_>, scan: &Scan) -> Option<String> {
    if let Some(reason) = crate::cut::cut_reason(demuxer.path()) {
        return Some(reason);
    }
    let read = scan.headers.len() as u64;
    if let Some(code) = scan.failure {
        return Some(format!("reading stops after {read} frames: {}", describe(code)));
    }
    if scan.headers.last().is_some_and(|h| h.corrupt) {
        return Some(format!("the packet of frame {read} is incomplete"));
    }
    let declared = demuxer.declared_frames();
    if demuxer.format_name().starts_with("mov") && read < declared {
        // The sample table is exact, but edit lists may leave samples out.
        let whole = demuxer.declared_stream_duration().unwrap_or(0.0);
        let length = scan.span(demuxer.time_base());
        if length + 0.5 * length / read.max(1) as f64 <= whole {
            return Some(format!("{read} of {declared} declared frames are there"));
        }
    }
    None
}

/// Fills in what follows from entries in presentation order.
fn finish(
    demuxer: &Demuxer<'_>,
    entries: Vec<Entry>,
    keys: Vec<Key>,
    last_duration: i64,
) -> Timeline {
    let time_base = demuxer.time_base();
    let count = entries.len();
    let (first, last) = (entries[0].pts, entries[count - 1].pts);
    let span = last.saturating_sub(first);
    let declared = demuxer.declared_fps();
    let step = if count > 1 { span as f64 / (count - 1) as f64 } else { 0.0 };
    let even = (0..).zip(&entries).all(|(i, e)| {
        (e.pts.saturating_sub(first) as f64 - f64::from(i) * step).abs() <= 0.5 * step
    });
    let tail = if last_duration > 0 {
        last_duration
    } else if step > 0.0 {
        step.round() as i64
    } else {
        // A single frame without a length: one period of the declared rate, or 1/25 s.
        let ticks = f64::from(time_base.den) / f64::from(time_base.num.max(1));
        (ticks / declared.unwrap_or(25.0)).round().max(1.0) as i64
    };
    let end = last.saturating_add(tail.max(1));
    let duration = seconds(end.saturating_sub(first), time_base);
    let average = count as f64 / duration;
    // Times rounded to milliseconds shift the average; the declared rate is the exact one.
    let fps = declared.filter(|d| (d - average).abs() < 1e-3 * average).unwrap_or(average);
    Timeline {
        entries,
        keys,
        end,
        time_base,
        fps,
        even,
        by_decoding: false,
        leading: false,
        cut: None,
    }
}

fn check_duration(
    timeline: &Timeline,
    file: &str,
    options: &IngestOptions,
) -> Result<(), IngestError> {
    let (duration, limit) = (timeline.duration(), options.limits.max_duration);
    if duration.is_nan() || duration > limit {
        return Err(IngestError::Limit {
            file: file.to_owned(),
            what: "duration",
            value: format!("{duration:.1} s"),
            limit: format!("{limit:.1} s"),
        });
    }
    Ok(())
}

fn too_many(file: &str, count: usize, options: &IngestOptions) -> IngestError {
    IngestError::Limit {
        file: file.to_owned(),
        what: "number of packets",
        value: format!("{count} or more"),
        limit: options.limits.max_frame_count.to_string(),
    }
}
