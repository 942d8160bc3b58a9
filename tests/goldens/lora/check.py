"""Loads adapters that savi wrote in PEFT and compares the logits.

    SAVI_LORA_OUT=DIR cargo test --test lora adapters_for_peft
    python tests/goldens/lora/check.py DIR

Each folder of DIR has `adapter/` (as savi wrote it) and `logits.safetensors` with `input_ids` [S] and `logits`
[S, vocab] by savi. The base is the case `qwen2-plain` of ../families, whose weights are drawn from their names.
Fails where PEFT does not take every tensor of a file, or where logits differ by more than 1e-4 of the largest.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

spec = importlib.util.spec_from_file_location("families", Path(__file__).parent.parent / "families" / "make.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)

TOLERANCE = 1e-4


def difference(folder: Path) -> float:
    """Largest difference of the logits, as a share of the largest logit."""
    base = families.build(families.CASES["qwen2-plain"])[0]
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    written = load_file(folder / "adapter" / "adapter_model.safetensors")
    taken = get_peft_model_state_dict(model)
    assert written.keys() == taken.keys(), written.keys() ^ taken.keys()
    for name, value in written.items():
        assert torch.equal(value, taken[name]), name
    ours = load_file(folder / "logits.safetensors")
    with torch.no_grad():
        logits = model(ours["input_ids"][None], use_cache=False).logits[0]
    return ((logits - ours["logits"]).abs().max() / logits.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folders = sorted(path.parent for path in parser.parse_args().folder.glob("*/adapter"))
    if not folders:
        raise SystemExit("no adapters in this folder")
    for folder in folders:
        off = difference(folder)
        print(f"{folder.name}: {off:.1e} of the largest logit")
        if off > TOLERANCE:
            raise SystemExit(f"{folder.name} differs by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
