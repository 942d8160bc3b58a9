"""SmolVLM2 and Idefics3 by transformers: what `common.py` lists, for each of the cases below.

    python make.py --out DIR

Pictures go through the PIL image processor. The video processor exists for torchvision alone, and that
knows Lanczos only from 0.27 on; before, it takes bicubic in its place and says so. `--measure` prints how
far apart both are: what torchvision 0.26 takes for Lanczos is 1 to 2.4 levels of 255 from Pillow's on
average and up to 14 (640x360 to 2048 to 512), bicubic by either 0.003 to 0.015 on average and at most one.
The case whose files name Lanczos, `published`, scales its frames by Pillow here, in the same two steps;
the others scale to the nearest pixel, which is the same everywhere, so that their numbers can be held
tightly.

Two things a call of the processor does not do, which are put together here from its parts:

- pictures and clips in one prompt: the pixels of both have one name, and those of the clips replace the
  others;
- clips of different lengths in one prompt: the shorter are padded with frames that the prompt has no place
  for, and every clip is said to have as many frames as the longest. Here each says its own number.

Tiles are cut to whole patches before they are stored: the tower's convolution leaves out the rest. Both
are run, and have to give the same. The gradients of the tower's key biases are zero but for rounding, and
left out.
"""

import argparse
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

_spec = importlib.util.spec_from_file_location("common", Path(__file__).parent.parent / "common.py")
common = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(common)

from transformers import (  # noqa: E402
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil  # noqa: E402
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil  # noqa: E402
from transformers.models.smolvlm.video_processing_smolvlm import get_resize_output_image_size  # noqa: E402

NEAREST = 0
SPECIAL = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
SPECIAL += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
IMAGE = 256 + SPECIAL.index("<image>")
VOCABULARY = 256 + len(SPECIAL) + 5

# As the published ones, which know no clips: the processor puts its own in their place where there is one.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}"
    "{{ ':' if message.content[0].type == 'image' else ': ' }}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% elif part.type == 'image' %}<image>{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def by_pillow(frame: np.ndarray, size: dict, tile: int, resample: int) -> np.ndarray:
    """A frame in the video processor's two steps, by Pillow."""
    if "longest_edge" in size:
        channels = torch.from_numpy(frame).permute(2, 0, 1)
        height, width = get_resize_output_image_size(channels, size["longest_edge"])
    else:
        height, width = size["height"], size["width"]
    picture = Image.fromarray(frame).resize((width, height), resample)
    return np.asarray(picture.resize((tile, tile), resample))


class PillowVideoProcessor(SmolVLMVideoProcessor):
    """The video processor with Pillow's filters."""

    def resize(self, video, size, resample=None, antialias=True, **kwargs):
        edges = {"longest_edge": size.longest_edge} if size.longest_edge else dict(height=size.height, width=size.width)
        tile = self.max_image_size["longest_edge"]
        flat = video.reshape(-1, *video.shape[-3:]).permute(0, 2, 3, 1).numpy()
        frames = np.stack([by_pillow(frame, edges, tile, int(resample)) for frame in flat])
        return torch.from_numpy(frames).permute(0, 3, 1, 2).reshape(*video.shape[:-2], tile, tile)


class Parts:
    """A processor that takes pictures and clips in one prompt, and uses the template as that of its files."""

    def __init__(self, processor, patch: int):
        self.processor, self.tokenizer, self.patch = processor, processor.tokenizer, patch

    def apply_chat_template(self, shown, chat_template, **more):
        self.processor.chat_template = chat_template
        return self.processor.apply_chat_template(shown, **more)

    def __call__(self, text, return_tensors, images=(), videos=(), video_metadata=(), do_sample_frames=False):
        given, patch = dict(return_tensors="pt"), self.patch
        of = {"<image>": [], "<video>": []}
        words = {"<image>": [], "<video>": []}
        for image in images:
            made = self.processor(text="<image>", images=[image], **given)
            of["<image>"].append(made["pixel_values"][0])
            words["<image>"].append(self.tokenizer.decode(made["input_ids"][0]))
        for video, metadata in zip(videos, video_metadata):
            made = self.processor(
                text="<video>", videos=[video], video_metadata=[metadata], do_sample_frames=False, **given
            )
            of["<video>"].append(made["pixel_values"][0])
            words["<video>"].append(self.tokenizer.decode(made["input_ids"][0]))
        if not (images and videos) and len({len(video) for video in videos}) < 2:
            # The processor's own words for all of them, where it has any.
            more = dict(images=list(images)) if images else {}
            if videos:
                more |= dict(videos=list(videos), video_metadata=list(video_metadata), do_sample_frames=False)
            whole = self.processor(text=text, **more, **given)["input_ids"]
        else:
            whole = None
        order = re.findall("<image>|<video>", text[0])
        whole_patches = lambda tiles: tiles[..., : tiles.shape[-2] // patch * patch, : tiles.shape[-1] // patch * patch]
        self.by_kind = whole_patches(torch.cat([*of["<image>"], *of["<video>"]]))
        pixels = torch.cat([of[mark].pop(0) for mark in order])
        ids = self.tokenizer(re.sub("<image>|<video>", lambda mark: words[mark[0]].pop(0), text[0]), **given)
        assert whole is None or torch.equal(whole, ids["input_ids"])
        self.uncut = pixels[None]
        return dict(ids, pixel_values=whole_patches(pixels)[None].contiguous())


def tower(**more) -> dict:
    return dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3) | more


def text(**more) -> dict:
    usual = dict(
        model_type="llama", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=1024, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="default", rope_theta=100000.0), bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )
    return usual | more


