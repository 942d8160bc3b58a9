"""Runs our worker and the peers' in turns, every task in the same round, and prints medians and ratios.

    compare.py WORKER MODEL.gguf HF_DIR F32.gguf ROUNDS [ROWS]

Throughputs are tokens a second, ours over theirs: larger is better for us. Memory is the peak of a process
that has done the branches and the prefill, ours over theirs: smaller is better. ROWS: only rows whose names contain this.
"""

import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from common import Worker, ours  # noqa: E402

# Row, our task, the peer and its task.
ROWS = [
    ("branch-throughput", "branches", "transformers", "branches"),
    ("branch-cached-throughput", "branches", "transformers", "cached"),
    ("single-throughput", "single", "transformers", "single"),
    ("prefill-throughput", "prefill", "transformers", "prefill"),
    ("llamacpp-single-throughput", "single", "llamacpp", "single"),
    ("llamacpp-prefill-throughput", "prefill", "llamacpp", "prefill"),
]


def main():
    worker, gguf, folder, f32, rounds = sys.argv[1:6]
    only = sys.argv[6] if len(sys.argv) > 6 else ""
    peer = [sys.executable, str(HERE / "worker.py")]
    commands = {
        "savi": [*ours(worker), gguf],
        "transformers": [*peer, "transformers", folder],
        "llamacpp": [*peer, "llamacpp", f32],
    }
    ratios = []
    seeds = iter(range(1, 10**6))
    rows = [row for row in ROWS if only in row[0]]
    workers = {}
    for name in ["savi", *dict.fromkeys(row[2] for row in rows)] if rows else []:
        try:
            workers[name] = Worker(commands[name])
        except (RuntimeError, json.JSONDecodeError, OSError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    print(f"tokens a second, median of {rounds} (lowest to highest)")
    for row, own, name, theirs in rows:
        if name not in workers:
            continue
        speeds = {"savi": [], name: []}
        for at in range(int(rounds) + 1):
            for who, task in (("savi", own), (name, theirs)):
                answer = workers[who].ask(f"{task} {next(seeds)}")
                if at > 0:  # The first round warms up.
                    speeds[who].append(answer["tokens"] / answer["seconds"])
        text = {who: f"{statistics.median(of):9.1f} ({min(of):.1f} to {max(of):.1f})" for who, of in speeds.items()}
        print(f"{row:30} savi {text['savi']}   {name} {text[name]}", flush=True)
        ratios.append((row, statistics.median(speeds["savi"]) / statistics.median(speeds[name])))
    for other in workers.values():
        other.close()
    if only in "memory":
        # The same tasks on both sides.
        for name, tasks in (("transformers", ["branches", "prefill"]), ("llamacpp", ["single", "prefill"])):
            peaks = {}
            for who in ("savi", name):
                try:
                    alone = Worker(commands[who])
                except (RuntimeError, json.JSONDecodeError, OSError):
                    continue
                for task in tasks:
                    alone.ask(f"{task} {next(seeds)}")
                peaks[who] = alone.peak / 1024
                alone.close()
            if len(peaks) == 2:
                print(f"peak resident MiB of {' and '.join(tasks)}: savi {peaks['savi']:.0f}, {name} {peaks[name]:.0f}", flush=True)
                ratios.append(("memory" if name == "transformers" else f"{name}-memory", peaks["savi"] / peaks[name]))
    if only in "sharing-speedup":
        clips = Worker([*ours(worker), "-"])
        seconds = {"sharing": [], "alone": []}
        for _ in range(min(int(rounds), 5)):
            seed = next(seeds)
            for task in seconds:
                answer = clips.ask(f"{task} {seed}")
                seconds[task].append(answer["seconds"])
                print(f"{task}: {answer['seconds']:.2f} s, {answer['tokens']} tokens, {answer['counts']}", flush=True)
        clips.close()
        ratios.append(("sharing-speedup", statistics.median(seconds["alone"]) / statistics.median(seconds["sharing"])))
    print()
    for row, ratio in ratios:
        print(f"ratio {row} {ratio:.3f}")


if __name__ == "__main__":
    main()
