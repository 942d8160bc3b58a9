"""Goldens of objectives: TRL's DPO loss and transformers' completion-only SFT loss.

    python make.py --out .

The DPO figures come out of `trl.DPOTrainer._compute_loss` itself, called on a stand-in for the trainer whose
model returns the log-probabilities below. `dpo.safetensors`:

    logps.chosen, logps.rejected [6, 9]   token log-probabilities under the policy, 0 where mask is 0
    mask.chosen, mask.rejected [6, 9] u8  1 for tokens of the completion (shifted: one per predicted token)
    ref.chosen, ref.rejected [6]          sequence log-probabilities under the reference
    margins [6]                           per-pair additions to the logit (used by `margin` cases only)
    CASE.loss []                          mean over the pairs
    CASE.pair_losses [6]                  loss of each pair alone (not where the loss couples the pairs)
    CASE.grad.chosen, CASE.grad.rejected  gradient of CASE.loss by the token log-probabilities

`dpo.json`: for each case its settings and TRL's metrics. Cases:

    sigmoid_*     loss_type sigmoid
    smoothed_*    cDPO's label smoothing. TRL applies `label_smoothing` in its `aot` loss, which for one pair
                  is the smoothed sigmoid loss; so each pair is computed alone and the mean taken
    rpo_*         loss_type [sigmoid, sft] with weights [1, rpo_alpha] (formerly `rpo_alpha`)
    margin_*      not in TRL: -logsigmoid(beta * delta + margin) by torch; metrics as for sigmoid

`sft.safetensors`: logits [2, 7, 11], labels [2, 7] i64 (-100 = not learnt); ForCausalLMLoss of transformers:
`loss` (mean over the learnt tokens), `loss.items` (sum divided by num_items_in_batch = 16), `grad` (of `loss` by
the logits); `token_logps`, `weights` [2, 6]: log-probability of each next token (0 where not learnt), 1 where
learnt.

CPU; DPO in float64 and stored as float32, SFT in float32.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
import transformers
import trl
from safetensors.torch import save_file
from transformers.loss.loss_utils import ForCausalLMLoss
from trl import DPOTrainer

PAIRS, TOKENS = 6, 9
METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)


def trl_loss(chosen, rejected, masks, refs, beta, loss_types, weights, smoothing=0.0):
    """Loss and metrics by TRL's own code; `chosen` and `rejected` are [pairs, tokens] log-probabilities."""
    logps = torch.cat([chosen, rejected])
    mask = torch.cat(masks).long()

    def model(**_):
        zeros = torch.zeros_like(logps)
        return SimpleNamespace(log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    model.training = True
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(device="cpu", gather=lambda t: t, gather_for_metrics=lambda t: t),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=loss_types,
        loss_weights=weights,
        beta=beta,
        label_smoothing=smoothing,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    completion_mask = F.pad(mask, (1, 0))  # the first token predicts nothing
    inputs = {
        "input_ids": torch.zeros_like(completion_mask),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask,
        "ref_chosen_logps": refs[0],
        "ref_rejected_logps": refs[1],
    }
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    return loss, {name: trainer._metrics["train"][name][0] for name in METRICS}


def dpo(out: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, TOKENS + 1, (2, PAIRS), generator=generator)
    starts = torch.minimum(torch.tensor([[0, 2, 1, 0, 3, 1]]), TOKENS - lengths)
    at = torch.arange(TOKENS)
    masks = [(at >= s[:, None]) & (at < (s + n)[:, None]) for s, n in zip(starts, lengths, strict=True)]
    tokens = [-(torch.rand(PAIRS, TOKENS, generator=generator) * 4).float() * m for m in masks]
    # The reference differs from the policy by a few nats; pair 3 is far off, for the tails of the sigmoid.
    refs = [
        (t.sum(1) + torch.randn(PAIRS, generator=generator) * 3 + shift).float()
        for t, shift in zip(tokens, (torch.tensor([0, 0, 0, -200.0, 0, 0]), 0), strict=True)
    ]
    margins = torch.tensor([0.0, 0.3, -0.2, 0.1, 1.5, -1.0])

    tensors = {"logps.chosen": tokens[0], "logps.rejected": tokens[1], "margins": margins}
    tensors |= {f"mask.{k}": m.to(torch.uint8) for k, m in zip(("chosen", "rejected"), masks, strict=True)}
    tensors |= {"ref.chosen": refs[0], "ref.rejected": refs[1]}
    wide_refs = [r.double() for r in refs]
    rows = []

    def case(name: str, settings: dict, compute) -> None:
        wide = [t.double().requires_grad_() for t in tokens]
        loss, pair_losses, metrics = compute(*wide)
        loss.backward()
        tensors[f"{name}.loss"] = loss.detach().float()
        if pair_losses is not None:
            tensors[f"{name}.pair_losses"] = pair_losses.detach().float()
        for key, value in zip(("chosen", "rejected"), wide, strict=True):
            tensors[f"{name}.grad.{key}"] = value.grad.float()
        rows.append({"name": name, **settings, "metrics": metrics})

    def pairwise(chosen, rejected, beta, loss_type, smoothing=0.0):
        losses, metrics = [], defaultdict(list)
        for i in range(PAIRS):
            one = slice(i, i + 1)
            loss, row = trl_loss(
                chosen[one], rejected[one], [m[one] for m in masks], [r[one] for r in wide_refs],
                beta, [loss_type], [1.0], smoothing,
            )
            losses.append(loss)
            for key, value in row.items():
                metrics[key].append(value)
        losses = torch.stack(losses)
        return losses, {key: sum(values) / PAIRS for key, values in metrics.items()}

    for beta in (0.1, 0.5):

        def sigmoid(chosen, rejected, beta=beta):
            losses, _ = pairwise(chosen, rejected, beta, "sigmoid")
            loss, metrics = trl_loss(chosen, rejected, masks, wide_refs, beta, ["sigmoid"], [1.0])
            assert torch.allclose(losses.mean(), loss)
            return loss, losses, metrics

        case(f"sigmoid_{beta}", {"beta": beta}, sigmoid)

        def smoothed(chosen, rejected, beta=beta):
            losses, metrics = pairwise(chosen, rejected, beta, "aot", 0.1)
            return losses.mean(), losses, metrics

        case(f"smoothed_{beta}", {"beta": beta, "label_smoothing": 0.1}, smoothed)

        def rpo(chosen, rejected, beta=beta):
            loss, metrics = trl_loss(chosen, rejected, masks, wide_refs, beta, ["sigmoid", "sft"], [1.0, 0.2])
            return loss, None, metrics

        case(f"rpo_{beta}", {"beta": beta, "rpo_alpha": 0.2}, rpo)

        def margin(chosen, rejected, beta=beta):
            delta = (chosen.sum(1) - wide_refs[0]) - (rejected.sum(1) - wide_refs[1])
            losses = -F.logsigmoid(beta * delta + margins.double())
            _, metrics = trl_loss(chosen, rejected, masks, wide_refs, beta, ["sigmoid"], [1.0])
            return losses.mean(), losses, metrics

        case(f"margin_{beta}", {"beta": beta, "margin": True}, margin)

    made_with = f"torch {torch.__version__}, trl {trl.__version__}"
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "dpo.safetensors", metadata={"made_with": made_with})
    lines = ",\n".join(json.dumps(row) for row in rows)
    (out / "dpo.json").write_text(f'{{"made_with": "{made_with}",\n"cases": [\n{lines}\n]}}\n')


def sft(out: Path) -> None:
    generator = torch.Generator().manual_seed(6)
    logits = (2 * torch.randn(2, 7, 11, generator=generator)).requires_grad_()
    labels = torch.randint(0, 11, (2, 7), generator=generator)
    labels[0, :3] = -100
    labels[1, :2] = -100
    labels[1, 6:] = -100
    loss = ForCausalLMLoss(logits, labels, 11)
    loss.backward()
    with torch.no_grad():
        items = ForCausalLMLoss(logits, labels, 11, num_items_in_batch=torch.tensor(16))
        next_tokens = labels[:, 1:]
        weights = (next_tokens != -100).float()
        logps = torch.log_softmax(logits[:, :-1], -1).gather(2, next_tokens.clamp(min=0)[:, :, None])[:, :, 0]
    tensors = {
        "logits": logits.detach(),
        "labels": labels,
        "loss": loss.detach(),
        "loss.items": items,
        "grad": logits.grad,
        "token_logps": logps * weights,
        "weights": weights,
    }
    made_with = f"torch {torch.__version__}, transformers {transformers.__version__}"
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "sft.safetensors", metadata={"made_with": made_with})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    dpo(out)
    sft(out)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
