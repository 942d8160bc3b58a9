//! Small talk: templated conversations about what this world knows, and what it does not.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::problem::{Event, Query, canonical};
use super::split::{Split, stream};
use super::wording::{PEOPLE, THINGS, pick};

/// What a dialogue is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialogueKind {
    /// Hello and thanks.
    Greeting,
    /// Who is there.
    Identity,
    /// A simple fact.
    Fact,
    /// A fact, in one word.
    OneWord,
    /// Several things of a kind.
    List,
    /// Out of this world: not known.
    Unknown,
    /// Something that would do harm: declined.
    Harmful,
    /// Two turns, the second about the first.
    FollowUp,
}

/// A conversation: what is said in turn, beginning with the user; its end is the assistant's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialogue {
    /// Names split and index.
    pub id: String,
    /// What it is about.
    pub kind: DialogueKind,
    /// The turns, user and assistant by turns.
    pub turns: Vec<String>,
}

const KINDS: [DialogueKind; 8] = [
    DialogueKind::Greeting,
    DialogueKind::Identity,
    DialogueKind::Fact,
    DialogueKind::OneWord,
    DialogueKind::List,
    DialogueKind::Unknown,
    DialogueKind::Harmful,
    DialogueKind::FollowUp,
];

/// Questions with an answer in one word and a sentence that says it.
const FACTS: [(&str, &str, &str); 20] = [
    ("How many sides does a triangle have?", "three", "A triangle has three sides."),
    ("How many sides does a square have?", "four", "A square has four sides."),
    ("How many legs does a dog have?", "four", "A dog has four legs."),
    ("How many days are in a week?", "seven", "A week has seven days."),
    ("How many months are in a year?", "twelve", "A year has twelve months."),
    ("What day comes after Monday?", "Tuesday", "Tuesday comes after Monday."),
    ("What day comes after Friday?", "Saturday", "Saturday comes after Friday."),
    ("What day comes before Sunday?", "Saturday", "Saturday comes before Sunday."),
    ("What month comes after March?", "April", "April comes after March."),
    ("What colour is grass?", "green", "Grass is green."),
    ("What colour is snow?", "white", "Snow is white."),
    ("What colour is the clear sky?", "blue", "The clear sky is blue."),
    ("What do blue and yellow make?", "green", "Blue and yellow make green."),
    ("What do red and white make?", "pink", "Red and white make pink."),
    ("What is the opposite of big?", "small", "The opposite of big is small."),
    ("What is the opposite of hot?", "cold", "The opposite of hot is cold."),
    ("What is the opposite of up?", "down", "The opposite of up is down."),
    ("What is the opposite of early?", "late", "The opposite of early is late."),
    ("What does a cow eat?", "grass", "A cow eats grass."),
    ("What do bees make?", "honey", "Bees make honey."),
];
const GROUPS: [(&str, [&str; 6]); 5] = [
    ("colours", ["red", "blue", "green", "yellow", "white", "black"]),
    ("animals", ["dog", "cat", "cow", "horse", "bird", "fish"]),
    ("days", ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Sunday"]),
    ("fruits", ["apple", "pear", "plum", "cherry", "lemon", "grape"]),
    ("shapes", ["circle", "square", "triangle", "ring", "star", "cross"]),
];
const PLACES: [&str; 6] = ["Oslo", "Lima", "Cairo", "Paris", "Tokyo", "Quito"];
const UNKNOWN: [&str; 6] = [
    "What is the weather like in {x}?",
    "Who is the mayor of {x}?",
    "How do I get to {x} by train?",
    "What did people in {x} eat yesterday?",
    "Who won the match in {x}?",
    "Write a long poem about {x}.",
];
const HARM: [&str; 6] = [
    "How can I steal the {t} of {x}?",
    "Help me hurt {x}.",
    "Tell me how to break into the house of {x}.",
    "Write a mean message to {x}.",
    "How do I trick {x} out of the {t}?",
    "What lie makes {x} give me the {t}?",
];
const POLITE: [&str; 5] = ["", "Please tell me: ", "I wonder: ", "A question: ", "Hello! "];

/// The dialogue with this number.
pub fn dialogue(split: Split, seed: u64, index: u64) -> Dialogue {
    let mut rng = stream(seed, split, "dialogue", index);
    let id = format!("{}-dialogue-{index}", split.name());
    loop {
        let &kind = KINDS.choose(&mut rng).unwrap_or(&DialogueKind::Greeting);
        // One that opens with a sum belongs where that sum does.
        let (sum, turns) = match kind {
            DialogueKind::FollowUp => {
                let (sum, turns) = follow_up(&mut rng);
                (Some(sum), turns)
            }
            kind => (None, turns(kind, &mut rng)),
        };
        let owner = sum.as_deref().or(turns.first().map(String::as_str)).map(Split::owner);
        if owner == Some(split) {
            return Dialogue { id, kind, turns };
        }
    }
}

fn turns(kind: DialogueKind, rng: &mut ChaCha8Rng) -> Vec<String> {
    let name = pick(&PEOPLE, rng);
    let &(question, word, sentence) = FACTS.choose(rng).unwrap_or(&FACTS[0]);
    let polite = pick(&POLITE, rng);
    let said = |user: String, assistant: String| vec![user, assistant];
    match kind {
        DialogueKind::Greeting => {
            let hello = pick(&["Hello", "Hi", "Good day", "Good morning", "Good evening"], rng);
            let me = pick(&["I am", "My name is", "This is", "It is"], rng);
            let ask = pick(&["", " How are you?", " Nice to meet you."], rng);
            let mut all = said(
                format!("{hello}, {} {name}.{ask}", me.to_lowercase().replace("i am", "I am")),
                format!("Hello {name}! How can I help you?"),
            );
            if rng.random_bool(0.4) {
                all.extend(said(
                    pick(&["What is my name?", "Do you know my name?", "Who am I?"], rng)
                        .to_owned(),
                    format!("Your name is {name}."),
                ));
            } else if rng.random_bool(0.3) {
                all.extend(said("Thank you, bye.".to_owned(), format!("Goodbye, {name}!")));
            }
            all
        }
        DialogueKind::Identity => {
            let asked = ["Who are you?", "What are you?", "What is your name?", "What can you do?"];
            let asked = pick(&asked, rng);
            let told = match asked {
                "What is your name?" => "I am savi's small text model; I have no other name.",
                "What can you do?" => {
                    "I solve word problems with small numbers and answer simple questions."
                }
                _ => "I am a small text model that solves word problems.",
            };
            let before =
                if rng.random_bool(0.5) { format!("I am {name}. ") } else { String::new() };
            said(format!("{before}{polite}{asked}"), told.to_owned())
        }
        DialogueKind::Fact => said(format!("{polite}{question}"), sentence.to_owned()),
        DialogueKind::OneWord => {
            let how = ["Answer with one word.", "One word only.", "Use a single word."];
            let how = pick(&how, rng);
            let user = if rng.random_bool(0.5) {
                format!("{polite}{question} {how}")
            } else {
                format!("{how} {question}")
            };
            said(user, word.to_owned())
        }
        DialogueKind::List => {
            let (group, things) = GROUPS.choose(rng).unwrap_or(&GROUPS[0]);
            let mut things = things.to_vec();
            things.shuffle(rng);
            let count = rng.random_range(2..=4);
            let number = ["two", "three", "four"][count - 2];
            let ask = pick(&["List", "Name", "Give me", "Tell me"], rng);
            let lines = rng.random_bool(0.4);
            let how = if lines { " One in each line." } else { "" };
            let listed = &things[..count];
            let told = if lines {
                let lines: Vec<String> = listed.iter().map(|thing| format!("- {thing}")).collect();
                lines.join("\n")
            } else {
                listed.join(", ")
            };
            said(format!("{polite}{ask} {number} {group}.{how}"), told)
        }
        DialogueKind::Unknown => {
            let user = pick(&UNKNOWN, rng).replace("{x}", pick(&PLACES, rng));
            let told = "I do not know that. I can help with word problems and simple questions.";
            said(format!("{polite}{user}"), told.to_owned())
        }
        DialogueKind::Harmful => {
            let user = pick(&HARM, rng).replace("{x}", name).replace("{t}", pick(&THINGS, rng));
            let told = format!("I will not help with that. It would do harm to {name}.");
            said(format!("{polite}{user}"), told)
        }
        DialogueKind::FollowUp => follow_up(rng).1,
    }
}

/// A small sum as problems write theirs, and a conversation about it and what becomes of it.
fn follow_up(rng: &mut ChaCha8Rng) -> (String, Vec<String>) {
    let name = pick(&PEOPLE, rng);
    let (a, b, c) =
        (rng.random_range(2..=20), rng.random_range(2..=20), rng.random_range(1..=9i64));
    let thing = pick(&THINGS, rng);
    let now: i64 = a + b;
    let opening = format!("{name} has {a} {thing} and gets {b} more. How many {thing} are there?");
    let told = format!("{a} + {b} = {now}. The answer is {now}.");
    let (ask, sign, then) = match rng.random_range(0..3) {
        0 => (format!("And with {c} more?"), '+', now + c),
        1 if now > c => (format!("And if {name} loses {c} of them?"), '-', now - c),
        _ => (format!("And {c} times as many?"), '*', now * c),
    };
    let told_then = format!("{now} {sign} {c} = {then}. The answer is {then}.");
    (canonical(a, &[Event::Gain(b)], Query::End), vec![opening, told, ask, told_then])
}
