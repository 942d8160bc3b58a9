"""Times training steps of our worker and of its peers in turns, on the same tokens and from the same weights.

    compare.py WORKER MODEL ROUNDS [ROW]

Prints seconds of a step (median, lowest to highest), the most memory that each process had, and `ratio NAME VALUE`: time
and memory are ours over theirs, a speed-up is their time over ours, `lora-full` our time over our own. Losses (and
log-probs of answers, or entropies) of both sides are compared at every step; where they are apart the row fails. ROW: only
rows whose names contain this.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from common import Worker, ours  # noqa: E402

# How far losses of both sides may be apart, and the share for log-probs and entropies.
TOLERANCE = 1e-3

SFT = {"trainer": "sft", "lora_r": 0, "learning_rate": 1e-5}
DPO = {"trainer": "dpo", "prompt": 1024, "answer": 64, "cached": False, "lora_r": 0, "learning_rate": 1e-6}
# `micro`: rows of a pass of TRL's, which takes no longer by two than by eight, and less memory.
GRPO = {"trainer": "grpo", "prompt": 512, "answer": 64, "branches": 8, "lora_r": 0, "learning_rate": 1e-6, "micro": 2}
CACHED, COMPACT = {"cached": True}, {"compact": True}
AGAIN = {"checkpointing": True}
SHORT, LONG = {"rows": 2, "tokens": 256}, {"rows": 8, "tokens": 256}

# Name, what is trained on both sides, what is different on ours, the peer, and what is different on its side. One peer at
# a time: two of them would take more memory than small machines have.
TRL = [
    ("dpo-live", DPO, {}, "trl", {}),
    ("dpo-cached", DPO, CACHED, "trl", {}),
    ("grpo-update", GRPO, {}, "trl", {}),
    ("dpo-adapter", {**DPO, "lora_r": 8}, {}, "trl", {}),
    ("dpo-both-cached", DPO, CACHED, "trl", CACHED),
    ("dpo-live-compact", DPO, {}, "trl", COMPACT),
    ("grpo-update-compact", GRPO, {}, "trl", COMPACT),
]
ROWS = [
    ("sft-6x256", {**SFT, **LONG}, {}, "torch", {}),
    ("sft-smollm2", {**SFT, **SHORT}, {}, "torch", {}),
    ("lora-smollm2", {**SFT, **SHORT, "lora_r": 8}, {}, "torch", {}),
    ("sft-checkpointing-smollm2", {**SFT, **SHORT, **AGAIN}, {}, "torch", {}),
    ("lora-checkpointing-smollm2", {**SFT, **SHORT, **AGAIN, "lora_r": 8}, {}, "torch", {}),
    *((f"{name}-{model}", *row) for model in ("6x256", "smollm2") for name, *row in TRL),
]


def apart(own, other, adapters, at):
    """Says in which figures a step of both sides differs."""
    faults = []
    for name, value in other.items():
        # Fresh adapters are drawn by different generators: alike until they have learnt.
        if adapters and at > 0:
            continue
        allowed = TOLERANCE if name == "loss" else TOLERANCE * abs(value)
        if abs(own[name] - value) > allowed:
            faults.append(f"step {at + 1}: {name} {own[name]} against {value}")
    return faults


def measure(commands, rounds, adapters):
    """Seconds of steps, most memory, last figures and settings of both sides, and where they are apart."""
    workers, answers, faults = {}, {who: [] for who in commands}, []
    for who, command in commands.items():
        # Ours comes first: it writes the tokens.
        workers[who] = Worker(command)
    for at in range(rounds + 1):
        for who, other in workers.items():
            answers[who].append(other.ask("step"))
        faults += apart(*(of[-1]["figures"] for of in answers.values()), adapters, at)
    for other in workers.values():
        other.close()
    return answers, {who: other.about for who, other in workers.items()}, faults


def main():
    worker, model, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    only = sys.argv[4] if len(sys.argv) > 4 else ""
    ratios, medians, failed = [], {}, False
    for name, both, own, peer, others in ROWS:
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            where = [model if "smollm2" in name else "-", folder]
            theirs = [sys.executable, "-W", "ignore", str(HERE / "worker.py")]
            commands = {
                "savi": [*ours(worker, "MIMALLOC_PURGE_DELAY=-1"), *where, json.dumps({**both, **own})],
                peer: [*theirs, *where, json.dumps({**both, **others})],
            }
            answers, about, faults = measure(commands, rounds, both["lora_r"] > 0)
        print(f"{name}: {about[peer]['settings']}")
        peaks = {}
        for who, of in answers.items():
            seconds = [answer["seconds"] for answer in of[1:]]  # The first round warms up.
            medians[name, who] = statistics.median(seconds)
            peaks[who] = of[-1]["peak_kib"] / 1024
            last = ", ".join(f"{figure} {of[-1]['figures'][figure]:.6g}" for figure in answers[peer][-1]["figures"])
            print(
                f"  {who:5} {medians[name, who]:8.3f} ({min(seconds):.3f} to {max(seconds):.3f}) s, "
                f"peak {peaks[who]:5.0f} MiB; last step: {last}"
            )
        time = medians[name, "savi"] / medians[name, peer]
        ratios.append((f"{name}-time", time) if peer == "torch" else (f"{name}-speedup", 1 / time))
        ratios.append((f"{name}-memory", peaks["savi"] / peaks[peer]))
        for fault in faults:
            failed = True
            print(f"  APART: {fault}")
        sys.stdout.flush()
    for way in ("", "-checkpointing"):
        full, adapter = (medians.get((f"{name}{way}-smollm2", "savi")) for name in ("sft", "lora"))
        if full and adapter:
            ratios.append((f"lora-full{way}", adapter / full))
    print()
    for name, ratio in ratios:
        print(f"ratio {name} {ratio:.3f}")
    sys.exit(failed)


main()
