//! The prefix tree: the same bits whatever company, chunks, forks, budget and threads; what is shared is
//! computed once; forking and rewinding compute and move nothing.

mod clips;

use std::path::Path;

use savi_engine::testing::{random_engine_with, random_text_engine_with};
use savi_engine::{Branch, Engine, EngineOptions, FeatureFolder, Node};
use savi_schema::{
    Completion, Continuation, CountRule, Generate, Media, MediaPolicy, Message, RawPrompt, Request,
    Role, Sampling, Score, ScoreRequest,
};

use clips::clip;

fn engine(options: EngineOptions) -> Engine {
    random_engine_with(1, 3, options).unwrap()
}

/// Requests of all kinds: shared and other starts, short and long, clips and words, one and many rows.
fn requests(dir: &Path) -> Vec<Request> {
    let clips = [clip(dir, "a", 40), clip(dir, "b", 200)];
    let words = ["left right up down", "which way", "red circle move red circle move which", "up"];
    (0..32)
        .map(|i| {
            let text = words[i % 4].repeat(1 + i % 3);
            let message = match i % 3 {
                0 => Message::text(Role::User, text),
                kind => Message::about_video(clips[kind - 1].clone(), text),
            };
            let sampling = |j: usize| Sampling {
                temperature: [0.0, 0.7, 1.3][(i + j) % 3],
                top_p: 0.95,
                repetition_penalty: if i % 5 == 0 { 1.2 } else { 1.0 },
                max_tokens: 3 + (7 * i + 3 * j) % 12,
                ..Sampling::default()
            };
            Request {
                id: format!("r{i}"),
                messages: vec![message],
                samplings: (0..1 + i % 4).map(sampling).collect(),
                seed: 5,
                ..Request::default()
            }
        })
        .collect()
}

fn all(engine: &Engine, requests: &[Request]) -> Vec<Vec<Completion>> {
    engine.generate(requests).unwrap()
}

#[test]
fn bits_depend_neither_on_company_nor_on_chunks_budget_or_threads() {
    let dir = tempfile::tempdir().unwrap();
    let requests = requests(dir.path());
    let together = engine(EngineOptions::default());
    let want = all(&together, &requests);
    assert!(want.iter().flatten().filter(|c| c.token_ids.len() > 3).count() > 30);
    // Again from what is cached, and one by one.
    assert_eq!(all(&together, &requests), want);
    let alone = engine(EngineOptions { prefix_sharing: false, ..EngineOptions::default() });
    for (request, want) in requests.iter().zip(&want) {
        assert_eq!(&all(&alone, std::slice::from_ref(request))[0], want, "{}", request.id);
    }
    assert_eq!(alone.counts().cached_tokens, 0);
    // Few rows: requests join whenever others leave. Small chunks: prompts come in beside decoding rows.
    for (max_rows, prefill_chunk) in [(5, 512), (192, 3), (7, 1)] {
        let options = EngineOptions { max_rows, prefill_chunk, ..EngineOptions::default() };
        assert_eq!(all(&engine(options), &requests), want, "{max_rows} {prefill_chunk}");
    }
    // A budget that holds a prompt or two: rows give up their caches and have them computed again.
    let small = engine(EngineOptions { kv_budget: 100_000, ..EngineOptions::default() });
    assert_eq!(all(&small, &requests), want);
    let counts = small.counts();
    assert!(counts.paused_rows > 0 && counts.evicted_nodes > 0, "{counts:?}");
    assert!(counts.kv_bytes <= 100_000, "{counts:?}");
    // What such rows left behind is found by those who go on from their texts, and is what they said.
    for options in [EngineOptions { kv_budget: 100_000, ..Default::default() }, Default::default()]
    {
        let engine = engine(options);
        all(&engine, &requests);
        for (request, want) in requests.iter().zip(&want) {
            let prompt = engine.prompt(&request.messages).unwrap();
            let ids = want.iter().map(|completion| completion.token_ids.clone()).collect();
            for (score, want) in engine.score_tokens(&prompt, ids).unwrap().iter().zip(want) {
                assert_eq!(score.logps, want.logps, "{}", request.id);
            }
            let longer = prompt.followed_by(&want[0].token_ids);
            let node = engine.open(longer.clone()).unwrap();
            let next = engine.next_logps(&[node]).unwrap();
            let other = alone.open(longer).unwrap();
            assert_eq!(next, alone.next_logps(&[other]).unwrap(), "{}", request.id);
        }
    }
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let got = pool.install(|| all(&engine(EngineOptions::default()), &requests));
        assert_eq!(got, want, "{threads} threads");
    }
}

