"""Prompts, continuations and figures of lm-evaluation-harness's tasks on rows made up here.

    pip install lm_eval==0.4.13 datasets==5.2.0 sacrebleu rouge-score
    python make.py [--out FOLDER]      # writes prompts.json, by default beside this file

For every suite: `examples` and `rows` in the layout of the hub's files; for each row `asked`, the requests without examples
(context and continuation); `shown`, the context (contexts, where they differ) with the first two examples; and `figures`, what the
task makes of the log-probabilities `logps`, ties among them. The tasks are the harness's own, from its own files; of
TruthfulQA the six questions before every prompt are left out.
"""

import argparse
import importlib
import json
import pathlib
import random
import tempfile

import lm_eval
import yaml
from lm_eval.api.task import ConfigurableTask

TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"


def arc(number, question, *texts):
    labels = [str(i + 1) for i in range(len(texts))] if number % 2 else list("ABCDE")[: len(texts)]
    key = labels[number % len(texts)]
    return {"id": f"q{number}", "question": question, "choices": {"text": list(texts), "label": labels}, "answerKey": key}


ARC = [
    arc(0, "Which of these melts in the sun?", "ice", "a stone", "iron", "glass"),
    arc(1, "What do plants need\nto grow?", "Light.", "noise"),
    arc(2, "  Why is the sky blue? ", "air scatters blue light", "paint", "the sea", "é"),
    arc(3, "Pick the metal:", "copper", "wood", "wool"),
    arc(4, "Which is largest?", "a mouse", "a cat", "a horse", "an elephant", "an ant"),
]


def hellaswag(number, activity, a, b, *endings):
    return {
        "ind": number, "activity_label": activity, "ctx_a": a, "ctx_b": b, "ctx": f"{a} {b}", "endings": list(endings), "source_id": f"s{number}",
        "split": "val", "split_type": "indomain", "label": str(number % 4),
    }


HELLASWAG = [
    hellaswag(0, "Cooking", "[header] How to boil an egg [title] Fill a pot.", "", "[step] Boil it.", "Sing  a song.", "[title] Run.", "Eat   it raw."),
    hellaswag(1, "Sailing", "A man is on a boat.", "he", "waves at the CAMERA.", "sinks.", "reads [a book].", "is asleep."),
    hellaswag(2, "Chess", "Two girls play.", "THE OTHER ONE", "wins", "loses", " draws", "gets up and [substeps] leaves the room."),
    hellaswag(3, "Knitting", " A woman sits.  ", "éva", "takes wool.", "takes needles.", "takes a nap.", "takes [nothing]"),
]


def mmlu(number, question, *texts):
    return {"question": question, "subject": "college_physics", "choices": list(texts), "answer": number % 4}


MMLU = [
    mmlu(0, "What is light?", "a wave", "a particle", "both", "neither"),
    mmlu(1, " Which force\nis weakest? ", "gravity", "the weak force", "the strong force", "electromagnetism"),
    mmlu(2, "1 + 1 =", "1", "2", "3", "4"),
    mmlu(3, "Heat flows", "up", "down", " from hot to cold ", "never"),
]

