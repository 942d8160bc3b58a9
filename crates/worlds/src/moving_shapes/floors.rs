//! Blind floors: how well each family of questions is answered without seeing what one should see.
//!
//! - **question only**: the commonest answer to a wording and the words it names;
//! - **one frame**: the commonest answer given what one frame shows of the objects that are asked
//!   about, in bins, for the best of the sampled frames and the best of several ways to bin;
//! - **shuffled** and **reversed**: a rule that reads all sampled frames perfectly, given them in
//!   random or in opposite order; with the frames **in order** it shows that they suffice.
//!
//! The first two are fitted on one half of the questions and scored on the other.

use std::collections::HashMap;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use savi_schema::{CountRule, MediaPolicy};
use serde::{Deserialize, Serialize};

use super::evidence::Observed;
use super::query::{Family, ObjectRef, Query, hitter};
use super::questions::queries;
use super::scene::{ObjectState, Role, Scene};
use super::split::Split;
use super::vocab::{ChangeKind, Direction, Moment, Place, Side};

/// A temporal family whose answers one frame (or the question alone) gives more often than chance
/// plus this is rejected. Flashes and hits near the ends of a clip cannot be hidden entirely: the
/// first event that can be seen is always followed by the other.
pub const MARGIN: f64 = 0.1;

/// Scenes that the floors of the world are measured on.
pub const SCENES: u64 = 12_000;

/// Enough questions of a family that one frame may answer.
const SPATIAL_QUESTIONS: usize = 4000;

/// The floors of one family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Which family.
    pub family: Family,
    /// Questions that it was measured on, half of them for fitting.
    pub questions: usize,
    /// Accuracy of a guess among the possible answers.
    pub chance: f64,
    /// Accuracy from the question alone.
    pub question_only: f64,
    /// Accuracy from the question and one frame.
    pub one_frame: f64,
    /// Accuracy of the perfect reader on shuffled frames.
    pub shuffled: f64,
    /// Accuracy of the perfect reader on reversed frames.
    pub reversed: f64,
    /// Accuracy of the perfect reader on the frames as they are.
    pub in_order: f64,
}

impl Floor {
    /// Whether the family may be used: what needs time must not be answered without it.
    pub fn is_sound(&self) -> bool {
        !self.family.is_temporal() || self.question_only.max(self.one_frame) <= self.chance + MARGIN
    }
}

/// Measures every family on `scenes` scenes of a split.
pub fn measure(split: Split, seed: u64, scenes: u64) -> Vec<Floor> {
    let policy = MediaPolicy::count(super::SEGMENTS as usize, CountRule::MidSegment);
    let drawn: Vec<Vec<(Family, Sample)>> = (0..scenes)
        .into_par_iter()
        .map(|index| {
            let scene = super::scene(split, seed, index);
            let seen = Observed::new(&scene, &policy);
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ index.rotate_left(32));
            let asked = queries(&scene, &mut rng);
            let sample =
                |query: &Query| Some((query.family(), Sample::new(&seen, query, &mut rng)?));
            asked.iter().filter_map(sample).collect()
        })
        .collect();
    let mut samples: HashMap<Family, Vec<Sample>> = HashMap::new();
    for (family, sample) in drawn.into_iter().flatten() {
        let held = samples.entry(family).or_default();
        if family.is_temporal() || held.len() < SPATIAL_QUESTIONS {
            held.push(sample);
        }
    }
    Family::ALL
        .into_iter()
        .filter_map(|family| Some(floor(family, samples.get(&family)?)))
        .collect()
}

/// Bins of one question: several ways to bin, each a key.
type Keys = Vec<u64>;

struct Sample {
    label: u32,
    question: Keys,
    frames: Vec<Keys>,
    in_order: bool,
    shuffled: bool,
    reversed: bool,
}

