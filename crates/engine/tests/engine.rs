//! What the engine promises: the same bits alone and in a batch, from a fresh and from a cached
//! prefix, with any number of threads; sampling and scoring agree exactly; a clip is computed once.

mod clips;

use std::collections::HashSet;
use std::path::Path;

use savi_engine::testing::{random_engine, random_text_engine};
use savi_engine::{Engine, Prompt, StoredDType};
use savi_schema::{
    Completion, Generate, Media, Message, Request, Role, Sampling, Score, ScoreRequest,
};

use clips::clip;

fn request(id: &str, media: &Media, words: &str, temperatures: &[f64]) -> Request {
    let sampling =
        |&temperature| Sampling { temperature, top_p: 0.95, max_tokens: 12, ..Sampling::default() };
    Request {
        id: id.to_owned(),
        messages: vec![Message::about_video(media.clone(), words)],
        raw: None,
        samplings: temperatures.iter().map(sampling).collect(),
        seed: 5,
    }
}

fn requests(dir: &Path) -> Vec<Request> {
    let (a, b) = (clip(dir, "a", 40), clip(dir, "b", 200));
    vec![
        request("q1", &a, "which way does the red circle move", &[0.0, 0.5, 1.0]),
        request("q2", &a, "left", &[1.0, 1.0]),
        request("q3", &b, "which way does the red circle move", &[0.0, 1.0]),
        request("q4", &b, "up down", &[0.7]),
    ]
}

fn all(engine: &Engine, requests: &[Request]) -> Vec<Vec<Completion>> {
    engine.generate(requests).unwrap()
}

#[test]
fn completions_have_the_same_bits_alone_in_a_batch_and_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let requests = requests(dir.path());
    let batch = all(&random_engine(1, 3).unwrap(), &requests);
    assert!(batch.iter().flatten().any(|c| c.token_ids.len() > 3));
    for (request, together) in requests.iter().zip(&batch) {
        let alone = all(&random_engine(1, 3).unwrap(), std::slice::from_ref(request));
        assert_eq!(&alone[0], together);
    }
    let engine = random_engine(1, 3).unwrap();
    let mut backwards: Vec<Request> = requests.clone();
    backwards.reverse();
    let mut reversed = all(&engine, &backwards);
    reversed.reverse();
    assert_eq!(reversed, batch);
    // And again from the cached prefixes.
    assert_eq!(all(&engine, &requests), batch);
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one_thread.install(|| all(&random_engine(1, 3).unwrap(), &requests)), batch);
}

/// Six questions about a clip, five candidates for each, a verdict on each question: every distinct start of
/// all those prompts goes through the decoder once, the clip through the tower once.
#[test]
fn a_clip_is_prefilled_once_for_all_questions_candidates_and_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let media = clip(dir.path(), "a", 90);
    let engine = random_engine(1, 3).unwrap();
    let (mut asked, mut drawn) = (Vec::new(), 0);
    for i in 0..6 {
        let words = format!("which way {i}");
        asked.push(request(&format!("q{i}"), &media, &words, &[0.3, 0.5, 0.7, 0.9, 1.0]));
    }
    for i in 0..6 {
        asked.push(request(&format!("v{i}"), &media, &format!("left right {i}"), &[0.0]));
    }
    for requests in [&asked[..6], &asked[6..]] {
        for completion in all(&engine, requests).iter().flatten() {
            drawn += completion.token_ids.len() - 1;
        }
    }
    let prompts: Vec<Vec<u32>> =
        asked.iter().map(|request| engine.prompt(&request.messages).unwrap().ids).collect();
    let starts = |prompts: &[Vec<u32>]| {
        let starts = prompts.iter().flat_map(|ids| (1..=ids.len()).map(|len| ids[..len].to_vec()));
        starts.collect::<HashSet<_>>().len() as u64
    };
    let counts = engine.counts();
    assert_eq!(counts.clips_encoded, 1);
    assert_eq!(counts.computed_tokens, starts(&prompts));
    assert_eq!(counts.decoded_tokens, drawn as u64);
    assert!(counts.computed_tokens * 2 < counts.prompt_tokens, "{counts:?}");
    // Asked again, nothing is computed but the answers.
    all(&engine, &asked);
    assert_eq!(engine.counts().computed_tokens, counts.computed_tokens);
    assert_eq!(engine.counts().clips_encoded, 1);
}

