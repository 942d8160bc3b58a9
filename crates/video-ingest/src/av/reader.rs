//! One forward pass over the frames that are wanted.
//!
//! Wanted frames are grouped into runs. A run starts at a key frame and ends with the packet of its
//! last wanted frame; packets between runs are read past (or sought over) and never decoded, and
//! inside a run pictures that no other picture needs are decoded only when they are wanted.

use std::collections::BTreeMap;
use std::path::Path;

use ffmpeg_next::ffi;
use savi_schema::{ClipMetadata, RgbImage};

use super::decoder::{Decoder, Output};
use super::demuxer::{Clock, Demuxer, Read};
use super::describe;
use super::picture::{Converter, Frame, Orientation};
use super::timeline::{self, Key, Table, Timeline};
use crate::plan::{Plan, TIME_TOLERANCE, plan, slot_start};
use crate::read::{Finished, Picked, Request};
use crate::{IngestError, IngestOptions};

/// Gaps of more bytes than this between two runs are sought over where the container has an index;
/// reading past them would cost more than a seek does.
const SEEK_BYTES: i64 = 4 << 20;

/// Metadata without decoding.
pub(crate) fn probe(
    file: &str,
    path: &Path,
    options: &IngestOptions,
) -> Result<ClipMetadata, IngestError> {
    let clock = Clock::start(options.deadline);
    let mut demuxer = Demuxer::open(file, path, options, &clock)?;
    if !demuxer.format_name().starts_with("matroska") {
        demuxer.ignore_other_streams();
    }
    match timeline::scan(&mut demuxer, file, options, &clock)? {
        Table::Known(timeline) => {
            if let Some(reason) = &timeline.cut
                && !options.allow_partial
            {
                let (file, reason) = (file.to_owned(), reason.clone());
                return Err(IngestError::Truncated { file, reason });
            }
            Ok(metadata(&demuxer, &timeline))
        }
        Table::Unknown { packets, cut } => {
            if let Some(reason) = cut
                && !options.allow_partial
            {
                return Err(IngestError::Truncated { file: file.to_owned(), reason });
            }
            let (width, height) = demuxer.coded_size();
            let (width, height) = demuxer.orientation().size(width, height);
            let fps = demuxer.declared_fps().unwrap_or(25.0);
            Ok(ClipMetadata {
                duration: demuxer.declared_stream_duration().unwrap_or(packets as f64 / fps),
                width,
                height,
                fps,
                frame_count: packets,
                rotation: demuxer.orientation().degrees(),
                codec: demuxer.codec_name(),
            })
        }
    }
}

/// Reads the frames that a request asks for.
pub(crate) fn read(request: &Request<'_>) -> Result<Finished, IngestError> {
    let clock = Clock::start(request.options.deadline);
    let mut pass = Pass::open(request, &clock)?;
    match pass.attempt() {
        Attempt::Done(finished) => Ok(finished),
        Attempt::Failed(error) => Err(error),
        // A frame that the packets promise never came out, without any damage: the packets do not
        // tell the truth about pictures, so the decoder must.
        Attempt::Absent => {
            pass.learn_by_decoding()?;
            match pass.attempt() {
                Attempt::Done(finished) => Ok(finished),
                Attempt::Failed(error) => Err(error),
                Attempt::Absent => Err(IngestError::Decode {
                    file: request.file.to_owned(),
                    time: 0.0,
                    reason: "the decoder gives other frames each time".to_owned(),
                }),
            }
        }
    }
}

enum Attempt {
    Done(Finished),
    Failed(IngestError),
    Absent,
}

/// Wanted entries that are decoded in one go, from packet `first` to packet `last`.
struct Run {
    key: Option<Key>,
    first: u32,
    last: u32,
}

struct Pass<'a> {
    request: &'a Request<'a>,
    clock: &'a Clock,
    demuxer: Demuxer<'a>,
    decoder: Decoder,
    timeline: Timeline,
    orientation: Orientation,
    /// Number of the packet that the demuxer gives next.
    position: u32,
}

