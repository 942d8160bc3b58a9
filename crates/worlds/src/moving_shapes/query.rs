//! Questions as values, and their exact answers.

use serde::{Deserialize, Serialize};

use super::scene::{EventKind, Object, Role, Scene};
use super::vocab::{Colour, Direction, Moment, Place, Shape, Side};

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// The shape of an object of a colour.
    Shape,
    /// The colour of the only object of a shape.
    Colour,
    /// How many objects a frame shows.
    Count,
    /// Where an object is in a frame.
    Location,
    /// Where an object is in a frame, seen from another.
    Relation,
    /// Which way an object moves.
    Direction,
    /// Which of two moves faster.
    Speed,
    /// Which of two flashes first.
    Order,
    /// Whether one flashes before or after another.
    BeforeAfter,
    /// How an object changes.
    Change,
    /// Why an object starts to move.
    Cause,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 11] = [
        Self::Shape,
        Self::Colour,
        Self::Count,
        Self::Location,
        Self::Relation,
        Self::Direction,
        Self::Speed,
        Self::Order,
        Self::BeforeAfter,
        Self::Change,
        Self::Cause,
    ];

    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::Colour => "colour",
            Self::Count => "count",
            Self::Location => "location",
            Self::Relation => "relation",
            Self::Direction => "direction",
            Self::Speed => "speed",
            Self::Order => "order",
            Self::BeforeAfter => "before-after",
            Self::Change => "change",
            Self::Cause => "cause",
        }
    }

    /// Whether one frame is not enough to answer.
    pub fn is_temporal(self) -> bool {
        self >= Self::Direction
    }

    /// Share of right answers of somebody who knows the possible answers and nothing else.
    pub fn chance(self) -> f64 {
        match self {
            Self::Shape => 1.0 / Shape::ALL.len() as f64,
            Self::Colour => 1.0 / Colour::ALL.len() as f64,
            Self::Location => 1.0 / Place::ALL.len() as f64,
            Self::Count | Self::Relation | Self::Direction | Self::Change => 0.25,
            Self::Speed | Self::Order | Self::BeforeAfter | Self::Cause => 0.5,
        }
    }
}

/// An object as a question names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its colour, if named.
    pub colour: Option<Colour>,
    /// Its shape, if named.
    pub shape: Option<Shape>,
}

impl ObjectRef {
    /// The usual name of an object, in one word that says enough: its colour, which no other object
    /// of the scene has, or its shape where the colour may change.
    pub fn of(object: &Object) -> Self {
        match object.role {
            Role::Changer => Self { colour: None, shape: Some(object.shape) },
            _ => Self { colour: Some(object.colour), shape: None },
        }
    }

    /// The index of the one object that it fits; `None` if it fits none or several.
    pub fn resolve(self, scene: &Scene) -> Option<usize> {
        let fits = |object: &Object| {
            self.colour.is_none_or(|colour| object.ever(colour))
                && self.shape.is_none_or(|shape| object.shape == shape)
        };
        let mut found = scene.objects.iter().enumerate().filter(|(_, object)| fits(object));
        let (index, _) = found.next()?;
        found.next().is_none().then_some(index)
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.colour, self.shape) {
            (Some(colour), Some(shape)) => write!(f, "{colour} {shape}"),
            (Some(colour), None) => write!(f, "{colour} object"),
            (None, Some(shape)) => write!(f, "{shape}"),
            (None, None) => f.write_str("object"),
        }
    }
}

