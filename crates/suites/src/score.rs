//! From stored samples to figures: every scorer of a suite reads the same replies.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::readers::{Reading, letter_counts};
use crate::stats::{Estimate, LetterBias, Outcome, clustered, estimate, letter_bias};
use crate::suite::{Ask, Reader, Suite};
use crate::{Gold, Item, Sample};

/// What a metric says of one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Graded {
    /// The item's place among those that were scored.
    pub at: usize,
    /// The figure; `None` where the item is left out.
    pub value: Option<f64>,
    /// What was read, where a reply was.
    pub reading: Option<Reading>,
}

/// A metric over items.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// `acc`, `acc_norm`, `mc2`.
    pub name: &'static str,
    /// The scorer, or `none` where words were scored.
    pub filter: &'static str,
    /// One for each item.
    pub graded: Vec<Graded>,
}

/// What was counted beside a mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Items asked.
    pub asked: usize,
    /// Replies in which no answer was found.
    pub unparsed: usize,
    /// Replies for which a random choice stood in.
    pub guessed: usize,
    /// Replies that wait for a judge.
    pub needs_judge: usize,
    /// Items that are left out of the mean.
    pub left_out: usize,
}

/// A mean, its interval, and what it is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The metric.
    pub metric: String,
    /// The scorer.
    pub filter: String,
    /// The mean with its interval; `None` where nothing is counted.
    pub estimate: Option<Estimate>,
    /// The standard error of the mean, clustered.
    pub stderr: Option<f64>,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// The same by kind of category and category.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by: BTreeMap<String, BTreeMap<String, Row>>,
}

/// How a model uses the letters of options.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Letters {
    /// How often each was chosen, and how often it was right.
    pub counts: BTreeMap<char, (usize, usize)>,
    /// Whether the one goes with the other.
    #[serde(flatten)]
    pub bias: LetterBias,
}

impl Suite {
    /// Scores samples: one metric for every scorer, or every figure of log-probabilities. Each sample stands at the
    /// place of its item. Where several replies vote, the commonest answer counts, the first of equals.
    pub fn score(&self, items: &[&Item], samples: &[&Sample], seed: u64) -> Vec<Metric> {
        let pairs = || items.iter().zip(samples).enumerate();
        if let Ask::LogProbs { figures, .. } = self.ask {
            // An item without a figure that others have is left out of it.
            let empty = |at| Graded { at, value: None, reading: None };
            let mut metrics: Vec<Metric> = Vec::new();
            for (at, (item, sample)) in pairs() {
                for (name, value) in figures(item, &sample.scores) {
                    let known = metrics.iter().position(|metric| metric.name == name);
                    let place = known.unwrap_or_else(|| {
                        let graded = (0..items.len()).map(empty).collect();
                        metrics.push(Metric { name, filter: "none", graded });
                        metrics.len() - 1
                    });
                    metrics[place].graded[at].value = Some(value);
                }
            }
            return metrics;
        }
        let metric = |(filter, reader): (&'static str, Reader)| {
            let graded = pairs().map(|(at, (item, sample))| {
                // The turns of a dialogue are no votes; a scorer reads the first.
                let replies = if item.turns.is_empty() {
                    &sample.replies[..]
                } else {
                    sample.replies.get(..1).unwrap_or_default()
                };
                let readings: Vec<Reading> =
                    replies.iter().map(|reply| reader.read(item, reply, seed)).collect();
                let reading = commonest(readings);
                let hidden = item.gold == Gold::Hidden;
                let value = reading.as_ref().and_then(|r| r.credit).filter(|_| !hidden);
                Graded { at, value, reading }
            });
            Metric { name: "acc", filter, graded: graded.collect() }
        };
        let metrics: Vec<Metric> = self.readers().into_iter().map(metric).collect();
        let pairs = metrics.iter().filter_map(|metric| of_pairs(metric, items)).collect::<Vec<_>>();
        metrics.into_iter().chain(pairs).collect()
    }
}

/// Whether all items of a pair are right (VideoHallucer), told at its first item; `None` where items are in no pairs.
fn of_pairs(metric: &Metric, items: &[&Item]) -> Option<Metric> {
    let pair = |at: usize| items[at].more.get("pair").and_then(|pair| pair.as_str());
    let mut all_right: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for graded in &metric.graded {
        let (_, right) = all_right.entry(pair(graded.at)?).or_insert((graded.at, 1.0));
        *right *= f64::from(graded.value == Some(1.0));
    }
    let first: BTreeMap<usize, f64> = all_right.into_values().collect();
    let graded = metric.graded.iter().map(|graded| {
        let value = first.get(&graded.at).copied();
        Graded { at: graded.at, value, reading: None }
    });
    (!metric.graded.is_empty()).then(|| Metric {
        name: "pair_acc",
        graded: graded.collect(),
        ..metric.clone()
    })
}

