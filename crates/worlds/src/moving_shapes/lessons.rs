//! What a small model learns from one clip: descriptions, single-frame readings, questions,
//! answers, critiques, revisions and judgements, in words.
//!
//! Answers, critiques and revisions come in equal numbers and about the same questions, so that
//! no skill is held back from one of them. Critiques and judgements state what is seen first, in
//! short phrases that name frame and thing, and what follows from it; the verdict comes last. The
//! families in [`UNCRITICISED`] are answered (now and then after what is seen, as all are) but never
//! asked for, criticised, revised or judged; combinations that the training split leaves out never
//! occur.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use savi_judge::critique::{self, Critique, Verdict};
use savi_judge::listwise::{self, Listwise, Scores};
use savi_schema::{CountRule, MediaPolicy};

use super::evidence::Observed;
use super::query::{Family, ObjectRef, Query};
use super::questions::{Qa, QuestionKind, phrase, queries, with_options, wrong_answers};
use super::scene::{ObjectState, Role, Scene};
use super::vocab::{Direction, Place};
use super::wording::phrasings;

/// Families that are answered but never asked for, and for which no critique, revision or judgement
/// is supervised: a spatial and a temporal one.
pub const UNCRITICISED: [Family; 2] = [Family::Relation, Family::BeforeAfter];

/// One thing to learn from a clip. Words only: prompts are the methods' own.
#[derive(Debug, Clone, PartialEq)]
pub enum Lesson {
    /// Describe the clip.
    Describe {
        /// The description.
        target: String,
    },
    /// Say what one frame shows.
    Locate {
        /// The question.
        question: String,
        /// Its answer.
        answer: String,
    },
    /// Say where or how one thing is in every frame, and what comes of it.
    Track {
        /// The question.
        question: String,
        /// Its answer: as many phrases as frames, and a summary.
        answer: String,
    },
    /// Ask a question of a kind.
    Ask {
        /// Which kind.
        kind: QuestionKind,
        /// A description of the clip to go by, if there is one.
        caption: Option<String>,
        /// The question.
        target: String,
    },
    /// Answer a question.
    Answer {
        /// The question with its answer.
        qa: Qa,
        /// The answer: [`Qa::target`], now and then after what is seen.
        target: String,
    },
    /// Say what is seen and whether an answer is right.
    Critique {
        /// The question, always an open one.
        qa: Qa,
        /// The answer to criticise.
        answer: String,
        /// The critique.
        target: String,
    },
    /// Answer again, given an answer and its critique: what is seen first, then the answer.
    Revise {
        /// The question, always an open one.
        qa: Qa,
        /// The answer that was criticised.
        answer: String,
        /// Its critique.
        critique: String,
        /// The new answer.
        target: String,
    },
    /// Score candidate answers.
    Judge {
        /// The question, always an open one.
        qa: Qa,
        /// The candidates, in the order of their letters.
        candidates: Vec<String>,
        /// The judgement.
        target: String,
    },
}

/// How many lessons of each kind a clip gives.
#[derive(Debug, Clone, PartialEq)]
pub struct LessonPlan {
    /// The frames that the learner sees; lessons speak of them by number, from 1.
    pub policy: MediaPolicy,
    /// Descriptions: 0 or 1.
    pub descriptions: usize,
    /// Single-frame readings.
    pub readings: usize,
    /// Things that are followed through all frames.
    pub tracks: usize,
    /// Questions to ask, of each kind at most one.
    pub asks: usize,
    /// Share of them that go by a description of the clip.
    pub caption_share: f64,
    /// Answers; as many critiques and as many revisions come with them.
    pub answers: usize,
    /// Answers of families in [`UNCRITICISED`], at most.
    pub uncriticised_answers: usize,
    /// Judgements.
    pub judgements: usize,
    /// Candidates of a judgement.
    pub candidates: usize,
    /// Share of answers to choices rather than to open questions.
    pub choice_share: f64,
    /// Share of answers that say what is seen first, as revisions do.
    pub grounded_share: f64,
}