fn opened(engine: &Engine, text: &str) -> Node {
    let prompt = engine.prompt(&[Message::text(Role::User, text)]).unwrap();
    engine.open(prompt).unwrap()
}

fn drawn(engine: &Engine, node: &Node) -> Vec<Completion> {
    let sampling = |temperature| Sampling { temperature, max_tokens: 9, ..Sampling::default() };
    let branch = Branch {
        node: node.clone(),
        samplings: vec![sampling(0.0), sampling(1.0), sampling(1.0)],
        id: "b".to_owned(),
        seed: 3,
    };
    engine.branch(&[branch]).unwrap().remove(0)
}

/// Whatever way leads to a text, what is drawn after it and the scores after it are the same.
#[test]
fn a_fork_at_any_place_and_a_rewind_give_the_bits_of_the_text_itself() {
    let text = "which way does the red circle move left right up down";
    let fresh = || engine(EngineOptions::default());
    let whole = fresh();
    let node = opened(&whole, text);
    let continuations = || vec![vec![40, 41, 42], vec![50], vec![], vec![40, 41, 60, 61]];
    for len in 1..=node.len() {
        let forked = node.rewind(len).unwrap();
        let ids = node.prompt().ids[..len].to_vec();
        let other = fresh();
        let apart = other.open(savi_engine::Prompt { ids, ..Default::default() }).unwrap();
        assert_eq!(drawn(&whole, &forked), drawn(&other, &apart), "{len}");
        let scores = whole.score_after(&forked, continuations()).unwrap();
        assert_eq!(scores, other.score_after(&apart, continuations()).unwrap(), "{len}");
        let extended = whole.extend(&forked, &[40, 41]).unwrap();
        assert_eq!(extended.len(), len + 2);
        let next = whole.next_logps(&[extended.clone(), forked]).unwrap();
        assert_eq!(next[0][42], scores[0].logps[2], "{len}");
        assert_eq!(next[1][50], scores[1].logps[0], "{len}");
        assert_eq!(next[0][60], scores[3].logps[2], "{len}");
    }
    // What was computed is dropped with the weights that it was computed with.
    let mut changed = fresh();
    let before = opened(&changed, text);
    let want = drawn(&changed, &before);
    changed.weights_changed().unwrap();
    assert_eq!(changed.counts().kv_bytes, 0);
    assert_eq!(drawn(&changed, &before), want);
}

#[test]
fn forks_and_rewinds_compute_and_hold_nothing() {
    let engine = engine(EngineOptions::default());
    let node = opened(&engine, &"left right ".repeat(30));
    let counts = engine.counts();
    assert_eq!(counts.computed_tokens, node.len() as u64);
    let forks: Vec<Node> = (0..1000).map(|_| node.clone()).collect();
    let rewound: Vec<Node> = (1..node.len()).map(|len| node.rewind(len).unwrap()).collect();
    assert_eq!(engine.counts(), counts);
    assert_eq!((forks.len(), rewound.len()), (1000, node.len() - 1));
    // Opening it again is free, and so is what stands before it.
    opened(&engine, &"left right ".repeat(30));
    assert_eq!(engine.counts().computed_tokens, counts.computed_tokens);
    // A thousand branches hold their own tokens, not the prompt's.
    let token = counts.kv_bytes / counts.computed_tokens;
    let branches: Vec<Vec<u32>> = (0..1000).map(|i| vec![20 + i % 200, 30 + i / 200, 7]).collect();
    for part in branches.chunks(100) {
        for ids in part {
            engine.extend(&node, ids).unwrap();
        }
    }
    let after = engine.counts();
    assert!(after.computed_tokens - counts.computed_tokens <= 3000);
    assert!(after.kv_bytes - counts.kv_bytes <= 3000 * token, "{after:?} {token}");
    for (len, what) in [(0, "0"), (node.len() + 1, "of")] {
        assert!(node.rewind(len).unwrap_err().to_string().contains(what));
    }
}

