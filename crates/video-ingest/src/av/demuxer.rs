//! An opened container: its video stream, its packets, and a clock that can stop both.

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::Path;
use std::time::{Duration, Instant};

use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::packet::side_data;

use super::picture::Orientation;
use super::{Options, describe, init};
use crate::{IngestError, IngestOptions};

/// Container formats that are never opened: they read other files, devices or the network, or
/// turn plain text into pictures.
const REFUSED_FORMATS: [&str; 22] = [
    "hls",
    "applehttp",
    "dash",
    "concat",
    "concatf",
    "image2",
    "lavfi",
    "sdp",
    "rtsp",
    "rtp",
    "sap",
    "imf",
    "tty",
    "vapoursynth",
    "avisynth",
    "fbdev",
    "x11grab",
    "v4l2",
    "video4linux2,v4l2",
    "kmsgrab",
    "gdigrab",
    "webm_dash_manifest",
];

/// When to stop, asked by FFmpeg inside blocking reads and by our loops between packets.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    allowed: Option<Duration>,
}

impl Clock {
    pub(super) fn start(allowed: Option<Duration>) -> Self {
        Self { started: Instant::now(), allowed }
    }

    pub(super) fn expired(&self) -> bool {
        self.allowed.is_some_and(|allowed| self.started.elapsed() >= allowed)
    }

    pub(super) fn error(&self, file: &str) -> IngestError {
        let seconds = self.allowed.unwrap_or_default().as_secs_f64();
        IngestError::Deadline { file: file.to_owned(), seconds }
    }

    extern "C" fn interrupt(clock: *mut c_void) -> c_int {
        // SAFETY: the pointer is the Clock that outlives the context it was given to.
        let clock = unsafe { &*clock.cast::<Clock>() };
        c_int::from(clock.expired())
    }
}

/// A packet of the video stream; its bytes stay in the demuxer until the next read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketHeader {
    pub(super) pts: Option<i64>,
    pub(super) dts: Option<i64>,
    pub(super) duration: i64,
    pub(super) position: i64,
    pub(super) key: bool,
    /// Part of the file that the container says not to show (edit lists).
    pub(super) hidden: bool,
    /// Known to the demuxer as incomplete.
    pub(super) corrupt: bool,
}

/// What a read came to.
#[derive(Debug)]
pub(super) enum Read {
    Packet(PacketHeader),
    /// A packet of another stream.
    Other,
    End,
    Failed(i32),
}

/// An open file.
pub(super) struct Demuxer<'a> {
    input: Input,
    packet: *mut ffi::AVPacket,
    pub(super) stream: usize,
    /// The packet in hand is to be given again.
    held: Option<PacketHeader>,
    file: &'a str,
    path: &'a Path,
    clock: &'a Clock,
}

// SAFETY: the contexts have no ties to a thread, this is their only owner, and Clock is Sync.
unsafe impl Send for Demuxer<'_> {}

impl<'a> Demuxer<'a> {
    /// Opens `file` and finds its video stream, within the limits.
    pub(super) fn open(
        file: &'a str,
        path: &'a Path,
        options: &IngestOptions,
        clock: &'a Clock,
    ) -> Result<Self, IngestError> {
        init();
        let fail = |reason: String| IngestError::NotVideo { file: file.to_owned(), reason };
        let url =
            url_of(file, path).ok_or_else(|| fail("the path holds a zero byte".to_owned()))?;
        let mut settings = Options::new();
        settings
            .set("protocol_whitelist", &options.allow_protocols.join(","))
            .set("format_whitelist", allowed_formats())
            .set("max_streams", &options.limits.max_streams.to_string());
        // SAFETY: the context is checked for null; on failure avformat_open_input frees it and
        // sets it to null. The clock outlives the context: it is borrowed for longer.
        let input = unsafe {
            let mut context = ffi::avformat_alloc_context();
            if context.is_null() {
                return Err(fail("out of memory".to_owned()));
            }
            (*context).interrupt_callback.callback = Some(Clock::interrupt);
            (*context).interrupt_callback.opaque = std::ptr::from_ref(clock).cast_mut().cast();
            let code = ffi::avformat_open_input(
                &mut context,
                url.as_ptr(),
                std::ptr::null(),
                &mut settings.0,
            );
            if code < 0 {
                return Err(if clock.expired() { clock.error(file) } else { fail(describe(code)) });
            }
            Input::wrap(context)
        };
        // SAFETY: plain allocation, freed in drop; null is checked below.
        let packet = unsafe { ffi::av_packet_alloc() };
        let mut demuxer = Self { input, packet, stream: 0, held: None, file, path, clock };
        if packet.is_null() {
            return Err(fail("out of memory".to_owned()));
        }
        demuxer.find_stream(options)?;
        demuxer.ignore_other_streams();
        Ok(demuxer)
    }

