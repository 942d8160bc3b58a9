"""Goldens of GGUF by the gguf package: blocks of every type, and small models as files.

    python make.py --out .

Writes `blocks.safetensors` (NAME.bytes u8 and NAME.values f32: random blocks and what gguf's own
dequantisation makes of them) and `llama.gguf`, `qwen2.gguf`, `qwen3.gguf`: models whose weights are drawn as those of
../families/make.py, converted as llama.cpp's converter does (queries and keys of Llama permuted), the
matrices as Q8_0 or Q4_0; `expected.safetensors` holds some 97 values of each tensor, evenly spread, under
Hugging Face's names: before conversion but after quantisation. gguf 0.19.0, numpy.
"""

import argparse
import importlib.util
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

here = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("families", here.parent / "families" / "make.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)

# Where the 16-bit scales of a block stand.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.F16: [0], Type.BF16: [],
}


def blocks(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    out = {}
    for kind, places in SCALES.items():
        _, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (1, 7 * size), dtype=np.uint8).reshape(7, size)
        if kind == Type.BF16:
            values = rng.standard_normal(7).astype(np.float32)
            raw = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(7, 2)
        for at in places:
            scale = (rng.standard_normal(7) * 0.1).astype(np.float16)
            raw[:, at : at + 2] = scale.view(np.uint8).reshape(7, 2)
        values = dequantize(raw.reshape(1, -1), kind).astype(np.float32)
        out[f"{kind.name}.bytes"] = torch.from_numpy(raw.reshape(-1).copy())
        out[f"{kind.name}.values"] = torch.from_numpy(values.reshape(-1).copy())
    return out


PARTS = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
}
# Parts that one family alone has.
OWN = {"bias": "qwen2", "q_norm.weight": "qwen3", "k_norm.weight": "qwen3"}
MODELS = {"llama": Type.Q8_0, "qwen2": Type.Q4_0, "qwen3": Type.Q8_0}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head in the order of interleaved rotations, as llama.cpp's converter puts them."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def model(out: Path, family: str, kind: Type) -> dict[str, torch.Tensor]:
    width, inner, heads, groups, layers, vocab = 64, 96, 4, 2, 2, 50
    dim = width // heads
    writer = gguf.GGUFWriter(out / f"{family}.gguf", family)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_array("some.words", ["a", "list", "of words"])
    names = {"model.embed_tokens.weight": ("token_embd.weight", (vocab, width)), "model.norm.weight": ("output_norm.weight", (width,))}
    writer.add_key_length(dim)
    if family == "llama":
        writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, dim // 2, dtype=np.float32))
        names["lm_head.weight"] = ("output.weight", (vocab, width))
    shapes = {
        "q_proj.weight": (width, width), "k_proj.weight": (groups * dim, width), "v_proj.weight": (groups * dim, width),
        "o_proj.weight": (width, width), "gate_proj.weight": (inner, width), "up_proj.weight": (inner, width),
        "down_proj.weight": (width, inner), "q_norm.weight": (dim,), "k_norm.weight": (dim,), "q_proj.bias": (width,), "k_proj.bias": (groups * dim,), "v_proj.bias": (groups * dim,),
    }
    for layer in range(layers):
        for ours, theirs in PARTS.items():
            if any(ours.endswith(part) and family != of for part, of in OWN.items()):
                continue
            shape = shapes.get(ours.split(".", 1)[-1], (width,))
            names[f"model.layers.{layer}.{ours}"] = (f"blk.{layer}.{theirs}", shape)
    expected = {}
    for ours, (theirs, shape) in names.items():
        value = families.drawn(ours, shape).numpy()
        stored = value
        if family == "llama" and ours.endswith(("q_proj.weight", "k_proj.weight")):
            stored = permuted(value, heads if "q_proj" in ours else groups)
        if len(shape) == 1:
            writer.add_tensor(theirs, stored)
            expected[ours] = torch.from_numpy(value.copy())
            continue
        packed = quantize(stored, kind)
        writer.add_tensor(theirs, packed, raw_dtype=kind)
        # Quantisation goes by rows: undone rows keep their values.
        rows = dequantize(quantize(value, kind), kind)
        expected[ours] = torch.from_numpy(rows.reshape(shape).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {f"{family}.{name}": value for name, value in expected.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    save_file(blocks(np.random.default_rng(5)), out / "blocks.safetensors")
    told = {}
    for family, kind in MODELS.items():
        for name, value in model(out, family, kind).items():
            told[name] = value.flatten()[:: max(1, value.numel() // 97)].clone()
    save_file(told, out / "expected.safetensors")


if __name__ == "__main__":
    main()