/// Prompts of one batch share what they have in common though nothing was cached before.
#[test]
fn what_prompts_of_a_batch_have_in_common_is_computed_once() {
    let engine = engine(EngineOptions::default());
    let start: Vec<u32> = (0..60).map(|i| 20 + i % 50).collect();
    let sampling = Sampling { max_tokens: 1, ..Sampling::default() };
    let request = |i: u32, len: usize| Request {
        id: format!("r{i}"),
        raw: Some(RawPrompt::Tokens([&start[..len], &[100 + i, 7, 8][..]].concat())),
        samplings: vec![sampling.clone(); 2],
        ..Request::default()
    };
    let asked: Vec<Request> = (0..6).map(|i| request(i, 60)).chain([request(9, 30)]).collect();
    all(&engine, &asked);
    assert_eq!(engine.counts().computed_tokens, 60 + 7 * 3);
}

/// Tokens that stand for visual tokens are nobody's words: whoever writes them is refused, and nobody else is.
#[test]
fn a_request_that_cannot_be_served_fails_alone() {
    let engine = engine(EngineOptions::default());
    let request = |id: &str, ids: Vec<u32>, forced: Vec<u32>| Request {
        id: id.to_owned(),
        raw: Some(RawPrompt::Tokens(ids)),
        samplings: vec![Sampling { max_tokens: 4, forced_tokens: forced, ..Sampling::default() }],
        ..Request::default()
    };
    let asked = [
        request("good", vec![40, 41], vec![50]),
        request("stands for nothing", vec![40, 3, 41], vec![]),
        request("unknown", vec![40, 7000], vec![]),
        request("forced to show", vec![40], vec![3]),
        request("forced outside", vec![40], vec![7000]),
        request("also good", vec![42], vec![]),
    ];
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let told = |number: usize, event| {
        match event {
            savi_schema::Event::Done { .. } => done.push(number),
            savi_schema::Event::Failed(error) => failed.push((number, error.to_string())),
            _ => {}
        }
        true
    };
    engine.follow(asked.clone(), false, told).unwrap();
    done.sort_unstable();
    assert_eq!(done, [0, 5]);
    assert_eq!(failed.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (number, error) in failed {
        assert!(error.contains(&asked[number].id), "{error}");
    }
    let placeholder = || savi_engine::Prompt { ids: vec![40, 3], ..Default::default() };
    assert!(engine.open(placeholder()).is_err());
    assert!(engine.score_tokens(&placeholder(), vec![vec![40]]).is_err());
    let before = savi_engine::Prompt { ids: vec![40], ..Default::default() };
    assert!(engine.score_tokens(&before, vec![vec![41, 3, 40]]).is_err());
}

/// Models whose rotation depends on the length share nothing: no budget, however small, loses a completion.
#[test]
fn rows_that_are_computed_whole_end_under_any_budget() {
    let long = serde_json::json!({"rope_scaling": {
        "type": "longrope", "original_max_position_embeddings": 26,
        "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.2, 2.0, 3.0, 4.0],
    }});
    let ask = |kv_budget| {
        let options = EngineOptions { kv_budget, ..EngineOptions::default() };
        let engine = random_text_engine_with(3, &long, options).unwrap();
        let sampling = Sampling { temperature: 1.0, max_tokens: 14, ..Sampling::default() };
        let request = |i: u32| Request {
            id: format!("r{i}"),
            raw: Some(RawPrompt::Tokens((0..18).map(|j| 20 + i + j).collect())),
            samplings: vec![sampling.clone(); 3],
            ..Request::default()
        };
        all(&engine, &(0..4).map(request).collect::<Vec<_>>())
    };
    let got = ask(1);
    assert_eq!(got, ask(1 << 30));
    assert!(got.iter().all(|of| of.len() == 3));
}

/// Verdicts are few tokens: their labels are scored in one pass after the prompt, and sampling agrees.
#[test]
fn labels_of_several_tokens_are_scored_in_one_pass() {
    let engine = engine(EngineOptions::default());
    let messages = vec![Message::text(Role::User, "which way")];
    let continuations = ["left", "right up", "x y z", "left"].map(Continuation::from).to_vec();
    let request = ScoreRequest { messages, continuations, ..ScoreRequest::default() };
    let scores = engine.score(std::slice::from_ref(&request)).unwrap().remove(0);
    assert_eq!(scores[0], scores[3]);
    let prompt = engine.prompt(&request.messages).unwrap();
    let tokens: usize = scores.iter().map(|score| score.token_ids.len() - 1).sum();
    assert_eq!(engine.counts().computed_tokens, (prompt.ids.len() + tokens) as u64);
    assert!(scores.iter().flat_map(|s| &s.logps).all(|&logp| logp < 0.0));
}

/// Alone, a text is scored from its second token on: this tokenizer puts nothing before it.
#[test]
fn a_text_is_scored_with_and_without_what_stands_before_it() {
    let engine = engine(EngineOptions::default());
    let text = "left right up".to_owned();
    let ids = engine.text().encode(&text).unwrap();
    let request = ScoreRequest {
        raw: Some(RawPrompt::Text(String::new())),
        continuations: vec![text.into(), "".into()],
        ..ScoreRequest::default()
    };
    let scores = engine.score(std::slice::from_ref(&request)).unwrap().remove(0);
    let first = savi_engine::Prompt { ids: vec![ids[0]], ..Default::default() };
    let want = engine.score_tokens(&first, vec![ids[1..].to_vec()]).unwrap().remove(0);
    assert_eq!(scores[0], want);
    assert!((want.perplexity() - (-want.sum() / want.logps.len() as f64).exp()).abs() < 1e-9);
    assert!(scores[1].token_ids.is_empty());
}

#[test]
fn visual_tokens_are_found_by_content_and_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let folder = FeatureFolder { dir: dir.path().join("features"), max_bytes: 1 << 20 };
    let options =
        EngineOptions { feature_folder: Some(folder.clone()), ..EngineOptions::default() };
    let (a, b) = (clip(dir.path(), "a", 40), clip(dir.path(), "b", 200));
    let ask = |engine: &Engine, media: &Media| {
        let request = Request {
            id: "q".to_owned(),
            messages: vec![Message::about_video(media.clone(), "which way")],
            samplings: vec![Sampling { max_tokens: 4, ..Sampling::default() }],
            ..Request::default()
        };
        all(engine, &[request]).remove(0)
    };
    let first = engine(options.clone());
    let want = ask(&first, &a);
    assert_ne!(ask(&first, &b), want);
    // The same frames under another name.
    assert_eq!(ask(&first, &clip(dir.path(), "again", 40)), want);
    assert_eq!((first.counts().clips_encoded, first.counts().clips_from_disk), (2, 0));
    let files = || std::fs::read_dir(&folder.dir).unwrap().count();
    assert_eq!(files(), 2);
    let second = engine(options.clone());
    assert_eq!(ask(&second, &a), want);
    assert_eq!((second.counts().clips_encoded, second.counts().clips_from_disk), (0, 1));
    // Other frames of the clip, and other weights, are something else.
    let policy = MediaPolicy::count(3, CountRule::SegmentStart);
    ask(&second, &Media { policy: Some(policy), ..a.clone() });
    assert_eq!(second.counts().clips_encoded, 1);
    let other = random_engine_with(2, 3, options.clone()).unwrap();
    ask(&other, &a);
    assert_eq!(other.counts().clips_encoded, 1);
    // A changed file is seen anew; a damaged one of ours is made anew.
    clip(dir.path(), "a", 41);
    assert_ne!(ask(&second, &a), want);
    for file in std::fs::read_dir(&folder.dir).unwrap() {
        std::fs::write(file.unwrap().path(), b"torn").unwrap();
    }
    let third = engine(options);
    ask(&third, &b);
    assert_eq!((third.counts().clips_encoded, third.counts().clips_from_disk), (1, 0));
    // The bound holds.
    let size = |folder: &FeatureFolder| -> u64 {
        std::fs::read_dir(&folder.dir).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum()
    };
    let small = FeatureFolder { dir: dir.path().join("small"), max_bytes: 20_000 };
    let options = EngineOptions { feature_folder: Some(small.clone()), ..EngineOptions::default() };
    let fourth = engine(options);
    for shade in 0..8 {
        ask(&fourth, &clip(dir.path(), "many", 60 + shade));
    }
    assert_eq!(fourth.counts().clips_encoded, 8);
    assert!(size(&small) <= 20_000, "{}", size(&small));
}
