//! Stories around sums.

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::problem::{Event, Query};

/// People of the world.
pub(super) const PEOPLE: [&str; 16] = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ida", "Jon", "Kim", "Lea", "Max",
    "Nia", "Omar", "Pia",
];
/// Things that are counted.
pub(super) const THINGS: [&str; 14] = [
    "apples", "books", "coins", "stamps", "marbles", "pencils", "shells", "cards", "beads",
    "buttons", "eggs", "flowers", "stones", "tickets",
];

const OPENINGS: [&str; 4] = [
    "{p} has {n} {t}.",
    "At first {p} has {n} {t}.",
    "There are {n} {t} on the table of {p}.",
    "{p} begins with {n} {t}.",
];
const GAIN: [&str; 4] = [
    "{p} buys {n} more {t}.",
    "Then {p} finds {n} {t}.",
    "{q} gives {p} {n} {t}.",
    "{p} gets {n} {t} as a present.",
];
const LOSE: [&str; 4] = [
    "{p} gives {n} {t} to {q}.",
    "Then {p} loses {n} {t}.",
    "{p} sells {n} {t}.",
    "{q} takes {n} of the {t} away.",
];
const GROW: [&str; 3] = [
    "After a good week {p} has {n} times as many {t}.",
    "The number of {t} grows to {n} times what it was.",
    "Then the {t} become {n} times as many.",
];
const SHARE: [&str; 3] = [
    "{p} splits the {t} into {n} equal piles and keeps one pile.",
    "The {t} are shared equally among {n} people, and {p} keeps one share.",
    "{p} makes {n} equal parts of the {t} and keeps only one part.",
];
const GAIN_PACKS: [&str; 3] = [
    "{p} buys {k} bags with {n} {t} each.",
    "{k} friends bring {p} {n} {t} each.",
    "Then {p} gets {k} boxes of {n} {t}.",
];
const LOSE_PACKS: [&str; 3] = [
    "{p} gives {n} {t} to each of {k} friends.",
    "{p} sells {k} bags with {n} {t} each.",
    "On each of {k} days {p} loses {n} {t}.",
];
const END: [&str; 3] = [
    "How many {t} does {p} have in the end?",
    "How many {t} are left with {p}?",
    "How many {t} does {p} have now?",
];
const GAINED: [&str; 2] = [
    "How many {t} has {p} got after the start, all together?",
    "Without the first ones, how many {t} came to {p} in all?",
];
const LOST: [&str; 2] =
    ["How many {t} has {p} parted with, all together?", "How many {t} went away from {p} in all?"];

/// A problem in words.
pub(super) struct Story {
    pub(super) story: String,
    pub(super) question: String,
    pub(super) person: String,
    pub(super) thing: String,
}

pub(super) fn pick<'a>(from: &[&'a str], rng: &mut ChaCha8Rng) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

/// Tells what happens and asks about it.
pub(super) fn tell(start: i64, events: &[Event], query: Query, rng: &mut ChaCha8Rng) -> Story {
    let person = pick(&PEOPLE, rng);
    let others: Vec<&str> = PEOPLE.into_iter().filter(|name| *name != person).collect();
    let thing = pick(&THINGS, rng);
    let mut say = |templates: &[&str], n: i64, k: i64| {
        pick(templates, rng)
            .replace("{p}", person)
            .replace("{q}", pick(&others, rng))
            .replace("{t}", thing)
            .replace("{n}", &n.to_string())
            .replace("{k}", &k.to_string())
    };
    let mut sentences = vec![say(&OPENINGS, start, 0)];
    sentences.extend(events.iter().map(|&event| match event {
        Event::Gain(n) => say(&GAIN, n, 0),
        Event::Lose(n) => say(&LOSE, n, 0),
        Event::Grow(n) => say(&GROW, n, 0),
        Event::Share(n) => say(&SHARE, n, 0),
        Event::GainPacks(k, n) => say(&GAIN_PACKS, n, k),
        Event::LosePacks(k, n) => say(&LOSE_PACKS, n, k),
    }));
    let question = match query {
        Query::End => say(&END, 0, 0),
        Query::Gained => say(&GAINED, 0, 0),
        Query::Lost => say(&LOST, 0, 0),
    };
    let (person, thing) = (person.to_owned(), thing.to_owned());
    Story { story: sentences.join(" "), question, person, thing }
}
