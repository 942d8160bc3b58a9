"""Answers held against known ones by math-verify.

    python make.py --out .

Writes `golden.json`: rows of a known answer, a reply, what math-verify says of the two (`parse` of both with its default
settings, then `verify`), and whether the reply was made from the answer's value. Replies put numbers of many forms into sentences, boxes and LaTeX. Versions used: math-verify 0.8.0,
latex2sympy2-extended 1.10.2.
"""

import argparse
import importlib.metadata
import json
import random
from fractions import Fraction
from pathlib import Path

from math_verify import parse, verify

FRAMES = [
    "{}", "The answer is {}.", "So in all there are {} apples.", "First 3 + 4 = 7, so the final answer is {}.", "\\boxed{{{}}}",
    "We get $x = {}$.", "Therefore \\[ \\boxed{{{}}} \\]", "He has 12 and gives 5 away. He keeps {}.", "#### {}",
    "It is ${}$", "**Answer:** {}", "Let me count: 1, 2, 3. Answer: {}", "**{}**",
]


def forms(value: Fraction, rng: random.Random) -> list[str]:
    forms = []
    if value.denominator == 1:
        whole = value.numerator
        forms += [str(whole), f"{whole}.0", f"{whole}.00"]
        if abs(whole) >= 1000:
            forms.append(f"{whole:,}")
        forms.append(f"\\frac{{{whole * 3}}}{{3}}")
    else:
        forms += [f"{value.numerator}/{value.denominator}", f"\\frac{{{value.numerator}}}{{{value.denominator}}}"]
        forms.append(f"\\dfrac{{{2 * value.numerator}}}{{{2 * value.denominator}}}")
        decimal = value.numerator / value.denominator
        if Fraction(str(decimal)) == value:
            forms.append(str(decimal))
    return forms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rng = random.Random(5)
    rows = []
    values = [Fraction(rng.randint(-50, 3000)) for _ in range(30)]
    values += [Fraction(rng.randint(-40, 40), rng.choice([2, 3, 4, 5, 7, 8, 16])) for _ in range(30)]
    values += [Fraction(rng.randint(-999999, 9999999)) for _ in range(10)]
    for value in values:
        near = value + rng.choice([1, -1, Fraction(1, 2), Fraction(1, 10), -2 * value])
        for known in forms(value, rng)[:2]:
            for said in [value, value, near]:
                reply = rng.choice(FRAMES).format(rng.choice(forms(said, rng)))
                rows.append([known, reply, bool(verify(parse(known), parse(reply))), said == value])
    # The last one's truth is ours to say: which of two boxes counts.
    for known, reply in [
        ("18", "She sells 16 - 3 - 4 = 9 eggs, for 9 * 2 = $18 a day."), ("18", "$18.00"), ("70000", "a profit of $70,000"),
        ("5", "\\boxed{5\\text{ hours}}"), ("1/2", "\\boxed{\\frac12}"), ("0.25", "25%"), ("25", "25\\%"), ("7", "\\boxed{x=7}"),
        ("90", "$90^\\circ$"), ("3", "no number here"), ("0.5", "\\frac{1}{2} of it"), ("1234", "1,234 and no more"), ("-3", "−3"),
        ("12", "\\fbox{12}"), ("3", "\\boxed{2} or rather \\boxed{3}"),
    ]:
        rows.append([known, reply, bool(verify(parse(known), parse(reply))), known != "3" or "no" not in reply])
    versions = {name: importlib.metadata.version(name) for name in ["math-verify", "latex2sympy2-extended"]}
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    text = f'{{\n "versions": {json.dumps(versions)},\n "rows": [\n{lines}\n ]\n}}\n'
    (arguments.out / "golden.json").write_text(text)
    print(len(rows), sum(row[2] for row in rows))


if __name__ == "__main__":
    main()
