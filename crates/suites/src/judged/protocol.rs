//! Which questions a suite puts to its judge.

use super::{Figures, Judged, Judgement};
use super::{alpaca_eval, mt_bench, mt_bench_pairs, refusal, temp_compass, vicuna_pairs, video_qa};

/// How a suite is judged.
#[derive(Clone, Copy)]
pub struct Protocol {
    /// The questions about each item.
    pub judged: &'static [Judged],
    /// What the verdicts say together.
    pub figures: fn(&[Judgement]) -> Figures,
    /// Whether replies of another model are needed.
    pub pairs: bool,
    /// Whether only replies that no rule could read are judged.
    pub rest: bool,
}

impl Protocol {
    /// That of a suite, for a model alone or, with `pairs`, against another; `None` where there is none.
    pub fn of(suite: &str, pairs: bool) -> Option<Self> {
        let new = |judged, figures| Self { judged, figures, pairs, rest: false };
        Some(match (suite, pairs) {
            ("msvd-qa" | "msrvtt-qa" | "tgif-frameqa" | "activitynet-qa", false) => {
                new(&[Judged::VideoQa], video_qa)
            }
            ("mt-bench", false) => new(&Judged::MT_BENCH, mt_bench),
            ("mt-bench", true) => new(&Judged::MT_BENCH_PAIRS, mt_bench_pairs),
            ("vicuna-80", true) => new(&[Judged::VicunaPair], vicuna_pairs),
            ("alpaca-eval-2", _) => new(&[Judged::AlpacaEval], alpaca_eval),
            ("advbench" | "hh-red-team", false) => new(&[Judged::Refusal], refusal),
            ("tempcompass-mc" | "tempcompass-yn" | "tempcompass-cm", false) => {
                Self { rest: true, ..new(&[Judged::TempCompassReply], temp_compass) }
            }
            ("tempcompass-cap", false) => new(&[Judged::TempCompassCaption], temp_compass),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    #[test]
    fn every_protocol_is_of_a_suite_that_replies() {
        let judged = |pairs| {
            let names = catalog::names().filter(move |name| Protocol::of(name, pairs).is_some());
            names.collect::<Vec<_>>()
        };
        assert_eq!(judged(false).len(), 12, "{:?}", judged(false));
        assert_eq!(judged(true).len(), 3, "{:?}", judged(true));
        let name = judged(false);
        let replies =
            |name: &&str| matches!(catalog::suite(name).unwrap().ask, crate::Ask::Reply { .. });
        assert!(name.iter().all(replies));
        assert!(Protocol::of("vicuna-80", false).is_none());
    }
}
