"""Replies that small models wrote, for `make.py`.

    python real_replies.py --model SmolLM2-135M-Instruct.Q4_1.gguf --answers shapes/answers.jsonl arithmetic/answers.jsonl --out .

Asks SmolLM2-135M-Instruct the questions of `items.json` in seven wordings, greedily and with two draws at temperature 1, up to
40 tokens, and takes up to 120 distinct replies of each file of answers that `savi eval run` wrote (here of `builtin:tiny` to
moving-shapes, five draws a question, and of `builtin:tiny-text` to arithmetic). Writes `real_replies.json`, a list of replies.
Option texts become placeholders ({o0}, {o1}, ...), so that the replies fit other items. transformers 5.24.0, torch 2.11.0,
gguf 0.19.0. The replies here come from two starts, and the last three questions were not asked; another machine draws others.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ASK = [
    "{q}\n{dots}\nGive only the letter of the right option.",
    "{q}\n{dots}",
    "Question: {q}\nOptions:\n{brackets}\nName the best option and nothing else.",
    "Look at the clip and choose one of the options.\n{q}\n{brackets}\nThe best answer is:",
    "{q} Possible answers: {commas}. Think step by step, then say which one is right.",
    "{q}\n{dots}\nAnswer in one sentence and say why.",
    "{q} Is it {o0}? Answer yes or no.",
]


def wordings(item: dict) -> list[str]:
    letters = "ABCDE"[: len(item["options"])]
    dots = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, item["options"]))
    brackets = "\n".join(f"({letter}) {text}" for letter, text in zip(letters, item["options"]))
    given = dict(q=item["question"], dots=dots, brackets=brackets, commas=", ".join(item["options"]), o0=item["options"][0])
    return [ask.format(**given) for ask in ASK]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--answers", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    where = dict(pretrained_model_name_or_path=arguments.model.parent, gguf_file=arguments.model.name)
    tokenizer = AutoTokenizer.from_pretrained(**where, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    torch.manual_seed(7)
    replies = []
    items = json.loads((Path(__file__).parent / "items.json").read_text())
    for item in items:
        if item["kind"] not in ("choice5", "choice4", "choice3", "choice2", "yes-no"):
            continue
        texts = [
            tokenizer.apply_chat_template([dict(role="user", content=text)], add_generation_prompt=True, tokenize=False)
            for text in wordings(item)
        ]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        for draw in range(3):
            made = model.generate(
                **batch, do_sample=draw > 0, temperature=1.0 if draw else None, max_new_tokens=40, pad_token_id=tokenizer.pad_token_id
            )
            for row in made:
                reply = tokenizer.decode(row[batch["input_ids"].shape[1] :], skip_special_tokens=True)
                for place in sorted(range(len(item["options"])), key=lambda k: -len(item["options"][k])):
                    if len(item["options"][place]) > 2:
                        reply = reply.replace(item["options"][place], f"{{o{place}}}")
                replies.append(reply)
    for path in arguments.answers:
        written = [reply for line in path.read_text().splitlines() for reply in json.loads(line)["replies"]]
        written = [reply for reply in dict.fromkeys(written) if reply]
        replies += written[:: max(1, len(written) // 120)][:120]
    replies = list(dict.fromkeys(replies))
    (arguments.out / "real_replies.json").write_text(json.dumps(replies, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()