impl<'a> Pass<'a> {
    fn open(request: &'a Request<'a>, clock: &'a Clock) -> Result<Self, IngestError> {
        let (file, options) = (request.file, request.options);
        let mut demuxer = Demuxer::open(file, request.path, options, clock)?;
        if !demuxer.format_name().starts_with("matroska") {
            demuxer.ignore_other_streams();
        }
        let table = timeline::scan(&mut demuxer, file, options, clock)?;
        let decoder = Decoder::open(&demuxer, file, request.threads, &options.limits)?;
        let orientation = demuxer.orientation();
        let (timeline, packets_tell, cut) = match table {
            Table::Known(timeline) => (Some(timeline), true, None),
            Table::Unknown { cut, .. } => (None, false, cut),
        };
        let mut pass = match timeline {
            Some(timeline) => {
                let position = u32::MAX;
                Self { request, clock, demuxer, decoder, timeline, orientation, position }
            }
            None => {
                let mut decoder = decoder;
                demuxer = reopen(request, clock)?;
                let mut timeline =
                    timeline::by_decoding(&mut demuxer, &mut decoder, file, options, clock)?;
                timeline.cut = cut.or(timeline.cut);
                let position = u32::MAX;
                Self { request, clock, demuxer, decoder, timeline, orientation, position }
            }
        };
        if packets_tell && pass.timeline.leading {
            pass.drop_undecodable_start()?;
        }
        Ok(pass)
    }

    fn learn_by_decoding(&mut self) -> Result<(), IngestError> {
        let cut = self.timeline.cut.take();
        self.demuxer = reopen(self.request, self.clock)?;
        self.decoder.flush();
        self.decoder.skip_unreferenced(false);
        let (file, options) = (self.request.file, self.request.options);
        let mut timeline =
            timeline::by_decoding(&mut self.demuxer, &mut self.decoder, file, options, self.clock)?;
        timeline.cut = cut.or(timeline.cut);
        self.timeline = timeline;
        self.position = u32::MAX;
        Ok(())
    }

    /// A file cut at an open GOP starts with pictures that lean on what is gone. Decoders leave
    /// them out, and so does the table.
    fn drop_undecodable_start(&mut self) -> Result<(), IngestError> {
        let key_time = self.timeline.keys.iter().find(|k| k.header.key).and_then(|k| k.header.pts);
        let Some(key_time) = key_time else { return Ok(()) };
        let leading: Vec<usize> = (0..self.timeline.entries.len())
            .take_while(|&i| self.timeline.entries[i].pts < key_time)
            .collect();
        let Some(last) = leading.iter().map(|&i| self.timeline.entries[i].packet).max() else {
            return Ok(());
        };
        let mut seen = Vec::new();
        let run = Run { key: None, first: 0, last };
        self.decode_run(
            &run,
            |_| true,
            |_, time, _| {
                seen.extend(time);
                Ok(())
            },
        )?;
        self.timeline.entries.retain(|e| e.pts >= key_time || seen.contains(&e.pts));
        Ok(())
    }

    fn attempt(&mut self) -> Attempt {
        match self.attempt_inner() {
            Ok(Some(finished)) => Attempt::Done(finished),
            Ok(None) => Attempt::Absent,
            Err(error) => Attempt::Failed(error),
        }
    }

