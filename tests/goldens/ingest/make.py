"""Clips that hit every trap of reading frames by time, and what an independent reader makes of them.

    python make.py --out DIR

The clips are written with the ffmpeg command line tool; the reference is PyAV, decoding every frame
from the start (no seeking), in presentation order. `goldens.json` holds, for each clip, every
frame's time in seconds from the first, the metadata, and which frames are in `<clip>.png`: a strip of
upright RGB pictures, one below the other. PyAV converts to RGB (swscale) with the matrix and range
that make.py itself gave the encoder, named below; rotation is applied with numpy. Deep and odd-sized
pictures are torchcodec's.

Made with ffmpeg 5.1.9 (Debian 12), PyAV 18.1.0, torchcodec 0.17, numpy, pillow.
"""

import argparse
import json
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image
from torchcodec.decoders import VideoDecoder

COUNT = 24


def picture(index, width, height):
    """A gradient, a square that moves, and the number as a row of five black or white blocks."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, 255 - x * 160 // width], axis=-1)
    image = image.astype(np.uint8)
    left, top = 4 + index * (width - 20) // COUNT, 4 + (index * 7) % (height // 2)
    image[top : top + 12, left : left + 12] = (240, 40 + index * 5, 30)
    for bit in range(5):
        block = 255 if index >> bit & 1 else 0
        image[height - 10 : height - 2, 4 + bit * 10 : 12 + bit * 10] = block
    return image


def encode(path, *options, width=64, height=48, count=COUNT, fps=25, filters="null"):
    frames = b"".join(picture(i, width, height).tobytes() for i in range(count))
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-vf", filters]
    command += ["-threads", "1", "-map_metadata", "-1", "-fflags", "+bitexact"]
    command += ["-flags:v", "+bitexact", *options, str(path)]
    subprocess.run(command, input=frames, check=True)


def remux(source, path, *options, before=()):
    command = ["ffmpeg", "-v", "error", "-y", *before, "-i", str(source), "-c", "copy"]
    subprocess.run([*command, "-fflags", "+bitexact", *options, str(path)], check=True)


X264 = ("-c:v", "libx264", "-preset", "medium", "-crf", "16", "-pix_fmt", "yuv420p")
X265 = ("-c:v", "libx265", "-preset", "medium", "-crf", "16", "-pix_fmt", "yuv420p")
QUIET265 = "log-level=error:pools=1:frame-threads=1"
VFR = "setpts='(N+2*floor(N/3)+5*floor(N/7))/(25*TB)'"
PASS = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")


def matrix(name):
    return f"scale=out_color_matrix={name}:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p"


def make_clips(out):
    clip = lambda name: out / name
    gop = lambda n, b=0, extra="": ("-x264-params", f"keyint={n}:min-keyint={n}:bframes={b}:scenecut=0{extra}")
    encode(clip("h264-plain.mp4"), *X264, *gop(8))
    encode(clip("h264-bframes-long-gop.mp4"), *X264, *gop(250, 3, ":b-pyramid=normal"))
    encode(clip("h264-open-gop.mp4"), *X264, *gop(6, 3, ":open-gop=1"))
    encode(clip("h264-vfr.mp4"), *X264, *gop(8, 2), *PASS, filters=VFR)
    encode(clip("h264-vfr.mkv"), *X264, *gop(8, 2), *PASS, filters=VFR)
    encode(clip("h264-29.97.mkv"), *X264, *gop(12, 2), fps="30000/1001")
    encode(clip("h264-offset.ts"), *X264, *gop(8, 2), "-output_ts_offset", "10")
    encode(clip("h264-offset.mkv"), *X264, *gop(8, 2), "-output_ts_offset", "5")
    encode(clip("h264-fragmented.mp4"), *X264, *gop(8, 2), "-movflags", "frag_keyframe+empty_moov")
    encode(clip("h264-intra-refresh.mkv"), *X264, "-x264-params", "keyint=10:intra-refresh=1:bframes=0")
    encode(clip("h264-elementary.h264"), *X264, *gop(8, 2))
    encode(clip("h264-bframes.avi"), *X264, *gop(8, 2))
    encode(clip("h264-10bit.mp4"), *X264, "-pix_fmt", "yuv420p10le", *gop(8, 2))
    encode(clip("h264-444.mp4"), *X264, "-pix_fmt", "yuv444p", *gop(8))
    encode(clip("h264.mov"), *X264, *gop(8, 2))
    encode(clip("h264.flv"), *X264, *gop(8, 2))
    for name in ("bt709", "bt601", "bt2020"):
        tag = {"bt601": "smpte170m", "bt2020": "bt2020nc"}.get(name, name)
        encode(clip(f"h264-{name}.mp4"), *X264, *gop(8), "-colorspace", tag, filters=matrix(name))
    full = matrix("bt709").replace("out_range=tv", "out_range=pc")
    encode(clip("h264-full-range.mp4"), *X264, *gop(8), "-colorspace", "bt709", "-color_range", "pc", filters=full)
    for angle in (90, 180, 270):
        remux(clip("h264-plain.mp4"), clip(f"h264-rotate{angle}.mp4"), "-metadata:s:v:0", f"rotate={angle}")
    # Cut inside a GOP without re-encoding: an edit list hides what comes before.
    remux(clip("h264-bframes-long-gop.mp4"), clip("h264-edit-list.mp4"), before=("-ss", "0.3"))
    # Cut at an open GOP: the first pictures lean on what is gone.
    remux(clip("h264-open-gop.mp4"), clip("h264-cut-open-gop.mkv"), "-copyts", before=("-ss", "0.3"))
    encode(clip("hevc.mp4"), *X265, "-x265-params", f"keyint=8:min-keyint=8:bframes=3:{QUIET265}")
    encode(clip("hevc-10bit.mkv"), *X265, "-pix_fmt", "yuv420p10le", "-x265-params", f"keyint=8:{QUIET265}")
    remux(clip("hevc.mp4"), clip("hevc-cut-open-gop.mkv"), "-copyts", before=("-ss", "0.4"))
    encode(clip("mpeg2.mpg"), "-c:v", "mpeg2video", "-q:v", "2", "-g", "9", "-bf", "2", "-pix_fmt", "yuv420p")
    encode(clip("mpeg2.ts"), "-c:v", "mpeg2video", "-q:v", "2", "-g", "9", "-bf", "2", "-pix_fmt", "yuv420p")
    encode(clip("mpeg4.avi"), "-c:v", "mpeg4", "-q:v", "2", "-g", "9")
    encode(clip("mpeg4-bframes.avi"), "-c:v", "mpeg4", "-q:v", "2", "-g", "9", "-bf", "2")
    encode(clip("mpeg4-odd.mp4"), "-c:v", "mpeg4", "-q:v", "2", "-g", "9", "-bf", "2", width=63, height=47)
    encode(clip("msmpeg4.avi"), "-c:v", "msmpeg4", "-q:v", "2", "-g", "9")
    encode(clip("cinepak.avi"), "-c:v", "cinepak", "-q:v", "2")
    encode(clip("mjpeg-422.avi"), "-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj422p")
    encode(clip("gif.gif"), filters="fps=25")
    vpx = ("-b:v", "400k", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-g", "12")
    encode(clip("vp8.webm"), "-c:v", "libvpx", *vpx)
    encode(clip("vp8-odd.mkv"), "-c:v", "libvpx", *vpx, width=63, height=47)
    encode(clip("vp9.webm"), "-c:v", "libvpx-vp9", *vpx)
    encode(clip("vp9-odd.webm"), "-c:v", "libvpx-vp9", *vpx, width=63, height=47)
    encode(clip("av1.mp4"), "-c:v", "libaom-av1", "-cpu-used", "6", "-crf", "20", "-g", "12")
    encode(clip("av1.mkv"), "-c:v", "libsvtav1", "-crf", "20", "-g", "12", height=64)


# What the encoder was told, where it differs from BT.601 in limited range.
COLOURS = {
    "h264-bt709.mp4": (Colorspace.ITU709, ColorRange.MPEG),
    "h264-bt2020.mp4": (9, ColorRange.MPEG),
    "h264-full-range.mp4": (Colorspace.ITU709, ColorRange.JPEG),
    "mjpeg-422.avi": (Colorspace.ITU601, ColorRange.JPEG),
}
# Counter-clockwise quarter turns that stand the picture upright. ffmpeg 5.1 writes the tag `rotate` as
# the counter-clockwise angle that its own playback (autorotate) then applies.
TURNS = {"h264-rotate90.mp4": 1, "h264-rotate180.mp4": 2, "h264-rotate270.mp4": 3}


def rgb(frame, name):
    if frame.format.name in ("bgra", "rgb24", "bgr24", "pal8", "rgb555le"):
        return frame.to_ndarray(format="rgb24")
    colorspace, colour_range = COLOURS.get(name, (Colorspace.ITU601, ColorRange.MPEG))
    converted = frame.reformat(
        format="rgb24",
        src_colorspace=colorspace,
        dst_colorspace=colorspace,
        src_color_range=colour_range,
        dst_color_range=ColorRange.JPEG,
    )
    return converted.to_ndarray()


def reference(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = stream.time_base
        # One thread: what a damaged or cut start yields must not depend on timing.
        stream.thread_type = "NONE"
        frames = []
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.InvalidDataError:
                # Pictures that lean on what was cut away; only the cut clips have them.
                assert "cut" in path.name, path
                continue
            for frame in decoded:
                pts = frame.pts
                if path.suffix in (".avi", ".h264"):
                    # No presentation times: frames follow one another in the decoder's order.
                    pts = int(len(frames) / (stream.average_rate * base))
                frames.append((pts, rgb(frame, path.name)))
        codec = stream.codec_context.name
    order = sorted(range(len(frames)), key=lambda i: frames[i][0])
    frames = [frames[i] for i in order]
    if "10bit" in path.name or "odd" in path.name:
        # Chroma is spread over rows; what that gives hangs on swscale's version, and torchcodec
        # runs on the installed one.
        decoder = VideoDecoder(path, dimension_order="NHWC")
        frames = [(pts, decoder[i].numpy()) for i, (pts, _) in enumerate(frames)]
    turns = TURNS.get(path.name, 0)
    pictures = [np.ascontiguousarray(np.rot90(image, turns)) for _, image in frames]
    times = [float(Fraction(pts - frames[0][0]) * base) for pts, _ in frames]
    return times, pictures, codec


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    make_clips(out)
    goldens = []
    for path in sorted(out.iterdir()):
        if path.suffix in (".py", ".json", ".png"):
            continue
        times, pictures, codec = reference(path)
        last = len(pictures) - 1
        shown = sorted({0, 1, 7, 8, last // 2, last} & set(range(last + 1)))
        Image.fromarray(np.concatenate([pictures[i] for i in shown])).save(
            out / f"{path.name}.png", optimize=True
        )
        height, width, _ = pictures[0].shape
        goldens.append(
            {"clip": path.name, "decoder": codec, "width": width, "height": height}
            | {"rotation": (4 - TURNS.get(path.name, 0)) % 4 * 90, "times": times, "shown": shown}
        )
    lines = ",\n".join(json.dumps(golden) for golden in goldens)
    (out / "goldens.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
