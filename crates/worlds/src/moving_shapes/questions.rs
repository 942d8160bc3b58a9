//! Questions in words with their answers, for one scene.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use savi_suites::{Format, extract};
use serde::{Deserialize, Serialize};

use super::query::{Family, NOT_HIT, ObjectRef, Query};
use super::scene::{Role, Scene};
use super::vocab::{ChangeKind, Colour, Direction, Moment, Place, Shape, Side};
use super::wording::{self, Opening};

/// A question with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Qa {
    /// What it is about.
    pub family: Family,
    /// The question.
    pub question: String,
    /// What may be chosen from, without letters; `None` for an open question.
    pub options: Option<Vec<String>>,
    /// The true answer; for a choice, the words of the true option.
    pub answer: String,
    /// Whether one frame is not enough to answer.
    pub temporal: bool,
    /// Whether it is about a combination that never occurs in training.
    pub novel: bool,
    /// The question as a value.
    pub query: Query,
}

impl Qa {
    /// What a model should reply: the answer, in a choice the text of the right option.
    pub fn target(&self) -> String {
        self.answer.clone()
    }
}

/// What a method may ask a question to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuestionKind {
    /// It starts with "What".
    What,
    /// It starts with "Why".
    Why,
    /// It starts with "How".
    How,
    /// It is about what one frame shows.
    Spatial,
    /// It is about what happens over time.
    Temporal,
}

impl QuestionKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::What, Self::Why, Self::How, Self::Spatial, Self::Temporal];

    pub(super) fn holds(self, opening: Opening, family: Family) -> bool {
        match self {
            Self::What => opening == Opening::What,
            Self::Why => opening == Opening::Why,
            Self::How => opening == Opening::How,
            Self::Spatial => !family.is_temporal(),
            Self::Temporal => family.is_temporal(),
        }
    }
}

/// Questions about a scene that have an exact answer: at most two of each spatial family and one
/// of each temporal one, half of them open, half multiple-choice, in random order.
pub fn questions(scene: &Scene, rng: &mut impl Rng) -> Vec<Qa> {
    let mut all: Vec<Qa> = queries(scene, rng)
        .into_iter()
        .filter_map(|query| {
            let qa = phrase(scene, &query, rng)?;
            Some(if rng.random() { with_options(scene, qa, rng) } else { qa })
        })
        .collect();
    all.shuffle(rng);
    all
}

/// The truth for a question in words, for example one that a model wrote; `None` if it is not
/// one of this world's questions or the scene does not answer it.
pub fn oracle(scene: &Scene, question: &str) -> Option<Qa> {
    let query = wording::parse(question)?;
    let answer = query.answer(scene)?;
    Some(assemble(scene, query, question.trim().to_owned(), answer))
}

/// Whether a reply says what the answer says, by the rules of the suites.
pub fn is_correct(qa: &Qa, reply: &str) -> bool {
    let format = if qa.options.is_some() { Format::Choice } else { Format::Open };
    let options = qa.options.as_deref().unwrap_or_default();
    extract::grade(format, options, &qa.answer, reply).is_ok_and(|(_, right)| right)
}

fn assemble(scene: &Scene, query: Query, question: String, answer: String) -> Qa {
    let family = query.family();
    let novel = query
        .objects()
        .into_iter()
        .filter_map(|name| name.resolve(scene))
        .any(|index| scene.objects[index].is_novel());
    Qa { family, question, options: None, answer, temporal: family.is_temporal(), novel, query }
}

/// The query in one of its wordings.
pub(super) fn phrase(scene: &Scene, query: &Query, rng: &mut impl Rng) -> Option<Qa> {
    let (_, question) = wording::phrasings(query).choose(rng)?.clone();
    Some(assemble(scene, *query, question, query.answer(scene)?))
}

/// The same question as a choice of up to four.
pub(super) fn with_options(scene: &Scene, mut qa: Qa, rng: &mut impl Rng) -> Qa {
    let mut options = wrong_answers(scene, &qa.query, rng);
    options.truncate(3);
    options.push(qa.answer.clone());
    options.shuffle(rng);
    qa.options = Some(options);
    qa
}

/// Wrong answers that fit the question, the more plausible first: what other objects of the scene
/// suggest comes before the rest of the family's answers.
pub(super) fn wrong_answers(scene: &Scene, query: &Query, rng: &mut impl Rng) -> Vec<String> {
    let Some(truth) = query.answer(scene) else { return Vec::new() };
    let mut wrong: Vec<String> = Vec::new();
    let words = |list: &[&str]| -> Vec<String> { list.iter().map(|w| (*w).to_owned()).collect() };
    let mut rest: Vec<String> = match *query {
        Query::ShapeOf(_) => {
            wrong.extend(scene.objects.iter().map(|object| object.shape.word().to_owned()));
            Shape::ALL.iter().map(|shape| shape.word().to_owned()).collect()
        }
        Query::ColourOf(_) => {
            wrong.extend(scene.objects.iter().map(|object| object.colour.word().to_owned()));
            Colour::ALL.iter().map(|colour| colour.word().to_owned()).collect()
        }
        Query::Count(..) => words(&["1", "2", "3", "4"]),
        Query::Location(..) => Place::ALL.iter().map(|place| place.word().to_owned()).collect(),
        Query::Relation(..) => Side::ALL.iter().map(|side| side.word().to_owned()).collect(),
        Query::Direction(_) => Direction::ALL.iter().map(|way| way.word().to_owned()).collect(),
        Query::WhyElsewhere(_) => {
            Direction::ALL.iter().map(|way| format!("it moves {way}")).collect()
        }
        Query::Faster(a, b)
        | Query::Slower(a, b)
        | Query::FlashesFirst(a, b)
        | Query::FlashesLast(a, b) => vec![format!("the {a}"), format!("the {b}")],
        Query::FlashesWhen(..) => words(&["before", "after"]),
        Query::Change(_) => ChangeKind::ALL.iter().map(|kind| format!("it {kind}")).collect(),
        Query::Cause(_) => {
            wrong.push(NOT_HIT.to_owned());
            let hitters = scene.objects.iter().filter(|object| object.role == Role::Hitter);
            wrong.extend(hitters.map(|o| format!("the {} hits it", ObjectRef::of(o))));
            let others = scene.objects.iter();
            let others = others.filter(|o| !matches!(o.role, Role::Hitter | Role::Target));
            others.map(|object| format!("the {} hits it", ObjectRef::of(object))).collect()
        }
    };
    wrong.shuffle(rng);
    rest.shuffle(rng);
    wrong.extend(rest);
    let mut seen = vec![truth];
    wrong.retain(|answer| {
        let new = !seen.contains(answer);
        if new {
            seen.push(answer.clone());
        }
        new
    });
    wrong
}

