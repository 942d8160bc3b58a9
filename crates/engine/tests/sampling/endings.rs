//! What ends a text, what cannot be drawn, and what is told beside it.

use savi_schema::{Completion, FinishReason, Sampling};

use crate::{draw, engine, messages, token};

fn usual() -> Sampling {
    Sampling { temperature: 1.0, max_tokens: 24, ..Sampling::default() }
}

fn one(sampling: Sampling) -> Completion {
    draw(vec![sampling], 0).remove(0)
}

/// The tokens of a text as single bytes, so that every string spans borders of tokens.
fn bytes(text: &str) -> Vec<u32> {
    let id = |letter: char| engine().text().encode(&letter.to_string()).unwrap();
    text.chars().flat_map(id).collect()
}

#[test]
fn a_stop_string_is_found_across_tokens() {
    let forced = |text: &str, stop: &[&str]| {
        let forced_tokens = bytes(text);
        let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
        let max_tokens = forced_tokens.len();
        one(Sampling { forced_tokens, stop, max_tokens, ..usual() })
    };
    let stopped = forced("left, right", &["t, r"]);
    assert_eq!((stopped.text.as_str(), stopped.finish_reason), ("lef", FinishReason::Stop));
    // The tokens are those up to the one that completes it.
    assert_eq!(stopped.token_ids, bytes("left, r"));
    let first = forced("left, right", &["right", "ft", "nothing"]);
    assert_eq!((first.text.as_str(), first.finish_reason), ("le", FinishReason::Stop));
    let none = forced("left, righ", &["right"]);
    assert_eq!((none.text.as_str(), none.finish_reason), ("left, righ", FinishReason::Length));
    // A token that holds more than the string.
    let sampling =
        Sampling { forced_tokens: vec![token(" different")], stop: vec!["iff".into()], ..usual() };
    assert_eq!(one(sampling).text, " d");
}

#[test]
fn nothing_ends_a_text_before_its_shortest_length_but_a_stop_string() {
    let ends = engine().text().ends();
    let stop_token_ids = vec![token("red"), token("left")];
    let sampling = Sampling { temperature: 2.0, min_tokens: 15, stop_token_ids, ..usual() };
    for completion in draw(vec![sampling.clone(); 40], 1) {
        assert!(completion.token_ids.len() >= 15, "{completion:?}");
        let early = &completion.token_ids[..15];
        assert!(!early.iter().any(|id| ends.contains(id) || sampling.stop_token_ids.contains(id)));
    }
    let forced = Sampling {
        min_tokens: 15,
        forced_tokens: bytes("up or down"),
        stop: vec![" or".into()],
        ..usual()
    };
    assert_eq!(one(forced).text, "up");
}

#[test]
fn banned_tokens_never_come_and_forced_ones_come_first() {
    let free = one(Sampling { temperature: 0.0, ..usual() });
    let banned =
        Sampling { temperature: 0.0, banned_tokens: free.token_ids[..1].to_vec(), ..usual() };
    assert_ne!(one(banned).token_ids[0], free.token_ids[0]);
    let banned_tokens: Vec<u32> = (0..1200).filter(|id| id % 3 != 0).collect();
    let sampling = Sampling { banned_tokens, ..usual() };
    for completion in draw(vec![sampling; 20], 2) {
        assert!(completion.token_ids.iter().all(|id| id % 3 == 0), "{completion:?}");
    }
    let forced_tokens = bytes("The answer");
    let sampling = Sampling { forced_tokens: forced_tokens.clone(), ..usual() };
    let completion = one(sampling);
    assert!(completion.text.starts_with("The answer"));
    let n = forced_tokens.len();
    assert_eq!(
        (&completion.token_ids[..n], &completion.sampling_logps[..n]),
        (&forced_tokens[..], &vec![0.0; n][..])
    );
    assert!(completion.logps[..n].iter().all(|&logp| logp < 0.0));
}

#[test]
fn tokens_of_the_request_end_a_text_and_are_no_part_of_it() {
    let [red, circle] = [token("red"), token(" circle")];
    let sampling =
        Sampling { stop_token_ids: vec![circle], forced_tokens: vec![red, circle, red], ..usual() };
    let completion = one(sampling);
    assert_eq!(completion.token_ids, [red, circle]);
    assert_eq!((completion.text.as_str(), completion.finish_reason), ("red", FinishReason::Stop));
}

