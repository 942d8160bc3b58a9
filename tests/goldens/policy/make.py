"""Goldens of the policy-gradient objectives: numbers by TRL's and verl's own code.

    python make.py --out .

Needs torch, trl and verl (`pip install --no-deps verl`: of verl only `core_algos` and what it imports is loaded, past
packages' own imports of Ray and the like). Everything in float64 on the CPU. Writes `policy.json`:

    made_with     versions
    tokens        flat tokens of seven completions: `segments`, `weights` (0 for a tool's tokens; all 0 in completion
                  3), `logps`, `old_logps`, `reference_logps`, `entropies`, `corrections`, `token_advantages`,
                  `values`, `old_values`, `returns`, `rewards`, `far_old_logps` (beyond
                  verl's clamps); and `advantages` of the completions
    losses        cases: `name`, `source` (trl, verl or numpy), settings, `loss`, `grad` by the log-probs (zeros where
                  the weight is 0), `metrics`; `without` lists completions that are left out of the case
    advantages    cases of advantages: `name`, settings, `advantages` (and `returns`)
    values        cases of the value loss: settings, `loss`, `grad`, `clipfrac`
    figures       single numbers: KL estimates with gradients, controllers, masks

TRL's losses are `GRPOTrainer._compute_loss`, `GMPOTrainer._compute_loss` and `RLOOTrainer._compute_loss`, called on a
stand-in for the trainer whose model returns the log-probabilities; TRL's advantages and corrections are
lines of `_generate_and_score_completions`, cut out of its source and run. verl's are its
functions. What neither has (DAPO's punishment as in the paper, verl's earlier Dr.GRPO) is numpy from the equation.
"""

import argparse
import importlib.util
import inspect
import json
import math
import sys
import textwrap
import types
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import trl
from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import nanstd

LENGTHS = [6, 3, 8, 4, 1, 7, 5]
GROUPS = [0, 0, 0, 1, 1, 1, 2]
EMPTY = 3
WIDTH = 10  # padded width, and TRL's max_completion_length


def load_verl():
    """verl's core_algos and torch_functional without the rest of the package."""
    root = Path(importlib.util.find_spec("verl").submodule_search_locations[0])

    def package(name, path=None, **members):
        module = types.ModuleType(name)
        module.__path__ = [str(path)] if path else []
        module.__dict__.update(members)
        sys.modules[name] = module

    class Config(SimpleNamespace):
        def get(self, key, default=None):
            return getattr(self, key, default)

    actor = type("ActorConfig", (Config,), {})
    algo = type("AlgoConfig", (Config,), {})
    package("verl", root)
    package("verl.trainer", root / "trainer")
    package("verl.trainer.config", AlgoConfig=algo)
    package("verl.trainer.ppo", root / "trainer" / "ppo")
    package("verl.workers")
    package("verl.workers.config", ActorConfig=actor)
    package("verl.utils", root / "utils")
    package("verl.utils.import_utils", deprecated=lambda *_: lambda f: f)
    package("verl.utils.device", get_device_name=lambda: "cpu", get_torch_device=lambda: torch.cpu)
    package("omegaconf", DictConfig=dict)
    package("tensordict", TensorDict=dict)
    from verl.utils.groupwise import as_torch_index, group_mean_std

    sys.modules["verl.utils"].__dict__.update(as_torch_index=as_torch_index, group_mean_std=group_mean_std)
    import verl.trainer.ppo.core_algos as algos
    import verl.utils.torch_functional as functional

    version = (root / "version" / "version").read_text().strip()
    return algos, functional, actor, algo, version


VERL, VERL_F, ActorConfig, AlgoConfig, VERL_VERSION = load_verl()


def pad(flat, fill=0.0):
    """[completions, WIDTH] of a flat list."""
    rows, at = torch.full((len(LENGTHS), WIDTH), fill, dtype=torch.float64), 0
    for i, n in enumerate(LENGTHS):
        rows[i, :n] = flat[at : at + n]
        at += n
    return rows


def flat(rows):
    return torch.cat([rows[i, :n] for i, n in enumerate(LENGTHS)])


def listed(x):
    return [float(v) for v in x.detach().reshape(-1)]


