//! Every reply of the pool by every rule, against the harnesses' own functions
//! (tests/goldens/suites/readers/make.py).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Asked, Rule, braces, captioning_verdict, verdict, yes_no_and_score};

#[derive(Deserialize)]
struct Item {
    question: String,
    options: Vec<String>,
    gold: String,
}

fn golden<T: DeserializeOwned>(file: &str) -> T {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/suites/readers");
    let path = format!("{folder}/{file}");
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// A template as a reply to an item, as `fill` in `templates.py`.
fn fill(template: &str, item: &Item) -> String {
    let options = &item.options;
    let letter = |index: usize| super::letter(index).to_string();
    let (g, right, w, wrong) = match item.gold.as_str() {
        gold if gold.len() == 1 && gold.as_bytes()[0].is_ascii_uppercase() => {
            let right = usize::from(gold.as_bytes()[0] - b'A');
            let wrong = (right + 1) % options.len();
            (gold.to_owned(), options[right].clone(), letter(wrong), options[wrong].clone())
        }
        gold => {
            let other = options.iter().find(|option| *option != gold).unwrap();
            (gold.to_owned(), gold.to_owned(), other.clone(), other.clone())
        }
    };
    let mark = |line: &str| line.split(": ").next().unwrap().to_owned();
    let sentence = |line: &str| line.split(": ").nth(1).unwrap_or(line).to_owned();
    let half: String = right.chars().take(right.chars().count().div_ceil(2)).collect();
    let mut reply = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        reply.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest[1..].split('}').next().filter(|name| rest[1..].len() > name.len());
        let value = match name.unwrap_or_default() {
            "g" => g.clone(),
            "gl" => g.to_lowercase(),
            "G" => right.clone(),
            "Gl" => right.to_lowercase(),
            "Gu" => right.to_uppercase(),
            "Gh" => half.clone(),
            "w" => w.clone(),
            "wl" => w.to_lowercase(),
            "W" => wrong.clone(),
            "Wl" => wrong.to_lowercase(),
            "m" => mark(&right),
            "s" => sentence(&right),
            "M" => mark(&wrong),
            "S" => sentence(&wrong),
            "q" => item.question.clone(),
            "o0" | "o1" | "o2" | "o3" | "o4" => {
                let place = usize::from(name.unwrap().as_bytes()[1] - b'0');
                options[place % options.len()].clone()
            }
            _ => {
                reply.push('{');
                rest = &rest[1..];
                continue;
            }
        };
        reply.push_str(&value);
        rest = &rest[name.unwrap().len() + 2..];
    }
    reply + rest
}

fn one_or_nothing(right: Option<bool>) -> String {
    right.map_or("-", |right| if right { "1" } else { "0" }).to_owned()
}

/// What `make.py` writes for a rule's reading: a letter where the reference tells it, else 1 or 0.
fn read(rule: Rule, asked: &Asked, reply: &str) -> String {
    let reading = rule.read(asked, reply, 3, "item");
    let told = !matches!(
        rule,
        Rule::TempCompassChoice
            | Rule::TempCompassYesNo
            | Rule::TempCompassCaptions
            | Rule::TempCompassChoiceExact
            | Rule::TempCompassYesNoExact
            | Rule::TempCompassCaptionsExact
            | Rule::VlmMvbench
    );
    if reading.needs_judge {
        assert_eq!(reading.credit, None);
        return "j".to_owned();
    }
    let Some(credit) = reading.credit else { return "_".to_owned() };
    if !told {
        return one_or_nothing(Some(credit == 1.0));
    }
    assert_eq!(credit == 1.0, reading.answer.as_deref() == Some(asked.gold), "{reading:?}");
    if reading.guessed { "?".to_owned() } else { reading.answer.unwrap_or_else(|| "-".to_owned()) }
}

/// Two characters: the first letter of yes, no or other, and the score's last digit.
fn read_score(dictionary: Option<String>) -> String {
    match dictionary.and_then(|dictionary| yes_no_and_score(&dictionary)) {
        None => "--".to_owned(),
        Some((said, score)) => {
            let said = if ["yes", "no"].contains(&said.as_str()) { &said[..1] } else { "o" };
            format!("{said}{}", score.unsigned_abs() % 10)
        }
    }
}

#[test]
fn every_reply_is_read_as_the_harnesses_read_it() {
    let items: Vec<Item> = golden("items.json");
    let pool: Vec<String> = golden("pool.json");
    let results: BTreeMap<String, BTreeMap<usize, String>> = golden("results.json");
    assert!(results.len() >= 20 && pool.len() > 1500);
    let mut faults = Vec::new();
    for (name, rows) in &results {
        let (rule, judge) = match name.strip_prefix("judge: ") {
            Some(rule) => (rule, true),
            None => (name.split(',').next().unwrap(), false),
        };
        let rule: Rule = serde_json::from_value(rule.into()).unwrap();
        let mut read_replies = 0;
        let mut differ = 0;
        for (&index, row) in rows {
            let item = &items[index];
            let lines = item.options.iter().zip("ABCDE".chars());
            let lines: String = lines.map(|(text, letter)| format!("\n{letter}. {text}")).collect();
            let in_question = name.ends_with("options in the question");
            let question = format!("{}{}", item.question, if in_question { &lines } else { "" });
            let asked = Asked { question: &question, options: &item.options, gold: &item.gold };
            let row: Vec<char> = row.chars().collect();
            let width = row.len() / pool.len();
            assert_eq!(row.len(), width * pool.len(), "{name}");
            for (template, expected) in pool.iter().zip(row.chunks(width)) {
                let reply = fill(template, item);
                let said = match (rule, judge) {
                    (Rule::LmmsYesNoAndScore, true) => read_score(braces(&reply)),
                    (Rule::YesNoAndScore, true) => read_score(Some(reply.clone())),
                    (Rule::TempCompassCaptioning, true) => {
                        let right = format!("{}. {}", asked.gold, asked.gold_text());
                        one_or_nothing(captioning_verdict(&right, &reply))
                    }
                    (_, true) => one_or_nothing(verdict(&reply)),
                    (rule, false) => read(rule, &asked, &reply),
                };
                let expected: String = expected.iter().collect();
                read_replies += 1;
                if said != expected {
                    differ += 1;
                    if differ <= 5 {
                        faults.push(format!(
                            "{name}, item {index} ({:?}, gold {}): {reply:?} is {expected}, not {said}",
                            item.options, item.gold
                        ));
                    }
                }
            }
        }
        assert!(read_replies >= 5000, "{name}: {read_replies} replies");
        if differ > 5 {
            faults.push(format!("{name}: {differ} of {read_replies} differ"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
