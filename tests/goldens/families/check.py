"""Whether transformers reads what `savi` has written, and computes the same with it. Run by hand.

    python check.py make DIR FAMILY [--dtype D] [--shard SIZE]
    python check.py compare DIR [--like DIR] [--savi BINARY] [--model M]

`make` writes a small random model of llama, qwen2, qwen3, gemma2, phi3 or mistral with a byte-level
tokenizer, by `save_pretrained`. `compare` loads DIR with transformers (config, weights in float32, tokenizer,
chat template, generation settings), and prints by how much its log-probabilities of a fixed text differ from
those of the model `--like` loaded the same way, and from those that BINARY gives for DIR or the model M: the
largest difference of all tokens. Tokens and the rendered template of a conversation have to be equal.
transformers 5.24.0, torch 2.11.0.
"""

import argparse
import json
import subprocess
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

WORDS = "Which way does the red circle move? It's 1234 steps to the left, then down.\n\n  And back."
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    llama = family == "llama"
    words = Tokenizer(models.BPE(ignore_merges=llama))
    if family == "qwen2":
        words.normalizer = normalizers.NFC()
    if family in ("llama", "qwen2"):
        from tokenizers import Regex

        split = pre_tokenizers.Split(Regex(LLAMA3 if llama else QWEN2), "isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        words.pre_tokenizer = pre_tokenizers.Sequence(steps)
    else:
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([WORDS, "user assistant system"], trainer)
    if llama:
        words.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|> $B", special_tokens=[("<|endoftext|>", 0)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|endoftext|>" if llama else None, eos_token="<|im_end|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def make(out: Path, family: str, dtype: str, shard: str) -> None:
    torch.manual_seed(3)
    more = dict(rope_scaling=LLAMA3_ROPE) if family == "llama" else {}
    if family in ("phi3", "gemma2"):
        more |= dict(pad_token_id=0)
    config = AutoConfig.for_model(
        family,
        vocab_size=352,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=2,
        tie_word_embeddings=family in ("qwen2", "gemma2"),
        **more,
    )
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, 0.0 if name.endswith("bias") or family == "gemma2" else 1.0, 0.2)
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], do_sample=False)
    model.save_pretrained(out, max_shard_size=shard)
    tokenizer(family).save_pretrained(out)


def opened(path: str):
    config = AutoConfig.from_pretrained(path)
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model, told = kind.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for what, names in told.items():
        assert not names, f"{path}: {what}: {names}"
    return model.eval(), AutoTokenizer.from_pretrained(path)


def logps(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    return logits.log_softmax(-1)


def compare(path: str, like: str | None, binary: str | None, name: str) -> None:
    model, words = opened(path)
    ids = words(WORDS)["input_ids"]
    chat = [{"role": "user", "content": WORDS}]
    rendered = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    found = logps(model, ids)
    if like:
        other, other_words = opened(like)
        assert ids == other_words(WORDS)["input_ids"], "tokens differ"
        assert rendered == other_words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ends = other.generation_config.eos_token_id, model.generation_config.eos_token_id
        assert ends[0] == ends[1], f"ends of texts differ: {ends}"
        print(f"{path} against {like}: {(found - logps(other, ids)).abs().max():.3g} of {found.abs().max():.3g}")
    if binary:
        cut = 4
        listed = [",".join(map(str, part)) for part in (ids[:cut], ids[cut:])]
        command = [binary, "score", "--device", "cpu", "--json", "--model", name]
        command += ["--prompt-tokens", listed[0], "--continuation-tokens", listed[1]]
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["logprobs"]
        want = [found[i - 1, ids[i]].item() for i in range(cut, len(ids))]
        print(f"{path} against savi's {name}: {max(abs(a - b) for a, b in zip(told, want, strict=True)):.3g}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["make", "compare"])
    parser.add_argument("dir", type=Path)
    parser.add_argument("family", nargs="?")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shard", default="5GB")
    parser.add_argument("--like")
    parser.add_argument("--savi")
    parser.add_argument("--model")
    args = parser.parse_args()
    if args.what == "make":
        make(args.dir, args.family, args.dtype, args.shard)
    else:
        compare(str(args.dir), args.like, args.savi, args.model or str(args.dir))


if __name__ == "__main__":
    main()
