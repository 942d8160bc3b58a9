use super::super::tests::{load, refused};
use super::*;
use crate::catalog::suite;

const CHOICES: &str = r#"{"7":{"speed":[
  {"question":"How fast is it?\nA. slow\n B. fast","answer":"B. fast"},
  {"question":"Does it slow down?\nA. no\nB. yes","answer":"A. no"}]},
 "8":{"order":[{"question":"What is first?\nA. a cup\nB. a door\nC. both","answer":"C. both"}]}}"#;

#[test]
fn options_are_taken_out_of_the_question() {
    let items = load("tempcompass-mc", "test", &[("multi-choice.json", CHOICES)]);
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["7-speed-0", "7-speed-1", "8-order-0"]);
    assert_eq!(items[0].question, "How fast is it?");
    assert_eq!(
        (items[0].options.join("|"), &items[0].gold),
        ("slow|fast".to_owned(), &Gold::Option(1))
    );
    assert_eq!(
        (&items[0].more["answer"], items[0].cluster.as_str()),
        (&Value::from("B. fast"), "7")
    );
    let rows = r#"{"video_id":"7","dim":"speed","question":"How fast is it?\nA. slow\n B. fast","answer":"B. fast"}
{"video_id":"8","dim":"order","question":"What is first?\nA. a cup\nB. a door\nC. both","answer":"C. both"}
{"video_id":"7","dim":"speed","question":"Does it slow down?\nA. no\nB. yes","answer":"A. no"}"#;
    let flat = load("tempcompass-mc", "test", &[("multi-choice/test-0.jsonl", rows)]);
    assert_eq!([&flat[0], &flat[2], &flat[1]], [&items[0], &items[1], &items[2]]);
}

#[test]
fn other_tasks_have_their_own_answers_and_words() {
    let rows = r#"{"7":{"action":[{"question":"Is it red? ","answer":"no"},{"question":"Is it red?","answer":"no"}]}}"#;
    let items = load("tempcompass-yn", "test", &[("yes_no.json", rows)]);
    assert_eq!((items.len(), items[1].target()), (2, "no".to_owned()));
    let rows = r#"{"7":{"action":[{"question":"Which fits?\nOption 1: It: falls.\nOption 2: It flies.","answer":"Option 2: It flies."}]}}"#;
    let items = load("tempcompass-cm", "test", &[("caption_matching.json", rows)]);
    assert_eq!((&items[0].gold, items[0].options[0].as_str()), (&Gold::Option(1), "It: falls."));
    assert_eq!(
        (suite("tempcompass-cm").unwrap().words)(&items[0]),
        "Which fits?\nOption 1: It: falls.\nOption 2: It flies.\nReply with Option 1 or Option 2 and nothing else."
    );
}

#[test]
fn captions_come_with_the_question_that_judges_them() {
    let captions = r#"{"7":{"speed":[{"question":"Write.\nInformation A: {'speed': 'fast'}","answer":"A. fast"}]}}"#;
    let files = [("captioning.json", captions), ("multi-choice.json", CHOICES)];
    let items = load("tempcompass-cap", "test", &files);
    assert_eq!(items[0].gold, Gold::Judged(vec!["A. fast".to_owned()]));
    assert_eq!(items[0].more["mc_answer"], "B. fast");
    let flat = r#"{"video_id":"7","dim":"speed","question":"Write.\nInformation A: {'speed': 'fast'}","answer":"A. fast","mc_question":"How fast is it?\nA. slow\n B. fast","mc_answer":"B. fast"}"#;
    assert_eq!(load("tempcompass-cap", "test", &[("captioning.jsonl", flat)]), items);
    let other = captions.replace("\"7\"", "\"9\"");
    let files = [("captioning.json", other.as_str()), ("multi-choice.json", CHOICES)];
    refused(
        "tempcompass-cap",
        "test",
        &files,
        "row 1: no question with options is on (\"9\", \"speed\")",
    );
}

#[test]
fn rows_that_cannot_be() {
    for (rows, message) in [
        (CHOICES.replace("\"B. fast\"", "\"B. quick\""), "row 1: the answer \"B. quick\" is none"),
        (
            CHOICES.replace("nC. both\"", "nD. both\""),
            "row 3: the options are not lines under letters",
        ),
        (CHOICES.replace("\\nA. no\\nB. yes", ""), "row 2: the answer \"A. no\" is none"),
        (CHOICES.replace("\"order\"", "\"colour\""), "row 3: \"colour\" is no aspect"),
        (CHOICES.replace("\"answer\":\"A", "\"reply\":\"A"), "row 2: missing key \"answer\""),
        (CHOICES.replace("\"8\"", "\"7\""), "row 1: key \"7\" appears twice"),
        (CHOICES.replace("}]}}", "}]}"), "row 1: EOF while parsing"),
        ("{\"7\":[]}".to_owned(), "row 1: what \"7\" holds is no object of aspects"),
        ("{\"7\":{\"speed\":3}}".to_owned(), "row 1: what \"7\" holds is no object of lists"),
        ("{\"7\":{\"speed\":[3]}}".to_owned(), "row 1: invalid type: integer"),
    ] {
        refused("tempcompass-mc", "test", &[("multi-choice.json", &rows)], message);
    }
    let rows = r#"{"7":{"action":[{"question":"Is it red?","answer":"maybe"}]}}"#;
    refused("tempcompass-yn", "test", &[("yes_no.json", rows)], "row 1: the answer is \"maybe\"");
    let rows = r#"{"7":{"action":[{"question":"Which fits?\nIt falls.","answer":"It falls."}]}}"#;
    refused("tempcompass-cm", "test", &[("caption_matching.json", rows)], "no name before it");
}