impl Default for LessonPlan {
    fn default() -> Self {
        Self {
            policy: MediaPolicy::count(8, CountRule::MidSegment),
            descriptions: 1,
            readings: 6,
            tracks: 0,
            asks: 5,
            caption_share: 0.5,
            answers: 6,
            uncriticised_answers: 2,
            judgements: 1,
            candidates: 5,
            choice_share: 0.35,
            grounded_share: 0.2,
        }
    }
}

/// The lessons of one clip.
pub fn lessons(scene: &Scene, rng: &mut impl Rng, plan: &LessonPlan) -> Vec<Lesson> {
    let seen = Observed::new(scene, &plan.policy);
    let mut lessons = Vec::new();
    let description = describe(&seen);
    if plan.descriptions > 0 {
        lessons.push(Lesson::Describe { target: description.clone() });
    }
    lessons.extend(readings(&seen, rng, plan.readings));
    lessons.extend(tracks(&seen, rng, plan.tracks));

    let mut asked = queries(scene, rng);
    asked.shuffle(rng);
    let (spared, taught): (Vec<Query>, Vec<Query>) =
        asked.into_iter().partition(|query| UNCRITICISED.contains(&query.family()));
    for (kind, target) in asks(scene, &taught, rng, plan.asks) {
        let caption = rng.random_bool(plan.caption_share).then(|| description.clone());
        lessons.push(Lesson::Ask { kind, caption, target });
    }

    // Half of them about time, which is harder.
    let (over_time, at_once): (Vec<Query>, Vec<Query>) =
        taught.into_iter().partition(|query| query.family().is_temporal());
    let (first, rest) = over_time.split_at(plan.answers.div_ceil(2).min(over_time.len()));
    let mut taught = [first, &at_once, rest].concat();
    taught.truncate(plan.answers);
    for query in spared.iter().take(plan.uncriticised_answers).chain(&taught) {
        if let Some(qa) = phrase(scene, query, rng) {
            let choice = rng.random_bool(plan.choice_share);
            let qa = if choice { with_options(scene, qa, rng) } else { qa };
            let told = rng.random_bool(plan.grounded_share);
            let target = grounded(&seen, &qa).filter(|_| told).unwrap_or_else(|| qa.target());
            lessons.push(Lesson::Answer { qa, target });
        }
    }
    for query in &taught {
        lessons.extend(critique(&seen, query, rng));
        lessons.extend(revision(&seen, query, rng));
    }
    for query in taught.choose_multiple(rng, plan.judgements) {
        lessons.extend(judgement(&seen, query, rng, plan.candidates));
    }
    lessons
}

/// Every object, in the order of the colours: how it looks, where it is, and what it does, by name
/// again, because questions about it are made of these words.
fn describe(seen: &Observed<'_>) -> String {
    let phrase = |index: usize| {
        let object = &seen.scene.objects[index];
        let name = ObjectRef::of(object);
        let head = format!("{} {} {}", object.colour, object.texture, object.shape);
        let way = object.track.direction().map_or("", Direction::word);
        let does = match (object.role, &object.change) {
            (Role::Still, _) => match seen.flash(index) {
                Some(frame) => format!("{}, the {name} flashes {}", seen.look(index, 0), frame + 1),
                None => seen.look(index, 0),
            },
            (_, Some(change)) => format!("{}, the {name} {}", seen.track(index, name), change.kind),
            (Role::Target, _) => {
                format!("{}, the {name} starts to move {way}", seen.track(index, name))
            }
            _ => {
                let pace = if object.track.speed() > 1.0 { "fast" } else { "slow" };
                format!("{}, the {name} moves {way} {pace}", seen.track(index, name))
            }
        };
        format!("{head}: {does}.")
    };
    seen.listing().into_iter().map(phrase).collect::<Vec<_>>().join(" ")
}

