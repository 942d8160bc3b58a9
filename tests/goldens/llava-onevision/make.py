"""Golden of a small LLaVA-OneVision by transformers: SigLIP tower, projector, pooling, newline, Qwen2.

    python make.py --out .

Writes `model/` (a Hugging Face directory) and `io.safetensors`:

    pixel_values_videos       [1, 4, 3, 64, 64]   the video
    input_ids                 [1, S] i64          a conversation with the video's placeholders expanded
    prompt_length             [1] i64             input_ids[:, :prompt_length] is the prompt of `generate`
    vision.hidden_states.N    [4, 64, 32]         output of the embeddings (N = 0) and of every layer
    vision.post_layernorm     [4, 64, 32]         the tower's last norm (not used by the projector)
    projected                 [4, 64, 48]         after the projector
    video_features            [1, 65, 48]         pooled 8 x 8 -> 4 x 4 a frame, with one newline at the end
    logits                    [1, S, 300]
    logps                     [6]                 log-probabilities of the last 6 tokens
    grad.NAME                                     gradient of logps.sum() by the parameter NAME
    generated                 [20] i64            greedy continuation of the prompt
    generated_gap             [20]                the winner's lead over the second in logits

Every parameter is drawn anew, so that no bias is 0 and no norm is 1. CPU, float32.
"""

import argparse
import re
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

SEED = 20260101
IMAGE_TOKEN, VIDEO_TOKEN = 298, 299
FRAMES, TOKENS_PER_FRAME = 4, 16
ANSWER = 6
PUBLISHED = re.compile(r"^vision_tower\.(?!vision_model\.)(.*)$")

# Parameters whose gradients are kept, by the name in the saved file.
GRADIENTS = (
    "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "vision_tower.vision_model.embeddings.position_embedding.weight",
    "vision_tower.vision_model.encoder.layers.1.self_attn.v_proj.weight",
    "vision_tower.vision_model.encoder.layers.0.layer_norm1.bias",
    "multi_modal_projector.linear_1.weight",
    "multi_modal_projector.linear_1.bias",
    "image_newline",
    "language_model.model.layers.0.self_attn.q_proj.weight",
    "language_model.model.layers.1.self_attn.k_proj.bias",
    "language_model.model.layers.0.self_attn.v_proj.weight",
    "language_model.model.layers.1.mlp.down_proj.weight",
    "language_model.model.layers.0.mlp.gate_proj.weight",
    "language_model.model.layers.1.input_layernorm.weight",
    "language_model.model.norm.weight",
    "language_model.model.embed_tokens.weight",
)