#[test]
fn sampling_and_scoring_log_probabilities_are_equal() {
    let dir = tempfile::tempdir().unwrap();
    let engine = random_engine(2, 3).unwrap();
    let mut compared = 0;
    for mut request in requests(dir.path()) {
        // Short and many: some draws are texts that are read back as the same tokens.
        let short = Sampling { temperature: 1.0, max_tokens: 1, ..Sampling::default() };
        request.samplings = vec![short; 24];
        for completion in all(&engine, std::slice::from_ref(&request)).remove(0) {
            let continuations = vec![completion.text.as_str().into(), "left".into()];
            let score = engine
                .score(&[ScoreRequest {
                    messages: request.messages.clone(),
                    continuations,
                    ..ScoreRequest::default()
                }])
                .unwrap()
                .remove(0);
            // A text may have several tokenisations; where it has the drawn one, the bits agree.
            let drawn =
                &completion.token_ids[..score[0].token_ids.len().min(completion.token_ids.len())];
            if score[0].token_ids == drawn {
                assert_eq!(score[0].logps, completion.logps[..drawn.len()]);
                compared += usize::from(!drawn.is_empty());
            }
        }
    }
    assert!(compared > 0);
}

#[test]
fn a_saved_model_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let engine = random_engine(3, 3).unwrap();
    engine.save(&dir.path().join("model"), StoredDType::F32).unwrap();
    let options = savi_engine::EngineOptions { device: "cpu".into(), ..Default::default() };
    let again = Engine::load(&dir.path().join("model").to_string_lossy(), &options).unwrap();
    assert_eq!(engine.fingerprint(), again.fingerprint());
    let requests = requests(dir.path());
    assert_eq!(all(&engine, &requests), all(&again, &requests));
}

#[test]
fn bad_requests_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let engine = random_engine(1, 3).unwrap();
    let missing =
        Media { source: dir.path().join("none.mp4").to_string_lossy().into_owned(), policy: None };
    let error = engine.generate(&[request("q7", &missing, "x", &[0.0])]).unwrap_err().to_string();
    assert!(error.contains("q7") && error.contains("none.mp4"), "{error}");
    let media = clip(dir.path(), "a", 1);
    let sly = request("q8", &media, "a <video> b", &[0.0]);
    assert!(engine.generate(&[sly]).unwrap_err().to_string().contains("q8"));
    let mut long = request("q9", &media, "x", &[0.0]);
    long.messages.push(Message::text(Role::User, "left ".repeat(600)));
    assert!(engine.generate(&[long]).unwrap_err().to_string().contains("do not fit"));
    let unknown = Engine::load("no/such/model", &Default::default()).unwrap_err().to_string();
    assert!(unknown.contains("no/such/model"), "{unknown}");
}

/// Where tokens are rotated by the length of the sequence, every drawn token has the log-probability
/// that it has after all before it, computed whole: beyond the training length, too.
#[test]
fn sequences_outgrow_the_length_that_their_rotation_was_made_for() {
    let dynamic = serde_json::json!({
        "max_position_embeddings": 512,
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
    });
    let long = serde_json::json!({"rope_scaling": {
        "type": "longrope", "original_max_position_embeddings": 26,
        "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.2, 2.0, 3.0, 4.0],
    }});
    for (config, crosses) in [(dynamic, false), (long, true)] {
        let engine = random_text_engine(3, &config).unwrap();
        assert_eq!(engine.model().rotates_anew(20, 40), crosses);
        let request = Request {
            id: "a".to_owned(),
            messages: vec![Message::text(Role::User, "left right up")],
            raw: None,
            samplings: vec![
                Sampling { temperature: 1.0, max_tokens: 14, ..Sampling::default() };
                2
            ],
            seed: 5,
        };
        let prompt = engine.prompt(&request.messages).unwrap();
        assert!((14..26).contains(&prompt.ids.len()), "{}", prompt.ids.len());
        for completion in &all(&engine, std::slice::from_ref(&request))[0] {
            assert!(!crosses || prompt.ids.len() + completion.token_ids.len() > 28);
            for (i, &token) in completion.token_ids.iter().enumerate() {
                let ids = [&prompt.ids, &completion.token_ids[..i]].concat();
                // A sequence is scored with the rotation of its whole length, the last token included.
                if engine.model().rotates_anew(ids.len(), ids.len() + 1) {
                    continue;
                }
                let before = Prompt { ids, ..Prompt::default() };
                let score = &engine.score_tokens(&before, vec![vec![token]]).unwrap()[0];
                let apart = (score.logps[0] - completion.logps[i]).abs();
                assert!(apart < 1e-5, "token {i}: {apart}");
            }
        }
    }
}
