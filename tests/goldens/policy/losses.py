"""Policy losses by TRL's trainers and verl's functions, see make.py."""

import types
from collections import defaultdict
from types import SimpleNamespace

import torch
from common import EMPTY, LENGTHS, VERL, WIDTH, ActorConfig, flat, listed, pad
from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer


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
