"""Goldens of layers: inputs, outputs and gradients by PyTorch, computed in float64, stored as float32.

    python make.py --out .

`ops.safetensors` holds, for each case, `CASE.in.NAME` (inputs; exact in float32), `CASE.out`, `CASE.grad_out`
(the gradient that comes from above) and `CASE.grad.NAME` (of every float input):

    rms_norm          x [2, 5, 48], weight [48]; eps 1e-6 (Qwen2)
    layer_norm        x [2, 5, 32], weight [32], bias [32]; eps 1e-6 (SigLIP)
    rope              x [2, 3, 10, 16] (batch, heads, tokens, width), positions [10] i64 that restart as those of
                      a packed tree do; theta 10000; the half-split form of Hugging Face models
    swiglu            gate [3, 20], up [3, 20]: silu(gate) * up
    gelu_tanh, gelu_erf, silu     x [3, 20]
    softmax           x [3, 20], over the last axis
    attention_causal  q [1, 4, 10, 8], k, v [1, 2, 10, 8] (each pair of query heads shares one key head), scale 8^-0.5
    attention_tree    the same with mask [10, 10] u8 (1 = seen): tokens 0-3 are the prompt, 4-6 and 7-9 two branches
                      that see the prompt and themselves
    attention_full    the same without a mask
    token_logps       hidden [6, 16], weight [50, 16], targets [6] i64: log_softmax(hidden weight^T)[targets]
    pool              x [2, 7, 7, 5] (frames, rows, columns, width) -> [2, 4, 4, 5]: bilinear, as LLaVA-OneVision pools
    pool_even         x [2, 8, 8, 5] -> [2, 4, 4, 5]

CPU.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

generator = torch.Generator().manual_seed(3)
tensors: dict[str, torch.Tensor] = {}


def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return (torch.randn(shape, generator=generator) * scale + shift).float()


def case(name: str, compute: Callable, inputs: dict[str, torch.Tensor]) -> None:
    wide = {k: v.double().requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()}
    out = compute(**wide)
    grad_out = normal(*out.shape)
    out.backward(grad_out.double())
    for key, value in inputs.items():
        tensors[f"{name}.in.{key}"] = value
        if value.is_floating_point():
            tensors[f"{name}.grad.{key}"] = wide[key].grad.float()
    tensors[f"{name}.out"] = out.detach().float()
    tensors[f"{name}.grad_out"] = grad_out


def rms_norm(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rope(x, positions):
    width = x.shape[-1]
    inverse = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions.double()[:, None] * inverse
    angles = torch.cat([angles, angles], dim=-1)[None]
    return apply_rotary_pos_emb(x, x, angles.cos(), angles.sin())[0]


def attention(q, k, v, mask=None):
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(mask == 0, float("-inf"))
    return scores.softmax(-1) @ v


def pool(x):
    rows, columns = (-(-n // 2) for n in x.shape[1:3])
    return F.interpolate(x.permute(0, 3, 1, 2), size=[rows, columns], mode="bilinear").permute(0, 2, 3, 1)


def tree_mask() -> torch.Tensor:
    mask = torch.tril(torch.ones(10, 10, dtype=torch.uint8))
    mask[7:, 4:7] = 0
    return mask


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    case("rms_norm", rms_norm, {"x": normal(2, 5, 48, scale=3.0), "weight": normal(48, scale=0.3, shift=1.0)})
    case(
        "layer_norm",
        lambda x, weight, bias: F.layer_norm(x, (32,), weight, bias, 1e-6),
        {"x": normal(2, 5, 32, scale=3.0, shift=1.0), "weight": normal(32, scale=0.3, shift=1.0), "bias": normal(32)},
    )
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 6, 4, 5, 6])
    case("rope", rope, {"x": normal(2, 3, 10, 16), "positions": positions})
    case("swiglu", lambda gate, up: F.silu(gate) * up, {"gate": normal(3, 20, scale=2.0), "up": normal(3, 20)})
    case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), {"x": normal(3, 20, scale=2.0)})
    case("gelu_erf", lambda x: F.gelu(x), {"x": normal(3, 20, scale=2.0)})
    case("silu", lambda x: F.silu(x), {"x": normal(3, 20, scale=2.0)})
    case("softmax", lambda x: x.softmax(-1), {"x": normal(3, 20, scale=3.0)})
    heads = {"q": normal(1, 4, 10, 8), "k": normal(1, 2, 10, 8), "v": normal(1, 2, 10, 8)}
    causal = torch.tril(torch.ones(10, 10, dtype=torch.uint8))
    case("attention_causal", attention, {**heads, "mask": causal})
    case("attention_tree", attention, {**heads, "mask": tree_mask()})
    case("attention_full", attention, heads)
    case(
        "token_logps",
        lambda hidden, weight, targets: F.log_softmax(hidden @ weight.T, -1).gather(1, targets[:, None])[:, 0],
        {"hidden": normal(6, 16), "weight": normal(50, 16), "targets": torch.randint(0, 50, (6,), generator=generator)},
    )
    case("pool", pool, {"x": normal(2, 7, 7, 5)})
    case("pool_even", pool, {"x": normal(2, 8, 8, 5)})

    path = out / "ops.safetensors"
    save_file(
        {k: v.clone().contiguous() for k, v in tensors.items()}, path, metadata={"made_with": f"torch {torch.__version__}"}
    )
    path.chmod(0o644)


if __name__ == "__main__":
    main()
