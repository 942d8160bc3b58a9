"""Golden of frames to pixels: transformers' LLaVA-OneVision video processor.

    python make.py --out .

`frames.safetensors`:

    frames          [3, 96, 80, 3] u8     smooth colours with sharp edges
    resized         [3, 64, 64, 3] u8     each frame by Pillow's bicubic resize
    pixels          [3, 3, 64, 64]        resized / 255, minus mean, by standard deviation (0.5 each: SigLIP's)
    processor       [3, 3, 64, 64]        LlavaOnevisionVideoProcessor with the same settings; its resize is
                                          torchvision's, equal to Pillow's here

CPU.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import LlavaOnevisionVideoProcessor

MEAN = STD = [0.5, 0.5, 0.5]
SIZE = 64


def frames() -> np.ndarray:
    y, x = np.mgrid[0:96, 0:80]
    out = np.zeros((3, 96, 80, 3), np.uint8)
    for t in range(3):
        out[t, ..., 0] = (127 + 127 * np.sin(x / 7 + t)).astype(np.uint8)
        out[t, ..., 1] = (y * 255 // 95).astype(np.uint8)
        out[t, ..., 2] = np.where((x + 5 * t) // 11 % 2 == y // 13 % 2, 250, 5)
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    source = frames()
    resized = np.stack([np.asarray(Image.fromarray(f).resize((SIZE, SIZE), Image.BICUBIC)) for f in source])
    pixels = (torch.from_numpy(resized).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    pixels = pixels.permute(0, 3, 1, 2)
    processor = LlavaOnevisionVideoProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=MEAN, image_std=STD, do_sample_frames=False
    )
    batch = processor(torch.from_numpy(source).permute(0, 3, 1, 2), return_tensors="pt")
    processed = batch["pixel_values_videos"][0]
    gap = (processed - pixels).abs().max() * 127.5
    assert gap < 0.01, f"the two resizes differ by {gap} of 255"

    tensors = {
        "frames": torch.from_numpy(source),
        "resized": torch.from_numpy(resized),
        "pixels": pixels,
        "processor": processed,
    }
    made_with = f"transformers {transformers.__version__}, pillow {PIL.__version__}, torch {torch.__version__}"
    path = out / "frames.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"made_with": made_with})
    path.chmod(0o644)


if __name__ == "__main__":
    main()
