//! What is in every cell of a picture: labels for a learner that is still to learn to see.

use rand::Rng;
use rand::seq::IndexedRandom;
use savi_schema::MediaPolicy;

use super::scene::{Object, ObjectState, Scene};
use super::times::sample_times;
use super::vocab::{Colour, Place, Shape, Size};

/// Cells along each side: as many as a frame of 64 pixels has visual tokens.
pub const CELLS: usize = 4;

/// What is told of every cell, and the answers in words. The first answer of the first three is that
/// nothing is there.
pub fn cell_answers() -> [(&'static str, Vec<&'static str>); 6] {
    let or_none = |words: Vec<&'static str>| [vec!["none"], words].concat();
    [
        ("colour", or_none(Colour::ALL.iter().map(|colour| colour.word()).collect())),
        ("shape", or_none(Shape::ALL.iter().map(|shape| shape.word()).collect())),
        ("place", or_none(Place::ALL.iter().map(|place| place.word()).collect())),
        ("size", Size::ALL.iter().map(|size| size.word()).collect()),
        ("turned", vec!["upright", "turned"]),
        ("flashing", vec!["still", "flashing"]),
    ]
}

/// An object belongs to the cells whose centre is at most this far from its own, by either axis.
const REACH: f64 = 0.19;
/// Most cells are empty; each of them counts for less.
const EMPTY_WEIGHT: f32 = 0.3;

/// A moment at which `policy` looks at the scene, in seconds.
pub fn random_moment(scene: &Scene, policy: &MediaPolicy, rng: &mut impl Rng) -> f64 {
    sample_times(scene, policy).choose(rng).copied().unwrap_or(0.0)
}

/// For each of [`cell_answers`] and each cell, row by row, the answer and its weight at a moment
/// given in seconds. Weight 0: there is no answer.
pub fn cell_labels(scene: &Scene, seconds: f64) -> Vec<Vec<(u32, f32)>> {
    let index = (seconds * f64::from(scene.fps) + 1e-6).floor().max(0.0);
    let time = index.min(f64::from(scene.frame_count - 1)) / f64::from(scene.frame_count);
    let there: Vec<(&Object, ObjectState)> =
        scene.objects.iter().filter_map(|o| Some((o, o.state(time)?))).collect();
    let centre = |cell: usize| (cell as f64 + 0.5) / CELLS as f64;
    let cells = (0..CELLS * CELLS).map(|cell| {
        let (x, y) = (centre(cell % CELLS), centre(cell / CELLS));
        let gap = |state: &ObjectState| (state.x - x).abs().max((state.y - y).abs());
        there
            .iter()
            .filter(|(_, state)| gap(state) < REACH)
            .min_by(|(_, a), (_, b)| gap(a).total_cmp(&gap(b)))
            .map_or(
                [
                    (0, EMPTY_WEIGHT),
                    (0, EMPTY_WEIGHT),
                    (0, EMPTY_WEIGHT),
                    (0, 0.0),
                    (0, 0.0),
                    (0, 0.0),
                ],
                |(object, state)| {
                    let turns =
                        matches!(object.shape, Shape::Square | Shape::Triangle | Shape::Cross);
                    [
                        (state.colour as u32 + 1, 1.0),
                        (object.shape as u32 + 1, 1.0),
                        (Place::at(state.x, state.y) as u32 + 1, 1.0),
                        (Size::of(state.diameter) as u32, 1.0),
                        (u32::from(state.turn > 0.5), if turns { 1.0 } else { 0.0 }),
                        (u32::from(state.flashing), 1.0),
                    ]
                },
            )
    });
    let cells: Vec<_> = cells.collect();
    (0..cell_answers().len()).map(|head| cells.iter().map(|cell| cell[head]).collect()).collect()
}