def image_files(**more) -> dict:
    """`preprocessor_config.json` with the keys of the published ones."""
    usual = dict(
        do_convert_rgb=True, do_image_splitting=True, do_normalize=True, do_pad=True, do_rescale=True, do_resize=True,
        image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5], image_processor_type="SmolVLMImageProcessor",
        processor_class="SmolVLMProcessor", resample=1, rescale_factor=0.00392156862745098,
    )
    return usual | more


def edge(side: int) -> dict:
    return dict(longest_edge=side)


def case(out: Path, name: str, config: dict, turns: list, files: dict, first: bool = False, scaled: bool = True) -> None:
    """`files` are the processor's: `image`, `video` and `whole`, the latter with `image_seq_len`."""
    config = dict(image_token_id=IMAGE, pad_token_id=2) | config
    if first:
        model = Idefics3ForConditionalGeneration(Idefics3Config(**config, attn_implementation="eager"))
    else:
        model = SmolVLMForConditionalGeneration(SmolVLMConfig(**config, attn_implementation="eager"))
    tokenizer = common.tokenizer(SPECIAL)
    whole = files.get("whole", {})
    image = whole.get("image_processor", files.get("image"))
    video = whole.get("video_processor", files.get("video", image))
    length = whole["image_seq_len"]
    keep = lambda settings: {k: v for k, v in settings.items() if not k.endswith(("_type", "_class"))}
    if first:
        processor = Idefics3Processor(Idefics3ImageProcessorPil(**keep(image)), tokenizer, image_seq_len=length)
    else:
        kind = PillowVideoProcessor if video["resample"] == 1 else SmolVLMVideoProcessor
        processor = SmolVLMProcessor(
            SmolVLMImageProcessorPil(**keep(image)), tokenizer, kind(**json.loads(json.dumps(keep(video)))),
            image_seq_len=length,
        )
    parts = Parts(processor, config["vision_config"]["patch_size"])

    def features(inputs):
        pooled = lambda pixels: torch.cat(model.model.get_image_features(pixels).pooler_output)
        assert torch.equal(pooled(inputs["pixel_values"]), pooled(parts.uncut))
        return pooled(inputs["pixel_values"])

    stored = json.loads(model.config.to_json_string(use_diff=False))
    # A note of what pads a batch, which nothing is computed from.
    stored.pop("_pad_token_id")
    common.write(
        out, name, model, parts, common.messages(*turns), lambda name: name, features=features, files=files,
        template=TEMPLATE, config=stored, gradients=lambda name: not re.match("model.vision.*k_proj.bias", name), scaled=scaled, pixels=lambda inputs: parts.by_kind.float().flatten(),
    )


