"""The peer's side of benches/peers/train: PyTorch and TRL on the tokens that our worker wrote.

    worker.py MODEL DIR ROW

MODEL is a Hugging Face directory, or `-` for the random model that our worker wrote to DIR/model. DIR/data.json has the
tokens, ROW says what to train, as JSON. Every line of standard input asks for a step.

`sft`: forward with transformers' fused attention, cross-entropy on the answer's tokens, backward, clipping, AdamW (fused).
`dpo` and `grpo`: `training_step` of TRL's trainers (their collator, losses and metrics), then clipping and the step
of their optimiser as Trainer's loop has it. GRPO's completions are the recorded ones.
"""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import serve  # noqa: E402


def main():
    path, folder, row = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    path = str(folder / "model") if path == "-" else path
    torch.set_num_threads(int(os.environ.get("SAVI_BENCH_THREADS", "2")))
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    data = json.loads((folder / "data.json").read_text())
    step, settings = {"sft": sft, "dpo": dpo, "grpo": grpo}[row["trainer"]](model, path, folder, data, row)
    serve(lambda _: {"figures": step()}, settings=settings)


def lora(row):
    """The adapter that the row asks for."""
    if not row["lora_r"]:
        return None
    from peft import LoraConfig

    return LoraConfig(r=row["lora_r"], lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def sft(model, path, folder, data, row):
    if row["lora_r"]:
        from peft import get_peft_model

        model = get_peft_model(model, lora(row))
    if row.get("checkpointing"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    ids = torch.tensor([one["ids"] for one in data["rows"]])
    labels = ids.clone()
    for label, one in zip(labels, data["rows"]):
        label[: one["targets"]] = -100
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=row["learning_rate"], weight_decay=0.0, fused=True)

    def step():
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item()}

    again = ", layers run again" if row.get("checkpointing") else ""
    return step, f"PyTorch {torch.__version__}, sdpa, fused AdamW{again}"


def settings(folder, row):
    """What both of TRL's trainers are told: full precision, nothing recomputed."""
    return {
        "output_dir": str(folder / "trl"), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "optim": "adamw_torch_fused", "learning_rate": row["learning_rate"], "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0, "weight_decay": 0.0, "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": False, "logging_strategy": "no", "save_strategy": "no", "max_steps": 1_000_000,
    }


def stepper(trainer, batches, row, names):
    """A step as Trainer's loop makes it from these micro-batches, with the figures of these names."""
    import transformers
    import trl

    if row.get("compact"):
        # TRL's head looks at answers' tokens alone where Triton runs, and at every token elsewhere. This is
        # what it would take here if it looked at answers' alone.
        trl.trainer.utils._use_triton = lambda _: True
    trainer.current_gradient_accumulation_steps = len(batches)
    optimizer = trainer.create_optimizer()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]

    def step():
        loss = sum(trainer.training_step(trainer.model, dict(batch), None) for batch in batches)
        trainer.accelerator.clip_grad_norm_(trained, trainer.args.max_grad_norm)
        optimizer.step()
        trainer.model.zero_grad()
        metrics = trainer._metrics["train"]
        means = {name: sum(metrics[name][-len(batches) :]) / len(batches) for name in names}
        return {"loss": loss.item(), **means}

    config = trainer.model.config
    head = "answers' tokens (patched)" if row.get("compact") else "every token"
    told = (
        f"TRL {trl.__version__}, transformers {transformers.__version__}, PyTorch {torch.__version__}, "
        f"{trainer.model.dtype}, {config._attn_implementation}, {type(optimizer).__name__} fused={optimizer.defaults.get('fused')}, "
        f"no gradient checkpointing, nothing padded (and no padding-free pass in this TRL), head on {head}"
    )
    return step, told


def dpo(model, path, folder, data, row):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    pair = {"prompt_ids": data["prompt"], "chosen_ids": data["answers"][0], "rejected_ids": data["answers"][1]}
    trainer = Tokenised(
        model=model,
        args=DPOConfig(
            **settings(folder, row), per_device_train_batch_size=1, max_length=None,
            precompute_ref_log_probs=row["cached"],
        ),
        train_dataset=Dataset.from_list([pair]),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=lora(row),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["attention_mask"].all(), "nothing is padded"
    step, told = stepper(trainer, [batch], row, ["logps/chosen", "logps/rejected"])
    if row["cached"]:
        reference = "log-probs computed before"
    else:
        reference = "the model without its adapter" if row["lora_r"] else "a model of its own"
    return step, f"{told}, reference: {reference}"


def grpo(model, path, folder, data, row):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    class Recorded(GRPOTrainer):
        def _prepare_inputs(self, inputs):
            return inputs

    count, length, micro = len(data["answers"]), len(data["answers"][0]), row["micro"]
    trainer = Recorded(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            **settings(folder, row), per_device_train_batch_size=micro, gradient_accumulation_steps=count // micro,
            num_generations=count, max_completion_length=length, beta=0.0,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=lora(row),
    )
    rewards = torch.tensor(data["rewards"])
    prompt = torch.tensor([data["prompt"]] * count)
    answers = torch.tensor(data["answers"])
    rows = {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt),
        "completion_ids": answers, "completion_mask": torch.ones_like(answers),
        "advantages": (rewards - rewards.mean()) / (rewards.std() + 1e-4),
        "old_per_token_logps": torch.tensor(data["logps"]),
    }
    tokens = torch.tensor(answers.numel())
    batches = [
        {**{name: of[start : start + micro] for name, of in rows.items()}, "num_items_in_batch": tokens}
        for start in range(0, count, micro)
    ]
    step, told = stepper(trainer, batches, row, ["entropy"])
    return step, f"{told}, {trainer.loss_type} loss, micro-batches of {micro}"


main()
