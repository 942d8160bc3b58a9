use std::cell::RefCell;

use savi_schema::{CountRule, TokenScore};

use super::*;
use crate::catalog::suite;
use crate::{Gold, Shots};

/// Says what it is asked last; its tokens are bytes, and every byte costs one.
#[derive(Default)]
struct Echo {
    asked: RefCell<Vec<Request>>,
    scored: RefCell<Vec<ScoreRequest>>,
}

impl Generate for Echo {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        self.asked.borrow_mut().extend(requests.iter().cloned());
        let said = |request: &Request| {
            let text = match &request.raw {
                Some(RawPrompt::Text(text)) => text.clone(),
                _ => request.messages.last().map(Message::words).unwrap_or_default(),
            };
            let completion = |number: usize| Completion {
                text: format!("{text} {number}"),
                token_ids: vec![7; 3],
                logps: Vec::new(),
                sampling_logps: Vec::new(),
                top_logps: Vec::new(),
                finish_reason: FinishReason::Stop,
            };
            (0..request.samplings.len()).map(completion).collect()
        };
        Ok(requests.iter().map(said).collect())
    }

    fn fingerprint(&self) -> String {
        "echo".to_owned()
    }
}

impl Score for Echo {
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        self.scored.borrow_mut().extend(requests.iter().cloned());
        let score = |continuation: &Continuation| {
            let token_ids = match continuation {
                Continuation::Text(text) => text.bytes().map(u32::from).collect(),
                Continuation::Tokens(tokens) => tokens.clone(),
            };
            let token_ids: Vec<u32> = token_ids;
            TokenScore { logps: vec![-1.0; token_ids.len()], token_ids }
        };
        Ok(requests.iter().map(|r| r.continuations.iter().map(score).collect()).collect())
    }
}

impl Tokenize for Echo {
    fn prompt_tokens(
        &self,
        _: &[Message],
        raw: Option<&RawPrompt>,
    ) -> Result<Vec<u32>, GenerateError> {
        let Some(RawPrompt::Text(text)) = raw else { panic!("texts alone") };
        Ok(text.bytes().map(u32::from).collect())
    }

    fn words(&self, _: &[u32]) -> Result<String, GenerateError> {
        panic!("nobody asks")
    }

    fn end_tokens(&self) -> Vec<u32> {
        Vec::new()
    }
}

fn options() -> AskOptions {
    AskOptions::new(MediaPolicy::count(4, CountRule::MidSegment))
}

fn ask(name: &str, items: &[Item], options: &AskOptions, model: &Echo) -> Vec<Sample> {
    let asking = Asking {
        suite: suite(name).unwrap(),
        model,
        scorer: Some((model, model)),
        clips: None,
        examples: items,
        options,
    };
    let clusters: Vec<Vec<&Item>> = items.iter().map(|item| vec![item]).collect();
    asking.ask(&clusters, View::Normal).unwrap().into_iter().flatten().collect()
}

#[test]
fn turns_are_answered_one_after_the_other() {
    let mut long = Item::new("1", "First?", Gold::Judged(Vec::new())).within("category", "writing");
    long.turns = vec!["And then?".to_owned()];
    let short = Item::new("2", "Once?", Gold::Judged(Vec::new())).within("category", "math");
    let model = Echo::default();
    let samples = ask("mt-bench", &[long, short], &options(), &model);
    assert_eq!(samples[0].replies, ["First? 0", "And then? 0"]);
    assert_eq!((samples[1].replies.len(), samples[0].tokens), (1, 6));
    let asked = model.asked.borrow();
    let second = asked.iter().find(|request| request.id == "1/normal/1").unwrap();
    let words: Vec<String> = second.messages.iter().map(Message::words).collect();
    assert_eq!(words, ["First?", "First? 0", "And then?"]);
    assert_eq!(asked.len(), 3);
    // The suite's own temperatures.
    assert_eq!((asked[0].samplings[0].temperature, asked[1].samplings[0].temperature), (0.7, 0.0));
}

