"""Goldens of the text families by transformers: logits, log-probabilities, gradients, greedy tokens.

    python make.py --out .

Writes `cases.json` (the configs) and for each case NAME `NAME.safetensors`:

    input_ids      [S] i64
    logits         [S, vocab]
    logps          [8]            log-probabilities of the last 8 tokens
    generated      [12] i64       greedy continuation of the first 6 tokens
    generated_gap  [12]           the winner's lead over the second in logits
    grad.NAME                     gradient of logps.sum() by the parameter NAME (first case of a family)
    logits.long    [S2, vocab]    of `long_ids` [S2], where a case has a second, longer input

and in `greedy.json` for each case 24 tokens by `generate` after a `prompt` of 6, greedily and without an end, with the
`leads` of each over the second in logits. The prompt is the first part of the input after which the two are never near, or
the one after which they are farthest apart (`gemma2-capped`, whose logits are pressed together).

Weights are not stored: `drawn` makes them from a tensor's name and shape, here and in the tests alike.
InternLM2 is not part of transformers: its weights are drawn under its own names and put, regrouped,
into a Llama. CPU, float32, eager attention; transformers 5.24.0, torch 2.11.0.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

MASK = (1 << 64) - 1
VOCAB, LENGTH = 80, 22


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor from its name and shape: splitmix64 over (FNV-1a of the name, index), 24 bits each."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        x = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    unit = (x >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    if len(shape) == 1:
        norm = "norm" in name and name.endswith("weight")
        value = np.float32(1) + np.float32(0.3) * unit if norm else np.float32(0.2) * unit
    elif "embed" in name:
        value = unit
    else:
        value = np.float32(1.3 * math.sqrt(3 / math.prod(shape[1:]))) * unit
    return torch.from_numpy(value.reshape(shape).copy())


def text(**more) -> dict:
    sizes = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return sizes | more


LLAMA3 = dict(
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=40,
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LONG = dict(
    type="longrope",
    short_factor=[1.0, 1.1, 1.3, 1.5],
    long_factor=[1.2, 2.0, 3.0, 4.0],
)
CASES = {
    "llama-biased": text(model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-3": text(
        model_type="llama", rope_theta=500.0, rope_scaling=LLAMA3, head_dim=12, rms_norm_eps=1e-5
    ),
    "llama-linear": text(
        model_type="llama",
        num_key_value_heads=1,
        rope_scaling=dict(type="linear", factor=2.5),
        hidden_act="gelu",
    ),
    "llama-dynamic": text(
        model_type="llama",
        num_key_value_heads=4,
        max_position_embeddings=16,
        rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=1000.0),
    ),
    "llama-yarn": text(
        model_type="llama",
        rope_scaling=YARN | dict(mscale=0.8, mscale_all_dim=0.5, beta_fast=8, beta_slow=2),
        rope_theta=100.0,
        hidden_act="relu",
    ),
    "mistral-windowed": text(model_type="mistral", sliding_window=5),
    "mistral-plain": text(model_type="mistral", sliding_window=None, head_dim=16, tie_word_embeddings=True),
    "mistral-yarn": text(
        model_type="mistral", sliding_window=9, num_key_value_heads=1, rope_parameters=YARN | dict(rope_theta=50.0)
    ),
    "qwen2-plain": text(model_type="qwen2", tie_word_embeddings=True, rope_theta=1e6),
    "qwen2-windowed": text(
        model_type="qwen2",
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=1,
        num_key_value_heads=4,
    ),
    "qwen2-types": text(
        model_type="qwen2",
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_scaling=YARN | dict(truncate=False, attention_factor=1.3),
        rope_theta=80.0,
    ),
    "qwen3-plain": text(model_type="qwen3", head_dim=16, tie_word_embeddings=True),
    "qwen3-biased": text(
        model_type="qwen3", head_dim=8, attention_bias=True, num_key_value_heads=1, hidden_act="gelu_pytorch_tanh"
    ),
    "qwen3-windowed": text(
        model_type="qwen3",
        head_dim=10,
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=2,
        rope_scaling=dict(rope_type="linear", factor=3.0),
    ),
    "phi3-plain": text(model_type="phi3", num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "phi3-long": text(
        model_type="phi3",
        original_max_position_embeddings=24,
        rope_scaling=LONG,
        sliding_window=15,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "phi3-partial": text(
        model_type="phi3",
        hidden_size=64,
        original_max_position_embeddings=24,
        partial_rotary_factor=0.5,
        rope_scaling=LONG,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gemma2-capped": text(
        model_type="gemma2",
        head_dim=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        sliding_window=6,
        query_pre_attn_scalar=10,
    ),
    "gemma2-uncapped": text(
        model_type="gemma2",
        head_dim=16,
        num_key_value_heads=1,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        sliding_window=9,
        tie_word_embeddings=False,
        attention_bias=True,
    ),
    "gemma2-types": text(
        model_type="gemma2",
        head_dim=8,
        num_hidden_layers=3,
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        hidden_activation="gelu",
        rope_scaling=dict(rope_type="linear", factor=2.0),
    ),
    "gemma3-pattern": text(
        model_type="gemma3_text", head_dim=8, num_hidden_layers=4, sliding_window=5, sliding_window_pattern=2
    ),
    "gemma3-scaled": text(
        model_type="gemma3_text",
        head_dim=16,
        num_hidden_layers=3,
        num_key_value_heads=1,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_scaling=dict(rope_type="linear", factor=8.0),
        rope_theta=1e4,
        rope_local_base_freq=1e3,
        final_logit_softcapping=4.0,
    ),
    "gemma3-nested": text(
        model_type="gemma3_text",
        head_dim=8,
        num_hidden_layers=3,
        sliding_window=7,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=2.0, rope_theta=2e4),
            sliding_attention=dict(rope_type="default", rope_theta=500.0),
        ),
        attention_bias=True,
        query_pre_attn_scalar=9,
        tie_word_embeddings=False,
    ),
    "internlm2-biased": text(model_type="internlm2", bias=True, rope_theta=1e6, tie_word_embeddings=False),
    "internlm2-plain": text(
        model_type="internlm2", bias=False, num_key_value_heads=1, rope_scaling=dict(type="linear", factor=2.0)
    ),
    "internlm2-dynamic": text(
        model_type="internlm2",
        bias=False,
        num_key_value_heads=4,
        max_position_embeddings=16,
        rope_scaling=dict(type="dynamic", factor=2.0),
    ),
}
# Cases whose second input passes the length from which frequencies change.
LONG_INPUT = {"phi3-long": 31, "phi3-partial": 27}


def internlm2(config: dict) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A Llama's config and state from InternLM2's names and its grouped matrix, and the tensors under
    their own names, to which gradients flow back."""
    own_names = {}

    def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        own_names[name] = globals()["drawn"](name, shape).requires_grad_(True)
        return own_names[name]

    width, heads, groups = (config[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    dim, inner = width // heads, config["intermediate_size"]
    state = {}
    bare = ["model.tok_embeddings.weight", "output.weight"]
    state["model.embed_tokens.weight"], state["lm_head.weight"] = (drawn(n, (VOCAB, width)) for n in bare)
    state["model.norm.weight"] = drawn("model.norm.weight", (width,))
    for i in range(config["num_hidden_layers"]):
        theirs, ours = f"model.layers.{i}.", f"model.layers.{i}."
        for part in ("weight", "bias") if config["bias"] else ("weight",):
            tail = (width,) if part == "weight" else ()
            wqkv = drawn(f"{theirs}attention.wqkv.{part}", ((heads + 2 * groups) * dim, *tail))
            grouped = wqkv.view(groups, heads // groups + 2, dim, *tail)
            pieces = grouped[:, :-2], grouped[:, -2], grouped[:, -1]
            for name, piece in zip("qkv", pieces):
                state[f"{ours}self_attn.{name}_proj.{part}"] = piece.reshape(-1, *tail)
            wo = drawn(f"{theirs}attention.wo.{part}", (width, *((heads * dim,) if tail else ())))
            state[f"{ours}self_attn.o_proj.{part}"] = wo
        for name, own, shape in (("w1", "gate", (inner, width)), ("w3", "up", (inner, width)), ("w2", "down", (width, inner))):
            state[f"{ours}mlp.{own}_proj.weight"] = drawn(f"{theirs}feed_forward.{name}.weight", shape)
        state[f"{ours}input_layernorm.weight"] = drawn(f"{theirs}attention_norm.weight", (width,))
        state[f"{ours}post_attention_layernorm.weight"] = drawn(f"{theirs}ffn_norm.weight", (width,))
    llama = {k: v for k, v in config.items() if k != "bias"}
    return llama | dict(model_type="llama", attention_bias=config["bias"]), state, own_names


def build(config: dict) -> tuple[torch.nn.Module, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model, its state and the tensors that gradients are asked for."""
    state, own_names = None, None
    if config["model_type"] == "internlm2":
        config, state, own_names = internlm2(config)
    config = json.loads(json.dumps(config))
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), attn_implementation="eager", dtype=torch.float32
    )
    if state is None:
        state = {name: drawn(name, tuple(p.shape)) for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    if own_names is None:
        state = own_names = dict(model.named_parameters())
    return model.eval(), state, own_names


def ids(name: str, length: int) -> torch.Tensor:
    unit = drawn(f"ids.{name}", (length,)) / 0.2
    return ((unit + 1) / 2 * VOCAB).long().clamp(0, VOCAB - 1)


def run(name: str, config: dict, gradients: bool) -> dict[str, torch.Tensor]:
    model, state, own_names = build(config)
    tokens = ids(name, LENGTH)
    arguments = dict(input_ids=tokens[None], use_cache=False)
    logits = torch.func.functional_call(model, state, (), arguments).logits[0]
    logps = logits.log_softmax(-1)[-9:-1].gather(1, tokens[-8:, None])[:, 0]
    out = {"input_ids": tokens, "logits": logits.detach(), "logps": logps.detach()}
    if gradients:
        logps.sum().backward()
        for parameter, value in own_names.items():
            out[f"grad.{parameter}"] = value.grad
    with torch.no_grad():
        line, picked, gaps = tokens[:6], [], []
        for _ in range(12):
            last = model(line[None], use_cache=False).logits[0, -1]
            top = last.topk(2)
            picked.append(top.indices[0])
            gaps.append(top.values[0] - top.values[1])
            line = torch.cat([line, top.indices[:1]])
        out["generated"], out["generated_gap"] = torch.stack(picked), torch.stack(gaps)
        if name in LONG_INPUT:
            out["long_ids"] = ids(f"{name}.long", LONG_INPUT[name])
            out["logits.long"] = model(out["long_ids"][None], use_cache=False).logits[0]
    return {key: value.contiguous() for key, value in out.items()}


LEAST_LEAD = 1e-3


def greedy(name: str, config: dict) -> dict:
    """By `generate`; without a cache where frequencies depend on the length, as a cache keeps keys of other lengths."""
    model, state, _ = build(config)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.copy_(state[parameter])
    model.generation_config = GenerationConfig(pad_token_id=0)
    depends = config.get("rope_scaling") or config.get("rope_parameters") or {}
    cached = not any(kind in json.dumps(depends) for kind in ("dynamic", "longrope"))
    farthest = None
    for start in range(LENGTH - 6):
        prompt = ids(name, LENGTH)[None, start : start + 6]
        made = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24, output_logits=True,
            return_dict_in_generate=True, use_cache=cached,
        )
        best = torch.stack([logits[0] for logits in made.logits]).topk(2).values
        leads = (best[:, 0] - best[:, 1]).tolist()
        found = min(leads), prompt[0].tolist(), made.sequences[0, 6:].tolist(), [round(lead, 6) for lead in leads]
        farthest = found if farthest is None else max(farthest, found, key=lambda of: of[0])
        if min(leads) > LEAST_LEAD:
            break
    return dict(prompt=farthest[1], tokens=farthest[2], leads=farthest[3])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    families = set()
    for name, config in CASES.items():
        family = config["model_type"]
        first = family not in families
        families.add(family)
        save_file(run(name, config, first), out / f"{name}.safetensors")
        print(name, (out / f"{name}.safetensors").stat().st_size)
    (out / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
    rows = [f" {json.dumps(name)}: {json.dumps(greedy(name, config))}" for name, config in CASES.items()]
    (out / "greedy.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
