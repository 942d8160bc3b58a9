//! The demuxer and the decoder of one clip, moved forward from run to run.

use ffmpeg_next::ffi;

use super::decoder::{Decoder, Output};
use super::demuxer::{Clock, Demuxer, Read};
use super::picture::Frame;
use super::timeline::{self, Key, Table, Timeline};
use crate::IngestError;
use crate::read::Request;

/// Gaps of more bytes than this between two runs are sought over where the container has an index;
/// reading past them would cost more than a seek does.
const SEEK_BYTES: i64 = 4 << 20;

/// A stretch of packets that is decoded in one go.
pub(super) struct Run {
    /// The key that it starts with; `None` starts with the file.
    pub(super) key: Option<Key>,
    pub(super) first: u32,
    pub(super) last: u32,
}

/// An open clip and where its reader stands.
pub(super) struct Cursor<'a> {
    request: &'a Request<'a>,
    clock: &'a Clock,
    pub(super) demuxer: Demuxer<'a>,
    decoder: Decoder,
    /// Number of the packet that the demuxer gives next; beyond every packet where it cannot be
    /// told.
    position: u32,
}

impl<'a> Cursor<'a> {
    /// Opens the clip and reads its packets' headers.
    pub(super) fn open(
        request: &'a Request<'a>,
        clock: &'a Clock,
    ) -> Result<(Self, Table), IngestError> {
        let (file, options) = (request.file, request.options);
        let mut demuxer = Demuxer::open(file, request.path, options, clock)?;
        let table = timeline::scan(&mut demuxer, file, options, clock)?;
        let decoder = Decoder::open(&demuxer, file, request.threads, &options.limits)?;
        Ok((Self { request, clock, demuxer, decoder, position: u32::MAX }, table))
    }

    /// Decodes the whole clip to learn when its pictures are shown.
    pub(super) fn learn_by_decoding(&mut self) -> Result<Timeline, IngestError> {
        self.reopen()?;
        self.decoder.flush();
        self.decoder.skip_unreferenced(false);
        self.position = u32::MAX;
        let (file, options) = (self.request.file, self.request.options);
        timeline::by_decoding(&mut self.demuxer, &mut self.decoder, file, options, self.clock)
    }

    /// Decodes a run. `wanted` says of a packet whether its picture must come out even if no other
    /// needs it; `take` gets every picture that does, its time, and whether all that came before it
    /// in the run was sound. Returns the first damage, if any.
    pub(super) fn decode_run(
        &mut self,
        run: &Run,
        keys: &[Key],
        wanted: impl Fn(u32) -> bool,
        mut take: impl FnMut(&Frame, Option<i64>, bool) -> Result<(), IngestError>,
    ) -> Result<Option<i32>, IngestError> {
        self.go_to(run, keys)?;
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
                    Read::Other => feed = false,
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
    fn go_to(&mut self, run: &Run, keys: &[Key]) -> Result<(), IngestError> {
        let target = run.first;
        if self.position == target {
            return Ok(());
        }
        let ahead = self.position < target;
        let here =
            keys.iter().rev().find(|k| k.packet <= self.position).map_or(0, |k| k.header.position);
        let far = run.key.is_some_and(|k| k.header.position.saturating_sub(here) > SEEK_BYTES);
        if !ahead || far {
            self.seek_to(run, keys);
        }
        if self.position > target {
            self.reopen()?;
        }
        while self.position < target {
            match self.demuxer.read() {
                Read::Packet(_) => self.position += 1,
                Read::Other => {}
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
    fn seek_to(&mut self, run: &Run, keys: &[Key]) {
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
                Read::Other if !self.clock.expired() => {}
                Read::Other | Read::End | Read::Failed(_) => return,
            }
        };
        let same = |k: &&Key| {
            (k.header.pts, k.header.position) == (landed.pts, landed.position)
                && k.packet <= key.packet
        };
        if let Some(key) = keys.iter().rev().find(same) {
            self.position = key.packet;
            self.demuxer.hold(landed);
        }
    }

    fn reopen(&mut self) -> Result<(), IngestError> {
        let request = self.request;
        self.demuxer = Demuxer::open(request.file, request.path, request.options, self.clock)?;
        self.position = 0;
        Ok(())
    }
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
