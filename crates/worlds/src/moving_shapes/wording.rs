//! Questions in words, and back. One table serves both ways.
//!
//! A template holds slots: `{a}` and `{b}` name objects, `{m}` is `first` or `last`, `{s}` a shape
//! in the plural.

use super::query::{ObjectRef, Query};
use super::vocab::{Colour, Moment, Shape};

/// The first word of a question, for methods that ask for questions by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    What,
    Why,
    How,
    Other,
}

pub(super) struct Template {
    pub(super) opening: Opening,
    pub(super) text: &'static str,
    build: fn(&Slots) -> Option<Query>,
}

/// What the slots of a template hold.
#[derive(Debug, Clone, Copy, Default)]
struct Slots {
    a: Option<ObjectRef>,
    b: Option<ObjectRef>,
    moment: Option<Moment>,
    shape: Option<Shape>,
}

const fn t(opening: Opening, text: &'static str, build: fn(&Slots) -> Option<Query>) -> Template {
    Template { opening, text, build }
}

use Opening::{How, Other, What, Why};

#[rustfmt::skip]
pub(super) static TEMPLATES: [Template; 33] = [
    t(What, "What shape is the {a}?", |s| Some(Query::ShapeOf(s.a?))),
    t(What, "What is the shape of the {a}?", |s| Some(Query::ShapeOf(s.a?))),
    t(What, "What colour is the {a}?", |s| Some(Query::ColourOf(s.a?))),
    t(What, "What is the colour of the {a}?", |s| Some(Query::ColourOf(s.a?))),
    t(How, "How many objects are there in the {m} frame?", |s| Some(Query::Count(None, s.moment?))),
    t(What, "What number of objects is there in the {m} frame?", |s| Some(Query::Count(None, s.moment?))),
    t(How, "How many {s} are there in the {m} frame?", |s| Some(Query::Count(Some(s.shape?), s.moment?))),
    t(Other, "Where is the {a} in the {m} frame?", |s| Some(Query::Location(s.a?, s.moment?))),
    t(What, "What place does the {a} have in the {m} frame?", |s| Some(Query::Location(s.a?, s.moment?))),
    t(Other, "Where is the {a} in the {m} frame, seen from the {b}?", |s| Some(Query::Relation(s.a?, s.b?, s.moment?))),
    t(What, "What side of the {b} is the {a} on in the {m} frame?", |s| Some(Query::Relation(s.a?, s.b?, s.moment?))),
    t(What, "What direction does the {a} move in?", |s| Some(Query::Direction(s.a?))),
    t(Other, "Which way does the {a} move?", |s| Some(Query::Direction(s.a?))),
    t(How, "How does the {a} move?", |s| Some(Query::Direction(s.a?))),
    t(Why, "Why does the {a} not stay in its place?", |s| Some(Query::WhyElsewhere(s.a?))),
    t(What, "What moves faster, the {a} or the {b}?", |s| Some(Query::Faster(s.a?, s.b?))),
    t(Other, "Which moves faster, the {a} or the {b}?", |s| Some(Query::Faster(s.a?, s.b?))),
    t(What, "What moves slower, the {a} or the {b}?", |s| Some(Query::Slower(s.a?, s.b?))),
    t(Other, "Which moves slower, the {a} or the {b}?", |s| Some(Query::Slower(s.a?, s.b?))),
    t(What, "What flashes first, the {a} or the {b}?", |s| Some(Query::FlashesFirst(s.a?, s.b?))),
    t(Other, "Which flashes first, the {a} or the {b}?", |s| Some(Query::FlashesFirst(s.a?, s.b?))),
    t(What, "What flashes last, the {a} or the {b}?", |s| Some(Query::FlashesLast(s.a?, s.b?))),
    t(Other, "Which flashes last, the {a} or the {b}?", |s| Some(Query::FlashesLast(s.a?, s.b?))),
    t(Other, "Does the {a} flash before or after the {b}?", |s| Some(Query::FlashesWhen(s.a?, s.b?))),
    t(Other, "When does the {a} flash, before or after the {b}?", |s| Some(Query::FlashesWhen(s.a?, s.b?))),
    t(How, "How does the {a} change?", |s| Some(Query::Change(s.a?))),
    t(What, "What happens to the {a}?", |s| Some(Query::Change(s.a?))),
    t(What, "What change does the {a} go through?", |s| Some(Query::Change(s.a?))),
    t(Why, "Why does the {a} look different later?", |s| Some(Query::Change(s.a?))),
    t(Why, "Why does the {a} start to move?", |s| Some(Query::Cause(s.a?))),
    t(Why, "Why does the {a} not stay where it is?", |s| Some(Query::Cause(s.a?))),
    t(What, "What makes the {a} move?", |s| Some(Query::Cause(s.a?))),
    t(What, "What is the reason that the {a} starts to move?", |s| Some(Query::Cause(s.a?))),
];

