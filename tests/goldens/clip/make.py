"""Golden of a small CLIP by transformers: its directory, texts, pictures, and their embeddings.

    python make.py --out .

Writes `model/` (a Hugging Face directory with tokenizer and image processor), `pictures/N.png`, and
`io.json`: the texts, and for texts and pictures their L2-normalised embeddings. The pictures' sizes make
the processor shrink, enlarge and cut; one text is longer than the model's positions. Every parameter is
drawn anew, so that no bias is 0 and no norm is 1. CPU, float32.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

try:
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor

SEED = 20260102
WORDS = "a the red blue green circle square cross moves left right up down hits and of in frame".split()
TEXTS = [
    "the red circle moves left",
    "a",
    "the blue square hits the green cross",
    " ".join(["up down"] * 20),
]
SIZES = [(32, 32), (100, 60), (45, 130), (20, 24), (33, 47)]


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<unk>", *WORDS, "<start>", "<end>"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<start>", eos_token="<end>", pad_token="<end>", model_max_length=12
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    generator = torch.Generator().manual_seed(SEED)
    words = tokenizer()
    size = len(words)
    config = CLIPConfig(
        text_config={
            "vocab_size": size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 12, "hidden_act": "quick_gelu",
            "bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1,
        },
        vision_config={
            "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 32, "patch_size": 8, "hidden_act": "quick_gelu",
        },
        projection_dim=24,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.15 * noise)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model.save_pretrained(out / "model")
    words.save_pretrained(out / "model")
    processor.save_pretrained(out / "model")

    (out / "pictures").mkdir(exist_ok=True)
    random = np.random.default_rng(SEED)
    pictures = []
    for number, (width, height) in enumerate(SIZES):
        coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.BILINEAR)
        noisy = np.asarray(picture).astype(int) + random.integers(-30, 31, (height, width, 3))
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(out / "pictures" / f"{number}.png")
        pictures.append(picture)

    def unit(vectors) -> list[list[float]]:
        vectors = getattr(vectors, "pooler_output", vectors)
        return (vectors / vectors.norm(dim=-1, keepdim=True)).tolist()

    with torch.no_grad():
        texts = []
        for text in TEXTS:
            encoded = words(text, truncation=True, return_tensors="pt")
            texts += unit(model.get_text_features(input_ids=encoded["input_ids"]))
        pixels = processor(pictures, return_tensors="pt")["pixel_values"]
        images = unit(model.get_image_features(pixel_values=pixels))
    io = {"texts": TEXTS, "text_embeddings": texts, "image_embeddings": images}
    (out / "io.json").write_text(json.dumps(io))


if __name__ == "__main__":
    main()
