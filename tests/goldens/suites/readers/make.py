"""Replies to benchmark questions as the field's harnesses read them.

    python make.py --lmms-eval DIR --vlmevalkit DIR --slowfast DIR --out .

The three folders are checkouts (of files alone, without their dependencies): lmms-eval at 75571cfe (2026-08-06), VLMEvalKit at
e8e78f05 (2026-08-18), apple/ml-slowfast-llava at 6551895d; lmms-eval's history gives Video-MME's rule before 9ca4445d, so DIR
has to be a git checkout or a bare git directory. Functions are taken out of their files one by one and run as they are; put in
their place are what they import and do not need, `random.choice` (gives "?"), the calls of judges, and the logger.

Reads `items.json` (questions of our own, by kind) and `real_replies.json` (`real_replies.py`), and writes

- `pool.json`: templates of replies, a third of them by real models. Placeholders: {g} the right letter, {G} its option,
  {w} and {W} the next option's, {q} the question, {o0} to {o4} options (counted round).
- `results.json`: for every rule and each of its items one character per template, in the pool's order: a letter that was
  read, `-` nothing, `?` a random letter, `_` left out of the count, `j` a judge is asked, `1` right and `0` wrong where the
  reference says no more. Judges' replies: `1`, `0`, `-` for none, and for scores the first letter of yes, no or another word with
  a digit after it.

No PyTorch is needed; numpy 2.4.6, Python 3.11.
"""

import argparse
import ast
import copy
import json
import os
import random
import re
import string
import subprocess
import types
from pathlib import Path
from typing import List, Optional

import numpy as np

HERE = Path(__file__).parent
OLD = "9ca4445d^"


# The references' own functions.


def git(folder: Path, path: str, commit: str = "HEAD") -> str:
    return subprocess.run(["git", "-C", folder, "show", f"{commit}:{path}"], check=True, capture_output=True, text=True).stdout


