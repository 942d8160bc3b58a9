"""Goldens of SentencePiece vocabularies in GGUF files by sentencepiece itself.

    python make.py --out .

Trains two BPE models of some 400 pieces with byte fallback: in the manner of Llama 2 (a blank before the text, single digits) and of
Gemma (no blank, runs of blanks as tokens); writes `llama.gguf` and `gemma.gguf` with their pieces as llama.cpp's converter stores them, and
`io.json`: texts and the ids by sentencepiece. sentencepiece 0.2, gguf 0.19.
"""

import argparse
import io
import json
from pathlib import Path

import gguf
import sentencepiece

CORPUS = """Which way does the red circle move? It moves from left to right, then it stops at the edge.
The quick brown fox jumps over the lazy dog, and nobody knows why it would do such a thing.
In recent years, large language models have become able to answer questions, write code and translate.
    def main():
        return [x * 2 for x in range(10)]  # a comment
""".splitlines() * 4
TEXTS = [
    "Which way does it move?", " leading blank", "trailing blank ", "two  blanks   three    four", "", " ", "  ", "\n", "\n\n a\tb",
    "1234567890 and 3.14", "café naïve 日本 🙂 \u0000x", "def main():\n        return 2\n", "aaaaaaaaaa thethethe", "<s> is no token here </s",
    "UPPER lower MiXeD", "it's, we'll; they've!?...",
]


def make(out: Path, name: str, **more) -> list:
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=stream, vocab_size=460, model_type="bpe", byte_fallback=True, character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2, num_threads=1, **more,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=stream.getvalue())
    types = []
    for i in range(model.vocab_size()):
        kinds = [(model.is_unknown(i), 2), (model.is_control(i), 3), (model.is_unused(i), 5), (model.is_byte(i), 6)]
        kind = next((kind for yes, kind in kinds if yes), 1)
        types.append(4 if model.id_to_piece(i) in more.get("user_defined_symbols", []) else kind)
    writer = gguf.GGUFWriter(out / f"{name}.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    # Symbols of the user stand with plain blanks.
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    writer.add_token_list([p.replace("\u2581", " ") if t == 4 else p for p, t in zip(pieces, types)])
    writer.add_token_scores([model.get_score(i) for i in range(model.vocab_size())])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if name == "gemma":
        writer.add_add_space_prefix(False)
        writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [model.encode(text) for text in TEXTS]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    told = {
        "llama": make(out, "llama", split_digits=True),
        "gemma": make(out, "gemma", add_dummy_prefix=False, user_defined_symbols=["\u2581\u2581", "\u2581\u2581\u2581\u2581"]),
    }
    (out / "io.json").write_text(json.dumps({"texts": TEXTS, "ids": told}))


if __name__ == "__main__":
    main()
