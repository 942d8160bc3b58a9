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

    trl      `DPOTrainer._compute_loss`, `KTOTrainer._compute_loss`, `CPOTrainer.get_batch_loss_metrics` in float64,
             called on a stand-in for the trainer whose model returns the log-probs above; gradients by autograd.
    trl_f32  likewise where TRL itself goes to float32: `ORPOTrainer.get_batch_loss_metrics`, alpha_divergence, the
             label smoothing of exo_pair.
    hand     numpy in float64 from the equation of the paper, with the derivative by hand: TRL has no such loss, or
             computes it in float32 only, or not in these tails.

A TRL case whose numbers are not finite is left out and its name printed.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
import trl
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

SIDES = ("chosen", "rejected")
SHARED_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")


# The pairs


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


class Pairs:
    """A set with its padded tensors, [2 * pairs, tokens], chosen before rejected."""

    def __init__(self, data: dict, dtype):
        self.data, self.count = data, len(data["margins"])
        lengths = np.concatenate([data[s]["lengths"] for s in SIDES])
        self.width = int(lengths.max())
        self.mask = torch.arange(self.width) < torch.tensor(lengths)[:, None]
        self.padded = {}
        for key in ("logps", "reference", "log_sum_sq"):
            full = torch.zeros(self.mask.shape, dtype=torch.float64)
            full[self.mask] = torch.tensor(np.concatenate([data[s][key] for s in SIDES]))
            self.padded[key] = full.to(dtype)

    def grads(self, padded) -> dict:
        flat = [padded[i][self.mask[i]] for i in range(2 * self.count)]
        halves = flat[: self.count], flat[self.count :]
        return {f"grad.{s}": torch.cat(h).double().tolist() for s, h in zip(SIDES, halves, strict=True)}


# TRL


class Returns(torch.nn.Module):
    """A model that gives what it is told to, whatever is put in."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs, **more):
        super().__init__()
        zeros = torch.zeros_like(log_probs)
        self.outputs = {"log_probs": log_probs, "entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool()} | more

    def forward(self, **_):
        return SimpleNamespace(**self.outputs)


def dpo_trainer(pairs: Pairs, logps, settings: dict):
    mask = pairs.mask.long()
    trainer = SimpleNamespace(
        model=Returns(logps, log_sum_sq_probs=pairs.padded["log_sum_sq"]),
        ref_model=Returns(pairs.padded["reference"]),
        accelerator=SimpleNamespace(device="cpu", gather=lambda t: t, gather_for_metrics=lambda t: t),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=settings.get("discopop_tau", 0.05)),
        aux_loss_enabled=False,
        ld_alpha=settings.get("ld_alpha"),
        precompute_ref_logps=False,
        f_divergence_type=settings.get("f_divergence_type", "reverse_kl"),
        f_alpha_divergence_coef=settings.get("f_alpha_divergence_coef", 0.5),
        loss_types=settings["loss_type"],
        loss_weights=settings.get("loss_weights") or [1.0] * len(settings["loss_type"]),
        beta=settings.get("beta", 0.1),
        label_smoothing=settings.get("label_smoothing", 0.0),
        use_weighting=settings.get("use_weighting", False),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    completion_mask = F.pad(mask, (1, 0))  # the first token predicts nothing
    inputs = {
        "input_ids": torch.zeros_like(completion_mask),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask,
    }
    return trainer, inputs


def by_dpo_trainer(data: dict, settings: dict, dtype=torch.float64) -> dict:
    # As the trainer's constructor has it, with a new name for rpo_alpha.
    settings = dict(settings)
    if alpha := settings.pop("rpo_alpha", None):
        weights = settings.get("loss_weights") or [1.0] * len(settings["loss_type"])
        settings |= {"loss_type": settings["loss_type"] + ["sft"], "loss_weights": weights + [alpha]}
    pairs = Pairs(data, dtype)
    logps = pairs.padded["logps"].clone().requires_grad_()
    trainer, inputs = dpo_trainer(pairs, logps, settings)
    loss = DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)
    loss.backward()
    metrics = {name: trainer._metrics["train"][name][0] for name in SHARED_METRICS}
    return {"loss": loss.item(), **pairs.grads(logps.grad), "metrics": metrics}


def pair_by_pair(data: dict, settings: dict) -> dict:
    """TRL's `aot` of one pair is DPO with label smoothing."""
    pairs = Pairs(data, torch.float64)
    logps = pairs.padded["logps"].clone().requires_grad_()
    losses = []
    for i in range(pairs.count):
        rows = torch.tensor([i, pairs.count + i])
        one = SimpleNamespace(mask=pairs.mask[rows], padded={k: v[rows] for k, v in pairs.padded.items()})
        trainer, inputs = dpo_trainer(one, logps[rows], settings | {"loss_type": ["aot"]})
        losses.append(DPOTrainer._compute_loss(trainer, trainer.model, inputs, False))
    loss = torch.stack(losses).mean()
    loss.backward()
    return {"loss": loss.item(), **pairs.grads(logps.grad)}


