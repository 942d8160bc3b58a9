//! What the back end tells of a request, kept until the client takes it.
//!
//! The back end's thread never waits here. A client that reads slowly lets words pile up; from
//! [`MOST`] events on, new words are joined to those that wait already, so that what is kept
//! never exceeds the completions themselves. Who waits for whom too long is decided by the one who sends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use savi_schema::{Event, GenerateError, Listener};
use tokio::sync::Notify;

use crate::metrics::Metrics;

/// From so many events on, words are joined.
const MOST: usize = 64;

/// What the back end tells of the prompts of one request.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Notify,
    metrics: Arc<Metrics>,
    begun: Instant,
    /// Whether words are wanted before a completion is whole.
    wants_deltas: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the prompt that it is about.
    events: VecDeque<(usize, Event)>,
    /// Nobody takes anything any more.
    gone: bool,
    has_first: bool,
}

impl Queue {
    pub(crate) fn new(metrics: Arc<Metrics>, wants_deltas: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            metrics,
            begun: Instant::now(),
            wants_deltas,
        })
    }

    /// When the request was begun.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// Hears of the prompt of this number with `choices` choices; keeps `held` until the last of them is
    /// whole, or the back end lets go of it.
    pub(crate) fn listener<T: Send + 'static>(
        self: &Arc<Self>,
        prompt: usize,
        choices: usize,
        held: T,
    ) -> Listener {
        let queue = self.clone();
        let firsts = vec![None; choices];
        let mut ear = Ear { queue, prompt, open: choices, firsts, held: Some(held) };
        Box::new(move |event| ear.hear(event))
    }

    /// The next event, with the prompt that it is about.
    pub(crate) async fn next(&self) -> (usize, Event) {
        loop {
            // One who is told between the look and the wait is told all the same: the permit stays.
            if let Some(event) = self.lock().events.pop_front() {
                return event;
            }
            self.arrived.notified().await;
        }
    }

    /// Nobody will take anything any more: listeners say so at the next event.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.gone = true;
        state.events = VecDeque::new();
    }

    /// Whether nobody will take anything any more.
    pub(crate) fn is_left(&self) -> bool {
        self.lock().gone
    }

    fn push(&self, prompt: usize, event: Event) -> bool {
        let mut state = self.lock();
        if state.gone {
            return false;
        }
        if let Some(event) = joined(&mut state.events, prompt, event) {
            state.events.push_back((prompt, event));
        }
        drop(state);
        self.arrived.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Joins words to those of the same choice that wait already, where many events do; gives back what
/// was not joined.
fn joined(events: &mut VecDeque<(usize, Event)>, prompt: usize, event: Event) -> Option<Event> {
    if events.len() < MOST {
        return Some(event);
    }
    let Event::Delta { index, text, tokens } = event else { return Some(event) };
    for (about, waiting) in events.iter_mut().rev() {
        if let Event::Delta { index: other, text: words, tokens: drawn } = waiting
            && (*about, *other) == (prompt, index)
        {
            words.push_str(&text);
            drawn.extend(tokens);
            return None;
        }
    }
    Some(Event::Delta { index, text, tokens })
}

/// Hears of one prompt.
struct Ear<T> {
    queue: Arc<Queue>,
    prompt: usize,
    /// Choices that are not whole yet; none after a failure.
    open: usize,
    /// When the first token of each choice came.
    firsts: Vec<Option<Instant>>,
    /// Let go of before the last event is told, so that nothing of a request outlasts its answer.
    held: Option<T>,
}

impl<T> Ear<T> {
    fn hear(&mut self, event: Event) -> bool {
        self.count(&event);
        match &event {
            Event::Done { .. } => self.open = self.open.saturating_sub(1),
            Event::Failed(_) => self.open = 0,
            // Told so that we can say whether anybody listens.
            Event::Waiting => return !self.queue.is_left(),
            Event::Delta { .. } if !self.queue.wants_deltas => return !self.queue.is_left(),
            Event::Delta { .. } | Event::Started { .. } => {}
        }
        if self.open == 0 {
            self.held = None;
        }
        self.queue.push(self.prompt, event)
    }

    fn count(&mut self, event: &Event) {
        let metrics = &self.queue.metrics;
        match event {
            Event::Started { prompt_tokens, cached_tokens } => {
                metrics.prompt_tokens.inc_by(*prompt_tokens as u64);
                metrics.cached_tokens.inc_by(*cached_tokens as u64);
            }
            Event::Delta { index, .. } => {
                self.has_token(*index);
            }
            Event::Done { index, completion } => {
                self.has_token(*index);
                let tokens = completion.token_ids.len();
                let metrics = &self.queue.metrics;
                metrics.generated_tokens.inc_by(tokens as u64);
                if let Some(Some(first)) = self.firsts.get(*index)
                    && tokens > 1
                {
                    let seconds = first.elapsed().as_secs_f64();
                    metrics.per_token.observe(seconds / (tokens - 1) as f64);
                }
            }
            Event::Waiting | Event::Failed(_) => {}
        }
    }

    /// Notes the time of first tokens.
    fn has_token(&mut self, index: usize) {
        let Some(first @ None) = self.firsts.get_mut(index) else { return };
        *first = Some(Instant::now());
        let before = std::mem::replace(&mut self.queue.lock().has_first, true);
        if !before {
            let seconds = self.queue.begun.elapsed().as_secs_f64();
            self.queue.metrics.first_token.observe(seconds);
        }
    }
}

impl<T> Drop for Ear<T> {
    fn drop(&mut self) {
        // A back end that lets go of a request must not leave its client waiting.
        if self.open > 0 {
            let lost = GenerateError::Backend("let go of a request before its end".to_owned());
            self.queue.push(self.prompt, Event::Failed(lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(index: usize, text: &str) -> Event {
        Event::Delta { index, text: text.to_owned(), tokens: Vec::new() }
    }

    fn queue() -> Arc<Queue> {
        Queue::new(Arc::new(Metrics::new()), true)
    }

    #[test]
    fn words_pile_up_in_few_events_and_none_is_lost() {
        let queue = queue();
        let mut listener = queue.listener(0, 2, ());
        for number in 0..1000 {
            assert!(listener(delta(number % 2, &format!("{number} "))));
        }
        let state = queue.lock();
        assert_eq!(state.events.len(), MOST);
        let mut texts = [String::new(), String::new()];
        for (_, event) in &state.events {
            let Event::Delta { index, text, .. } = event else { panic!("{event:?}") };
            texts[*index].push_str(text);
        }
        for (rest, text) in texts.iter().enumerate() {
            let expected: String =
                (0..1000).filter(|n| n % 2 == rest).map(|n| format!("{n} ")).collect();
            assert_eq!(*text, expected);
        }
    }

    #[test]
    fn a_listener_tells_that_nobody_listens() {
        let queue = queue();
        let mut listener = queue.listener(0, 1, ());
        assert!(listener(delta(0, "a")));
        queue.leave();
        assert!(!listener(delta(0, "b")));
        assert!(queue.lock().events.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_listener_is_a_failure() {
        let queue = queue();
        drop(queue.listener(3, 1, ()));
        let (prompt, event) = queue.next().await;
        assert!(matches!(event, Event::Failed(GenerateError::Backend(_))), "{event:?}");
        assert_eq!(prompt, 3);
    }
}
