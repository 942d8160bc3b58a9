"""How the benchmarks' own code reads the words of judges.

    pip install numpy==2.4.6 scipy==1.17.1
    git clone https://github.com/EvolvingLMMs-Lab/lmms-eval
    git clone https://github.com/lm-sys/FastChat
    git clone https://github.com/tatsu-lab/alpaca_eval
    python make.py --lmms-eval lmms-eval --fastchat FastChat --alpaca-eval alpaca_eval [--out FOLDER]

writes golden.json, by default beside this file. The words are ours; what is made of them is what functions and
patterns out of the repositories at the commits below make of them, which run here as they stand there:
- video_qa: `parse_score` of lmms-eval's activitynetqa, and how its accuracy counts what it gives;
- reply, caption: `llm_output_to_rating` and `parse_llm_output_for_captioning` of its tempcompass (null: it raises);
- single: FastChat's patterns for ratings, the second where the first finds nothing (null: it rates -1);
- vicuna: `parse_score` of FastChat's first evaluation (null: it gives -1, -1);
- alpaca: `logprob_parser` of alpaca_eval with the ids m and M (null: no number).
"""

import argparse
import ast
import json
import logging
import pathlib
import re
import subprocess

import numpy as np
from scipy.special import logsumexp

COMMITS = {
    "lmms_eval": "75571cfe0fa36ca5ec2e6aa2bb268f9d38295af3",
    "fastchat": "0e6d3e4beaab66f4d3f93db72541a4abab8af28d",
    "fastchat_first": "a0ba8c97~1",
    "alpaca_eval": "cd543a149df89434d8a54582c0151c0b945c3d20",
}

VIDEO_QA = [
    "{'pred': 'yes', 'score': 4}",
    "{'pred': 'no', 'score': 0}",
    "{'pred': 'yes', 'score': 4.8}",
    '{"pred": "Yes.", "score": 5}',
    "{'pred': 'No', 'score': '2'}",
    "{'pred': 'no', 'score': '2.5'}",
    "{'pred': 'maybe', 'score': 3}",
    "{'pred': 'yes and no', 'score': 3}",
    "Here it is: {'score': 1, 'pred': 'no',}. Done {'pred': 'yes', 'score': 5}",
    "```python\n{\n  'pred': 'yes',\n  'score': 3\n}\n```",
    "{'pred': yes, 'score': 3}",
    "{'pred': 'yes'}",
    "{'score': 3}",
    "{'pred': True, 'score': 3}",
    "{'pred': 'yes', 'score': True}",
    "{'pred': 'yes', 'score': None}",
    "{'pred': 'it\\'s a yes', 'score': 2}",
    "{'pred': 'yes', 'score': 1, 'score': 4}",
    "'pred': 'yes', 'score': 4",
    "{'pred': 'yes', 'score': 4",
    "{'pred': 'yes' 'score': 4}",
    "{}",
    "",
    "yes",
]

SINGLE = [
    "Good. Rating: [[8]]",
    "Rating: [[7.5]]",
    "Rating: [7]",
    "See [2]. Rating: [[9]]",
    "See [2]. Rating: 9",
    "[[10]] and [[3]]",
    "[[ 8 ]]",
    "[[8/10]]",
    "[[8.]]",
    "[[.8]]",
    "[[[6]]]",
    "[[a]] [[4]]",
    "[[7,8]] [5.5]",
    "[[1.2.3]]",
    "Rating: 8",
    "Rating: [[8",
    "",
]

VICUNA = ["8 9", "8.5 9\nBecause.", "8,9", "10 10\n", "8", "8 9 7", "Answer 1: 8", "\n8 9", "", "a b"]

REPLY = [
    "Correct", "Incorrect", "Correct.", "Incorrect, because ...", "The prediction is Correct.", "It is Incorrect.",
    "Correct, not Incorrect", "Not Correct but Incorrect", "correct", "", "  Incorrect",
]