def by_reference_free(data: dict, settings: dict, dtype=torch.float64) -> dict:
    """CPO, SimPO and ORPO; what their forward pass would return is made from the log-probs."""
    pairs = Pairs(data, dtype)
    (kind,) = settings["loss_type"]
    logps = pairs.padded["logps"].clone().requires_grad_()
    sums, lengths = (logps * pairs.mask).sum(1), pairs.mask.sum(1)
    nll = -logps[: pairs.count][pairs.mask[: pairs.count]].mean()
    outputs = sums / lengths if kind in ("simpo", "orpo") else sums
    chosen, rejected = outputs[: pairs.count], outputs[pairs.count :]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda t: t),
        concatenated_forward=lambda model, batch: (chosen, rejected, sums, sums, nll),
        aux_loss_enabled=False,
        beta=settings.get("beta", 0.1),
        label_smoothing=settings.get("label_smoothing", 0.0),
        loss_type={"cpo": "sigmoid"}.get(kind, kind),
        simpo_gamma=settings.get("simpo_gamma", 0.5),
        cpo_alpha=0.0 if kind == "simpo" else settings.get("cpo_alpha", 1.0),
        alpha=0.0,
    )
    cls = ORPOTrainer if kind == "orpo" else CPOTrainer
    for name in ("cpo_loss", "odds_ratio_loss"):
        if hasattr(cls, name):
            setattr(trainer, name, lambda c, r, f=getattr(cls, name): f(trainer, c, r))
    loss, metrics = cls.get_batch_loss_metrics(trainer, None, {})
    loss.backward()
    # Their logps/* are averages where the loss is about averages.
    metrics = {name: metrics[name] for name in SHARED_METRICS if name.startswith("rewards")}
    return {"loss": loss.item(), **pairs.grads(logps.grad), "metrics": metrics}


