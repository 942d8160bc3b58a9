"""Pictures resized by Pillow, for every filter, up and down, with odd sizes.

    python make.py --out DIR

`source.png` is the input; `<filter>-<width>x<height>.png` are the results. Made with Pillow 13.0.0.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

FILTERS = ["NEAREST", "BOX", "BILINEAR", "BICUBIC", "LANCZOS"]
SIZES = [(32, 24), (31, 23), (17, 40), (97, 73), (130, 50), (96, 71), (1, 1)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:71, 0:97]
    smooth = np.stack([x * 255 / 96, y * 255 / 70, 128 + 127 * np.sin(x * y / 90)], axis=-1)
    pixels = smooth + random.normal(0, 20, smooth.shape)
    # Hard edges at full contrast make filters with negative lobes overshoot.
    pixels[20:50, 30:60] = np.where((x + y)[20:50, 30:60, None] % 8 < 4, 255, 0)
    source = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    source.save(out / "source.png", optimize=True)
    for name in FILTERS:
        for width, height in SIZES:
            result = source.resize((width, height), Image.Resampling[name])
            result.save(out / f"{name.lower()}-{width}x{height}.png", optimize=True)


main()
