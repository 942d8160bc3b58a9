"""Small DINOv2 towers by transformers 5.24.0 (CPU, float32, eager attention).

python make.py --out DIR writes `cases.json` and for each case NAME `NAME.safetensors`:

    usual        the size of training: positions as they were learned
    giant        SwiGLU, no biases at queries, keys and values; pictures larger than in training, of a size that is no
                 multiple of the patches: positions scaled up
    registers    register tokens; pictures smaller than in training and not square: positions scaled down, smoothed

with

    pixels       [pictures, 3, height, width]    the processor's pixel values, as far as patches reach
    features     [pictures, tokens, width]       the last hidden states
    grad.NAME    [<= 48]                         of (features * drawn("loss")).sum(), evenly spaced elements
    size.NAME    [1]                             the largest element of that gradient

Weights and pictures are made from names and sizes, as `../common.py` does. Pictures are prepared by the processor on
Pillow.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import draw, drawn, image, picture, plain, saved_names, spaced  # noqa: E402

SHAPE = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=2)
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


def published(name: str) -> str:
    """Gate and values are one matrix in files: these are drawn apart from it."""
    for inner, outer in [("attention.q_proj", "attention.attention.query"), ("attention.k_proj", "attention.attention.key"),
                         ("attention.v_proj", "attention.attention.value"), ("attention.o_proj", "attention.output.dense"),
                         ("mlp.down_proj", "mlp.weights_out")]:
        name = name.replace(inner, outer)
    return name


def halves(model) -> None:
    """Draws the matrix of gates and values under its name in files."""
    for name, module in model.named_modules():
        if not name.endswith(".mlp") or not hasattr(module, "gate_proj"):
            continue
        for kind in ("weight", "bias"):
            gate, up = getattr(module.gate_proj, kind), getattr(module.up_proj, kind)
            whole = drawn(f"{name}.weights_in.{kind}", (2 * gate.shape[0], *gate.shape[1:]))
            with torch.no_grad():
                gate.copy_(whole[: len(gate)])
                up.copy_(whole[len(gate):])


def case(out, cases, name, model, look, pictures) -> None:
    model = model._from_config(look.pop("config"), attn_implementation="eager") if isinstance(model, type) else model
    draw(model, published)
    halves(model)
    model.eval()
    processor = BitImageProcessorPil(**look)
    images = [Image.fromarray(picture(p["name"], p["width"], p["height"])) for p in pictures]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    patch = model.config.patch_size
    kept = pixels[..., : pixels.shape[-2] // patch * patch, : pixels.shape[-1] // patch * patch]
    values = {}
    values["pixels"] = kept.clone()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    features = model(pixels).last_hidden_state
    values["features"] = features.detach().clone()
    (features * drawn("loss", tuple(features.flatten(0, 1).shape)).view_as(features)).sum().backward()
    for inner, parameter in model.named_parameters():
        # A key's bias changes all scores of a query alike, and no probability: its gradient is nothing but rounding.
        if parameter.grad is None or "gate_proj" in inner or "up_proj" in inner or "k_proj.bias" in inner:
            continue
        values[f"grad.{published(inner)}"], _ = spaced(parameter.grad, 48)
        values[f"size.{published(inner)}"] = parameter.grad.abs().max()[None].clone()
    for inner, module in model.named_modules():
        if inner.endswith(".mlp") and hasattr(module, "gate_proj"):
            for kind in ("weight", "bias"):
                grad = torch.cat([getattr(module.gate_proj, kind).grad, getattr(module.up_proj, kind).grad])
                values[f"grad.{inner}.weights_in.{kind}"], _ = spaced(grad, 48)
                values[f"size.{inner}.weights_in.{kind}"] = grad.abs().max()[None].clone()
    save_file({key: value.contiguous() for key, value in values.items()}, out / f"{name}.safetensors")
    cases[name] = dict(
        config=plain(json.loads(model.config.to_json_string(use_diff=False))), pictures=pictures,
        preprocessor=json.loads(processor.to_json_string()), saved=saved_names(model),
    )
    print(name, tuple(features.shape), (out / f"{name}.safetensors").stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    cases = {}
    square = lambda side: dict(height=side, width=side)
    look = dict(IMAGENET, size=dict(shortest_edge=36), crop_size=square(32))
    config = Dinov2Config(**SHAPE, image_size=32, patch_size=8)
    case(out, cases, "usual", Dinov2Model, dict(look, config=config), [image("a", 61, 40), image("b", 33, 52)])
    look = dict(IMAGENET, size=dict(shortest_edge=45), crop_size=square(45))
    config = Dinov2Config(
        **SHAPE, image_size=28, patch_size=7, use_swiglu_ffn=True, qkv_bias=False, layer_norm_eps=1e-5, hidden_act="relu",
    )
    case(out, cases, "giant", Dinov2Model, dict(look, config=config), [image("c", 47, 90)])
    look = dict(size=dict(shortest_edge=20), crop_size=dict(height=24, width=16), resample=2)
    config = Dinov2WithRegistersConfig(**SHAPE, image_size=40, patch_size=4, num_register_tokens=3, hidden_act="gelu_new")
    case(out, cases, "registers", Dinov2WithRegistersModel, dict(look, config=config), [image("d", 30, 31)])
    (out / "cases.json").write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
