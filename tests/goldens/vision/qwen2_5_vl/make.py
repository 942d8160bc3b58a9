"""Small Qwen2.5-VL models by transformers, as `../common.py` describes.

python make.py --out DIR writes, drawn from names:

    windows    as transformers 5 writes configs: windows of 2 x 2 visual tokens that do not divide the grids, layer 1
               over whole frames; a clip of 7 frames and one of 1, at different rates
    mixed      as the checkpoints were published: the decoder's keys at the top, tied, heads of 20 in the tower; a
               picture between a slow clip of 16 frames (its positions in time pass those of its columns) and a fast one of
               2 frames, and older processor files
    yarn       three axes and YaRN, a layer with a window, windows of one token, squares of 1 x 1 and patches of one
               frame; a picture and a clip
    scaled     pictures and a clip of odd sizes, made larger and smaller, the clip kept within a
               budget
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import image, messages, video  # noqa: E402
from qwen_vl import TOKENS, VOCABULARY, run  # noqa: E402

TEXT = dict(
    vocab_size=VOCABULARY, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=256, eos_token_id=258,
)
VISION = dict(
    depth=3, hidden_size=24, out_hidden_size=48, intermediate_size=28, num_heads=2, patch_size=4, spatial_merge_size=2,
    temporal_patch_size=2, window_size=16, fullatt_block_indexes=[1], tokens_per_second=2,
)


def model(config: dict) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(**copy.deepcopy(config), **TOKENS)
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    (out / "cases.json").unlink(missing_ok=True)

    rope = dict(rope_type="default", rope_theta=10_000.0, mrope_section=[2, 1, 3])
    config = dict(text_config=TEXT | dict(rope_parameters=rope), vision_config=VISION, tie_word_embeddings=False)
    turns = messages(
        ("user", video("a", 40, 24, 7, fps=3.0), "And this: ", video("b", 24, 24, 1, fps=30.0, every=7), "What moves?"),
    )
    run(out, "windows", model(config), turns, video=dict(size=dict(shortest_edge=256, longest_edge=1024)))

    flat = TEXT | dict(
        model_type="qwen2_5_vl", num_key_value_heads=1, tie_word_embeddings=True, use_sliding_window=True,
        sliding_window=24, max_window_layers=1, rope_theta=1_000_000.0, hidden_act="silu", attention_dropout=0.0,
        rope_scaling=dict(type="mrope", mrope_section=[2, 2, 2]), vision_token_id=261, use_cache=True,
        vision_config=dict(
            depth=3, hidden_size=40, out_hidden_size=48, intermediate_size=20, num_heads=2, in_chans=3, patch_size=4,
            spatial_patch_size=4, spatial_merge_size=2, temporal_patch_size=2, window_size=24,
            fullatt_block_indexes=[0, 2], tokens_per_second=5, hidden_act="silu",
        ),
    )
    turns = messages(
        ("system", "Be brief."),
        ("user", video("c", 24, 16, 16, fps=0.7), "or", image("d", 40, 32), "or ",
         video("e", 32, 8, 2, fps=29.97, every=4), "?"),
    )
    older = dict(
        size=dict(min_pixels=64, max_pixels=1300), patch_size=4, temporal_patch_size=2, merge_size=2,
        image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
        image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen2_5_VLProcessor",
    )
    bounds = dict(min_pixels=64, max_pixels=1300)
    run(out, "mixed", model(flat), turns, image=bounds, video=bounds, files=dict(image=older), config=flat | TOKENS)

    rope = dict(
        rope_type="yarn", rope_theta=500.0, mrope_section=[1, 2, 3], factor=4.0, original_max_position_embeddings=32,
    )
    text = TEXT | dict(
        num_key_value_heads=4, rope_parameters=rope, use_sliding_window=True, sliding_window=11, num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    vision = VISION | dict(
        temporal_patch_size=1, spatial_merge_size=1, patch_size=5, depth=2, window_size=9, hidden_size=16,
        rope_parameters=dict(rope_type="axial", rope_theta=100.0),
    )
    config = dict(text_config=text, vision_config=vision, tie_word_embeddings=False)
    turns = messages(
        ("user", "Here: ", image("f", 15, 30)),
        ("assistant", "A tall picture."),
        ("user", video("g", 25, 10, 4, fps=2.0), "Now?"),
    )
    size = dict(size=dict(shortest_edge=100, longest_edge=700))
    run(out, "yarn", model(config), turns, image=size, video=size | dict(image_mean=[0.5, 0.4, 0.3]))

    rope = dict(rope_type="default", rope_theta=10_000.0, mrope_section=[2, 2, 2])
    config = dict(text_config=TEXT | dict(rope_parameters=rope), vision_config=VISION, tie_word_embeddings=True)
    turns = messages(
        ("user", video("s", 62, 34, 3, fps=3.0), image("t", 19, 33), image("u", 7, 5), image("v", 90, 31), "?"),
    )
    size = dict(shortest_edge=256, longest_edge=2000)
    bounds = dict(size=size)
    # 40 tokens of 8 x 8 pixels over 3 frames are 1536 pixels a frame of these 2108.
    bounds |= dict(cap_pixels_per_frame=True, max_video_tokens=40)
    run(
        out, "scaled", model(config), turns, image=dict(size=size), video=bounds, scaled=True,
        gradients=lambda name: False,
    )


if __name__ == "__main__":
    main()
