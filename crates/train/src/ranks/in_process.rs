//! Ranks that are threads of one process. Sums are made in the order of ranks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Wire;

/// What ranks give each other: one exchange at a time.
struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Exchanges that are complete.
    complete: u64,
    given: Vec<Option<Vec<u8>>>,
    /// What the last one gave, and how many have not taken it yet.
    told: Arc<Vec<Vec<u8>>>,
    left: usize,
    /// Whether a rank is no longer there.
    gone: bool,
}

pub(super) struct InProcess {
    rank: usize,
    size: usize,
    table: Arc<Table>,
}

pub(super) fn wires(size: usize) -> Vec<InProcess> {
    let state =
        State { complete: 0, given: vec![None; size], told: Arc::default(), left: 0, gone: false };
    let table = Arc::new(Table { state: Mutex::new(state), changed: Condvar::new() });
    (0..size).map(|rank| InProcess { rank, size, table: table.clone() }).collect()
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `f` says so; gives nothing where a rank leaves meanwhile.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        f: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>, String> {
        while f(&state) {
            if state.gone {
                return Err("another rank has left".to_owned());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }
}

impl InProcess {
    fn exchange(&self, own: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>, String> {
        let table = &self.table;
        // What the last exchange gave has to be taken by all first.
        let mut state = table.wait(table.lock(), |state| state.left > 0)?;
        let before = state.complete;
        state.given[self.rank] = Some(own);
        if state.given.iter().all(Option::is_some) {
            let told = state.given.iter_mut().filter_map(Option::take).collect();
            state.told = Arc::new(told);
            (state.complete, state.left) = (before + 1, self.size);
        } else {
            state = table.wait(state, |state| state.complete == before)?;
        }
        let told = state.told.clone();
        state.left -= 1;
        drop(state);
        table.changed.notify_all();
        Ok(told)
    }
}

impl Wire for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&mut self, values: &mut [f32]) -> Result<(), String> {
        let told = self.exchange(values.iter().flat_map(|value| value.to_le_bytes()).collect())?;
        values.fill(0.0);
        for bytes in told.iter() {
            let (numbers, _) = bytes.as_chunks();
            for (sum, &number) in values.iter_mut().zip(numbers) {
                *sum += f32::from_le_bytes(number);
            }
        }
        Ok(())
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        Ok(self.exchange(own.to_vec())?.to_vec())
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.table.lock().gone = true;
        self.table.changed.notify_all();
    }
}
