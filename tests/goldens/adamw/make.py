"""Goldens of AdamW with clipping, and of the learning-rate schedules.

    python make.py --out .

`trajectory.safetensors`: torch.optim.AdamW over 5 tensors and 20 steps in two groups (weight decay
0.1: `a.weight`, `b.weight`, `c.weight`; 0: `a.bias`, `norm.weight`), betas (0.9, 0.95), eps 1e-8, base
learning rate 2e-2 times the linear schedule with 3 warm-up steps, gradients clipped to a total norm of 1
by torch.nn.utils.clip_grad_norm_ before every step.

    init.NAME, NAME.grad [20, ...] (before clipping), NAME.value [20, ...] (after each step),
    NAME.exp_avg, NAME.exp_avg_sq (after the last step), grad_norm [20] (before clipping), lr [20]

Some steps' gradients are below the clipping norm and some above.

`schedules.json`: for each schedule of transformers.get_scheduler the factor on the base rate at steps 0
to total. Step s is the rate that optimiser step s (counted from 0) uses. CPU, float32.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import get_scheduler

SHAPES = {
    "a.weight": (4, 6),
    "a.bias": (4,),
    "b.weight": (3, 4),
    "c.weight": (2, 3, 2),
    "norm.weight": (5,),
}
UNDECAYED = ("a.bias", "norm.weight")
STEPS = 20


def trajectory() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    params = {n: torch.nn.Parameter(torch.randn(s, generator=generator)) for n, s in SHAPES.items()}
    out = {f"init.{n}": p.detach().clone() for n, p in params.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in params.items() if n not in UNDECAYED], "weight_decay": 0.1},
            {"params": [p for n, p in params.items() if n in UNDECAYED], "weight_decay": 0.0},
        ],
        lr=2e-2,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=3, num_training_steps=STEPS)
    rows: dict[str, list[torch.Tensor]] = {f"{n}.{k}": [] for n in SHAPES for k in ("grad", "value")}
    norms, rates = [], []
    for step in range(STEPS):
        scale = 10.0 ** (1 - step % 4)  # 10, 1, 0.1, 0.01: above and below the clipping norm
        for name, p in params.items():
            p.grad = scale * torch.randn(p.shape, generator=generator)
            rows[f"{name}.grad"].append(p.grad.clone())
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 1.0))
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        for name, p in params.items():
            rows[f"{name}.value"].append(p.detach().clone())
    out.update({k: torch.stack(v) for k, v in rows.items()})
    for name, p in params.items():
        out[f"{name}.exp_avg"] = optimizer.state[p]["exp_avg"]
        out[f"{name}.exp_avg_sq"] = optimizer.state[p]["exp_avg_sq"]
    out["grad_norm"] = torch.stack(norms)
    out["lr"] = torch.tensor(rates, dtype=torch.float64)
    assert (out["grad_norm"] < 1).any() and (out["grad_norm"] > 1).any()
    return out


def schedules() -> list[dict]:
    rows = []
    names = ("constant", "constant_with_warmup", "linear", "cosine")
    cases = [(name, *steps, 0) for name in names for steps in ((0, 10), (3, 20), (10, 10))]
    cases += [("warmup_stable_decay", *steps) for steps in ((0, 10, 4), (3, 20, 5), (3, 20, 17))]
    cases += [("cosine_with_min_lr", *steps, 0) for steps in ((0, 10), (3, 20))]
    for name, warmup, total, decay in cases:
        special = {"num_decay_steps": decay} if decay else {}
        if name == "cosine_with_min_lr":
            special = {"min_lr_rate": 0.1}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total,
            scheduler_specific_kwargs=special or None,
        )
        factors = []
        for _ in range(total + 1):
            factors.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        row = {"lr_scheduler_type": name, "warmup_steps": warmup, "total_steps": total}
        rows.append(row | {"num_decay_steps": decay} | special | {"factors": factors})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    made_with = f"torch {torch.__version__}, transformers {transformers.__version__}"
    tensors = {k: v.detach().contiguous() for k, v in trajectory().items()}
    save_file(tensors, out / "trajectory.safetensors", metadata={"made_with": made_with})
    (out / "trajectory.safetensors").chmod(0o644)
    with open(out / "schedules.json", "w") as file:
        rows = ",\n".join(json.dumps(row) for row in schedules())
        file.write(f'{{"made_with": "{made_with}",\n"schedules": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
