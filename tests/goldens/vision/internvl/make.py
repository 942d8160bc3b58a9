"""Goldens of InternVL by transformers, in its own layout and in that of the model's authors.

    python make.py --out .

Writes what `../common.py` lists. Cases whose names begin with "chat" have the authors' layout
(`internvl_chat`), which transformers does not read: weights are drawn under the authors' names and
run in transformers' InternVL, whose queries, keys and values are views into the authors' one matrix,
so that gradients come out in that layout, too; pictures and prompts are made as the authors' published
examples make them (`load_image`, `load_video`, `chat`), with torchvision's transforms on Pillow's pictures.
In transformers' layout, pictures are prepared by `GotOcr2ImageProcessorPil`; the processor on
torchvision's tensors differs by one level of 255 where bicubic scaling rounds. Clips have torchvision
alone, which always scales along rows first, where Pillow 13 begins with columns if those shrink more: the
clips here are such that both begin with rows. Cases are marked as scaled where anything is.
"""

import argparse
import copy
import re
import sys
from pathlib import Path

import torch
import torchvision.transforms as T
from PIL import Image
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

sys.path.insert(0, str(Path(__file__).parent.parent))
import common  # noqa: E402
from common import image, messages, video  # noqa: E402

SPECIAL = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<|im_start|>", "<|im_end|>"]
CONTEXT, VOCAB = 258, 266
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])

PARTS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif part.type == 'video' %}{{ '<video>\n' }}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As tokenizers of language models have it: words alone.
WORDS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def text(model_type: str, **more) -> dict:
    sizes = dict(
        model_type=model_type,
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    return sizes | more


def vision(**more) -> dict:
    sizes = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3)
    return sizes | dict(image_size=28, patch_size=7) | more


def published(name: str) -> str:
    for ours, theirs in (("lm_head", "language_model.lm_head"), ("model.language_model", "language_model.model")):
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name.removeprefix("model.")


def tokenizer():
    roles = dict(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    return common.tokenizer(SPECIAL, extra_special_tokens=roles)


def features(model):
    return lambda inputs: model.model.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)


def compared(name: str, scaled: bool) -> bool:
    """Whether a gradient is compared: that of a tower where it sees the same pixels; and on a bias of keys that
    are not normalised nothing depends."""
    return not (scaled and name.startswith("vision_") or re.match(r"vision_tower.*k_proj\.bias", name))


def write(out: Path, name: str, turns: list[dict], images: dict | None = None, videos: dict | None = None,
          idle: list[str] = (), scaled: bool = False, **config) -> None:
    """A case in transformers' layout."""
    config = InternVLConfig(image_token_id=CONTEXT, **config)
    side = config.vision_config.image_size[0]
    tokens = int((side // config.vision_config.patch_size[0] * config.downsample_ratio) ** 2)
    config.image_seq_length = tokens
    model = InternVLForConditionalGeneration._from_config(config, attn_implementation="eager", dtype=torch.float32)
    size = dict(height=side, width=side)
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=size, **(images or {})),
        video_processor=InternVLVideoProcessor(size=size, **(videos or {})),
        tokenizer=tokenizer(),
        image_seq_length=tokens,
    )
    common.write(
        out, name, model, processor, turns, published, features=features(model), template=PARTS,
        files=common.processor_files(processor), idle=idle, scaled=scaled,
        gradients=lambda name: compared(name, scaled),
    )


class View(torch.nn.Module):
    """A layer that is a part of another one."""

    def __init__(self, whole: torch.nn.Module, part):
        super().__init__()
        self.whole, self.part = whole, part

    def forward(self, x):
        return self.part(self.whole(x))


def third(i: int):
    return lambda y: y.chunk(3, -1)[i]


def grouped(groups: int, which: slice, dim: int):
    """Of a matrix that holds, for every key head, its queries, its key and its value."""
    return lambda y: y.unflatten(-1, (groups, -1, dim))[..., which, :].flatten(-3)