def build() -> LlavaOnevisionForConditionalGeneration:
    vision = SiglipVisionConfig(
        image_size=64,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_act="gelu_pytorch_tanh",
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=300,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
        image_grid_pinpoints=[[64, 64]],
    )
    model = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            drawn = torch.randn(value.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value.copy_(1.0 + 0.2 * drawn)
            elif value.dim() == 1:
                value.copy_(0.1 * drawn)
            elif "embed_tokens" in name or "position_embedding" in name:
                value.copy_(0.5 * drawn)
            else:
                value.copy_(drawn * 1.5 / value[0].numel() ** 0.5)
    return model.eval()


def file_tensors(model: torch.nn.Module, out: Path) -> dict[str, torch.Tensor]:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out / "model")
    return load_file(out / "model" / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)

    model = build()
    generator = torch.Generator().manual_seed(SEED + 1)
    pixels = torch.randn(1, FRAMES, 3, 64, 64, generator=generator)
    words = torch.randint(0, IMAGE_TOKEN, (1, 24), generator=generator)
    placeholders = torch.full((1, FRAMES * TOKENS_PER_FRAME + 1), VIDEO_TOKEN)
    input_ids = torch.cat([words[:, :8], placeholders, words[:, 8:]], dim=1)
    prompt_length = input_ids.shape[1] - ANSWER

    tower = model.model.vision_tower
    kept: dict[str, torch.Tensor] = {}
    hooks = []

    def keep(name, take_input=False):
        def hook(_module, args, output):
            value = args[0] if take_input else output
            kept[name] = (value[0] if isinstance(value, tuple) else value).detach().clone()

        return hook

    inner = getattr(tower, "vision_model", tower)
    hooks.append(inner.embeddings.register_forward_hook(keep("vision.hidden_states.0")))
    for i, layer in enumerate(inner.encoder.layers):
        hooks.append(layer.register_forward_hook(keep(f"vision.hidden_states.{i + 1}")))
    hooks.append(inner.post_layernorm.register_forward_hook(keep("vision.post_layernorm")))
    hooks.append(
        model.model.multi_modal_projector.register_forward_hook(keep("projector_input", True))
    )
    hooks.append(model.model.multi_modal_projector.register_forward_hook(keep("projected")))
    with torch.no_grad():
        video = model.get_video_features(pixels, return_dict=True).pooler_output
    for hook in hooks:
        hook.remove()
    # The projector reads the last layer's output, before the tower's closing norm.
    assert torch.equal(kept.pop("projector_input"), kept["vision.hidden_states.2"])

    logits = model(input_ids=input_ids, pixel_values_videos=pixels).logits
    logps = torch.log_softmax(logits[0, -ANSWER - 1 : -1].float(), dim=-1)
    logps = logps.gather(1, input_ids[0, -ANSWER:, None])[:, 0]
    logps.sum().backward()

    with torch.no_grad():
        written = model.generate(
            input_ids=input_ids[:, :prompt_length],
            pixel_values_videos=pixels,
            do_sample=False,
            max_new_tokens=20,
            output_logits=True,
            return_dict_in_generate=True,
        )
    top = torch.stack([step[0] for step in written.logits]).topk(2, dim=-1).values
    gap = top[:, 0] - top[:, 1]
    generated = written.sequences[0, -20:]
    assert gap.min() > 1e-2, f"a near tie makes the greedy tokens arbitrary: {gap}"
    assert len(set(generated.tolist())) >= 5, f"degenerate continuation: {generated.tolist()}"

    # The published checkpoints keep the tower under `vision_model`; recent releases write without it
    # and read both. The golden has the published names.
    saved = {PUBLISHED.sub(r"vision_tower.vision_model.\1", k): v for k, v in file_tensors(model, out).items()}
    save_file(saved, out / "model" / "model.safetensors", metadata={"format": "pt"})
    (out / "model" / "model.safetensors").chmod(0o644)
    again, notes = LlavaOnevisionForConditionalGeneration.from_pretrained(
        out / "model", output_loading_info=True, attn_implementation="eager"
    )
    assert not notes["missing_keys"] and not notes["unexpected_keys"], notes
    for name, value in again.named_parameters():
        assert torch.equal(value, model.get_parameter(name)), name

    # Names of the running model differ from those of the file; match them by content.
    by_content = {}
    for value in model.parameters():
        by_content.update({k: value for k, w in saved.items() if w.shape == value.shape and torch.equal(w, value)})
    missing = [name for name in GRADIENTS if name not in by_content]
    assert not missing, f"not in the saved file: {missing}; it has {sorted(saved)}"
    gradients = {f"grad.{name}": by_content[name].grad for name in GRADIENTS}
    assert all(g.abs().max() > 0 for g in gradients.values())

    tensors = {
        "pixel_values_videos": pixels,
        "input_ids": input_ids,
        "prompt_length": torch.tensor([prompt_length]),
        "video_features": video,
        "logits": logits.detach(),
        "logps": logps.detach(),
        "generated": generated,
        "generated_gap": gap,
        **kept,
        **gradients,
    }
    versions = {"made_with": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "io.safetensors", metadata=versions)
    (out / "io.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
