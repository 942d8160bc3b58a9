//! What a look at sampled frames shows, in words: the evidence that critiques and judgements
//! state before they decide.

use savi_schema::MediaPolicy;

use super::query::{NOT_HIT, ObjectRef, Query, hitter};
use super::scene::{Object, ObjectState, Role, Scene};
use super::times::sample_indices;
use super::vocab::{Moment, Place, Size};

/// A scene as sampled frames show it.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// The scene.
    pub scene: &'a Scene,
    /// For each object, how it looks in each frame; `None` where it is not there.
    pub states: Vec<Vec<Option<ObjectState>>>,
    /// Number of frames.
    pub frames: usize,
}

impl<'a> Observed<'a> {
    /// Looks at the frames that `policy` takes.
    pub fn new(scene: &'a Scene, policy: &MediaPolicy) -> Self {
        let indices = sample_indices(scene, policy);
        let times: Vec<f64> =
            indices.iter().map(|&i| f64::from(i) / f64::from(scene.frame_count)).collect();
        let look = |object: &Object| times.iter().map(|&time| object.state(time)).collect();
        Self { scene, states: scene.objects.iter().map(look).collect(), frames: times.len() }
    }

    /// First and last frame (from 0) that show an object.
    pub(super) fn span(&self, object: usize) -> Option<(usize, usize)> {
        let states = &self.states[object];
        let first = states.iter().position(Option::is_some)?;
        Some((first, states.iter().rposition(Option::is_some)?))
    }

    /// Where an object is in a frame.
    pub(super) fn place(&self, object: usize, frame: usize) -> Option<Place> {
        self.states[object][frame].map(|state| Place::at(state.x, state.y))
    }

    /// First frame (from 0) in which an object flashes.
    pub(super) fn flash(&self, object: usize) -> Option<usize> {
        self.states[object].iter().position(|state| state.is_some_and(|s| s.flashing))
    }

    /// Indices of the objects in the order in which lists name them: that of the colours.
    pub(super) fn listing(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.scene.objects.len()).collect();
        order.sort_by_key(|&index| self.scene.objects[index].colour);
        order
    }

    /// An object frame by frame: where it is, or how it looks if it changes.
    pub(super) fn track(&self, object: usize) -> String {
        let changes = self.scene.objects[object].change.is_some();
        let phrase = |(frame, state): (usize, &Option<ObjectState>)| match state {
            None => format!("{} none", frame + 1),
            Some(state) if changes => format!("{} {}", frame + 1, look(state)),
            Some(state) => format!("{} {}", frame + 1, Place::at(state.x, state.y)),
        };
        let phrases: Vec<String> = self.states[object].iter().enumerate().map(phrase).collect();
        phrases.join(", ")
    }

    fn name(&self, object: usize) -> ObjectRef {
        ObjectRef::of(&self.scene.objects[object])
    }

    /// What is seen that bears on `query`, one or two short sentences, and then what follows from
    /// it. `None` if the scene or these frames do not answer.
    pub fn evidence(&self, query: &Query) -> Option<String> {
        let answer = query.answer(self.scene)?;
        let find = |name: ObjectRef| name.resolve(self.scene);
        let frame_of = |moment: Moment| match moment {
            Moment::First => 0,
            Moment::Last => self.frames - 1,
        };
        Some(match *query {
            Query::ShapeOf(a) => {
                format!("{} It is a {answer}.", self.first_sight(a, find(a)?)?)
            }
            Query::ColourOf(a) => {
                format!("{} It is {answer}.", self.first_sight(a, find(a)?)?)
            }
            Query::Count(shape, moment) => {
                let frame = frame_of(moment);
                let names: Vec<String> = self
                    .listing()
                    .into_iter()
                    .filter(|&i| self.states[i][frame].is_some())
                    .filter(|&i| shape.is_none_or(|s| self.scene.objects[i].shape == s))
                    .map(|i| format!("the {}", self.name(i)))
                    .collect();
                let seen = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                format!("Frame {} shows {seen}. That makes {answer}.", frame + 1)
            }
            Query::Location(a, moment) => {
                let frame = frame_of(moment);
                let place = self.place(find(a)?, frame)?;
                format!("In frame {} the {a} is {}.", frame + 1, place.phrase())
            }
            Query::Relation(a, b, moment) => {
                let frame = frame_of(moment);
                let (one, other) = (self.place(find(a)?, frame)?, self.place(find(b)?, frame)?);
                let (one, other) = (one.phrase(), other.phrase());
                format!("In frame {} the {a} is {one} and the {b} {other}.", frame + 1)
            }
            Query::Direction(a) | Query::WhyElsewhere(a) => {
                let way = Query::Direction(a).answer(self.scene)?;
                format!("The {a}: {}. It moves {way}.", self.track(find(a)?))
            }
            Query::Faster(a, b) | Query::Slower(a, b) => {
                let faster = Query::Faster(a, b).answer(self.scene)?;
                format!(
                    "The {a}: {}. The {b}: {}. {} is faster.",
                    self.track(find(a)?),
                    self.track(find(b)?),
                    capital(&faster)
                )
            }
            Query::FlashesFirst(a, b) | Query::FlashesLast(a, b) | Query::FlashesWhen(a, b) => {
                let (one, other) = (self.flash(find(a)?)?, self.flash(find(b)?)?);
                format!(
                    "The {a} flashes in frame {}. The {b} flashes in frame {}. {} is first.",
                    one + 1,
                    other + 1,
                    capital(&Query::FlashesFirst(a, b).answer(self.scene)?)
                )
            }
            Query::Change(a) => {
                format!("The {a}: {}. {}.", self.track(find(a)?), capital(&answer))
            }
            Query::Cause(a) => self.cause(a, find(a)?)?,
        })
    }

    /// In which frame and where a thing is first seen.
    fn first_sight(&self, name: ObjectRef, object: usize) -> Option<String> {
        let (first, _) = self.span(object)?;
        let place = self.place(object, first)?.phrase();
        Some(format!("In frame {} the {name} is {place}.", first + 1))
    }

    fn cause(&self, name: ObjectRef, target: usize) -> Option<String> {
        // Whoever hits it, or else whoever was near it and did not.
        let other = hitter(self.scene, target)
            .or_else(|| self.scene.objects.iter().position(|object| object.role == Role::Hitter))?;
        let (first, last) = self.span(other)?;
        let gap = |frame: usize| {
            let (a, b) = (self.states[other][frame]?, self.states[target][frame]?);
            Some(self.scene.distance((a.x, a.y), (b.x, b.y)))
        };
        let other_name = self.name(other);
        let (from, to, conclusion) = if gap(first)? > gap(last)? {
            ("away from the", "next to it", format!("The {other_name} hits it"))
        } else {
            ("next to the", "away from it", capital(NOT_HIT))
        };
        Some(format!(
            "In frame {} the {other_name} is {from} {name}, in frame {} {to}. {conclusion}.",
            first + 1,
            last + 1
        ))
    }
}

/// Size, colour and attitude of an object that may change.
pub(super) fn look(state: &ObjectState) -> String {
    let attitude = if state.turn > 0.5 { "turned" } else { "upright" };
    format!("{} {} {attitude}", Size::of(state.diameter), state.colour)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}
