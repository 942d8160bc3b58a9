"""Small Qwen2-VL models by transformers, as `../common.py` describes.

python make.py --out DIR writes, drawn from names:

    clips      as transformers 5 writes configs: grouped heads, a head of its own, two clips of 7 and 2 frames and of
               different sizes
    mixed      as the checkpoints were published: the decoder's keys at the top, tied, sliding windows, heads of 20 in
               the tower; a clip of 16 frames before a picture, and older processor files
    yarn       three axes and YaRN, patches over 3 frames, squares of 3 x 3, a layer with a window; a picture, and a
               clip of one frame
    scaled     pictures and a clip of odd sizes, made larger and smaller
    long       a clip of more frames than its pictures are wide and the words after it are many: these go on behind its
               last column, not behind its last moment, and so do the words that `generate` adds
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import image, messages, video  # noqa: E402
from qwen_vl import TOKENS, VOCABULARY, run  # noqa: E402

TEXT = dict(
    vocab_size=VOCABULARY, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=256, eos_token_id=258,
)
VISION = dict(
    depth=2, embed_dim=32, hidden_size=48, mlp_ratio=2, num_heads=2, patch_size=4, spatial_merge_size=2,
    temporal_patch_size=2,
)


def model(config: dict) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(0)
    config = Qwen2VLConfig(**copy.deepcopy(config), **TOKENS)
    return Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="eager")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    (out / "cases.json").unlink(missing_ok=True)

    rope = dict(rope_type="default", rope_theta=10_000.0, mrope_section=[2, 1, 3])
    config = dict(text_config=TEXT | dict(rope_parameters=rope), vision_config=VISION, tie_word_embeddings=False)
    turns = messages(
        ("user", video("a", 32, 24, 7, fps=3.0), "And this: ", video("b", 16, 40, 2, fps=1.0), "What moves?"),
    )
    run(out, "clips", model(config), turns, video=dict(size=dict(shortest_edge=256, longest_edge=1024)))

    flat = TEXT | dict(
        model_type="qwen2_vl", num_key_value_heads=4, tie_word_embeddings=True, use_sliding_window=True,
        sliding_window=20, max_window_layers=1, rope_theta=1_000_000.0, hidden_act="silu", attention_dropout=0.0,
        rope_scaling=dict(type="mrope", mrope_section=[2, 2, 2]), vision_token_id=261, use_cache=True,
        vision_config=dict(
            depth=2, embed_dim=40, hidden_size=48, mlp_ratio=3, num_heads=2, in_chans=3, patch_size=4,
            spatial_patch_size=4, spatial_merge_size=2, temporal_patch_size=2,
        ),
    )
    turns = messages(
        ("system", "Be brief."),
        ("user", video("c", 24, 16, 16, fps=24.0, every=3), "or", image("d", 40, 8), "?"),
    )
    older = dict(
        min_pixels=64, max_pixels=500, patch_size=4, temporal_patch_size=2, merge_size=2,
        image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
        image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen2VLProcessor",
    )
    bounds = dict(min_pixels=64, max_pixels=500)
    run(out, "mixed", model(flat), turns, image=bounds, video=bounds, files=dict(image=older), config=flat | TOKENS)

    rope = dict(
        rope_type="yarn", rope_theta=500.0, mrope_section=[1, 2, 3], factor=4.0, original_max_position_embeddings=32,
    )
    text = TEXT | dict(
        num_key_value_heads=1, rope_parameters=rope, use_sliding_window=True, sliding_window=11, num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    vision = VISION | dict(
        temporal_patch_size=3, spatial_merge_size=3, patch_size=3, depth=1,
        rope_parameters=dict(rope_type="axial", rope_theta=100.0),
    )
    config = dict(text_config=text, vision_config=vision, tie_word_embeddings=False)
    turns = messages(
        ("user", "Here: ", image("e", 18, 45)),
        ("assistant", "A tall picture."),
        ("user", video("f", 45, 9, 1, fps=10.0), "Now?"),
    )
    size = dict(size=dict(shortest_edge=81, longest_edge=810))
    run(out, "yarn", model(config), turns, image=size, video=size | dict(image_mean=[0.5, 0.4, 0.3]))

    rope = dict(rope_type="default", rope_theta=10_000.0, mrope_section=[2, 2, 2])
    config = dict(text_config=TEXT | dict(rope_parameters=rope), vision_config=VISION, tie_word_embeddings=True)
    turns = messages(
        ("user", video("s", 62, 34, 3, fps=3.0), image("t", 19, 33), image("u", 7, 5), image("v", 90, 31), "?"),
    )
    size = dict(shortest_edge=256, longest_edge=2000)
    bounds = dict(size=size)
    run(
        out, "scaled", model(config), turns, image=dict(size=size), video=bounds, scaled=True,
        gradients=lambda name: False,
    )

    rope = dict(rope_type="default", rope_theta=100.0, mrope_section=[2, 1, 3])
    config = dict(text_config=TEXT | dict(rope_parameters=rope), vision_config=VISION, tie_word_embeddings=False)
    turns = messages(("user", video("l", 16, 16, 80), "?"))
    bounds = dict(size=dict(shortest_edge=256, longest_edge=256 * 80))
    run(out, "long", model(config), turns, video=bounds, gradients=lambda name: False)


if __name__ == "__main__":
    main()
