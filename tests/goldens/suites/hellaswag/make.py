"""Texts as lm-evaluation-harness cleans them up in its task hellaswag.

    pip install lm_eval==0.4.13 datasets
    python make.py [--out FOLDER]      # writes cleaned.jsonl, by default beside this file

Each line is [text, cleaned, capitalised]: the text by the task's own `preprocess`, and by Python's `str.capitalize`, which
the task puts on the second part of a context. Texts are put together from pieces with a fixed seed.
"""

import argparse
import json
import pathlib
import random

from lm_eval.tasks.hellaswag.utils import preprocess

COUNT = 600

WRITTEN = [
    "", " ", "[", "]", "[]", "][", "[[]]", "[a [b] c]", "[a\nb]", "[a\nb] [c]", "a[b", "a]b", " [title]", "[title]", "x [title] y", "x  [title]  y",
    "[header] How to boil an egg [title] Fill a pot. [step] Put it on.", "a    b", "a   b", "\ta\n", "\x1c\x1da\x1e\x1f", "\u00a0a\u2003",
    "ßtrudel OF Apples", "ÉCLAIR", "ΣΑΣ ΟΔΟΣ", "ОН ИДЁТ", "3 MEN", "'QUOTED' Words", "i am", "HE Says: \"NO\"", "日本語 ABC",
]
PIECES = [
    "[header]", "[title]", "[step]", "[substeps]", " [title]", " [title] ", "[ title ]", "A man", "is seen", "Walking", "ON", "a beam", ".", ",", " ", "  ", "   ",
    "\n", "\t", "[", "]", "[a", "b]", "he", "She", "runs.", "Then", "\u00a0", "é", "I'm", "10", "%", "--",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = parser.parse_args().out
    rng = random.Random(0)
    texts = WRITTEN + ["".join(rng.choices(PIECES, k=rng.randint(1, 14))) for _ in range(COUNT - len(WRITTEN))]
    with open(out / "cleaned.jsonl", "w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps([text, preprocess(text), text.capitalize()], ensure_ascii=True) + "\n")
    print(f"wrote {len(texts)} texts to {out / 'cleaned.jsonl'}")


if __name__ == "__main__":
    main()
