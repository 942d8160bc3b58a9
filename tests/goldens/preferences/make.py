"""Goldens of preference losses: TRL's own losses, and hand arithmetic where TRL has none.

    python make.py --out .

`preferences.json` holds numbers with all their digits:

    sets    NAME: per side (chosen, rejected) `lengths` [pairs], and flat over the tokens of all pairs in order
            `logps` (policy), `reference`, `previous`, `log_sum_sq` (log of the summed squares of the distribution
            that a token was drawn from); per pair `win_rates` of each side and `margins`.
            near: a few nats apart. far: hundreds of nats, ties, an answer of one token.
    cases   name, set, by (trl, trl_f32, hand), settings, `loss` (mean over the pairs), `grad.chosen`,
            `grad.rejected`: of the loss by the token log-probs of the policy; `metrics` of TRL, each set of them once.
    answers, kto: likewise for answers that are good or bad by themselves (`grad` by the sequence log-probs).

By whom a number is:

    trl      (`by_trl.py`) `DPOTrainer._compute_loss`, `KTOTrainer._compute_loss`, `CPOTrainer.get_batch_loss_metrics` in float64,
             called on a stand-in for the trainer whose model returns the log-probs above; gradients by autograd.
    trl_f32  likewise where TRL itself goes to float32: `ORPOTrainer.get_batch_loss_metrics`, alpha_divergence, the
             label smoothing of exo_pair.
    hand     (`by_hand.py`) numpy in float64 from the equation of the paper, with the derivative by hand: TRL has no such loss, or
             computes it in float32 only, or not in these tails.

A TRL case whose numbers are not finite is left out and its name printed.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import trl
from by_hand import by_hand
from by_trl import SIDES, by_dpo_trainer, by_kto_trainer, by_reference_free, pair_by_pair



def make_sets() -> dict:
    generator = np.random.default_rng(11)

    def near() -> dict:
        pairs = 6
        sides = {}
        for side in SIDES:
            lengths = generator.integers(1, 6, pairs)
            n = lengths.sum()
            logps = -3 * generator.random(n)
            sides[side] = {
                "lengths": lengths,
                "logps": logps,
                "reference": logps + 0.8 * generator.standard_normal(n),
                "previous": logps + 0.5 * generator.standard_normal(n),
                "log_sum_sq": -2 * generator.random(n),
                "win_rates": generator.random(pairs),
            }
        return sides | {"margins": generator.standard_normal(pairs)}

    def far() -> dict:
        # Sums over a pair's answers; policy and reference differ by up to 700 nats, and by nothing at all.
        policy = {"chosen": [-900.0, -5.0, -40.0, -40.0, -300.0], "rejected": [-4.0, -800.0, -40.0, -300.0, -2.0]}
        reference = {"chosen": [-200.0, -600.0, -40.0, -40.0, -299.0], "rejected": [-500.0, -100.0, -40.0, -280.0, -1.0]}
        lengths = {"chosen": [4, 1, 3, 2, 5], "rejected": [2, 4, 3, 2, 1]}
        sides = {}
        for side in SIDES:
            spread = lambda sums: np.concatenate([np.full(n, s / n) for s, n in zip(sums, lengths[side], strict=True)])
            sides[side] = {
                "lengths": np.array(lengths[side]),
                "logps": spread(policy[side]),
                "reference": spread(reference[side]),
                "previous": spread([r - 3.0 for r in reference[side]]),
                "log_sum_sq": -np.ones(sum(lengths[side])),
                "win_rates": np.array([0.0, 1.0, 0.5, 0.25, 0.75]),
            }
        return sides | {"margins": np.array([0.0, 100.0, -100.0, 1.0, -1.0])}

    return {"near": near(), "far": far()}


def pair_cases(sets: dict) -> list:
    rows, seen = [], set()

    def case(by, compute, loss, where=("near", "far"), **settings) -> None:
        losses = loss if isinstance(loss, list) else [loss]
        settings = {"loss_type": losses} | settings
        for name in where:
            result = compute(sets[name], settings)
            numbers = [result["loss"], *result["grad.chosen"], *result["grad.rejected"]]
            extra = " ".join(f"{k}={v}" for k, v in settings.items() if k != "loss_type")
            title = " ".join(filter(None, ["+".join(losses), extra, name, f"({by})"]))
            if not all(map(math.isfinite, numbers)):
                print("not finite:", title)
                continue
            # Most losses log the same metrics.
            if (metrics := tuple(result.get("metrics", {}).items())) in seen:
                result.pop("metrics", None)
            seen.add(metrics)
            rows.append({"name": title, "set": name, "by": by, "settings": settings, **result})

    dpo = lambda *args, **kwargs: case("trl", by_dpo_trainer, *args, **kwargs)
    # EXO's label smoothing is rounded to float32 whatever the log-probs are.
    exo = lambda *args, **kwargs: case("trl_f32", by_dpo_trainer, *args, **kwargs)
    in_f32 = lambda data, settings: by_dpo_trainer(data, settings, torch.float32)
    for beta in (0.1, 0.7):
        for loss in ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero",
                     "apo_down", "discopop", "sigmoid_norm"):
            dpo(loss, beta=beta)
    for eps in (0.1, 1e-3):
        for loss in ("robust", "aot", "aot_unpaired"):
            dpo(loss, label_smoothing=eps)
        exo("exo_pair", label_smoothing=eps)
        case("hand", by_hand, "exo_pair", label_smoothing=eps)
        case("trl", pair_by_pair, "sigmoid", label_smoothing=eps)
    dpo("robust")
    dpo("discopop", discopop_tau=0.5)
    dpo("sft")
    dpo(["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])
    dpo(["ipo", "apo_zero"], beta=0.3)
    dpo("sigmoid", rpo_alpha=0.4)
    for divergence in ("forward_kl", "js_divergence"):
        # Far off, forward_kl's scores are about e^700 in float64, and infinite in float32.
        where = ["near"] if divergence == "forward_kl" else ["near", "far"]
        for loss in ("sigmoid", "sigmoid_norm", "hinge", "ipo", "discopop"):
            dpo(loss, f_divergence_type=divergence, where=where)
        dpo("robust", f_divergence_type=divergence, label_smoothing=0.05, where=where)
        exo("exo_pair", f_divergence_type=divergence, label_smoothing=0.05, where=where)
        case("hand", by_hand, "exo_pair", f_divergence_type=divergence, label_smoothing=0.05, where=where)
    for alpha in (0.5, 0.9, 1.0):
        settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": alpha}
        case("trl_f32", in_f32, "sigmoid", where=["near"], **settings)
        case("trl_f32", in_f32, "ipo", where=["near"], **settings)
        if alpha < 1:
            case("hand", by_hand, "sigmoid", where=["near"], **settings)
            case("hand", by_hand, "ipo_sum", where=["near"], **settings)
    for loss in ("sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"):
        if loss != "hinge":  # its backward pass fails: the weights are multiplied into relu's result in place
            dpo(loss, use_weighting=True, where=["near"])
        dpo(loss, ld_alpha=0.3, where=["near"])
    for alpha in (0.0, 1.0):
        dpo("sigmoid", ld_alpha=alpha)
    dpo("aot", ld_alpha=0.3)

    hand = lambda *args, **kwargs: case("hand", by_hand, *args, **kwargs)
    hand("sigmoid", label_smoothing=0.2)
    hand("sigmoid", margins=True, label_smoothing=0.2)
    hand("hinge", margins=True)
    hand("hinge", use_weighting=True, where=["near"])
    hand("sigmoid", f_divergence_type="forward_kl", where=["near"])
    hand("discopop")
    hand("discopop", beta=0.7, discopop_tau=0.5)
    hand("sigmoid", reference_free=True)
    hand("ipo_sum", reference_free=True)
    hand("bco_pair", bco_delta=-0.35)
    hand("bco_pair", bco_delta=2.0, beta=0.5)
    for beta in (0.05, 1.0):
        hand("dno", beta=beta)
        hand("dno", beta=beta, dno_scale=5.0)
        hand("dno", beta=beta, mixture_ratio=0.25)
        hand("ipo_sum", beta=beta)
        hand("sppo", beta=beta)
        hand("inpo", beta=beta, mixture_ratio=1 / 3)
    hand("sigmoid", mixture_ratio=0.0)
    hand("orpo")
    hand("orpo", beta=0.8)

    free = lambda *args, **kwargs: case("trl", by_reference_free, *args, **kwargs)
    for eps in (0.0, 0.1):
        free("simpo", beta=2.5, simpo_gamma=1.4, label_smoothing=eps)
        free("cpo", label_smoothing=eps)
    free("cpo", beta=0.5, cpo_alpha=0.2)
    free("simpo")
    orpo_f32 = lambda data, settings: by_reference_free(data, settings, torch.float32)
    case("trl_f32", orpo_f32, "orpo")
    case("trl_f32", orpo_f32, "orpo", beta=0.8)
    return rows


def kto_cases() -> tuple[dict, list]:
    generator = np.random.default_rng(12)
    policy = -30 * generator.random(7)
    answers = {
        "policy": np.concatenate([policy, [-900.0, -3.0]]),
        "reference": np.concatenate([policy + 2 * generator.standard_normal(7), [-100.0, -700.0]]),
        "desirable": np.array([1, 1, 0, 1, 0, 0, 1, 1, 0]).astype(bool),
        # Answers to other prompts, for the estimate of the divergence.
        "kl_policy": -30 * generator.random(9),
    }
    answers["kl_reference"] = answers["kl_policy"] - 0.7 + 0.5 * generator.standard_normal(9)
    worse = {"kl_reference": answers["kl_policy"] + 1.0}
    rows = []
    for name, settings in {
        "kto": {},
        "kto weighted": {"beta": 0.6, "desirable_weight": 1.3, "undesirable_weight": 0.4},
        "kto with a negative estimate": {"negative": True},
        "apo_zero_unpaired": {"loss_type": "apo_zero_unpaired", "beta": 0.3, "undesirable_weight": 2.0},
        "kto all good": {"only": True},
        "kto all bad": {"only": False},
    }.items():
        data = dict(answers)
        if settings.get("negative"):
            data |= worse
        keep = np.ones(9, bool) if "only" not in settings else data["desirable"] == settings["only"]
        kept = {key: values[keep] for key, values in data.items()}
        rows.append({"name": name, "settings": settings, **by_kto_trainer(kept, settings)})
    return answers, rows


def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sets = make_sets()
    cases = pair_cases(sets)
    answers, kto = kto_cases()
    lines = lambda rows: ",\n".join(json.dumps(row) for row in rows)
    made_with = json.dumps(f"torch {torch.__version__}, trl {trl.__version__}, numpy {np.__version__}")
    text = f'{{"made_with": {made_with},\n"sets": {json.dumps(plain(sets))},\n"cases": [\n{lines(cases)}\n],\n'
    text += f'"answers": {json.dumps(plain(answers))},\n"kto": [\n{lines(kto)}\n]}}\n'
    (out / "preferences.json").write_text(text)
    print(len(cases), "cases of pairs,", len(kto), "of answers,", len(text), "bytes")


if __name__ == "__main__":
    main()
