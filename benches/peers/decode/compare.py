"""Times every reader on every clip, one after another in turns, and prints the table and the ratios.

    compare.py READ_FRAMES CLIPS ROUNDS [ROWS]

ROWS: only rows whose names contain this.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

PEERS = ["torchcodec", "decord", "pyav-seek", "pyav-pass"]
WIDTH, HEIGHT = 448, 252
HERE = Path(__file__).parent


def main():
    ours, clips, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    only = sys.argv[4] if len(sys.argv) > 4 else ""
    ratios = []
    print(f"CPU seconds (median of {rounds}) and resident MiB at the peak and added by reading, {WIDTH}x{HEIGHT} frames")
    print(f"{'row':28} {'savi':>20} " + " ".join(f"{peer:>20}" for peer in PEERS))
    for size in ("360p", "720p"):
        for gop in (30, 250):
            for b in ("", "-bframes"):
                for count in (8, 32):
                    row = f"{size}-gop{gop}{b}-{count}"
                    if only not in row:
                        continue
                    clip = clips / f"{size}-gop{gop}{b}.mp4"
                    ratios += compare(ours, clip, count, rounds, row)
    print()
    for row, ratio in ratios:
        print(f"ratio {row} {ratio:.3f}")


def compare(ours, clip, count, rounds, row):
    def run(command):
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    mine = [ours, str(clip), f"{WIDTH}x{HEIGHT}", str(count)]
    indices = ",".join(str(i) for i in run(mine)["indices"])
    commands = {"savi": mine}
    for peer in PEERS:
        reader = [sys.executable, str(HERE / "reader.py"), peer, str(clip)]
        commands[peer] = [*reader, str(WIDTH), str(HEIGHT), indices]
    seconds = {name: [] for name in commands}
    peaks = {name: [] for name in commands}
    growths = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            result = run(command)
            seconds[name].append(result["cpu"])
            peaks[name].append(result["peak_kib"])
            growths[name].append(result["peak_kib"] - result["base_kib"])
    cpu = {name: statistics.median(values) for name, values in seconds.items()}
    peak = {name: statistics.median(values) / 1024 for name, values in peaks.items()}
    growth = {name: statistics.median(values) / 1024 for name, values in growths.items()}
    cells = " ".join(
        f"{cpu[name]:7.3f}s {peak[name]:4.0f}M +{growth[name]:<4.0f}" for name in commands
    )
    print(f"{row:28} {cells}", flush=True)
    best = min(cpu[peer] for peer in PEERS)
    # What a process holds before it opens a clip is its libraries: some 100 that Debian's FFmpeg is
    # linked with on our side, Python and NumPy on theirs. The reader's own memory is what is added.
    return [
        (f"cpu-{row}", cpu["savi"] / best),
        (f"memory-{row}", growth["savi"] / growth["decord"]),
        (f"memory-process-{row}", peak["savi"] / peak["decord"]),
    ]


main()
