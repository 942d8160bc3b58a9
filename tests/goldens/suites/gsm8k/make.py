"""Replies to word problems as lm-evaluation-harness reads them in its task gsm8k.

    pip install lm_eval==0.4.13 numpy==2.4.6
    python make.py [--out FOLDER]      # writes replies.jsonl, by default beside this file

Each line is [reply, solution, strict, strict right, flexible, flexible right]: what the task's two filters take of the
reply ("[invalid]" where they find nothing) and what its exact_match says, with the patterns and options of the task's own
gsm8k.yaml. Replies are put together from pieces with a fixed seed; the first ones are written out.
"""

import argparse
import json
import pathlib
import random

import lm_eval
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.filters.selection import TakeFirstFilter

COUNT = 6000

WRITTEN = [
    "", " ", "\n", "####", "#### ", "####5", "#### five", "##### 5", "#### #### 5", "#### -5", "#### --5", "#### - 5",
    "#### 5.", "#### 5..", "#### .5", "#### ,", "#### .", "#### -.", "#### $5", "#### 1,234", "#### 1, 234", "#### 12 34",
    "-", "--", "$", "$$", "-$5", "$-5", "- 5", "5", "-5", "--5", "5-3", "10-3=7", "5.", "5..", ".5", "..", ",,", "1,234.50",
    "$1,234.50.", "$.", "It costs $ 5", "5%", "50% of 20", "3/4", "1/2.", "x = 7", "a1b2c3", "٣", "#### ٣", "५", "#### ५٣",
    "１２", "#### １２", "12१३", "5\n", "#### 5\n", "#### 5\n#### 6", "#### \n5", "####\t5", "#### 5#### 6", "é5é", "−5", "#### −5",
    "#### 0", "#### 00", "#### 07", "0.0", "#### 18.0", "#### 18.00", "18.0", "1e3", "1.2.3", "1.2.3.", "#### 1.2.3.",
    "The answer is 18 dollars.", "\\boxed{18}", "$18$", "$\\boxed{18}$.", "**18**", "18!", "18,", "18, 19", "(18)", "[18]",
    "To find the total, we add 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe makes 9 * 2 = $<<9*2=18>>18.\n#### 18",
    "First, she eats 3 eggs and bakes with 4, so she has 16 - 3 - 4 = 9 left.\n\nThen she sells them at $2 each, so 9 x $2 = $18.",
    "Step 1: 16 - 7 = 9\nStep 2: 9 * 2 = 18\n\nTherefore, Janet makes $18 every day.",
    "#### 18\n\nQuestion: A robe takes 2 bolts of blue fiber. How many bolts?\nAnswer: 2 + 1 = 3\n#### 3",
]

OPENINGS = ["", "First, ", "Let's see. ", "To solve this, we add up: ", "Step 1: ", "Answer: ", "She has ", "1. ", "- "]
BETWEEN = [
    "{a} + {b} = {c}", "{a} - {b} = <<{a}-{b}={c}>>{c}", "${a} x {b} = ${c}", "{a}*{b}={c}.", "{a}/{b}", "{a}% of {b} is {c}",
    "so there are {a} left", "in {a}-{b} days", "at {a}:{b} it was {c}", "{a} is more than {b}", "no numbers here", "{a}, {b} and {c}",
    "\\frac{{{a}}}{{{b}}} = {c}", "$${a}$$", "約{a}個", "{a}th",
]
CLOSINGS = [
    "", "#### {n}", "\n#### {n}", "\n#### {n}.", "\n#### ${n}", "\n#### -{n}", "\n#### {n} dollars", "\n#### {n}\n#### {m}", "\n####{n}",
    "\n##### {n}", " The answer is {n}.", " So the answer is ${n}.", " That is {n}", " = {n}%", " \\boxed{{{n}}}", "\n\nAnswer: {n}!", " {n}-{m}",
    "\n#### {n}\n\nQuestion: How many are {m}?", "\n### {n}", " **{n}**.", " ({n})", " -{n}", " {n},", " {n} and not {m}.", "\n#### {n} = {m}",
]
DIGITS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９"]


def number(rng):
    value = rng.choice([rng.randint(0, 9), rng.randint(10, 99), rng.randint(100, 999), rng.randint(1000, 9_999_999)])
    text = rng.choice([str(value), f"{value:,}", f"{value}.0", f"{value:,}.50", f"{value}.{rng.randint(0, 999)}", str(value), str(value)])
    if rng.random() < 0.1:
        text = "-" + text
    if rng.random() < 0.05:
        text = text.translate(str.maketrans(DIGITS[0], rng.choice(DIGITS[1:])))
    return text


def made(rng):
    gold = rng.choice([str(rng.randint(0, 20)), str(rng.randint(0, 999)), f"{rng.randint(1000, 99_999):,}", f"-{rng.randint(1, 99)}"])
    parts = [rng.choice(OPENINGS)]
    for _ in range(rng.randint(0, 2)):
        parts.append(rng.choice(BETWEEN).format(a=number(rng), b=number(rng), c=number(rng)))
        parts.append(rng.choice([". ", "\n", ", ", " "]))
    said = rng.choice([gold, gold, gold.replace(",", ""), gold + ".0", gold.lstrip("-"), number(rng)])
    parts.append(rng.choice(CLOSINGS).format(n=said, m=number(rng)))
    return "".join(parts), f"Some steps.\n#### {gold}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = parser.parse_args().out
    task = yaml.safe_load((pathlib.Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    metric = {k: v for k, v in task["metric_list"][0].items() if k not in ("metric", "aggregation", "higher_is_better")}
    filters = []
    for pipeline in task["filter_list"]:
        regex, first = pipeline["filter"]
        assert regex["function"] == "regex" and first["function"] == "take_first"
        filters.append(RegexFilter(**{k: v for k, v in regex.items() if k != "function"}))
    rng = random.Random(0)
    rows = [(reply, f"9 * 2 = 18\n#### {gold}") for reply in WRITTEN for gold in ("18", "5", "1,234")]
    rows += [made(rng) for _ in range(COUNT - len(rows))]
    with open(out / "replies.jsonl", "w", encoding="utf-8") as file:
        for reply, solution in rows:
            row = [reply, solution]
            for regex in filters:
                (taken,) = TakeFirstFilter().apply(regex.apply([[reply]], [{}]), [{}])
                right = exact_match_hf_evaluate(predictions=[taken], references=[solution], **metric)["exact_match"]
                row += [taken, float(right)]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"wrote {len(rows)} replies to {out / 'replies.jsonl'}")


if __name__ == "__main__":
    main()