CAPTION = [
    ("Reasoning: it runs.\nAnswer: B. running", "B. running"),
    ("Reasoning: it runs.\nAnswer: B", "B. running"),
    ("Reasoning: it runs.\nAnswer: B.", "B. running"),
    ("Reasoning: it runs.\nAnswer: A. walking", "B. running"),
    ("Reasoning: it runs.\nAnswer: None of the options", "B. running"),
    ("Answer: A. walking\nAnswer: B. running", "B. running"),
    ("Reasoning: x\nAnswer: B. running, not A. walking", "B. running"),
    ("B. running", "B. running"),
    ("B. running it is", "B. running"),
    ("The Answer is B. running", "B. running"),
    ("nothing", "C. up"),
]

ALPACA = [
    [("m", -0.1), ("M", -2.5), ("The", -6.0)],
    [("M", -0.01), ("m", -5.0)],
    [("M", -0.01), ("The", -5.0)],
    [("m", -3.0), ("The", -0.1)],
    [("The", -0.1), ("Both", -3.0)],
    [("m", -0.7), ("M", -0.7)],
]


def source(repository, path, commit):
    command = ["git", "-C", str(repository), "show", f"{commit}:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def part(text, names):
    """The functions and assignments of these names, run alone."""
    def name(node):
        if isinstance(node, ast.FunctionDef):
            return node.name
        return node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else None

    nodes = [node for node in ast.parse(text).body if name(node) in names]
    space = {
        "ast": ast, "re": re, "np": np, "logging": logging, "logsumexp": logsumexp,
        "logger": logging.getLogger(), "eval_logger": logging.getLogger(),
    }
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module(body=future + nodes, type_ignores=[]), "part", "exec"), space)
    return space


def video_qa(parse_score, text):
    """Label, score; lmms-eval's own code meets what it cannot read with an exception, its failed calls with no, 0."""
    pred, score = parse_score(text) or ("no", 0)
    label = "yes" if "yes" in pred.lower() else "no" if "no" in pred.lower() else None
    return [text, label, int(score), parse_score(text) is None]


def single(patterns, text):
    match = re.search(patterns["one_score_pattern"], text) or re.search(patterns["one_score_pattern_backup"], text)
    return [text, ast.literal_eval(match.groups()[0]) if match else None]


def vicuna(parse_score, text):
    pair = parse_score(text)
    return [text, None if pair == [-1, -1] else pair]


def reply(rate, text):
    try:
        return [text, rate(text.strip())]
    except AssertionError:
        return [text, None]


def alpaca(parse, tokens):
    top = [{"token": token, "logprob": logp} for token, logp in tokens]
    preference = parse({"logprobs": {"content": [{"top_logprobs": top}]}}, "m", ["m", "M"], is_binarize=False)[0]
    return [tokens, None if np.isnan(preference) else float(preference)]


def main():
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser()
    for name in ("lmms-eval", "fastchat", "alpaca-eval"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    options = parser.parse_args()

    lmms = lambda path: source(options.lmms_eval, f"lmms_eval/tasks/{path}/utils.py", COMMITS["lmms_eval"])
    activitynetqa = part(lmms("activitynetqa"), {"parse_score"})
    tempcompass = part(lmms("tempcompass"), {"llm_output_to_rating", "parse_llm_output_for_captioning"})
    patterns = part(
        source(options.fastchat, "fastchat/llm_judge/common.py", COMMITS["fastchat"]),
        {"one_score_pattern", "one_score_pattern_backup"})
    first = part(
        source(options.fastchat, "fastchat/eval/eval_gpt_review.py", COMMITS["fastchat_first"]), {"parse_score"})
    parsers = part(
        source(options.alpaca_eval, "src/alpaca_eval/completion_parsers.py", COMMITS["alpaca_eval"]),
        {"logprob_parser"})
    caption = tempcompass["parse_llm_output_for_captioning"]
    golden = {
        "commits": COMMITS,
        "video_qa": [video_qa(activitynetqa["parse_score"], text) for text in VIDEO_QA],
        "single": [single(patterns, text) for text in SINGLE],
        "vicuna": [vicuna(first["parse_score"], text) for text in VICUNA],
        "reply": [reply(tempcompass["llm_output_to_rating"], text) for text in REPLY],
        "caption": [[text, right, caption(text, right)["rating"]] for text, right in CAPTION],
        "alpaca": [alpaca(parsers["logprob_parser"], tokens) for tokens in ALPACA],
    }
    (options.out / "golden.json").write_text(json.dumps(golden, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
