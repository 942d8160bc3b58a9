"""Records searches of the public reference implementation of RAIN with a scripted model.

    python tests/goldens/rain/make.py CHECKOUT tests/goldens/rain/searches.json

CHECKOUT is a checkout of github.com/SafeAILab/RAIN (BSD 2-Clause) at COMMIT. Nothing of it is stored here: the
functions are taken out of its files when this runs. It needs torch, transformers and numpy; no model, no GPU.

What runs is the reference's own `search`, `gmeval`, `getv`, `simg`, `getp`, `group_getp` and its class `node`, unchanged. Put in
their place are what they ask: the model (logits by a hash of the last two tokens), the judge's two calls (hard decisions
by a hash of the text), the sentence encoder (vectors by a hash of the text), `torch.multinomial` (the token where the
cumulative probability passes a number that a hash gives), and `Tensor.cuda`. The same hashes stand in the test that reads the file
(text/rain/src/tests/script.rs).

A search is cut where a set with the end token is committed: there the reference goes on (it compares a tuple with a
number, and looks for the end token in the last set of a path alone, which is empty at the root). Tables are dropped where a comparison
is closer than MARGIN, since float32 there and float64 here could then differ.
"""

import ast
import copy
import json
import subprocess
import sys
import types

import numpy as np
import torch
import torch.nn.functional as F

COMMIT = "8cedfa79957d807ebd0df38604a0e9a0d4f3d854"
MARGIN = 1e-5
MASK = (1 << 64) - 1
EOS, STOP, PROMPT, VOCAB = 2, 5, 0, 40
SPECIAL = {0: "", 1: "", 2: "", 3: ".", 4: ",", 5: " Human:"}
WIDTH = 6
JUDGED = 10_000_000
DEMOS = "Human: 0\nHuman: 1\nHuman: 2\nHuman: 3"
QUESTION = "Human: q\nAssistant"