    fn find_stream(&mut self, options: &IngestOptions) -> Result<(), IngestError> {
        // SAFETY: the context is open.
        let code = unsafe {
            ffi::avformat_find_stream_info(self.input.as_mut_ptr(), std::ptr::null_mut())
        };
        if self.clock.expired() {
            return Err(self.clock.error(self.file));
        }
        let file = self.file.to_owned();
        if code < 0 {
            return Err(IngestError::NotVideo { file, reason: describe(code) });
        }
        let limit = |what, value: String, limit: String| {
            Err(IngestError::Limit { file: self.file.to_owned(), what, value, limit })
        };
        let limits = &options.limits;
        let streams = self.input.nb_streams();
        if streams > limits.max_streams {
            return limit("number of streams", streams.to_string(), limits.max_streams.to_string());
        }
        // SAFETY: the context is open; the decoder pointer is not wanted.
        let best = unsafe {
            ffi::av_find_best_stream(
                self.input.as_mut_ptr(),
                ffi::AVMediaType::AVMEDIA_TYPE_VIDEO,
                -1,
                -1,
                std::ptr::null_mut(),
                0,
            )
        };
        let Ok(best) = usize::try_from(best) else {
            return Err(IngestError::NoVideoStream { file });
        };
        // SAFETY: av_find_best_stream returned a valid index; streams live as long as the context.
        let disposition = unsafe { (*self.stream_ptr(best)).disposition };
        if disposition & ffi::AV_DISPOSITION_ATTACHED_PIC as i32 != 0 {
            return Err(IngestError::NoVideoStream { file });
        }
        self.stream = best;
        let (width, height) = self.coded_size();
        if width == 0 || height == 0 {
            let reason = "the video stream states no size".to_owned();
            return Err(IngestError::NotVideo { file, reason });
        }
        if width.max(height) > limits.max_side {
            let side = format!("{width}x{height}");
            return limit("frame side", side, limits.max_side.to_string());
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > limits.max_pixels {
            return limit("pixels per frame", pixels.to_string(), limits.max_pixels.to_string());
        }
        if let Some(declared) = self.declared_duration()
            && declared > limits.max_duration
        {
            let value = format!("{declared:.1} s");
            return limit("duration", value, format!("{:.1} s", limits.max_duration));
        }
        Ok(())
    }

    /// Skips the other streams' data where the format can.
    fn ignore_other_streams(&mut self) {
        for index in 0..self.input.nb_streams() as usize {
            if index != self.stream {
                // SAFETY: the index is in range; discard is a plain field meant to be set.
                unsafe {
                    (*self.stream_ptr(index)).discard = ffi::AVDiscard::AVDISCARD_ALL;
                }
            }
        }
    }

    /// Reads on to the next packet.
    pub(super) fn read(&mut self) -> Read {
        if let Some(header) = self.held.take() {
            return Read::Packet(header);
        }
        // SAFETY: context and packet are open; the old packet is released first.
        unsafe {
            ffi::av_packet_unref(self.packet);
            let code = ffi::av_read_frame(self.input.as_mut_ptr(), self.packet);
            if code == ffi::AVERROR_EOF {
                return Read::End;
            }
            if code < 0 {
                return Read::Failed(code);
            }
            let packet = &*self.packet;
            let present = |ts: i64| (ts != ffi::AV_NOPTS_VALUE).then_some(ts);
            if packet.stream_index as usize != self.stream {
                return Read::Other;
            }
            let flag = |flag: u32| packet.flags as u32 & flag != 0;
            Read::Packet(PacketHeader {
                pts: present(packet.pts),
                dts: present(packet.dts),
                duration: packet.duration.max(0),
                position: packet.pos,
                key: flag(ffi::AV_PKT_FLAG_KEY as u32),
                hidden: flag(ffi::AV_PKT_FLAG_DISCARD as u32) || self.invisible(packet),
                corrupt: flag(ffi::AV_PKT_FLAG_CORRUPT as u32),
            })
        }
    }

    /// A VP8 packet that only updates references: the show_frame bit of its header (RFC 6386,
    /// section 9.1) is clear.
    fn invisible(&self, packet: &ffi::AVPacket) -> bool {
        if self.codec() != ffi::AVCodecID::AV_CODEC_ID_VP8
            || packet.size < 1
            || packet.data.is_null()
        {
            return false;
        }
        // SAFETY: the packet has at least one byte.
        let first = unsafe { *packet.data };
        first & 0x10 == 0
    }

    /// The packet of the last [`Read::Packet`].
    pub(super) fn packet(&self) -> *const ffi::AVPacket {
        self.packet
    }

    /// Gives the packet in hand, whose header this is, once more.
    pub(super) fn hold(&mut self, header: PacketHeader) {
        self.held = Some(header);
    }

    /// Goes to the key frame at or before `timestamp`; where that ends must be checked by reading.
    pub(super) fn seek(&mut self, timestamp: i64) -> bool {
        self.held = None;
        let backward = ffi::AVSEEK_FLAG_BACKWARD as i32;
        // SAFETY: context open, stream index valid.
        unsafe {
            ffi::av_seek_frame(self.input.as_mut_ptr(), self.stream as i32, timestamp, backward)
                >= 0
        }
    }

    /// Whether the container has an index that makes seeks exact and cheap.
    pub(super) fn indexed(&self) -> bool {
        let name = self.format_name();
        name.starts_with("mov") || name.starts_with("matroska") || name == "avi"
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    pub(super) fn format_name(&self) -> String {
        // SAFETY: an open context has its format, whose name is a static string.
        unsafe {
            let format = (*self.input.as_ptr()).iformat;
            CStr::from_ptr((*format).name).to_string_lossy().into_owned()
        }
    }

    pub(super) fn parameters(&self) -> *const ffi::AVCodecParameters {
        // SAFETY: the index is valid since `find_stream`.
        unsafe { (*self.stream_ptr(self.stream)).codecpar }
    }

    pub(super) fn codec(&self) -> ffi::AVCodecID {
        // SAFETY: parameters of an open stream are never null.
        unsafe { (*self.parameters()).codec_id }
    }

    pub(super) fn codec_name(&self) -> String {
        // SAFETY: avcodec_get_name always returns a static string.
        unsafe {
            CStr::from_ptr(ffi::avcodec_get_name(self.codec())).to_string_lossy().into_owned()
        }
    }

    /// Whether pictures are decoded in another order than they are shown.
    pub(super) fn reorders(&self) -> bool {
        // SAFETY: as in `parameters`.
        unsafe { (*self.parameters()).video_delay > 0 }
    }

    /// Stored width and height, 0 where unknown.
    pub(super) fn coded_size(&self) -> (u32, u32) {
        // SAFETY: as in `parameters`.
        let (width, height) = unsafe { ((*self.parameters()).width, (*self.parameters()).height) };
        (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))
    }

    pub(super) fn time_base(&self) -> ffi::AVRational {
        // SAFETY: the index is valid since `find_stream`.
        unsafe { (*self.stream_ptr(self.stream)).time_base }
    }

    /// Declared average frame rate, where there is one.
    pub(super) fn declared_fps(&self) -> Option<f64> {
        // SAFETY: as above.
        let stream = unsafe { &*self.stream_ptr(self.stream) };
        [stream.avg_frame_rate, stream.r_frame_rate]
            .into_iter()
            .find(|r| r.num > 0 && r.den > 0)
            .map(|r| f64::from(r.num) / f64::from(r.den))
    }

    /// Length of the video stream by its header, in seconds, where it states one.
    pub(super) fn declared_stream_duration(&self) -> Option<f64> {
        // SAFETY: as above.
        let stream = unsafe { &*self.stream_ptr(self.stream) };
        let base = stream.time_base;
        (stream.duration > 0 && base.den > 0)
            .then(|| stream.duration as f64 * f64::from(base.num) / f64::from(base.den))
    }

    /// Length of the file by its header, in seconds.
    pub(super) fn declared_duration(&self) -> Option<f64> {
        let duration = self.input.duration();
        (duration > 0).then(|| duration as f64 / f64::from(ffi::AV_TIME_BASE))
    }

    /// Number of frames by the header; 0 where it states none.
    pub(super) fn declared_frames(&self) -> u64 {
        // SAFETY: as above.
        let frames = unsafe { (*self.stream_ptr(self.stream)).nb_frames };
        u64::try_from(frames).unwrap_or(0)
    }

    /// How pictures of the video stream are to be turned.
    pub(super) fn orientation(&self) -> Orientation {
        let Some(stream) = self.input.stream(self.stream) else { return Orientation::default() };
        let Some(data) = stream.side_data().find(|d| d.kind() == side_data::Type::DisplayMatrix)
        else {
            return Orientation::default();
        };
        let mut matrix = [0i32; 9];
        for (value, bytes) in matrix.iter_mut().zip(data.data().chunks_exact(4)) {
            *value = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Orientation::from_matrix(matrix).unwrap_or_else(|| {
            tracing::warn!(file = self.file, "display matrix is no quarter turn; not applied");
            Orientation::default()
        })
    }

    fn stream_ptr(&self, index: usize) -> *mut ffi::AVStream {
        // SAFETY: callers pass an index below nb_streams; the array lives with the context.
        unsafe { *(*self.input.as_ptr()).streams.add(index) }
    }
}

impl Drop for Demuxer<'_> {
    fn drop(&mut self) {
        // SAFETY: ours or null, freed once; `input` closes itself.
        unsafe { ffi::av_packet_free(&mut self.packet) };
    }
}

/// Local paths get the `file:` prefix, so that a colon in a name is never read as a protocol.
fn url_of(file: &str, path: &Path) -> Option<CString> {
    use std::os::unix::ffi::OsStrExt;
    if crate::source::protocol(file).is_some_and(|p| p != "file") && !path.exists() {
        return CString::new(file).ok();
    }
    let mut bytes = b"file:".to_vec();
    bytes.extend_from_slice(path.as_os_str().as_bytes());
    CString::new(bytes).ok()
}

/// Every demuxer's name but the refused ones, in the form of FFmpeg's `format_whitelist`.
fn allowed_formats() -> &'static str {
    static NAMES: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = Vec::new();
        let mut state = std::ptr::null_mut();
        loop {
            // SAFETY: the iterator's state starts as null and is passed back untouched.
            let format = unsafe { ffi::av_demuxer_iterate(&mut state) };
            if format.is_null() {
                break;
            }
            // SAFETY: registered formats are static and have names.
            let name = unsafe { CStr::from_ptr((*format).name) }.to_string_lossy().into_owned();
            if !REFUSED_FORMATS.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.join(",")
    })
}
