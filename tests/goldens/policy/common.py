"""Inputs of the policy goldens, verl's modules, and lines of TRL's functions."""

import importlib.util
import inspect
import sys
import textwrap
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

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


def between(source, first, last):
    """The lines of a function's source from the one with `first` to the one with `last`."""
    lines = inspect.getsource(source).splitlines()
    start = next(i for i, line in enumerate(lines) if first in line)
    end = next(i for i, line in enumerate(lines) if last in line and i > start)
    return textwrap.dedent("\n".join(lines[start : end + 1]))
