//! From verdicts to figures with intervals.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Judgement;
use crate::stats::{Estimate, Outcome, clustered, estimate};

/// A figure over verdicts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its name.
    pub metric: String,
    /// The mean over the verdicts that have the figure, with its interval over clusters.
    pub estimate: Estimate,
    /// Its clustered standard error; `None` for one cluster.
    pub standard_error: Option<f64>,
}

/// The figures of a protocol, in the order of its table. A figure that no verdict has is not there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Figures(pub Vec<Figure>);

impl Figures {
    /// A figure by its name.
    pub fn get(&self, metric: &str) -> Option<&Figure> {
        self.0.iter().find(|figure| figure.metric == metric)
    }

    /// Adds the mean of what `value` says of verdicts; those of `None` are left out.
    pub(super) fn mean(
        &mut self,
        metric: &str,
        judgements: &[Judgement],
        value: impl Fn(&Judgement) -> Option<f64>,
    ) {
        let outcome = |judgement: &Judgement| {
            let (id, cluster) = (judgement.id.clone(), judgement.cluster.clone());
            Some(Outcome { id, cluster, value: value(judgement)? })
        };
        self.push(metric, &judgements.iter().filter_map(outcome).collect::<Vec<_>>());
    }

    /// Adds the share of verdicts for which `is` says true, among those for which it says anything.
    pub(super) fn share(
        &mut self,
        metric: &str,
        judgements: &[Judgement],
        is: impl Fn(&Judgement) -> Option<bool>,
    ) {
        self.mean(metric, judgements, |judgement| is(judgement).map(|is| f64::from(u8::from(is))));
    }

    /// Adds the mean within each category of each kind, as `metric/category`.
    pub(super) fn by_category(
        &mut self,
        metric: &str,
        judgements: &[Judgement],
        value: impl Fn(&Judgement) -> Option<f64>,
    ) {
        let categories: BTreeSet<(&String, &String)> =
            judgements.iter().flat_map(|judgement| &judgement.categories).collect();
        for (kind, category) in categories {
            self.mean(&format!("{metric}/{category}"), judgements, |judgement| {
                value(judgement).filter(|_| judgement.categories.get(kind) == Some(category))
            });
        }
    }

    /// Adds the mean of outcomes, if there are any.
    pub(super) fn push(&mut self, metric: &str, outcomes: &[Outcome]) {
        if let (Some(estimate), Some(mean)) = (estimate(outcomes), clustered(outcomes)) {
            let standard_error = Some(mean.standard_error).filter(|error| error.is_finite());
            let metric = metric.to_owned();
            self.0.push(Figure { metric, estimate, standard_error });
        }
    }
}
