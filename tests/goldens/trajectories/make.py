"""Trajectories of TRL's trainers on a tiny Llama: what every step of a training logs.

    python make.py --out .

Writes `tokenizer.json` (a vocabulary of words) and `runs.json`:

    config    the model's config; its weights are drawn from their names (`drawn` of `../families/make.py`)
    template  the chat template that `sft` and `dpo` rows went through
    sft       rows of prompt and completion, with their tokens
    dpo       rows of prompt, chosen and rejected answer, with their tokens
    runs      for each run NAME its trainer, the settings it was given and, for each logged figure, the numbers of all steps

Rows are taken in their order, again and again. With LoRA, A is drawn like every weight (from PEFT's name without
`base_model.model.` and `.default`); B is zero, in the runs that end in `-warm` drawn too and a tenth as large.
CPU, float32, eager attention, one thread; TRL 1.16.0, transformers 5.24.0, PEFT 0.21.2, torch 2.11.0.
"""

import argparse
import copy
import importlib.util
import json
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

families = Path(__file__).resolve().parent.parent / "families" / "make.py"
spec = importlib.util.spec_from_file_location("families", families)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
drawn = module.drawn

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "user assistant the a red blue green circle square moves jumps waits left right up down fast slowly then and "
    "again which way does it go what is seen now first last nothing"
).split()
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
CONFIG = dict(
    model_type="llama", vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
)
LORA = dict(lora_r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"])
# What Hugging Face's trainer does with settings of common names: warm-up, a linear fall, decay groups, clipping.
OPTIM = dict(
    learning_rate=2e-3, lr_scheduler_type="linear", warmup_steps=5, max_steps=50, per_device_train_batch_size=8,
    gradient_accumulation_steps=1, weight_decay=0.1, max_grad_norm=1.0, adam_beta2=0.95,
)
RUNS = {
    "sft": dict(trainer="sft"),
    "sft-accumulated": dict(
        trainer="sft", per_device_train_batch_size=2, gradient_accumulation_steps=4, max_grad_norm=0.5,
        lr_scheduler_type="cosine",
    ),
    "sft-lora": dict(trainer="sft", learning_rate=1e-2, **LORA),
    "sft-lora-warm": dict(trainer="sft", learning_rate=1e-2, **LORA),
    "dpo": dict(trainer="dpo"),
    "dpo-lora": dict(trainer="dpo", learning_rate=1e-2, **LORA),
    "dpo-lora-accumulated": dict(
        trainer="dpo", learning_rate=1e-2, per_device_train_batch_size=2, gradient_accumulation_steps=4, **LORA,
    ),
}
SHORT = dict(trainer="dpo", learning_rate=1e-2, max_steps=10, warmup_steps=2, **LORA)
for loss, more in {
    "hinge": {},
    "ipo": {},
    "exo_pair": dict(label_smoothing=1e-3),
    "nca_pair": {},
    "robust": dict(label_smoothing=0.1),
    "bco_pair": {},
    "sppo_hard": {},
    "aot": {},
    "aot_unpaired": {},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {},
    "sft": {},
    "sigmoid_norm": {},
}.items():
    RUNS[f"dpo-{loss}"] = SHORT | dict(loss_type=loss) | more
RUNS["dpo-several"] = SHORT | dict(loss_type=["sigmoid", "ipo", "sft"], loss_weights=[0.8, 0.1, 0.5])
RUNS["dpo-weighted"] = SHORT | dict(use_weighting=True)
RUNS["dpo-ld"] = SHORT | dict(ld_alpha=0.4)
RUNS["dpo-js"] = SHORT | dict(f_divergence_type="js_divergence")


def words(name: str, least: int, most: int) -> str:
    """As many words as the name says, and those that it says."""
    unit = ((drawn(f"text.{name}", (most + 1,)) / 0.2 + 1) / 2).tolist()
    count = least + int(unit[0] * (most - least + 1))
    return " ".join(WORDS[2 + int(u * (len(WORDS) - 2))] for u in unit[1 : count + 1])


def rows(kind: str, columns: dict[str, tuple[int, int]], count: int) -> list[dict]:
    return [{name: words(f"{kind}.{name}.{i}", *span) for name, span in columns.items()} for i in range(count)]


def tokenizer() -> PreTrainedTokenizerFast:
    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="<|im_end|>", pad_token="<unk>", unk_token="<unk>", chat_template=TEMPLATE
    )


def model() -> torch.nn.Module:
    own = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**CONFIG), attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(drawn(name, tuple(parameter.shape)))
    return own


