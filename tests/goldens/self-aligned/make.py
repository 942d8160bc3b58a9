"""The self-aligned reward of recorded log-probabilities, by its definition.

    python make.py --out .

Writes `golden.json`: rows of log-probabilities of an answer's tokens after its query and without it, as float32, and
`(ppl(a) - ppl(a|q)) / ppl(a)` of both, clipped from below at -1, in float64, with the perplexities as exponentials (the
program takes one expm1 instead). Log-probabilities are those of a small random Llama by transformers, whose answers are drawn
from it, and of extremes. Versions used: PyTorch 2.11.0, transformers 5.24.0.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def reward(conditional: list[float], standalone: list[float]) -> float:
    mean = lambda logps: torch.tensor(logps, dtype=torch.float64).mean()
    query, alone = torch.exp(-mean(conditional)), torch.exp(-mean(standalone))
    return max(float((alone - query) / alone), -1.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.4,
    )
    model = LlamaForCausalLM(config).eval()

    def logps(before: torch.Tensor, answer: torch.Tensor) -> list[float]:
        ids = torch.cat([before, answer])[None]
        with torch.no_grad():
            all_logps = torch.log_softmax(model(ids).logits[0, len(before) - 1 : -1].float(), -1)
        return all_logps.gather(-1, answer[:, None])[:, 0].tolist()

    rows = []
    for length in [1, 1, 2, 3, 5, 8, 13, 21, 34, 55]:
        for _ in range(4):
            query = torch.randint(0, 64, (12,))
            ids = query
            with torch.no_grad():
                for _ in range(length):
                    chances = torch.softmax(model(ids[None]).logits[0, -1], -1)
                    ids = torch.cat([ids, torch.multinomial(chances, 1)])
            answer = ids[len(query) :]
            rows.append((logps(query, answer), logps(torch.tensor([0]), answer)))
    # Answers that the query makes less likely, and answers that are certain.
    rows += [(alone, query) for query, alone in rows[::5]]
    rows += [([-30.0] * 3, [-0.5] * 3), ([0.0], [-40.0]), ([-1e-7], [-2e-7]), ([-0.6931], [0.0]), ([-0.6932], [0.0])]
    lines = ",\n".join(f"  {json.dumps([query, alone, reward(query, alone)])}" for query, alone in rows)
    (arguments.out / "golden.json").write_text(f'{{\n "rows": [\n{lines}\n ]\n}}\n')
    print(len(rows), sum(reward(*row) == -1.0 for row in rows))


if __name__ == "__main__":
    main()
