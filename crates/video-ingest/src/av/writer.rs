//! Writes clips: H.264 in MP4, the same bytes for the same frames.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use ffmpeg_next::ffi;
use savi_schema::RgbImage;

use super::picture::{Converter, Frame};
use super::{Options, describe, init};
use crate::IngestError;

/// How a clip is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// Pixels per row; even.
    pub width: u32,
    /// Rows; even.
    pub height: u32,
    /// Frames per second, as a fraction.
    pub fps: (u32, u32),
    /// Frames from one key frame to the next.
    pub gop: u32,
    /// Most B-frames in a row.
    pub b_frames: u32,
    /// x264's quality, 0 (lossless) to 51.
    pub crf: u32,
    /// x264's preset.
    pub preset: &'static str,
}

/// Encodes frames into one file. The file appears under its name only when
/// [`finish`](Self::finish) returns.
pub struct ClipWriter {
    format: *mut ffi::AVFormatContext,
    encoder: *mut ffi::AVCodecContext,
    packet: *mut ffi::AVPacket,
    frame: Frame,
    converter: Converter,
    options: WriterOptions,
    frames: i64,
    path: PathBuf,
    temporary: Option<tempfile::TempPath>,
}

// SAFETY: the three contexts have no ties to a thread, and this is their only owner.
unsafe impl Send for ClipWriter {}