def draw():
    g = torch.Generator().manual_seed(11)
    n = sum(LENGTHS)
    normal = lambda scale, m=n: torch.randn(m, generator=g, dtype=torch.float64) * scale
    data = {"logps": -torch.rand(n, generator=g, dtype=torch.float64) * 3 - 0.01}
    data["old_logps"] = data["logps"] + normal(0.35)
    data["reference_logps"] = data["logps"] + normal(0.5)
    # A token beyond each clamp: of the ratio, up and down.
    data["old_logps"][2] = data["logps"][2] - 2.0
    data["old_logps"][12] = data["logps"][12] + 1.5
    data["old_logps"][7] = data["logps"][7] + 1.5
    data["old_logps"][25] = data["logps"][25] - 1.9
    # Log-ratios beyond verl's clamps: of tokens, and of the mean of a completion.
    data["far_old_logps"] = data["old_logps"].clone()
    for at, d in ((1, 24.0), (6, -23.0), (21, 12.0), (22, 30.0), (29, -40.0)):
        data["far_old_logps"][at] = data["logps"][at] - d
    data["entropies"] = torch.rand(n, generator=g, dtype=torch.float64) * 2
    data["corrections"] = torch.rand(n, generator=g, dtype=torch.float64) * 2
    data["token_advantages"] = normal(1.0)
    data["advantages"] = torch.tensor([1.3, -0.7, 0.4, -1.1, 0.9, -1.6, 0.8], dtype=torch.float64)
    data["old_values"] = normal(0.6)
    data["values"] = data["old_values"] + normal(0.5)
    data["returns"] = data["old_values"] + normal(0.7)
    data["rewards"] = normal(0.3)
    weights = torch.ones(n, dtype=torch.float64)
    weights[[3, 10, 11, 27]] = 0
    starts = np.cumsum([0, *LENGTHS])
    weights[starts[EMPTY] : starts[EMPTY + 1]] = 0
    data["weights"] = weights
    return data