    fn attempt_inner(&mut self) -> Result<Option<Finished>, IngestError> {
        let request = self.request;
        let partial_allowed = request.options.allow_partial;
        if let Some(reason) = &self.timeline.cut
            && !partial_allowed
        {
            let (file, reason) = (request.file.to_owned(), reason.clone());
            return Err(IngestError::Truncated { file, reason });
        }
        let metadata = metadata(&self.demuxer, &self.timeline);
        let chosen = self.choose(&plan(request.file, &metadata, &request.policy)?, &metadata)?;
        let mut images: BTreeMap<usize, RgbImage> = BTreeMap::new();
        let mut trouble: Option<IngestError> = None;
        let wanted: std::collections::BTreeSet<usize> = chosen.iter().map(|c| c.1).collect();
        let mut by_packet: BTreeMap<u32, usize> = BTreeMap::new();
        let mut by_time: BTreeMap<i64, usize> = BTreeMap::new();
        for &index in &wanted {
            let entry = self.timeline.entries[index];
            by_packet.insert(entry.packet, index);
            by_time.insert(entry.pts, index);
        }
        let by_decoding = self.timeline.by_decoding;
        let mut converter = Converter::new();
        let mut full = Vec::new();
        let orientation = self.orientation;
        for run in self.runs(&wanted) {
            let mut ordinal = 0u32;
            let outcome = self.decode_run(
                &run,
                |packet| by_decoding || by_packet.contains_key(&packet),
                |frame, time, sound| {
                    let index = if by_decoding {
                        ordinal += 1;
                        by_packet.get(&(ordinal - 1))
                    } else {
                        time.and_then(|time| by_time.get(&time))
                    };
                    if let Some(&index) = index
                        && sound
                        && !images.contains_key(&index)
                    {
                        let image =
                            to_image(&mut converter, frame, &mut full, orientation, request)?;
                        images.insert(index, image);
                    }
                    Ok(())
                },
            );
            let error = match outcome {
                Ok(None) => continue,
                Ok(Some(code)) => {
                    let lost = wanted.iter().find(|i| {
                        let packet = self.timeline.entries[**i].packet;
                        (run.first..=run.last).contains(&packet) && !images.contains_key(i)
                    });
                    let Some(&lost) = lost else { continue };
                    let time = self.timeline.seconds(self.timeline.entries[lost].pts);
                    let (file, reason) = (request.file.to_owned(), describe(code));
                    IngestError::Decode { file, time, reason }
                }
                Err(error) => error,
            };
            if !partial_allowed {
                return Err(error);
            }
            let late = matches!(error, IngestError::Deadline { .. });
            trouble.get_or_insert(error);
            if late {
                break;
            }
        }
        let missing = wanted.iter().filter(|i| !images.contains_key(i)).count();
        if missing > 0 && trouble.is_none() {
            if by_decoding {
                let time = 0.0;
                let reason = "the decoder gives other frames each time".to_owned();
                return Err(IngestError::Decode { file: request.file.to_owned(), time, reason });
            }
            return Ok(None);
        }
        if images.is_empty() {
            let file = request.file.to_owned();
            return Err(trouble.unwrap_or(IngestError::NoFrames { file }));
        }
        let mut reasons: Vec<String> =
            self.timeline.cut.iter().map(|c| format!("truncated: {c}")).collect();
        if let Some(error) = trouble {
            reasons.push(format!("{missing} of {} frames missing: {error}", wanted.len()));
        }
        let mut picked = Vec::with_capacity(chosen.len());
        for (requested, index) in chosen {
            if let Some(image) = images.get(&index) {
                let time = self.timeline.seconds(self.timeline.entries[index].pts);
                picked.push(Picked {
                    time,
                    requested,
                    index: Some(index as u64),
                    image: image.clone(),
                });
            }
        }
        let partial = (!reasons.is_empty()).then(|| reasons.join("; "));
        Ok(Some(Finished { metadata, picked, partial }))
    }

    /// The moment that was asked for and the number of the frame shown then.
    fn choose(
        &self,
        plan: &Plan,
        metadata: &ClipMetadata,
    ) -> Result<Vec<(f64, usize)>, IngestError> {
        let limit = self.request.options.limits.max_frames_read;
        if plan.len() > limit {
            return Err(IngestError::Limit {
                file: self.request.file.to_owned(),
                what: "number of frames asked for",
                value: plan.len().to_string(),
                limit: limit.to_string(),
            });
        }
        let timeline = &self.timeline;
        let last = timeline.entries.len() - 1;
        Ok(match plan {
            Plan::Slots(slots) => slots
                .iter()
                .map(|&slot| {
                    let start = slot_start(metadata, slot);
                    let index = if timeline.even {
                        usize::try_from(slot).unwrap_or(last).min(last)
                    } else {
                        let half = 0.5 * metadata.duration / metadata.frame_count as f64;
                        timeline.shown_at(start + half, 0.0)
                    };
                    (start, index)
                })
                .collect(),
            Plan::Times(times) => {
                let tolerance = TIME_TOLERANCE.min(0.25 * timeline.tick());
                times.iter().map(|&t| (t, timeline.shown_at(t, tolerance))).collect()
            }
        })
    }