impl Sample {
    fn new(seen: &Observed<'_>, query: &Query, rng: &mut ChaCha8Rng) -> Option<Self> {
        let scene = seen.scene;
        let truth = label(scene, query)?;
        let objects: Vec<usize> =
            query.objects().into_iter().map(|name| name.resolve(scene)).collect::<Option<_>>()?;
        let forward: Vec<usize> = (0..seen.frames).collect();
        let backward: Vec<usize> = forward.iter().rev().copied().collect();
        let mut mixed = forward.clone();
        mixed.shuffle(rng);
        let right = |order: &[usize]| read(seen, query, order) == Some(truth);
        Some(Self {
            label: truth,
            question: question_keys(query),
            frames: forward.iter().map(|&frame| frame_keys(seen, query, &objects, frame)).collect(),
            in_order: right(&forward),
            shuffled: right(&mixed),
            reversed: right(&backward),
        })
    }
}

/// The answer as a number; where a name is the answer, its place in the question.
fn label(scene: &Scene, query: &Query) -> Option<u32> {
    let answer = query.answer(scene)?;
    let named = |a: ObjectRef| u32::from(answer != format!("the {a}"));
    Some(match *query {
        Query::Faster(a, _)
        | Query::Slower(a, _)
        | Query::FlashesFirst(a, _)
        | Query::FlashesLast(a, _) => named(a),
        Query::Cause(a) => u32::from(hitter(scene, a.resolve(scene)?).is_some()),
        Query::WhyElsewhere(a) => return label(scene, &Query::Direction(a)),
        _ => answer
            .bytes()
            .fold(7, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)),
    })
}

fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, part| {
        (hash ^ part.wrapping_add(0x9e37_79b9)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn question_keys(query: &Query) -> Keys {
    let (form, moment) = form(query);
    let names = query.objects();
    let colour = |i: usize| names.get(i).and_then(|n| n.colour).map_or(9, |c| c as u64);
    let shape = |i: usize| names.get(i).and_then(|n| n.shape).map_or(9, |s| s as u64);
    vec![
        key(&[form, moment]),
        key(&[form, moment, colour(0)]),
        key(&[form, moment, shape(0)]),
        key(&[form, moment, shape(0), shape(1)]),
        key(&[form, moment, colour(0), colour(1)]),
    ]
}

fn form(query: &Query) -> (u64, u64) {
    let form = match query {
        Query::ShapeOf(_) => 0,
        Query::ColourOf(_) => 1,
        Query::Count(..) => 2,
        Query::Location(..) => 3,
        Query::Relation(..) => 4,
        Query::Direction(_) | Query::WhyElsewhere(_) => 5,
        Query::Faster(..) => 7,
        Query::Slower(..) => 8,
        Query::FlashesFirst(..) => 9,
        Query::FlashesLast(..) => 10,
        Query::FlashesWhen(..) => 11,
        Query::Change(_) => 12,
        Query::Cause(_) => 13,
    };
    let moment = match query {
        Query::Count(_, m) | Query::Location(_, m) | Query::Relation(_, _, m) => *m as u64,
        _ => 0,
    };
    (form, moment)
}

/// What one frame shows of the asked objects, binned in several ways.
fn frame_keys(seen: &Observed<'_>, query: &Query, objects: &[usize], frame: usize) -> Keys {
    let (form, moment) = form(query);
    let bin = |value: f64, bins: f64| (value * bins).floor().max(0.0) as u64;
    let state = |object: usize| seen.states[object][frame].as_ref();
    let each = |describe: &dyn Fn(usize, &ObjectState) -> u64| {
        let mut parts = vec![form, moment];
        parts.extend(objects.iter().map(|&o| state(o).map_or(u64::MAX, |s| describe(o, s))));
        key(&parts)
    };
    let visible = (0..seen.scene.objects.len()).filter(|&o| state(o).is_some()).count() as u64;
    let place = |bins: f64| each(&|_, s: &ObjectState| bin(s.x, bins) * 64 + bin(s.y, bins));
    let turn = |s: &ObjectState| u64::from(s.turn > 0.5);
    let mut keys = vec![
        key(&[form, moment, visible]),
        place(3.0),
        place(6.0),
        place(8.0),
        each(&|_, s| bin(s.x, 14.0) * 64 + bin(s.y, 3.0)),
        each(&|_, s| bin(s.x, 3.0) * 64 + bin(s.y, 14.0)),
        each(&|o, s| seen.scene.objects[o].shape as u64 * 8 + s.colour as u64),
        each(&|_, s| bin(s.diameter, 25.0) * 2 + turn(s)),
        each(&|o, s| {
            bin(s.diameter, 12.0) * 64 + turn(s) * 32 + seen.scene.objects[o].shape as u64
        }),
        each(&|_, s| u64::from(s.flashing)),
        each(&|_, s| u64::from(s.flashing) + 2 * (bin(s.x, 3.0) * 64 + bin(s.y, 3.0))),
    ];
    if let [object] = objects[..] {
        // How far the nearest other object is, and on which side.
        let nearest = state(object).and_then(|here| {
            (0..seen.scene.objects.len())
                .filter(|&other| other != object)
                .filter_map(|other| {
                    let there = state(other)?;
                    let gap = seen.scene.distance((here.x, here.y), (there.x, there.y));
                    let side = Direction::of(there.x - here.x, there.y - here.y);
                    Some((gap, side.map_or(9, |way| way as u64), other))
                })
                .min_by(|a, b| a.0.total_cmp(&b.0))
        });
        let (gap, side, _) = nearest.unwrap_or((9.0, 9, 0));
        keys.push(key(&[form, bin(gap, 25.0)]));
        keys.push(key(&[form, bin(gap, 12.0), side]));
        keys.push(key(&[form, bin(gap, 12.0), place(3.0)]));
        keys.push(key(&[form, visible, place(4.0)]));
    }
    keys
}

/// What somebody answers who reads these frames, in this order, without fault.
fn read(seen: &Observed<'_>, query: &Query, order: &[usize]) -> Option<u32> {
    let scene = seen.scene;
    let text = |word: &str| {
        word.bytes().fold(7, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
    };
    let find = |name: ObjectRef| name.resolve(scene);
    let states = |object: usize| order.iter().filter_map(move |&f| seen.states[object][f]);
    let at = |moment: Moment| match moment {
        Moment::First => order.first().copied(),
        Moment::Last => order.last().copied(),
    };
    let flash = |object: usize| {
        order.iter().position(|&f| seen.states[object][f].is_some_and(|s| s.flashing))
    };
    Some(match *query {
        Query::ShapeOf(a) => text(scene.objects[find(a)?].shape.word()),
        Query::ColourOf(a) => text(states(find(a)?).next()?.colour.word()),
        Query::Count(_, moment) => {
            let frame = at(moment)?;
            let shown = seen.states.iter().filter(|states| states[frame].is_some()).count();
            text(&shown.to_string())
        }
        Query::Location(a, moment) => {
            let state = seen.states[find(a)?][at(moment)?]?;
            text(Place::at(state.x, state.y).word())
        }
        Query::Relation(a, b, moment) => {
            let frame = at(moment)?;
            let (one, other) = (seen.states[find(a)?][frame]?, seen.states[find(b)?][frame]?);
            let side = match Direction::of(one.x - other.x, one.y - other.y)? {
                Direction::Left => Side::Left,
                Direction::Right => Side::Right,
                Direction::Up => Side::Above,
                Direction::Down => Side::Below,
            };
            text(side.word())
        }
        Query::Direction(a) | Query::WhyElsewhere(a) => {
            let (from, to) = (states(find(a)?).next()?, states(find(a)?).next_back()?);
            text(Direction::of(to.x - from.x, to.y - from.y)?.word())
        }
        Query::Faster(a, b) | Query::Slower(a, b) => {
            let step = |object: usize| {
                let shown: Vec<ObjectState> = states(object).collect();
                shown
                    .windows(2)
                    .map(|pair| (pair[0].x - pair[1].x).hypot(pair[0].y - pair[1].y))
                    .fold(0.0, f64::max)
            };
            let faster = step(find(a)?) > step(find(b)?);
            u32::from(faster == matches!(query, Query::Slower(..)))
        }
        Query::FlashesFirst(a, b) => u32::from(flash(find(a)?)? > flash(find(b)?)?),
        Query::FlashesLast(a, b) => u32::from(flash(find(a)?)? < flash(find(b)?)?),
        Query::FlashesWhen(a, b) => {
            text(if flash(find(a)?)? < flash(find(b)?)? { "before" } else { "after" })
        }
        Query::Change(a) => {
            let (from, to) = (states(find(a)?).next()?, states(find(a)?).next_back()?);
            let kind = if from.colour != to.colour {
                ChangeKind::ChangesColour
            } else if from.diameter < to.diameter {
                ChangeKind::Grows
            } else if from.diameter > to.diameter {
                ChangeKind::Shrinks
            } else {
                ChangeKind::Turns
            };
            text(&format!("it {kind}"))
        }
        Query::Cause(a) => {
            let target = find(a)?;
            let other = scene.objects.iter().position(|o| o.role == Role::Hitter)?;
            let gaps: Vec<f64> = order
                .iter()
                .filter_map(|&frame| {
                    let (a, b) = (seen.states[other][frame]?, seen.states[target][frame]?);
                    Some(scene.distance((a.x, a.y), (b.x, b.y)))
                })
                .collect();
            u32::from(gaps.first()? > gaps.last()?)
        }
    })
}

fn floor(family: Family, samples: &[Sample]) -> Floor {
    let (fit, test) = samples.split_at(samples.len() / 2);
    // The best way is chosen where it is fitted on one half and scored on the other, and reported
    // with the halves swapped, so that choosing among many ways does not flatter it.
    let best = |ways: &[(usize, usize)], keys: &(dyn Fn(&Sample, usize) -> &Keys + Sync)| {
        let scores: Vec<[f64; 2]> = ways
            .par_iter()
            .map(|&(frame, way)| {
                let key = |sample: &Sample| keys(sample, frame)[way];
                [table(fit, test, &key), table(test, fit, &key)]
            })
            .collect();
        let other = |side: usize| {
            let chosen = scores.iter().max_by(|a, b| a[side].total_cmp(&b[side]));
            chosen.map_or(0.0, |scores| scores[1 - side])
        };
        (other(0) + other(1)) / 2.0
    };
    let ways = |frames: usize, keys: &dyn Fn(&Sample) -> usize| -> Vec<(usize, usize)> {
        let count = samples.first().map_or(0, keys);
        (0..frames).flat_map(|frame| (0..count).map(move |way| (frame, way))).collect()
    };
    let frames = samples.first().map_or(0, |sample| sample.frames.len());
    let share = |right: &dyn Fn(&Sample) -> bool| {
        samples.iter().filter(|sample| right(sample)).count() as f64 / samples.len() as f64
    };
    Floor {
        family,
        questions: samples.len(),
        chance: family.chance(),
        question_only: best(&ways(1, &|s| s.question.len()), &|s, _| &s.question),
        one_frame: best(&ways(frames, &|s| s.frames[0].len()), &|s, frame| &s.frames[frame]),
        shuffled: share(&|sample| sample.shuffled),
        reversed: share(&|sample| sample.reversed),
        in_order: share(&|sample| sample.in_order),
    }
}

/// Accuracy on `test` of the answer that is commonest in `fit` for the same key; the commonest of
/// all where the key is new.
fn table(fit: &[Sample], test: &[Sample], key: &dyn Fn(&Sample) -> u64) -> f64 {
    let mut pairs: Vec<(u64, u32)> = fit.iter().map(|s| (key(s), s.label)).collect();
    pairs.sort_unstable();
    // Runs of equal pairs, by key: the longest wins.
    let mut best: HashMap<u64, (usize, u32)> = HashMap::new();
    for run in pairs.chunk_by(|a, b| a == b) {
        let ((key, label), count) = (run[0], run.len());
        let held = best.entry(key).or_insert((0, label));
        *held = (*held).max((count, label));
    }
    let mut labels: Vec<u32> = fit.iter().map(|sample| sample.label).collect();
    labels.sort_unstable();
    let commonest = labels.chunk_by(|a, b| a == b).max_by_key(|run| run.len());
    let fallback = commonest.map(|run| run[0]);
    let right = test.iter().filter(|sample| {
        best.get(&key(sample)).map(|(_, label)| *label).or(fallback) == Some(sample.label)
    });
    right.count() as f64 / test.len().max(1) as f64
}
