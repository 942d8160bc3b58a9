//! Ranks: processes that train one model together, each on its share of every step's records.
//!
//! All ranks hold the same weights and make the same requests in the same order: sums of gradients, and values that
//! each tells all. A thread carries them out one after the other, so that gradients travel while others are still
//! computed. What a sum gives has the same bits on every rank, and so have the weights that follow from it.
//!
//! A rank that fails does not return to the others: it ends them ([`Ranks::abort`]), or, in one process, leaves.

mod in_process;
#[cfg(feature = "mpi")]
mod mpi;

use std::fmt;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TrainError;

/// What carries ranks' requests.
pub(crate) trait Wire {
    fn rank(&self) -> usize;

    fn size(&self) -> usize;

    /// Adds up the values of all ranks, in place; the same bits on all of them.
    fn sum(&mut self, values: &mut [f32]) -> Result<(), String>;

    /// What every rank gives, by rank.
    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, String>;
}

/// This process among those that train together. The first rank is the one that writes.
pub struct Ranks {
    rank: usize,
    size: usize,
    line: Option<Line>,
    /// Ends the processes of all ranks, where they are processes.
    end: Option<fn(i32)>,
}

/// The thread that carries requests.
struct Line {
    requests: Mutex<Option<Sender<Request>>>,
    thread: Option<JoinHandle<()>>,
}

/// What makes values when their turn has come.
type Make = Box<dyn FnOnce() -> Result<Vec<f32>, String> + Send>;

enum Request {
    Sum(Make, Sender<Result<Vec<f32>, String>>),
    Gather(Vec<u8>, Sender<Result<Vec<Vec<u8>>, String>>),
}

/// A sum on its way.
pub(crate) struct Pending(Receiver<Result<Vec<f32>, String>>);

static ALONE: Ranks = Ranks { rank: 0, size: 1, line: None, end: None };

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

