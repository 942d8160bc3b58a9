use std::collections::{BTreeSet, HashSet};

use super::*;
use crate::text::TextFiles;
use crate::train_tokenizer;

/// Byte-level BPE with merges across characters, half characters, and an end.
fn byte_level() -> TextModel {
    let corpus =
        ["yes yesterday no none nothing", "{\"name\": true} false null", "日本 día día 日本"];
    let tokenizer = train_tokenizer(corpus.iter().map(ToString::to_string), 300).unwrap();
    let files = TextFiles { tokenizer, eos_ids: vec![0], ..TextFiles::default() };
    TextModel::new(&files, None).unwrap()
}

/// SentencePiece in the manner of Llama 2: blanks as ▁, bytes beside pieces of the same bytes, and decoding takes the
/// blank off a text's start.
fn pieces(strip: bool) -> TextModel {
    let mut words: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    words.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let more = [
        "▁", "▁▁", "▁yes", "yes", "ye", "▁y", "s", "no", "▁no", "o▁", "\"", "日", "true", "▁true",
        "a", "1",
    ];
    words.extend(more.map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
    let special = |id: usize| {
        json!({"id": id, "content": words[id], "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strip {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "added_tokens": [special(0), special(1), special(2)],
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": []},
    });
    let files = TextFiles {
        tokenizer: file.to_string().into_bytes(),
        eos_ids: vec![2],
        ..TextFiles::default()
    };
    TextModel::new(&files, None).unwrap()
}

fn sampling(constraint: Constraint) -> Sampling {
    Sampling { constraint: Some(constraint), ..Sampling::default() }
}

/// Bytes of a text as decoding gives them, halves of characters kept.
fn bytes(text: &TextModel, ids: &[u32]) -> Vec<u8> {
    let all = ids.iter().flat_map(|&id| match text.vocabulary().word(id) {
        Word::Special(_) | Word::None => &[],
        _ => text.token_bytes(id),
    });
    let all: Vec<u8> = all.copied().collect();
    match (&text.vocabulary().joining, &all[..]) {
        (Joining::Pieces(_, 1), [b' ', rest @ ..]) => rest.to_vec(),
        _ => all,
    }
}

/// Walks every way to cut every text of `language` into tokens, up to `most` places; in each the mask has to be what trying
/// every token against every text says. Gives the texts that can be ended.
fn check(
    text: &TextModel,
    constraint: &Constraint,
    language: &[&str],
    most: usize,
) -> BTreeSet<String> {
    let end = text.ends()[0];
    let mut seen = HashSet::new();
    let mut ended = BTreeSet::new();
    let mut open: Vec<Vec<u32>> = vec![Vec::new()];
    while let Some(ids) = open.pop() {
        // What may follow depends on the text and on whether it is begun, not on how it was cut.
        if !seen.insert((ids.is_empty(), bytes(text, &ids))) || seen.len() > most {
            continue;
        }
        let mut follower = text.follow(&sampling(constraint.clone())).unwrap().unwrap();
        for &id in &ids {
            follower.take(id).unwrap();
        }
        let so_far = bytes(text, &ids);
        let complete = language.iter().any(|whole| whole.as_bytes() == so_far);
        assert_eq!(follower.is_complete(), complete, "{so_far:?}");
        let mut only_end = complete;
        for token in 0..text.vocabulary().len() as u32 {
            let special = matches!(text.vocabulary().word(token), Word::Special(_) | Word::None);
            let longer = bytes(text, &[&ids[..], &[token]].concat());
            let fits =
                !special && language.iter().any(|whole| whole.as_bytes().starts_with(&longer));
            let allowed = follower.allowed().allows(token);
            let want = if token == end { complete } else { fits };
            assert_eq!(allowed, want, "token {token} {longer:?} after {so_far:?}");
            if fits {
                only_end = false;
                open.push([&ids[..], &[token]].concat());
            }
        }
        assert_eq!(follower.is_over(), only_end, "{so_far:?}");
        if complete {
            ended.insert(text.decode(&ids).unwrap());
        }
    }
    ended
}

#[test]
fn masks_are_those_of_trying_every_token() {
    let choice = Constraint::Choice(
        ["yes", "yesterday", "no", "日本", "día \"1\"\\\n"].map(str::to_owned).into(),
    );
    let words = ["yes", "yesterday", "no", "日本", "día \"1\"\\\n"];
    let blanks = Constraint::Choice(["", " yes", "yes", "  no"].map(str::to_owned).into());
    let regex = Constraint::Regex("(ye|no)s?/?".to_owned());
    let regular = ["ye", "yes", "no", "nos", "ye/", "yes/", "no/", "nos/"];
    let schema =
        json!({"enum": [true, "yes", 1, null], "x-guidance": {"whitespace_flexible": false}});
    let lark =
        Constraint::Grammar("start: a \"s\"?\na: \"ye\" | \"(\" a \")\" | b\nb: \"no\"".to_owned());
    let nested = [
        "ye", "no", "yes", "nos", "(ye)", "(no)", "(ye)s", "(no)s", "((ye))", "((no))", "((ye))s",
        "((no))s",
    ];
    for text in [byte_level(), pieces(true), pieces(false)] {
        let of = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(check(&text, &choice, &words, 1000), of(&words));
        assert_eq!(
            check(&text, &blanks, &["", " yes", "yes", "  no"], 1000),
            of(&["", " yes", "yes", "  no"])
        );
        assert_eq!(check(&text, &regex, &regular, 1000), of(&regular));
        let json = ["true", "\"yes\"", "1", "null"];
        assert_eq!(check(&text, &Constraint::JsonSchema(schema.clone()), &json, 1000), of(&json));
        // The grammar has no end; its first 40 places only lie in these texts.
        let follower = |ids: &[u32]| {
            let mut follower = text.follow(&sampling(lark.clone())).unwrap().unwrap();
            ids.iter().for_each(|&id| follower.take(id).unwrap());
            follower
        };
        for whole in nested {
            let ids = text.encode(whole).unwrap();
            assert!(follower(&ids).is_complete(), "{whole}");
            assert_eq!(text.decode(&ids).unwrap(), whole);
        }
    }
}

/// The end of a text comes by the model's own tokens, by those of the request, or, with `ignore_eos`, by the latter only.
#[test]
fn tokens_that_end_come_where_the_text_may_end() {
    let text = byte_level();
    let (own, stop) = (0, text.encode("e").unwrap()[0]);
    let of = |ignore_eos: bool, words: &str| {
        let sampling = Sampling {
            stop_token_ids: vec![stop],
            ignore_eos,
            ..sampling(Constraint::Regex("no(ne)*".to_owned()))
        };
        let mut follower = text.follow(&sampling).unwrap().unwrap();
        // Single bytes are tokens.
        for byte in words.chars() {
            follower.take(text.encode(&byte.to_string()).unwrap()[0]).unwrap();
        }
        (follower.allowed().allows(own), follower.allowed().allows(stop), follower.is_over())
    };
    assert_eq!(of(false, "no"), (true, true, false));
    assert_eq!(of(true, "no"), (false, true, false));
    // Elsewhere the request's token is a letter like any other.
    assert_eq!(of(false, "non"), (false, true, false));
    assert_eq!(of(false, "none"), (true, true, false));
}

#[test]
fn what_cannot_be_followed_is_said() {
    let text = byte_level();
    let refused = |constraint: Constraint| {
        text.follow(&sampling(constraint)).err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (constraint, wants) in [
        (Constraint::Regex("a(b".to_owned()), ["constraint.regex", "unclosed"]),
        (Constraint::Regex("(?=a)b".to_owned()), ["constraint.regex", "look-around"]),
        (
            Constraint::JsonSchema(json!({"type": "nonsense"})),
            ["constraint.json_schema", "nonsense"],
        ),
        (
            Constraint::JsonSchema(json!({"$ref": "#/$defs/none"})),
            ["constraint.json_schema", "none"],
        ),
        (
            Constraint::JsonSchema(json!({"type": "string", "contentEncoding": 1, "if": {}})),
            ["constraint.json_schema", "if"],
        ),
        (Constraint::JsonSchema(json!(false)), ["constraint.json_schema", "nsatisfiable"]),
        (Constraint::JsonSchema(json!(7)), ["constraint.json_schema", "object or boolean"]),
        (Constraint::Grammar("start: thing".to_owned()), ["constraint.grammar", "thing"]),
        (Constraint::Grammar("start: \"a".to_owned()), ["constraint.grammar", "1"]),
    ] {
        let error = refused(constraint.clone());
        assert!(wants.iter().all(|want| error.contains(want)), "{constraint:?}: {error:?}");
        assert!(!error.contains("<"), "{error}");
    }
    let mut follower = text.follow(&sampling(Constraint::Regex("ab".to_owned()))).unwrap().unwrap();
    let error = follower.take(text.encode("x").unwrap()[0]).unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
    // A tokenizer whose decoder is a way of its own.
    let mut whole = text.tokenizer.clone();
    whole.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    let tokenizer = whole.to_string(false).unwrap().into_bytes();
    let files = TextFiles { tokenizer, ..TextFiles::default() };
    let whole = TextModel::new(&files, None).unwrap();
    let error = whole.follow(&sampling(Constraint::JsonObject)).unwrap_err().to_string();
    assert!(error.contains("decodes texts as a whole"), "{error}");
}
