"""The peer's side of benches/peers/train: PyTorch on the tokens that our worker wrote.

    worker.py MODEL DATA [LORA_R]

MODEL is a Hugging Face directory, or `-` for the random Llama of 6 layers, 256 wide. Every line of standard input
asks for a step: forward with transformers' fused attention, cross-entropy on the answer's tokens, backward, clipping,
AdamW (fused).
"""

import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


def peak_kib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return None


def main():
    path, data, *rank = sys.argv[1:]
    torch.set_num_threads(int(os.environ.get("SAVI_BENCH_THREADS", "2")))
    torch.manual_seed(1)
    if path == "-":
        config = LlamaConfig(
            hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
            vocab_size=4096, max_position_embeddings=512, rms_norm_eps=1e-6, tie_word_embeddings=True, attn_implementation="sdpa",
        )
        model = LlamaForCausalLM(config)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    if rank:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=int(rank[0]), lora_alpha=32, target_modules="all-linear"))
    model.train()
    rows = json.load(open(data))
    ids = torch.tensor([row["ids"] for row in rows])
    labels = ids.clone()
    for label, row in zip(labels, rows):
        label[: row["targets"]] = -100
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "tokens": ids.numel(), "peak_kib": peak_kib(), "loss": loss}), flush=True)


main()