/// Questions about single frames: what it shows, where a thing is, what its shape or colour is, how
/// a changing thing looks; and which frame it is in which a thing flashes, comes or goes, and where
/// or how it then is.
fn readings(seen: &Observed<'_>, rng: &mut impl Rng, count: usize) -> Vec<Lesson> {
    let objects = &seen.scene.objects;
    let reading = |i: usize, rng: &mut dyn rand::RngCore| {
        let frame = rng.random_range(0..seen.frames);
        let object = rng.random_range(0..objects.len());
        let (name, number) = (ObjectRef::of(&objects[object]), frame + 1);
        let state = seen.states[object][frame].as_ref();
        if i.is_multiple_of(3) {
            return (format!("What does frame {number} show?"), list(seen, frame));
        }
        if i % 3 == 1
            && let Some(span) = seen.span(object)
        {
            return moment(seen, object, span, rng);
        }
        // What is there alone of its colour or shape can be named by it.
        let visible = || (0..objects.len()).filter_map(|o| Some((o, seen.states[o][frame]?)));
        let alone = |same: &dyn Fn(usize, ObjectState) -> bool| {
            visible().filter(|&(o, s)| same(o, s)).count() == 1
        };
        let shape = objects[object].shape;
        match state {
            Some(now) if rng.random_bool(0.3) && alone(&|_, s| s.colour == now.colour) => {
                let question = format!("What shape is the {} thing in frame {number}?", now.colour);
                (question, shape.word().to_owned())
            }
            Some(now) if rng.random_bool(0.4) && alone(&|o, _| objects[o].shape == shape) => {
                let question = format!("What colour is the {shape} in frame {number}?");
                (question, now.colour.word().to_owned())
            }
            _ => {
                let question = match objects[object].change {
                    Some(_) => format!("How does the {name} look in frame {number}?"),
                    None => format!("Where is the {name} in frame {number}?"),
                };
                (question, seen.look(object, frame))
            }
        }
    };
    (0..count)
        .map(|i| {
            let (question, answer) = reading(i, rng);
            Lesson::Locate { question, answer }
        })
        .collect()
}

/// A question about the one frame in which a thing flashes, or the first or last that shows it.
fn moment(
    seen: &Observed<'_>,
    object: usize,
    (first, last): (usize, usize),
    rng: &mut dyn rand::RngCore,
) -> (String, String) {
    let name = ObjectRef::of(&seen.scene.objects[object]);
    if let (Some(frame), true) = (seen.flash(object), rng.random_bool(0.7)) {
        return (format!("In which frame does the {name} flash?"), (frame + 1).to_string());
    }
    let (frame, which) = if rng.random() { (first, "first") } else { (last, "last") };
    match seen.scene.objects[object].change {
        _ if rng.random_bool(0.3) => {
            (format!("In which frame is the {name} seen {which}?"), (frame + 1).to_string())
        }
        Some(_) => {
            (format!("How does the {name} look when seen {which}?"), seen.look(object, frame))
        }
        None => (format!("Where is the {name} when seen {which}?"), seen.look(object, frame)),
    }
}

/// One thing frame by frame, by its colour or its shape, or what flashes: what is learnt from it is
/// to tell the frames apart.
fn tracks(seen: &Observed<'_>, rng: &mut impl Rng, count: usize) -> Vec<Lesson> {
    let objects = &seen.scene.objects;
    let flashes = objects.iter().any(|object| object.flash.is_some());
    let of_object = |index: usize, by_shape: bool| {
        let Some(object) = objects.get(index) else {
            let question = "What is flashing in every frame?".to_owned();
            return Some(Lesson::Track { question, answer: seen.flashes() });
        };
        let shape = ObjectRef { colour: None, shape: Some(object.shape) };
        let alone = shape.resolve(seen.scene).is_some();
        let name = if alone && by_shape { shape } else { ObjectRef::of(object) };
        let question = match object.change {
            Some(_) => format!("How does the {name} look in every frame?"),
            None => format!("Where is the {name} in every frame?"),
        };
        Some(Lesson::Track { question, answer: format!("{}.", seen.way(name)?) })
    };
    let all = objects.len() + usize::from(flashes);
    let chosen = rand::seq::index::sample(rng, all, count.min(all));
    chosen.into_iter().filter_map(|index| of_object(index, rng.random())).collect()
}

