"""Goldens of whole models in GGUF files by transformers and the gguf package.

    python make.py --out .

Writes `phi3.gguf`, `phi3-long.gguf`, `gemma2.gguf` and `gemma3.gguf`: models whose weights are drawn as those of ../families/make.py,
stored as llama.cpp's converter stores them (Gemma's norms with 1 added, Phi-3's fused projections, divisors of LongRoPE as tensors),
matrices as Q8_0; and `logits.safetensors`: FAMILY.ids and FAMILY.logits by transformers with the same weights after
quantisation. transformers 5.24, gguf 0.19.
"""

import argparse
import importlib.util
import math
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, Phi3Config, Phi3ForCausalLM

here = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("families", here.parent / "families" / "make.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)

SHAPE = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, attn_implementation="eager", pad_token_id=0)
LONG = dict(rope_type="longrope", rope_theta=5000.0, short_factor=[1.0, 1.1, 1.3], long_factor=[1.0, 2.5, 4.0],
            original_max_position_embeddings=16, partial_rotary_factor=0.75)
MODELS = {
    "phi3": (Phi3ForCausalLM, Phi3Config(**SHAPE, sliding_window=7, rope_parameters=dict(rope_type="default", rope_theta=5000.0))),
    "phi3-long": (Phi3ForCausalLM, Phi3Config(**SHAPE, tie_word_embeddings=True, original_max_position_embeddings=16, rope_parameters=LONG)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=6, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=6,
               layer_types=["sliding_attention", "full_attention", "sliding_attention"],
               rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6), sliding_attention=dict(rope_type="default", rope_theta=1e4)))),
}
GEMMA = {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
PARTS = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def translated(name: str, family: str) -> str:
    parts = dict(PARTS, **GEMMA) if family.startswith("gemma") else dict(PARTS)
    if family == "phi3":
        parts["ffn_up"] = "mlp.gate_up_proj"
    back = {ours: theirs for theirs, ours in parts.items()}
    stem, kind = name.rsplit(".", 1)
    fixed = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if stem in fixed:
        return f"{fixed[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{back[part]}.{kind}"


def make(out: Path, name: str, kind, config) -> dict[str, torch.Tensor]:
    family = name.split("-")[0]
    model = kind(config).eval().float()
    writer = gguf.GGUFWriter(out / f"{name}.gguf", family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    if family == "phi3":
        dim = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(dim * rope.get("partial_rotary_factor", 1.0)))
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_sliding_window(config.sliding_window or 0)
        if name == "phi3-long":
            scale = config.max_position_embeddings / 16
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(16)))
            writer.add_tensor("rope_factors_short.weight", np.array(LONG["short_factor"], dtype=np.float32))
            writer.add_tensor("rope_factors_long.weight", np.array(LONG["long_factor"], dtype=np.float32))
    else:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if name == "gemma3":
        writer.add_rope_freq_base(1e6)
        writer.add_sliding_window_pattern(2)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
    with torch.no_grad():
        for ours, weight in model.named_parameters():
            value = families.drawn(ours, tuple(weight.shape)).numpy()
            theirs = translated(ours, family)
            if value.ndim == 1:
                writer.add_tensor(theirs, value + 1 if family.startswith("gemma") else value)
            else:
                packed = quantize(value, Type.Q8_0)
                writer.add_tensor(theirs, packed, raw_dtype=Type.Q8_0)
                value = dequantize(packed, Type.Q8_0).reshape(value.shape)
            weight.copy_(torch.from_numpy(value.copy()))
        told = {}
        for length in (12, 30):
            ids = (torch.arange(length) * 7 + 3) % config.vocab_size
            told[f"{name}.ids.{length}"] = ids
            told[f"{name}.logits.{length}"] = model(ids[None]).logits[0].contiguous().clone()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    told = {}
    for name, (kind, config) in MODELS.items():
        told.update(make(out, name, kind, config))
    save_file(told, out / "logits.safetensors")


if __name__ == "__main__":
    main()
