//! Ranks that are processes of an MPI job.

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::Wire;

/// What launchers tell the processes that they start.
const STARTED: [&str; 5] =
    ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"];

/// Elements and bytes of one call: MPI counts in 32 bits.
const MOST: usize = 1 << 28;

/// Whether a launcher of MPI has started this process.
pub(super) fn is_started() -> bool {
    STARTED.iter().any(|name| std::env::var_os(name).is_some())
}

/// Ends all processes of the job.
pub(super) fn abort(status: i32) {
    SimpleCommunicator::world().abort(status)
}

pub(super) struct Mpi {
    world: SimpleCommunicator,
    // MPI is left when this is dropped.
    _universe: Universe,
}

impl Mpi {
    /// One thread makes all calls but the one that ends everything.
    pub(super) fn start() -> Result<Self, String> {
        let started = mpi::initialize_with_threading(Threading::Multiple);
        let (universe, _) = started.ok_or("MPI has been started already")?;
        Ok(Self { world: universe.world(), _universe: universe })
    }
}

impl Wire for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    /// That all ranks get identical results is a demand of the standard (MPI 3.1, section 5.9.6).
    fn sum(&mut self, values: &mut [f32]) -> Result<(), String> {
        for values in values.chunks_mut(MOST) {
            let own = values.to_vec();
            self.world.all_reduce_into(&own[..], values, SystemOperation::sum());
        }
        Ok(())
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut lengths = vec![0u64; self.size()];
        self.world.all_gather_into(&(own.len() as u64), &mut lengths[..]);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        let mut told: Vec<Vec<u8>> = lengths.iter().map(|&n| Vec::with_capacity(n)).collect();
        // All that goes over at once is counted in 32 bits.
        let most = MOST / self.size();
        for start in (0..lengths.iter().copied().max().unwrap_or(0)).step_by(most) {
            let count = |length: usize| length.saturating_sub(start).min(most);
            let counts: Vec<i32> = lengths.iter().map(|&length| count(length) as i32).collect();
            let places: Vec<i32> = counts
                .iter()
                .scan(0, |end, count| Some(std::mem::replace(end, *end + count)))
                .collect();
            let mut all = vec![0u8; counts.iter().sum::<i32>() as usize];
            let mut parts = PartitionMut::new(&mut all[..], &counts[..], &places[..]);
            let begin = start.min(own.len());
            let part = &own[begin..begin + count(own.len())];
            self.world.all_gather_varcount_into(part, &mut parts);
            for ((told, &count), &place) in told.iter_mut().zip(&counts).zip(&places) {
                told.extend(&all[place as usize..(place + count) as usize]);
            }
        }
        Ok(told)
    }
}