/// Shares of counts in scenes as they are drawn; rarer counts are asked for more often, so that
/// the answers come out equally frequent.
const COUNT_SHARES: [f64; 4] = [0.145, 0.385, 0.355, 0.093];

/// Queries that the scene answers, drawn at random within each family, each answer of a family
/// about equally likely.
pub(super) fn queries(scene: &Scene, rng: &mut impl Rng) -> Vec<Query> {
    let with_role = |roles: &[Role]| -> Vec<ObjectRef> {
        let objects = scene.objects.iter().filter(|object| roles.contains(&object.role));
        objects.map(ObjectRef::of).collect()
    };
    let mut drawn = Vec::new();
    let mut take = |mut candidates: Vec<Query>, most: usize, rng: &mut _| {
        candidates.retain(|query: &Query| query.answer(scene).is_some());
        shuffle(&mut candidates, rng);
        drawn.extend(candidates.into_iter().take(most));
    };
    let moments = Moment::ALL;

    let constant: Vec<&_> = scene.objects.iter().filter(|o| o.role != Role::Changer).collect();
    let colours = constant.iter().map(|o| ObjectRef { colour: Some(o.colour), shape: None });
    take(colours.map(Query::ShapeOf).collect(), 2, rng);
    let shapes = constant.iter().map(|o| ObjectRef { colour: None, shape: Some(o.shape) });
    take(shapes.map(Query::ColourOf).collect(), 2, rng);

    let counts = moments.iter().map(|&moment| Query::Count(None, moment));
    let rarest = COUNT_SHARES.iter().copied().fold(1.0, f64::min);
    let kept = counts.filter(|query| {
        let number = query.answer(scene).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let share = number.checked_sub(1).and_then(|n| COUNT_SHARES.get(n));
        share.is_some_and(|share| rng.random_bool((rarest / share).min(1.0)))
    });
    let kept: Vec<Query> = kept.collect();
    take(kept, 1, rng);

    // Hitters and targets keep to certain places, so they are left out where places are asked for.
    let free = with_role(&[Role::Still, Role::Mover, Role::Racer, Role::Changer]);
    let places = free.iter().flat_map(|&a| moments.iter().map(move |&m| Query::Location(a, m)));
    take(places.collect(), 2, rng);
    let mut sides = Vec::new();
    for (i, &a) in free.iter().enumerate() {
        for &b in &free[..i] {
            for &moment in moments {
                let (a, b) = if rng.random() { (a, b) } else { (b, a) };
                sides.push(Query::Relation(a, b, moment));
            }
        }
    }
    take(sides, 1, rng);

    for a in with_role(&[Role::Mover]) {
        // The usual form three times as often.
        let why = rng.random_bool(0.25);
        take(vec![if why { Query::WhyElsewhere(a) } else { Query::Direction(a) }], 1, rng);
    }
    if let Some((a, b)) = pair(with_role(&[Role::Racer]), rng) {
        let faster = rng.random();
        take(vec![if faster { Query::Faster(a, b) } else { Query::Slower(a, b) }], 1, rng);
    }
    let flashing = scene.objects.iter().filter(|object| object.flash.is_some());
    if let Some((a, b)) = pair(flashing.map(ObjectRef::of).collect(), rng) {
        let first = rng.random();
        let order = if first { Query::FlashesFirst(a, b) } else { Query::FlashesLast(a, b) };
        take(vec![order], 1, rng);
        let (a, b) = if rng.random() { (a, b) } else { (b, a) };
        take(vec![Query::FlashesWhen(a, b)], 1, rng);
    }
    take(with_role(&[Role::Changer]).into_iter().map(Query::Change).collect(), 1, rng);
    take(with_role(&[Role::Target]).into_iter().map(Query::Cause).collect(), 1, rng);
    drawn
}

fn shuffle(queries: &mut [Query], rng: &mut impl Rng) {
    queries.shuffle(rng);
}

/// The two objects, in random order.
fn pair(objects: Vec<ObjectRef>, rng: &mut impl Rng) -> Option<(ObjectRef, ObjectRef)> {
    let [a, b] = objects[..] else { return None };
    Some(if rng.random() { (a, b) } else { (b, a) })
}
