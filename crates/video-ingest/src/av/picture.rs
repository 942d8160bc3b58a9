//! From decoded frames to upright RGB and back.

use ffmpeg_next::ffi;
use savi_schema::RgbImage;

use super::yuv::{self, Matrix, Planes};

/// An owned `AVFrame`.
pub(super) struct Frame(*mut ffi::AVFrame);

// SAFETY: an AVFrame has no ties to a thread, and this is its only owner.
unsafe impl Send for Frame {}

impl Frame {
    pub(super) fn new() -> Option<Self> {
        // SAFETY: plain allocation; null is checked.
        let frame = unsafe { ffi::av_frame_alloc() };
        (!frame.is_null()).then_some(Self(frame))
    }

    pub(super) fn as_ptr(&self) -> *const ffi::AVFrame {
        self.0
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut ffi::AVFrame {
        self.0
    }

    /// The fields; the frame is never null.
    pub(super) fn get(&self) -> &ffi::AVFrame {
        // SAFETY: non-null since `new`, valid until drop.
        unsafe { &*self.0 }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: ours, not used afterwards.
        unsafe { ffi::av_frame_free(&mut self.0) };
    }
}

/// A swscale context that is rebuilt when its frames change.
pub(super) struct Converter {
    context: *mut ffi::SwsContext,
    shape: Option<Shape>,
}

// SAFETY: a SwsContext has no ties to a thread, and this is its only owner.
unsafe impl Send for Converter {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    width: i32,
    height: i32,
    from: i32,
    to: i32,
    matrix: i32,
    full_range: bool,
}

impl Converter {
    pub(super) fn new() -> Self {
        Self { context: std::ptr::null_mut(), shape: None }
    }

    /// Packed full-range RGB of a decoded frame at its own size, written over `rgb`.
    pub(super) fn convert(&mut self, frame: &Frame, rgb: &mut Vec<u8>) -> Result<(), i32> {
        let f = frame.get();
        let (Ok(width), Ok(height)) = (usize::try_from(f.width), usize::try_from(f.height)) else {
            return Err(ffi::AVERROR_INVALIDDATA);
        };
        let bytes = width * height * 3;
        if let Some(planes) = planes_of(f, width, height) {
            let full = full_range(f) || f.format == ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P as i32;
            rgb.resize(bytes, 0);
            yuv::to_rgb(&planes, matrix_of(f.colorspace as i32).1, full, &mut rgb[..bytes]);
            return Ok(());
        }
        let shape = Shape {
            width: f.width,
            height: f.height,
            from: f.format,
            to: ffi::AVPixelFormat::AV_PIX_FMT_RGB24 as i32,
            matrix: f.colorspace as i32,
            full_range: full_range(f),
        };
        self.prepare(shape)?;
        // swscale's vector loops may write a few bytes past the last pixel of a row.
        rgb.clear();
        rgb.resize(bytes + 64, 0);
        let planes =
            [rgb.as_mut_ptr(), std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut()];
        let strides = [(width * 3) as i32, 0, 0, 0];
        // SAFETY: the context was made for this size and format; the source planes belong to a
        // frame that the decoder filled; the target has height rows of `strides[0]` bytes.
        let rows = unsafe {
            ffi::sws_scale(
                self.context,
                f.data.as_ptr().cast(),
                f.linesize.as_ptr(),
                0,
                f.height,
                planes.as_ptr(),
                strides.as_ptr(),
            )
        };
        rgb.truncate(bytes);
        if rows == f.height {
            Ok(())
        } else {
            Err(if rows < 0 { rows } else { ffi::AVERROR_INVALIDDATA })
        }
    }

    /// Fills a YUV 4:2:0 frame (limited range, BT.709) from packed RGB of the same size.
    pub(super) fn fill_yuv(&mut self, image: &RgbImage, frame: &mut Frame) -> Result<(), i32> {
        let shape = Shape {
            width: image.width as i32,
            height: image.height as i32,
            from: ffi::AVPixelFormat::AV_PIX_FMT_RGB24 as i32,
            to: ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as i32,
            matrix: ffi::AVColorSpace::AVCOL_SPC_BT709 as i32,
            full_range: true,
        };
        self.prepare(shape)?;
        let planes = [image.data.as_ptr(), std::ptr::null(), std::ptr::null(), std::ptr::null()];
        let strides = [shape.width * 3, 0, 0, 0];
        // SAFETY: the source has height rows of width * 3 bytes (a property of RgbImage); the
        // target frame owns writable planes of this size, made by av_frame_get_buffer.
        let rows = unsafe {
            let target = frame.as_mut_ptr();
            ffi::sws_scale(
                self.context,
                planes.as_ptr(),
                strides.as_ptr(),
                0,
                shape.height,
                (*target).data.as_ptr(),
                (*target).linesize.as_ptr(),
            )
        };
        if rows == shape.height { Ok(()) } else { Err(ffi::AVERROR_INVALIDDATA) }
    }

