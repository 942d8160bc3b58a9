//! What a look at sampled frames shows, in words: the evidence that critiques and judgements
//! state before they decide.

use savi_schema::MediaPolicy;

use super::query::{ObjectRef, Query, hitter};
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

    /// An object by the name of it frame by frame: where it is, or how it looks if it changes. Every
    /// phrase says frame and name again, so that what is seen next depends on the two words before it.
    pub(super) fn track(&self, object: usize, name: ObjectRef) -> String {
        let name = word(name);
        let phrase = |frame: usize| format!("{} {name} {}", frame + 1, self.look(object, frame));
        (0..self.frames).map(phrase).collect::<Vec<_>>().join(", ")
    }

    /// Where an object is in a frame, or its size, colour and attitude if it changes; `none` if it is
    /// not there.
    pub(super) fn look(&self, object: usize, frame: usize) -> String {
        match (self.parts(object, frame), self.place(object, frame)) {
            (Some(parts), _) if self.scene.objects[object].change.is_some() => parts.join(" "),
            (_, Some(place)) => place.word().to_owned(),
            (_, None) => "none".to_owned(),
        }
    }

    /// What a frame shows, thing by thing: `1 red circle top left, 1 blue square left`, each with
    /// what `more` says of the thing of this place in the list.
    pub(super) fn shown(
        &self,
        frame: usize,
        more: impl Fn(usize, &ObjectState) -> String,
    ) -> String {
        let number = frame + 1;
        let there = self.listing().into_iter();
        let there = there.filter_map(|index| Some((index, self.states[index][frame]?)));
        let phrase = |(place, (index, state)): (usize, (usize, ObjectState))| {
            let shape = self.scene.objects[index].shape;
            format!("{number} {} {shape} {}", state.colour, more(place, &state))
        };
        let phrases: Vec<String> = there.enumerate().map(phrase).collect();
        if phrases.is_empty() { format!("{number} nothing") } else { phrases.join(", ") }
    }

    /// What flashes, frame by frame, and then in which order.
    pub(super) fn flashes(&self) -> String {
        let flashing = |frame: usize| {
            let flashes = |states: &Vec<Option<ObjectState>>| {
                states[frame].is_some_and(|state| state.flashing)
            };
            self.states.iter().position(flashes).map(|object| self.name(object))
        };
        let names: Vec<Option<&str>> = (0..self.frames).map(flashing).collect();
        let phrase = |(frame, name): (usize, &Option<&str>)| {
            format!("{} flashing {}", frame + 1, name.unwrap_or("none"))
        };
        let phrases: Vec<String> = names.iter().enumerate().map(phrase).collect();
        let mut order: Vec<&str> = names.into_iter().flatten().collect();
        order.dedup();
        format!("{}. Order {}.", phrases.join(", "), order.join(" then "))
    }

    /// A track and what comes of it: where it starts and ends and which way that is, or each part of
    /// the look before and after, whether they differ, and what change that is.
    pub(super) fn way(&self, name: ObjectRef) -> Option<String> {
        let object = name.resolve(self.scene)?;
        let (first, last) = self.span(object)?;
        let track = self.track(object, name);
        let Object { change, track: motion, .. } = &self.scene.objects[object];
        let Some(change) = change else {
            let (from, to) = (self.look(object, first), self.look(object, last));
            let way = motion.direction().map_or("still".to_owned(), |way| format!("moving {way}"));
            return Some(format!("{track}. From {from} to {to} {way}"));
        };
        let (from, to) = (self.parts(object, first)?, self.parts(object, last)?);
        let compare = |(what, from, to): (&str, &str, &str)| {
            let verdict = if from == to { "same" } else { "differs" };
            format!("{what} {from} then {to} {verdict}")
        };
        let parts = ["Size", "colour", "attitude"].into_iter().zip(from).zip(to);
        let parts: Vec<String> = parts.map(|((what, a), b)| compare((what, a, b))).collect();
        Some(format!("{track}. {}, it {}", parts.join(", "), change.kind))
    }

    /// Size, colour and attitude of an object in a frame.
    fn parts(&self, object: usize, frame: usize) -> Option<[&'static str; 3]> {
        let state = self.states[object][frame]?;
        let attitude = if state.turn > 0.5 { "turned" } else { "upright" };
        Some([Size::of(state.diameter).word(), state.colour.word(), attitude])
    }

    /// Two ways, and which is the faster.
    fn race(&self, a: ObjectRef, b: ObjectRef) -> Option<String> {
        let (one, other) = (a.resolve(self.scene)?, b.resolve(self.scene)?);
        let speed = |object: usize| self.scene.objects[object].track.speed();
        let faster = speed(one) > speed(other);
        let pace = |fast: bool| if fast { "fast" } else { "slow" };
        let (one, other) = (self.way(a)?, self.way(b)?);
        Some(format!("{one} {}. {other} {}.", pace(faster), pace(!faster)))
    }

    /// The one word that names an object in evidence.
    fn name(&self, object: usize) -> &'static str {
        word(ObjectRef::of(&self.scene.objects[object]))
    }

    /// What is seen that bears on `query`, and what follows from it. `None` if the scene or these
    /// frames do not answer.
    pub fn evidence(&self, query: &Query) -> Option<String> {
        Some(format!("{} So {}.", self.seen(query)?, query.answer(self.scene)?))
    }

    /// What is seen that bears on `query`, as short phrases that say the frame, the thing and how it
    /// is.
    pub fn seen(&self, query: &Query) -> Option<String> {
        let answer = query.answer(self.scene)?;
        let find = |name: ObjectRef| name.resolve(self.scene);
        let frame_of = |moment: Moment| match moment {
            Moment::First => 0,
            Moment::Last => self.frames - 1,
        };
        let at = |name: ObjectRef, frame: usize| {
            let place = self.place(find(name)?, frame)?;
            Some(format!("{} {} {place}", frame + 1, word(name)))
        };
        let winner =
            |a: ObjectRef, b: ObjectRef| word(if answer == format!("the {a}") { a } else { b });
        Some(match *query {
            Query::ShapeOf(a) | Query::ColourOf(a) => {
                let (first, _) = self.span(find(a)?)?;
                format!("{} {} {answer}.", first + 1, word(a))
            }
            Query::Count(_, moment) => {
                const NUMBERS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
                let number = |place: usize, _: &ObjectState| NUMBERS[place.min(5)].to_owned();
                format!("{}.", self.shown(frame_of(moment), number))
            }
            Query::Location(a, moment) => format!("{}.", at(a, frame_of(moment))?),
            Query::Relation(a, b, moment) => {
                let frame = frame_of(moment);
                format!("{}, {}.", at(a, frame)?, at(b, frame)?)
            }
            Query::Direction(a) | Query::WhyElsewhere(a) | Query::Change(a) => {
                format!("{}.", self.way(a)?)
            }
            Query::Faster(a, b) => format!("{} Faster {}.", self.race(a, b)?, winner(a, b)),
            Query::Slower(a, b) => format!("{} Slower {}.", self.race(a, b)?, winner(a, b)),
            Query::FlashesFirst(a, b) => format!("{} First {}.", self.flashes(), winner(a, b)),
            Query::FlashesLast(a, b) => format!("{} Last {}.", self.flashes(), winner(a, b)),
            Query::FlashesWhen(..) => self.flashes(),
            Query::Cause(a) => self.cause(find(a)?)?,
        })
    }

    /// How the other object comes up or goes away.
    fn cause(&self, target: usize) -> Option<String> {
        /// Half-way between the distance of a hit and that from which its approach begins.
        const NEAR: f64 = 0.32;
        // Whoever hits it, or else whoever was near it and did not.
        let other = hitter(self.scene, target)
            .or_else(|| self.scene.objects.iter().position(|object| object.role == Role::Hitter))?;
        let (first, last) = self.span(other)?;
        let name = self.name(other);
        let phrase = |frame: usize| {
            let (a, b) = (self.states[other][frame]?, self.states[target][frame]?);
            let gap = self.scene.distance((a.x, a.y), (b.x, b.y));
            Some(format!("{} {name} {}", frame + 1, if gap > NEAR { "far" } else { "near" }))
        };
        let phrases: Vec<String> = (first..=last).map(phrase).collect::<Option<_>>()?;
        Some(format!("{}.", phrases.join(", ")))
    }
}

/// What follows from what is seen, as evidence in this world's words says it: `right` in
/// `From left to right. So right.`
pub fn conclusion(evidence: &str) -> Option<&str> {
    let (_, rest) = evidence.rsplit_once(" So ")?;
    rest.split('.').next().map(str::trim).filter(|words| !words.is_empty())
}

/// The one word of a name that says most.
fn word(name: ObjectRef) -> &'static str {
    match (name.colour, name.shape) {
        (Some(colour), _) => colour.word(),
        (None, Some(shape)) => shape.word(),
        (None, None) => "object",
    }
}
