//! What the rules are known for, case by case; all their replies are in `golden_tests`.

use super::*;

fn options(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// The letter read (`-` for none, `?` for a random one) and the credit.
fn read(rule: Rule, texts: &[&str], gold: &str, reply: &str) -> (String, Option<f64>) {
    let options = options(texts);
    let asked = Asked { question: "What happens?", options: &options, gold };
    let reading = rule.read(&asked, reply, 7, "item");
    assert_eq!(reading.needs_judge, reading.credit.is_none() && !reply.is_empty(), "{reading:?}");
    let answer = if reading.guessed { Some("?".to_owned()) } else { reading.answer };
    (answer.unwrap_or_else(|| "-".to_owned()), reading.credit)
}

const DOOR: [&str; 3] = ["closes the door", "A person opens the door.", "left"];

fn check(rule: Rule, gold: &str, replies: &[(&str, &str, f64)]) {
    for (reply, answer, credit) in replies {
        let expected = ((*answer).to_owned(), Some(*credit));
        assert_eq!(read(rule, &DOOR, gold, reply), expected, "{rule:?} on {reply:?}");
    }
}

#[test]
fn an_article_is_taken_for_option_a() {
    let reply = "A person opens the door.";
    for rule in [Rule::LmmsMvbench, Rule::LmmsTvbench, Rule::LmmsPerceptionTest] {
        check(rule, "A", &[(reply, "A", 1.0)]);
    }
    for rule in [Rule::LmmsNextQa, Rule::LmmsEgoSchema, Rule::LmmsVideoMme, Rule::VlmVideoMme] {
        check(rule, "B", &[(reply, "A", 0.0)]);
    }
    check(Rule::SlowFastChoice, "B", &[(reply, "A", 0.0)]);
    check(Rule::Strict, "B", &[(reply, "B", 1.0)]);
    // The article in the middle comes before the letter.
    check(Rule::LmmsMvbench, "B", &[("It is a choice: B", "A", 0.0)]);
}

#[test]
fn empty_replies() {
    assert_eq!(read(Rule::LmmsMvbench, &DOOR, "B", ""), ("-".into(), None));
    check(Rule::LmmsMvbench, "B", &[(" ", "-", 0.0)]);
    check(Rule::VlmMvbench, "B", &[("", "B", 1.0), ("(", "B", 1.0), ("...", "B", 1.0)]);
    for rule in [Rule::LmmsNextQa, Rule::LmmsEgoSchema, Rule::LmmsLongVideoBench] {
        assert_eq!(read(rule, &DOOR, "B", "").0, "?", "{rule:?}");
    }
    for rule in [Rule::LmmsVideoMme, Rule::VlmVideoMme, Rule::SlowFastChoice, Rule::Strict] {
        check(rule, "B", &[("", "-", 0.0)]);
    }
}

#[test]
fn a_missing_comma_fuses_announcements() {
    let replies = [("Best option: C", "B", 0.0), ("Best answer: C", "B", 0.0)];
    check(Rule::VlmVideoMme, "C", &replies);
    check(Rule::VlmLongVideoBench, "C", &replies);
    check(Rule::LmmsVideoMmeUntil2026, "C", &replies);
    check(Rule::LmmsLongVideoBench, "C", &[("Best option: C", "C", 1.0)]);
    check(Rule::LmmsVideoMme, "C", &[("Best option: C", "C", 1.0)]);
}

#[test]
fn first_and_last() {
    let reply = "(B) or rather (C)";
    check(Rule::LmmsNextQa, "C", &[(reply, "C", 1.0)]);
    check(Rule::LmmsEgoSchema, "C", &[(reply, "B", 0.0)]);
    check(Rule::LmmsVideoMme, "B", &[("The answer is B, not D", "D", 0.0)]);
    check(Rule::LmmsTvbench, "B", &[("Because it moves", "B", 1.0)]);
    check(Rule::VlmMvbench, "B", &[("The answer is B", "B", 1.0), ("B", "B", 1.0)]);
}

#[test]
fn failed_requests_count_as_right_in_vlmevalkit() {
    check(Rule::VlmMvbench, "B", &[("Failed to obtain answer via API.", "-", 1.0)]);
    check(Rule::VlmMvbench, "what is no option", &[("B", "B", 0.0)]);
}

#[test]
fn tempcompass_waits_for_a_judge_or_not() {
    let reply = "The man opens it.";
    assert_eq!(read(Rule::TempCompassChoice, &DOOR, "B", reply), ("-".into(), None));
    check(Rule::TempCompassChoiceExact, "B", &[(reply, "-", 0.0), ("B) it opens", "B", 1.0)]);
    for (rule, gold, reply, credit) in [
        (Rule::TempCompassYesNo, "no", "Nothing moves", 1.0),
        (Rule::TempCompassYesNo, "yes", "YES!", 1.0),
        (Rule::StrictYesNo, "no", "Nothing moves", 0.0),
        (Rule::StrictYesNo, "yes", "Yes, it moves.", 1.0),
        (Rule::StrictYesNo, "no", "The answer is no.", 1.0),
        (Rule::StrictYesNo, "no", "B", 0.0),
        (Rule::StrictYesNo, "yes", "Yes or no", 0.0),
    ] {
        assert_eq!(read(rule, &[], gold, reply).1, Some(credit), "{rule:?} on {reply:?}");
    }
    let lines = ["Option 1: it opens", "Option 2: it closes"];
    for (reply, credit) in [("Option 2", 1.0), ("2.", 1.0), ("It closes.", 1.0), ("1", 0.0)] {
        assert_eq!(read(Rule::StrictCaptions, &lines, "B", reply).1, Some(credit), "{reply:?}");
    }
    assert_eq!(read(Rule::TempCompassCaptions, &lines, "B", "It closes."), ("-".into(), None));
}

#[test]
fn judges() {
    for (reply, right) in
        [("Correct.", Some(true)), ("It is Incorrect, not Correct", Some(false)), ("correct", None)]
    {
        assert_eq!(verdict(reply), right, "{reply:?}");
    }
    for (reply, right) in [
        ("Reasoning: it goes down.\nAnswer: B. down", Some(true)),
        ("Answer: None of the choices are correct", Some(false)),
        ("", None),
    ] {
        assert_eq!(captioning_verdict("B. down", reply), right, "{reply:?}");
    }
    let said = |reply: &str| yes_no_and_score(reply);
    let around = "Here: {'pred': 'Yes', 'score': 4.8} as asked";
    assert_eq!(braces(around).as_deref().and_then(said), Some(("yes".to_owned(), 4)));
    assert_eq!(said(around), None);
    assert_eq!(said("{'pred': 'no', 'score': 0}"), Some(("no".to_owned(), 0)));
    assert_eq!(said("{'pred': 'maybe', 'score': 0}"), Some(("maybe".to_owned(), 0)));
}

#[test]
fn random_letters_depend_on_seed_and_item_only() {
    let options = options(&["a", "b", "c", "d", "e"]);
    let asked = Asked { question: "", options: &options, gold: "A" };
    let guess = |seed, id: &str| Rule::LmmsNextQa.read(&asked, "?", seed, id);
    assert!(guess(1, "x").guessed && guess(1, "x") == guess(1, "x"));
    let letters: std::collections::BTreeSet<_> =
        (0..50).filter_map(|item| guess(1, &item.to_string()).answer).collect();
    assert_eq!(letters.len(), 5);
}

#[test]
fn letters_are_counted() {
    let options = options(&["x", "y"]);
    let asked = Asked { question: "", options: &options, gold: "B" };
    let readings = ["A man", "A", "B", "?"].map(|r| Rule::LmmsMvbench.read(&asked, r, 0, "i"));
    let counts = letter_counts(readings.iter().map(|reading| (reading, "B")));
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [('A', [2, 0]), ('B', [1, 4])]);
}

#[test]
fn names() {
    for scorer in Scorer::ALL {
        assert_eq!(scorer.name().parse(), Ok(scorer));
        assert_eq!(serde_json::to_string(&scorer).unwrap(), format!("{:?}", scorer.name()));
    }
    assert!("lmms".parse::<Scorer>().unwrap_err().contains("vlmevalkit"));
    let rules = |scorer| SUITES.iter().filter(|suite| Rule::of(suite, scorer).is_some()).count();
    assert_eq!(Scorer::ALL.map(rules), [12, 7, 19, 7]);
    assert_eq!(Rule::of("mmlu", Scorer::Strict), None);
}
