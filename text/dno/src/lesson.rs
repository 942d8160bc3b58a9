//! What an iteration learns: its new pairs under their caps, and pairs of earlier iterations (paper, section 4.2).

use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_schema::{Example, Message, Pair, Role, SCHEMA_VERSION};

use crate::config::{PairRules, Replay, ReplayBase};
use crate::{Decision, Made, PairKind};

/// The new pairs of an iteration, as many of each kind as the caps allow.
pub(crate) fn new_pairs(
    decisions: &[Decision],
    rules: &PairRules,
    seed: u64,
    iteration: u32,
) -> Vec<Pair> {
    let made: Vec<&Made> = decisions.iter().flat_map(|decision| &decision.pairs).collect();
    let mut kept: Vec<usize> = Vec::new();
    for (kind, most) in [
        (PairKind::TeacherOverStudent, rules.most_teacher_over_student),
        (PairKind::StudentOverTeacher, rules.most_student_over_teacher),
        (PairKind::StudentOverStudent, rules.most_student_over_student),
    ] {
        let of_kind: Vec<usize> = (0..made.len()).filter(|&at| made[at].kind == kind).collect();
        let most = if most == 0 { of_kind.len() } else { most };
        let names = ["cap", kind.name(), &iteration.to_string()];
        kept.extend(some(of_kind.len(), most, seed, &names).into_iter().map(|at| of_kind[at]));
    }
    kept.sort_unstable();
    kept.into_iter().map(|at| made[at].pair.clone()).collect()
}

/// Pairs of the iterations before `iteration` that are learnt again; `earlier` holds the new pairs of each of them, the
/// first one's first.
pub(crate) fn replayed(
    earlier: &[Vec<Pair>],
    new: usize,
    replay: &Replay,
    seed: u64,
    iteration: u32,
) -> Vec<Pair> {
    let mut share = replay.first;
    let mut all = Vec::new();
    for (back, pairs) in earlier.iter().rev().enumerate() {
        let base = match replay.of {
            ReplayBase::Earlier => pairs.len(),
            ReplayBase::New => new,
        };
        // The share is an upper bound: what is left of a pair is no pair.
        let most = (share * base as f64 + 1e-9) as usize;
        let names = ["replay", &iteration.to_string(), &back.to_string()];
        all.extend(some(pairs.len(), most, seed, &names).into_iter().map(|at| pairs[at].clone()));
        share *= replay.factor;
    }
    all
}

/// What is chosen in pairs, as examples: all of a prompt together, each once.
pub(crate) fn positives(pairs: &[Pair]) -> Vec<Example> {
    let mut examples: Vec<(&Pair, Vec<&str>)> = Vec::new();
    for pair in pairs {
        match examples.iter_mut().find(|(first, _)| first.prompt == pair.prompt) {
            Some((_, texts)) if texts.contains(&pair.chosen.as_str()) => {}
            Some((_, texts)) => texts.push(&pair.chosen),
            None => examples.push((pair, vec![&pair.chosen])),
        }
    }
    let conversation = |pair: &Pair, text: &str| {
        let answer = Message::text(Role::Assistant, text);
        pair.prompt.iter().cloned().chain([answer]).collect()
    };
    examples
        .into_iter()
        .map(|(pair, texts)| Example {
            schema: SCHEMA_VERSION,
            id: pair.id.clone(),
            conversations: texts.into_iter().map(|text| conversation(pair, text)).collect(),
        })
        .collect()
}

/// At most `most` of `count` places, drawn by chance and in order.
fn some(count: usize, most: usize, seed: u64, names: &[&str]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    if most < count {
        places.shuffle(&mut seeded_rng(seed, names));
        places.truncate(most);
        places.sort_unstable();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(id: &str, chosen: &str) -> Pair {
        Pair {
            schema: 1,
            id: id.to_owned(),
            prompt: vec![Message::text(Role::User, &id[..1])],
            chosen: chosen.to_owned(),
            rejected: "no".to_owned(),
            chosen_score: None,
            rejected_score: None,
            margin: 0.0,
            provenance: serde_json::Map::default(),
        }
    }

    fn many(name: &str, count: usize) -> Vec<Pair> {
        (0..count).map(|at| pair(&format!("{name}{at}"), "yes")).collect()
    }

    #[test]
    fn shares_halve_from_iteration_to_iteration() {
        let earlier = [many("a", 40), many("b", 40), many("c", 40)];
        let count = |replay: &Replay, new| {
            let all = replayed(&earlier, new, replay, 3, 4);
            ["c", "b", "a"].map(|name| all.iter().filter(|pair| pair.id.starts_with(name)).count())
        };
        let usual = Replay::default();
        // 30, 15 and 7.5 percent of 40.
        assert_eq!(count(&usual, 1000), [12, 6, 3]);
        let of_new = Replay { of: ReplayBase::New, ..usual.clone() };
        assert_eq!(count(&of_new, 100), [30, 15, 7]);
        assert_eq!(count(&of_new, 1000), [40, 40, 40]);
        assert_eq!(count(&Replay { first: 0.0, ..usual.clone() }, 100), [0, 0, 0]);
        let again = || replayed(&earlier, 5, &usual, 3, 4);
        assert_eq!(again(), again());
        assert_ne!(again(), replayed(&earlier, 5, &usual, 4, 4));
    }

    #[test]
    fn caps_are_of_kinds() {
        let kinds = [PairKind::TeacherOverStudent, PairKind::StudentOverStudent];
        let decision = |at: usize| Decision {
            schema: 1,
            id: at.to_string(),
            pairs: kinds
                .map(|kind| Made { kind, pair: pair(&format!("{at}{}", kind.name()), "yes") })
                .to_vec(),
            dropped: None,
        };
        let decisions: Vec<Decision> = (0..9).map(decision).collect();
        let rules = PairRules { most_student_over_student: 4, ..PairRules::default() };
        let kept = new_pairs(&decisions, &rules, 1, 2);
        let of = |name: &str| kept.iter().filter(|pair| pair.id.ends_with(name)).count();
        assert_eq!([of("teacher-over-student"), of("student-over-student")], [9, 4]);
    }

    #[test]
    fn positives_are_examples_of_their_prompts() {
        let pairs =
            [pair("a0", "yes"), pair("b0", "yes"), pair("a1", "yes"), pair("a2", "certainly")];
        let examples = positives(&pairs);
        let said: Vec<Vec<String>> = examples
            .iter()
            .map(|example| example.conversations.iter().map(|turns| turns[1].words()).collect())
            .collect();
        assert_eq!(said, [vec!["yes", "certainly"], vec!["yes"]]);
    }
}
