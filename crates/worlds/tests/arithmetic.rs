//! The arithmetic world: exact answers, levels, splits that share nothing, readable replies.

use std::collections::HashMap;

use savi_worlds::arithmetic::{
    LEVELS, Problem, Split, Style, dialogue, is_correct, problem, problem_of_level, solution,
    stated_answer, wrong_sums,
};

#[test]
fn solutions_are_right_and_grow_with_their_style() {
    for index in 0..40 {
        for level in 1..=LEVELS {
            let problem = problem_of_level(Split::Train, 7, index, level);
            assert_eq!(problem.level(), level, "{problem:?}");
            assert_eq!(problem, problem_of_level(Split::Train, 7, index, level));
            let mut before = 0;
            for style in Style::ALL {
                let reply = solution(&problem, style);
                assert!(is_correct(&problem, &reply), "{reply}");
                let (sums, wrong) = wrong_sums(&reply);
                assert!(sums >= level && wrong == 0, "{sums} sums, {wrong} wrong: {reply}");
                assert!(reply.len() > before, "{style:?}: {reply}");
                before = if style == Style::Repeated { before } else { reply.len() };
            }
            let wrong = format!("The answer is {}.", problem.answer + 1);
            assert!(!is_correct(&problem, &wrong));
        }
    }
}

#[test]
fn no_two_parts_share_a_problem_or_an_opening() {
    let mut owners: HashMap<String, Split> = HashMap::new();
    for split in Split::ALL {
        for index in 0..600 {
            let problem: Problem = problem(split, 7, index);
            let opening = dialogue(split, 7, index).turns.remove(0);
            for text in [problem.canonical(), opening] {
                let owner = *owners.entry(text.clone()).or_insert(split);
                assert_eq!(owner, split, "{text}");
            }
        }
    }
}

#[test]
fn replies_state_their_last_answer() {
    for (reply, answer) in [
        ("3 + 4 = 7. The answer is 7.", Some(7)),
        ("The answer is 5. No: 2 + 4 = 6. The answer is 6", Some(6)),
        ("12", Some(12)),
        (" 12. ", Some(12)),
        ("It is 12.", None),
        ("The answer is many.", None),
        ("The answer is", None),
        ("", None),
    ] {
        assert_eq!(stated_answer(reply), answer, "{reply}");
    }
    assert_eq!(wrong_sums("3 + 4 = 8. 8 / 2 = 4, 7 / 2 = 3."), (3, 2));
}
