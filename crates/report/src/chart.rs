//! Training curves as inline SVG. Colours come from the page's style, so they follow dark mode.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::words::{escape, number};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 24.0;
/// Longer curves are drawn as means of equal runs of steps.
const MOST_POINTS: usize = 300;

/// One chart of the page.
#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    title: String,
    /// Names of the series, in the order of their colours.
    series: Vec<String>,
    /// First and last value of each series.
    summary: String,
    svg: String,
}

/// What is drawn: a title and the metrics in it.
const CHARTS: [(&str, &[(&str, &str)]); 11] = [
    ("Loss", &[("loss", "loss")]),
    (
        "Length of completions",
        &[
            ("completions/mean_length", "tokens"),
            ("completions/mean_terminated_length", "of those that ended"),
        ],
    ),
    (
        "Perplexity of completions",
        &[
            ("rewards/self_aligned/ppl_conditional/mean", "after the query"),
            ("rewards/self_aligned/ppl_standalone/mean", "without it"),
        ],
    ),
    ("Divergence from the reference", &[("kl", "a token"), ("objective/kl", "a completion")]),
    ("Entropy", &[("entropy", "a token"), ("policy/entropy_avg", "a token")]),
    ("Reward margin", &[("rewards/margins", "chosen minus rejected")]),
    ("Reward accuracy", &[("rewards/accuracies", "share of pairs in the right order")]),
    ("Log-probabilities", &[("logps/chosen", "chosen"), ("logps/rejected", "rejected")]),
    ("Rewards", &[("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")]),
    ("Gradient norm", &[("grad_norm", "norm before clipping")]),
    ("Learning rate", &[("learning_rate", "learning rate")]),
];

#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    round: u64,
    step: f64,
    value: f64,
}

/// The charts for which the metrics have values.
pub(crate) fn training_charts(metrics: &[Map<String, Value>]) -> Vec<Chart> {
    let rewards = rewards(metrics);
    let rewards: Vec<(&str, &str)> =
        rewards.iter().map(|(metric, name)| (metric.as_str(), name.as_str())).collect();
    let drawn = |(title, series): (&str, &[(&str, &str)])| {
        let curves: Vec<(&str, Vec<Point>)> = series
            .iter()
            .map(|(metric, label)| (*label, points(metrics, metric)))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        (!curves.is_empty()).then(|| chart(title, &curves))
    };
    let online = drawn(("Rewards of completions", &rewards));
    online.into_iter().chain(CHARTS.into_iter().filter_map(drawn)).collect()
}

/// The rewards of online training: their metrics and names.
fn rewards(metrics: &[Map<String, Value>]) -> Vec<(String, String)> {
    let known = |metric: &String| {
        let name = metric.strip_prefix("rewards/")?.strip_suffix("/mean")?;
        (!name.contains('/')).then(|| (metric.clone(), name.replace('_', " ")))
    };
    metrics.first().map(|line| line.keys().filter_map(known).collect()).unwrap_or_default()
}

fn points(metrics: &[Map<String, Value>], metric: &str) -> Vec<Point> {
    let mut points: Vec<Point> = metrics
        .iter()
        .filter_map(|line| {
            let value = line.get(metric)?.as_f64().filter(|value| value.is_finite())?;
            let step = line.get("step")?.as_f64()?;
            Some(Point {
                round: line.get("round").and_then(Value::as_u64).unwrap_or(0),
                step,
                value,
            })
        })
        .collect();
    points.sort_by(|a, b| a.step.total_cmp(&b.step));
    points
}

fn chart(title: &str, curves: &[(&str, Vec<Point>)]) -> Chart {
    let all = || curves.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&Point) -> f64| {
        all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    };
    let (first, last) = range(|point| point.step);
    let (low, high) = range(|point| point.value);
    let ticks = ticks(low, high);
    let (bottom, top) = (ticks[0], ticks[ticks.len() - 1]);
    let x = |step: f64| {
        LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / (last - first).max(f64::MIN_POSITIVE)
    };
    let y =
        |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom);

    let summary: Vec<String> = curves
        .iter()
        .map(|(label, points)| {
            let ends = [points.first(), points.last()].map(|point| point.map_or(0.0, |p| p.value));
            format!("{label}: {} to {}", number(ends[0]), number(ends[1]))
        })
        .collect();
    let summary = summary.join("; ");
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(&format!("{title} by step. {summary}."))
    );
    // Writing to a String cannot fail.
    for tick in &ticks {
        let at = y(*tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 3.5,
            tick_label(*tick, ticks[1] - ticks[0]),
        );
    }
    for (round, start) in round_starts(all()) {
        let at = x(start);
        let _ = write!(
            svg,
            "<line class=\"round\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">round {round}</text>",
            HEIGHT - BOTTOM,
            at + 3.0,
            TOP - 4.0,
        );
    }
    for (anchor, step) in [("start", first), ("end", last)] {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}{}</text>",
            x(step),
            HEIGHT - 7.0,
            if anchor == "start" { "step " } else { "" },
            number(step).trim_end_matches(".00"),
        );
    }
    for (colour, (_, points)) in curves.iter().enumerate() {
        // A round begins with fresh weights to train: its curve is not joined to the one before.
        for of_round in points.chunk_by(|a, b| a.round == b.round) {
            let mut path = String::new();
            let thinned = thin(of_round);
            for point in &thinned {
                let _ = write!(path, "{:.1},{:.1} ", x(point.step), y(point.value));
            }
            if let [only] = &thinned[..] {
                let (cx, cy) = (x(only.step), y(only.value));
                let _ = write!(
                    svg,
                    "<circle class=\"dot c{colour}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.5\"/>"
                );
            } else {
                let _ =
                    write!(svg, "<polyline class=\"line c{colour}\" points=\"{}\"/>", path.trim());
            }
        }
    }
    svg.push_str("</svg>");
    let series = curves.iter().map(|(label, _)| (*label).to_owned()).collect();
    Chart { title: title.to_owned(), series, summary, svg }
}

