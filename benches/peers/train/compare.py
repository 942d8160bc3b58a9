"""Times training steps of our worker and of its peers in turns, on the same tokens and from the same weights.

    compare.py WORKER MODEL ROUNDS [ROW]

Prints seconds of a step (median, lowest to highest), the most memory that each process had, and `ratio NAME VALUE`: time
and memory are ours over theirs, a speed-up is their time over ours, `lora-full` our time over our own. Losses (and log-probs of answers, or entropies) of both
sides are compared at every step; where they are apart the row fails. ROW: only rows whose names contain this.
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


def sft(rows, tokens, lora_r=0):
    row = {"trainer": "sft", "rows": rows, "tokens": tokens, "lora_r": lora_r, "learning_rate": 1e-5}
    return {"savi": row, "torch": row}


def dpo(cached, lora_r=0):
    row = {
        "trainer": "dpo", "prompt": 1024, "answer": 64, "cached": False, "lora_r": lora_r,
        "learning_rate": 1e-6,
    }
    other = {"trl-precomputed": {**row, "cached": True}} if cached else {"trl-compact": {**row, "compact": True}}
    return {"savi": {**row, "cached": cached}, "trl": row, **other}


def grpo(peer, micro):
    """One peer at a time: two of them would take more memory than small machines have. `micro`: rows of TRL's passes."""
    row = {
        "trainer": "grpo", "prompt": 512, "answer": 64, "branches": 8, "lora_r": 0, "learning_rate": 1e-6,
        "micro": micro, "compact": peer == "trl-compact",
    }
    return {"savi": row, peer: row}


# Name: whether the model is SmolLM2, and what each process does.
ROWS = {
    "sft-6x256": (False, sft(8, 256)),
    "sft-smollm2": (True, sft(2, 256)),
    "lora-smollm2": (True, sft(2, 256, lora_r=8)),
    "dpo-live-6x256": (False, dpo(cached=False)),
    "dpo-cached-6x256": (False, dpo(cached=True)),
    "grpo-update-6x256": (False, grpo("trl", 8)),
    "grpo-compact-6x256": (False, grpo("trl-compact", 8)),
    "dpo-live-smollm2": (True, dpo(cached=False)),
    "dpo-cached-smollm2": (True, dpo(cached=True)),
    "dpo-lora-smollm2": (True, dpo(cached=False, lora_r=8)),
    "grpo-update-smollm2": (True, grpo("trl", 4)),
    "grpo-compact-smollm2": (True, grpo("trl-compact", 4)),
}


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


def measure(worker, model, rounds, row):
    """Seconds of steps, most memory and last figures of every process."""
    peer = [sys.executable, "-W", "ignore", str(HERE / "worker.py")]
    seconds, peaks, figures, faults, about = {who: [] for who in row}, {}, {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        workers = {}
        for who, task in row.items():
            # Ours comes first: it writes the tokens.
            command = ours(worker, "MIMALLOC_PURGE_DELAY=-1") if who == "savi" else peer
            own = Path(folder) / who
            own.mkdir()
            if who != "savi":
                for shared in ("data.json", "model"):
                    if (Path(folder) / "savi" / shared).exists():
                        (own / shared).symlink_to(Path(folder) / "savi" / shared)
            workers[who] = Worker([*command, model, str(own), json.dumps(task)])
            about[who] = workers[who].about
        for at in range(rounds + 1):
            for who, other in workers.items():
                answer = other.ask("step")
                figures[who] = answer["figures"]
                if at > 0:  # The first round warms up.
                    seconds[who].append(answer["seconds"])
                if who != "savi":
                    faults += apart(figures["savi"], figures[who], row[who]["lora_r"] > 0, at)
        for who, other in workers.items():
            peaks[who] = other.peak / 1024
            other.close()
    return seconds, peaks, figures, faults, about


def main():
    worker, model, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    only = sys.argv[4] if len(sys.argv) > 4 else ""
    ratios, medians, failed = [], {}, False
    for name, (real, row) in ROWS.items():
        if only not in name:
            continue
        seconds, peaks, figures, faults, about = measure(worker, model if real else "-", rounds, row)
        own = {key: value for key, value in row["savi"].items() if key not in ("trainer", "micro", "compact")}
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in own.items())}")
        medians[name] = {who: statistics.median(of) for who, of in seconds.items()}
        for who, of in seconds.items():
            last = ", ".join(f"{figure} {figures[who][figure]:.6g}" for figure in next(reversed(figures.values())))
            print(
                f"  {who:16} {medians[name][who]:8.3f} ({min(of):.3f} to {max(of):.3f}) s, "
                f"peak {peaks[who]:5.0f} MiB; last step: {last}; {about[who].get('own', '')}".rstrip("; ")
            )
        for settings in dict.fromkeys(of["settings"] for of in about.values() if "settings" in of):
            print(f"  {settings}")
        for who in list(seconds)[1:]:
            of = name if who in ("torch", "trl") else f"{name}-{who}"
            time = medians[name]["savi"] / medians[name][who]
            ratios.append((f"{of}-time", time) if who == "torch" else (f"{of}-speedup", 1 / time))
            ratios.append((f"{of}-memory", peaks["savi"] / peaks[who]))
        for fault in faults:
            failed = True
            print(f"  APART: {fault}")
        sys.stdout.flush()
    if "lora-smollm2" in medians and "sft-smollm2" in medians:
        ratios.append(("lora-full", medians["lora-smollm2"]["savi"] / medians["sft-smollm2"]["savi"]))
    print()
    for name, ratio in ratios:
        print(f"ratio {name} {ratio:.3f}")
    sys.exit(failed)


main()
