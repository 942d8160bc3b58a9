//! Simulations: 95 % intervals cover in 95 % of draws, and tests at 5 % are wrong in 5 % of them.
//!
//! Clusters have 1 to 9 questions; answers of one are drawn by Polya's urn, so that their sum is
//! beta-binomial with a stated correlation within clusters. All draws are seeded.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use savi_judge::order::seeded_rng;

use super::wilson::share_interval;
use super::{Bootstrap, Clustered, Outcome, Pairs, mean, wilson};

/// The largest error of a simulated rate that draws alone explain: four standard deviations.
fn noise(rate: f64, draws: usize) -> f64 {
    4.0 * (rate * (1.0 - rate) / draws as f64).sqrt()
}

fn assert_rate(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{what}: {got} is not {expected} +- {tolerance}");
}

/// Answers to one cluster's questions: right with chance `rate`, correlated by `correlation` below 1.
fn urn(questions: usize, rate: f64, correlation: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let balls = (1.0 - correlation) / correlation.max(1e-9);
    let mut right = 0.0;
    (0..questions)
        .map(|drawn| {
            let chance = (balls * rate + right) / (balls + drawn as f64);
            let answer = f64::from(u8::from(rng.random::<f64>() < chance));
            right += answer;
            answer
        })
        .collect()
}

fn clusters(count: usize, rate: f64, correlation: f64, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    (0..count).map(|cluster| urn(1 + 4 * cluster % 9, rate, correlation, rng)).collect()
}

fn sums(clusters: &[Vec<f64>]) -> Vec<(f64, f64)> {
    clusters.iter().map(|answers| (answers.iter().sum(), answers.len() as f64)).collect()
}

fn run(clusters: &[Vec<f64>]) -> Vec<Outcome> {
    super::golden_tests::outcomes(clusters)
}

fn holds([low, high]: [f64; 2], rate: f64) -> bool {
    low <= rate && rate <= high
}

/// The share of `draws` for which `drawn` is true.
fn share(name: &str, draws: usize, drawn: impl Fn(&mut ChaCha8Rng) -> bool) -> f64 {
    let mut rng = seeded_rng(17, &["coverage", name]);
    (0..draws).filter(|_| drawn(&mut rng)).count() as f64 / draws as f64
}

#[test]
fn wilson_covers_shares() {
    for n in [50u64, 500] {
        for rate in [0.05, 0.5, 0.9] {
            let name = format!("{n} at {rate}");
            let draws = 4000;
            let covered = share(&name, draws, |rng| {
                let right = (0..n).filter(|_| rng.random::<f64>() < rate).count() as u64;
                holds(wilson(right, n), rate)
            });
            // What it covers exactly: the chances of the counts whose interval holds the rate. It goes up and
            // down around 95 % with n and rate (Brown, Cai and DasGupta, Statistical Science 16(2), 2001).
            let (mut log_chance, mut exact) = (n as f64 * (1.0f64 - rate).ln(), 0.0);
            for right in 0..=n {
                exact += if holds(wilson(right, n), rate) { log_chance.exp() } else { 0.0 };
                let odds = rate / (1.0 - rate) * (n - right) as f64 / (right + 1) as f64;
                log_chance += odds.ln();
            }
            assert_rate(&name, exact, 0.95, 0.025);
            assert_rate(&name, covered, exact, noise(exact, draws));
        }
    }
}

/// Coverage of the interval of a table, of Student's t and of the bootstrap.
fn coverages(
    count: usize,
    rate: f64,
    correlation: f64,
    draws: usize,
    resamples: usize,
) -> [f64; 3] {
    let name = format!("{count} at {rate} and {correlation}");
    let of = |covers: &dyn Fn(&[Vec<f64>]) -> bool| {
        share(&name, draws, |rng| covers(&clusters(count, rate, correlation, rng)))
    };
    let clustered = |answers: &[Vec<f64>]| Clustered::of(&sums(answers)).unwrap();
    let bootstrap = Bootstrap { resamples, seed: 0 };
    [
        of(&|answers| holds(share_interval(&clustered(answers)), rate)),
        of(&|answers| holds(clustered(answers).ci95(), rate)),
        of(&|answers| resamples > 0 && holds(mean(&run(answers), &bootstrap).unwrap().ci95, rate)),
    ]
}

#[test]
fn clustered_intervals_cover() {
    let draws = 2000;
    for count in [20, 100] {
        for rate in [0.05, 0.5, 0.9] {
            let [table, t, _] = coverages(count, rate, 0.2, draws, 0);
            // An approximation: two points of slack, beside the noise of the draws.
            assert_rate(
                &format!("table, {count} at {rate}"),
                table,
                0.95,
                0.02 + noise(0.95, draws),
            );
            if rate == 0.5 {
                assert_rate(&format!("t, {count}"), t, 0.95, 0.02 + noise(0.95, draws));
            }
        }
    }
}

#[test]
fn the_bootstrap_covers_too_little_with_few_clusters() {
    let draws = 400;
    let [table, t, bootstrap] = coverages(20, 0.05, 0.2, draws, 300);
    assert!(table > 0.95 - noise(0.95, draws), "{table}");
    assert!(bootstrap < 0.9 && t < 0.9, "{bootstrap} {t}");
}

/// One pair of runs that do not differ: which of the two gets which answers is a coin's business.
fn alike(count: usize, rng: &mut ChaCha8Rng) -> Pairs {
    let of = |rng: &mut ChaCha8Rng| run(&clusters(count, 0.7, 0.3, rng));
    Pairs::new(&of(rng), &of(rng)).unwrap()
}

#[test]
fn tests_at_five_percent_are_wrong_in_five() {
    for (count, draws) in [(12, 1000), (20, 1000), (100, 400)] {
        let flips = share("flips", draws, |rng| alike(count, rng).sign_flip(199, 0) <= 0.05);
        // Ties make it a little careful: whole answers have few different sums.
        assert!(flips <= 0.05 + noise(0.05, draws) && flips > 0.02, "flips, {count}: {flips}");
        let t = share("t", draws, |rng| alike(count, rng).t_test().unwrap().p <= 0.05);
        assert_rate(&format!("t, {count}"), t, 0.05, noise(0.05, draws));
    }
    let draws = 2000;
    let mcnemar = share("mcnemar", draws, |rng| {
        let mut single = || run(&(0..200).map(|_| urn(1, 0.7, 0.0, rng)).collect::<Vec<_>>());
        Pairs::new(&single(), &single()).unwrap().mcnemar().unwrap() <= 0.05
    });
    // Exact and so never above its level; below it, because counts are whole.
    assert!(mcnemar <= 0.05 + noise(0.05, draws) && mcnemar > 0.02, "McNemar: {mcnemar}");
}

#[test]
#[ignore = "takes minutes: all cases of the table in the module's documentation, with their bootstraps"]
fn the_interval_of_a_table_covers_best_everywhere() {
    for count in [5, 10, 20, 50, 100, 300] {
        for rate in [0.05, 0.5, 0.9] {
            for correlation in [0.0, 0.2, 0.6] {
                let [table, t, bootstrap] = coverages(count, rate, correlation, 2000, 400);
                assert!(
                    table >= t.max(bootstrap) - noise(0.95, 2000) && table > 0.87,
                    "{count} {rate} {correlation}: {table} {t} {bootstrap}"
                );
            }
        }
    }
}