/// What is asked, without the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// The shape of an object.
    ShapeOf(ObjectRef),
    /// The colour of an object.
    ColourOf(ObjectRef),
    /// How many objects a frame shows, of one shape or of any.
    Count(Option<Shape>, Moment),
    /// Where an object is.
    Location(ObjectRef, Moment),
    /// Where the first is, seen from the second.
    Relation(ObjectRef, ObjectRef, Moment),
    /// Which way an object moves.
    Direction(ObjectRef),
    /// The same, asked for as a reason: "it moves left".
    WhyElsewhere(ObjectRef),
    /// Which of two moves faster.
    Faster(ObjectRef, ObjectRef),
    /// Which of two moves slower.
    Slower(ObjectRef, ObjectRef),
    /// Which of two flashes first.
    FlashesFirst(ObjectRef, ObjectRef),
    /// Which of two flashes last.
    FlashesLast(ObjectRef, ObjectRef),
    /// Whether the first flashes before or after the second.
    FlashesWhen(ObjectRef, ObjectRef),
    /// How an object changes.
    Change(ObjectRef),
    /// Why an object starts to move.
    Cause(ObjectRef),
}

/// Speeds that differ by less are not compared.
const SPEED_RATIO: f64 = 1.4;

impl Query {
    /// Its family.
    pub fn family(&self) -> Family {
        match self {
            Self::ShapeOf(_) => Family::Shape,
            Self::ColourOf(_) => Family::Colour,
            Self::Count(..) => Family::Count,
            Self::Location(..) => Family::Location,
            Self::Relation(..) => Family::Relation,
            Self::Direction(_) | Self::WhyElsewhere(_) => Family::Direction,
            Self::Faster(..) | Self::Slower(..) => Family::Speed,
            Self::FlashesFirst(..) | Self::FlashesLast(..) => Family::Order,
            Self::FlashesWhen(..) => Family::BeforeAfter,
            Self::Change(_) => Family::Change,
            Self::Cause(_) => Family::Cause,
        }
    }

    /// The objects that it names, in order.
    pub fn objects(&self) -> Vec<ObjectRef> {
        match *self {
            Self::Count(..) => Vec::new(),
            Self::ShapeOf(a)
            | Self::ColourOf(a)
            | Self::Location(a, _)
            | Self::Direction(a)
            | Self::WhyElsewhere(a)
            | Self::Change(a)
            | Self::Cause(a) => vec![a],
            Self::Relation(a, b, _)
            | Self::Faster(a, b)
            | Self::Slower(a, b)
            | Self::FlashesFirst(a, b)
            | Self::FlashesLast(a, b)
            | Self::FlashesWhen(a, b) => vec![a, b],
        }
    }

    /// The true answer; `None` if the scene has none: an object is missing or named ambiguously,
    /// does not do what is asked about, or the answer is not clear-cut.
    pub fn answer(&self, scene: &Scene) -> Option<String> {
        let find = |name: ObjectRef| Some(&scene.objects[name.resolve(scene)?]);
        let pick = |first: bool, a: ObjectRef, b: ObjectRef| {
            Some(format!("the {}", if first { a } else { b }))
        };
        match *self {
            Self::ShapeOf(a) => Some(find(a)?.shape.word().to_owned()),
            Self::ColourOf(a) => {
                let object = find(a)?;
                let constant = object.change.is_none_or(|change| change.colour == object.colour);
                constant.then(|| object.colour.word().to_owned())
            }
            Self::Count(shape, moment) => count(scene, shape, moment).map(|n| n.to_string()),
            Self::Location(a, moment) => {
                place(scene, find(a)?, moment).map(|place| place.word().to_owned())
            }
            Self::Relation(a, b, moment) => {
                side(scene, find(a)?, find(b)?, moment).map(|side| side.word().to_owned())
            }
            Self::Direction(a) => Some(direction(find(a)?)?.word().to_owned()),
            Self::WhyElsewhere(a) => Some(format!("it moves {}", direction(find(a)?)?)),
            Self::Faster(a, b) => pick(is_faster(find(a)?, find(b)?)?, a, b),
            Self::Slower(a, b) => pick(!is_faster(find(a)?, find(b)?)?, a, b),
            Self::FlashesFirst(a, b) => pick(is_earlier(find(a)?, find(b)?)?, a, b),
            Self::FlashesLast(a, b) => pick(!is_earlier(find(a)?, find(b)?)?, a, b),
            Self::FlashesWhen(a, b) => {
                let earlier = is_earlier(find(a)?, find(b)?)?;
                Some(if earlier { "before" } else { "after" }.to_owned())
            }
            Self::Change(a) => Some(format!("it {}", find(a)?.change?.kind)),
            Self::Cause(a) => {
                let index = a.resolve(scene)?;
                (scene.objects[index].role == Role::Target).then(|| match hitter(scene, index) {
                    Some(other) => format!("the {} hits it", ObjectRef::of(&scene.objects[other])),
                    None => NOT_HIT.to_owned(),
                })
            }
        }
    }
}

