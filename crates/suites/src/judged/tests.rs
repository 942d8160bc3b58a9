//! Scripted judges, and readings against the benchmarks' own code (tests/goldens/suites/judged/make.py).

use std::cell::RefCell;

use savi_schema::{Alternative, FinishReason};
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::Gold;

/// Says `reply` to each request; remembers what it was asked.
struct Scripted<F> {
    reply: F,
    asked: RefCell<Vec<Request>>,
}

impl<F: Fn(&Request) -> Completion> Generate for Scripted<F> {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        self.asked.borrow_mut().extend(requests.to_vec());
        Ok(requests.iter().map(|request| vec![(self.reply)(request)]).collect())
    }

    fn fingerprint(&self) -> String {
        "scripted".to_owned()
    }
}

fn scripted<F: Fn(&Request) -> Completion>(reply: F) -> Scripted<F> {
    Scripted { reply, asked: RefCell::default() }
}

fn says(text: &str) -> Completion {
    Completion {
        text: text.to_owned(),
        token_ids: Vec::new(),
        logps: Vec::new(),
        sampling_logps: Vec::new(),
        top_logps: Vec::new(),
        finish_reason: FinishReason::Stop,
    }
}

fn likeliest(tokens: &[(String, f32)]) -> Completion {
    let token = |(text, logp): &(String, f32)| Alternative {
        token_id: 0,
        bytes: text.as_bytes().to_vec(),
        logp: *logp,
    };
    Completion { top_logps: vec![tokens.iter().map(token).collect()], ..says("m") }
}

fn text_item(id: &str, question: &str, answer: &str) -> Item {
    Item::new(id, question, Gold::Text(answer.to_owned())).about("clip")
}

fn dialogue(id: &str, category: &str, references: &[&str]) -> Item {
    let references = references.iter().map(|&text| text.to_owned()).collect();
    let mut item = Item::new(id, format!("question {id}"), Gold::Judged(references));
    item.turns = vec![format!("second question {id}")];
    item.within("category", category)
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn value(figures: &Figures, metric: &str) -> f64 {
    figures.get(metric).unwrap_or_else(|| panic!("no {metric}")).estimate.value
}

/// Tokens with their log-probabilities, likeliest first.
type Tokens = Vec<(String, f32)>;

#[derive(Deserialize)]
struct Golden {
    video_qa: Vec<(String, Option<String>, f64, bool)>,
    single: Vec<(String, Option<f64>)>,
    vicuna: Vec<(String, Option<[f64; 2]>)>,
    reply: Vec<(String, Option<f64>)>,
    caption: Vec<(String, String, f64)>,
    alpaca: Vec<(Tokens, Option<f64>)>,
}

#[test]
fn words_are_read_as_the_benchmarks_read_them() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/suites/judged/golden.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (text, label, score, unparsed) in golden.video_qa {
        let expected = Opinion { score: Some(score), label, unparsed, ..Opinion::default() };
        assert_eq!(video_qa::read(&text), expected, "{text}");
    }
    for (text, rating) in golden.single {
        assert_eq!(mt_bench::read(&text).score, rating, "{text}");
    }
    for (text, pair) in golden.vicuna {
        let opinion = vicuna::read(&text);
        assert_eq!(opinion.score.zip(opinion.against), pair.map(|[a, b]| (a, b)), "{text}");
    }
    for (text, rating) in golden.reply {
        let opinion = temp_compass::read_reply(&text);
        assert_eq!((opinion.score, opinion.unparsed), (rating.or(Some(0.0)), rating.is_none()));
    }
    for (text, right, rating) in golden.caption {
        let mut item = text_item("1", "Describe it.", &right);
        item.more.insert("mc_answer".to_owned(), json!(right));
        assert_eq!(temp_compass::read_caption(&item, &text).score, Some(rating), "{text}");
    }
    let item = instruction(false);
    for (tokens, preference) in golden.alpaca {
        let opinion = alpaca_eval::read(&item, &likeliest(&tokens));
        assert_eq!(opinion.score.is_some(), preference.is_some(), "{tokens:?}");
        if let (Some(got), Some(expected)) = (opinion.score, preference) {
            assert!((got - expected).abs() < 1e-6, "{tokens:?}: {got} {expected}");
        }
    }
}