def with_adapter(base: torch.nn.Module, settings: dict, warm: bool) -> torch.nn.Module:
    config = LoraConfig(
        r=settings["lora_r"], lora_alpha=settings["lora_alpha"], target_modules=settings["target_modules"],
        task_type="CAUSAL_LM",
    )
    whole = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "lora_" not in name:
                continue
            plain = name.removeprefix("base_model.model.").replace(".default", "")
            value = drawn(plain, tuple(parameter.shape))
            parameter.copy_(value if "lora_A" in name else 0.1 * value if warm else 0 * value)
    return whole


def run(name: str, settings: dict, data: dict, text: PreTrainedTokenizerFast) -> dict:
    settings = copy.deepcopy(settings)
    trainer = settings.pop("trainer")
    lora = {key: settings.pop(key) for key in LORA if key in settings}
    given = OPTIM | settings
    with tempfile.TemporaryDirectory() as folder:
        common = dict(
            output_dir=folder, report_to=[], use_cpu=True, logging_steps=1, save_strategy="no", bf16=False,
            train_sampling_strategy="sequential", disable_tqdm=True, gradient_checkpointing=False, max_length=None,
            dataloader_pin_memory=False, logging_nan_inf_filter=False,
        )
        base = model()
        # A reference of its own where there is no adapter; with one the base is the reference, whatever it starts as.
        reference = model() if trainer == "dpo" else None
        policy = with_adapter(base, lora, name.endswith("-warm")) if lora else base
        chat = lambda row: "".join(
            f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in [("user", row["prompt"])]
        ) + "<|im_start|>assistant\n"
        listed = [row | {"prompt": chat(row)} for row in data[trainer]]
        listed = [{key: value for key, value in row.items() if not key.endswith("ids")} for row in listed]
        if trainer == "sft":
            made = SFTTrainer(
                policy, args=SFTConfig(**common, **given, completion_only_loss=True),
                train_dataset=Dataset.from_list(listed), processing_class=text,
            )
        else:
            made = DPOTrainer(
                policy, ref_model=reference, args=DPOConfig(**common, **given),
                train_dataset=Dataset.from_list(listed), processing_class=text,
            )
        made.train()
        lines = [line for line in made.state.log_history if "loss" in line]
        if trainer == "dpo" and "dpo" not in NOTED:
            NOTED["dpo"] = [
                (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in made.train_dataset
            ]
        if trainer == "sft" and "sft" not in NOTED:
            NOTED["sft"] = [(row["input_ids"], [label != -100 for label in row["labels"]]) for row in made.train_dataset]
    figures = ["loss", "grad_norm", "learning_rate"]
    if trainer == "dpo":
        figures += ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"]
    assert len(lines) == given["max_steps"], (name, len(lines))
    return dict(
        trainer=trainer, settings=given | lora,
        steps={figure: [float(f"{line[figure]:.8g}") for line in lines] for figure in figures},
    )


NOTED: dict = {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    text = tokenizer()
    data = dict(
        sft=rows("sft", dict(prompt=(3, 9), completion=(1, 8)), 24),
        dpo=rows("dpo", dict(prompt=(3, 9), chosen=(1, 8), rejected=(1, 8)), 24),
    )
    runs = {}
    for name, settings in RUNS.items():
        runs[name] = run(name, settings, data, text)
        steps = runs[name]["steps"]
        print(name, steps["loss"][0], steps["loss"][-1], max(steps["grad_norm"]), flush=True)
    # Tokens as TRL's trainers made them.
    for row, (prompt, chosen, rejected) in zip(data["dpo"], NOTED["dpo"], strict=True):
        row |= dict(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)
    for row, (ids, mask) in zip(data["sft"], NOTED["sft"], strict=True):
        start = mask.index(True)
        assert all(mask[start:])
        row |= dict(prompt_ids=ids[:start], completion_ids=ids[start:])
    (out / "tokenizer.json").write_text(text.backend_tokenizer.to_str() + "\n")
    lines = ["{", f' "config": {json.dumps(CONFIG)},', f' "template": {json.dumps(TEMPLATE)},']
    for kind, listed in data.items():
        lines += [f' "{kind}": [', ",\n".join(f"  {json.dumps(row)}" for row in listed), " ],"]
    lines += [' "runs": {', ",\n".join(f"  {json.dumps(name)}: {json.dumps(made)}" for name, made in runs.items()), " }", "}"]
    (out / "runs.json").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
