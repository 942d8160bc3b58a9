//! Yields and rejections: what every stage made, used and left out.

use serde::Serialize;

use crate::load::Stage;
use crate::results::round_name;
use crate::words::reason;

/// The stages of one round.
#[derive(Debug, Serialize)]
pub(crate) struct RoundStages {
    name: String,
    stages: Vec<StageRow>,
}

#[derive(Debug, Serialize)]
struct StageRow {
    title: String,
    finished: bool,
    records: usize,
    made: Option<u64>,
    used: Option<u64>,
    /// Used of made, in percent.
    yielded: Option<f64>,
    dropped: Vec<Count>,
    /// Counters that are neither yield nor rejection.
    others: Vec<Count>,
}

#[derive(Debug, Serialize)]
struct Count {
    name: String,
    count: u64,
}

/// One table for each round, from the counters in `done.json`.
pub(crate) fn stage_tables(stages: &[Stage]) -> Vec<RoundStages> {
    let mut rounds: Vec<RoundStages> = Vec::new();
    for stage in stages {
        let name = round_name(stage.round);
        if rounds.last().is_none_or(|round| round.name != name) {
            rounds.push(RoundStages { name, stages: Vec::new() });
        }
        if let Some(round) = rounds.last_mut() {
            round.stages.push(row(stage));
        }
    }
    rounds
}

fn row(stage: &Stage) -> StageRow {
    let mut row = StageRow {
        title: stage.title.replace('-', " "),
        finished: stage.done.is_some(),
        records: stage.done.as_ref().map_or(stage.records.len(), |done| done.records),
        made: None,
        used: None,
        yielded: None,
        dropped: Vec::new(),
        others: Vec::new(),
    };
    for (name, &count) in stage.done.iter().flat_map(|done| &done.counters) {
        match (name.as_str(), name.strip_prefix("dropped/")) {
            ("made", _) => row.made = Some(count),
            ("used", _) => row.used = Some(count),
            (_, Some(why)) => row.dropped.push(Count { name: reason(why), count }),
            (other, None) => {
                row.others.push(Count { name: other.replace(['/', '-', '_'], " "), count });
            }
        }
    }
    row.dropped.sort_by_key(|dropped| std::cmp::Reverse(dropped.count));
    row.yielded = match (row.made, row.used) {
        (Some(made), Some(used)) if made > 0 => {
            Some((1000.0 * used as f64 / made as f64).round() / 10.0)
        }
        _ => None,
    };
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_yields_and_rejections() {
        let counters = [("made", 9), ("used", 3), ("dropped/tie", 2), ("dropped/margin", 4)];
        let done = savi_run::Done {
            schema: 1,
            stage: "14-pair".to_owned(),
            key: String::new(),
            records: 9,
            hash: String::new(),
            counters: counters.iter().map(|&(name, count)| (name.to_owned(), count)).collect(),
        };
        let stage = Stage {
            name: "14-pair".to_owned(),
            round: 1,
            title: "pair".to_owned(),
            done: Some(done),
            ..Stage::default()
        };
        let rounds =
            stage_tables(&[Stage { title: "clips".to_owned(), ..Stage::default() }, stage]);
        assert_eq!([rounds[0].name.as_str(), rounds[1].name.as_str()], ["base", "round 1"]);
        let row = &rounds[1].stages[0];
        assert_eq!((row.made, row.used, row.yielded), (Some(9), Some(3), Some(33.3)));
        assert_eq!(row.dropped[0].name, "best and worst too close");
        assert!(!rounds[0].stages[0].finished);
    }
}
