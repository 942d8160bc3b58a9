"""What the goldens of video-language models share: pictures, a tokenizer, and the writing of a case.

A family's folder has a `make.py` that builds small models with transformers and calls `write`. It leaves
`cases.json`, `tokenizer.json` and for each case NAME `NAME.safetensors`:

    input_ids        [S] i64          the prompt as the processor gives it, and `ANSWER` tokens after it
    pixels           [n]              every `pixel_step`-th of the processor's pixel values, flattened
    features         [n]              every `feature_step`-th of the visual tokens, flattened
    positions        [3, S] i64       where positions have three axes
    logits           [12, vocab]      after the last 12 tokens
    logps            [8]              log-probabilities of the last 8 tokens
    grad.NAME        [<= 48]          of logps.sum(): the gradient by the parameter NAME, evenly spaced elements
    size.NAME        [1]              the largest element of that gradient

and in `greedy.json` for each case what `generate` makes of the prompt, greedily and without an end:

    tokens           24 of them
    lead             the smallest lead of a token over the second, in logits

A pass over the whole sequence for each token has to give the same ones.

Neither weights nor pictures are stored: `drawn` and `picture` make them from names and sizes, here and in
the tests alike. CPU, float32, eager attention; transformers 5.24.0, torch 2.11.0.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("families", HERE.parent / "families" / "make.py")
_families = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_families)
drawn, MASK = _families.drawn, _families.MASK

ANSWER = list(b" a red box moves")[:8]
GREEDY = 24
MOST_PIXELS, MOST_FEATURES, MOST_GRADIENT = 6000, 4000, 48


def picture(name: str, width: int, height: int) -> np.ndarray:
    """A picture from its name: ramps and noise, `[height, width, 3]` of 8 bits."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        x = np.uint64(key) + np.arange(1, width * height * 3 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    noise = (x >> np.uint64(58)).astype(np.int64).reshape(height, width, 3)
    rows, columns, channels = np.ogrid[:height, :width, :3]
    ramp = (rows * 3 + columns * 2 + channels * 60 + (key & 127)) % 384
    ramp = np.where(ramp < 192, ramp, 383 - ramp)
    return (ramp + noise).astype(np.uint8)


def frames(spec: dict) -> np.ndarray:
    """The frames of a clip, `[frames, height, width, 3]`."""
    return np.stack(
        [picture(f"{spec['name']}-{i}", spec["width"], spec["height"]) for i in range(spec["frames"])]
    )


def tokenizer(special: list[str], **more) -> PreTrainedTokenizerFast:
    """One token for each byte, and special ones from 256 on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    order = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    words = {chr(byte): byte for byte in order}
    rest = (byte for byte in range(256) if byte not in order)
    words |= {chr(256 + i): byte for i, byte in enumerate(rest)}
    assert sorted(words) == alphabet
    tokens = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **more)


def image(name: str, width: int, height: int) -> dict:
    return dict(kind="image", name=name, width=width, height=height)


def video(name: str, width: int, height: int, count: int, fps: float = 2.0, every: int = 1) -> dict:
    """`count` frames, every `every`-th of a clip of `fps` frames a second."""
    return dict(kind="video", name=name, width=width, height=height, frames=count, fps=fps, every=every)


def messages(*turns) -> list[dict]:
    """Turns `(role, part, ...)`; a part is a text, an `image` or a `video`."""
    part = lambda p: dict(type="text", text=p) if isinstance(p, str) else dict(type=p["kind"], medium=p)
    return [dict(role=role, content=[part(p) for p in parts]) for role, *parts in turns]


def draw(model: torch.nn.Module, published) -> None:
    """Draws every parameter under its name in published checkpoints."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(drawn(published(name), tuple(value.shape)))