impl Ranks {
    /// The only one.
    pub fn alone() -> &'static Self {
        &ALONE
    }

    /// So many ranks in this process, one for each of as many threads. Threads of rayon's pool must not be ranks:
    /// they would wait for each other.
    pub fn in_process(size: usize) -> Result<Vec<Self>, TrainError> {
        in_process::wires(size).into_iter().map(|wire| Self::over(None, move || Ok(wire))).collect()
    }

    /// The ranks that `mpirun` or `srun` has started, this process being one of them; none where neither has. To be
    /// called once: MPI is left when the value is dropped.
    #[cfg(feature = "mpi")]
    pub fn mpi() -> Result<Option<Self>, TrainError> {
        match mpi::is_started() {
            true => Self::over(Some(mpi::abort), mpi::Mpi::start).map(Some),
            false => Ok(None),
        }
    }

    /// `wire` is made by the thread that uses it.
    pub(crate) fn over<W: Wire>(
        end: Option<fn(i32)>,
        wire: impl FnOnce() -> Result<W, String> + Send + 'static,
    ) -> Result<Self, TrainError> {
        let (told, is_told) = channel();
        let (requests, asked) = channel();
        let thread = std::thread::spawn(move || match wire() {
            Ok(mut wire) => {
                // Nobody has left yet: the one who asks waits for this.
                let _ = told.send(Ok((wire.rank(), wire.size())));
                serve(&mut wire, &asked);
            }
            Err(reason) => {
                let _ = told.send(Err(reason));
            }
        });
        let (rank, size) = is_told.recv().map_err(|_| gone())?.map_err(TrainError::Ranks)?;
        let line = Line { requests: Mutex::new(Some(requests)), thread: Some(thread) };
        Ok(Self { rank, size, line: Some(line), end })
    }

    /// Which one this is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the one that writes.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// This rank's share of `count` things: shares lie side by side in the order of ranks and differ by one at most.
    pub fn share(&self, count: usize) -> Range<usize> {
        self.share_of(self.rank, count)
    }

    pub(crate) fn share_of(&self, rank: usize, count: usize) -> Range<usize> {
        rank * count / self.size..(rank + 1) * count / self.size
    }

    /// Ends the processes of all ranks with this exit status, if there are others. Returns where there are none.
    pub fn abort(&self, status: i32) {
        if let Some(end) = self.end.filter(|_| !self.is_alone()) {
            end(status);
        }
    }

    /// Returns when all ranks have come here.
    pub fn barrier(&self) -> Result<(), TrainError> {
        self.tell(Vec::new()).map(drop)
    }

    /// Runs `f` on the first rank, and when that has succeeded on all others.
    pub fn in_turn<R, E: From<TrainError>>(
        &self,
        f: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        if self.is_first() {
            let result = f()?;
            self.barrier()?;
            return Ok(result);
        }
        self.barrier()?;
        f()
    }

    /// What every rank gives, by rank. Numbers that are not finite do not survive this; see
    /// [`numbers`](Self::numbers).
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(
        &self,
        own: T,
    ) -> Result<Vec<T>, TrainError> {
        if self.is_alone() {
            return Ok(vec![own]);
        }
        let failed = |error: serde_json::Error| TrainError::Ranks(error.to_string());
        let told = self.tell(serde_json::to_vec(&own).map_err(failed)?)?;
        told.iter().map(|bytes| serde_json::from_slice(bytes).map_err(failed)).collect()
    }

    /// The numbers that every rank gives, by rank.
    pub(crate) fn numbers(&self, own: &[f64]) -> Result<Vec<Vec<f64>>, TrainError> {
        if self.is_alone() {
            return Ok(vec![own.to_vec()]);
        }
        let told = self.tell(own.iter().flat_map(|number| number.to_le_bytes()).collect())?;
        let read = |bytes: &Vec<u8>| {
            let (numbers, _) = bytes.as_chunks();
            numbers.iter().map(|&number| f64::from_le_bytes(number)).collect()
        };
        Ok(told.iter().map(read).collect())
    }

    /// Rows of numbers of all ranks, in their order, as `read` understands them.
    pub(crate) fn rows<R>(
        &self,
        own: impl Iterator<Item = Vec<f64>>,
        read: impl Fn(&[f64]) -> Option<R>,
    ) -> Result<Vec<R>, TrainError> {
        let own: Vec<f64> =
            own.flat_map(|row| [&[row.len() as f64], row.as_slice()].concat()).collect();
        let all = self.numbers(&own)?.concat();
        let (mut rest, mut rows) = (all.as_slice(), Vec::new());
        while let Some((&length, after)) = rest.split_first() {
            let (row, after) = after.split_at_checked(length as usize).unwrap_or_default();
            let unreadable =
                || TrainError::Ranks("another rank tells what is not known".to_owned());
            rows.push(read(row).ok_or_else(unreadable)?);
            rest = after;
        }
        Ok(rows)
    }

    /// Sums over ranks, in their order.
    pub(crate) fn totals<const N: usize>(&self, own: [f64; N]) -> Result<[f64; N], TrainError> {
        let mut sums = [0.0; N];
        for numbers in self.numbers(&own)? {
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum += number;
            }
        }
        Ok(sums)
    }

    /// Whether this is so on any rank.
    pub(crate) fn any(&self, own: bool) -> Result<bool, TrainError> {
        Ok(self.totals([f64::from(u8::from(own))])? != [0.0])
    }

    /// Where one rank was interrupted, all are: none goes on alone. Other errors are this rank's own.
    pub(crate) fn agree<T>(&self, own: Result<T, TrainError>) -> Result<T, TrainError> {
        let interrupted = matches!(own, Err(TrainError::Interrupted));
        if !interrupted && own.is_err() {
            return own;
        }
        if self.any(interrupted)? { Err(TrainError::Interrupted) } else { own }
    }

    /// Refuses ranks that are not told the same.
    pub(crate) fn check_same(&self, what: &str, own: &str) -> Result<(), TrainError> {
        if self.is_alone() {
            return Ok(());
        }
        let told = self.tell(own.as_bytes().to_vec())?;
        match told.iter().position(|other| *other != told[0]) {
            Some(rank) => Err(TrainError::Ranks(format!("rank {rank} has {what} than rank 0"))),
            None => Ok(()),
        }
    }

    /// Begins to add up the values of all ranks, and does not wait. They are made when those before them have gone.
    pub(crate) fn start_sum(
        &self,
        values: impl FnOnce() -> Result<Vec<f32>, String> + Send + 'static,
    ) -> Result<Pending, TrainError> {
        let (done, result) = channel();
        match &self.line {
            Some(line) => line.ask(Request::Sum(Box::new(values), done))?,
            // Its receiver is here.
            None => drop(done.send(values())),
        }
        Ok(Pending(result))
    }

    fn tell(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>, TrainError> {
        let Some(line) = &self.line else { return Ok(vec![own]) };
        let (done, result) = channel();
        line.ask(Request::Gather(own, done))?;
        result.recv().map_err(|_| gone())?.map_err(TrainError::Ranks)
    }
}

