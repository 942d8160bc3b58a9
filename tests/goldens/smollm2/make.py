"""Greedy tokens of SmolLM2-135M-Instruct by transformers, from a GGUF file.

    python make.py --model SmolLM2-135M-Instruct.Q4_1.gguf --out .

Writes `greedy.json`: for each conversation of one question its prompt's tokens (the file's own tokenizer and template), 64
tokens by `generate`, greedily and without an end, and the smallest lead of one over the second in logits. transformers
reads the file's blocks as f32; CPU, eager attention. transformers 5.24.0, torch 2.11.0, gguf 0.19.0.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

QUESTIONS = [
    "What is the capital of France?",
    "Write a short poem about a red circle that moves to the left.",
    "def fibonacci(n):\n    # explain, then finish this function",
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    where = dict(pretrained_model_name_or_path=arguments.model.parent, gguf_file=arguments.model.name)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    rows = []
    for question in QUESTIONS:
        turns = [dict(role="user", content=question)]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        made = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64, output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = made.sequences[0, prompt.shape[1] :].tolist()
        best = torch.stack([logits[0] for logits in made.logits]).topk(2).values
        lead = round((best[:, 0] - best[:, 1]).min().item(), 6)
        rows.append(json.dumps(dict(question=question, prompt=prompt[0].tolist(), tokens=tokens, lead=lead)))
        print(repr(tokenizer.decode(tokens)), lead)
    (arguments.out / "greedy.json").write_text("[\n " + ",\n ".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