impl std::fmt::Debug for ClipWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClipWriter")
            .field("path", &self.path)
            .field("options", &self.options)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl ClipWriter {
    /// Starts a file in an existing folder.
    pub fn create(path: &Path, options: &WriterOptions) -> Result<Self, IngestError> {
        init();
        let fail = |reason: String| IngestError::Encode { file: name(path), reason };
        check(options).map_err(fail)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new()
            .prefix(".savi-")
            .suffix(".mp4")
            .tempfile_in(parent)
            .map_err(|source| IngestError::Io { file: name(path), source })?
            .into_temp_path();
        let frame = Frame::new().ok_or_else(|| fail("out of memory".to_owned()))?;
        let mut writer = Self {
            format: std::ptr::null_mut(),
            encoder: std::ptr::null_mut(),
            packet: std::ptr::null_mut(),
            frame,
            converter: Converter::new(),
            options: options.clone(),
            frames: 0,
            path: path.to_owned(),
            temporary: Some(temporary),
        };
        writer.open()?;
        Ok(writer)
    }

    /// Encodes the next frame.
    pub fn push(&mut self, frame: &RgbImage) -> Result<(), IngestError> {
        let (width, height) = (self.options.width, self.options.height);
        if (frame.width, frame.height) != (width, height) {
            let (w, h) = (frame.width, frame.height);
            return Err(self.fail(format!("frame of {w}x{h} in a clip of {width}x{height}")));
        }
        // SAFETY: the frame is ours; after this call no encoder shares its buffer.
        let code = unsafe { ffi::av_frame_make_writable(self.frame.as_mut_ptr()) };
        self.ok(code)?;
        let filled = self.converter.fill_yuv(frame, &mut self.frame);
        filled.map_err(|code| self.fail(describe(code)))?;
        // SAFETY: the frame is ours and not null.
        unsafe { (*self.frame.as_mut_ptr()).pts = self.frames };
        self.frames += 1;
        // SAFETY: encoder and frame are open and of one size and format.
        let code = unsafe { ffi::avcodec_send_frame(self.encoder, self.frame.as_ptr()) };
        self.ok(code)?;
        self.write_packets()
    }

    /// Writes what is left, closes the file and gives it its name.
    pub fn finish(mut self) -> Result<(), IngestError> {
        if self.frames == 0 {
            return Err(self.fail("no frames".to_owned()));
        }
        // SAFETY: a null frame tells an open encoder that no more come.
        let code = unsafe { ffi::avcodec_send_frame(self.encoder, std::ptr::null()) };
        self.ok(code)?;
        self.write_packets()?;
        // SAFETY: the header was written in `open`; the I/O context is ours.
        let code = unsafe { ffi::av_write_trailer(self.format) };
        self.ok(code)?;
        // SAFETY: as above; the pointer is null afterwards, so it is closed once.
        let code = unsafe { ffi::avio_closep(&mut (*self.format).pb) };
        self.ok(code)?;
        if let Some(temporary) = self.temporary.take() {
            temporary
                .persist(&self.path)
                .map_err(|e| IngestError::Io { file: name(&self.path), source: e.error })?;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), IngestError> {
        let o = self.options.clone();
        let target = self.temporary.as_ref().map(|t| format!("file:{}", t.display()));
        let target = CString::new(target.unwrap_or_default())
            .map_err(|_| self.fail("the path holds a zero byte".to_owned()))?;
        let frame_time = ffi::AVRational { num: o.fps.1 as i32, den: o.fps.0 as i32 };
        // SAFETY: every pointer is checked before use and stored in `self`, which frees it.
        unsafe {
            let code = ffi::avformat_alloc_output_context2(
                &mut self.format,
                std::ptr::null(),
                c"mp4".as_ptr(),
                target.as_ptr(),
            );
            self.ok(code)?;
            let codec = ffi::avcodec_find_encoder_by_name(c"libx264".as_ptr());
            if codec.is_null() {
                return Err(IngestError::Unsupported {
                    file: name(&self.path),
                    codec: "encoding H.264 (FFmpeg without libx264)".to_owned(),
                });
            }
            self.encoder = ffi::avcodec_alloc_context3(codec);
            self.packet = ffi::av_packet_alloc();
            let stream = ffi::avformat_new_stream(self.format, std::ptr::null());
            if self.encoder.is_null() || self.packet.is_null() || stream.is_null() {
                return Err(self.fail("out of memory".to_owned()));
            }
            let encoder = &mut *self.encoder;
            encoder.width = o.width as i32;
            encoder.height = o.height as i32;
            encoder.pix_fmt = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P;
            encoder.time_base = frame_time;
            encoder.framerate = ffi::AVRational { num: frame_time.den, den: frame_time.num };
            encoder.gop_size = o.gop as i32;
            encoder.max_b_frames = o.b_frames as i32;
            encoder.thread_count = 1;
            encoder.color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
            encoder.colorspace = ffi::AVColorSpace::AVCOL_SPC_BT709;
            encoder.color_primaries = ffi::AVColorPrimaries::AVCOL_PRI_BT709;
            encoder.color_trc = ffi::AVColorTransferCharacteristic::AVCOL_TRC_BT709;
            // The header goes into the container; no version strings, so that bytes repeat.
            encoder.flags |=
                (ffi::AV_CODEC_FLAG_GLOBAL_HEADER | ffi::AV_CODEC_FLAG_BITEXACT) as i32;
            let mut settings = Options::new();
            settings
                .set("preset", o.preset)
                .set("crf", &o.crf.to_string())
                // Key frames fall on multiples of `gop` and nowhere else.
                .set("sc_threshold", "0")
                .set("threads", "1");
            let code = ffi::avcodec_open2(self.encoder, codec, &mut settings.0);
            self.ok(code)?;
            let code = ffi::avcodec_parameters_from_context((*stream).codecpar, self.encoder);
            self.ok(code)?;
            (*stream).time_base = frame_time;
            (*stream).avg_frame_rate = (*self.encoder).framerate;
            (*self.format).flags |= ffi::AVFMT_FLAG_BITEXACT as i32;
            let frame = self.frame.as_mut_ptr();
            (*frame).width = o.width as i32;
            (*frame).height = o.height as i32;
            (*frame).format = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as i32;
            (*frame).color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
            (*frame).colorspace = ffi::AVColorSpace::AVCOL_SPC_BT709;
            let code = ffi::av_frame_get_buffer(frame, 0);
            self.ok(code)?;
            let write = ffi::AVIO_FLAG_WRITE as i32;
            let code = ffi::avio_open(&mut (*self.format).pb, target.as_ptr(), write);
            self.ok(code)?;
            let code = ffi::avformat_write_header(self.format, std::ptr::null_mut());
            self.ok(code)
        }
    }

    fn write_packets(&mut self) -> Result<(), IngestError> {
        loop {
            // SAFETY: encoder, format and packet are open; the packet is blank after each write.
            unsafe {
                let code = ffi::avcodec_receive_packet(self.encoder, self.packet);
                if code == ffi::AVERROR(libc::EAGAIN) || code == ffi::AVERROR_EOF {
                    return Ok(());
                }
                self.ok(code)?;
                let stream = *(*self.format).streams;
                let from = (*self.encoder).time_base;
                // Without a duration the last frame would be shown for no time at all.
                (*self.packet).duration = 1;
                ffi::av_packet_rescale_ts(self.packet, from, (*stream).time_base);
                (*self.packet).stream_index = 0;
                let code = ffi::av_interleaved_write_frame(self.format, self.packet);
                self.ok(code)?;
            }
        }
    }

    fn ok(&self, code: i32) -> Result<(), IngestError> {
        if code < 0 { Err(self.fail(describe(code))) } else { Ok(()) }
    }

    fn fail(&self, reason: String) -> IngestError {
        IngestError::Encode { file: name(&self.path), reason }
    }
}

impl Drop for ClipWriter {
    fn drop(&mut self) {
        // SAFETY: each is ours or null, and freed once.
        unsafe {
            ffi::avcodec_free_context(&mut self.encoder);
            ffi::av_packet_free(&mut self.packet);
            if !self.format.is_null() {
                ffi::avio_closep(&mut (*self.format).pb);
                ffi::avformat_free_context(self.format);
            }
        }
    }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn check(o: &WriterOptions) -> Result<(), String> {
    let (width, height) = (o.width, o.height);
    if width == 0 || height == 0 || width % 2 == 1 || height % 2 == 1 {
        return Err(format!("size {width}x{height}: both sides must be even and positive"));
    }
    if width > 16_384 || height > 16_384 {
        return Err(format!("size {width}x{height}: at most 16384"));
    }
    if o.fps.0 == 0 || o.fps.1 == 0 || o.fps.0 > 1_000_000 || o.fps.1 > 1_000_000 {
        return Err(format!("frame rate {}/{}", o.fps.0, o.fps.1));
    }
    if o.gop == 0 || o.gop > 100_000 || o.b_frames > 16 || o.crf > 51 {
        return Err(format!("gop {}, b_frames {}, crf {}", o.gop, o.b_frames, o.crf));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use savi_schema::{CountRule, FrameSampling, MediaPolicy};

    use super::*;
    use crate::{IngestOptions, probe, read_clip};

    /// A picture whose brightness tells its number.
    fn picture(index: u32) -> RgbImage {
        let data: Vec<u8> = (0..64 * 48).flat_map(|_| [(index * 8) as u8; 3]).collect();
        RgbImage::new(64, 48, data).expect("64x48")
    }

    fn options(b_frames: u32) -> WriterOptions {
        let (width, height, gop, crf) = (64, 48, 8, 10);
        WriterOptions { width, height, fps: (30, 1), gop, b_frames, crf, preset: "medium" }
    }

    fn write(path: &Path, b_frames: u32, count: u32) {
        let mut writer = ClipWriter::create(path, &options(b_frames)).expect("opens");
        for index in 0..count {
            writer.push(&picture(index)).expect("encodes");
        }
        writer.finish().expect("finishes");
    }

    #[test]
    fn what_is_written_is_read_back_frame_by_frame() {
        let folder = tempfile::tempdir().expect("a folder");
        for b_frames in [0, 3] {
            let path = folder.path().join(format!("clip{b_frames}.mp4"));
            write(&path, b_frames, 31);
            let source = path.display().to_string();
            let metadata = probe(&source, &IngestOptions::default()).expect("probes");
            assert_eq!((metadata.width, metadata.height, metadata.frame_count), (64, 48, 31));
            assert!((metadata.fps - 30.0).abs() < 1e-9, "{}", metadata.fps);
            assert!((metadata.duration - 31.0 / 30.0).abs() < 1e-3, "{}", metadata.duration);
            assert_eq!(metadata.codec, "h264");
            let policies = [
                MediaPolicy::count(31, CountRule::Linspace),
                MediaPolicy::count(5, CountRule::MidSegment),
                MediaPolicy::new(FrameSampling::Times { times: vec![0.0, 0.7, 1.0] }),
            ];
            for policy in policies {
                let clip = read_clip(&source, &policy, &IngestOptions::default()).expect("reads");
                for frame in &clip.frames {
                    let index = frame.index.expect("counted") as u32;
                    assert!((frame.time - f64::from(index) / 30.0).abs() < 1e-4);
                    let (sum, count) = frame
                        .image
                        .data
                        .iter()
                        .fold((0u64, 0u64), |(sum, count), &v| (sum + u64::from(v), count + 1));
                    let mean = sum as f64 / count as f64;
                    // crf 10 of a flat picture: within a level or two.
                    assert!((mean - f64::from(index * 8)).abs() < 3.0, "{index}: {mean}");
                }
            }
        }
    }

    #[test]
    fn the_same_frames_give_the_same_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a.mp4"), folder.path().join("b.mp4"));
        write(&a, 3, 20);
        write(&b, 3, 20);
        assert_eq!(std::fs::read(a).expect("a"), std::fs::read(b).expect("b"));
    }

    #[test]
    fn bad_options_and_frames_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("clip.mp4");
        let odd = WriterOptions { width: 63, ..options(0) };
        assert!(matches!(ClipWriter::create(&path, &odd), Err(IngestError::Encode { .. })));
        let mut writer = ClipWriter::create(&path, &options(0)).expect("opens");
        let small = RgbImage::new(2, 2, vec![0; 12]).expect("2x2");
        assert!(matches!(writer.push(&small), Err(IngestError::Encode { .. })));
        assert!(matches!(writer.finish(), Err(IngestError::Encode { .. })));
        assert!(!path.exists());
    }
}
