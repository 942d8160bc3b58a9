"""Tasks of lm-evaluation-harness on files of this machine: the same rows, no worked examples, no primer."""

import csv
import json
import sys
from pathlib import Path

import lm_eval

out = Path(sys.argv[1])
tasks = out / "tasks"
package = Path(lm_eval.__file__).parent / "tasks"


def listed(text):
    return [part.strip() for part in text.split(";") if part.strip()]


rows = list(csv.DictReader(open(out / "data/truthfulqa/TruthfulQA.csv", newline="", encoding="utf-8-sig")))
for name in ("mc1", "mc2"):
    with open(out / f"data/truthfulqa-{name}.jsonl", "w") as file:
        for row in rows:
            false = listed(row["Incorrect Answers"])
            true = [row["Best Answer"].strip()] if name == "mc1" else listed(row["Correct Answers"])
            labels = [1] * len(true) + [0] * len(false)
            targets = {"choices": true + false, "labels": labels}
            file.write(json.dumps({"question": row["Question"].strip(), f"{name}_targets": targets}) + "\n")
    metric = "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    score = "" if name == "mc1" else "process_results: !function utils.process_results_mc2\n"
    (tasks / f"{name}.yaml").write_text(
        f"task: local_truthfulqa_{name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    validation: {(out / f'data/truthfulqa-{name}.jsonl').resolve()}\nvalidation_split: validation\n"
        'output_type: multiple_choice\nnum_fewshot: 0\ndoc_to_text: "Q: {{question}}\\nA:"\ndoc_to_target: 0\n'
        f'doc_to_choice: "{{{{{name}_targets.choices}}}}"\n{score}{metric}'
    )
(tasks / "utils.py").write_text("from lm_eval.tasks.truthfulqa.utils import process_results_mc2  # noqa: F401\n")
(tasks / "gsm8k.yaml").write_text(
    f"include: {package / 'gsm8k/gsm8k.yaml'}\ntask: local_gsm8k\ntag: null\ndataset_path: json\ndataset_name: null\n"
    f"dataset_kwargs:\n  data_files:\n    test: {(out / 'data/gsm8k/test.jsonl').resolve()}\n"
    "training_split: null\nfewshot_split: null\ntest_split: test\nnum_fewshot: 0\ngeneration_kwargs:\n"
    '  until: ["Question:", "</s>", "<|im_end|>"]\n  do_sample: false\n  temperature: 0.0\n  max_gen_toks: 256\n'
)