def original(name: str) -> str:
    """The authors' name of a parameter."""
    name = published(name)
    if name.startswith("language_model."):
        return name
    for ours, theirs in (
        (r"^vision_tower\.", "vision_model."),
        (r"^multi_modal_projector\.layer_norm", "mlp1.0"),
        (r"^multi_modal_projector\.linear_1", "mlp1.1"),
        (r"^multi_modal_projector\.linear_2", "mlp1.3"),
        (r"encoder\.layer\.", "encoder.layers."),
        (r"cls_token$", "class_embedding"),
        (r"position_embeddings$", "position_embedding"),
        (r"patch_embeddings\.projection", "patch_embedding"),
        (r"attention\.q_proj\.whole", "attn.qkv"),
        (r"attention\.projection_layer", "attn.proj"),
        (r"attention\.", "attn."),
        (r"lambda_", "ls"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
    ):
        name = re.sub(ours, theirs, name)
    return name


def internlm2(name: str) -> str:
    name = original(name)
    if not name.startswith("language_model."):
        return name
    for ours, theirs in (
        ("embed_tokens", "tok_embeddings"),
        ("lm_head", "output"),
        ("self_attn.q_proj.whole", "attention.wqkv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attention_norm"),
    ):
        name = name.replace(ours, theirs)
    return name


class Chat:
    """Pictures, clips and prompts as the authors' examples make them."""

    def __init__(self, config: dict):
        self.config, self.tokenizer = config, tokenizer()
        self.side = config["force_image_size"]
        steps = [T.Resize((self.side, self.side), T.InterpolationMode.BICUBIC), T.ToTensor()]
        self.transform = T.Compose([*steps, T.Normalize(*IMAGENET.values())])
        patches = self.side // config["vision_config"]["patch_size"]
        self.tokens = int(patches**2 * config["downsample_ratio"] ** 2)

    def apply_chat_template(self, turns, chat_template, **more):
        marks = dict(image="<image>\n", video="<video>\n")
        joined = [
            dict(role=turn["role"], content="".join(marks.get(p["type"]) or p["text"] for p in turn["content"]))
            for turn in turns
        ]
        return self.tokenizer.apply_chat_template(joined, chat_template=chat_template, **more)

    def tiles(self, picture: Image.Image, fewest: int, most: int, whole: bool) -> list[Image.Image]:
        columns, rows = get_optimal_tiled_canvas(picture.size[::-1], (self.side, self.side), fewest, most)
        canvas, side = picture.resize((columns * self.side, rows * self.side)), self.side
        boxes = [(x * side, y * side, (x + 1) * side, (y + 1) * side) for y in range(rows) for x in range(columns)]
        tiles = [canvas.crop(box) for box in boxes]
        return tiles + [picture.resize((side, side))] if whole and len(tiles) > 1 else tiles

    def __call__(self, text, images=(), videos=(), **more):
        (prompt,), config = text, self.config
        images, videos = iter(images), iter(videos)
        tiles, counts = [], []

        def framed(match):
            if match[0] == "<image>":
                seen = [next(images)]
                if config["dynamic_image_size"]:
                    limits = config["min_dynamic_patch"], config["max_dynamic_patch"]
                    seen = self.tiles(seen[0], *limits, config["use_thumbnail"])
                tiles.extend(seen)
                counts.append(len(seen))
                return "<image>"
            seen = [tile for frame in next(videos) for tile in self.tiles(Image.fromarray(frame), 1, 1, True)]
            tiles.extend(seen)
            counts.extend([1] * len(seen))
            return "".join(f"Frame{i + 1}: <image>\n" for i in range(len(seen)))

        prompt = re.sub(r"<image>|<video>\n", framed, prompt)
        for count in counts:
            prompt = prompt.replace("<image>", "<img>" + "<IMG_CONTEXT>" * self.tokens * count + "</img>", 1)
        ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        return dict(input_ids=ids, pixel_values=torch.stack([self.transform(tile) for tile in tiles]))


def chat(out: Path, name: str, turns: list[dict], llm: dict, tower: dict, idle: list[str] = (),
         scaled: bool = False, **more) -> None:
    """A case in the authors' layout."""
    tower = tower | dict(model_type="intern_vit_6b", num_channels=3, hidden_act="gelu", use_flash_attn=True)
    tower = tower | dict(dropout=0.0, attention_dropout=0.0, drop_path_rate=0.1)
    tower = dict(initializer_factor=0.1, initializer_range=0.02) | tower
    config = dict(
        model_type="internvl_chat", llm_config=llm, vision_config=tower, force_image_size=tower["image_size"],
        downsample_ratio=0.5, select_layer=-1, ps_version="v2", template="internvl2_5", pad2square=False,
        use_backbone_lora=0, use_llm_lora=0, hidden_size=llm["hidden_size"], tie_word_embeddings=False,
    ) | more
    config = {key: value for key, value in config.items() if value is not None}
    text_config, name_of = copy.deepcopy(llm), original
    if llm["model_type"] == "internlm2":
        name_of, text_config["model_type"] = internlm2, "llama"
        text_config["attention_bias"] = text_config.pop("bias")
    vision_config = {k: tower[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                           "image_size", "patch_size", "norm_type", "layer_norm_eps")}
    vision_config |= dict(attention_bias=tower["qkv_bias"], use_qk_norm=tower["qk_normalization"])
    theirs = InternVLConfig(
        text_config=text_config, vision_config=vision_config, image_token_id=CONTEXT,
        downsample_ratio=config["downsample_ratio"], vision_feature_layer=config["select_layer"],
        tie_word_embeddings=config.get("tie_word_embeddings", llm.get("tie_word_embeddings")),
    )
    model = InternVLForConditionalGeneration._from_config(theirs, attn_implementation="eager", dtype=torch.float32)
    width = tower["hidden_size"]
    for layer in model.model.vision_tower.encoder.layer:
        of = layer.attention
        whole = torch.nn.Linear(width, 3 * width, bias=tower["qkv_bias"])
        of.q_proj, of.k_proj, of.v_proj = (View(whole, third(i)) for i in range(3))
        if tower["qk_normalization"]:
            of.q_norm.variance_epsilon = of.k_norm.variance_epsilon = tower["layer_norm_eps"]
    if llm["model_type"] == "internlm2":
        heads, groups = llm["num_attention_heads"], llm["num_key_value_heads"]
        dim = llm["hidden_size"] // heads
        for layer in model.model.language_model.layers:
            of = layer.self_attn
            whole = torch.nn.Linear(llm["hidden_size"], (heads + 2 * groups) * dim, bias=llm["bias"])
            parts = slice(None, -2), slice(-2, -1), slice(-1, None)
            of.q_proj, of.k_proj, of.v_proj = (View(whole, grouped(groups, part, dim)) for part in parts)
    if config["ps_version"] == "v1":
        shuffled = model.model.pixel_shuffle
        model.model.pixel_shuffle = lambda x, scale_factor: shuffled(x, scale_factor).transpose(1, 2).contiguous()
    saved = [name_of(name) for name, _ in model.named_parameters()]
    common.write(
        out, name, model, Chat(config), turns, name_of, features=features(model), template=WORDS,
        files=dict(tokens={word: 256 + i for i, word in enumerate(SPECIAL)}), config=config, saved=saved, idle=idle,
        scaled=scaled, gradients=lambda name: compared(name, scaled),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out

    write(
        out, "qwen2-tiles",
        messages(("system", "Look closely."), ("user", video("balls", 50, 38, 2), image("wide", 100, 31), "What moves?")),
        text_config=text("qwen2", use_sliding_window=True, sliding_window=40, max_window_layers=1),
        vision_config=vision(attention_bias=True),
        tie_word_embeddings=False,
        images=IMAGENET, videos=IMAGENET, scaled=True,
        idle=["/text_config/max_window_layers"],
    )
    write(
        out, "llama-rms",
        messages(("user", image("square", 56, 56), video("seven", 56, 56, 7, fps=3.0, every=5), "Say what you see.")),
        text_config=text("llama", num_key_value_heads=1, rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=5e3)),
        vision_config=vision(
            image_size=56, patch_size=14, norm_type="rms_norm", layer_norm_eps=1e-4, use_qk_norm=True,
            use_mean_pooling=False, hidden_act="gelu_pytorch_tanh",
        ),
        images=dict(min_patches=1, max_patches=6), videos=dict(num_frames=7, do_sample_frames=True),
    )
    write(
        out, "qwen3-inner",
        messages(("user", video("still", 56, 56, 1), "then", video("other", 56, 56, 1), "Which is darker?")),
        text_config=text("qwen3", head_dim=12, tie_word_embeddings=True),
        vision_config=vision(
            image_size=56, num_hidden_layers=3, norm_type="rms_norm", use_absolute_position_embeddings=False,
            attention_bias=True, use_mean_pooling=False, hidden_act="relu",
        ),
        downsample_ratio=0.25, vision_feature_layer=-2, projector_hidden_act="silu",
        idle=["/text_config/max_window_layers"],
    )
    write(
        out, "mistral-turns",
        messages(
            ("user", "First ", image("tall", 42, 126), " and ", image("tiny", 9, 7), "."), ("assistant", "Two."),
            ("user", video("sixteen", 42, 42, 16), image("large", 120, 120), "How many now?"),
        ),
        text_config=text("mistral", sliding_window=90),
        vision_config=vision(image_size=42, patch_size=7, num_hidden_layers=1, use_qk_norm=True),
        downsample_ratio=0.5, vision_feature_layer=1, tie_word_embeddings=True, scaled=True,
        images=dict(min_patches=2, max_patches=4, resample=2, image_mean=[0.5, 0.4, 0.3], image_std=[0.3, 0.4, 0.5]),
        videos=dict(resample=3, do_rescale=True),
    )

    usual = dict(norm_type="layer_norm", layer_norm_eps=1e-6, qkv_bias=True, qk_normalization=False)
    tiles = dict(dynamic_image_size=True, min_dynamic_patch=1, max_dynamic_patch=6, use_thumbnail=True)
    dynamic = dict(factor=2.0, type="dynamic")
    chat(
        out, "chat-qwen2",
        messages(
            ("system", "Look closely."),
            ("user", video("balls", 50, 38, 8), image("large", 120, 118), image("tiny", 20, 20), "What moves?"),
        ),
        text("qwen2", rope_theta=1e6, rope_scaling=dynamic, rms_norm_eps=1e-6),
        vision(**usual), **tiles, scaled=True,
        idle=["/llm_config/rope_scaling/factor"],
    )
    chat(
        out, "chat-internlm2",
        messages(("user", video("one", 56, 56, 1), video("two", 56, 56, 2), image("three", 56, 56), "Are they alike?")),
        text("internlm2", bias=False, rope_theta=1e6, rms_norm_eps=1e-5, rope_scaling=dynamic, tie_word_embeddings=False),
        vision(image_size=56, num_hidden_layers=3, norm_type="rms_norm", layer_norm_eps=1e-4, qkv_bias=False,
               qk_normalization=True),
        select_layer=-2, ps_version="v1", downsample_ratio=0.25, dynamic_image_size=False, tie_word_embeddings=None,
        idle=["/llm_config/rope_scaling/factor"],
    )
    chat(
        out, "chat-internlm2-biased",
        messages(("user", image("large", 112, 112), "Tell me."), ("assistant", "A ball."), ("user", image("small", 56, 56), "And?")),
        text("internlm2", bias=True, num_key_value_heads=1, tie_word_embeddings=False),
        vision(image_size=56, patch_size=14, **usual), **(tiles | dict(use_thumbnail=False, ps_version="v1")),
    )
    chat(
        out, "chat-llama",
        messages(("user", "See: ", image("tall", 33, 95), video("sixteen", 42, 42, 16), "Count them.")),
        text("llama", num_key_value_heads=4, rope_theta=5e5, attention_bias=False),
        vision(image_size=42, norm_type="layer_norm", layer_norm_eps=1e-5, qkv_bias=True, qk_normalization=True),
        **(tiles | dict(max_dynamic_patch=2, tie_word_embeddings=True)), scaled=True,
    )
    chat(
        out, "chat-phi3",
        messages(("user", video("seven", 28, 28, 7), "Which way?"), ("assistant", "Up."), ("user", "Sure?")),
        text("phi3", pad_token_id=0, bos_token_id=1, eos_token_id=2, sliding_window=70, original_max_position_embeddings=1024),
        vision(**usual), dynamic_image_size=False,
        idle=["/llm_config/original_max_position_embeddings"],
    )

if __name__ == "__main__":
    main()
