//! Workers that stay awake through a pass.
//!
//! A pass over few tokens is hundreds of products of some ten microseconds each, with a moment of one thread's
//! work between them. rayon's workers fall asleep in those moments, and waking them takes as long as a
//! product. So while such a pass runs, the other workers look for work, for as long as a moment lasts, and let
//! others have the core in between: where cores are short, nobody waits for one that only looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::Yield;

/// Passes that run now: with several at once there is work enough, and nobody has to wait for it.
static PASSES: AtomicUsize = AtomicUsize::new(0);

/// Looks for work without finding any after which a worker sleeps: some hundred microseconds.
const LOOKS: usize = 1000;

struct Pass(Arc<AtomicBool>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        PASSES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `f` in rayon's pool, whose other workers stay awake until it ends.
pub fn awake<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    if rayon::current_num_threads() == 1 {
        return f();
    }
    rayon::scope(|_| {
        let alone = PASSES.fetch_add(1, Ordering::Relaxed) == 0;
        let pass = Pass(Arc::new(AtomicBool::new(true)));
        let (caller, running) = (rayon::current_thread_index(), pass.0.clone());
        if alone {
            rayon::spawn_broadcast(move |worker| {
                // The caller may come by here while it waits for others.
                if Some(worker.index()) == caller {
                    return;
                }
                let goes_on =
                    || running.load(Ordering::Relaxed) && PASSES.load(Ordering::Relaxed) == 1;
                let mut idle = 0;
                while idle < LOOKS && goes_on() {
                    if rayon::yield_now() == Some(Yield::Executed) {
                        idle = 0;
                        continue;
                    }
                    idle += 1;
                    (0..4).for_each(|_| std::hint::spin_loop());
                    if idle % 16 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
        }
        f()
    })
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn passes_end_alone_nested_and_side_by_side() {
        let sum = |n: u64| awake(|| (0..n).into_par_iter().map(|x| x * x).sum::<u64>());
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                assert_eq!(sum(1000), 332_833_500);
                assert_eq!(awake(|| sum(1000)), 332_833_500);
                let all: Vec<u64> = (0..16u64).into_par_iter().map(|_| sum(1000)).collect();
                assert_eq!(all, [332_833_500; 16]);
            });
        }
        assert_eq!(sum(1000), 332_833_500);
        assert_eq!(PASSES.load(Ordering::Relaxed), 0);
    }
}