    /// Groups wanted entries into runs, in the order of the file.
    fn runs(&self, wanted: &std::collections::BTreeSet<usize>) -> Vec<Run> {
        if self.timeline.by_decoding {
            return vec![Run { key: None, first: 0, last: u32::MAX }];
        }
        let mut targets: Vec<(u32, u32)> = wanted
            .iter()
            .map(|&i| (self.timeline.entries[i].key, self.timeline.entries[i].packet))
            .collect();
        targets.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        for (key, packet) in targets {
            let key = self.timeline.keys[key as usize];
            match runs.last_mut() {
                Some(run) if key.packet <= run.last => run.last = run.last.max(packet),
                _ => runs.push(Run { key: Some(key), first: key.packet, last: packet }),
            }
        }
        runs
    }

    /// Decodes a run. `wanted` says of a packet whether its picture must come out even if no other
    /// needs it; `take` gets every picture that does, its time, and whether all that came before it
    /// in the run was sound. Returns the first damage, if any.
    fn decode_run(
        &mut self,
        run: &Run,
        wanted: impl Fn(u32) -> bool,
        mut take: impl FnMut(&Frame, Option<i64>, bool) -> Result<(), IngestError>,
    ) -> Result<Option<i32>, IngestError> {
        self.go_to(run)?;
        self.decoder.flush();
        let skippable = may_skip(self.demuxer.codec());
        let start_time = run.key.and_then(|k| k.header.pts);
        let mut damage: Option<i32> = None;
        loop {
            let mut end = self.position > run.last;
            let mut feed = true;
            if !end {
                match self.demuxer.read() {
                    Read::Packet(header) => {
                        let number = self.position;
                        self.position = self.position.saturating_add(1);
                        let is_wanted = wanted(number);
                        self.decoder.skip_unreferenced(skippable && !is_wanted);
                        // Pictures that lead the key frame in time lean on the GOP before.
                        feed = is_wanted
                            || number == run.first
                            || start_time.is_none_or(|s| header.pts.is_none_or(|pts| pts >= s));
                        if header.corrupt {
                            damage.get_or_insert(ffi::AVERROR_INVALIDDATA);
                        }
                    }
                    Read::Other(_) => feed = false,
                    Read::End => end = true,
                    Read::Failed(code) => {
                        damage.get_or_insert(code);
                        end = true;
                    }
                }
            }
            if self.clock.expired() {
                return Err(self.clock.error(self.request.file));
            }
            if !feed {
                continue;
            }
            let packet = if end { std::ptr::null() } else { self.demuxer.packet() };
            let mut sent = false;
            while !sent {
                match self.decoder.send(packet) {
                    Ok(done) => sent = done,
                    Err(code) => {
                        damage.get_or_insert(code);
                        sent = true;
                    }
                }
                loop {
                    match self.decoder.receive() {
                        Output::Picture { frame, time, sound } => {
                            if !sound {
                                damage.get_or_insert(ffi::AVERROR_INVALIDDATA);
                            }
                            take(frame, time, damage.is_none())?;
                        }
                        Output::Hungry => break,
                        Output::Done => return Ok(damage),
                        Output::Failed(code) => {
                            damage.get_or_insert(code);
                            if end {
                                return Ok(damage);
                            }
                            break;
                        }
                    }
                }
                if self.clock.expired() {
                    return Err(self.clock.error(self.request.file));
                }
            }
        }
    }

