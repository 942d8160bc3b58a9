"""By hand: what `savi score` says of a directory that transformers saved, beside what transformers says.

    python check.py SAVI MODEL [--image FILE]... [--video FOLDER]... [--text TEXT]

A video is a folder of pictures, which counts as one frame a second; all of its frames are shown. Prints whether
the prompt's tokens are equal and the largest difference of the continuation's log-probabilities.
transformers 5.24.0, torch 2.11.0; its processors scale with torchvision, ours as Pillow does.
"""

import argparse
import json
import subprocess
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

CONTINUATION = " a red box moves"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("savi")
    parser.add_argument("model")
    parser.add_argument("--image", action="append", default=[])
    parser.add_argument("--video", action="append", default=[])
    parser.add_argument("--text", default="What moves?")
    args = parser.parse_args()
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    clips = [[Image.open(f).convert("RGB") for f in sorted(Path(folder).iterdir())] for folder in args.video]
    parts = [dict(type="image")] * len(args.image) + [dict(type="video")] * len(clips)
    turns = [dict(role="user", content=[*parts, dict(type="text", text=args.text)])]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    given = dict(text=[text], return_tensors="pt")
    if args.image:
        given["images"] = [[Image.open(f).convert("RGB") for f in args.image]]
    if clips:
        given["videos"] = clips
        given["do_sample_frames"] = False
        given["video_metadata"] = [
            VideoMetadata(total_num_frames=len(c), fps=1.0, width=c[0].width, height=c[0].height, duration=float(len(c)),
                          video_backend="pyav", frames_indices=list(range(len(c))))
            for c in clips
        ]
    inputs = dict(processor(**given))
    prompt = inputs["input_ids"][0].tolist()
    after = processor.tokenizer.encode(CONTINUATION, add_special_tokens=False)
    tail = torch.tensor([after])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tail)], 1)
    keep = {k: v for k, v in inputs.items() if isinstance(v, (torch.Tensor, list)) and k not in ("num_patches", "rows", "cols")}
    with torch.no_grad():
        logps = model(**keep).logits[0].double().log_softmax(-1)
    want = logps[len(prompt) - 1 : -1].gather(1, tail[0][:, None])[:, 0]
    command = [args.savi, "--json", "score", "--model", args.model, "--prompt", args.text, "--continuation", CONTINUATION]
    for file in args.image:
        command += ["--image", file]
    for folder in args.video:
        command += ["--video", folder]
    if clips:
        command += ["--frames", str(len(clips[0]))]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(run.stderr)
    got = json.loads(run.stdout)
    same = got["prompt_tokens"] == prompt
    apart = (torch.tensor(got["logprobs"], dtype=torch.float64) - want).abs().max().item()
    print(f"{len(prompt)} prompt tokens, {'equal' if same else 'DIFFERENT'}; log-probabilities differ by {apart:.2e} of {want.abs().max():.1f}")


if __name__ == "__main__":
    main()
