"""Golden of LoRA by PEFT on a small Qwen2: adapter files, logits on, off and merged, gradients of A and B.

    python make.py --out .

    base/                     the base model, a Hugging Face directory
    adapter/                  adapter_config.json and adapter_model.safetensors as PEFT writes them (r 4,
                              lora_alpha 8, all-linear, no dropout; A and B both non-zero)
    io.safetensors
        input_ids             [2, 12] i64
        logits.base           [2, 12, 97]   adapter switched off
        logits.adapter        [2, 12, 97]   adapter on
        logits.merged         [2, 12, 97]   adapter merged into the weights
        logps                 [2, 11]       adapter on: log-probability of each token but the first
        grad.NAME             gradient of logps.sum() by the adapter tensor NAME (names of the adapter file)
        merged.NAME           two merged weights, by their name in the base file

CPU, float32.
"""

import argparse
import json
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)

    config = Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    base = Qwen2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, value in sorted(base.named_parameters()):
            drawn = torch.randn(value.shape, generator=generator)
            norm = "norm" in name
            value.copy_(1.0 + 0.2 * drawn if norm else drawn * (0.1 if value.dim() == 1 else 0.2))
    base.save_pretrained(out / "base")
    input_ids = torch.randint(0, 97, (2, 12), generator=generator)

    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    ).eval()
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            if "lora_" in name:
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    model.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    # PEFT writes the target modules as an unordered set; sorted, the file is the same every time.
    config_file = out / "adapter" / "adapter_config.json"
    written = json.loads(config_file.read_text())
    written["target_modules"].sort()
    config_file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")

    with torch.no_grad(), model.disable_adapter():
        off = model(input_ids=input_ids).logits
    logits = model(input_ids=input_ids).logits
    logps = torch.log_softmax(logits[:, :-1], dim=-1).gather(2, input_ids[:, 1:, None])[:, :, 0]
    logps.sum().backward()

    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    gradients = {}
    for name, value in model.named_parameters():
        if "lora_" in name:
            file_name = name.replace(".default.", ".")
            assert torch.equal(saved[file_name], value), file_name
            gradients[f"grad.{file_name}"] = value.grad.clone()
    assert len(gradients) == len(saved) == 2 * 2 * 7, (len(gradients), len(saved))

    merged = model.merge_and_unload()
    with torch.no_grad():
        merged_logits = merged(input_ids=input_ids).logits
    names = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight")
    weights = {f"merged.{n}": merged.get_parameter(n).detach().clone() for n in names}

    tensors = {
        "input_ids": input_ids,
        "logits.base": off,
        "logits.adapter": logits.detach(),
        "logits.merged": merged_logits,
        "logps": logps.detach(),
        **gradients,
        **weights,
    }
    made_with = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, out / "io.safetensors", metadata={"made_with": made_with}
    )
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