#[test]
fn continuations_have_the_tokens_of_the_whole_text() {
    let texts = ["Yes", "No, never"].map(str::to_owned).to_vec();
    let item = Item::new("q", "Is it?", Gold::Option(0)).with_options(texts);
    let model = Echo::default();
    let samples = ask("truthfulqa-mc1", std::slice::from_ref(&item), &options(), &model);
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    let scored = model.scored.borrow();
    // Both options after one prompt.
    assert_eq!(scored.len(), 1);
    assert_eq!(scored[0].raw, Some(RawPrompt::Tokens(bytes("Q: Is it?\nA:"))));
    assert_eq!(
        scored[0].continuations,
        [Continuation::Tokens(bytes(" Yes")), Continuation::Tokens(bytes(" No, never"))]
    );
    let scores: Vec<(f64, usize, usize)> =
        samples[0].scores.iter().map(|s| (s.logp, s.tokens, s.characters)).collect();
    assert_eq!(scores, [(-4.0, 4, 3), (-10.0, 10, 9)]);
    // lm-evaluation-harness hashes the plain prompt.
    assert_eq!(samples[0].prompt_hash, crate::sha256("Q: Is it?\nA:"));

    // A template takes the place of the suite's words; after its line break no blank is wanted.
    let template = Some("### User\n{question}\n\n### Aide\n".to_owned());
    let model = Echo::default();
    ask("truthfulqa-mc1", &[item], &AskOptions { template, ..options() }, &model);
    let scored = model.scored.borrow();
    assert_eq!(scored[0].raw, Some(RawPrompt::Tokens(bytes("### User\nIs it?\n\n### Aide"))));
    assert_eq!(scored[0].continuations[0], Continuation::Tokens(bytes("\nYes")));
}

#[test]
fn what_stands_around_words_is_put_there_in_order() {
    let item = |id: &str, question: &str| {
        let mut item = Item::new(id, question, Gold::Text("7".to_owned()));
        item.more.insert("solution".to_owned(), "3 + 4 = 7\n#### 7".into());
        item
    };
    let items = [item("a", "Three and four?"), item("b", "Four and three?")];
    let model = Echo::default();
    let plain = Some(vec!["\n\n".to_owned()]);
    let before = "Count.\n\n".to_owned();
    let options = AskOptions { shots: 1, plain, before, max_tokens: Some(9), ..options() };
    ask("gsm8k", &items, &options, &model);
    let asked = model.asked.borrow();
    let Some(RawPrompt::Text(prompt)) = &asked[1].raw else { panic!("no plain prompt") };
    let worked = "Question: Three and four?\nAnswer: 3 + 4 = 7\n#### 7\n\n";
    assert_eq!(*prompt, format!("Count.\n\n{worked}Question: Four and three?\nAnswer:"));
    let Sampling { max_tokens, stop, .. } = &asked[1].samplings[0];
    assert!(*max_tokens == 9 && stop.contains(&"\n\n".to_owned()), "{stop:?}");
    // A suite's own examples never hold what is asked.
    let shots: Shots = suite("gsm8k").unwrap().shot.unwrap();
    assert!(!shots.put(&items[..1], 1, &items[0], "?").contains("####"));
}

#[test]
fn the_likeliest_letter_is_a_reply() {
    let texts = ["a", "b", "c"].map(str::to_owned).to_vec();
    let item = Item::new("q", "Which?", Gold::Option(0)).with_options(texts);
    let model = Echo::default();
    let letters = AskOptions { letters: true, ..options() };
    let samples = ask("nextqa-mc", &[item], &letters, &model);
    // All letters are as likely here: the first one.
    assert_eq!(
        (samples[0].replies.as_slice(), samples[0].scores.len()),
        (&["A".to_owned()][..], 3)
    );
    assert_eq!(argmax([0.0, 2.0, 2.0]), Some(1));
    assert_eq!(argmax([]), None);
}
