//! Where a run is: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one part of a run, on stderr.
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    done: u64,
    // What was done before this process started does not count towards the rate.
    first: u64,
    note: String,
    start: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins a part of `total` steps.
    pub fn new(label: impl Into<String>, total: u64) -> Self {
        let label = label.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = bars().add(ProgressBar::new(total));
            let style = ProgressStyle::with_template(
                "{prefix:24} {wide_bar} {pos}/{len} {per_sec} eta {eta} {msg}",
            );
            // The template is a literal; indicatif's own default is a fair second choice.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(label.clone());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let now = Instant::now();
        let progress = Self {
            label,
            total,
            done: 0,
            first: 0,
            note: String::new(),
            start: now,
            last_line: now,
            bar,
        };
        if progress.bar.is_none() {
            tracing::info!("{}: {} to do", progress.label, progress.total);
        }
        progress
    }

    /// Says how many steps are done now.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            tracing::info!("{}", self.line(self.start.elapsed()));
        }
    }

    /// Says that `done` steps were there from an earlier start; they do not count towards the rate.
    pub fn resume_at(&mut self, done: u64) {
        self.first = done;
        self.done = done;
        self.start = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    /// Says that at least `done` steps are done now.
    pub fn reach(&mut self, done: u64) {
        self.set(self.done.max(done));
    }

    /// Adds steps.
    pub fn add(&mut self, steps: u64) {
        self.set(self.done + steps);
    }

    /// A few words behind the figures: the loss, the yield.
    pub fn note(&mut self, note: impl Into<String>) {
        self.note = note.into();
        if let Some(bar) = &self.bar {
            bar.set_message(self.note.clone());
        }
    }

    /// Ends the part. What remains is a line saying how long it took.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            bars().remove(bar);
        }
        let note = if self.note.is_empty() { String::new() } else { format!(", {}", self.note) };
        let time = self.start.elapsed().as_secs_f64();
        tracing::info!("{}: {} done in {time:.1} s{note}", self.label, self.done);
    }

    fn line(&self, elapsed: Duration) -> String {
        let fresh = self.done.saturating_sub(self.first);
        let rate = fresh as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = self.total.saturating_sub(self.done) as f64;
        let eta = match rate > 0.0 {
            true => HumanDuration(Duration::from_secs_f64((left / rate).min(1e9))).to_string(),
            false => "unknown".to_owned(),
        };
        let note = if self.note.is_empty() { String::new() } else { format!(", {}", self.note) };
        format!("{}: {}/{}, {rate:.1}/s, {eta} left{note}", self.label, self.done, self.total)
    }
}

/// Runs `write` with the bars hidden, so that a line of text does not run into one.
pub fn with_bars_hidden<T>(write: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

static BARS: OnceLock<MultiProgress> = OnceLock::new();

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_leaves_out_what_was_there_before() {
        let mut progress = Progress::new("answers", 100);
        progress.resume_at(40);
        progress.add(20);
        progress.note("yield 0.9");
        let line = progress.line(Duration::from_secs(10));
        assert_eq!(line, "answers: 60/100, 2.0/s, 20 seconds left, yield 0.9");
        progress.set(40);
        assert!(progress.line(Duration::from_secs(1)).contains("unknown left"));
    }
}
