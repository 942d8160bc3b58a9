"""The peers' side: does the tasks named on standard input and tells how long each took.

    worker.py transformers DIR | llamacpp FILE

Tasks: `branches SEED` (16 rows of 64 tokens from a 512-token prompt that is repeated on every row),
`cached SEED` (the same after one prefill whose cache is repeated), `single SEED` (128 tokens after 32,
greedy), `prefill SEED` (2,048 tokens). Every prompt is new.
"""

import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import serve  # noqa: E402


def prompt(count, seed):
    drawn = random.Random(seed)
    return [drawn.randrange(100, 40100) for _ in range(count)]


def work(tasks):
    """Does the task that a line names with the seed that it gives."""

    def do(line):
        what, seed = line.split()
        return {"tokens": tasks[what](int(seed))}

    serve(do)


def transformers(path):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.cache_utils import DynamicCache

    torch.set_num_threads(int(os.environ.get("SAVI_BENCH_THREADS", "2")))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    model.generation_config.pad_token_id = 0

    def draw(ids, count, **more):
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, **more
            )
        return (out.shape[1] - ids.shape[1]) * out.shape[0]

    def branches(seed):
        ids = torch.tensor([prompt(512, seed)]).repeat(16, 1)
        return draw(ids, 64, do_sample=True, top_k=0)

    def cached(seed):
        ids = torch.tensor([prompt(512, seed)])
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(ids[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(16)
        return draw(ids.repeat(16, 1), 64, do_sample=True, top_k=0, past_key_values=cache)

    def single(seed):
        return draw(torch.tensor([prompt(32, seed)]), 128, do_sample=False)

    def prefill(seed):
        with torch.inference_mode():
            model(torch.tensor([prompt(2048, seed)]), use_cache=True, logits_to_keep=1)
        return 2048

    work({"branches": branches, "cached": cached, "single": single, "prefill": prefill})


def llamacpp(path):
    import xllamacpp

    threads = int(os.environ.get("SAVI_BENCH_THREADS", "2"))
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_batch, params.n_parallel = 4096, 512, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_prompt = False
    server = xllamacpp.Server(params)

    def draw(count, new, seed):
        answer = server.handle_completions(
            {
                "prompt": prompt(count, seed),
                "max_tokens": new,
                "temperature": 0.0,
                "top_k": 1,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        usage = answer["usage"]
        if (usage["prompt_tokens"], usage["completion_tokens"]) != (count, new):
            raise RuntimeError(f"llama.cpp did other work: {usage}")

    def single(seed):
        draw(32, 128, seed)
        return 128

    def prefill(seed):
        draw(2048, 1, seed)
        return 2048

    work({"single": single, "prefill": prefill})


if __name__ == "__main__":
    {"transformers": transformers, "llamacpp": llamacpp}[sys.argv[1]](sys.argv[2])