/// The first step of each round, where there are rounds.
fn round_starts<'a>(points: impl Iterator<Item = &'a Point>) -> BTreeMap<u64, f64> {
    let mut starts: BTreeMap<u64, f64> = BTreeMap::new();
    for point in points.filter(|point| point.round > 0) {
        let start = starts.entry(point.round).or_insert(point.step);
        *start = start.min(point.step);
    }
    starts
}

/// At most [`MOST_POINTS`] points, each the mean of an equal run of points.
fn thin(points: &[Point]) -> Vec<Point> {
    let run = points.len().div_ceil(MOST_POINTS).max(1);
    points
        .chunks(run)
        .map(|run| {
            let count = run.len() as f64;
            Point {
                round: run[0].round,
                step: run.iter().map(|point| point.step).sum::<f64>() / count,
                value: run.iter().map(|point| point.value).sum::<f64>() / count,
            }
        })
        .collect()
}

/// A tick with as many decimals as its neighbours need.
fn tick_label(tick: f64, step: f64) -> String {
    if !(1e-3..1e5).contains(&step) {
        return number(tick);
    }
    // Steps are 1, 2, 2.5 or 5 times a power of ten.
    let is_whole = |value: f64| (value - value.round()).abs() < 1e-6;
    let decimals = (0..=4).find(|&d| is_whole(step * 10f64.powi(d))).unwrap_or(4) as usize;
    let tick = if tick == 0.0 { 0.0 } else { tick };
    format!("{tick:.decimals$}").replace('-', "\u{2212}")
}

/// Round figures around `low` and `high`: three to six of them, the ends included.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let (low, high) = if high - low > 1e-12 * low.abs().max(high.abs()).max(1e-12) {
        (low, high)
    } else {
        // A flat curve is drawn in the middle.
        let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        (low - room, high + room)
    };
    let rough = (high - low) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let first = (low / step).floor();
    let last = (high / step).ceil();
    (0..=(last - first) as usize).map(|k| (first + k as f64) * step).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn ticks_are_round_and_hold_everything() {
        for (low, high, expected) in [
            (0.0, 1.0, vec![0.0, 0.25, 0.5, 0.75, 1.0]),
            (0.61, 0.70, vec![0.6, 0.625, 0.65, 0.675, 0.7]),
            (-9.0, 11.0, vec![-10.0, -5.0, 0.0, 5.0, 10.0, 15.0]),
        ] {
            let got = ticks(low, high);
            assert_eq!(got.len(), expected.len(), "{got:?}");
            assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}");
        }
        for flat in [0.0, 1.0, -3.0, 1e-9, 1e9] {
            let got = ticks(flat, flat);
            assert!(got.len() >= 3 && got[0] < flat && got[got.len() - 1] > flat, "{got:?}");
        }
    }

    #[test]
    fn tick_labels_share_their_decimals() {
        let label = |tick: f64, step: f64| tick_label(tick, step);
        assert_eq!([label(0.5, 0.25), label(0.0, 0.25)], ["0.50", "0.00"]);
        assert_eq!([label(-10.0, 5.0), label(0.6, 0.1)], ["\u{2212}10", "0.6"]);
        assert_eq!(label(0.7, 0.7 - 0.6), "0.7");
        assert_eq!(label(2e-5, 1e-5), "2.0e\u{2212}5");
    }

    #[test]
    fn rounds_are_separate_curves_and_bad_values_are_left_out() {
        let metrics = [
            line(json!({"step": 1, "round": 1, "loss": 0.7})),
            line(json!({"step": 2, "round": 1, "loss": 0.6, "grad_norm": null})),
            line(json!({"step": 3, "round": 2, "loss": 0.65})),
            line(json!({"step": 4, "round": 2, "loss": 0.5})),
            line(json!({"loss": 0.4})),
        ];
        let charts = training_charts(&metrics);
        assert_eq!(charts.len(), 1);
        assert_eq!(charts[0].svg.matches("<polyline").count(), 2);
        assert!(charts[0].svg.contains(">round 2</text>"));
        assert_eq!(charts[0].summary, "loss: 0.700 to 0.500");
    }

    #[test]
    fn long_curves_are_thinned_to_means() {
        let points: Vec<Point> = (0..1000)
            .map(|step| Point { round: 1, step: f64::from(step), value: f64::from(step % 4) })
            .collect();
        let thinned = thin(&points);
        assert_eq!(thinned.len(), 250);
        assert!(thinned.iter().all(|point| point.value == 1.5));
    }
}
