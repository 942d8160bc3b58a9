//! What a model learns from: problems with solutions of several lengths, and dialogues.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::split::stream;
use super::{DialogueKind, LEVELS, Split, Style, dialogue, problem_of_level, solution};

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct LessonPlan {
    /// Share of the lessons that are dialogues, between 0 and 1.
    pub dialogue_share: f64,
    /// Solutions of each problem: the first as nobody asks for, further ones as they are asked for.
    pub solutions: usize,
    /// Share of the problems with one sum that are answered by the number alone too, as asked.
    pub number_share: f64,
    /// The highest level.
    pub levels: usize,
}

/// What a conversation shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LessonKind {
    /// A solution in this style.
    Solution(Style),
    /// An answer without its sums.
    Number,
    /// Small talk.
    Dialogue(DialogueKind),
}

/// Conversations that share their start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// That of the problem or the dialogue.
    pub id: String,
    /// The turns of each, user and assistant by turns.
    pub conversations: Vec<(LessonKind, Vec<String>)>,
}

/// Asks for an answer without its sums.
const NUMBER_ONLY: &str = "Give only the number.";

/// The lesson with this number.
pub fn lesson(split: Split, seed: u64, index: u64, plan: &LessonPlan) -> Lesson {
    let mut rng = stream(seed, split, "lesson", index);
    if rng.random_bool(plan.dialogue_share.clamp(0.0, 1.0)) {
        let dialogue = dialogue(split, seed, index);
        let conversations = vec![(LessonKind::Dialogue(dialogue.kind), dialogue.turns)];
        return Lesson { id: dialogue.id, conversations };
    }
    let level = rng.random_range(1..=plan.levels.clamp(1, LEVELS));
    let problem = problem_of_level(split, seed, index, level);
    let text = problem.text();
    let mut styles = Style::ALL.to_vec();
    let &free = styles.choose(&mut rng).unwrap_or(&Style::Normal);
    let mut conversations =
        vec![(LessonKind::Solution(free), vec![text.clone(), solution(&problem, free)])];
    while conversations.len() < plan.solutions && !styles.is_empty() {
        let style = styles.swap_remove(rng.random_range(0..styles.len()));
        let asked = format!("{text} {}", style.instruction());
        conversations.push((LessonKind::Solution(style), vec![asked, solution(&problem, style)]));
    }
    if level == 1 && rng.random_bool(plan.number_share.clamp(0.0, 1.0)) {
        let asked = format!("{text} {NUMBER_ONLY}");
        conversations.push((LessonKind::Number, vec![asked, problem.answer.to_string()]));
    }
    Lesson { id: problem.id, conversations }
}
