"""Goldens of chat templates by transformers' `apply_chat_template`.

    python make.py --out .

Reads the `*.jinja` beside it: templates of our own in the manner of families that people use, and some
that try out what Jinja has. Writes `cases.json`: the conversations, and for every template, every conversation
and both settings of `add_generation_prompt` the rendered text, or the error (`raised` is what the template's
own raise_exception said, null for an error of Jinja's); `tokenizer.json`: a byte-level BPE of 400 entries;
`masks.json`: for templates with `{% generation %}` the tokens and `return_assistant_tokens_mask`. The clock stands at
2026-03-09 04:05:06. transformers 5.24, Jinja 3.1, tokenizers 0.22.
"""

import argparse
import datetime
import json
from pathlib import Path

import jinja2
import transformers.utils.chat_template_utils as templates
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
SPECIAL = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 9, 4, 5, 6)


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather's <state> & \"feel\" at Zürich's places.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "number", "default": 1e-05, "maximum": 3.0, "exclusive": False, "none": None},
            },
            "required": ["place"],
        },
    },
}
EMPTY = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}}}

CONVERSATIONS = {
    "one": [turn("user", "What is the capital of France?")],
    "system": [turn("system", " You are a pirate. "), turn("user", "Hello there!\nWho are you?")],
    "turns": [
        turn("user", "Hi."),
        turn("assistant", "Hello! How can I help you today?"),
        turn("user", "  Tell me about <b>café</b> & 'naïve' \"quotes\" 日本 🙂 \\n  "),
        turn("assistant", "\n\nIt is a coffee house.\n"),
        turn("user", "Thanks"),
    ],
    "whole": [
        turn("system", "Answer in one word."),
        turn("user", "Two plus two?"),
        turn("assistant", "Four"),
        turn("user", "And two more?"),
        turn("assistant", "Six, I should say,\nif nothing was dropped."),
    ],
    "thinking": [
        turn("user", "Is 7 prime?"),
        turn("assistant", "<think>\n7 has no divisors.\n</think>\n\nYes."),
        turn("user", "And 8?"),
        turn("assistant", "<think>\n\n</think>\n\nNo."),
    ],
    "users": [turn("user", "One"), turn("user", "Two"), turn("assistant", "Three")],
    "odd roles": [turn("assistant", "I begin."), turn("tool", "42"), turn("critic", "No."), turn("system", "Late.")],
    "parts": [
        turn("system", [{"type": "text", "text": "Look well."}]),
        turn("user", [{"type": "image"}, {"type": "text", "text": " What is this? "}, {"type": "video"}]),
        turn("assistant", "A cat."),
        turn("user", [{"type": "text", "text": "Sure?"}]),
    ],
    "calls": [
        turn("user", "How is the weather?"),
        turn("assistant", "", tool_calls=[{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}]),
        turn("tool", "{\"sky\": \"grey\"}"),
        turn("assistant", "It is grey."),
        turn("user", "And now?"),
    ],
}
WITH_TOOLS = {"one", "system", "calls"}


def tokenizer(out: Path) -> PreTrainedTokenizerFast:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    words = [m["content"] for c in CONVERSATIONS.values() for m in c if isinstance(m["content"], str)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
    )
    built.train_from_iterator(words, trainer)
    built.save(str(out / "tokenizer.json"))
    return PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def rendered(tok, source, messages, tools, go_on) -> dict:
    try:
        text = tok.apply_chat_template(messages, chat_template=source, tools=tools, add_generation_prompt=go_on, tokenize=False)
        return {"text": text}
    except jinja2.exceptions.TemplateError as error:
        plain = type(error) is jinja2.exceptions.TemplateError
        return {"raised": error.message if plain else None}
    except TypeError:
        return {"raised": None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    templates.datetime = Clock
    tok = tokenizer(out)
    cases, masks = {}, []
    for path in sorted(HERE.glob("*.jinja")):
        source = path.read_text()
        cases[path.stem] = {}
        for name, messages in CONVERSATIONS.items():
            tools = [WEATHER, EMPTY] if name in WITH_TOOLS else None
            both = [rendered(tok, source, messages, tools, go_on) for go_on in (False, True)]
            cases[path.stem][name] = both
            if "endgeneration" in source and path.stem.startswith("generation") and "text" in both[0]:
                got = tok.apply_chat_template(
                    messages, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
                )
                masks.append({"template": path.stem, "conversation": name, "ids": got["input_ids"], "mask": got["assistant_masks"]})
    doc = {"conversations": CONVERSATIONS, "tools": [WEATHER, EMPTY], "with_tools": sorted(WITH_TOOLS), "cases": cases}
    (out / "cases.json").write_text(json.dumps(doc, ensure_ascii=False, indent=0))
    (out / "masks.json").write_text(json.dumps(masks))


if __name__ == "__main__":
    main()
