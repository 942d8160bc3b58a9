"""Reference figures for the statistics of question suites, by numpy, scipy and statsmodels.

    pip install numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0
    python make.py [--out FOLDER]      # writes golden.json, by default beside this file

Four kinds of reference:
- quantiles: numpy.quantile, to be met to rounding;
- exact: for a handful of clips and seeds every resample is enumerated with its probability, and
  the interval read off that distribution; levels stay clear of its steps, so that a Monte Carlo
  interval of 10,000 draws must be equal;
- mean: scipy.stats.bootstrap (percentile) over clips, and the standard error of statsmodels' OLS
  on a constant with cov_type="cluster" without small-sample correction;
- paired: a plain numpy loop of the two-way bootstrap (clips and seeds drawn independently).
"""

import argparse
import itertools
import json
import pathlib

import numpy as np
import scipy
import scipy.stats
import statsmodels
import statsmodels.api as sm

LEVELS = (0.025, 0.975)


def quantiles(rng):
    cases = []
    for n in (1, 2, 7, 100):
        values = np.sort(rng.normal(size=n))
        levels = [0.0, 0.025, 0.31, 0.5, 0.975, 1.0]
        cases.append({
            "sorted": values.tolist(),
            "levels": levels,
            "quantiles": np.quantile(values, levels).tolist(),
        })
    return cases


def interval_of(atoms):
    """The interval of a discrete distribution, and how far its steps stay from the levels."""
    atoms = sorted(atoms.items())
    cumulative = np.cumsum([p for _, p in atoms])
    clearance = min(abs(c - level) for c in cumulative[:-1] for level in LEVELS)
    ends = [atoms[int(np.searchsorted(cumulative, level))][0] for level in LEVELS]
    return ends, clearance


def exact(diffs, counts):
    """Enumerates draws of clips and of seeds; diffs[seed][clip], counts[clip]."""
    diffs, counts = np.array(diffs, float), np.array(counts, float)
    seeds, clips = diffs.shape
    atoms = {}
    for s in itertools.product(range(seeds), repeat=seeds):
        for c in itertools.product(range(clips), repeat=clips):
            total = diffs[np.ix_(s, c)].sum()
            value = float(total / (len(s) * counts[list(c)].sum()))
            value = round(value, 12)
            atoms[value] = atoms.get(value, 0) + seeds**-seeds * clips**-clips
    ends, clearance = interval_of(atoms)
    assert clearance > 0.004, clearance  # 2.5 standard deviations of a share of 10,000 draws
    return {
        "differences": diffs.tolist(),
        "counts": counts.astype(int).tolist(),
        "value": float(diffs.sum() / (seeds * counts.sum())),
        "ci95": ends,
    }


def clip_answers(rng, clips, rate):
    """Answers that hang together by clip: each clip has a rate of its own."""
    answers = []
    for _ in range(clips):
        p = rng.beta(4 * rate, 4 * (1 - rate))
        answers.append((rng.random(rng.integers(2, 9)) < p).astype(int).tolist())
    return answers


def mean_case(rng, clips, rate):
    answers = clip_answers(rng, clips, rate)
    sums = np.array([sum(a) for a in answers], float)
    counts = np.array([len(a) for a in answers], float)

    def statistic(s, c, axis=-1):
        return s.sum(axis=axis) / c.sum(axis=axis)

    result = scipy.stats.bootstrap(
        (sums, counts), statistic, paired=True, vectorized=True, method="percentile",
        n_resamples=100_000, batch=2_000, confidence_level=0.95, rng=rng)
    flat = np.concatenate([np.array(a, float) for a in answers])
    groups = np.repeat(np.arange(clips), counts.astype(int))
    fit = sm.OLS(flat, np.ones_like(flat)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    return {
        "answers": answers,
        "value": float(flat.mean()),
        "ci95": [float(result.confidence_interval.low), float(result.confidence_interval.high)],
        "clustered_standard_error": float(fit.bse[0]),
    }


def paired_case(rng, clips, seeds, gain):
    base = clip_answers(rng, clips, 0.55)
    others = []
    for _ in range(seeds):
        seed_gain = gain + rng.normal(scale=0.02)
        flip = lambda a: 1 - a if rng.random() < 0.2 else a
        lift = lambda a: 1 if rng.random() < max(seed_gain, 0) else a
        others.append([[lift(flip(a)) for a in clip] for clip in base])
    counts = np.array([len(clip) for clip in base], float)
    diffs = np.array([[sum(o) - sum(b) for o, b in zip(other, base)] for other in others], float)
    values = np.empty(100_000)
    for k in range(len(values)):
        c = np.bincount(rng.integers(0, clips, clips), minlength=clips)
        s = np.bincount(rng.integers(0, seeds, seeds), minlength=seeds)
        values[k] = s @ diffs @ c / (seeds * (counts @ c))
    return {
        "base": base,
        "others": others,
        "value": float(diffs.sum() / (seeds * counts.sum())),
        "ci95": np.quantile(values, LEVELS).tolist(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = parser.parse_args().out
    rng = np.random.default_rng(20241130)
    golden = {
        "versions": {
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "statsmodels": statsmodels.__version__,
        },
        "quantiles": quantiles(rng),
        "exact": [
            exact([[2, 0, -1, 1]], [3, 1, 2, 2]),
            exact([[1, 0, 2], [0, 0, 1]], [2, 1, 3]),
            exact([[1, -1], [2, 0], [0, 1]], [2, 3]),
        ],
        "mean": [mean_case(rng, 40, 0.6), mean_case(rng, 120, 0.3)],
        "paired": [paired_case(rng, 60, 3, 0.25), paired_case(rng, 80, 1, 0.0)],
    }
    (out / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