# By hand: from the sums over tokens and their derivatives


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def log_sigmoid(x):
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def by_hand(data: dict, settings: dict) -> dict:
    (kind,) = settings["loss_type"]
    beta, eps = settings.get("beta", 0.1), settings.get("label_smoothing", 0.0)
    lengths = [data[s]["lengths"] for s in SIDES]
    # `of` sums tokens over answers; `slopes` are d loss / d sum, given to each token of the answer.
    cuts = [np.concatenate([[0], np.cumsum(n)]) for n in lengths]
    of = lambda key: [np.array([data[s][key][a:b].sum() for a, b in zip(c, c[1:])]) for s, c in zip(SIDES, cuts, strict=True)]
    policy, reference, previous = of("logps"), of("reference"), of("previous")
    share = settings.get("mixture_ratio", 1.0)
    anchor = [share * r + (1 - share) * p for r, p in zip(reference, previous, strict=True)]
    if settings.get("reference_free"):
        anchor = [np.zeros_like(a) for a in anchor]
    ratio = [p - a for p, a in zip(policy, anchor, strict=True)]
    rates = [data[s]["win_rates"] for s in SIDES]
    margins = data["margins"] if settings.get("margins") else 0.0
    ones = np.ones_like(policy[0])
    score, slope = ratio, [ones, ones]
    divergence, alpha = settings.get("f_divergence_type"), settings.get("f_alpha_divergence_coef", 0.5)
    if divergence == "alpha_divergence":
        score = [np.expm1((alpha - 1) * u) / (alpha - 1) for u in ratio]
        slope = [np.exp((alpha - 1) * u) for u in ratio]
    elif divergence == "forward_kl":
        score = [-np.expm1(-u) for u in ratio]
        slope = [np.exp(-u) for u in ratio]
    elif divergence == "js_divergence":
        score = [math.log(2) + log_sigmoid(u) for u in ratio]
        slope = [sigmoid(-u) for u in ratio]
    logit = beta * (score[0] - score[1]) + margins
    both = lambda slopes: (slopes * beta * slope[0], -slopes * beta * slope[1])

    if kind == "sigmoid":
        losses = -(1 - eps) * log_sigmoid(logit) - eps * log_sigmoid(-logit)
        slopes = both(eps * sigmoid(logit) - (1 - eps) * sigmoid(-logit))
    elif kind == "exo_pair":
        q, other = sigmoid(logit), sigmoid(-logit)
        losses = q * (log_sigmoid(logit) - np.log1p(-eps)) + other * (log_sigmoid(-logit) - np.log(eps))
        # log q - log (1 - q) is the logit.
        slopes = both(q * other * (logit - np.log((1 - eps) / eps)))
    elif kind == "hinge":
        losses = np.maximum(0, 1 - logit)
        slopes = both(np.where(logit < 1, -1.0, 0.0))
    elif kind == "discopop":
        tau = settings.get("discopop_tau", 0.05)
        # m = 1 / (1 + e^(-h / tau)); m e^(-h) = e^(-h (1 - 1 / tau)) / (1 + e^(h / tau)) where h is negative.
        m = sigmoid(logit / tau)
        pushed = np.exp(np.where(logit >= 0, -logit, (1 / tau - 1) * logit)) / (1 + np.exp(-np.abs(logit) / tau))
        losses = -log_sigmoid(logit) * (1 - m) + pushed
        # (m e^-h)' = m e^-h ((1 - m) / tau - 1)
        slopes = both(-sigmoid(-logit) * (1 - m) + log_sigmoid(logit) * m * (1 - m) / tau + pushed * ((1 - m) / tau - 1))
    elif kind == "dno":
        target = sigmoid(settings.get("dno_scale", 1.0) * (rates[0] - rates[1]))
        losses = -target * log_sigmoid(logit) - (1 - target) * log_sigmoid(-logit)
        slopes = both(sigmoid(logit) - target)
    elif kind in ("ipo_sum", "inpo"):
        error = score[0] - score[1] - 1 / (2 * beta)
        losses, slopes = error**2, (2 * error * slope[0], -2 * error * slope[1])
    elif kind == "sppo":
        errors = [u - (p - 0.5) / beta for u, p in zip(ratio, rates, strict=True)]
        losses, slopes = (errors[0] ** 2 + errors[1] ** 2) / 2, errors
    elif kind == "bco_pair":
        above = [beta * u - settings["bco_delta"] for u in ratio]
        losses = -log_sigmoid(above[0]) - log_sigmoid(-above[1])
        slopes = -beta * sigmoid(-above[0]), beta * sigmoid(above[1])
    elif kind == "orpo":
        # log odds = a - log(1 - e^a), whose derivative by a is 1 / (1 - e^a).
        averages = [p / n for p, n in zip(policy, lengths, strict=True)]
        odds = [a - np.log(-np.expm1(a)) for a in averages]
        apart = odds[0] - odds[1]
        losses = -beta * log_sigmoid(apart)
        steep = [1 / (-np.expm1(a) * n) for a, n in zip(averages, lengths, strict=True)]
        slopes = -beta * sigmoid(-apart) * steep[0], beta * sigmoid(-apart) * steep[1]
    else:
        raise ValueError(kind)

    if settings.get("use_weighting"):
        aligned = [a - b for a, b in zip(policy, of("log_sum_sq"), strict=True)]
        weight = np.exp(aligned[0] / lengths[0]) * np.exp(aligned[1] / lengths[1])
        losses, slopes = losses * weight, [s * weight for s in slopes]
    pairs = len(losses)
    loss, grads = losses.mean(), {}
    for side, values, n in zip(SIDES, slopes, lengths, strict=True):
        grads[f"grad.{side}"] = np.repeat(values / pairs, n)
    if kind == "orpo":
        tokens = data["chosen"]["logps"]
        loss = loss - tokens.mean()
        grads["grad.chosen"] = grads["grad.chosen"] - 1 / len(tokens)
    return {"loss": float(loss), **{k: v.tolist() for k, v in grads.items()}}


# Cases


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
        take = lambda key: torch.tensor(data[key][keep])
        logps = take("policy").requires_grad_()
        kind = settings.get("loss_type", "kto")
        column = lambda t: t[:, None]  # one token each
        trainer = SimpleNamespace(
            model=Returns(column(logps), kl=take("kl_policy")),
            ref_model=Returns(column(take("reference")), kl=take("kl_reference")),
            accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda t: t),
            args=SimpleNamespace(gradient_checkpointing_kwargs=None),
            _compute_kl_logps=lambda model, batch: model.outputs["kl"] if kind == "kto" else None,
            aux_loss_enabled=False,
            precompute_ref_logps=False,
            calculate_KL=kind == "kto",
            loss_type=kind,
            beta=settings.get("beta", 0.1),
            desirable_weight=settings.get("desirable_weight", 1.0),
            undesirable_weight=settings.get("undesirable_weight", 1.0),
            _metrics={"train": defaultdict(list)},
            _total_train_tokens=0,
            _tp_size=1,
        )
        ids = torch.ones(len(logps), 2, dtype=torch.long)
        mask = torch.tensor([[0, 1]]).repeat(len(logps), 1)
        batch = {"input_ids": ids, "attention_mask": ids, "completion_mask": mask, "label": take("desirable")}
        loss = KTOTrainer._compute_loss(trainer, trainer.model, batch, False)
        loss.backward()
        metrics = trainer._metrics["train"]
        names = [n for n in (*SHARED_METRICS, "kl") if n in metrics]
        row = {"name": name, "settings": settings, "loss": loss.item(), "grad": logps.grad.tolist()}
        rows.append(row | {"metrics": {n: metrics[n][0] for n in names}})
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
