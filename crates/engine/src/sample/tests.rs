use std::path::Path;

use serde_json::Value;

use super::*;

fn context<'a>(prompt: &'a [u32], generated: &'a [u32]) -> Context<'a> {
    Context { prompt, generated, banned: &[], ends: &[], allowed: None }
}

/// Log-probabilities that are left, by token.
fn left(logits: &[f32], sampling: &Sampling, context: Context<'_>) -> Vec<Option<f64>> {
    let mut logits = logits.to_vec();
    penalties::apply(&mut logits, sampling, context);
    let kept = cuts::weights(&logits, sampling);
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let mut all = vec![None; logits.len()];
    for (token, weight) in kept {
        all[token as usize] = Some((weight / total).ln());
    }
    all
}

#[test]
fn distributions_are_those_of_transformers() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/sampling/cases.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokens = |key: &str| serde_json::from_value::<Vec<u32>>(golden[key].clone()).unwrap();
    let (prompt, continuation) = (tokens("prompt"), tokens("continuation"));
    for case in golden["cases"].as_array().unwrap() {
        let sampling: Sampling = serde_json::from_value(case["sampling"].clone()).unwrap();
        let logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        let want: Vec<Option<f64>> = serde_json::from_value(case["logps"].clone()).unwrap();
        let got = left(&logits, &sampling, context(&prompt, &continuation));
        for (token, (got, want)) in got.iter().zip(&want).enumerate() {
            let same = match (got, want) {
                (Some(got), Some(want)) => (got - want).abs() < 1e-4,
                (got, want) => got.is_none() && want.is_none(),
            };
            assert!(same, "{}: token {token}: {got:?}, not {want:?}", case["sampling"]);
        }
    }
}

/// OpenAI's formula for presence and frequency, SELF-ALIGN's for n-grams, by hand.
#[test]
fn penalties_count_the_continuation_alone() {
    let greedy = Sampling::default();
    let of = |sampling: Sampling| {
        let mut logits = vec![1.0f32; 6];
        penalties::apply(&mut logits, &sampling, context(&[5, 5], &[1, 2, 3, 1, 2, 3, 1, 2]));
        logits
    };
    let presence = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..greedy.clone() };
    assert_eq!(of(presence), [1.0, -0.25, -0.25, 0.0, 1.0, 1.0]);
    // The tri-gram 1 2 3 is there twice, the bi-gram 2 3 too.
    let ngrams = [(2, 0.25), (3, 1.0), (4, 2.0)].into_iter().collect();
    let ngrams = Sampling { ngram_penalties: ngrams, ..greedy.clone() };
    assert_eq!(of(ngrams), [1.0, 1.0, 1.0, 1.0 - 0.5 - 2.0 - 2.0, 1.0, 1.0]);
    let banned = Sampling { banned_tokens: vec![0, 99], ..greedy };
    assert_eq!(of(banned), [f32::NEG_INFINITY, 1.0, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn nothing_ends_too_early_and_what_is_forced_comes_first() {
    let rng = &mut savi_nn::rng::stream(0, &[]);
    let sampling = Sampling { min_tokens: 2, forced_tokens: vec![4], ..Sampling::default() };
    let of = |generated: &[u32], rng: &mut _| {
        let context = Context { ends: &[1], banned: &[3], ..context(&[], generated) };
        draw(vec![0.0, 9.0, 5.0, 99.0, 1.0], &sampling, context, rng).unwrap().token
    };
    assert_eq!((of(&[], rng), of(&[4], rng), of(&[4, 2], rng)), (4, 2, 1));
}

#[test]
fn ties_go_to_the_smaller_token() {
    let tie = draw(
        vec![0.0, 3.0, 3.0],
        &Sampling::default(),
        context(&[], &[]),
        &mut savi_nn::rng::stream(0, &[]),
    );
    assert_eq!(tie.unwrap().token, 1);
}

/// What is told of a draw is its log-probability in what was left.
#[test]
fn log_probabilities_are_those_of_what_is_left() {
    let logits = [1.0f32, 2.0, 0.5, -1.0, 1.5, 0.2, -0.4];
    let sampling = Sampling { temperature: 0.8, top_p: 0.9, ..Sampling::default() };
    let exact = left(&logits, &sampling, context(&[0, 4], &[1, 0]));
    let mut rng = savi_nn::rng::stream(5, &["told"]);
    for _ in 0..200 {
        let drawn = draw(logits.to_vec(), &sampling, context(&[0, 4], &[1, 0]), &mut rng).unwrap();
        let told = f64::from(drawn.logp);
        assert!((told - exact[drawn.token as usize].unwrap()).abs() < 1e-5);
    }
    let greedy = draw(logits.to_vec(), &Sampling::default(), context(&[], &[]), &mut rng).unwrap();
    assert_eq!(greedy, Drawn { token: 1, logp: 0.0 });
    let banned = Sampling { banned_tokens: (0..7).collect(), ..sampling };
    assert_eq!(draw(logits.to_vec(), &banned, context(&[], &[]), &mut rng), None);
}

/// A nucleus that is wider than what is looked at first.
#[test]
fn a_wide_nucleus_is_whole() {
    let logits: Vec<f32> = (0..3000).map(|i| (i % 7) as f32 * 1e-3).collect();
    let sampling = Sampling { temperature: 1.0, top_p: 0.5, ..Sampling::default() };
    let kept = cuts::weights(&logits, &sampling);
    let mut all = cuts::weights(&logits, &Sampling { top_p: 1.0, ..sampling });
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    assert!((1400..1500).contains(&kept.len()));
    assert_eq!(kept, all[..kept.len()]);
}
