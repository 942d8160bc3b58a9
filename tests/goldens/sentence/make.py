"""Goldens of sentence embeddings by transformers' BertModel.

    python make.py --out .

Writes `tokenizer.json` (WordPiece, with the truncation and padding that such files carry) and `io.json`: the config, the shapes
of the weights (drawn as those of ../families/make.py), texts, and what mean and CLS pooling make of them, normalised.
transformers 5.24, tokenizers 0.22.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

here = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("families", here.parent / "families" / "make.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)

TEXTS = [
    "That is a happy person.",
    "That is a very happy person",
    "Today is a sunny day",
    "",
    "Ünïcode, tokens & what-not: 日本",
    "a long text " * 12,
]
LONGEST = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False))
    tok.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tok.enable_truncation(8)
    tok.enable_padding(length=8)
    tok.save(str(out / "tokenizer.json"))
    tok.enable_truncation(LONGEST)
    tok.no_padding()
    config = dict(vocab_size=tok.get_vocab_size(), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                  max_position_embeddings=24, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12, pad_token_id=0,
                  hidden_dropout_prob=0.1, initializer_range=0.02, model_type="bert")
    model = BertModel(BertConfig(**{k: v for k, v in config.items() if k != "model_type"}, attn_implementation="eager"), add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(families.drawn(name, tuple(weight.shape)))
        found = {"mean": [], "cls": []}
        for text in TEXTS:
            ids = torch.tensor([tok.encode(text).ids])
            hidden = model(input_ids=ids).last_hidden_state[0]
            for kind, pooled in (("mean", hidden.mean(0)), ("cls", hidden[0])):
                found[kind].append(torch.nn.functional.normalize(pooled, dim=0).tolist())
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    doc = {"config": config, "longest": LONGEST, "shapes": shapes, "texts": TEXTS, **found}
    (out / "io.json").write_text(json.dumps(doc))


if __name__ == "__main__":
    main()
