//! The mean over questions, with an interval over clusters.

use super::bootstrap::draw_weights;
use super::clustered::by_cluster;
use super::{Bootstrap, Estimate, Outcome};

/// The mean of all outcomes and its 95 % interval by drawing clusters; `None` for no outcomes.
/// The order of outcomes does not matter.
pub fn mean(outcomes: &[Outcome], bootstrap: &Bootstrap) -> Option<Estimate> {
    let clusters = by_cluster(outcomes);
    let ratio = |weights: &[f64]| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (&(s, c), weight) in clusters.iter().zip(weights) {
            sum += weight * s;
            count += weight * c;
        }
        (count > 0.0).then(|| sum / count)
    };
    let value = ratio(&vec![1.0; clusters.len()])?;
    let ci95 = bootstrap
        .interval(|rng| ratio(&draw_weights(clusters.len(), rng)))
        .unwrap_or([value, value]);
    Some(Estimate { value, ci95, n: outcomes.len(), clusters: clusters.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(clips: &[&[u8]]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for (clip, values) in clips.iter().enumerate() {
            outcomes.extend(values.iter().enumerate().map(|(question, &value)| Outcome {
                id: format!("{clip}-{question}"),
                cluster: clip.to_string(),
                value: f64::from(value),
            }));
        }
        outcomes
    }

    #[test]
    fn two_clips_by_hand() {
        // Resamples: both a (1/4 of the time) 3/3, both b 0/1, one of each 3/4. The 2.5 and
        // 97.5 percentiles lie inside the outer quarters.
        let estimate = mean(&outcomes(&[&[1, 1, 1], &[0]]), &Bootstrap::default()).unwrap();
        assert_eq!(estimate, Estimate { value: 0.75, ci95: [0.0, 1.0], n: 4, clusters: 2 });
    }

    #[test]
    fn questions_of_one_clip_do_not_narrow_the_interval() {
        let width = |clips: &[&[u8]]| {
            let [low, high] = mean(&outcomes(clips), &Bootstrap::default()).unwrap().ci95;
            high - low
        };
        let thrice: [&[u8]; 6] = [&[1; 3], &[0; 3], &[1; 3], &[0; 3], &[1; 3], &[0; 3]];
        let once: [&[u8]; 6] = [&[1], &[0], &[1], &[0], &[1], &[0]];
        assert_eq!(width(&thrice), width(&once));
        assert!(width(&once) > 0.5);
    }

    #[test]
    fn order_does_not_matter_and_nothing_is_none() {
        let mut shuffled = outcomes(&[&[1, 0], &[0], &[1, 1, 0]]);
        let bootstrap = Bootstrap { resamples: 200, seed: 5 };
        let before = mean(&shuffled, &bootstrap);
        shuffled.reverse();
        assert_eq!(mean(&shuffled, &bootstrap), before);
        assert_eq!(mean(&[], &bootstrap), None);
    }
}
