//! Texts from tokens as they come: together what decoding gives of all tokens at once.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use savi_engine::{Passed, StopStrings, TextFiles, TextModel};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

/// With the number of their tokens.
fn models() -> Vec<(&'static str, TextModel, u32)> {
    let file = |path: &'static str, count: u32| {
        let files = if path.ends_with(".gguf") {
            TextFiles::read_gguf(&golden(path)).unwrap()
        } else {
            TextFiles { tokenizer: std::fs::read(golden(path)).unwrap(), ..TextFiles::default() }
        };
        (path, TextModel::new(&files, None).unwrap(), count)
    };
    vec![
        // SentencePiece, with and without a blank that decoding takes off.
        file("tests/goldens/gguf-vocab/llama.gguf", 460),
        file("tests/goldens/gguf-vocab/gemma.gguf", 460),
        // Bytes, with merges and one by one.
        file("datasets/builtin-tiny/tokenizer.json", 733),
        file("tests/goldens/vision/smolvlm/tokenizer.json", 285),
        // In a way of its own.
        file("tests/goldens/sentence/tokenizer.json", 200),
    ]
}

fn one_by_one(text: &TextModel, ids: &[u32]) -> (Vec<String>, String) {
    let mut detokenizer = text.detokenizer();
    let parts: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    (parts, detokenizer.finish().unwrap())
}

fn check(name: &str, text: &TextModel, ids: &[u32]) {
    let (parts, rest) = one_by_one(text, ids);
    let whole = parts.concat() + &rest;
    assert_eq!(whole, text.decode(ids).unwrap(), "{name}: {ids:?} came as {parts:?}, {rest:?}");
}

#[test]
fn real_texts_come_whole() {
    for (name, text, _) in models() {
        for words in [
            "Which way does it move?",
            " a  blank",
            "  two",
            "",
            " ",
            "\n\n",
            "naïve café 日本語 🙂👩‍👩‍👧",
            "a\u{0}b",
            "<s>hey</s>",
            "🙂",
            "日",
            "…",
            "x🙂",
            "🙂x",
            "▁ itself",
        ] {
            check(name, &text, &text.encode(words).unwrap());
        }
    }
}

/// What is settled comes at once: only halves of characters and runs of single bytes wait.
#[test]
fn little_waits() {
    for (name, text, _) in models().into_iter().take(4) {
        let ids = text.encode("which way does it go").unwrap();
        let (parts, rest) = one_by_one(&text, &ids);
        assert_eq!(rest, "", "{name}");
        for (at, _) in ids.iter().enumerate() {
            assert_eq!(parts[..=at].concat(), text.decode(&ids[..=at]).unwrap(), "{name}");
        }
    }
    let (_, text, _) = &models()[3];
    let ids = text.encode("a🙂b").unwrap();
    assert_eq!(ids.len(), 6);
    assert_eq!(one_by_one(text, &ids).0, ["a", "", "", "", "🙂", "b"]);
    // Half a character that another letter follows.
    assert_eq!(one_by_one(text, &[ids[0], ids[1], ids[2], ids[5]]).0, ["a", "", "", "\u{fffd}b"]);
    let (_, text, _) = &models()[0];
    let blank = text.encode("x").unwrap();
    assert_eq!(text.decode(&blank).unwrap(), "x");
    assert_eq!(one_by_one(text, &blank).0.concat(), "x");
}

/// A string that ends a text, by hand: the first letter at which one is complete, and the longest of those.
fn stopped(text: &str, stops: &[String]) -> Option<String> {
    let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
    ends.map(|end| &text[..end]).find_map(|head| {
        let of = stops.iter().filter(|stop| head.ends_with(stop.as_str()));
        let longest = of.map(String::len).max()?;
        Some(head[..head.len() - longest].to_owned())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_tokens_give_what_decoding_gives(picks in proptest::collection::vec((0.0..1.02f64, 0..4u8), 0..40)) {
        thread_local!(static MODELS: Vec<(&'static str, TextModel, u32)> = models());
        MODELS.with(|models| {
            for (name, text, count) in models {
                // Bytes of characters and special tokens come often, numbers without a token now and then.
                let id = |&(share, kind): &(f64, u8)| match kind {
                    0 => (share * 280.0) as u32,
                    _ => (share * f64::from(*count)) as u32,
                };
                let ids: Vec<u32> = picks.iter().map(id).collect();
                check(name, text, &ids);
            }
        });
    }

    #[test]
    fn texts_stop_wherever_they_are_cut(
        text in "[abé🙂]{0,30}", stops in proptest::collection::vec("[abé🙂]{1,5}", 0..4),
        cuts in proptest::collection::vec(1..5usize, 31),
    ) {
        let mut parts = StopStrings::new(&stops);
        let (mut told, mut ended) = (String::new(), false);
        let mut rest = text.chars().peekable();
        for size in cuts {
            let part: String = rest.by_ref().take(size).collect();
            match parts.push(&part) {
                Passed::On(more) => told.push_str(&more),
                Passed::Stopped(more) => {
                    told.push_str(&more);
                    ended = true;
                    break;
                }
            }
            // What is held back begins a stop string, or else it would have been told.
            let so_far: String = text.chars().take(text.chars().count() - rest.clone().count()).collect();
            let held = &so_far[told.len()..];
            prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)));
        }
        match stopped(&text, &stops) {
            Some(want) => prop_assert_eq!((told, ended), (want, true)),
            None => {
                told.push_str(&parts.finish());
                prop_assert_eq!((told, ended), (text, false));
            }
        }
    }
}