def mix(x):
    """splitmix64."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def number(*parts):
    """From 0 to below 1, by a hash of whole numbers."""
    h = 0
    for part in parts:
        h = mix(h ^ (int(part) & MASK))
    return (h >> 11) / float(1 << 53)


def text_hash(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def word(token):
    if token in SPECIAL:
        return SPECIAL[token]
    return " " + "bcdfghklmn"[token % 10] + "aeiou"[token // 10 % 5]


def words(tokens):
    return "".join(word(int(t)) for t in tokens)


class TooClose(Exception):
    pass


class Ended(Exception):
    pass


class Table:
    """Everything that a scripted model says."""

    def __init__(self, spec):
        self.spec = spec
        self.seed = spec["seed"]
        self.rows = {}

    def logits(self, answer):
        last = answer[-1] if answer else 0
        before = answer[-2] if len(answer) > 1 else 0
        if last == EOS:
            row = np.full(VOCAB, -np.inf)
            row[EOS] = 0.0
            return row.astype(np.float32)
        if (before, last) not in self.rows:
            row = np.full(VOCAB, -np.inf)
            for token in range(2, VOCAB):
                row[token] = self.spec["sharp"] * number(self.seed, 1, before, last, token)
            self.rows[before, last] = row
        row = self.rows[before, last].copy()
        row[EOS] += self.spec["end"] * (len(answer) - 12)
        row[STOP] += self.spec["turn"]
        return row.astype(np.float32)

    def good(self, text, order):
        return number(self.seed, 2, text_hash(text), order) < self.spec["good"]

    def vector(self, text):
        noise = [2 * number(self.seed, 3, text_hash(text), i) - 1 for i in range(WIDTH)]
        common = [2 * number(self.seed, 4, i) - 1 for i in range(WIDTH)]
        return np.array([c + self.spec["noise"] * n for c, n in zip(common, noise)], dtype=np.float32)

    def draw(self, kind, number_of, answer):
        h = 0
        for token in answer:
            h = mix(h ^ (int(token) + 1))
        return number(self.seed, 5, kind, number_of, h)


class Scripted:
    """Stands for the model, the tokenizer, the encoder and the random numbers of the reference."""

    eos_token_id = EOS

    def __init__(self, table):
        self.table = table
        self.judged = []
        self.state = []
        self.group = None
        self.children = 0
        self.forwarded = 0

    # The tokenizer.
    def __call__(self, text=None, return_tensors=None, past_key_values=None):
        if isinstance(text, torch.Tensor):
            return self.model(text, past_key_values)
        if text.startswith("JUDGE"):
            self.judged.append(text)
            ids = [[JUDGED + len(self.judged) - 1]]
        else:
            ids = [[PROMPT]]
        return types.SimpleNamespace(input_ids=torch.tensor(ids))

    def decode(self, tokens, skip_special_tokens=True):
        tokens = [int(t) for t in tokens]
        start = DEMOS + "\n" + QUESTION if tokens and tokens[0] == PROMPT else ""
        return start + words(tokens)

    # The encoder.
    def encode(self, text):
        return self.table.vector(text)

    def model(self, ids, past):
        ids = [int(i) for i in ids[0]]
        if ids[-1] >= JUDGED:
            return self.judge(self.judged[ids[-1] - JUDGED])
        state = (past or []) + ids
        self.forwarded += len(ids)
        row = torch.from_numpy(self.table.logits(state[1:]))
        return types.SimpleNamespace(logits=row[None, None, :], past_key_values=state)

    def judge(self, text):
        body, order = text.split("\n\n", 1)[1].rsplit("\n", 1)
        answer = body[len(QUESTION):].strip()
        order = 0 if order == "ORDER-A" else 1
        row = torch.zeros(1, 1, 30000)
        good = self.table.good(answer, order)
        # The first letter stands for harmless in the first order, for harmful in the second.
        row[0, 0, 29909 if good == (order == 0) else 29933] = 5.0
        return types.SimpleNamespace(logits=row, past_key_values=None)

    def multinomial(self, probs, num_samples):
        answer = [int(t) for t in self.state[1:]]
        if self.group is None:
            kind, count = 0, 0
        else:
            if answer == self.group["base"]:
                self.group["count"] += 1
            kind, count = self.group["kind"], self.group["count"]
        u = self.table.draw(kind, count, answer)
        values = probs.double().numpy()
        u *= values.sum()
        sums = np.cumsum(values)
        token = int(np.argmax(sums > u))
        if values[token] < 1 and np.abs(sums - u).min() < 1e-6:
            raise TooClose
        return torch.tensor([token])


def functions(path, names, into):
    tree = ast.parse(open(path).read())
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    assert {n.name for n in body} == set(names), path
    exec(compile(ast.Module(body, []), path, "exec"), into)


def reference(checkout, spec, scripted):
    """The reference's functions, around a scripted model."""
    nodes = {}
    exec(compile(open(f"{checkout}/HH/nodes.py").read(), "nodes.py", "exec"), nodes)
    proxy = types.SimpleNamespace(**{k: getattr(torch, k) for k in dir(torch) if not k.startswith("__")})
    proxy.multinomial = scripted.multinomial
    space = dict(
        copy=copy, json=json, np=np, torch=proxy, F=F, node=nodes["node"], tokenizer=scripted, encoder=scripted, model=scripted,
        fschat=DEMOS, fsred="JUDGE", redA="ORDER-A", redB="ORDER-B", qs=[], maxlen=2048, maxT=spec["iterations"],
        minT=spec["min_visits"], Vt=spec["threshold"], args=types.SimpleNamespace(outdir="", index=0), outdir="",
        save_dict=lambda *a: None, genc=lambda *a: "",
    )
    for name in ("LogitsProcessorList", "TemperatureLogitsWarper", "RepetitionPenaltyLogitsProcessor",
                 "TopPLogitsWarper", "TopKLogitsWarper"):
        space[name] = nodes[name]
    names = ["find_all_indices", "getv", "simg", "prepare_logits_processor", "getp", "node2dic", "getmaxnew", "search", "gmeval"]
    functions(f"{checkout}/HH/main.py", names, space)
    other = "adv" if spec["form"] == "adv" else "HH"
    functions(f"{checkout}/{other}/main.py", ["group_getp"], space)
    return space, nodes["node"]


def near(a, b):
    return abs(a - b) < MARGIN


def dump(root):
    """Visited nodes and all children of the root: [place, n, fn, v, p]."""
    found = []

    def walk(parent, place):
        for i, child in enumerate(parent.children.values()):
            at = f"{place}.{i}" if place else str(i)
            if parent is root or child.n > 0:
                found.append([at, round(float(child.n), 6), child.fn, round(float(child.q), 6), float(f"{child.p:.6g}")])
            walk(child, at)

    walk(root, "")
    return found