def functions(source: str, names: list[str], given: dict) -> types.SimpleNamespace:
    """Runs the named functions and constants of a file, and nothing else of it."""
    wanted = []
    for node in ast.parse(source).body:
        targets = [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
        if getattr(node, "name", None) in names or any(target in names for target in targets):
            wanted.append(node)
    space = dict(given)
    exec(compile(ast.Module(wanted, []), "reference", "exec"), space)
    return types.SimpleNamespace(**{name: space[name] for name in names}, space=space)


class Quiet:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def references(lmms: Path, vlm: Path, slowfast: Path) -> types.SimpleNamespace:
    marked = types.SimpleNamespace(choice=lambda choices: "?", uniform=random.uniform)
    given = dict(re=re, os=os, json=json, string=string, np=np, random=marked, eval_logger=Quiet(), ast=ast, cp=copy)
    task = lambda name, names: functions(git(lmms, f"lmms_eval/tasks/{name}"), names, given)
    kit = lambda name, names, more: functions(git(vlm, f"vlmeval/{name}"), names, given | more)
    ref = types.SimpleNamespace()
    ref.mvbench = task("mvbench/utils.py", ["mcq_acc", "mvbench_process_results", "mvbench_aggregate_results"])
    ref.tvbench = task(
        "tvbench/utils.py",
        ["_CHOICE_LETTERS", "_safe_get", "_normalize_text", "_extract_candidates", "_extract_choice_letter", "tvbench_doc_to_target", "tvbench_process_results"],
    )
    ref.perception = task("perceptiontest/val/utils.py", ["perceptiontest_val_process_results_mc"])
    ref.nextqa = task("nextqa/utils.py", ["OPTIONS", "get_multi_choice_info", "parse_multi_choice_response", "nextqa_mc_process_results"])
    ref.egoschema = task("egoschema/utils.py", ["get_multi_choice_info", "parse_multi_choice_response", "egoschema_process_results_generation"])
    ref.long = task("longvideobench/utils.py", ["parse_multi_choice_response", "longvideobench_process_results", "eval_multi_choice"])
    ref.extract = functions(
        git(lmms, "lmms_eval/tasks/_task_utils/mcq_extract.py"),
        ["_DEFAULT_CHOICES", "_ANSWER_PHRASES", "_FORMAT_PRIORITY", "extract_mcq_answer"],
        given | dict(List=List, Optional=Optional),
    )
    ref.old = functions(git(lmms, "lmms_eval/tasks/videomme/utils.py", OLD), ["extract_characters_regex"], given)
    ref.tempcompass = task(
        "tempcompass/utils.py",
        [
            "tempcompass_process_results_multi_choice",
            "tempcompass_process_results_yes_no",
            "tempcompass_process_results_caption_matching",
            "parse_llm_output_for_captioning",
            "eval_rule",
            "extract_pred",
            "llm_output_to_rating",
        ],
    )
    ref.tempcompass.space["get_eval_result"] = lambda prompt: ("a judge", "j")
    ref.activitynet = task("activitynetqa/utils.py", ["parse_score"])
    matching = kit(
        "utils/matching_util.py", ["_VERBOSE_ANSWER_RE", "can_infer_option", "can_infer_text", "can_infer"], dict(logger=Quiet())
    )
    prompts = {name: lambda *args: "" for name in ("build_prompt", "build_prompt_cn", "build_option_str", "cn_string")}
    pandas = dict(pd=types.SimpleNamespace(isna=lambda value: value is None))
    choices = kit(
        "dataset/utils/multiple_choice.py", ["build_choices", "extract_answer_from_item"], prompts | pandas | dict(can_infer=matching.can_infer)
    )
    item = dict(extract_answer_from_item=choices.extract_answer_from_item)
    ref.vlm_mvbench = kit("dataset/utils/mvbench.py", ["check_ans_with_model", "get_dimension_rating"], item | dict(load=lambda rows: rows))
    ref.vlm_failed = kit("dataset/mvbench.py", ["FAIL_MSG"], {}).FAIL_MSG
    ref.vlm_videomme = kit("dataset/utils/videomme.py", ["extract_option", "extract_characters_regex"], item)
    ref.vlm_long = kit("dataset/utils/longvideobench.py", ["extract_option", "extract_characters_regex"], item)
    ref.vlm_tempcompass = kit(
        "dataset/utils/tempcompass.py",
        ["eval_rule_caption_matching", "eval_rule_multi_choice", "eval_rule_YorN", "evaluate_tempcompass_mcq", "evaluate_tempcompass_YorN"]
        + ["system_prompt_multi_choice", "system_prompt_caption_matching", "system_prompt_YorN"],
        {},
    )
    ref.slowfast = functions(
        git(slowfast, "eval/eval_multiple_choice_qa.py"), ["map_prediction_to_option", "check_ans"], dict(print=lambda *a: None)
    )
    return ref


# Rules: an item and a reply to a character.

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def agrees(letter: str, item: dict, score) -> str:
    """Holds the reference's score against the letter it read; a random letter scores as it may."""
    assert letter == "?" or (letter == item["gold"]) == bool(score), (letter, item, score)
    return letter or "-"


def rules(ref) -> dict:
    def gold_index(item):
        return LETTERS.index(item["gold"])

    def mvbench(item, reply):
        doc = dict(candidates=item["options"], answer=item["options"][gold_index(item)])
        result = ref.mvbench.mvbench_process_results(doc, [reply])["mvbench_accuracy"]
        probe = dict(pred_answer="x", score=1)
        counted = ref.mvbench.mvbench_aggregate_results([result, probe]) == 100 * (result["score"] + 1) / 2
        if not counted:
            return "_"
        read = [letter for letter in "ABCDE" if ref.mvbench.mcq_acc(letter, reply)]
        assert len(read) < 2
        return agrees("".join(read), item, result["score"])

    def tvbench(item, reply):
        doc = dict(candidates=item["options"], answer=item["gold"])
        letter = ref.tvbench._extract_choice_letter(reply, item["options"])
        return agrees(letter, item, ref.tvbench.tvbench_process_results(doc, [reply])["tvbench_acc"])

    def perception(item, reply):
        doc = dict(video_name="", question="", answer_id=str(gold_index(item)))
        result = ref.perception.perceptiontest_val_process_results_mc(doc, [reply])["accuracy"]
        return agrees(LETTERS[result["pred_id"]] if result["pred_id"] >= 0 else "", item, result["correct"])

    def nextqa(item, reply):
        doc = {f"a{k}": text for k, text in enumerate(item["options"])} | dict(answer=gold_index(item))
        index2ans, all_choices = ref.nextqa.get_multi_choice_info(doc)
        letter = str(ref.nextqa.parse_multi_choice_response(reply, all_choices, index2ans))
        return agrees(letter, item, ref.nextqa.nextqa_mc_process_results(doc, [reply])["exact_match"])

    def egoschema(item, reply):
        option = [f"{letter}. {text}" for letter, text in zip(LETTERS, item["options"])]
        doc = dict(video_idx="v", option=option, answer=str(gold_index(item)))
        index2ans, all_choices = ref.egoschema.get_multi_choice_info(doc)
        letter = str(ref.egoschema.parse_multi_choice_response(reply, all_choices, index2ans)[0])
        score = ref.egoschema.egoschema_process_results_generation(doc, [reply])["score"]
        return agrees(letter, item, str(score["pred"]) == score["ground_truth"])

    def long(item, reply):
        texts = item["options"] + ["N/A"] * 5
        doc = {f"option{k}": texts[k] for k in range(5)}
        doc |= dict(id="i", duration_group=15, question_category="S2E", correct_choice=gold_index(item))
        result = ref.long.longvideobench_process_results(doc, [reply])["lvb_acc"]
        return agrees(result["parsed_pred"], item, ref.long.eval_multi_choice(result["answer"], result["parsed_pred"]))

    def videomme(item, reply):
        return ref.extract.extract_mcq_answer(reply, choices=["A", "B", "C", "D"]) or "-"

    def videomme_old(item, reply):
        return ref.old.extract_characters_regex(reply) or "-"

    def full(item):
        return f"{item['gold']}. {item['options'][gold_index(item)]}"

    def rating(result):
        result = result["avg_accuracy"]["rating"]
        return str(result)

    def tempcompass_choice(item, reply):
        doc = dict(video_id="", question="", answer=full(item), dim="speed")
        return rating(ref.tempcompass.tempcompass_process_results_multi_choice(doc, [reply]))

    def tempcompass_yes_no(item, reply):
        doc = dict(video_id="", question="", answer=item["gold"], dim="speed")
        return rating(ref.tempcompass.tempcompass_process_results_yes_no(doc, [reply]))

    def tempcompass_captions(item, reply):
        question = "\n".join([item["question"], *item["options"]])
        doc = dict(video_id="", question=question, answer=item["options"][gold_index(item)], dim="speed")
        return rating(ref.tempcompass.tempcompass_process_results_caption_matching(doc, [reply]))

    def captioning(item, reply):
        rated = ref.tempcompass.parse_llm_output_for_captioning(reply, full(item))["rating"]
        return "-" if rated == -1 else str(rated)

    def verdict(item, reply):
        try:
            return str(ref.tempcompass.llm_output_to_rating(reply))
        except AssertionError:
            return "-"

    def score_pair(pair):
        if pair is None:
            return "--"
        said, score = pair
        return (said if said in ("yes", "no") else "other")[0] + str(score)[-1]

    def activitynet(item, reply):
        return score_pair(ref.activitynet.parse_score(reply))

    def chat_gpt(item, reply):
        # The lines that follow the judge's reply in SlowFast-LLaVA's eval/eval_video_qa.py, which are no function there.
        try:
            result = ast.literal_eval(reply)
            score = int(result["score"])
            said = result["pred"].lower()
        except Exception:
            return "--"
        return score_pair(("yes" if "yes" in said else "no" if "no" in said else said, score))

    def vlm_mvbench(item, reply):
        # As MVBench.evaluate prepares and scores an item; the tally is the reference's.
        answer = item["options"][gold_index(item)]
        index = max(k for k, text in enumerate(item["options"]) if text == answer)
        line = dict(question=item["question"], prediction=reply, answer=answer)
        for k, text in enumerate(item["options"]):
            line[LETTERS[k]] = text
            if text == line["answer"]:
                line["answer"] = LETTERS[k]
        if ref.vlm_failed in reply:
            score = -1
        else:
            score = int(ref.vlm_mvbench.check_ans_with_model(reply, f"({LETTERS[index]}) {answer}", None, line, "MVBench"))
        rows = types.SimpleNamespace(iterrows=lambda: [(0, dict(task_type="t", score=score))])
        return str(ref.vlm_mvbench.get_dimension_rating(rows)["overall"][0])

    def vlm_capital(module):
        def read(item, reply):
            letter = module.extract_characters_regex(reply)
            if letter == "":
                letter = module.extract_option(None, dict(question=item["question"], prediction=reply), "")
            return "-" if letter == "Z" else letter

        return read

    def with_options(read):
        def asked(item, reply):
            lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, item["options"])]
            return read(item | dict(question="\n".join([item["question"], *lines])), reply)

        return asked

    def vlm_mcq(task_type):
        def read(item, reply):
            answer = full(item) if task_type == "multi-choice" else item["options"][gold_index(item)]
            line = dict(question="", candidates=repr(item["options"]), answer=answer, prediction=reply, task_type=task_type)
            return str(ref.vlm_tempcompass.evaluate_tempcompass_mcq(None, line)["rating"])

        return read

    def vlm_yes_no(item, reply):
        line = dict(question="", answer=item["gold"], prediction=reply)
        return str(ref.vlm_tempcompass.evaluate_tempcompass_YorN(None, line)["rating"])

    def slowfast(item, reply):
        if reply == "":
            return "-"  # The script stops.
        letter = ref.slowfast.map_prediction_to_option(reply)
        return agrees("" if letter == "none" else letter.upper(), item, ref.slowfast.check_ans(reply, item["gold"].lower()))

    every = ["choice5", "choice4", "choice3", "choice2", "odd"]
    return {
        "lmms-mvbench": (every, mvbench),
        "lmms-tvbench": (["choice4", "choice3", "choice2", "odd"], tvbench),
        "lmms-perception-test": (["choice3"], perception),
        "lmms-next-qa": (["choice5"], nextqa),
        "lmms-ego-schema": (["choice5"], egoschema),
        "lmms-long-video-bench": (["choice5", "choice4"], long),
        "lmms-video-mme": (["choice4"], videomme),
        "lmms-video-mme-until2026": (["choice4"], videomme_old),
        "temp-compass-choice": (["choice4", "choice3"], tempcompass_choice),
        "temp-compass-yes-no": (["yes-no"], tempcompass_yes_no),
        "temp-compass-captions": (["captions"], tempcompass_captions),
        "temp-compass-choice-exact": (["choice4", "choice3"], vlm_mcq("multi-choice")),
        "temp-compass-yes-no-exact": (["yes-no"], vlm_yes_no),
        "temp-compass-captions-exact": (["captions"], vlm_mcq("caption_matching")),
        "vlm-mvbench": (every, vlm_mvbench),
        "vlm-video-mme": (["choice4"], vlm_capital(ref.vlm_videomme)),
        "vlm-long-video-bench": (["choice5", "choice4"], vlm_capital(ref.vlm_long)),
        "vlm-video-mme, options in the question": (["choice4"], with_options(vlm_capital(ref.vlm_videomme))),
        "vlm-long-video-bench, options in the question": (["choice5", "choice4"], with_options(vlm_capital(ref.vlm_long))),
        "slow-fast-choice": (["choice5"], slowfast),
        "judge: temp-compass-choice": (["captioning"], verdict),
        "judge: temp-compass-captioning": (["captioning"], captioning),
        "judge: lmms-yes-no-and-score": (["judge"], activitynet),
        "judge: yes-no-and-score": (["judge"], chat_gpt),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lmms-eval", type=Path, required=True)
    parser.add_argument("--vlmevalkit", type=Path, required=True)
    parser.add_argument("--slowfast", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    from templates import fill, pool

    items = json.loads((HERE / "items.json").read_text())
    templates = pool(json.loads((HERE / "real_replies.json").read_text()))
    ref = references(arguments.lmms_eval, arguments.vlmevalkit, arguments.slowfast)
    results = {}
    for name, (kinds, read) in rules(ref).items():
        of_kind = [item for item in items if item["kind"] in kinds]
        replies = [(item, fill(template, item)) for item in of_kind for template in templates]
        rows = {}
        for index, item in enumerate(items):
            if item["kind"] in kinds:
                rows[index] = "".join(read(item, fill(template, item)) for template in templates)
        results[name] = rows
        distinct = len({reply for _, reply in replies})
        counts = {c: "".join(rows.values()).count(c) for c in sorted(set("".join(rows.values())))}
        print(f"{name}: {len(replies)} replies, {distinct} distinct; {counts}")
        assert len(replies) >= 5000, name
    # One template a line, so that changes show.
    compact = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    (arguments.out / "pool.json").write_text("[\n" + ",\n".join(map(compact, templates)) + "\n]\n")
    lines = [
        f"{compact(name)}: {{\n" + ",\n".join(f'"{index}": {compact(row)}' for index, row in rows.items()) + "\n}"
        for name, rows in results.items()
    ]
    (arguments.out / "results.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