    /// Brings the demuxer to the first packet of a run.
    fn go_to(&mut self, run: &Run) -> Result<(), IngestError> {
        let target = run.first;
        if self.position == target {
            return Ok(());
        }
        let ahead = self.position < target;
        let here = self
            .timeline
            .keys
            .iter()
            .rev()
            .find(|k| k.packet <= self.position)
            .map_or(0, |k| k.header.position);
        let far = run.key.is_some_and(|k| k.header.position.saturating_sub(here) > SEEK_BYTES);
        if !ahead || far {
            self.seek_to(run);
        }
        if self.position > target {
            self.demuxer = reopen(self.request, self.clock)?;
            self.position = 0;
        }
        while self.position < target {
            match self.demuxer.read() {
                Read::Packet(_) => self.position += 1,
                Read::Other(_) => {}
                Read::End | Read::Failed(_) => break,
            }
            if self.clock.expired() {
                return Err(self.clock.error(self.request.file));
            }
        }
        Ok(())
    }

    /// Seeks to the key of a run or before it; `position` says where that came out, beyond every
    /// packet when it cannot be told.
    fn seek_to(&mut self, run: &Run) {
        let (Some(key), true) = (run.key, self.demuxer.indexed()) else { return };
        let Some(time) = key.header.pts.or(key.header.dts) else { return };
        self.position = u32::MAX;
        if !self.demuxer.seek(time) {
            return;
        }
        // Where the seek came out is known when the first packet after it is one of the keys.
        let landed = loop {
            match self.demuxer.read() {
                Read::Packet(header) => break header,
                Read::Other(_) if !self.clock.expired() => {}
                Read::Other(_) | Read::End | Read::Failed(_) => return,
            }
        };
        let same = |k: &&Key| {
            (k.header.pts, k.header.position) == (landed.pts, landed.position)
                && k.packet <= key.packet
        };
        if let Some(key) = self.timeline.keys.iter().rev().find(same) {
            self.position = key.packet;
            self.demuxer.hold(landed);
        }
    }
}

fn reopen<'a>(request: &Request<'a>, clock: &'a Clock) -> Result<Demuxer<'a>, IngestError> {
    let mut demuxer = Demuxer::open(request.file, request.path, request.options, clock)?;
    demuxer.ignore_other_streams();
    Ok(demuxer)
}

/// Codecs of which "no other picture needs it" is written in the stream and obeyed by the decoder.
/// HEVC is not among them: its sub-layer non-reference pictures may serve higher sub-layers.
fn may_skip(codec: ffi::AVCodecID) -> bool {
    use ffi::AVCodecID as Id;
    matches!(
        codec,
        Id::AV_CODEC_ID_H264
            | Id::AV_CODEC_ID_MPEG1VIDEO
            | Id::AV_CODEC_ID_MPEG2VIDEO
            | Id::AV_CODEC_ID_MPEG4
            | Id::AV_CODEC_ID_VP8
    )
}

fn metadata(demuxer: &Demuxer<'_>, timeline: &Timeline) -> ClipMetadata {
    let (width, height) = demuxer.coded_size();
    let orientation = demuxer.orientation();
    let (width, height) = orientation.size(width, height);
    ClipMetadata {
        duration: timeline.duration(),
        width,
        height,
        fps: timeline.fps,
        frame_count: timeline.entries.len() as u64,
        rotation: orientation.degrees(),
        codec: demuxer.codec_name(),
    }
}

fn to_image(
    converter: &mut Converter,
    frame: &Frame,
    full: &mut Vec<u8>,
    orientation: Orientation,
    request: &Request<'_>,
) -> Result<RgbImage, IngestError> {
    let file = || request.file.to_owned();
    let bad = |reason: String| IngestError::Decode { file: file(), time: 0.0, reason };
    converter.to_rgb(frame, full).map_err(|code| bad(describe(code)))?;
    let (width, height) = (frame.get().width as u32, frame.get().height as u32);
    let upright = orientation.apply(full, width as usize, height as usize);
    let (width, height) = orientation.size(width, height);
    let image = RgbImage::new(width, height, upright).ok_or_else(|| bad("bad size".to_owned()))?;
    let Some((to_width, to_height)) = request.policy.size else { return Ok(image) };
    savi_schema::resample(&image, to_width, to_height, request.policy.resampling)
        .map_err(|source| IngestError::Resample { file: file(), source })
}