#[test]
fn ends_that_are_ignored_are_drawn_and_end_nothing() {
    let end = engine().text().ends()[0];
    let forced_tokens = vec![token("red"), end, token("left")];
    let free = Sampling { max_tokens: 3, forced_tokens, ..usual() };
    let ended = one(free.clone());
    assert_eq!(
        (ended.text.as_str(), ended.finish_reason, ended.token_ids.len()),
        ("red", FinishReason::Stop, 2)
    );
    let ignored = one(Sampling { ignore_eos: true, ..free });
    assert_eq!((ignored.text.as_str(), ignored.finish_reason), ("redleft", FinishReason::Length));
    assert_eq!(ignored.token_ids[1], end);
    // Drawn, not forced: greedily the model ends; ignoring that, it goes on behind its end.
    let greedy = Sampling { temperature: 0.0, max_tokens: 60, ..usual() };
    let ended = one(greedy.clone());
    assert_eq!(ended.finish_reason, FinishReason::Stop, "{ended:?}");
    let ignored = one(Sampling { ignore_eos: true, ..greedy.clone() });
    assert_eq!((ignored.token_ids.len(), ignored.finish_reason), (60, FinishReason::Length));
    assert_eq!(ignored.token_ids[..ended.token_ids.len()], ended.token_ids);
    // A shortest length keeps no end away that ends nothing.
    let both = one(Sampling { ignore_eos: true, min_tokens: 60, ..greedy.clone() });
    assert_eq!(both.token_ids, ignored.token_ids);
    // Other tokens end it all the same.
    let stop_token_ids = vec![ignored.token_ids[3]];
    let stopped = one(Sampling { ignore_eos: true, stop_token_ids, ..greedy });
    assert_eq!(stopped.finish_reason, FinishReason::Stop);
    assert!(stopped.token_ids.len() <= 4);
}

#[test]
fn the_likeliest_tokens_are_told_with_the_models_log_probabilities() {
    let engine = engine();
    let prompt = engine.prompt(&messages()).unwrap();
    let sampling =
        Sampling { temperature: 3.0, top_k: 7, max_tokens: 5, top_logprobs: 4, ..usual() };
    let completion = one(sampling.clone());
    assert_eq!(completion.top_logps.len(), completion.token_ids.len());
    for (at, top) in completion.top_logps.iter().enumerate() {
        let mut before = prompt.clone();
        before.ids.extend(&completion.token_ids[..at]);
        let spoken = |token: &u32| !engine.text().placeholders().contains(token);
        let tokens: Vec<u32> = (0..1200).filter(spoken).collect();
        let each = tokens.iter().map(|&token| vec![token]).collect();
        let scored = engine.score_tokens(&before, each).unwrap();
        let mut all: Vec<(u32, f32)> =
            tokens.into_iter().zip(scored.iter().map(|score| score.logps[0])).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        assert_eq!(top.len(), 4);
        for (told, (token, logp)) in top.iter().zip(&all) {
            assert!((told.logp - logp).abs() < 1e-4, "{told:?}, not {logp}");
            assert!(
                told.token_id == *token || (told.logp - logp).abs() < 1e-6,
                "{told:?}, not {token}"
            );
            assert_eq!(told.bytes, engine.text().token_bytes(told.token_id));
        }
        // The one that was drawn has the same log-probability here and there.
        if let Some(own) = top.iter().find(|told| told.token_id == completion.token_ids[at]) {
            assert_eq!(own.logp, completion.logps[at]);
        }
    }
    let silent = one(Sampling { top_logprobs: 0, ..sampling.clone() });
    assert!(silent.top_logps.is_empty());
    assert_eq!(silent.token_ids, completion.token_ids);
    let all = one(Sampling { top_logprobs: 5000, max_tokens: 1, ..sampling });
    assert_eq!(all.top_logps[0].len(), 1200);
    let total: f64 = all.top_logps[0].iter().map(|told| f64::from(told.logp).exp()).sum();
    assert!((total - 1.0).abs() < 1e-4, "{total}");
}