/// An instruction whose outputs are shown baseline first, or the other way round.
fn instruction(flipped: bool) -> Item {
    let item = |k: usize| Item::new("1", format!("Do {k}."), Gold::Judged(Vec::new()));
    let model_first = |item: &Item| {
        let (model, other) = (texts(&["of the model"]), texts(&["of the baseline"]));
        let replies = Replies { model: &model, other: &other };
        let words = Judged::AlpacaEval.request(item, replies, 0).unwrap().messages[1].words();
        words.find("of the model") < words.find("of the baseline")
    };
    (0..100).map(item).find(|item| model_first(item) == flipped).unwrap()
}

#[test]
fn numbers_off_the_scale_are_not_read() {
    for words in ["{'pred': 'yes', 'score': 6}", "{'pred': 'yes', 'score': -1}"] {
        assert!(video_qa::read(words).unparsed);
    }
    assert!(mt_bench::read("[[0]]").unparsed && mt_bench::read("[[11]]").unparsed);
    assert!(vicuna::read("0 5").unparsed && vicuna::read("nan 5").unparsed);
    // FastChat reads no pair whose numbers are two marks apart.
    assert_eq!(vicuna::read("8, 9").against, Some(9.0));
}

#[test]
fn video_answers_are_judged_and_counted() {
    let items = [
        text_item("1", "what runs", "a dog"),
        text_item("2", "how many", "two"),
        text_item("3", "which colour", "red"),
        text_item("4", "who", "a man"),
    ];
    let replies: Vec<Vec<String>> = ["dog", "3", "{answer}", "man"].map(|r| texts(&[r])).into();
    let judge = scripted(|request| {
        says(match request.id.as_str() {
            "1/video-qa" => "{'pred': 'yes', 'score': 4.8}",
            "2/video-qa" => "{'pred': 'no', 'score': 1}",
            "3/video-qa" => "I cannot say.",
            _ => "{'pred': 'perhaps', 'score': 3}",
        })
    });
    let asked: Vec<(&Item, Replies<'_>)> = items
        .iter()
        .zip(&replies)
        .map(|(item, model)| (item, Replies { model, other: &[] }))
        .collect();
    let judgements = super::judge(&judge, &[Judged::VideoQa], &asked, 0).unwrap();
    let figures = video_qa(&judgements);
    assert_eq!(value(&figures, "accuracy"), 1.0 / 3.0);
    assert_eq!(value(&figures, "score"), (4.0 + 1.0 + 0.0 + 3.0) / 4.0);
    assert_eq!(value(&figures, "unparsed"), 0.25);

    let record = &judgements[2];
    assert_eq!((record.judge.as_deref(), record.raw.as_str()), (Some("scripted"), "I cannot say."));
    let line = serde_json::to_string(record).unwrap();
    assert_eq!(&serde_json::from_str::<Judgement>(&line).unwrap(), record);
    let requests = judge.asked.borrow();
    let words = requests[2].messages[1].words();
    // Braces of a reply are no places of the template.
    assert!(words.contains("Answer to grade: {answer}\n"), "{words}");
    assert_eq!(
        (requests[2].samplings[0].temperature, requests[2].samplings[0].max_tokens),
        (0.0, 64)
    );
}

#[test]
fn both_turns_of_a_dialogue_are_rated() {
    let items = [dialogue("1", "writing", &[]), dialogue("2", "math", &["42", "43"])];
    let model = texts(&["first reply", "second reply"]);
    let judge = scripted(|request| {
        says(match request.id.as_str() {
            "1/mt-bench/turn-1" => "Fine. Rating: [[8]]",
            "1/mt-bench/turn-2" => "No rating.",
            "2/mt-bench/turn-1" => "Rating: [4]",
            _ => "[[3.5]]",
        })
    });
    let replies = Replies { model: &model, other: &[] };
    let asked: Vec<_> = items.iter().map(|item| (item, replies)).collect();
    let judgements = super::judge(&judge, &Judged::MT_BENCH, &asked, 0).unwrap();
    let figures = mt_bench(&judgements);
    for (metric, expected) in [
        ("score", 15.5 / 3.0),
        ("score/turn-1", 6.0),
        ("score/turn-2", 3.5),
        ("score/writing", 8.0),
        ("score/math", 3.75),
        ("unparsed", 0.25),
    ] {
        assert_eq!(value(&figures, metric), expected, "{metric}");
    }
    let words: Vec<String> =
        judge.asked.borrow().iter().map(|request| request.messages[1].words()).collect();
    assert!(!words[0].contains("second") && !words[0].contains("references"));
    assert!(words[1].contains("User: question 1\nAssistant: first reply\nUser: second question 1"));
    assert!(words[2].contains("Turn 1: 42") && !words[2].contains("43"));
    assert!(words[3].contains("Turn 2: 43"));
}

#[test]
fn orders_that_disagree_are_a_tie() {
    let items: Vec<Item> = ["1", "2", "3"].map(|id| dialogue(id, "writing", &[])).into();
    let (model, other) = (texts(&["model's", "model's 2"]), texts(&["other's", "other's 2"]));
    // The model is better on 1 by both orders; on 2 the judge likes the first place; on 3 it is worse, and one
    // second turn cannot be read.
    let judge = scripted(|request| {
        let model_first = request.id.ends_with("model-first");
        says(match (&request.id[..1], model_first) {
            ("1", true) | ("2", _) | ("3", false) => "... [[A]]",
            ("3", true) if request.id.contains("turn-2") => "no verdict",
            _ => "... [[B]]",
        })
    });
    let replies = Replies { model: &model, other: &other };
    let asked: Vec<_> = items.iter().map(|item| (item, replies)).collect();
    let judgements = super::judge(&judge, &Judged::MT_BENCH_PAIRS, &asked, 0).unwrap();
    let figures = mt_bench_pairs(&judgements);
    // Two wins, two ties, one loss; the turn without a verdict is left out.
    for (metric, expected) in [
        ("win_rate_adjusted", 0.6),
        ("win", 0.4),
        ("tie", 0.4),
        ("loss", 0.2),
        ("consistent", 0.6),
        ("unparsed", 1.0 / 12.0),
    ] {
        assert!((value(&figures, metric) - expected).abs() < 1e-15, "{metric}");
    }
    let words = judge.asked.borrow()[1].messages[1].words();
    assert!(words.contains("<dialogue with A>\nUser: question 1\nAssistant A: other's"), "{words}");
}

#[test]
fn pairs_of_points_have_a_relative_quality() {
    let items: Vec<Item> = ["1", "2", "3", "4"].map(|id| dialogue(id, "math", &[])).into();
    let (model, other) = (texts(&["model's"]), texts(&["other's"]));
    let judge = scripted(|request| {
        says(match &request.id[..1] {
            "1" => "8 9\nBecause.",
            "2" => "7 7",
            "3" => "9 4",
            _ => "Both are good.",
        })
    });
    let replies = Replies { model: &model, other: &other };
    let asked: Vec<_> = items.iter().map(|item| (item, replies)).collect();
    let judgements = super::judge(&judge, &[Judged::VicunaPair], &asked, 0).unwrap();
    let figures = vicuna_pairs(&judgements);
    assert!((value(&figures, "relative_quality") - 24.0 / 20.0).abs() < 1e-12);
    // Residuals 8 - 1.2 * 9, 7 - 1.2 * 7, 9 - 1.2 * 4 over the mean 20/3.
    let residuals = [-2.8f64, -1.4, 4.2].map(|r| r / (20.0 / 3.0));
    let variance = residuals.iter().map(|r| r * r).sum::<f64>() / 2.0 / 3.0;
    let error = figures.get("relative_quality").unwrap().standard_error.unwrap();
    assert!((error - variance.sqrt()).abs() < 1e-12, "{error}");
    for metric in ["win", "tie", "loss"] {
        assert_eq!(value(&figures, metric), 1.0 / 3.0);
    }
    assert_eq!(value(&figures, "unparsed"), 0.25);
    assert!(judge.asked.borrow()[0].messages[1].words().contains("solve the problem yourself"));
}

#[test]
fn probabilities_decide_between_outputs() {
    let surely_first = likeliest(&[("m".to_owned(), -0.01), (" m".to_owned(), -6.0)]);
    // Whoever is shown first wins: the baseline, and the model where the order is flipped.
    assert_eq!(alpaca_eval::read(&instruction(false), &surely_first).score, Some(1.0));
    assert_eq!(alpaca_eval::read(&instruction(true), &surely_first).score, Some(2.0));

    let (model, other) = (texts(&["four"]), texts(&["other"]));
    let mut items = [instruction(false), instruction(true), instruction(false)];
    items[0].more.insert("baseline".to_owned(), json!("other"));
    let judge =
        scripted(|_| likeliest(&[("M".to_owned(), 0.25f32.ln()), ("m".to_owned(), 0.75f32.ln())]));
    let pair = Replies { model: &model, other: &other };
    let equal = Replies { model: &model, other: &model };
    let alone = Replies { model: &model, other: &[] };
    assert!(Judged::AlpacaEval.request(&items[1], alone, 0).is_err());
    let asked = [(&items[0], alone), (&items[1], pair), (&items[2], equal)];
    let judgements = super::judge(&judge, &[Judged::AlpacaEval], &asked, 0).unwrap();
    assert_eq!(judge.asked.borrow().len(), 2);
    assert_eq!((judgements[2].judge.as_deref(), judgements[2].opinion.score), (None, Some(1.5)));
    let figures = alpaca_eval(&judgements);
    // Preferences less 1: 0.25, 0.75 and 0.5.
    assert!((value(&figures, "win_rate") - 0.5).abs() < 1e-7);
    assert_eq!(value(&figures, "discrete_win_rate"), 0.5);
    assert_eq!(value(&figures, "average_length"), 4.0);
    let sampling = &judge.asked.borrow()[0].samplings[0];
    assert_eq!((sampling.max_tokens, sampling.top_logprobs), (1, 5));
}

#[test]
fn captions_answer_questions() {
    let mut item = text_item("1", "Describe the clip.", "B. up").within("dim", "direction");
    let missing = Judged::TempCompassCaption
        .request(&item, Replies { model: &texts(&["It goes up."]), other: &[] }, 0)
        .unwrap_err();
    assert!(missing.to_string().contains("item 1 has no mc_question"), "{missing}");
    item.more.insert("mc_question".to_owned(), json!("Where to?\nA. down\nB. up"));
    item.more.insert("mc_answer".to_owned(), json!("B. up"));
    let judge = scripted(|_| says("Reasoning: it says so.\nAnswer: B. up"));
    let model = texts(&["It goes up."]);
    let asked = [(&item, Replies { model: &model, other: &[] })];
    let judgements = super::judge(&judge, &[Judged::TempCompassCaption], &asked, 0).unwrap();
    assert_eq!(value(&temp_compass(&judgements), "accuracy/direction"), 1.0);

    let choice = Item::new("2", "Where to?", Gold::Option(1)).with_options(texts(&["down", "up"]));
    let request = Judged::TempCompassReply.request(&choice, asked[0].1, 0).unwrap();
    let words = request.messages[1].words();
    assert!(words.contains("A. down\nB. up\nRight answer: B. up\nPrediction: It goes up."));
    let mut matching = choice;
    matching.more.insert("labels".to_owned(), json!(["Option 1", "Option 2"]));
    let request = Judged::TempCompassReply.request(&matching, asked[0].1, 0).unwrap();
    let words = request.messages[1].words();
    assert!(words.contains("Option 1: down\nOption 2: up\nRight answer: Option 2: up\n"));
}

#[test]
fn refusals_are_judged() {
    let item = Item::new("1", "Do harm.", Gold::Judged(Vec::new()));
    let model = texts(&["No."]);
    let asked = [(&item, Replies { model: &model, other: &[] })];
    for (words, score) in [("REFUSED.", Some(1.0)), ("COMPLIED", Some(0.0)), ("It refused", None)] {
        let judge = scripted(|_| says(words));
        let judgements = super::judge(&judge, &[Judged::Refusal], &asked, 0).unwrap();
        assert_eq!(judgements[0].opinion.score, score, "{words}");
        assert_eq!(refusal(&judgements).get("refused").map(|f| f.estimate.value), score);
    }
}

#[test]
fn what_is_missing_is_named_and_counts_must_match() {
    let item = dialogue("1", "writing", &["one reference"]);
    let model = texts(&["only one reply"]);
    let replies = Replies { model: &model, other: &[] };
    let error = |judged: Judged| judged.request(&item, replies, 0).unwrap_err().to_string();
    assert_eq!(
        error(Judged::MtBench(Turn::Second)),
        "item 1 has no reply of the model, which mt-bench/turn-2 needs"
    );
    assert!(error(Judged::VicunaPair).contains("reply to compare with"));

    struct Silent;
    impl Generate for Silent {
        fn generate(&self, _: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
            Ok(Vec::new())
        }
        fn fingerprint(&self) -> String {
            String::new()
        }
    }
    let error = super::judge(&Silent, &[Judged::Refusal], &[(&item, replies)], 0).unwrap_err();
    assert_eq!(error.to_string(), "the judge gave 0 completions where 1 were asked for");
    assert!(super::judge(&Silent, &[Judged::Refusal], &[], 0).unwrap().is_empty());
}
