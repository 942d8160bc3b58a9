//! A video decoder that is fed packet by packet.

use ffmpeg_next::ffi;

use super::demuxer::Demuxer;
use super::picture::Frame;
use super::{Options, describe};
use crate::{IngestError, Limits};

/// An open decoder.
pub(super) struct Decoder {
    context: *mut ffi::AVCodecContext,
    frame: Frame,
}

// SAFETY: the context has no ties to a thread, and this is its only owner.
unsafe impl Send for Decoder {}

/// What came out of the decoder.
pub(super) enum Output<'a> {
    /// A picture in presentation order; `sound` unless the decoder says it is damaged.
    Picture { frame: &'a Frame, time: Option<i64>, sound: bool },
    /// It wants another packet.
    Hungry,
    /// Everything is out.
    Done,
    /// It failed.
    Failed(i32),
}

impl Decoder {
    /// Opens the decoder of the demuxer's video stream.
    pub(super) fn open(
        demuxer: &Demuxer<'_>,
        file: &str,
        threads: usize,
        limits: &Limits,
    ) -> Result<Self, IngestError> {
        let fail = |reason: String| IngestError::NotVideo { file: file.to_owned(), reason };
        let frame = Frame::new().ok_or_else(|| fail("out of memory".to_owned()))?;
        // SAFETY: every pointer is checked; the context is owned by `decoder` at once, so that
        // every way out frees it.
        unsafe {
            let codec = ffi::avcodec_find_decoder(demuxer.codec());
            if codec.is_null() {
                return Err(IngestError::Unsupported {
                    file: file.to_owned(),
                    codec: format!("decoding {}", demuxer.codec_name()),
                });
            }
            let decoder = Self { context: ffi::avcodec_alloc_context3(codec), frame };
            if decoder.context.is_null() {
                return Err(fail("out of memory".to_owned()));
            }
            let code = ffi::avcodec_parameters_to_context(decoder.context, demuxer.parameters());
            if code < 0 {
                return Err(fail(describe(code)));
            }
            // Threads must be set before opening; frames come out the same for any number.
            (*decoder.context).thread_count = safe_threads(demuxer.codec(), threads) as i32;
            (*decoder.context).thread_type = (ffi::FF_THREAD_FRAME | ffi::FF_THREAD_SLICE) as i32;
            (*decoder.context).pkt_timebase = demuxer.time_base();
            let mut settings = Options::new();
            settings.set("max_pixels", &limits.max_pixels.to_string());
            let code = ffi::avcodec_open2(decoder.context, codec, &mut settings.0);
            if code < 0 {
                return Err(fail(describe(code)));
            }
            Ok(decoder)
        }
    }

    /// Sets whether pictures that no other needs are decoded, from the next packet on.
    pub(super) fn skip_unreferenced(&mut self, skip: bool) {
        let level =
            if skip { ffi::AVDiscard::AVDISCARD_NONREF } else { ffi::AVDiscard::AVDISCARD_DEFAULT };
        // SAFETY: a plain field that FFmpeg lets callers change between packets; frame threads
        // take it over with each packet.
        unsafe { (*self.context).skip_frame = level };
    }

    /// Feeds the demuxer's packet, or the end (null). `Ok(false)`: take pictures out first.
    pub(super) fn send(&mut self, packet: *const ffi::AVPacket) -> Result<bool, i32> {
        // SAFETY: the decoder is open; the packet is null or one that the demuxer owns.
        let code = unsafe { ffi::avcodec_send_packet(self.context, packet) };
        if code == ffi::AVERROR(libc::EAGAIN) {
            Ok(false)
        } else if code < 0 && code != ffi::AVERROR_EOF {
            Err(code)
        } else {
            Ok(true)
        }
    }

    /// Takes the next picture out.
    pub(super) fn receive(&mut self) -> Output<'_> {
        // SAFETY: the decoder is open; the frame is released by the call before it is filled.
        let code = unsafe { ffi::avcodec_receive_frame(self.context, self.frame.as_mut_ptr()) };
        if code == ffi::AVERROR(libc::EAGAIN) {
            return Output::Hungry;
        }
        if code == ffi::AVERROR_EOF {
            return Output::Done;
        }
        if code < 0 {
            return Output::Failed(code);
        }
        let frame = self.frame.get();
        let time = [frame.pts, frame.best_effort_timestamp, frame.pkt_dts]
            .into_iter()
            .find(|&ts| ts != ffi::AV_NOPTS_VALUE);
        let corrupt = frame.flags & ffi::AV_FRAME_FLAG_CORRUPT as i32 != 0;
        let sound = frame.decode_error_flags == 0 && !corrupt;
        Output::Picture { frame: &self.frame, time, sound }
    }

    /// Forgets everything, to start again at a key frame.
    pub(super) fn flush(&mut self) {
        // SAFETY: the decoder is open.
        unsafe { ffi::avcodec_flush_buffers(self.context) };
    }
}

/// Threads that a decoder may use. On damaged files dav1d's threads (seen with 1.0.0) can wait for
/// one another for ever, which no deadline of ours ends; on the caller's thread it cannot.
fn safe_threads(codec: ffi::AVCodecID, threads: usize) -> usize {
    if codec == ffi::AVCodecID::AV_CODEC_ID_AV1 { 1 } else { threads }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: ours or null, freed once.
        unsafe { ffi::avcodec_free_context(&mut self.context) };
    }
}
