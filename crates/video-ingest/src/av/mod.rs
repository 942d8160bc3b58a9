//! FFmpeg behind small owned types. Every `unsafe` of the workspace that concerns FFmpeg is here.

#![allow(
    clippy::unnecessary_cast,
    reason = "whether FFmpeg's constants are i32 or u32 depends on the headers they were read from"
)]

mod cursor;
mod decoder;
mod demuxer;
mod picture;
mod reader;
mod timeline;
mod writer;
mod yuv;

use std::ffi::{CStr, CString};
use std::sync::Once;

use ffmpeg_next::ffi;

pub(crate) use reader::{probe, read};
pub use writer::{ClipWriter, WriterOptions};

/// One allocation inside FFmpeg never takes more: a forged header must not take the machine's
/// memory. The largest honest one is a frame (limits: 2^26 pixels, up to 8 bytes each).
const MAX_ALLOC: usize = 1 << 30;

/// Process-wide settings of FFmpeg: no prints to stderr, bounded allocations.
fn init() {
    static ONCE: Once = Once::new();
    // SAFETY: both calls only store a number, and run before any other use in this crate.
    ONCE.call_once(|| unsafe {
        ffi::av_log_set_level(ffi::AV_LOG_QUIET);
        ffi::av_max_alloc(MAX_ALLOC);
    });
}

/// The FFmpeg that this process runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libraries {
    /// Names with versions.
    pub versions: Vec<(&'static str, String)>,
    /// Decoders of the usual formats, and whether each is there.
    pub decoders: Vec<(&'static str, bool)>,
}

/// What this process has of FFmpeg.
pub fn libraries() -> Libraries {
    let version = |code: u32| format!("{}.{}.{}", code >> 16, code >> 8 & 0xff, code & 0xff);
    // SAFETY: these give a number that was compiled into each library.
    let codes = unsafe {
        [
            ("libavformat", ffi::avformat_version()),
            ("libavcodec", ffi::avcodec_version()),
            ("libavutil", ffi::avutil_version()),
            ("libswscale", ffi::swscale_version()),
        ]
    };
    let decoders = [c"h264", c"hevc", c"vp8", c"vp9", c"av1", c"libdav1d", c"mpeg4", c"mjpeg"];
    let there = |name: &'static CStr| {
        // SAFETY: the name ends with a zero, and the result is only compared.
        let found = unsafe { !ffi::avcodec_find_decoder_by_name(name.as_ptr()).is_null() };
        (name.to_str().unwrap_or_default(), found)
    };
    Libraries {
        versions: codes.into_iter().map(|(name, code)| (name, version(code))).collect(),
        decoders: decoders.into_iter().map(there).collect(),
    }
}

/// FFmpeg's words for an error code.
fn describe(code: i32) -> String {
    let mut buffer = [0 as std::ffi::c_char; 128];
    // SAFETY: the buffer is as long as stated, and av_strerror always ends it with a zero.
    unsafe {
        ffi::av_strerror(code, buffer.as_mut_ptr(), buffer.len());
        CStr::from_ptr(buffer.as_ptr()).to_string_lossy().into_owned()
    }
}

/// An owned `AVDictionary` of options.
struct Options(*mut ffi::AVDictionary);

impl Options {
    fn new() -> Self {
        Self(std::ptr::null_mut())
    }

    /// Sets `key` to `value`; text with a zero byte is left out.
    fn set(&mut self, key: &str, value: &str) -> &mut Self {
        if let (Ok(key), Ok(value)) = (CString::new(key), CString::new(value)) {
            // SAFETY: both strings live through the call, which copies them.
            unsafe { ffi::av_dict_set(&mut self.0, key.as_ptr(), value.as_ptr(), 0) };
        }
        self
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the dictionary is ours (or null) and is not used afterwards.
        unsafe { ffi::av_dict_free(&mut self.0) };
    }
}
