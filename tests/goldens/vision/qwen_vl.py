"""What the goldens of Qwen2-VL and Qwen2.5-VL share: their processors, a chat template, the running of a case.

Pictures go through transformers' Pillow processor. Clips have a torchvision processor alone; here Pillow scales
their frames in its place, everything else is its own. Measured on the pictures of `common.picture`, torchvision's
bicubic differs from Pillow's by one level of 255 in 0.3 to 0.7 of a hundred values of small pictures
(30x22 -> 32x24, 33x47 -> 32x48, 61x45 -> 40x24, 20x14 -> 48x32) and of 1920x1080 -> 1008x560, and by up to four levels
in a quarter of all values of 640x480 -> 644x476 (torch 2.11, torchvision 0.26, AVX-512). Where clips keep their size
the two agree bit for bit.
"""

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.video_processing_utils import BaseVideoProcessor

import common

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]
VOCABULARY = 256 + len(SPECIAL)
TOKENS = dict(
    image_token_id=262, video_token_id=263, vision_start_token_id=259, vision_end_token_id=260,
)

# In the manner of the published one: ChatML, a system's turn where there is none, numbers on request.
TEMPLATE = """\
{%- set images = namespace(count=0) -%}
{%- set clips = namespace(count=0) -%}
{%- if messages[0].role != 'system' -%}
<|im_start|>system
Look closely.<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
{%- set images.count = images.count + 1 -%}
{%- if add_vision_id %}Picture {{ images.count }}: {% endif -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' or 'video' in part -%}
{%- set clips.count = clips.count + 1 -%}
{%- if add_vision_id %}Video {{ clips.count }}: {% endif -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


class Pillow(BaseVideoProcessor):
    """Scales frames with Pillow."""

    def resize(self, image, size, resample, **_):
        frames = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for clip in image for frame in clip]
        scaled = [np.asarray(frame.resize((size.width, size.height), resample)) for frame in frames]
        stacked = torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2)
        return stacked.reshape(*image.shape[:3], size.height, size.width)


class Qwen2VLVideoProcessor(transformers.Qwen2VLVideoProcessor, Pillow):
    pass


def published(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def run(out, name, model, turns, *, image=None, video=None, files=None, config=None, **more):
    """Runs a case. `image` and `video` are settings of the processors, `files` those that stand for them in
    another layout, `config` a config in another layout; `more` is `common.write`'s."""
    vision = model.config.vision_config
    shape = dict(
        patch_size=vision.patch_size, temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
    )
    kind = transformers.Qwen2VLProcessor if model.config.model_type == "qwen2_vl" else transformers.Qwen2_5_VLProcessor
    tokens = common.tokenizer(SPECIAL)
    processor = kind(
        Qwen2VLImageProcessorPil(**shape, **(image or {})), tokens, Qwen2VLVideoProcessor(**shape, **(video or {}))
    )

    def features(inputs):
        parts = {"image": [], "video": []}
        if "pixel_values" in inputs:
            got = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
            parts["image"] = list(got.pooler_output)
        if "pixel_values_videos" in inputs:
            got = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
            parts["video"] = list(got.pooler_output)
        kinds = [part["type"] for turn in turns for part in turn["content"] if part["type"] != "text"]
        return torch.cat([parts[kind].pop(0) for kind in kinds])

    common.write(
        out, name, model, processor, turns, published, features=features,
        files=files or common.processor_files(processor), template=TEMPLATE, config=config, **more,
    )
