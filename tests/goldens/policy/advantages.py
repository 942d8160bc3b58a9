"""Advantages and corrections by lines of TRL's trainers and by verl's functions, see make.py."""

import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import torch
from common import LENGTHS, VERL, VERL_F, WIDTH, AlgoConfig, between, flat, listed, pad
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import nanstd


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