def spaced(values: torch.Tensor, most: int) -> tuple[torch.Tensor, int]:
    """At most `most` evenly spaced elements, and their distance."""
    flat = values.detach().float().flatten()
    step = max(1, -(-flat.numel() // most))
    return flat[::step].clone(), step


def write(out: Path, name: str, model, processor, turns: list[dict], published, *, features, files: dict,
          template: str, call: dict | None = None, gradients=lambda name: True, config: dict | None = None,
          scaled: bool = False, pixels=None, nested: bool = False, saved: list[str] | None = None,
          idle: list[str] = ()) -> None:
    """Runs a case and adds it to `out`.

    `published` gives the name of a parameter in published checkpoints; `features(inputs)` the visual
    tokens `[tokens, width]` in the order of the prompt; `files` the contents of the processor files by
    the keys `image`, `video`, `whole`, `tokens`; `template` the chat template; `call` more arguments of the
    processor's call; `config` the model's config where it is to be stored in another layout than
    transformers' own; `scaled` says that pictures are scaled, for which the tests allow more;
    `pixels(inputs)` the pixel values, pictures first, where the processor pads them; `nested` gives the pictures as those
    of one conversation, as `apply_chat_template` does; `saved` the names in files where they are others than
    transformers'; `idle` the paths of keys that change nothing in this case.
    """
    out.mkdir(parents=True, exist_ok=True)
    draw(model, published)
    model.eval()
    media = [part["medium"] for turn in turns for part in turn["content"] if part["type"] != "text"]
    images = [picture(m["name"], m["width"], m["height"]) for m in media if m["kind"] == "image"]
    clips = [m for m in media if m["kind"] == "video"]
    shown = [
        dict(role=turn["role"], content=[{k: v for k, v in part.items() if k != "medium"} for part in turn["content"]])
        for turn in turns
    ]
    text = processor.apply_chat_template(shown, chat_template=template, add_generation_prompt=True, tokenize=False)
    arguments = dict(text=[text], return_tensors="pt", **(call or {}))
    if images:
        from PIL import Image
        arguments["images"] = [Image.fromarray(i) for i in images]
        if nested:
            arguments["images"] = [arguments["images"]]
    if clips:
        arguments["videos"] = [list(frames(m)) for m in clips]
        arguments["video_metadata"] = [
            VideoMetadata(
                total_num_frames=m["frames"] * m["every"],
                fps=m["fps"],
                width=m["width"],
                height=m["height"],
                duration=m["frames"] * m["every"] / m["fps"],
                video_backend="pyav",
                frames_indices=list(range(0, m["frames"] * m["every"], m["every"])),
            )
            for m in clips
        ]
        arguments["do_sample_frames"] = False
    inputs = dict(processor(**arguments))
    answer = torch.tensor([ANSWER])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    if "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answer)], 1)
    ids = inputs["input_ids"][0]
    if pixels is None:
        pixels = torch.cat([inputs[key].float().flatten() for key in PIXELS if inputs.get(key) is not None])
    else:
        pixels = pixels(inputs)
    values = {"input_ids": ids.clone()}
    values["pixels"], pixel_step = spaced(pixels, MOST_PIXELS)
    with torch.no_grad():
        visual = features(inputs)
    values["features"], feature_step = spaced(visual, MOST_FEATURES)
    extra = {}
    if hasattr(model.model, "get_rope_index"):
        keys = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
        given = {key: inputs[key] for key in keys if key in inputs}
        positions, _ = model.model.get_rope_index(inputs["input_ids"], **given)
        values["positions"] = positions[:, 0].clone()
        extra["position_ids"] = positions
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    logits = model(**inputs, **extra).logits[0]
    values["logits"] = logits[-12:].detach().clone()
    logps = torch.log_softmax(logits[-9:-1], -1).gather(1, ids[-8:, None])[:, 0]
    values["logps"] = logps.detach().clone()
    logps.sum().backward()
    for inner, parameter in model.named_parameters():
        if parameter.grad is None or not gradients(published(inner)):
            continue
        values[f"grad.{published(inner)}"], _ = spaced(parameter.grad, MOST_GRADIENT)
        values[f"size.{published(inner)}"] = parameter.grad.abs().max()[None].clone()
    save_file({key: value.contiguous() for key, value in values.items()}, out / f"{name}.safetensors")
    names = sorted(saved or saved_names(model))
    lines = out / "greedy.json"
    continued = json.loads(lines.read_text()) if lines.exists() else {}
    continued[name] = greedy(model, inputs)
    rows = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(continued.items())]
    lines.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    cases = out / "cases.json"
    all_cases = json.loads(cases.read_text()) if cases.exists() else {}
    config = config or json.loads(model.config.to_json_string(use_diff=False))
    all_cases[name] = dict(
        config=plain(config), processors=files, template=template, messages=turns, tokens=len(visual),
        pixel_step=pixel_step, pixel_count=pixels.numel(), feature_step=feature_step, saved=names, scaled=scaled,
    )
    if idle:
        all_cases[name]["idle"] = list(idle)
    cases.write_text(json.dumps(all_cases, indent=1, sort_keys=True) + "\n")
    if not (out / "tokenizer.json").exists():
        (out / "tokenizer.json").write_text(processor.tokenizer.backend_tokenizer.to_str())
    size = (out / f"{name}.safetensors").stat().st_size
    print(f"{name}: {len(ids)} tokens, {len(visual)} of them visual, {size} bytes")
    assert size <= 200_000, name


def greedy(model, inputs: dict) -> dict:
    """What the model goes on with after the prompt alone. The stand-ins for pictures are no words and never drawn."""
    by_token = ("input_ids", "attention_mask", "mm_token_type_ids")
    prompt = {key: value[:, : -len(ANSWER)] if key in by_token else value for key, value in inputs.items()}
    roles = [f"{kind}_token_{what}" for kind in ("image", "video") for what in ("id", "index")]
    never = sorted({getattr(model.config, role) for role in roles if getattr(model.config, role, None) is not None})
    model.generation_config = GenerationConfig(pad_token_id=0, suppress_tokens=never)
    made = model.generate(
        **prompt, do_sample=False, max_new_tokens=GREEDY, output_scores=True, return_dict_in_generate=True
    )
    start = prompt["input_ids"].shape[1]
    tokens = made.sequences[0, start:]
    assert len(tokens) == GREEDY
    best = torch.stack([scores[0] for scores in made.scores]).topk(2).values
    with torch.no_grad():
        for _ in range(GREEDY):
            extra = {}
            if hasattr(model.model, "get_rope_index"):
                keys = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
                given = {key: prompt[key] for key in keys if key in prompt}
                extra["position_ids"], _ = model.model.get_rope_index(prompt["input_ids"], **given)
            last = model(**prompt, **extra, use_cache=False).logits[0, -1]
            last = last.index_fill(0, torch.tensor(never), -torch.inf).argmax()[None, None]
            more = dict(input_ids=last, attention_mask=torch.ones_like(last), mm_token_type_ids=torch.zeros_like(last))
            prompt |= {key: torch.cat([prompt[key], more[key]], 1) for key in by_token if key in prompt}
    forward = prompt["input_ids"][0, start:]
    assert torch.equal(forward, tokens)
    return dict(tokens=tokens.tolist(), lead=round((best[:, 0] - best[:, 1]).min().item(), 6))


PIXELS = ("pixel_values", "pixel_values_videos")


def saved_names(model) -> list[str]:
    """The names under which transformers saves the parameters."""
    import tempfile

    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            return list(file.keys())


def plain(value):
    """Without what differs from version to version and means nothing."""
    drop = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in drop}
    return [plain(v) for v in value] if isinstance(value, list) else value


def processor_files(processor) -> dict:
    """The files that transformers writes for a processor."""
    import tempfile

    names = dict(image="preprocessor_config.json", video="video_preprocessor_config.json", whole="processor_config.json")
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        found = {key: Path(folder) / file for key, file in names.items()}
        return {key: json.loads(path.read_text()) for key, path in found.items() if path.exists()}
