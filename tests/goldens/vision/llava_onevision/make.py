"""Small LLaVA-OneVision models by transformers, as `../common.py` describes.

python make.py --out DIR writes, drawn from names:

    picture    a wide picture of odd size in tiles, and a clip of one frame; grouped heads; scaled as the published models
               have it
    shrunk     a tall picture with more tokens than `anyres_max_1` leaves, and a clip of 7 frames of another size; a
               tower whose size is no multiple of its patches, the state before its last block, other activations, a
               projector without biases, tied embeddings; a layer with a window; files as older versions
               wrote them
    several    two pictures, which are shown whole and padded to squares, and two clips of 2 frames; the tower of CLIP
               with its class token dropped, three of its states side by side, and a Llama
    clips      a clip of 16 frames, odd sides: 3 by 3 tokens become 2 by 2; Qwen3

and `counts.json`, the tokens of pictures of many sizes by the processors of LLaVA-OneVision and of LLaVA-NeXT-Video
as they are published: rows of width, height and both counts.

But for `picture`, pictures are scaled to the nearest pixel, which is the same everywhere. Pictures are prepared by
the processor on Pillow. Clips have none: theirs is torchvision's, which rounds half a level elsewhere: of the pixel
values of a clip here at most 0.52 % differ from Pillow's, each by one level of 255.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig, LlamaConfig, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor, LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor, Qwen2Config,
    Qwen3Config, SiglipVisionConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import image, messages, video  # noqa: E402
from llava import IMAGE, VIDEO, VOCABULARY, run, tiles_of, words  # noqa: E402

TEXT = dict(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=VOCABULARY, max_position_embeddings=2048,
)
TOWER = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2)
HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
NEAREST = 0


def case(out, name, turns, text, vision, pinpoints, look=HALF, class_token=False, older=False, resample=NEAREST,
         **config) -> None:
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        text_config=text, vision_config=vision, image_grid_pinpoints=pinpoints, image_token_index=IMAGE,
        video_token_index=VIDEO, vision_feature_select_strategy="default" if class_token else "full", **config,
    )
    model = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation="eager")
    size = dict(height=vision.image_size, width=vision.image_size)
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=pinpoints, resample=resample, **look),
        video_processor=LlavaOnevisionVideoProcessor(size=size, resample=resample, **look),
        tokenizer=words(),
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2 + class_token,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )
    count = tiles_of(pinpoints, vision.image_size)
    tiles = lambda height, width, pictures: count(height, width) if pictures == 1 else 1
    run(out, name, model, processor, turns, tiles, older=older, scaled=resample != NEAREST)


def counts(out) -> None:
    sides = [1, 7, 100, 333, 336, 384, 385, 480, 672, 719, 768, 1000, 1080, 1344, 1920, 2304, 3000, 4096]
    onevision = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(), video_processor=LlavaOnevisionVideoProcessor(),
        tokenizer=words(), num_image_tokens=729, vision_feature_select_strategy="full",
    )
    next_video = LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessorPil(), video_processor=LlavaNextVideoVideoProcessor(), tokenizer=words(),
        patch_size=14, num_additional_image_tokens=1, vision_feature_select_strategy="default",
    )
    rows = []
    for width in sides:
        for height in sides:
            first = onevision._get_number_of_features(height, width, 384, 384)
            rows.append([width, height, first, next_video._get_number_of_features(height, width, 336, 336) - 1])
    (out / "counts.json").write_text("[" + ",\n".join(map(str, rows)) + "]\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    (out / "cases.json").unlink(missing_ok=True)
    counts(out)

    turns = messages(("user", image("a", 53, 31), video("b", 40, 40, 1), "What is it?"))
    case(
        out, "picture", turns, Qwen2Config(**TEXT), SiglipVisionConfig(**TOWER, image_size=32, patch_size=8),
        [[32, 32], [32, 64], [64, 32], [64, 64], [96, 32]], resample=3,
    )

    turns = messages(("system", "See."), ("user", image("c", 37, 90), "and ", video("d", 45, 33, 7), "Same?"))
    case(
        out, "shrunk", turns, Qwen2Config(**TEXT | dict(
            num_key_value_heads=4, tie_word_embeddings=True, use_sliding_window=True, sliding_window=48, max_window_layers=1,
        )),
        SiglipVisionConfig(**TOWER, image_size=30, patch_size=7, hidden_act="gelu", layer_norm_eps=1e-5),
        [[30, 30], [60, 30], [30, 60], [90, 60], [120, 60]], older=True, vision_aspect_ratio="anyres_max_1",
        vision_feature_layer=-2, projector_hidden_act="gelu_pytorch_tanh", multimodal_projector_bias=False,
        tie_word_embeddings=True,
    )

    turns = messages(
        ("user", image("e", 41, 23), image("f", 20, 47), "or "), ("assistant", "Yes."),
        ("user", video("g", 33, 33, 2), video("h", 33, 24, 2), "Which?"),
    )
    case(
        out, "several", turns, LlamaConfig(**TEXT | dict(num_key_value_heads=1)),
        CLIPVisionConfig(**TOWER, image_size=32, patch_size=8, projection_dim=16),
        [[32, 64], [64, 32]], look={}, class_token=True, vision_feature_layer=[0, -2, 3],
        vision_aspect_ratio="anyres_max_4",
    )

    turns = messages(("user", video("i", 50, 31, 16), "Where to?"))
    case(
        out, "clips", turns, Qwen3Config(**TEXT, head_dim=16),
        SiglipVisionConfig(**TOWER, image_size=24, patch_size=8, vision_use_head=False), [[24, 24]],
    )


if __name__ == "__main__":
    main()
