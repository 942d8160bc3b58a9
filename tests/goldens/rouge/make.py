"""ROUGE-L of the rouge-score package, without stemming, on hand-made pairs and on 10,000 drawn ones.

    python tests/goldens/rouge/make.py --out tests/goldens/rouge

`cases.json` holds the hand-made pairs with their scores, and the pieces and joints from which the drawn pairs
are put together; `scores.bin` holds precision, recall and F1 of every drawn pair as little-endian doubles.
The pairs themselves are not stored: SplitMix64 from the seed gives them, as `pair` below says.
Needs rouge-score.
"""

import argparse
import json
import struct
from importlib.metadata import version
from pathlib import Path

from rouge_score import rouge_scorer

SEED, PAIRS = 7, 10_000
PIECES = [
    "the", "The", "a", "of", "dog", "DOG", "runs", "Runs", "42", "4", "2", "x1", "na\u00efve", "Stra\u00dfe",
    "\u0130stanbul", "\u212a", "\u65e5\u672c", "don't", "e-mail", "\u2026", "_", "\u01c5", "\U0001f642", "o\u0301",
    "\u03a3\u03a3", "C++", "3.14", "a_b", "ABC", "zebra", "moon", "write", "poem", "list", "question", "answer",
]
JOINTS = [" ", " ", " ", " ", "  ", ", ", ". ", "\n", "\t", "\u00a0", "-", "_", "", "\u2014", "?! "]
HAND = [
    ("", ""), ("", "a"), ("a", ""), ("...", "a b"), ("a", "a"), ("A", "a"), ("a b c", "c b a"),
    ("the the the", "the"), ("the cat sat on the mat", "the cat was on the mat"),
    ("Write a poem about rain.", "write a POEM, about the rain!"), ("\u0130", "i"), ("\u212a 1", "k 1"),
    ("x" * 300, "x" * 300), (" ".join(str(i) for i in range(200)), " ".join(str(i) for i in range(0, 400, 3))),
    ("a " * 64, "a " * 64), ("a " * 65, "a " * 65), ("a b " * 64, "b a " * 64), ("\n\t ", " "),
]
MASK = (1 << 64) - 1


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return (self.next() >> 33) % n


def vocabulary(random):
    return random.below(len(PIECES)), 1 + random.below(len(PIECES))


def text(random, start, size):
    if random.below(12) == 0:
        count = 0
    elif random.below(8) == 0:
        count = 60 + random.below(120)
    else:
        count = 1 + random.below(30)
    made = ""
    for _ in range(count):
        made += PIECES[(start + random.below(size)) % len(PIECES)]
        made += JOINTS[random.below(len(JOINTS))]
    return made


def pair(random):
    words = vocabulary(random)
    target = text(random, *words)
    if random.below(4) == 0:
        words = vocabulary(random)
    return target, text(random, *words)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)

    def scores(target, prediction):
        score = scorer.score(target, prediction)["rougeL"]
        return [float(score.precision), float(score.recall), float(score.fmeasure)]

    hand = [{"target": t, "prediction": p, "scores": scores(t, p)} for t, p in HAND]
    meta = {"rouge-score": version("rouge-score")}
    cases = {"meta": meta, "seed": SEED, "pairs": PAIRS, "pieces": PIECES, "joints": JOINTS, "hand": hand}
    (out / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=True) + "\n")
    random = Random(SEED)
    drawn = [scores(*pair(random)) for _ in range(PAIRS)]
    (out / "scores.bin").write_bytes(b"".join(struct.pack("<3d", *each) for each in drawn))


if __name__ == "__main__":
    main()