WINOGRANDE = [
    {"sentence": "Ann thanked Eve because _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    {"sentence": "The cup did not fit into the box as the _ was too big .", "option1": "cup", "option2": "box", "answer": "1"},
    {"sentence": "_ cooked while Tom was away.", "option1": "Jim", "option2": "Tom", "answer": "1"},
    {"sentence": "Sue paid Kim but _  forgot_it.", "option1": "Sue", "option2": "Kim", "answer": "2"},
]

GSM8K = [
    {"question": "Two boxes hold 3 pens each. How many pens?", "answer": "2 * 3 = <<2*3=6>>6 pens\n#### 6"},
    {"question": "A pen costs $2.  What do 600 cost?", "answer": "600 * 2 = $1,200\n#### 1,200"},
    {"question": "Half of 10?\nAnd minus 7?", "answer": "10 / 2 = 5\n5 - 7 = -2\n#### -2"},
]


def truthful(question, best, right, wrong):
    labels = [1] * len(right) + [0] * len(wrong)
    return {
        "question": question,
        "mc1_targets": {"choices": [best, *wrong], "labels": [1] + [0] * len(wrong)},
        "mc2_targets": {"choices": [*right, *wrong], "labels": labels},
    }


TRUTHFUL = [
    truthful("Do bats see?", "Bats see", ["They do", "Bats see"], ["Bats are blind", "No, they hear", "Only at night"]),
    truthful("Is the moon a cheese?", "No", ["No"], ["Yes", "Partly."]),
]

# The suite, the task's file, and where its rows come from.
SUITES = {
    "arc-easy": ("arc/arc_easy.yaml", ARC, {}),
    "arc-challenge": ("arc/arc_challenge.yaml", ARC, {}),
    "hellaswag": ("hellaswag/hellaswag.yaml", HELLASWAG, {}),
    "mmlu": ("mmlu/default/mmlu_college_physics.yaml", MMLU, {}),
    "winogrande": ("winogrande/default.yaml", WINOGRANDE, {}),
    "gsm8k": ("gsm8k/gsm8k.yaml", GSM8K, {}),
    "truthfulqa-mc1": ("truthfulqa/truthfulqa_mc1.yaml", TRUTHFUL, {"doc_to_text": "Q: {{question}}\nA:"}),
    "truthfulqa-mc2": ("truthfulqa/truthfulqa_mc2.yaml", TRUTHFUL, {"doc_to_text": "Q: {{question}}\nA:"}),
}


def read(path):
    """A task's file with what it includes; `!function` is the function itself."""

    class Loader(yaml.SafeLoader):
        pass

    def function(loader, node):
        module, name = loader.construct_scalar(node).rsplit(".", 1)
        folder = ".".join(path.parent.relative_to(TASKS).parts)
        return getattr(importlib.import_module(f"lm_eval.tasks.{folder}.{module}"), name)

    Loader.add_constructor("!function", function)
    config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    if "include" in config:
        config = read(path.parent / config.pop("include")) | config
    return config


def draws(rng, count, cases=6):
    """Log-probabilities of `count` options, some the same."""
    lists = [[round(-rng.expovariate(0.1), 2) for _ in range(count)] for _ in range(cases)]
    lists.append([-3.0] * count)
    lists.append([-float(2 + i // 2) for i in range(count)])
    return lists


def suite(path, data, changes, rng):
    config = read(TASKS / path) | changes
    config.pop("tag", None)
    has_examples = bool(config.get("fewshot_split") or config.get("training_split"))
    examples, rows = (data[:2], data[2:]) if has_examples else ([], data)
    asked = config.get("test_split") or config["validation_split"]
    shown_from = config.get("fewshot_split") or config.get("training_split")
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for split, part in ((shown_from, examples), (asked, rows)):
            if split:
                files[split] = f"{folder}/{split}.jsonl"
                pathlib.Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in part))
        for key in ("training_split", "validation_split", "test_split"):
            if config.get(key) not in files:
                config[key] = None
        kind = {"process_docs": config["fewshot_config"]["process_docs"]} if "process_docs" in config.get("fewshot_config", {}) else {}
        config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
        config["fewshot_config"] = {"sampler": "first_n", **kind}
        if has_examples:
            config["fewshot_split"] = shown_from
        task = ConfigurableTask(config=config)
        out = {"examples": examples, "rows": rows, "asked": [], "shown": [], "logps": [], "figures": []}
        for doc in task.eval_docs:
            context = task.fewshot_context(doc, 0)
            requests = task.construct_requests(doc, context)
            many = isinstance(requests, list)
            out["asked"].append([list(request.args) for request in requests] if many else context)
            out["shown"].append(task.fewshot_context(doc, 2) if has_examples else None)
            if many:
                lists = draws(rng, len(requests))
                figures = [task.process_results(doc, [(logp, False) for logp in logps]) for logps in lists]
                out["logps"].append(lists)
                out["figures"].append([{name: float(value) for name, value in of.items()} for of in figures])
        return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = parser.parse_args().out
    rng = random.Random(0)
    golden = {name: suite(*of, rng) for name, of in SUITES.items()}
    (out / "prompts.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {len(golden)} suites to {out / 'prompts.json'}")


if __name__ == "__main__":
    main()
