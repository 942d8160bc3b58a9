"""Reference figures for the statistics of question suites, by numpy, scipy and statsmodels.

    pip install numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0
    python make.py [--out FOLDER]      # writes golden.json and tests.json, by default beside this file

golden.json has four kinds of reference:
- quantiles: numpy.quantile, to be met to rounding;
- exact: for a handful of clips and seeds every resample is enumerated with its probability, and
  the interval read off that distribution; levels stay clear of its steps, so that a Monte Carlo
  interval of 10,000 draws must be equal;
- mean: scipy.stats.bootstrap (percentile) over clips, and the standard error of statsmodels' OLS
  on a constant with cov_type="cluster" without small-sample correction;
- paired: a plain numpy loop of the two-way bootstrap (clips and seeds drawn independently).

tests.json has what rests on distributions:
- tails: scipy's survival functions and quantiles;
- clustered: statsmodels' OLS on a constant with cov_type="cluster", with its small-sample correction
  C/(C-1) * (n-1)/(n-k), where k = 1, and the interval by Student's t with C-1 degrees of freedom;
- wilson: statsmodels.stats.proportion.proportion_confint(method="wilson");
- pairs: statsmodels' exact mcnemar where clips have one question, scipy.stats.permutation_test
  (permutation_type="samples", all flips) and scipy.stats.ttest_rel on the sums of clips;
- families: statsmodels.stats.multitest.multipletests (holm, fdr_bh);
- power: statsmodels.stats.power.TTestPower, two-sided;
- letters: scipy.stats.chisquare.
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
import statsmodels.stats.contingency_tables as tables
import statsmodels.stats.multitest as multitest
import statsmodels.stats.power as powers
import statsmodels.stats.proportion as proportions

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


def tails():
    z = [-3.0, -0.5, 0.0, 0.3, 1.0, 1.96, 5.0, 12.0]
    t = [(x, df) for df in (1, 2, 3, 19, 99, 10_000) for x in (-2.0, 0.0, 1e-3, 0.5, 2.0, 5.0, 40.0)]
    quantiles = [(p, df) for df in (1, 2, 19, 400) for p in (0.2, 0.05, 0.025, 0.005)]
    chi = [(x, df) for df in (1, 3, 4, 25) for x in (0.0, 0.1, 3.84, 20.0, 100.0)]
    shifted = [(x, df, nc) for df in (1, 4, 30, 500) for x in (2.0, 3.5) for nc in (-1.0, 0.0, 1.5, 4.0)]
    coin = [(k, n) for n in (1, 7, 60, 2000) for k in (0, n // 3, n // 2, n)]
    st = scipy.stats
    return {
        "normal": [[x, st.norm.sf(x)] for x in z],
        "student_t": [[x, df, st.t.sf(x, df)] for x, df in t],
        "student_t_quantile": [[p, df, st.t.isf(p, df)] for p, df in quantiles],
        "chi_square": [[x, df, st.chi2.sf(x, df)] for x, df in chi],
        "noncentral_t": [[x, df, nc, st.nct.sf(x, df, nc)] for x, df, nc in shifted],
        "fair_coin": [[k, n, st.binom.cdf(k, n, 0.5)] for k, n in coin],
    }


def clustered_case(rng, clips, rate):
    answers = clip_answers(rng, clips, rate)
    flat = np.concatenate([np.array(a, float) for a in answers])
    groups = np.repeat(np.arange(clips), [len(a) for a in answers])
    fit = sm.OLS(flat, np.ones_like(flat)).fit(
        cov_type="cluster", use_t=True, cov_kwds={"groups": groups, "use_correction": True})
    low, high = scipy.stats.t.interval(0.95, clips - 1, loc=flat.mean(), scale=fit.bse[0])
    return {"answers": answers, "standard_error": fit.bse[0], "ci95": [low, high]}


def wilson():
    cases = [(0, 5), (5, 5), (3, 50), (250, 500), (996, 1000)]
    return [[k, n, *proportions.proportion_confint(k, n, method="wilson")] for k, n in cases]


def pairs_case(rng, clips, single):
    """Two runs; all flips of the clips' sums are counted."""
    base = clip_answers(rng, clips, 0.5)
    if single:
        base = [clip[:1] for clip in base]
    other = [[1 - a if rng.random() < (0.2 if a else 0.5) else a for a in clip] for clip in base]
    sums = lambda run: np.array([sum(clip) for clip in run], float)
    flips = scipy.stats.permutation_test(
        (sums(base), sums(other)), lambda x, y, axis: (y - x).sum(axis=axis), permutation_type="samples",
        n_resamples=2**clips, vectorized=True, batch=10_000)
    t = scipy.stats.ttest_rel(sums(other), sums(base))
    exact = None
    if single:
        b, o = np.concatenate(base).astype(bool), np.concatenate(other).astype(bool)
        table = [[(b & o).sum(), (b & ~o).sum()], [(~b & o).sum(), (~b & ~o).sum()]]
        exact = float(tables.mcnemar(table, exact=True).pvalue)
    return {
        "base": base,
        "other": other,
        "mcnemar": exact,
        "sign_flip": float(flips.pvalue),
        "t": float(t.statistic),
        "p": float(t.pvalue),
    }


def family(rng, n):
    p = np.round(rng.beta(0.4, 2, size=n), 4)
    adjusted = lambda method: multitest.multipletests(p, method=method)[1].tolist()
    return {"p": p.tolist(), "holm": adjusted("holm"), "benjamini_hochberg": adjusted("fdr_bh")}


def power_case(clusters, effect, alpha):
    """Effects are in standard deviations of a cluster's difference."""
    test = powers.TTestPower()
    detectable = float(test.solve_power(nobs=clusters, alpha=alpha, power=0.8))
    # scipy's noncentral t has no number in places, and the search then ends elsewhere.
    assert abs(test.power(detectable, clusters, alpha) - 0.8) < 1e-5
    return {
        "clusters": clusters,
        "alpha": alpha,
        "effect": effect,
        "power": float(test.power(effect, clusters, alpha)),
        "detectable": detectable,
    }


def letters(right, predicted):
    right, predicted = np.array(right), np.array(predicted)
    result = scipy.stats.chisquare(predicted, right * predicted.sum() / right.sum())
    return {
        "right": right.tolist(),
        "predicted": predicted.tolist(),
        "chi_square": float(result.statistic),
        "p": float(result.pvalue),
    }


def tests(rng):
    return {
        "tails": tails(),
        "clustered": [clustered_case(rng, 8, 0.7), clustered_case(rng, 60, 0.4)],
        "wilson": wilson(),
        "pairs": [
            pairs_case(rng, 12, True),
            pairs_case(rng, 14, False),
            pairs_case(rng, 16, True),
            pairs_case(rng, 20, False),
        ],
        "families": [family(rng, 5), family(rng, 24)],
        "power": [
            power_case(clusters, effect, alpha)
            for clusters, alpha in ((4, 0.05), (20, 0.05), (20, 0.01), (300, 0.05), (300, 0.01))
            for effect in (0.1, 0.3)
        ],
        "letters": [
            letters([50, 48, 52, 50], [90, 40, 40, 30]),
            letters([12, 8, 10], [11, 10, 9]),
            letters([6, 3, 5, 4, 2], [300, 180, 240, 190, 90]),
        ],
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
    def write(name, value):
        (out / name).write_text(json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n")

    write("golden.json", golden)
    write("tests.json", tests(np.random.default_rng(19470612)))


if __name__ == "__main__":
    main()