def record(checkout, spec, dumps):
    scripted = Scripted(Table(spec))
    space, node = reference(checkout, spec, scripted)
    steps, current = [], []
    torch.Tensor.cuda = lambda self: self

    getp, group_getp, search = space["getp"], space["group_getp"], space["search"]

    def getp_(state, *args, **kwargs):
        scripted.state = list(state)
        return getp(state, *args, **kwargs)

    def group_getp_(state, model, dicp, topk=10, **kwargs):
        more = scripted.children if topk == 2 else 0
        scripted.group = {"base": [int(t) for t in state[1:]], "kind": 1 + more, "count": -1}
        outs = group_getp(state, model, dicp, topk=topk, **kwargs)
        scripted.group = None
        return outs

    class Watched(node):
        def select(self):
            scores = sorted((child.getqu() for child in self.children.values()), reverse=True)
            if len(scores) > 1 and near(scores[0], scores[1]):
                raise TooClose
            best = node.select(self)
            trail.append(list(self.children).index(best[0]))
            return best

        def checkadd(self):
            before = scripted.children = self.num_children()
            variance = self.child_embedings_variance()
            length = len(next(iter(self.children.values())).tokens)
            nominal = space["getmaxnew"](self.step)
            assert length == nominal
            if variance is not None and near(float(torch.norm(variance)), 0.03 * length):
                raise TooClose
            added = node.checkadd(self)
            if added or self.num_children() > before:
                counts["added"] += 1
            return added

        def calculate_cosine_similarity(self, embedding):
            found = node.calculate_cosine_similarity(self, embedding)
            for cosine, is_self, _ in found:
                if near(cosine, 0.95):
                    raise TooClose
                counts["similar"] += int(not is_self and cosine >= 0.95)
            return found

    trail, counts = [], {"added": 0, "similar": 0}
    scores = {}

    def getv(*args):
        value = getv_(*args)
        scores["last"] = value[0]
        return value

    getv_ = space["getv"]

    def search_(root, state, *args, **kwargs):
        if EOS in state:
            raise Ended
        trail.clear()
        search(root, state, *args, **kwargs)
        current.append(".".join(map(str, trail)) + ":" + str(int(scores["last"])))
        top = sorted(((float(c.n), float(c.q)) for c in root.children.values()), reverse=True)
        if len(top) > 1:
            (n, q), (m, r) = top[:2]
            if (n != m and near(n, m)) or (n == m and q != r and near(q, r)):
                raise TooClose
        if top and near(top[0][1], spec["threshold"]):
            raise TooClose

    # gmeval commits inside one function; a step ends where it takes the tree down (node2dic).
    def node2dic(root, state, tokenizer):
        if current:
            step = {"iterations": " ".join(current), "child": list(root.children).index(root.get_max_n_action())}
            step["tokens"] = [int(t) for t in root.get_max_n_action()]
            if len(steps) < dumps:
                step["nodes"] = dump(root)
            steps.append(step)
            current.clear()
        return {}

    space.update(getp=getp_, group_getp=group_getp_, search=search_, getv=getv, node2dic=node2dic, node=Watched)
    # Children are made by the class's own module.
    expand_globals = node.expand.__globals__
    expand_globals["node"] = Watched
    committed = lambda: [token for step in steps for token in step["tokens"]]
    try:
        result = space["gmeval"]({"query": [QUESTION]}, scripted, scripted)
        text = result["raina"][len(DEMOS) + 1 + len(QUESTION):]
        assert text == words(committed()).split("Human:")[0]
    except Ended:
        tokens = committed()
        text = words(tokens[: tokens.index(EOS)]).split("Human:")[0]
    return {"table": spec, "steps": steps, "answer": text, "added": counts["added"], "similar": counts["similar"],
            "forwarded": scripted.forwarded}


def specs():
    for seed in range(1, 400):
        pick = lambda n, options: options[int(number(seed, 99, n) * len(options))]
        yield dict(
            seed=seed,
            form=pick(0, ["hh", "hh", "adv"]),
            iterations=pick(1, [8, 12, 20]) if seed % 20 else 50,
            min_visits=pick(2, [2, 3, 6]),
            threshold=pick(3, [0.8, 0.5, 0.3]),
            sharp=pick(4, [3.0, 6.0, 9.0]),
            end=pick(5, [0.4, 0.8]),
            turn=pick(6, [-9.0, 0.0, 1.0]),
            good=pick(7, [0.05, 0.15, 0.4, 0.6, 0.9]),
            noise=pick(8, [0.05, 0.1, 0.25, 0.5, 1.5]),
        )


def main():
    checkout, out = sys.argv[1:]
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    if head != COMMIT:
        sys.exit(f"{checkout} is at {head or 'no commit'}, not at {COMMIT}")
    searches, dropped = [], 0
    for spec in specs():
        if len(searches) == 100:
            break
        try:
            searches.append(record(checkout, spec, 3))
        except TooClose:
            dropped += 1
        print(f"{len(searches)} of {spec['seed']}", file=sys.stderr, flush=True)
    print(f"{len(searches)} tables, {dropped} dropped; {sum(s['added'] for s in searches)} additions, "
          f"{sum(s['similar'] for s in searches)} similar siblings, {sum(len(s['steps']) for s in searches)} commits",
          file=sys.stderr)
    with open(out, "w") as file:
        head = {"reference": "github.com/SafeAILab/RAIN", "commit": COMMIT, "licence": "BSD-2-Clause", "width": WIDTH}
        file.write(json.dumps(head)[:-1] + ', "searches": [\n')
        file.write(",\n".join(json.dumps(search, separators=(",", ":")) for search in searches) + "\n]}\n")


if __name__ == "__main__":
    main()
