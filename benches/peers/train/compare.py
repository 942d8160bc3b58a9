"""Times training steps of our worker and of PyTorch in turns, on the same tokens.

    compare.py WORKER MODEL ROUNDS [ROW]

Prints seconds of a step (median, lowest to highest) and `ratio NAME VALUE`: our time over theirs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

ROWS = {
    # name: (model, tokens a row, rows, LoRA rank)
    "sft-6x256-time": ("-", 256, 8, None),
    "sft-smollm2-time": ("smollm2", 256, 2, None),
    "lora-smollm2-time": ("smollm2", 256, 2, 8),
}


class Worker:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended early")
        return json.loads(line)

    def step(self):
        self.process.stdin.write("step\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    worker, model, rounds, only = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else ""
    peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
    ratios, times = [], {}
    for name, (which, tokens, rows, rank) in ROWS.items():
        if only not in name:
            continue
        path = model if which == "smollm2" else "-"
        more = [] if rank is None else [str(rank)]
        with tempfile.TemporaryDirectory() as folder:
            data = os.path.join(folder, "data.json")
            ours = Worker([worker, path, data, str(tokens), str(rows), *more])
            theirs = Worker([sys.executable, "-W", "ignore", peer, path, data, *more])
            seconds, peaks = {"savi": [], "torch": []}, {}
            for at in range(rounds + 2):
                for who, of in (("savi", ours), ("torch", theirs)):
                    of.step()
                    answer = of.answer()
                    peaks[who] = answer["peak_kib"] / 1024
                    if at > 1:  # The first two rounds warm up.
                        seconds[who].append(answer["seconds"])
            ours.close()
            theirs.close()
        text = {who: f"{statistics.median(of):7.3f} ({min(of):.3f} to {max(of):.3f})" for who, of in seconds.items()}
        print(f"{name:20} {rows} x {tokens}: savi {text['savi']} s, peak {peaks['savi']:.0f} MiB; torch {text['torch']} s, peak {peaks['torch']:.0f} MiB", flush=True)
        ratios.append((name, statistics.median(seconds["savi"]) / statistics.median(seconds["torch"])))
        times[name] = statistics.median(seconds["savi"])
    if "lora-smollm2-time" in times and "sft-smollm2-time" in times:
        ratios.append(("lora-full", times["lora-smollm2-time"] / times["sft-smollm2-time"]))
    print()
    for name, ratio in ratios:
        print(f"ratio {name} {ratio:.3f}")


main()
