"""Trajectories of TRL's trainers on a tiny Llama: what every step of a training logs.

    python make.py --out .

Writes `tokenizer.json` (a vocabulary of words) and `runs.json`:

    config    the model's config; its weights are drawn from their names (`drawn` of `../families/make.py`)
    template  the chat template that rows went through
    sft       rows of prompt and completion, with their tokens
    dpo       rows of prompt, chosen and rejected answer, with their tokens
    grpo      rows of prompt and of what is taken for completions of it: tokens that end, but for some, with `<|im_end|>`
    runs      for each run NAME its trainer, the settings it was given and, for each logged figure, the numbers of all steps

Rows are taken in their order, again and again. GRPO's and RLOO's trainers draw nothing: a prompt that comes for the n-th time, from 0,
takes its completions from the n * num_generations-th on, again and again; the reward is the share of tokens whose
number is even. With LoRA, A is drawn like every weight (from PEFT's name without
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
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

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
GRPO = dict(trainer="grpo", num_generations=4, max_completion_length=8, use_bias_correction_kl=True)
RUNS |= {
    "grpo": GRPO,
    "grpo-lora": dict(learning_rate=1e-2, **GRPO, **LORA),
    "grpo-beta": dict(beta=0.1, **GRPO),
    "grpo-lora-beta": dict(beta=0.1, learning_rate=1e-2, **GRPO, **LORA),
    "grpo-iterated": dict(num_iterations=2, **GRPO),
    "grpo-accumulated": dict(beta=0.1, per_device_train_batch_size=4, gradient_accumulation_steps=2, **GRPO),
}
RLOO = dict(trainer="rloo", num_generations=4, max_completion_length=8, max_steps=10, warmup_steps=2, learning_rate=5e-3)
RUNS["rloo"] = RLOO | dict(beta=0.1)
RUNS["rloo-iterated"] = RLOO | dict(beta=0.1, num_iterations=2, normalize_advantages=True)
RUNS["dpo-synced"] = dict(
    trainer="dpo", max_steps=10, warmup_steps=2, sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=0.6,
)
AGAIN = GRPO | dict(max_steps=10, warmup_steps=2, num_iterations=2, beta=0.05, learning_rate=5e-3)
for name, more in {
    "grpo": dict(loss_type="grpo"),
    "dr_grpo": dict(loss_type="dr_grpo", scale_rewards="none"),
    "luspo": dict(loss_type="luspo", importance_sampling_level="sequence"),
    "cispo": dict(loss_type="cispo", epsilon_high=1.1),
    "sapo": dict(loss_type="sapo"),
    "vespo": dict(loss_type="vespo", use_bias_correction_kl=False),
    "gspo": dict(loss_type="grpo", importance_sampling_level="sequence", epsilon=0.02, epsilon_high=0.03),
    "two-sided": dict(epsilon_high=0.28, delta=1.4),
    "batch": dict(scale_rewards="batch", temperature=0.7),
    "masked": dict(mask_truncated_completions=True),
    "plain-kl": dict(use_bias_correction_kl=False),
    "entropy": dict(entropy_coef=0.05),
    "entropy-adaptive": dict(use_adaptive_entropy=True, entropy_target=2.95, entropy_coef_delta=0.02),
}.items():
    RUNS[f"grpo-{name}" if name != "grpo" else "grpo-means"] = AGAIN | more


def words(name: str, least: int, most: int) -> str:
    """As many words as the name says, and those that it says."""
    unit = ((drawn(f"text.{name}", (most + 1,)) / 0.2 + 1) / 2).tolist()
    count = least + int(unit[0] * (most - least + 1))
    return " ".join(WORDS[2 + int(u * (len(WORDS) - 2))] for u in unit[1 : count + 1])


def rows(kind: str, columns: dict[str, tuple[int, int]], count: int) -> list[dict]:
    return [{name: words(f"{kind}.{name}.{i}", *span) for name, span in columns.items()} for i in range(count)]


def chat(row: dict) -> str:
    return f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"


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


def even(completion_ids: list[list[int]], **_) -> list[float]:
    """The reward: the share of tokens whose number is even."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def with_completions(trainer: type, rows: list[dict]) -> type:
    """A trainer with these rows' completions in place of what the model would draw."""

    class Recorded(trainer):
        visits = {tuple(row["prompt_ids"]): 0 for row in rows}

        def _generate_single_turn(self, prompt_ids, *_):
            count, made = self.num_generations, []
            for prompt in prompt_ids[::count]:
                completions = next(row["completion_ids"] for row in rows if row["prompt_ids"] == prompt)
                first = self.visits[tuple(prompt)] * count
                self.visits[tuple(prompt)] += 1
                made += [completions[(first + i) % len(completions)] for i in range(count)]
            return (made, None) if trainer is GRPOTrainer else made

    return Recorded


