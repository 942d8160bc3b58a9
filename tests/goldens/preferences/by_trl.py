"""TRL's own loss code, called on stand-ins for its trainers whose models return given log-probabilities."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

SIDES = ("chosen", "rejected")
SHARED_METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)


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


def by_kto_trainer(answers: dict, settings: dict) -> dict:
    take = lambda key: torch.tensor(answers[key])
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
    return {"loss": loss.item(), "grad": logps.grad.tolist(), "metrics": {n: metrics[n][0] for n in names}}
