"""What the goldens of the LLaVA families share."""

import json
import math

import torch
from common import plain, processor_files, tokenizer, write

IMAGE, VIDEO = 259, 260
VOCABULARY = 264
TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ '<' + part['type'] + '>\n' }}{% endif %}{% endfor %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def words():
    return tokenizer(["<|pad|>", "<|start|>", "<|end|>", "<image>", "<video>"], pad_token="<|pad|>")


def published(name: str) -> str:
    """The name of a parameter in the files that are published."""
    starts = [
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
    ]
    for start, other in starts:
        if name.startswith(start):
            return other + name.removeprefix(start)
    raise ValueError(name)


def parts(files: dict) -> dict:
    """The files as older versions wrote them: each processor's settings in a file of its own."""
    whole = dict(files["whole"])
    return dict(image=whole.pop("image_processor"), video=whole.pop("video_processor"), whole=whole)


def run(out, name, model, processor, turns, tiles, older=False, **more) -> None:
    """Writes a case. `tiles(height, width, pictures)` is the number of pictures that one is shown as."""
    vision = model.config.vision_config
    kept = vision.image_size // vision.patch_size * vision.patch_size

    def counts(inputs):
        sizes = inputs["image_sizes"].tolist()
        return [tiles(height, width, len(sizes)) for height, width in sizes]

    def pixels(inputs):
        # Processors fill all pictures up to as many tiles as the one that has most; patches that the size does not fill
        # are no one's.
        shown = []
        if "pixel_values" in inputs:
            shown += [of[:count] for of, count in zip(inputs["pixel_values"], counts(inputs))]
        shown += list(inputs.get("pixel_values_videos", []))
        return torch.cat([of[..., :kept, :kept].float().flatten() for of in shown])

    def features(inputs):
        seen = []
        if "pixel_values" in inputs:
            given = {key: inputs[key] for key in ("batch_num_images",) if key in inputs}
            seen += model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"], **given).pooler_output
        if "pixel_values_videos" in inputs:
            seen += list(model.model.get_video_features(inputs["pixel_values_videos"]).pooler_output)
        return torch.cat(list(seen))

    files = processor_files(processor)
    files = parts(files) if older else files
    config = None
    if older:
        config = json.loads(model.config.to_json_string(use_diff=False))
        config["text_config"].pop("layer_types", None)
        config = plain(config)
    # A key's bias changes all scores of a query alike, and no probability: its gradient is nothing but rounding. Where
    # pictures are scaled, a level of 255 here and there is felt in all gradients: they are told in the other cases.
    def told(name):
        return not more.get("scaled") and not (name.startswith("vision_tower.") and name.endswith("k_proj.bias"))

    write(out, name, model, processor, turns, published, features=features, files=files, template=TEMPLATE,
          pixels=pixels, nested=True, config=config, gradients=told, **more)


def tiles_of(pinpoints, tile):
    """How many pictures a picture is shown as."""
    from transformers.image_processing_utils import select_best_resolution

    def count(height, width):
        best = select_best_resolution((height, width), pinpoints)
        return math.prod(side // tile for side in best) + 1

    return count