    fn prepare(&mut self, shape: Shape) -> Result<(), i32> {
        if self.shape == Some(shape) {
            return Ok(());
        }
        self.free();
        // SAFETY: the context is ours; options are set by name before it is initialised, so no
        // pixel format number from a file is ever turned into a Rust enum.
        unsafe {
            let context = ffi::sws_alloc_context();
            if context.is_null() {
                return Err(ffi::AVERROR(libc::ENOMEM));
            }
            self.context = context;
            let flags = ffi::SWS_BICUBIC | ffi::SWS_ACCURATE_RND;
            for (name, value) in [
                (c"srcw", i64::from(shape.width)),
                (c"srch", i64::from(shape.height)),
                (c"dstw", i64::from(shape.width)),
                (c"dsth", i64::from(shape.height)),
                (c"src_format", i64::from(shape.from)),
                (c"dst_format", i64::from(shape.to)),
                (c"sws_flags", i64::from(flags as i32)),
            ] {
                let code = ffi::av_opt_set_int(context.cast(), name.as_ptr(), value, 0);
                if code < 0 {
                    return Err(code);
                }
            }
            // One matrix serves both directions; swscale takes it from the YUV side.
            let table = ffi::sws_getCoefficients(matrix_of(shape.matrix).0);
            let to_yuv = shape.to != ffi::AVPixelFormat::AV_PIX_FMT_RGB24 as i32;
            let target_full = i32::from(!to_yuv);
            ffi::sws_setColorspaceDetails(
                context,
                table,
                i32::from(shape.full_range),
                table,
                target_full,
                0,
                1 << 16,
                1 << 16,
            );
            let code = ffi::sws_init_context(context, std::ptr::null_mut(), std::ptr::null_mut());
            if code < 0 {
                return Err(code);
            }
        }
        self.shape = Some(shape);
        Ok(())
    }

    fn free(&mut self) {
        // SAFETY: ours or null; set to null so that it is freed once.
        unsafe { ffi::sws_freeContext(self.context) };
        self.context = std::ptr::null_mut();
        self.shape = None;
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        self.free();
    }
}

fn full_range(frame: &ffi::AVFrame) -> bool {
    frame.color_range == ffi::AVColorRange::AVCOL_RANGE_JPEG
}

/// The planes of an 8-bit 4:2:0 frame whose rows run downwards; `None` for anything else. With an
/// odd number of rows swscale, and so every reader built on it, leaves its fast path and spreads
/// chroma over rows; then it is used here too, so that pictures agree.
fn planes_of(f: &ffi::AVFrame, width: usize, height: usize) -> Option<Planes<'_>> {
    let formats = [ffi::AVPixelFormat::AV_PIX_FMT_YUV420P, ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P];
    if !formats.iter().any(|&format| format as i32 == f.format) || width == 0 || height % 2 == 1 {
        return None;
    }
    let plane = |index: usize, width: usize, height: usize| {
        let stride = usize::try_from(f.linesize[index]).ok().filter(|&s| s >= width)?;
        let data = f.data[index];
        // SAFETY: a decoded frame owns `height` rows of `stride` bytes for each plane of its
        // format, the last one at least `width` long; the borrow ends with the frame's.
        (!data.is_null()).then(|| unsafe {
            (std::slice::from_raw_parts(data, (height - 1) * stride + width), stride)
        })
    };
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    Some(Planes {
        width,
        height,
        y: plane(0, width, height)?,
        u: plane(1, chroma_width, chroma_height)?,
        v: plane(2, chroma_width, chroma_height)?,
    })
}

