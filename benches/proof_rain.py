"""The table of proof-rain.sh: shares of right answers over all seeds, and paired differences to the search with 95 %
intervals by drawing problems (each seed has its own).

    python3 benches/proof_rain.py OUT ACCURACY...
"""

import json
import random
import sys
from pathlib import Path

WAYS = {"rain": "01-rain", "greedy": "02-greedy", "sampled": "03-sampled", "best-of": "04-best-of"}


def interval(values: list[float]) -> tuple[float, float]:
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(10_000))
    return means[250], means[9749]


def read(run: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (run / "stages" / stage / "records.jsonl").read_text().splitlines()]


def main() -> None:
    out, accuracies = Path(sys.argv[1]), sys.argv[2:]
    print(f"{'judge':>5} {'way':8} {'right':>6}  {'95 % interval':16} {'rain - way':>10}  {'95 % interval':16} {'drawn tokens':>12}")
    for accuracy in accuracies:
        marks: dict[str, list[float]] = {way: [] for way in WAYS}
        tokens: dict[str, list[int]] = {way: [] for way in WAYS}
        for run in sorted(out.glob(f"{accuracy}-*")):
            graded = read(run, "05-right")
            for way, stage in WAYS.items():
                found = sorted((row["id"], row["score"]) for row in graded if row["family"] == way)
                marks[way] += [score for _, score in found]
                tokens[way] += [row["drawn_tokens"] for row in read(run, stage)]
        for way, values in marks.items():
            low, high = interval(values)
            apart = [a - b for a, b in zip(marks["rain"], values)]
            bottom, top = interval(apart)
            mean = lambda values: sum(values) / len(values)
            against = "" if way == "rain" else f"{100 * mean(apart):+10.1f}  {100 * bottom:+.1f} to {100 * top:+.1f}"
            print(
                f"{accuracy:>5} {way:8} {100 * mean(values):6.1f}  {f'{100 * low:.1f} to {100 * high:.1f}':16} {against:28} {mean(tokens[way]):12.0f}"
            )


if __name__ == "__main__":
    main()