/// The reading whose answer is the commonest one; one without an answer wins only against others like it.
fn commonest(readings: Vec<Reading>) -> Option<Reading> {
    let votes = |reading: &Reading| {
        let same = readings.iter().filter(|other| other.answer == reading.answer).count();
        (reading.answer.is_some(), same)
    };
    let mut best: Option<(usize, (bool, usize))> = None;
    for (at, reading) in readings.iter().enumerate() {
        let votes = votes(reading);
        if best.is_none_or(|(_, most)| votes > most) {
            best = Some((at, votes));
        }
    }
    best.map(|(at, _)| readings[at].clone())
}

impl Metric {
    /// What statistics need of it.
    pub fn outcomes(&self, items: &[&Item]) -> Vec<Outcome> {
        let outcome = |graded: &Graded| {
            let item = items[graded.at];
            let (id, cluster) = (item.id.clone(), item.cluster.clone());
            Some(Outcome { id, cluster, value: graded.value? })
        };
        self.graded.iter().filter_map(outcome).collect()
    }

    /// Which letters were chosen and which were right, and whether the one goes with the other; `None` where no letters
    /// are read.
    pub fn letters(&self, items: &[&Item]) -> Option<Letters> {
        let targets: Vec<String> =
            self.graded.iter().map(|graded| items[graded.at].target()).collect();
        let readings = self.graded.iter().zip(&targets);
        let readings = readings.filter_map(|(g, target)| Some((g.reading.as_ref()?, &**target)));
        let counts = letter_counts(readings);
        let column = |at: usize| counts.values().map(|count| count[at] as u64).collect::<Vec<_>>();
        let (chosen, right) = (column(0), column(1));
        if chosen.iter().all(|&count| count == 0) {
            return None;
        }
        let bias = letter_bias(&right, &chosen)?;
        let counts = counts.into_iter().map(|(letter, [chosen, right])| (letter, (chosen, right)));
        Some(Letters { counts: counts.collect(), bias })
    }

    /// Its row, by the kinds of categories that are named.
    pub fn row(&self, items: &[&Item], kinds: &[&str]) -> Row {
        let mut row = self.row_of(items);
        for kind in kinds {
            let mut of_kind: BTreeMap<&str, Vec<Graded>> = BTreeMap::new();
            for graded in &self.graded {
                if let Some(category) = items[graded.at].categories.get(*kind) {
                    of_kind.entry(category).or_default().push(graded.clone());
                }
            }
            let rows = of_kind.into_iter().map(|(category, graded)| {
                let of_category = Self { graded, ..self.clone() };
                (category.to_owned(), of_category.row_of(items))
            });
            let rows: BTreeMap<String, Row> = rows.collect();
            if !rows.is_empty() {
                row.by.insert((*kind).to_owned(), rows);
            }
        }
        row
    }

    fn row_of(&self, items: &[&Item]) -> Row {
        let outcomes = self.outcomes(items);
        let count =
            |is: fn(&Graded) -> bool| self.graded.iter().filter(|graded| is(graded)).count();
        let read =
            |graded: &Graded, is: fn(&Reading) -> bool| graded.reading.as_ref().is_some_and(is);
        Row {
            metric: self.name.to_owned(),
            filter: self.filter.to_owned(),
            estimate: estimate(&outcomes).map(|estimate| {
                // Every figure of a suite lies between 0 and 1.
                let ci95 = estimate.ci95.map(|end| end.clamp(0.0, 1.0));
                Estimate { ci95, ..estimate }
            }),
            stderr: clustered(&outcomes)
                .map(|mean| mean.standard_error)
                .filter(|se| se.is_finite()),
            counts: Counts {
                asked: self.graded.len(),
                unparsed: self
                    .graded
                    .iter()
                    .filter(|graded| {
                        graded.reading.as_ref().is_some_and(|r| r.answer.is_none() && !r.guessed)
                    })
                    .count(),
                guessed: self.graded.iter().filter(|g| read(g, |r| r.guessed)).count(),
                needs_judge: self.graded.iter().filter(|g| read(g, |r| r.needs_judge)).count(),
                left_out: count(|graded| graded.value.is_none() && graded.reading.is_some()),
            },
            by: BTreeMap::new(),
        }
    }
}

