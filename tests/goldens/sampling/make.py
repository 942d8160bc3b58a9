"""Goldens of sampling by transformers' logits processors.

    python make.py --out .

Writes `cases.json`: a list of cases with the logits (drawn with a fixed seed), the tokens of prompt and
continuation, the settings under the names of `Sampling`, and the log-probabilities of the distribution
that is left (null where a token is cut). transformers 5.24.0, torch 2.11.0, float32.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import generation as g

VOCAB = 40
PROMPT = [3, 7, 7, 12, 3, 7]
CONTINUATION = [9, 3, 7, 9, 21, 9, 3]

SETTINGS = [
    dict(temperature=1.0),
    dict(temperature=0.7),
    dict(temperature=1.0, top_k=5),
    dict(temperature=1.0, top_p=0.6),
    dict(temperature=1.3, top_k=12, top_p=0.8),
    dict(temperature=1.0, min_p=0.15),
    dict(temperature=0.9, top_p=0.9, min_p=0.2),
    dict(temperature=1.0, typical_p=0.4),
    dict(temperature=1.2, top_k=20, typical_p=0.7),
    dict(temperature=1.0, repetition_penalty=1.7),
    dict(temperature=1.0, repetition_penalty=0.6),
    dict(temperature=1.0, no_repeat_ngram_size=2),
    dict(temperature=1.0, no_repeat_ngram_size=3),
    dict(temperature=1.0, no_repeat_ngram_size=1),
    dict(temperature=1.0, logit_bias={"4": 3.0, "9": -2.5}),
    dict(temperature=0.8, repetition_penalty=1.3, no_repeat_ngram_size=2, top_k=15, top_p=0.85, min_p=0.05),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    generator = torch.Generator().manual_seed(20261126)
    ids = torch.tensor([PROMPT + CONTINUATION])
    cases = []
    for setting in SETTINGS:
        logits = (2 * torch.randn(1, VOCAB, generator=generator)).float()
        chain = g.LogitsProcessorList()
        if "repetition_penalty" in setting:
            chain.append(g.RepetitionPenaltyLogitsProcessor(setting["repetition_penalty"]))
        if "no_repeat_ngram_size" in setting:
            chain.append(g.NoRepeatNGramLogitsProcessor(setting["no_repeat_ngram_size"]))
        if "logit_bias" in setting:
            bias = {(int(token),): value for token, value in setting["logit_bias"].items()}
            chain.append(g.SequenceBiasLogitsProcessor(bias))
        chain.append(g.TemperatureLogitsWarper(setting["temperature"]))
        if "top_k" in setting:
            chain.append(g.TopKLogitsWarper(setting["top_k"]))
        if "top_p" in setting:
            chain.append(g.TopPLogitsWarper(setting["top_p"]))
        if "min_p" in setting:
            chain.append(g.MinPLogitsWarper(setting["min_p"]))
        if "typical_p" in setting:
            chain.append(g.TypicalLogitsWarper(setting["typical_p"]))
        left = chain(ids, logits.clone()).log_softmax(-1)[0]
        logps = [round(x, 6) if x > float("-inf") else None for x in left.tolist()]
        cases.append(dict(sampling=setting, logits=[round(x, 7) for x in logits[0].tolist()], logps=logps))
    text = json.dumps(dict(prompt=PROMPT, continuation=CONTINUATION, cases=cases), indent=None)
    (out / "cases.json").write_text(text.replace('{"sampling"', '\n{"sampling"') + "\n")


if __name__ == "__main__":
    main()