class Losses:
    def __init__(self, data):
        self.data, self.rows = data, []
        self.mask = pad(data["weights"])
        self.padded = {k: pad(v) for k, v in data.items() if k != "advantages"}

    def take(self, name, without):
        """A padded input without some completions."""
        keep = [i for i in range(len(LENGTHS)) if i not in without]
        rows = self.data["advantages"] if name == "advantages" else self.padded[name]
        return rows[keep]

    def put(self, name, source, settings, loss, logps, metrics, without):
        loss.backward()
        keep = [i for i in range(len(LENGTHS)) if i not in without]
        grad = torch.zeros(len(LENGTHS), WIDTH, dtype=torch.float64)
        grad[keep] = logps.grad
        row = {"name": name, "source": source, **settings, "without": list(without), "loss": loss.item()}
        self.rows.append({**row, "grad": listed(flat(grad * self.mask)), "metrics": metrics})

    def trl(self, name, trainer=GRPOTrainer, without=(), token_advantages=False, corrections=False, old=True, **settings):
        args = {
            "loss_type": "grpo",
            "importance_sampling_level": "token",
            "epsilon": 0.2,
            "epsilon_high": None,
            "delta": None,
            "beta": 0.0,
            "use_bias_correction_kl": False,
            "entropy_coef": 0.0,
            "off_policy_mask_threshold": None,
            "top_entropy_quantile": 1.0,
            **settings,
        }
        high = args["epsilon_high"]
        high = args["epsilon"] if high is None else high
        mask = self.mask[[i for i in range(len(LENGTHS)) if i not in without]]
        logps = self.take("logps", without).clone().requires_grad_()
        entropies = self.take("entropies", without)
        same = lambda x, **_: x
        stand_in = SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *_, **__: (logps, entropies, None),
            get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
            get_gamma_weights=GRPOTrainer.get_gamma_weights,
            loss_type=args["loss_type"],
            importance_sampling_level=args["importance_sampling_level"],
            epsilon_low=args["epsilon"],
            epsilon_high=high,
            beta=args["beta"],
            top_entropy_quantile=args["top_entropy_quantile"],
            off_policy_mask_threshold=args["off_policy_mask_threshold"],
            aux_loss_enabled=False,
            use_vllm=corrections,
            vllm_importance_sampling_correction=corrections,
            max_completion_length=WIDTH,
            current_gradient_accumulation_steps=1,
            model=SimpleNamespace(training=True),
            entropy_coef=args["entropy_coef"],
            use_adaptive_entropy=False,
            _entropy_bonus_enabled=args["entropy_coef"] != 0,
            _metrics={"train": defaultdict(list)},
            args=SimpleNamespace(
                delta=args["delta"],
                use_bias_correction_kl=args["use_bias_correction_kl"],
                steps_per_generation=1,
                sapo_temperature_pos=1.0,
                sapo_temperature_neg=1.05,
                vespo_k_pos=2.0,
                vespo_lambda_pos=3.0,
                vespo_k_neg=3.0,
                vespo_lambda_neg=2.0,
            ),
            accelerator=SimpleNamespace(
                num_processes=1, gather=same, reduce=same, pad_across_processes=same, sync_gradients=True
            ),
        )
        stand_in.get_high_entropy_mask = types.MethodType(GRPOTrainer.get_high_entropy_mask, stand_in)
        ids = torch.zeros(mask.shape, dtype=torch.long)
        inputs = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": self.take("token_advantages" if token_advantages else "advantages", without),
            "old_per_token_logps": self.take("old_logps", without) if old else None,
            "old_logps": (self.take("old_logps", without) * mask).sum(1),
            "ref_per_token_logps": self.take("reference_logps", without),
            "importance_sampling_ratio": self.take("corrections", without),
            "num_items_in_batch": mask.sum(),
        }
        if not old:
            del inputs["old_per_token_logps"]
        if not corrections:
            del inputs["importance_sampling_ratio"]
        loss = trainer._compute_loss(stand_in, stand_in.model, inputs)
        metrics = {k: v[0] for k, v in stand_in._metrics["train"].items() if not k.startswith(("policy_loss", "entropy_coef", "vespo"))}
        extra = {"token_advantages": token_advantages, "corrections": corrections, "old": old}
        self.put(name, "trl", {**args, **extra, "trainer": trainer.__name__}, loss, logps, metrics, without)

    def verl(self, name, mode, agg="token-mean", without=(), token_advantages=False, corrections=False, chosen=None, scale=None, metrics=True, far=False, **settings):
        config = ActorConfig(
            clip_ratio=0.2, clip_ratio_low=None, clip_ratio_high=None, clip_ratio_c=3.0, tau_pos=1.0, tau_neg=1.05,
            global_batch_info={"loss_scale_factor": scale},
            policy_loss=SimpleNamespace(
                clip_cov_ratio=0.2, clip_cov_lb=0.1, clip_cov_ub=2.0, kl_cov_ratio=0.2, ppo_kl_coef=0.3
            ),
        )
        config.__dict__.update(settings)
        mask = self.mask[[i for i in range(len(LENGTHS)) if i not in without]]
        logps = self.take("logps", without).clone().requires_grad_()
        advantages = self.take("token_advantages", without) if token_advantages else self.take("advantages", without)[:, None].expand(mask.shape)
        torch.manual_seed(3)
        # Candidates are read off verl's own call of nonzero; the permutation is the one it drew.
        seen = {}
        if chosen:
            nonzero, randperm = torch.nonzero, torch.randperm
            VERL.torch.nonzero = lambda x, **k: seen.setdefault("found", nonzero(x, **k))
            VERL.torch.randperm = lambda n: seen.setdefault("order", randperm(n))
        loss, figures = VERL.get_policy_loss_fn(mode)(
            self.take("far_old_logps" if far else "old_logps", without), logps, advantages, mask, agg, config,
            self.take("corrections", without) if corrections else None,
        )
        row = {"mode": mode, "loss_agg_mode": agg, "scale": scale, "token_advantages": token_advantages, "corrections": corrections, "far": far, **settings}
        if chosen:
            VERL.torch.nonzero, VERL.torch.randperm = nonzero, randperm
        if mode == "clip_cov":
            where = torch.zeros_like(mask)
            where[seen["found"][:, 0], seen["found"][:, 1]] = 1
            drawn = seen["found"][seen["order"][: max(int(0.2 * mask.sum()), 1)]]
            dropped = torch.zeros_like(mask)
            dropped[drawn[:, 0], drawn[:, 1]] = 1
            row |= {"candidates": listed(flat(where)), "chosen": listed(flat(dropped))}
        figures = {k: float(v) for k, v in figures.items()} if metrics else {}
        self.put(name, "verl", row, loss, logps, figures, without)

    def entropy_control(self):
        """TRL's adaptive entropy coefficient over steps of given mean entropy: what is applied, what is kept."""
        rows = []
        mask = torch.ones(1, 2)
        step = {"prompt_ids": mask, "prompt_mask": mask, "completion_ids": mask, "completion_mask": mask}
        step |= {"advantages": torch.zeros(1), "num_items_in_batch": mask.sum()}
        kept = {"entropy_coef": 0.002, "_last_world_entropy": 0.3, "_entropy_window_stats": None}
        for entropy in (0.1, 0.15, 0.21, 0.5, 0.1):
            entropies = torch.full((1, 2), entropy)
            stand_in = SimpleNamespace(
                _get_per_token_logps_and_entropies=lambda *_, e=entropies, **__: (-mask, e, None),
                loss_type="dapo", importance_sampling_level="token", epsilon_low=0.2, epsilon_high=0.2, beta=0.0,
                top_entropy_quantile=1.0, off_policy_mask_threshold=None, aux_loss_enabled=False, use_vllm=False,
                current_gradient_accumulation_steps=1, model=SimpleNamespace(training=True), use_adaptive_entropy=True,
                _entropy_bonus_enabled=True, _metrics={"train": defaultdict(list)},
                args=SimpleNamespace(
                    delta=None, steps_per_generation=1, entropy_target=0.2, entropy_coef_delta=0.005,
                    entropy_coef_min=0.0, entropy_coef_max=0.01,
                ),
                accelerator=SimpleNamespace(
                    num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x, sync_gradients=True
                ),
                **kept,
            )  # fmt: skip
            loss = GRPOTrainer._compute_loss(stand_in, stand_in.model, step)
            kept = {k: getattr(stand_in, k) for k in kept}
            rows.append([entropy, -loss.item() / entropy, kept["entropy_coef"]])
        return rows

    def all(self):
        for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
            self.trl(f"trl_{loss_type}", loss_type=loss_type)
            self.trl(f"trl_{loss_type}_kl", loss_type=loss_type, beta=0.3, epsilon_high=0.28)
        self.trl("trl_delta", loss_type="dapo", delta=1.5)
        self.trl("trl_delta_low", loss_type="dapo", delta=1.1)
        self.trl("trl_on_policy", loss_type="dapo", old=False, beta=0.1)
        self.trl("trl_token_advantages", loss_type="dapo", token_advantages=True)
        self.trl("trl_corrections", loss_type="dapo", corrections=True, beta=0.2)
        self.trl("trl_entropy", loss_type="grpo", entropy_coef=0.05)
        self.trl("trl_high_entropy", loss_type="dapo", top_entropy_quantile=0.3)
        self.trl("trl_off_policy", loss_type="dapo", off_policy_mask_threshold=0.05)
        self.trl("trl_bias_correction", loss_type="grpo", beta=0.4, use_bias_correction_kl=True)
        self.trl("trl_gspo", loss_type="grpo", importance_sampling_level="sequence", epsilon=0.05, epsilon_high=0.08)
        self.trl("trl_gspo_kl", loss_type="grpo", importance_sampling_level="sequence", epsilon=0.05, beta=0.2)
        self.trl("trl_luspo", loss_type="luspo", importance_sampling_level="sequence", epsilon=0.05, beta=0.2)
        self.trl("trl_cispo", loss_type="cispo", epsilon_high=1.6)
        self.trl("trl_cispo_sequence", loss_type="cispo", epsilon_high=1.02, importance_sampling_level="sequence")
        self.trl("trl_sapo", loss_type="sapo")
        self.trl("trl_sapo_sequence", loss_type="sapo", importance_sampling_level="sequence")
        self.trl("trl_vespo", loss_type="vespo")
        self.trl("trl_gmpo", trainer=GMPOTrainer, epsilon=0.4, beta=0.2, without=(EMPTY,))
        self.trl("trl_rloo", trainer=RLOOTrainer, without=(EMPTY,), epsilon=0.2)

        for agg in ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"):
            self.verl(f"verl_{agg}", "vanilla", agg, scale=13)
        self.verl("verl_dual", "vanilla", clip_ratio_c=1.7, clip_ratio_high=0.28)
        self.verl("verl_dual_low", "vanilla", clip_ratio_c=1.1, clip_ratio_low=0.1)
        self.verl("verl_corrections", "vanilla", corrections=True, token_advantages=True)
        self.verl("verl_gspo", "gspo", "seq-mean-token-mean", clip_ratio_low=0.05, clip_ratio_high=0.08)
        self.verl("verl_gspo_tokens", "gspo", "token-mean", token_advantages=True)
        self.verl("verl_sapo", "sapo", "seq-mean-token-mean")
        self.verl("verl_gpg", "gpg", corrections=True)
        self.verl("verl_cispo", "cispo", clip_ratio_high=0.4, metrics=False)
        self.verl("verl_gmpo", "geo_mean", clip_ratio=0.4)
        for mode in ("vanilla", "sapo", "cispo", "gspo"):
            agg = "token-mean" if mode != "sapo" else "seq-mean-token-mean"
            self.verl(f"verl_far_{mode}", mode, agg, far=True, metrics=False)
        self.verl("verl_clip_cov", "clip_cov", token_advantages=True, chosen=True, metrics=False)
        self.verl("verl_kl_cov", "kl_cov", token_advantages=True, metrics=False)


