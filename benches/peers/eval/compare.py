"""Holds the samples of lm-evaluation-harness against savi's, item by item."""

import json
import sys
from pathlib import Path

out = Path(sys.argv[1])


def lines(path):
    return [json.loads(line) for line in open(path)]


def theirs(task):
    (path,) = sorted(out.glob(f"lm-eval/**/samples_{task}_*.jsonl"))[-1:]
    return lines(path)


def ours(suite):
    return lines(out / f"savi/{suite}/samples_{suite}.jsonl")


def by_filter(samples):
    found = {}
    for sample in samples:
        found.setdefault(sample["filter"], {})[sample["doc_id"]] = sample
    return found


for name, metric in (("mc1", "acc"), ("mc2", "acc")):
    them = {sample["doc_id"]: sample for sample in theirs(f"local_truthfulqa_{name}")}
    us = {sample["doc_id"]: sample for sample in ours(f"truthfulqa-{name}")}
    assert them.keys() == us.keys(), f"{name}: {len(them)} and {len(us)} items"
    prompts = sum(them[at]["prompt_hash"] == us[at]["prompt_hash"] for at in us)
    furthest = max(
        abs(float(a[0][0] if isinstance(a[0], list) else a[0]) - b)
        for at in us
        for a, b in zip(them[at]["resps"], us[at]["resps"][0], strict=True)
    )
    differ = [at for at in us if abs(them[at][metric] - us[at][name]) > 1e-3]
    mean = lambda samples, key: sum(float(s[key]) for s in samples.values()) / len(samples)
    print(
        f"truthfulqa-{name}: {len(us)} items, {prompts} of the same prompt hash; lm-eval {mean(them, metric):.5f}, "
        f"savi {mean(us, name):.5f}; log-probabilities differ by {furthest:.1e} at most; items whose figure differs by more "
        f"than 1e-3: {differ}"
    )
us, them = by_filter(ours("gsm8k")), by_filter(theirs("local_gsm8k"))
for name, samples in them.items():
    same = sum(samples[at]["resps"][0][0] == us[name][at]["resps"][0][0] for at in samples)
    prompts = sum(samples[at]["prompt_hash"] == us[name][at]["prompt_hash"] for at in samples)
    differ = [at for at in samples if samples[at]["exact_match"] != us[name][at]["acc"]]
    right = (sum(s["exact_match"] for s in samples.values()), sum(s["acc"] for s in us[name].values()))
    print(
        f"gsm8k, {name}: {len(samples)} items, {prompts} of the same prompt hash, {same} replies of the same bytes; right: "
        f"lm-eval {right[0]:.0f}, savi {right[1]:.0f}; items that differ: {differ}"
    )