/// The templates that ask `query`, with the words filled in.
pub(super) fn phrasings(query: &Query) -> Vec<(Opening, String)> {
    TEMPLATES
        .iter()
        .filter_map(|template| {
            let slots = slots(query);
            ((template.build)(&slots).as_ref() == Some(query) && fits(template, &slots))
                .then(|| (template.opening, fill(template.text, &slots)))
        })
        .collect()
}

/// The query that a question asks, whatever its case and punctuation.
pub(super) fn parse(question: &str) -> Option<Query> {
    let words = tokens(question);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    TEMPLATES.iter().find_map(|template| {
        let pattern = tokens(template.text);
        let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
        (template.build)(&matched(&pattern, &words, Slots::default())?)
    })
}

fn slots(query: &Query) -> Slots {
    let names = query.objects();
    let (moment, shape) = match *query {
        Query::Count(shape, moment) => (Some(moment), shape),
        Query::Location(_, moment) | Query::Relation(_, _, moment) => (Some(moment), None),
        _ => (None, None),
    };
    Slots { a: names.first().copied(), b: names.get(1).copied(), moment, shape }
}

/// Whether a template has a slot for everything that is to be said.
fn fits(template: &Template, slots: &Slots) -> bool {
    template.text.contains("{s}") == slots.shape.is_some()
}

fn fill(text: &str, slots: &Slots) -> String {
    let mut text = text.to_owned();
    if let Some(a) = slots.a {
        text = text.replace("{a}", &a.to_string());
    }
    if let Some(b) = slots.b {
        text = text.replace("{b}", &b.to_string());
    }
    if let Some(moment) = slots.moment {
        text = text.replace("{m}", moment.word());
    }
    if let Some(shape) = slots.shape {
        text = text.replace("{s}", &plural(shape));
    }
    text
}

pub(super) fn plural(shape: Shape) -> String {
    match shape {
        Shape::Cross => "crosses".to_owned(),
        other => format!("{other}s"),
    }
}

/// Lower-case words without punctuation; slots stay as they are.
pub(super) fn tokens(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_alphanumeric() || c == '{' || c == '}'))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn matched(pattern: &[&str], words: &[&str], mut slots: Slots) -> Option<Slots> {
    let Some((&head, pattern)) = pattern.split_first() else {
        return words.is_empty().then_some(slots);
    };
    match head {
        "{a}" | "{b}" => {
            let (name, used) = object(words)?;
            if head == "{a}" {
                slots.a = Some(name)
            } else {
                slots.b = Some(name)
            }
            matched(pattern, &words[used..], slots)
        }
        "{m}" => {
            slots.moment = Some(Moment::parse(words.first()?)?);
            matched(pattern, &words[1..], slots)
        }
        "{s}" => {
            let word = words.first()?;
            slots.shape = Some(*Shape::ALL.iter().find(|shape| plural(**shape) == *word)?);
            matched(pattern, &words[1..], slots)
        }
        literal => {
            (words.first() == Some(&literal)).then_some(())?;
            matched(pattern, &words[1..], slots)
        }
    }
}

/// An object's name at the start of `words`, and how many words it takes.
fn object(words: &[&str]) -> Option<(ObjectRef, usize)> {
    let first = words.first()?;
    if let Some(colour) = Colour::parse(first) {
        let second = words.get(1)?;
        let shape = Shape::parse(second);
        return (shape.is_some() || *second == "object")
            .then_some((ObjectRef { colour: Some(colour), shape }, 2));
    }
    let shape = Shape::parse(first)?;
    Some((ObjectRef { colour: None, shape: Some(shape) }, 1))
}
