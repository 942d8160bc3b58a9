"""Goldens of the policy-gradient objectives: numbers by TRL's and verl's own code.

    python make.py --out .

Needs torch, trl and verl (`pip install --no-deps verl`: of verl only `core_algos` and what it imports is loaded, past
packages' own imports of Ray and the like). Everything in float64 on the CPU. Writes `policy.json`:

    made_with     versions
    tokens        flat tokens of seven completions: `segments`, `weights` (0 for a tool's tokens; all 0 in completion
                  3), `logps`, `old_logps`, `reference_logps`, `entropies`, `corrections`, `token_advantages`,
                  `values`, `old_values`, `returns`, `rewards`, `far_old_logps` (beyond verl's
                  clamps); and `advantages` of the completions
    losses        cases: `name`, `source` (trl or verl), settings, `loss`, `grad` by the log-probs (zeros where
                  the weight is 0), `metrics`; `without` lists completions that are left out of the case
    advantages    cases of advantages: `name`, settings, `advantages` (and `returns`)
    values        cases of the value loss: settings, `loss`, `grad`, `clipfrac`
    figures       single numbers: KL estimates with gradients, controllers, masks

TRL's losses (`losses.py`) are `GRPOTrainer._compute_loss`, `GMPOTrainer._compute_loss` and `RLOOTrainer._compute_loss`,
called on a stand-in for the trainer whose model returns the log-probabilities; its advantages and corrections
(`advantages.py`) are lines of `_generate_and_score_completions`, cut out of its source and run. verl's are its functions.
DAPO's punishment, where verl goes on beyond the paper, is numpy from the equation.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import trl
from advantages import advantages, sampler_corrections
from common import EMPTY, GROUPS, LENGTHS, VERL, VERL_F, VERL_VERSION, draw, flat, listed, pad
from losses import Losses


def values(data):
    rows = []
    mask = pad(data["weights"])
    for agg in ("token-mean", "seq-mean-token-mean"):
        for clip in (0.2, 0.5):
            v = pad(data["values"]).requires_grad_()
            loss, clipfrac = VERL.compute_value_loss(v, pad(data["returns"]), pad(data["old_values"]), mask, clip, agg)
            loss.backward()
            row = {"loss_agg_mode": agg, "cliprange_value": clip, "loss": loss.item(), "clipfrac": clipfrac.item()}
            rows.append({**row, "grad": listed(flat(v.grad * mask))})
    return rows


def figures(data, losses):
    logps, ref = data["logps"].clone(), data["reference_logps"].clone()
    logps[0], ref[0] = -1.0, -30.0  # beyond the clamps of k3
    logps[1], ref[1] = -6.0, -0.5
    logps[4] = ref[4]
    kl = []
    for name in ("k1", "abs", "k2", "k3", "k1+", "k3+", "low_var_kl", "mse"):
        x = logps.clone().requires_grad_()
        out = VERL.kl_penalty(x, ref, name)
        out.sum().backward()
        kl.append({"name": name, "value": listed(out), "grad": listed(x.grad)})
    controller = VERL.AdaptiveKLController(0.05, 0.1, 10000)
    steps = [(0.3, 512), (0.09, 512), (0.01, 256), (0.115, 1024)]
    adaptive = []
    for current, n in steps:
        controller.update(current, n)
        adaptive.append([current, n, float(controller.value)])
    mask = pad(data["weights"])
    kld = VERL.kl_penalty(pad(data["old_logps"]), pad(data["reference_logps"]), "k1") * mask
    keep = [i for i in range(len(LENGTHS)) if i != EMPTY]  # verl divides by 0 there
    per_row = VERL_F.masked_mean(kld[keep], mask=mask[keep], axis=-1)
    reward_kl = {"rewards": listed(flat(pad(data["rewards"]) - 0.05 * kld)), "current_kl": per_row.mean().item()}
    valid = data["weights"].bool()
    diff = torch.var(data["returns"][valid] - data["old_values"][valid])
    explained = 1.0 - diff / (torch.var(data["returns"][valid]) + 1e-5)
    return {
        "kl": {"logps": listed(logps), "reference": listed(ref), "cases": kl},
        "adaptive_kl": adaptive,
        "adaptive_entropy": losses.entropy_control(),
        "sampler_corrections": sampler_corrections(data),
        "reward_kl": reward_kl,
        "explained_variance": explained.item(),
        "overlong": [[n, float(-np.clip((n - 16) / 4, 0, 1) * 0.5)] for n in (0, 15, 16, 17, 19, 20, 25)],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)  # or both libraries round some of their constants to float32
    data = draw()
    losses = Losses(data)
    losses.all()
    tokens = {"segments": [i for i, n in enumerate(LENGTHS) for _ in range(n)], "groups": GROUPS}
    tokens |= {k: listed(v) for k, v in data.items()}
    whole = {
        "made_with": f"torch {torch.__version__}, trl {trl.__version__}, verl {VERL_VERSION}",
        "tokens": tokens,
        "losses": losses.rows,
        "advantages": advantages(data),
        "values": values(data),
        "figures": figures(data, losses),
    }
    parts = [f'"made_with": {json.dumps(whole["made_with"])}']
    for key in ("tokens", "figures"):
        parts.append(f'"{key}": {{\n' + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in whole[key].items()) + "\n}")
    for key in ("losses", "values"):
        parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in whole[key]) + "\n]")
    rows = whole["advantages"].pop("cases")
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in whole["advantages"].items()]
    lines.append('"cases": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    parts.append('"advantages": {\n' + ",\n".join(lines) + "\n}")
    (out / "policy.json").write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    main()
