//! Judges on scorers that are known.

use savi_schema::{Continuation, GenerateError, Message, Role, Score, ScoreRequest, TokenScore};

use crate::judge::{Graded, SelfJudge, Weighted, score};
use crate::{
    Judge, JudgeConfig, JudgeForm, Judgement, PromptFiles, PromptForm, Prompts, ScoreKind,
};

/// Likes the first place by `first` and replies that say "fine" by `fine`; a letter of a label is a token.
struct Scorer {
    first: f32,
    fine: f32,
}

impl Score for Scorer {
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        let of = |request: &ScoreRequest, label: &Continuation| {
            let Continuation::Text(label) = label else { panic!("labels are texts") };
            let words = request.messages[0].words();
            let good_first = words.contains("A. The last reply is harmless.");
            let is_first = ["A", "yes", "Yes"].contains(&label.trim());
            let is_fine = words.contains("fine");
            let mut logp = -4.0;
            if is_first {
                logp += self.first;
            }
            // By letters the good label is the first one only in the first order.
            let good =
                if words.contains("Is the last reply") { is_first } else { is_first == good_first };
            if good == is_fine {
                logp += self.fine;
            }
            // The spelling with a blank is one token more, and less likely.
            let count = label.len();
            let mut logps = vec![-0.5; count];
            logps[0] += logp;
            TokenScore { token_ids: vec![0; count], logps }
        };
        Ok(requests.iter().map(|r| r.continuations.iter().map(|l| of(r, l)).collect()).collect())
    }
}

fn judged(scorer: &Scorer, config: &JudgeConfig, replies: &[&str]) -> Vec<Judgement> {
    let prompts = Prompts::load(&PromptFiles::default(), PromptForm::Chat, config).unwrap();
    let replies: Vec<String> = replies.iter().map(|&reply| reply.to_owned()).collect();
    let question = [Message::text(Role::User, "q")];
    SelfJudge { scorer, prompts: &prompts, config }.judge("q", &question, &replies).unwrap()
}

#[test]
fn two_orders_by_hand() {
    let (good, bad) = ([0.7, 0.3], [0.4, 0.6]);
    assert_eq!(score(&[good, good], ScoreKind::Hard), 1.0);
    assert_eq!(score(&[good, bad], ScoreKind::Hard), 0.0);
    assert_eq!(score(&[bad, bad], ScoreKind::Hard), -1.0);
    assert!((score(&[good, bad], ScoreKind::Soft) - 0.1).abs() < 1e-12);
    // tanh of half the log-odds.
    let tanh = ((0.7f64 / 0.3).ln() / 2.0).tanh();
    assert!((score(&[good], ScoreKind::Soft) - tanh).abs() < 1e-12);
    // As likely is not likelier.
    assert_eq!(score(&[[0.5, 0.5]], ScoreKind::Hard), -1.0);
}

#[test]
fn a_liking_for_a_letter_cancels_out() {
    let config = JudgeConfig::default();
    let scores = |scorer: &Scorer| -> Vec<f64> {
        judged(scorer, &config, &["fine", "not"]).iter().map(|judged| judged.score).collect()
    };
    assert_eq!(scores(&Scorer { first: 1.0, fine: 2.0 }), [1.0, -1.0]);
    assert_eq!(scores(&Scorer { first: 3.0, fine: 2.0 }), [0.0, 0.0]);
    let soft = JudgeConfig { score: ScoreKind::Soft, ..JudgeConfig::default() };
    let blind = judged(&Scorer { first: 3.0, fine: 0.0 }, &soft, &["fine"]).remove(0);
    assert!(blind.score.abs() < 1e-12 && blind.asked[0][0] > 0.9 && blind.asked[1][0] < 0.1);
}

#[test]
fn yes_and_no_are_asked_once() {
    let config = JudgeConfig { form: JudgeForm::YesNo, ..JudgeConfig::default() };
    let told = judged(&Scorer { first: 0.0, fine: 2.0 }, &config, &["fine", "not"]);
    assert_eq!((told[0].score, told[1].score), (1.0, -1.0));
    assert_eq!(told[0].asked.len(), 1);
    // "Yes" and "yes" have three tokens, "no" and "No" two: whole labels are compared.
    let odds = (told[0].asked[0][0] / told[0].asked[0][1]).ln();
    assert!((odds - (2.0 - 0.5)).abs() < 1e-5, "{odds}");
}

#[test]
fn judges_are_weighted() {
    struct Fixed(f64);
    impl Judge for Fixed {
        fn judge(
            &self,
            _: &str,
            _: &[Message],
            replies: &[String],
        ) -> Result<Vec<Judgement>, crate::Error> {
            Ok(vec![Judgement { score: self.0, asked: Vec::new() }; replies.len()])
        }

        fn fingerprint(&self) -> String {
            self.0.to_string()
        }
    }
    let both = Weighted { judges: vec![(3.0, &Fixed(1.0)), (1.0, &Fixed(-1.0))] };
    let told = both.judge("q", &[], &["a".to_owned(), "b".to_owned()]).unwrap();
    assert_eq!(told.iter().map(|judged| judged.score).collect::<Vec<_>>(), [0.5, 0.5]);
    assert_ne!(both.fingerprint(), Weighted::default().fingerprint());
}

#[test]
fn a_graded_judge_is_right_as_often_as_it_is_told() {
    use savi_judge::rewards::RewardFunction;
    use savi_schema::PromptRecord;

    let verifier = RewardFunction::ExactMatch { column: None }.build().unwrap();
    let columns = serde_json::json!({"answer": "7"}).as_object().unwrap().clone();
    let prompts = [PromptRecord { id: "q".to_owned(), prompt: Vec::new(), columns }];
    let scorer = Scorer { first: 0.0, fine: 0.0 };
    let said: Vec<String> = (0..1000).map(|at| format!("not {at}")).collect();
    for (accuracy, fewest, most) in
        [(1.0, 1000, 1000), (0.8, 760, 840), (0.5, 450, 550), (0.0, 0, 0)]
    {
        let judge =
            Graded { verifier: &verifier, policy: &scorer, prompts: &prompts, accuracy, seed: 3 };
        let judged = judge.judge("q", &[], &said).unwrap();
        let right = judged.iter().filter(|judgement| judgement.score == -1.0).count();
        assert!((fewest..=most).contains(&right), "{accuracy}: {right}");
        // The same words again, alone.
        assert_eq!(judge.judge("q", &[], &said[7..8]).unwrap()[0], judged[7]);
        let known = judge.judge("q", &[], &["7".to_owned()]).unwrap()[0].score;
        assert!(accuracy != 1.0 || known == 1.0);
        assert!(judge.judge("other", &[], &said).is_err());
    }
}
