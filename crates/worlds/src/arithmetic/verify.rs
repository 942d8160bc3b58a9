//! Reads replies: the answer that they state, and the sums that they write.

use super::problem::{Operation, Problem};

/// What a reply says before its answer.
const MARK: &str = "the answer is";

/// The answer that a reply states last, or its only number where it says nothing else.
pub fn stated_answer(reply: &str) -> Option<i64> {
    let lower = reply.to_lowercase();
    let stated = match lower.rfind(MARK) {
        Some(at) => lower[at + MARK.len()..].split_whitespace().next()?.to_owned(),
        None => lower.trim().to_owned(),
    };
    stated.trim_end_matches(['.', ',', '!', ';']).parse().ok()
}

/// Whether a reply states the problem's answer.
pub fn is_correct(problem: &Problem, reply: &str) -> bool {
    stated_answer(reply) == Some(problem.answer)
}

/// How many sums a reply writes, and how many of them are wrong.
pub fn wrong_sums(reply: &str) -> (usize, usize) {
    let words: Vec<&str> = reply.split_whitespace().collect();
    let (mut all, mut wrong) = (0, 0);
    for window in words.windows(5) {
        let &[a, sign, b, "=", result] = window else { continue };
        let number = |word: &str| word.trim_end_matches(['.', ',', ';']).parse::<i64>().ok();
        let (Some(a), Some(operation), Some(b)) = (number(a), Operation::parse(sign), number(b))
        else {
            continue;
        };
        all += 1;
        if number(result).is_none() || operation.of(a, b) != number(result) {
            wrong += 1;
        }
    }
    (all, wrong)
}
