"""Goldens of LoRA's options by PEFT, on models whose weights are drawn from their names.

    python make.py --out .

For each case NAME of OPTIONS, on the case `qwen2-plain` of ../families (a tied head, biases on q, k, v):

    NAME/adapter_config.json, NAME/adapter_model.safetensors    as PEFT writes them
    NAME/io.safetensors
        input_ids       [S] i64
        logits          [4, vocab]  of the last 4 tokens, adapter on
        logps           [8]         log-probabilities of the last 8 tokens, adapter on
        grad.KEY        gradient of logps.sum() by KEY of the adapter file

and for each family of FAMILIES, `families.safetensors` with rank 2, lora_alpha 1, all-linear:

    CASE.logps, CASE.grad.KEY       KEY as PEFT names it in files

All adapter weights are drawn from KEY by `drawn` of ../families/make.py, copies of base weights and biases
included. CPU, float32, eager attention; transformers 5.24.0, torch 2.11.0, peft 0.21.2.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

spec = importlib.util.spec_from_file_location("families", Path(__file__).parent.parent / "families" / "make.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)

BASE = "qwen2-plain"
OPTIONS = {
    "ranks": dict(
        r=3,
        lora_alpha=5,
        use_rslora=True,
        target_modules="all-linear",
        rank_pattern={"q_proj": 2, "^model.layers.1.mlp.down_proj": 4, "down_proj": 1},
        alpha_pattern={r"mlp\.(gate|up)_proj": 7, "model.layers.0.self_attn.o_proj": 2},
    ),
    # The head is the embedding: its copy is apart. Names of modules to save fit any end of a name.
    "biases": dict(
        r=2,
        lora_alpha=3,
        bias="all",
        target_modules=["q_proj", "o_proj"],
        modules_to_save=["lm_head", "attention_layernorm"],
    ),
    "regex": dict(
        r=2,
        lora_alpha=4,
        lora_dropout=0.1,
        init_lora_weights="gaussian",
        target_modules=r"model\.layers\.(?!0)\d+\.(self_attn\.(q|v)_proj|mlp\.down_proj)",
        exclude_modules=["v_proj"],
    ),
    "layers": dict(
        r=2,
        lora_alpha=4,
        bias="lora_only",
        target_modules=["k_proj", "up_proj"],
        layers_to_transform=[1],
        layers_pattern="layers",
        modules_to_save=["embed_tokens"],
    ),
}
FAMILIES = ["llama-biased", "mistral-windowed", "qwen2-plain", "qwen3-plain", "phi3-plain", "gemma3-pattern"]


def adapted(case: str, **options) -> torch.nn.Module:
    """The case's model with a drawn adapter."""
    config = LoraConfig(task_type="CAUSAL_LM", **options)
    model = get_peft_model(families.build(families.CASES[case])[0], config).eval()
    with torch.no_grad():
        # Every entry of the file is drawn from its name, and with it the parameter behind it.
        for key, value in get_peft_model_state_dict(model).items():
            value.copy_(families.drawn(key, tuple(value.shape)))
    return model


def pass_over(model: torch.nn.Module, case: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Input, logits and log-probabilities; gradients by the keys of the file."""
    tokens = families.ids(case, families.LENGTH)
    logits = model(tokens[None], use_cache=False).logits[0]
    logps = logits.log_softmax(-1)[-9:-1].gather(1, tokens[-8:, None])[:, 0]
    logps.sum().backward()
    # The file's tensors share memory with the parameters.
    behind = {p.data_ptr(): p for p in model.parameters()}
    gradients = {}
    for key, value in get_peft_model_state_dict(model).items():
        parameter = behind[value.data_ptr()]
        assert parameter.requires_grad and parameter.grad is not None, key
        gradients[f"grad.{key}"] = parameter.grad
    trained = sum(p.requires_grad for p in model.parameters())
    assert trained == len(gradients), (trained, len(gradients))
    return {"input_ids": tokens, "logits": logits[-4:].detach(), "logps": logps.detach()}, gradients


def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, options in OPTIONS.items():
        model = adapted(BASE, **options)
        io, gradients = pass_over(model, BASE)
        model.save_pretrained(out / name)
        (out / name / "README.md").unlink(missing_ok=True)
        # PEFT writes lists of modules as unordered sets; sorted, the file is the same every time.
        file = out / name / "adapter_config.json"
        config = json.loads(file.read_text())
        for key in ("target_modules", "exclude_modules"):
            if isinstance(config[key], list):
                config[key].sort()
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        write(io | gradients, out / name / "io.safetensors")
    everything = {}
    for case in FAMILIES:
        io, gradients = pass_over(adapted(case, r=2, lora_alpha=1, target_modules="all-linear"), case)
        everything |= {f"{case}.{key}": value for key, value in gradients.items()}
        everything[f"{case}.logps"] = io["logps"]
    write(everything, out / "families.safetensors")
    for path in sorted(out.rglob("*.safetensors")):
        path.chmod(0o644)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