def main(out: Path) -> None:
    for old in [*out.glob("*.safetensors"), *out.glob("*.json")]:
        old.unlink()
    # Two pictures in tiles: a wide one, and a tall one that is smaller than the longest edge.
    case(
        out, "tiles",
        dict(scale_factor=2, vision_config=tower(image_size=32, patch_size=8), text_config=text()),
        [
            ("system", "You look closely."),
            ("user", common.image("wide", 101, 40), "and then", common.image("tall", 30, 77), "What is it?"),
        ],
        dict(image=image_files(size=edge(96), max_image_size=edge(32), resample=NEAREST), whole=dict(image_seq_len=4)),
        scaled=False,
    )
    # The published layout: one file for both, in which the size for pictures replaces that for clips. A clip
    # of 16 frames over minutes, and a picture of less than a tile; patches that do not fill the tile.
    case(
        out, "published",
        dict(
            scale_factor=4, vision_config=tower(image_size=34, patch_size=4, num_attention_heads=4),
            text_config=text(hidden_size=72, num_attention_heads=6, head_dim=16),
        ),
        [
            ("user", common.video("long", 50, 38, 16, fps=29.97, every=157), "What happens?"),
            ("assistant", "It moves."),
            ("user", common.image("tiny", 7, 5), common.image("square", 40, 40), "Is it this?"),
        ],
        dict(
            image=image_files(
                size=edge(68), max_image_size=edge(34),
                video_sampling=dict(fps=1, max_frames=64, video_size=edge(34)),
            ),
            whole=dict(image_seq_len=4, processor_class="SmolVLMProcessor"),
        ),
    )
    # Files as transformers 5 saves them; a clip of 7 frames; tied, all heads with keys, biases.
    case(
        out, "seven",
        dict(
            scale_factor=3, tie_word_embeddings=True, vision_config=tower(image_size=48, patch_size=8),
            text_config=text(num_key_value_heads=4, attention_bias=True, mlp_bias=True),
        ),
        [("user", "See ", common.video("seven", 61, 33, 7, fps=10.0, every=4), "Which way?")],
        dict(whole=dict(
            image_seq_len=4,
            image_processor=image_files(size=edge(96), max_image_size=edge(48)),
            video_processor=dict(
                max_image_size=edge(48), size=edge(40), resample=NEAREST, fps=2, num_frames=8,
                video_processor_type="SmolVLMVideoProcessor", do_sample_frames=False, return_metadata=False,
            ),
        )),
        scaled=False,
    )
    # Two clips of 2 frames at different rates and one of 1; tiles smaller than the tower's own pictures.
    case(
        out, "clips",
        dict(
            scale_factor=2, vision_config=tower(image_size=48, patch_size=8, hidden_act="gelu"),
            text_config=text(num_attention_heads=4, num_key_value_heads=1, head_dim=24),
        ),
        [
            ("user", common.video("one", 20, 44, 2, fps=0.5, every=35), "or", common.video("two", 64, 20, 2, fps=25.0, every=11)),
            ("assistant", "The first."),
            ("user", common.video("still", 32, 32, 1, fps=3.0, every=2), "And now?"),
        ],
        dict(
            image=image_files(size=edge(64), max_image_size=edge(32)),
            video=dict(
                max_image_size=edge(32), size=dict(height=40, width=36), resample=NEAREST, image_mean=[0.4, 0.5, 0.6],
                image_std=[0.3, 0.25, 0.35],
            ),
            whole=dict(image_seq_len=4),
        ),
        scaled=False,
    )
    # Without tiles: pictures are stretched to one.
    case(
        out, "whole",
        dict(
            scale_factor=2, vision_config=tower(image_size=32, patch_size=8, hidden_act="gelu_pytorch_tanh"),
            text_config=text(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
        ),
        [("user", "One", common.image("broad", 150, 31), "other", common.image("narrow", 9, 90), "Which?")],
        dict(
            image=image_files(
                size=edge(64), max_image_size=edge(32), do_image_splitting=False, resample=NEAREST,
                image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28],
            ),
            whole=dict(image_seq_len=4),
        ),
        scaled=False,
    )
    # Idefics3; a picture at its own size in tiles.
    case(
        out, "idefics3",
        dict(scale_factor=2, vision_config=tower(image_size=24, patch_size=6), text_config=text()),
        [("user", common.image("odd", 59, 67), "What is it?")],
        dict(
            image=image_files(do_resize=False, size=edge(96), max_image_size=edge(24), resample=NEAREST),
            whole=dict(image_seq_len=4),
        ),
        first=True,
        scaled=False,
    )


def measure() -> None:
    """How far torchvision's frames are from Pillow's, in levels of 255."""
    for side, tile, width, height in [(68, 34, 50, 38), (48, 48, 120, 70), (2048, 512, 640, 360)]:
        video = [common.picture("measure", width, height)]
        settings = dict(size=edge(side), max_image_size=edge(tile), do_rescale=False, do_normalize=False)
        given = dict(return_tensors="pt", do_sample_frames=False)
        for resample in (1, 3):
            ours = PillowVideoProcessor(resample=resample, **settings)(video, **given)["pixel_values"].float()
            theirs = SmolVLMVideoProcessor(resample=resample, **settings)(video, **given)["pixel_values"].float()
            apart = (ours - theirs).abs()
            print(f"resample {resample}, {width}x{height} to {side} to {tile}: mean {apart.mean():.3f}, most {apart.max():.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", action="store_true")
    arguments = parser.parse_args()
    if arguments.measure:
        measure()
    else:
        main(arguments.out)