/// swscale's number of a matrix, and the matrix. A file that states none is taken as BT.601, as
/// swscale, torchcodec, PyAV and decord do.
fn matrix_of(colorspace: i32) -> (i32, Matrix) {
    use ffi::AVColorSpace as Space;
    let known = [
        (Space::AVCOL_SPC_BT709, ffi::SWS_CS_ITU709, yuv::BT709),
        (Space::AVCOL_SPC_FCC, ffi::SWS_CS_FCC, yuv::FCC),
        (Space::AVCOL_SPC_BT470BG, ffi::SWS_CS_ITU601, yuv::BT601),
        (Space::AVCOL_SPC_SMPTE170M, ffi::SWS_CS_SMPTE170M, yuv::BT601),
        (Space::AVCOL_SPC_SMPTE240M, ffi::SWS_CS_SMPTE240M, yuv::SMPTE240M),
        (Space::AVCOL_SPC_BT2020_NCL, ffi::SWS_CS_BT2020, yuv::BT2020),
        (Space::AVCOL_SPC_BT2020_CL, ffi::SWS_CS_BT2020, yuv::BT2020),
    ];
    known
        .iter()
        .find(|(space, ..)| *space as i32 == colorspace)
        .map_or((ffi::SWS_CS_DEFAULT as i32, yuv::BT601), |(_, table, matrix)| {
            (*table as i32, *matrix)
        })
}

/// How a stored picture is turned to stand upright: rows and columns swapped first, then mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Orientation {
    transpose: bool,
    flip_x: bool,
    flip_y: bool,
}

impl Orientation {
    /// From a display matrix (nine 16.16 numbers, row by row): a stored point (x, y) is shown at
    /// (a x + c y, b x + d y). Only quarter turns and mirrors are honoured; others are `None`.
    pub(super) fn from_matrix(matrix: [i32; 9]) -> Option<Self> {
        let [a, b, _, c, d, ..] = matrix.map(|v| f64::from(v) / 65536.0);
        let near = |v: f64, scale: f64| v.abs() < 0.02 * scale;
        let scale = a.abs().max(b.abs());
        if scale == 0.0 {
            return None;
        }
        if near(b, scale) && near(c, scale) {
            Some(Self { transpose: false, flip_x: a < 0.0, flip_y: d < 0.0 })
        } else if near(a, scale) && near(d, scale) {
            Some(Self { transpose: true, flip_x: c < 0.0, flip_y: b < 0.0 })
        } else {
            None
        }
    }

    /// The clockwise quarter turns that a player applies, in degrees, mirrors left aside.
    pub(super) fn degrees(self) -> u32 {
        match (self.transpose, self.flip_x, self.flip_y) {
            (false, false, false) | (false, true, false) => 0,
            (false, _, true) => 180,
            (true, true, _) => 90,
            (true, false, _) => 270,
        }
    }

    /// The size of an upright picture.
    pub(super) fn size(self, width: u32, height: u32) -> (u32, u32) {
        if self.transpose { (height, width) } else { (width, height) }
    }

    /// Turns packed RGB upright; `None` where it stands so already.
    pub(super) fn apply(self, rgb: &[u8], width: usize, height: usize) -> Option<Vec<u8>> {
        if self == Self::default() {
            return None;
        }
        let (out_width, out_height) =
            if self.transpose { (height, width) } else { (width, height) };
        let mut out = Vec::with_capacity(rgb.len());
        for y in 0..out_height {
            for x in 0..out_width {
                let u = if self.flip_x { out_width - 1 - x } else { x };
                let v = if self.flip_y { out_height - 1 - y } else { y };
                let (column, row) = if self.transpose { (v, u) } else { (u, v) };
                let at = (row * width + column) * 3;
                out.extend_from_slice(&rgb[at..at + 3]);
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i32 = 1 << 16;

    fn check(matrix: [i32; 4], degrees: u32, expected: &[u8]) {
        let [a, b, c, d] = matrix;
        let orientation =
            Orientation::from_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30]).expect("a quarter turn");
        assert_eq!(orientation.degrees(), degrees);
        // Two pixels side by side, 1 and 2.
        let stored = [1, 1, 1, 2, 2, 2];
        let upright = orientation.apply(&stored, 2, 1).unwrap_or(stored.to_vec());
        let first: Vec<u8> = upright.chunks(3).map(|p| p[0]).collect();
        assert_eq!(first, expected);
    }

    #[test]
    fn quarter_turns_and_mirrors() {
        check([ONE, 0, 0, ONE], 0, &[1, 2]);
        check([-ONE, 0, 0, -ONE], 180, &[2, 1]);
        // Clockwise: the left pixel ends on top.
        check([0, ONE, -ONE, 0], 90, &[1, 2]);
        check([0, -ONE, ONE, 0], 270, &[2, 1]);
        check([-ONE, 0, 0, ONE], 0, &[2, 1]);
        assert_eq!(Orientation::from_matrix([ONE, ONE, 0, -ONE, ONE, 0, 0, 0, 1 << 30]), None);
        assert_eq!(Orientation::from_matrix([0; 9]), None);
    }
}