impl Pending {
    /// The sums, once they are there.
    pub(crate) fn wait(self) -> Result<Vec<f32>, TrainError> {
        self.0.recv().map_err(|_| gone())?.map_err(TrainError::Ranks)
    }
}

impl Line {
    fn ask(&self, request: Request) -> Result<(), TrainError> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(requests) = &*requests else { return Err(gone()) };
        requests.send(request).map_err(|_| gone())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.requests.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            // It has nothing left to say, and a panic of it has been told to those who waited.
            let _ = thread.join();
        }
    }
}

fn gone() -> TrainError {
    TrainError::Ranks("the connection to the other ranks is gone".to_owned())
}

/// Carries out requests until nobody can make any. One who has left needs no answer.
fn serve(wire: &mut impl Wire, asked: &Receiver<Request>) {
    for request in asked {
        match request {
            Request::Sum(values, done) => {
                let sum = |mut values: Vec<f32>| wire.sum(&mut values).map(|()| values);
                let _ = done.send(values().and_then(sum));
            }
            Request::Gather(own, done) => {
                let _ = done.send(wire.gather(&own));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of so many ranks gives.
    fn of_each<R: Send>(size: usize, f: impl Fn(&Ranks) -> R + Sync) -> Vec<R> {
        let ranks = Ranks::in_process(size).unwrap();
        std::thread::scope(|scope| {
            let f = &f;
            let threads: Vec<_> =
                ranks.into_iter().map(|rank| scope.spawn(move || f(&rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn all_ranks_have_the_same_sums_and_values() {
        let all = of_each(3, |ranks| {
            let own = ranks.rank() as f32 + 0.1;
            let pending: Vec<Pending> = (1..=5)
                .map(|n| ranks.start_sum(move || Ok(vec![own * n as f32; 4])).unwrap())
                .collect();
            let told = ranks.gather(format!("rank {}", ranks.rank())).unwrap();
            assert_eq!(told, ["rank 0", "rank 1", "rank 2"]);
            assert_eq!(ranks.totals([1.0, ranks.rank() as f64]).unwrap(), [3.0, 3.0]);
            assert!(ranks.numbers(&[f64::NAN]).unwrap()[2][0].is_nan());
            let own = (0..ranks.rank()).map(|n| vec![0.5; n + 1]);
            let rows = ranks.rows(own, |row| Some(row.len())).unwrap();
            assert_eq!(rows, [1, 1, 2]);
            let stopped = if ranks.rank() == 1 { Err(TrainError::Interrupted) } else { Ok(()) };
            assert!(matches!(ranks.agree(stopped), Err(TrainError::Interrupted)));
            assert!(ranks.agree(Ok(())).is_ok());
            let other = ranks.check_same("another number", &(ranks.rank() / 2).to_string());
            assert!(other.unwrap_err().to_string().contains("rank 2"));
            pending.into_iter().map(|sum| sum.wait().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(all[0], all[1]);
        assert_eq!(all[0], all[2]);
        assert!((all[0][1][3] - 6.6).abs() < 1e-5, "{:?}", all[0]);
    }

    #[test]
    fn shares_cover_everything_once() {
        for (size, count) in [(1, 5), (2, 5), (3, 2), (4, 0), (3, 9)] {
            let ranks = Ranks { rank: 0, size, line: None, end: None };
            let all: Vec<usize> = (0..size).flat_map(|rank| ranks.share_of(rank, count)).collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_who_leaves_is_not_waited_for() {
        let all = of_each(2, |ranks| match ranks.rank() {
            0 => Ok(()),
            _ => ranks.barrier(),
        });
        assert!(all[0].is_ok());
        assert!(all[1].as_ref().unwrap_err().to_string().contains("has left"), "{:?}", all[1]);
    }
}