/// The share of right answers that guessing among the options gives; `None` where there are none.
pub fn chance(items: &[&Item]) -> Option<f64> {
    let shares = items.iter().filter(|item| !item.options.is_empty());
    let shares: Vec<f64> = shares.map(|item| 1.0 / item.options.len() as f64).collect();
    (!shares.is_empty() && shares.len() == items.len())
        .then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::suite;

    fn choice(id: &str, gold: usize) -> Item {
        let options = ["left", "right"].map(str::to_owned).to_vec();
        Item::new(id, "Where?", Gold::Option(gold)).with_options(options).within("type", "CW")
    }

    fn replied(item: &Item, replies: &[&str]) -> Sample {
        let replies = replies.iter().map(|&reply| reply.to_owned()).collect();
        Sample { replies, ..Sample::new(item, "") }
    }

    fn scored(suite_name: &str, items: &[Item], samples: &[Sample]) -> Vec<Metric> {
        let (items, samples): (Vec<&Item>, Vec<&Sample>) =
            (items.iter().collect(), samples.iter().collect());
        suite(suite_name).unwrap().score(&items, &samples, 0)
    }

    #[test]
    fn every_scorer_reads_the_same_replies() {
        let items = [choice("a", 0), choice("b", 1), choice("c", 1)];
        let replies = ["A.", "A person goes right", ""];
        let samples: Vec<Sample> =
            items.iter().zip(replies).map(|(item, reply)| replied(item, &[reply])).collect();
        let metrics = scored("nextqa-mc", &items, &samples);
        let names: Vec<&str> = metrics.iter().map(|metric| metric.filter).collect();
        assert_eq!(names, ["lmms-eval", "strict", "slowfast-llava"]);
        let refs: Vec<&Item> = items.iter().collect();
        let rows: Vec<Row> = metrics.iter().map(|metric| metric.row(&refs, &["type"])).collect();
        // The article is option A to lmms-eval, and it draws for the empty reply.
        assert_eq!(metrics[0].graded[1].value, Some(0.0));
        assert_eq!((rows[0].counts.guessed, rows[0].counts.unparsed), (1, 0));
        assert_eq!((rows[1].counts.guessed, rows[1].counts.unparsed), (0, 2));
        assert_eq!(rows[1].by["type"]["CW"].counts.asked, 3);
        assert_eq!(rows[1].estimate.unwrap().value, 1.0 / 3.0);
    }

    #[test]
    fn the_commonest_answer_of_several_replies_counts() {
        let items = [choice("a", 1)];
        let vote = |replies: &[&str]| {
            let metrics = scored("nextqa-mc", &items, &[replied(&items[0], replies)]);
            let strict = metrics.into_iter().find(|metric| metric.filter == "strict").unwrap();
            (strict.graded[0].value, strict.graded[0].reading.clone().unwrap().answer)
        };
        assert_eq!(vote(&["A", "B", "right"]), (Some(1.0), Some("B".to_owned())));
        // The first of equals; what cannot be read never wins against what can.
        assert_eq!(vote(&["A", "B"]), (Some(0.0), Some("A".to_owned())));
        assert_eq!(vote(&["", "", "B"]), (Some(1.0), Some("B".to_owned())));
        assert_eq!(vote(&["", ""]), (Some(0.0), None));
    }

    #[test]
    fn hidden_answers_are_not_counted_and_pairs_need_both() {
        let hidden = [Item { gold: Gold::Hidden, ..choice("a", 0) }];
        let metrics = scored("egoschema", &hidden, &[replied(&hidden[0], &["B"])]);
        assert_eq!(metrics[0].graded[0].value, None);
        assert_eq!(metrics[0].graded[0].reading.as_ref().unwrap().answer.as_deref(), Some("B"));

        let side = |id: &str, pair: &str, gold: &str| {
            let mut item = Item::new(id, "Is it?", Gold::Text(gold.to_owned()));
            item.more.insert("pair".to_owned(), json!(pair));
            item
        };
        let items = [
            side("1", "x", "yes"),
            side("2", "x", "no"),
            side("3", "y", "yes"),
            side("4", "y", "no"),
        ];
        let samples: Vec<Sample> = items
            .iter()
            .zip(["Yes.", "No.", "Yes.", "Yes."])
            .map(|(i, r)| replied(i, &[r]))
            .collect();
        let metrics = scored("videohallucer", &items, &samples);
        let refs: Vec<&Item> = items.iter().collect();
        let pairs = metrics.iter().find(|metric| metric.name == "pair_acc").unwrap();
        let row = pairs.row(&refs, &[]);
        assert_eq!((row.estimate.unwrap().value, row.estimate.unwrap().n), (0.5, 2));
        assert_eq!(row.counts.left_out, 0);
    }

    #[test]
    fn chance_is_that_of_the_options() {
        let mut four = choice("b", 0);
        four.options = ["1", "2", "3", "4"].map(str::to_owned).to_vec();
        assert_eq!(chance(&[&choice("a", 0), &four]), Some(0.375));
        assert_eq!(chance(&[&choice("a", 0), &Item::new("c", "?", Gold::Hidden)]), None);
    }

    #[test]
    fn letters_are_counted_beside_those_that_are_right() {
        let items: Vec<Item> = (0..40).map(|n| choice(&n.to_string(), n % 2)).collect();
        let samples: Vec<Sample> = items.iter().map(|item| replied(item, &["A"])).collect();
        let metrics = scored("nextqa-mc", &items, &samples);
        let refs: Vec<&Item> = items.iter().collect();
        let letters = metrics[0].letters(&refs).unwrap();
        assert_eq!((letters.counts[&'A'], letters.counts[&'B']), ((40, 20), (0, 20)));
        assert!(letters.bias.p < 1e-6, "{:?}", letters.bias);
    }
}
