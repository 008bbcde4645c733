//! What a plan takes on a device, told before there is one.

use warpweft_plan::{OutputKind, PAGE_ROWS, Plan, Role};

use super::job::Job;
use super::memory::{Account, Extent, size};
use crate::session::{pool, room};

/// What an output of a plan takes on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes by what they are for.
    pub account: Account,
    /// Bytes of the largest buffer that a kernel sees, which have to be within the device's binding limit.
    pub largest_buffer: u64,
    /// Bytes of one row of a session in all caches, those with windows too; 0 for models without a cache.
    pub cache_row: u64,
}

/// What an output of a plan takes with the programs of one target: a step as long as the longest sequence, or, for models
/// with a cache, one of up to 512 rows beside a cache of `cache_rows` rows for all sessions together, of which layers with
/// a sliding window keep what four sessions see.
pub fn need(plan: &Plan, output: OutputKind, target: &str, cache_rows: u64) -> Need {
    let job = Job::new(plan, output, target);
    let rows = cache_rows.max(1).next_multiple_of(PAGE_ROWS);
    let extent = match pool::is_cached(plan, &job) {
        true => room::extent(plan, room::STEP_ROWS.min(rows), room::pools(plan, rows)),
        false => Extent::whole(plan.model.max_positions.into()),
    };
    let row = |index: &usize| match plan.buffers[*index].role {
        Role::Cache { .. } => u64::try_from(plan.buffers[*index].bytes.context).unwrap_or(0),
        Role::Weight { .. } | Role::Scratch | Role::Input(_) | Role::Output => 0,
    };
    Need {
        account: Account::new(plan, &job, &job.windows(plan), extent),
        largest_buffer: job.buffers.iter().map(|&index| size(plan, index, extent)).max().unwrap_or(0),
        cache_row: job.buffers.iter().map(row).sum(),
    }
}