def between(source, first, last):
    """The lines of a function's source from the one with `first` to the one with `last`."""
    lines = inspect.getsource(source).splitlines()
    start = next(i for i, line in enumerate(lines) if first in line)
    end = next(i for i, line in enumerate(lines) if last in line and i > start)
    return textwrap.dedent("\n".join(lines[start : end + 1]))


def advantages(data):
    rows = []
    nan = float("nan")
    table = [
        [1.0, 0.59343], [1.0, 0.25], [0.0, 0.6], [0.0, 0.1],
        [1.0, 0.9], [1.0, 0.6], [1.0, nan], [nan, 0.2],
        [nan, nan], [0.3, -0.5], [0.7, 2.5], [0.2, 0.0],
        [nan, nan], [nan, nan], [0.4, nan], [nan, nan],
        [1.0, 0.5], [1.0, 0.5], [1.0, 0.5], [1.0, 0.5],
    ]  # fmt: skip
    weights = [1.0, 0.2]
    groups = [i // 4 for i in range(len(table))]
    full = [[0.0 if v != v else v for v in row] for row in table]
    missing = [[None if v != v else v for v in row] for row in table]

    def trl(name, trainer, **settings):
        code = between(trainer._generate_and_score_completions, "unscorable_mask = torch.isnan", "advantages = torch.nan_to_num")
        stand_in = SimpleNamespace(reward_funcs=[None] * 2, reward_weights=torch.tensor(weights, dtype=torch.float64), beta=0.0, reward_clip_range=None, **settings)
        space = {
            "self": stand_in, "torch": torch, "nanstd": nanstd, "device": "cpu", "num_generations": 4, "mode": "train",
            "rewards_per_func": torch.tensor(table, dtype=torch.float64),
        }
        exec(code, space)
        row = {"name": name, "source": "trl", **settings, "advantages": listed(space["advantages"])}
        if trainer is GRPOTrainer and settings["multi_objective_aggregation"] == "sum_then_normalize":
            stand_in._metrics = {"train": defaultdict(list)}
            stand_in.reward_func_names = ["acc", "sar"]
            exec(between(trainer._generate_and_score_completions, "for i, reward_func_name", "frac_reward_zero_std"), space)
            row["figures"] = {k: v[0] for k, v in stand_in._metrics["train"].items()}
        rows.append(row)

    for scale in ("group", "batch", "none"):
        trl(f"trl_grpo_{scale}", GRPOTrainer, scale_rewards=scale, multi_objective_aggregation="sum_then_normalize")
    trl("trl_gdpo", GRPOTrainer, scale_rewards="group", multi_objective_aggregation="normalize_then_sum")
    for normalize in (False, True):
        trl(f"trl_rloo_{normalize}", RLOOTrainer, normalize_advantages=normalize)

    # verl: the last completion is a group of its own.
    index = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4])
    totals = torch.tensor(full[:16], dtype=torch.float64) @ torch.tensor(weights, dtype=torch.float64)
    totals += torch.arange(16) * 0.05
    lengths = torch.tensor([3, 1, 2, 4, 2, 2, 1, 3, 4, 1, 1, 2, 3, 2, 1, 2])
    mask = (torch.arange(4) < lengths[:, None]).double()
    rewards = torch.zeros_like(mask)
    rewards[:, 0] = totals
    shared = {"rewards": listed(totals), "groups": index.tolist(), "lengths": lengths.tolist()}

    def verl(name, function, **settings):
        out = function(token_level_rewards=rewards.clone(), response_mask=mask, index=index, **settings)[0]
        settings.pop("config", None)
        rows.append({"name": name, "source": "verl", **shared, **settings, "advantages": listed(out[:, 0])})

    verl("verl_grpo_std", VERL.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=True)
    verl("verl_grpo_none", VERL.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False)
    verl("verl_rloo", VERL.compute_rloo_outcome_advantage)
    verl("verl_baseline", VERL.compute_reinforce_plus_plus_baseline_outcome_advantage)

    verl("verl_opo", VERL.compute_opo_outcome_advantage)
    shared = {k: v[:15] for k, v in shared.items()}  # pass@k refuses groups of one
    mask, rewards, index = mask[:15], rewards[:15], index[:15]
    for scale in (True, False):
        verl(f"verl_passk_{scale}", VERL.compute_grpo_passk_outcome_advantage, config={"norm_adv_by_std_in_grpo": scale})

    mask, padded = pad(data["weights"]), {k: pad(data[k]) for k in ("rewards", "old_values")}
    for gamma, lam in ((1.0, 1.0), (1.0, 0.95), (0.9, 0.8)):
        white, returns = VERL.compute_gae_advantage_return(padded["rewards"], padded["old_values"], mask, gamma, lam)
        plain = returns - padded["old_values"]
        row = {"name": f"verl_gae_{gamma}_{lam}", "source": "verl", "gamma": gamma, "lam": lam}
        rows.append({**row, "advantages": listed(flat(plain * mask)), "returns": listed(flat(returns * mask)), "whitened": listed(flat(white * mask))})
        white, returns = VERL.compute_reinforce_plus_plus_outcome_advantage(padded["rewards"], mask, AlgoConfig(gamma=gamma))
        row = {"name": f"verl_reinforce_{gamma}_{lam}", "source": "verl", "gamma": gamma}
        rows.append({**row, "advantages": listed(flat(white)), "returns": listed(flat(returns))})
    out, returns = VERL.compute_remax_outcome_advantage(padded["rewards"], data["advantages"], mask)
    row = {"name": "verl_remax", "source": "verl", "advantages": listed(flat(out * mask))}
    rows.append({**row, "returns": listed(flat(returns * mask))})
    kept_mean = VERL_F.masked_whiten(padded["rewards"], mask, shift_mean=False) * mask
    rows.append({"name": "verl_whiten_kept_mean", "source": "verl", "advantages": listed(flat(kept_mean))})
    return {"table": missing, "weights": weights, "groups": groups, "cases": rows}


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


def sampler_corrections(data):
    """TRL's importance ratios for a sampler whose log-probs are `reference_logps`."""
    rows = []
    first, last = "if self.use_vllm and self.vllm_importance_sampling_correction:", "raise ValueError("
    code = between(GRPOTrainer._generate_and_score_completions, first, last)
    code = code[: code.rindex("else:")]
    for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
        settings = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_min": 0.6, "vllm_importance_sampling_clip_max": 1.5}
        space = {
            "self": SimpleNamespace(use_vllm=True, vllm_importance_sampling_correction=True, **settings),
            "torch": torch, "math": math, "tool_mask": None, "completion_mask": pad(data["weights"]),
            "old_per_token_logps": pad(data["old_logps"]), "sampling_per_token_logps": pad(data["reference_logps"]),
        }  # fmt: skip
        exec(code, space)
        ratio = space["vllm_importance_sampling_ratio"].expand(len(LENGTHS), WIDTH)
        rows.append({"mode": mode, "factors": listed(flat(ratio))})
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