/// Why an object starts to move that no other one hits.
pub(super) const NOT_HIT: &str = "nothing hits it";

/// The object that hits this one.
pub(super) fn hitter(scene: &Scene, target: usize) -> Option<usize> {
    scene
        .events
        .iter()
        .find(|event| event.kind == EventKind::IsHit && event.object == target)
        .and_then(|event| event.other)
}

/// The very frame and the middle of the segment around it: an answer about "the first frame" is
/// given only where it holds for both, because policies differ in what they take first and last.
fn times(scene: &Scene, moment: Moment) -> [f64; 2] {
    let half = 0.5 / f64::from(super::SEGMENTS);
    match moment {
        Moment::First => [0.0, half],
        Moment::Last => [1.0 - 1.0 / f64::from(scene.frame_count), 1.0 - half],
    }
}

/// The value that a function has at both times.
fn agreed<T: PartialEq>(
    scene: &Scene,
    moment: Moment,
    value: impl Fn(f64) -> Option<T>,
) -> Option<T> {
    let [one, other] = times(scene, moment).map(value);
    if one == other { one } else { None }
}

fn count(scene: &Scene, shape: Option<Shape>, moment: Moment) -> Option<usize> {
    agreed(scene, moment, |time| {
        let fits = |o: &&Object| shape.is_none_or(|shape| o.shape == shape);
        Some(scene.objects.iter().filter(fits).filter(|o| o.state(time).is_some()).count())
    })
}

/// Where an object is, if it is not close to a line of the grid.
pub(super) fn place(scene: &Scene, object: &Object, moment: Moment) -> Option<Place> {
    agreed(scene, moment, |time| {
        let state = object.state(time)?;
        let clear = |v: f64| (v * 3.0 - (v * 3.0).round()).abs() > 0.06 || !(0.2..0.8).contains(&v);
        (clear(state.x) && clear(state.y)).then(|| Place::at(state.x, state.y))
    })
}

fn side(scene: &Scene, one: &Object, other: &Object, moment: Moment) -> Option<Side> {
    agreed(scene, moment, |time| {
        let (a, b) = (one.state(time)?, other.state(time)?);
        let (dx, dy) = (a.x - b.x, a.y - b.y);
        let (large, small) = (dx.abs().max(dy.abs()), dx.abs().min(dy.abs()));
        if large < 0.2 || large < 1.7 * small {
            return None;
        }
        Some(match (dx.abs() > dy.abs(), dx > 0.0, dy > 0.0) {
            (true, true, _) => Side::Right,
            (true, false, _) => Side::Left,
            (false, _, true) => Side::Below,
            (false, _, false) => Side::Above,
        })
    })
}

/// Which way an object moves while it is visible.
fn direction(object: &Object) -> Option<Direction> {
    let (from, to) = (object.track.at(object.visible.from), object.track.at(object.visible.to));
    Direction::of(to.0 - from.0, to.1 - from.1)
}

fn is_faster(one: &Object, other: &Object) -> Option<bool> {
    direction(one)?;
    direction(other)?;
    let ratio = one.track.speed() / other.track.speed();
    (!(1.0 / SPEED_RATIO..SPEED_RATIO).contains(&ratio)).then_some(ratio > 1.0)
}

fn is_earlier(one: &Object, other: &Object) -> Option<bool> {
    let (a, b) = (one.flash?.from, other.flash?.from);
    (a != b).then_some(a < b)
}