fn list(seen: &Observed<'_>, frame: usize) -> String {
    seen.shown(frame, |_, state| {
        let flash = if state.flashing { " flashing" } else { "" };
        format!("{}{flash}", Place::at(state.x, state.y))
    })
}

/// One question of each kind that the scene answers.
fn asks(
    scene: &Scene,
    asked: &[Query],
    rng: &mut impl Rng,
    count: usize,
) -> Vec<(QuestionKind, String)> {
    // Racers are not asked about singly, but why they are elsewhere is a fair question.
    let racers = scene.objects.iter().filter(|object| object.role == Role::Racer);
    let extra = racers.map(|object| Query::WhyElsewhere(ObjectRef::of(object)));
    let movers = scene.objects.iter().filter(|object| object.role == Role::Mover);
    let extra = extra.chain(movers.map(|o| Query::WhyElsewhere(ObjectRef::of(o))));
    let pool: Vec<Query> = asked.iter().copied().chain(extra).collect();
    let mut kinds = QuestionKind::ALL;
    kinds.shuffle(rng);
    kinds
        .into_iter()
        .take(count)
        .filter_map(|kind| {
            let fitting: Vec<Vec<String>> = pool
                .iter()
                .map(|query| {
                    phrasings(query)
                        .into_iter()
                        .filter(|(opening, _)| kind.holds(*opening, query.family()))
                        .map(|(_, text)| text)
                        .collect::<Vec<_>>()
                })
                .filter(|texts| !texts.is_empty())
                .collect();
            Some((kind, fitting.choose(rng)?.choose(rng)?.clone()))
        })
        .collect()
}

/// A wrong answer that no blind rule tells from a right one.
fn wrong_answer(scene: &Scene, query: &Query, rng: &mut impl Rng) -> Option<String> {
    let wrong = wrong_answers(scene, query, rng);
    match query {
        // Objects that never take part in a hit would give themselves away.
        Query::Cause(_) => wrong.first().cloned(),
        _ if rng.random() => wrong.first().cloned(),
        _ => wrong.choose(rng).cloned(),
    }
}

/// A right and a wrong answer are equally likely.
fn answer_to_criticise(seen: &Observed<'_>, qa: &Qa, rng: &mut impl Rng) -> Option<String> {
    if rng.random() { Some(qa.answer.clone()) } else { wrong_answer(seen.scene, &qa.query, rng) }
}

fn critique_text(seen: &Observed<'_>, qa: &Qa, answer: &str) -> Option<String> {
    let verdict = if answer == qa.answer { Verdict::Right } else { Verdict::Wrong };
    // What follows and what was answered stand side by side.
    let evidence = format!("{} Answered {answer}.", seen.evidence(&qa.query)?);
    Some(critique::format(&Critique { evidence, verdict }))
}

/// What is seen, and then the answer.
fn grounded(seen: &Observed<'_>, qa: &Qa) -> Option<String> {
    Some(format!("{} Answer: {}", seen.seen(&qa.query)?, qa.target()))
}

fn critique(seen: &Observed<'_>, query: &Query, rng: &mut impl Rng) -> Option<Lesson> {
    let qa = phrase(seen.scene, query, rng)?;
    let answer = answer_to_criticise(seen, &qa, rng)?;
    let target = critique_text(seen, &qa, &answer)?;
    Some(Lesson::Critique { qa, answer, target })
}

fn revision(seen: &Observed<'_>, query: &Query, rng: &mut impl Rng) -> Option<Lesson> {
    let qa = phrase(seen.scene, query, rng)?;
    let answer = answer_to_criticise(seen, &qa, rng)?;
    let critique = critique_text(seen, &qa, &answer)?;
    let target = grounded(seen, &qa)?;
    Some(Lesson::Revise { qa, answer, critique, target })
}

