//! One forward pass over the frames that are wanted.
//!
//! Wanted frames are grouped into runs. A run starts at a key frame and ends with the packet of its
//! last wanted frame; packets between runs are read past (or sought over) and never decoded, and
//! inside a run pictures that no other picture needs are decoded only when they are wanted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use savi_schema::{ClipMetadata, RgbImage};

use super::cursor::{Cursor, Run};
use super::demuxer::{Clock, Demuxer};
use super::describe;
use super::picture::{Converter, Frame, Orientation};
use super::timeline::{self, Table, Timeline};
use crate::plan::{Plan, TIME_TOLERANCE, plan, slot_start};
use crate::read::{Finished, Picked, Request};
use crate::{IngestError, IngestOptions};

/// Metadata without decoding.
pub(crate) fn probe(
    file: &str,
    path: &Path,
    options: &IngestOptions,
) -> Result<ClipMetadata, IngestError> {
    let clock = Clock::start(options.deadline);
    let mut demuxer = Demuxer::open(file, path, options, &clock)?;
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
        Table::Unknown { packets, span, cut } => {
            if let Some(reason) = cut
                && !options.allow_partial
            {
                return Err(IngestError::Truncated { file: file.to_owned(), reason });
            }
            let (width, height) = demuxer.coded_size();
            let (width, height) = demuxer.orientation().size(width, height);
            let fps = demuxer.declared_fps().unwrap_or(25.0);
            // Without times the packets' number is the better measure.
            let duration = span.max(packets as f64 / fps);
            Ok(ClipMetadata {
                duration,
                width,
                height,
                fps: packets as f64 / duration,
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

struct Pass<'a> {
    request: &'a Request<'a>,
    cursor: Cursor<'a>,
    timeline: Timeline,
    orientation: Orientation,
}

impl<'a> Pass<'a> {
    fn open(request: &'a Request<'a>, clock: &'a Clock) -> Result<Self, IngestError> {
        let (mut cursor, table) = Cursor::open(request, clock)?;
        let orientation = cursor.demuxer.orientation();
        match table {
            Table::Known(timeline) => {
                let mut pass = Self { request, cursor, timeline, orientation };
                if pass.timeline.leading {
                    pass.drop_undecodable_start()?;
                }
                Ok(pass)
            }
            Table::Unknown { cut, .. } => {
                let mut timeline = cursor.learn_by_decoding()?;
                timeline.cut = cut.or(timeline.cut);
                Ok(Self { request, cursor, timeline, orientation })
            }
        }
    }

    fn learn_by_decoding(&mut self) -> Result<(), IngestError> {
        let cut = self.timeline.cut.take();
        self.timeline = self.cursor.learn_by_decoding()?;
        self.timeline.cut = cut.or(self.timeline.cut.take());
        Ok(())
    }

    /// A file cut at an open GOP starts with pictures that lean on what is gone. Decoders leave
    /// them out, and so does the table.
    fn drop_undecodable_start(&mut self) -> Result<(), IngestError> {
        let key_time = self.timeline.keys.iter().find(|k| k.header.key).and_then(|k| k.header.pts);
        let Some(key_time) = key_time else { return Ok(()) };
        let leading = self.timeline.entries.iter().take_while(|e| e.pts < key_time);
        let Some(last) = leading.map(|e| e.packet).max() else { return Ok(()) };
        let mut seen = HashSet::new();
        let run = Run { key: None, first: 0, last };
        // Damage is what is looked for here: the pictures that do come out are the answer.
        let _damage = self.cursor.decode_run(
            &run,
            &[],
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
        let metadata = metadata(&self.cursor.demuxer, &self.timeline);
        let chosen = self.choose(&plan(request.file, &metadata, &request.policy)?, &metadata)?;
        let mut images: BTreeMap<usize, RgbImage> = BTreeMap::new();
        let mut trouble: Option<IngestError> = None;
        let wanted: BTreeSet<usize> = chosen.iter().map(|c| c.1).collect();
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
            let outcome = self.cursor.decode_run(
                &run,
                &self.timeline.keys,
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
    fn runs(&self, wanted: &BTreeSet<usize>) -> Vec<Run> {
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
    converter.convert(frame, full).map_err(|code| bad(describe(code)))?;
    let (width, height) = (frame.get().width as u32, frame.get().height as u32);
    let turned = orientation.apply(full, width as usize, height as usize);
    let upright = turned.as_deref().unwrap_or(full);
    let size = orientation.size(width, height);
    let target = request.policy.size.unwrap_or(size);
    savi_schema::resample_pixels(upright, size, target, request.policy.resampling)
        .map_err(|source| IngestError::Resample { file: file(), source })
}
