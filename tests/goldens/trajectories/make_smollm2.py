"""Trajectories of TRL's trainers on SmolLM2-135M-Instruct: what every step of a training logs.

    python make_smollm2.py --model SmolLM2-135M-Instruct.Q4_1.gguf --out .

Writes `smollm2.json`, as `make.py` beside it writes `runs.json`, without the model's config. The file's blocks are read
as f32; prompts are written by the file's own template. Rows are short sums in words: of a pair the right one is chosen,
of a prompt's completions one is cut off. Two rows a step, or four completions, 50 steps, all weights and LoRA. With
LoRA, A is drawn from its names and B is zero. Versions as in `make.py`, gguf 0.19.0.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from make import NOTED, run

OPTIM = dict(lr_scheduler_type="linear", warmup_steps=5, max_steps=50, weight_decay=0.01)
TWO = dict(per_device_train_batch_size=2)
LORA = dict(
    lora_r=8, lora_alpha=16,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)
# One prompt a step.
GRPO = dict(
    trainer="grpo", num_generations=4, max_completion_length=16, use_bias_correction_kl=True, per_device_train_batch_size=4,
)
RUNS = {
    "sft": dict(trainer="sft", **TWO, learning_rate=2e-6, **OPTIM),
    "sft-lora": dict(trainer="sft", **TWO, learning_rate=1e-4, **OPTIM, **LORA),
    "dpo": dict(trainer="dpo", **TWO, learning_rate=1e-6, **OPTIM),
    "dpo-lora": dict(trainer="dpo", **TWO, learning_rate=5e-5, **OPTIM, **LORA),
    "grpo": dict(learning_rate=2e-6, **OPTIM, **GRPO),
    "grpo-lora-beta": dict(learning_rate=1e-4, beta=0.1, **OPTIM, **GRPO, **LORA),
}
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()


def rows(text) -> dict[str, list[dict]]:
    sums = [(a, b) for a in range(2, 8) for b in (3, 5)]
    ask = lambda a, b: f"How much is {NUMBERS[a]} and {NUMBERS[b]}?"
    right = [f"{NUMBERS[a].capitalize()} and {NUMBERS[b]} make {NUMBERS[a + b]}." for a, b in sums]
    wrong = [f"I think that it is {NUMBERS[a + b + 1]}." for a, b in sums]
    other = "That is a hard one."
    sft = [dict(prompt=ask(*pair), completion=words) for pair, words in zip(sums, right)]
    dpo = [dict(prompt=ask(*pair), chosen=good, rejected=bad) for pair, good, bad in zip(sums, right, wrong)]
    end = text.eos_token_id
    answers = [[[*text(words)["input_ids"], end] for words in (good, bad, other)] for good, bad in zip(right, wrong)]
    grpo = [dict(prompt=ask(*pair), completion_ids=[*whole, whole[0][:4]]) for pair, whole in zip(sums, answers)]
    return dict(sft=sft, dpo=dpo, grpo=grpo)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="runs that are made again; the file's others are kept")
    arguments = parser.parse_args()
    path = arguments.out / "smollm2.json"
    before = json.loads(path.read_text()) if arguments.only else None
    torch.set_num_threads(2)
    where = dict(pretrained_model_name_or_path=arguments.model.parent, gguf_file=arguments.model.name)
    text = AutoTokenizer.from_pretrained(**where)
    text.eos_token = "<|im_end|>"

    # transformers takes what it read of such a file for quantised, and trains it no further: here are its numbers alone.
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = AutoConfig.for_model(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})

    def model() -> torch.nn.Module:
        own = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        own.load_state_dict(read.state_dict())
        own.tie_weights()
        return own

    def chat(row: dict) -> str:
        turns = [dict(role="user", content=row["prompt"])]
        return text.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    data = rows(text)
    for row in data["grpo"]:
        row["prompt_ids"] = text(chat(row))["input_ids"]
    runs = before["runs"] if before else {}
    for name, settings in RUNS.items():
        if before and name not in arguments.only:
            continue
        runs[name] = run(name, settings, data, text, model, chat)
        print(name, runs[name]["steps"]["loss"][0], runs[name]["steps"]["loss"][-1], flush=True)
    if before:
        data = {kind: before[kind] for kind in data}
    else:
        for row, (prompt, chosen, rejected) in zip(data["dpo"], NOTED["dpo"], strict=True):
            row |= dict(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)
        for row, (ids, mask) in zip(data["sft"], NOTED["sft"], strict=True):
            start = mask.index(True)
            row |= dict(prompt_ids=ids[:start], completion_ids=ids[start:])
    lines = ["{"]
    for kind, listed in data.items():
        lines += [f' "{kind}": [', ",\n".join(f"  {json.dumps(row)}" for row in listed), " ],"]
    lines += [' "runs": {', ",\n".join(f"  {json.dumps(name)}: {json.dumps(made)}" for name, made in runs.items()), " }", "}"]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