def completions(row: int, count: int, text: PreTrainedTokenizerFast) -> list[list[int]]:
    """Some answers; the longest are cut off before their end."""
    made = []
    for i in range(count):
        ids = text(words(f"grpo.completion.{row}.{i}", 1, 8))["input_ids"]
        made.append(ids if len(ids) == 8 else [*ids, text.eos_token_id])
    return made


def run(name: str, settings: dict, data: dict, text: PreTrainedTokenizerFast, model=model, chat=chat) -> dict:
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
        if trainer in ("grpo", "rloo"):
            # Its trainer reads the reference from the files of the model.
            base.save_pretrained(f"{folder}/model")
            base = AutoModelForCausalLM.from_pretrained(
                f"{folder}/model", attn_implementation="eager", dtype=torch.float32
            )
        # A reference of its own where there is no adapter; with one the base is the reference, whatever it starts as.
        reference = model() if trainer == "dpo" else None
        policy = with_adapter(base, lora, name.endswith("-warm")) if lora else base
        listed = [row | {"prompt": chat(row)} for row in data["grpo" if trainer == "rloo" else trainer]]
        listed = [{key: value for key, value in row.items() if not key.endswith("ids")} for row in listed]
        if trainer == "sft":
            made = SFTTrainer(
                policy, args=SFTConfig(**common, **given, completion_only_loss=True),
                train_dataset=Dataset.from_list(listed), processing_class=text,
            )
        elif trainer in ("grpo", "rloo"):
            common.pop("train_sampling_strategy")
            common.pop("max_length")
            kind, config = (GRPOTrainer, GRPOConfig) if trainer == "grpo" else (RLOOTrainer, RLOOConfig)
            made = with_completions(kind, data["grpo"])(
                policy, reward_funcs=even, args=config(**common, **given, shuffle_dataset=False),
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
    # Over micro-batches these trainers take means of means, which depend on the cut.
    if trainer in ("grpo", "rloo") and given["gradient_accumulation_steps"] == 1:
        figures += ["entropy"]
        # RLOO pays for it with rewards, when completions are new.
        figures += ["kl"] if given.get("beta") and all("kl" in line for line in lines) else []
        # Of rewards is logged only where completions are new.
        drawn = ["reward", "reward_std", "completions/mean_length"]
        drawn += ["frac_reward_zero_std"] if trainer == "grpo" else []
        figures += drawn if "num_iterations" not in given else []
        figures += [name for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "entropy_coef") if name in lines[0]]
    assert len(lines) == given["max_steps"], (name, len(lines))
    return dict(
        trainer=trainer, settings=given | lora,
        steps={figure: [float(f"{line[figure]:.8g}") for line in lines] for figure in figures},
    )


NOTED: dict = {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="beginning of the names of runs to make, for a look: nothing is written")
    arguments = parser.parse_args()
    out = arguments.out
    torch.set_num_threads(1)
    text = tokenizer()
    data = dict(
        sft=rows("sft", dict(prompt=(3, 9), completion=(1, 8)), 24),
        dpo=rows("dpo", dict(prompt=(3, 9), chosen=(1, 8), rejected=(1, 8)), 24),
        grpo=rows("grpo", dict(prompt=(3, 9)), 12),
    )
    for place, row in enumerate(data["grpo"]):
        row["prompt_ids"] = text(chat(row))["input_ids"]
        row["completion_ids"] = completions(place, 8, text)
    runs = {}
    for name, settings in RUNS.items():
        if arguments.only and not name.startswith(arguments.only):
            continue
        runs[name] = run(name, settings, data, text)
        steps = runs[name]["steps"]
        print(name, steps["loss"][0], steps["loss"][-1], max(steps["grad_norm"]), flush=True)
    if arguments.only:
        return
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
