//! SlowFast-LLaVA's multiple choice (`eval/eval_multiple_choice_qa.py` of apple/ml-slowfast-llava at
//! 6551895d), for NExT-QA, EgoSchema and IntentQA.

/// `map_prediction_to_option`: the first character where it is a letter a to e in any case, even of
/// a word; then the first letter in the order A to E that occurs as `A:` or `A)` overrides it,
/// looked for behind the first "answer is " where there is one. An empty reply stops the script;
/// here it is wrong.
pub(super) fn choice(reply: &str) -> Option<char> {
    let first = reply.chars().next().filter(|c| matches!(c, 'a'..='e' | 'A'..='E'));
    let rest = match reply.find("answer is") {
        // The code looks for "answer is " and goes on from the first "answer is".
        Some(at) if reply.contains("answer is ") => &reply[at..],
        _ => reply,
    };
    let marked = |letter: &char| [':', ')'].iter().any(|m| rest.contains(&format!("{letter}{m}")));
    ('A'..='E').find(marked).or(first.map(|c| c.to_ascii_uppercase()))
}