/// Candidates as a model of unknown skill would give them: the right answer with one of several
/// shares, one or two wrong ones, repeats, and now and then one that answers something else.
fn judgement(
    seen: &Observed<'_>,
    query: &Query,
    rng: &mut impl Rng,
    count: usize,
) -> Option<Lesson> {
    let qa = phrase(seen.scene, query, rng)?;
    let share = *[0.2, 0.5, 0.8].choose(rng)?;
    let wrong = [wrong_answer(seen.scene, query, rng)?, wrong_answer(seen.scene, query, rng)?];
    let candidates: Vec<String> = (0..count)
        .map(|_| {
            if rng.random_bool(0.06) {
                off_topic(seen.scene, &qa, rng)
            } else if rng.random_bool(share) {
                qa.answer.clone()
            } else {
                wrong[rng.random_range(0..wrong.len())].clone()
            }
        })
        .collect();
    let scores = candidates.iter().map(|candidate| score(&qa, candidate)).collect();
    let evidence = seen.evidence(query)?;
    let target = listwise::format(&Listwise { evidence, scores });
    Some(Lesson::Judge { qa, candidates, target })
}

/// An answer to a question of another family.
fn off_topic(scene: &Scene, qa: &Qa, rng: &mut impl Rng) -> String {
    let other = queries(scene, rng)
        .into_iter()
        .filter(|query| scores_as_off_topic(qa.family, query.family()))
        .find_map(|query| query.answer(scene));
    other.unwrap_or_else(|| qa.answer.clone())
}

/// Families whose answers cannot be taken for each other's.
fn scores_as_off_topic(asked: Family, answered: Family) -> bool {
    use Family::{BeforeAfter, Count, Direction, Location, Order, Relation, Speed};
    let group = |family: Family| match family {
        Location | Relation | Direction => 0,
        Speed | Order => 1,
        BeforeAfter => 2,
        Count => 3,
        other => 4 + other as u8,
    };
    group(asked) != group(answered)
}

/// The scores that follow from what is seen.
fn score(qa: &Qa, candidate: &str) -> Scores {
    if candidate == qa.answer {
        return Scores::from_array([5, 5, 5, 5]);
    }
    if !is_on_topic(qa, candidate) {
        return Scores::from_array([1, 1, 1, 5]);
    }
    let near = match qa.family {
        Family::Count => match (candidate.parse::<i32>(), qa.answer.parse::<i32>()) {
            (Ok(a), Ok(b)) => (a - b).abs() == 1,
            _ => false,
        },
        Family::Location => match (Place::parse(candidate), Place::parse(&qa.answer)) {
            (Some(a), Some(b)) => a.touches(b),
            _ => false,
        },
        _ => false,
    };
    let grounding = if qa.temporal { 1 } else { 3 };
    Scores::from_array([5, if near { 2 } else { 1 }, grounding, 5])
}

/// Whether a candidate is one of the answers that the question can have.
fn is_on_topic(qa: &Qa, candidate: &str) -> bool {
    use super::vocab::{ChangeKind, Colour, Shape, Side};
    match qa.query {
        Query::ShapeOf(_) => Shape::parse(candidate).is_some(),
        Query::ColourOf(_) => Colour::parse(candidate).is_some(),
        Query::Count(..) => candidate.parse::<u32>().is_ok(),
        Query::Location(..) => Place::parse(candidate).is_some(),
        Query::Relation(..) => Side::parse(candidate).is_some(),
        Query::Direction(_) => Direction::parse(candidate).is_some(),
        Query::WhyElsewhere(_) => candidate.starts_with("it moves "),
        Query::Faster(a, b)
        | Query::Slower(a, b)
        | Query::FlashesFirst(a, b)
        | Query::FlashesLast(a, b) => [a, b].iter().any(|name| candidate == format!("the {name}")),
        Query::FlashesWhen(..) => matches!(candidate, "before" | "after"),
        Query::Change(_) => {
            candidate.strip_prefix("it ").is_some_and(|kind| ChangeKind::parse(kind).is_some())
        }
        Query::Cause(_) => candidate.ends_with("hits it"),
    }
}
