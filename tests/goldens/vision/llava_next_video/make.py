"""Small LLaVA-NeXT-Video models by transformers, as `../common.py` describes.

python make.py --out DIR writes, drawn from names:

    clips      two clips of 7 frames, averaged over squares of 2; shaped and scaled as the published
               models have it
    picture    a wide picture of odd size in tiles, and a clip of one frame; the largest of each square, two states of
               the tower side by side, tied embeddings; processor files as older versions wrote them
    two        a tall picture and a small one, and a clip of 16 frames; a learned pooling over squares of 3, of 5 by 5
               patches; the tower of SigLIP, a Mistral, pictures scaled beyond what is cut out of them

The processor counts a clip's tokens as if squares of 2 were pooled and sides even; for `two` it is given the count of
the model. But for `clips`, pictures are scaled to the nearest pixel, which is the same everywhere. Pictures are
prepared by the processor on Pillow. Clips have none: theirs is torchvision's, which rounds half a level elsewhere: of
the pixel values of a clip here at most 0.46 % differ from Pillow's, each by one level of 255.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig, LlamaConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor, MistralConfig, SiglipVisionConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import image, messages, video  # noqa: E402
from llava import IMAGE, VIDEO, VOCABULARY, run, tiles_of, words  # noqa: E402

TEXT = dict(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=VOCABULARY, max_position_embeddings=2048,
)
TOWER = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2)
NEAREST = 0


class Processor(LlavaNextVideoProcessor):
    """Counts the tokens that the model gives."""

    stride = 2

    def replace_video_token(self, video_inputs=None, video_idx=0, **kwargs):
        frames = video_inputs["pixel_values_videos"][video_idx]
        side = frames.shape[-1] // self.patch_size // self.stride
        return self.video_token * (side * side * len(frames))


def case(out, name, turns, text, vision, pinpoints, size=None, stride=2, older=False, resample=NEAREST,
         **config) -> None:
    torch.manual_seed(0)
    class_token = vision.model_type == "clip_vision_model"
    config = LlavaNextVideoConfig(
        text_config=text, vision_config=vision, image_grid_pinpoints=pinpoints, image_token_index=IMAGE,
        video_token_index=VIDEO, vision_feature_select_strategy="default" if class_token else "full",
        spatial_pool_stride=stride, **config,
    )
    model = LlavaNextVideoForConditionalGeneration._from_config(config, attn_implementation="eager")
    side = vision.image_size
    look = dict(size=dict(shortest_edge=size or side), crop_size=dict(height=side, width=side), resample=resample)
    kind = LlavaNextVideoProcessor if stride == 2 else Processor
    processor = kind(
        image_processor=LlavaNextImageProcessorPil(image_grid_pinpoints=pinpoints, **look),
        video_processor=LlavaNextVideoVideoProcessor(**look),
        tokenizer=words(),
        patch_size=vision.patch_size,
        num_additional_image_tokens=int(class_token),
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    )
    processor.stride = stride
    count = tiles_of(pinpoints, side)
    run(out, name, model, processor, turns, lambda height, width, _: count(height, width), older=older,
        scaled=resample != NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    (out / "cases.json").unlink(missing_ok=True)

    turns = messages(("user", video("a", 45, 33, 7), video("b", 29, 40, 7), "What moves?"))
    case(
        out, "clips", turns, LlamaConfig(**TEXT | dict(num_key_value_heads=4)),
        CLIPVisionConfig(**TOWER, image_size=32, patch_size=8, projection_dim=16), [[32, 64], [64, 32], [64, 64]], resample=3,
    )

    turns = messages(("system", "See."), ("user", image("c", 61, 30), "and ", video("d", 32, 32, 1), "Same?"))
    case(
        out, "picture", turns, LlamaConfig(**TEXT | dict(tie_word_embeddings=True)),
        CLIPVisionConfig(**TOWER, image_size=32, patch_size=8, hidden_act="gelu", projection_dim=16),
        [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]], older=True, spatial_pool_mode="max",
        vision_feature_layer=[-2, -1], projector_hidden_act="relu", multimodal_projector_bias=False,
        tie_word_embeddings=True,
    )

    turns = messages(
        ("user", image("e", 33, 97), image("f", 25, 22), "or "), ("assistant", "Yes."),
        ("user", video("g", 61, 41, 16), "Which?"),
    )
    case(
        out, "two", turns, MistralConfig(**TEXT, sliding_window=64),
        SiglipVisionConfig(**TOWER, image_size=40, patch_size=8, vision_use_head=False),
        [[40, 80], [80, 40], [120, 40], [80, 80]], size=48, stride=3, spatial_pool_mode="conv",
        vision_feature_layer=1,
    )


if __name__ == "__main__":
    main()
