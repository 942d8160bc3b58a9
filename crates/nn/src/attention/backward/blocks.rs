//! How the backward pass is cut: trees into tasks, tasks into blocks of queries, what a block sees into parts.

use std::ops::Range;

use crate::Forest;

/// Queries of a block, about.
const UNITS: usize = 96;
/// Weights of a block, at most, however long its past is: they stay in the second-level cache.
const WEIGHTS: usize = 1 << 18;
/// Keys of a part.
pub(super) const KEYS: usize = 256;
/// Weights that are worth a task of their own, and tasks per tree and key head at most: each has sums of its own over
/// all keys of the tree. Fixed, so that sums do not depend on the number of threads.
const SHARE: usize = 1 << 18;
const SHARES: usize = 8;

/// Some tokens of a segment.
pub(super) struct Queries {
    pub(super) segment: usize,
    pub(super) tokens: Range<usize>,
}

/// A tree's tokens and its blocks, by tasks.
pub(super) struct Tree {
    pub(super) root: usize,
    /// From its first token to its last.
    pub(super) span: Range<usize>,
    pub(super) segments: Vec<Range<usize>>,
    pub(super) shares: Vec<Vec<Queries>>,
}

/// Tokens of the pass that `queries` see, in order: those above, and the own segment's.
pub(super) fn seen(forest: &Forest, queries: &Queries) -> Vec<Range<usize>> {
    let own = &forest.segments()[queries.segment];
    let mut ranges = forest.ancestors(queries.segment);
    ranges.push(own.range.start..if own.causal { queries.tokens.end } else { own.range.end });
    ranges
}

pub(super) fn total(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).sum()
}

pub(super) fn trees(forest: &Forest, group: usize) -> Vec<Tree> {
    let mut trees: Vec<(Tree, Vec<(Queries, usize)>)> = Vec::new();
    for (index, segment) in forest.segments().iter().enumerate() {
        let (root, range) = (segment.root, segment.range.clone());
        let at = trees.iter().rposition(|(tree, _)| tree.root == root).unwrap_or(trees.len());
        if at == trees.len() {
            let (segments, shares) = (Vec::new(), Vec::new());
            trees.push((Tree { root, span: range.clone(), segments, shares }, Vec::new()));
        }
        let (tree, blocks) = &mut trees[at];
        tree.span.end = range.end;
        tree.segments.push(range.clone());
        let reach = total(&forest.ancestors(index)) + range.len();
        let tokens = (UNITS.min(WEIGHTS / reach.max(1)) / group).max(1);
        for start in range.clone().step_by(tokens) {
            let tokens = start..(start + tokens).min(range.end);
            let queries = Queries { segment: index, tokens };
            let weights = queries.tokens.len() * group * total(&seen(forest, &queries));
            blocks.push((queries, weights));
        }
    }
    trees
        .into_iter()
        .map(|(mut tree, blocks)| {
            let all: usize = blocks.iter().map(|(_, weights)| weights).sum();
            let share = all.div_ceil((all / SHARE).clamp(1, SHARES)).max(1);
            let mut before = 0;
            for (queries, weights) in blocks {
                if before / share >= tree.shares.len() {
                    tree.shares.push(Vec::new());
                }
                if let Some(share) = tree.shares.last_mut() {
                    share.push(queries);
                }
                before += weights;
            }
            tree
        })
        .collect()
}

/// Keys of a part: tokens from `token` on, which stand at `at` among all that the block sees.
pub(super) struct Part {
    pub(super) token: usize,
    pub(super) at: Range<usize>,
}

/// The parts of what a block sees, as far as `hull` reaches.
pub(super) fn parts(ranges: &[Range<usize>], hull: &Range<usize>) -> Vec<Part> {
    let (mut parts, mut first) = (Vec::new(), 0);
    for range in ranges {
        let (from, to) = (hull.start.max(first), hull.end.min(first + range.len()));
        for start in (from..to).step_by(KEYS) {
            let at = start..(start + KEYS).min(to);
            parts.push(Part { token: range.start + start - first, at });
        }
        first += range.len();
    }
    parts
}

/// What the queries of a block see, by their places there; both ends grow with the unit.
pub(super) struct Visible(pub(super) Vec<Range<usize>>);

impl Visible {
    /// What any of these units sees.
    pub(super) fn hull(&self, units: Range<usize>) -> Range<usize> {
        self.0[units.start].start..self.0[units.end - 1].end
    }

    /// The units that see any of `keys`.
    pub(super) fn units(&self, keys: &Range<usize>) -> Range<usize> {
        self.0.partition_point(|seen| seen.end <= keys.start)
            ..self.0.partition_point(|seen| seen.start < keys.end)
    }
}

/// What of `a` lies in `b`; an empty range of `b` where nothing does.
pub(super) fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.clamp(b.start, b.end);
    start..a.end.clamp(start, b.end)
}

pub(super) fn chunks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..(start + size).min(end))
}
