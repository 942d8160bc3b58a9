"""Preference losses and their derivatives in numpy, float64, from the equations of the papers.

From the sums over tokens and their derivatives: a token's derivative is its answer's.
"""

import math

import numpy as np

SIDES = ("chosen", "rejected")


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def log_sigmoid(x):
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def by_hand(data: dict, settings: dict) -> dict:
    (kind,) = settings["loss_type"]
    beta, eps = settings.get("beta", 0.1), settings.get("label_smoothing", 0.0)
    lengths = [data[s]["lengths"] for s in SIDES]
    # `of` sums tokens over answers; `slopes` are d loss / d sum, given to each token of the answer.
    cuts = [np.concatenate([[0], np.cumsum(n)]) for n in lengths]
    of = lambda key: [np.array([data[s][key][a:b].sum() for a, b in zip(c, c[1:])]) for s, c in zip(SIDES, cuts, strict=True)]
    policy, reference, previous = of("logps"), of("reference"), of("previous")
    share = settings.get("mixture_ratio", 1.0)
    anchor = [share * r + (1 - share) * p for r, p in zip(reference, previous, strict=True)]
    if settings.get("reference_free"):
        anchor = [np.zeros_like(a) for a in anchor]
    ratio = [p - a for p, a in zip(policy, anchor, strict=True)]
    rates = [data[s]["win_rates"] for s in SIDES]
    margins = data["margins"] if settings.get("margins") else 0.0
    ones = np.ones_like(policy[0])
    score, slope = ratio, [ones, ones]
    divergence, alpha = settings.get("f_divergence_type"), settings.get("f_alpha_divergence_coef", 0.5)
    if divergence == "alpha_divergence":
        score = [np.expm1((alpha - 1) * u) / (alpha - 1) for u in ratio]
        slope = [np.exp((alpha - 1) * u) for u in ratio]
    elif divergence == "forward_kl":
        score = [-np.expm1(-u) for u in ratio]
        slope = [np.exp(-u) for u in ratio]
    elif divergence == "js_divergence":
        score = [math.log(2) + log_sigmoid(u) for u in ratio]
        slope = [sigmoid(-u) for u in ratio]
    logit = beta * (score[0] - score[1]) + margins
    both = lambda slopes: (slopes * beta * slope[0], -slopes * beta * slope[1])

    if kind == "sigmoid":
        losses = -(1 - eps) * log_sigmoid(logit) - eps * log_sigmoid(-logit)
        slopes = both(eps * sigmoid(logit) - (1 - eps) * sigmoid(-logit))
    elif kind == "exo_pair":
        q, other = sigmoid(logit), sigmoid(-logit)
        losses = q * (log_sigmoid(logit) - np.log1p(-eps)) + other * (log_sigmoid(-logit) - np.log(eps))
        # log q - log (1 - q) is the logit.
        slopes = both(q * other * (logit - np.log((1 - eps) / eps)))
    elif kind == "hinge":
        losses = np.maximum(0, 1 - logit)
        slopes = both(np.where(logit < 1, -1.0, 0.0))
    elif kind == "discopop":
        tau = settings.get("discopop_tau", 0.05)
        # m = 1 / (1 + e^(-h / tau)); m e^(-h) = e^(-h (1 - 1 / tau)) / (1 + e^(h / tau)) where h is negative.
        m = sigmoid(logit / tau)
        pushed = np.exp(np.where(logit >= 0, -logit, (1 / tau - 1) * logit)) / (1 + np.exp(-np.abs(logit) / tau))
        losses = -log_sigmoid(logit) * (1 - m) + pushed
        # (m e^-h)' = m e^-h ((1 - m) / tau - 1)
        slopes = both(-sigmoid(-logit) * (1 - m) + log_sigmoid(logit) * m * (1 - m) / tau + pushed * ((1 - m) / tau - 1))
    elif kind == "dno":
        target = sigmoid(settings.get("dno_scale", 1.0) * (rates[0] - rates[1]))
        losses = -target * log_sigmoid(logit) - (1 - target) * log_sigmoid(-logit)
        slopes = both(sigmoid(logit) - target)
    elif kind in ("ipo_sum", "inpo"):
        error = score[0] - score[1] - 1 / (2 * beta)
        losses, slopes = error**2, (2 * error * slope[0], -2 * error * slope[1])
    elif kind == "sppo":
        errors = [u - (p - 0.5) / beta for u, p in zip(ratio, rates, strict=True)]
        losses, slopes = (errors[0] ** 2 + errors[1] ** 2) / 2, errors
    elif kind == "bco_pair":
        above = [beta * u - settings["bco_delta"] for u in ratio]
        losses = -log_sigmoid(above[0]) - log_sigmoid(-above[1])
        slopes = -beta * sigmoid(-above[0]), beta * sigmoid(above[1])
    elif kind == "orpo":
        # log odds = a - log(1 - e^a), whose derivative by a is 1 / (1 - e^a).
        averages = [p / n for p, n in zip(policy, lengths, strict=True)]
        odds = [a - np.log(-np.expm1(a)) for a in averages]
        apart = odds[0] - odds[1]
        losses = -beta * log_sigmoid(apart)
        steep = [1 / (-np.expm1(a) * n) for a, n in zip(averages, lengths, strict=True)]
        slopes = -beta * sigmoid(-apart) * steep[0], beta * sigmoid(-apart) * steep[1]
    else:
        raise ValueError(kind)

    if settings.get("use_weighting"):
        aligned = [a - b for a, b in zip(policy, of("log_sum_sq"), strict=True)]
        weight = np.exp(aligned[0] / lengths[0]) * np.exp(aligned[1] / lengths[1])
        losses, slopes = losses * weight, [s * weight for s in slopes]
    pairs = len(losses)
    loss, grads = losses.mean(), {}
    for side, values, n in zip(SIDES, slopes, lengths, strict=True):
        grads[f"grad.{side}"] = np.repeat(values / pairs, n)
    if kind == "orpo":
        tokens = data["chosen"]["logps"]
        loss = loss - tokens.mean()
        grads["grad.chosen"] = grads["grad.chosen"] - 1 / len(tokens)
    return {"loss": float(loss), **{k: v.tolist() for k, v in grads.items()}}
