//! Memory is accounted for before it is taken: drivers often promise more than there is.

use std::collections::BTreeSet;

use warpweft_plan::{MAX_GROUPS, Plan, ROW_BLOCK, Role, Sizes};

use super::job::{Job, Window};
use crate::RuntimeError;
use crate::device::Adapter;

/// Bytes on the device that a job takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Packed weights.
    pub weights: u64,
    /// Values between kernels.
    pub activations: u64,
    /// Tables, results, and the copies through which they travel.
    pub transfers: u64,
}

impl Account {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.activations).saturating_add(self.transfers)
    }

    /// What a job needs for steps of up to `rows` rows, with these weights on the device.
    pub(crate) fn new(plan: &Plan, job: &Job, weights: &BTreeSet<Window>, rows: u64) -> Account {
        let mut account = Account { weights: weights.iter().map(|w| w.bytes).sum(), ..Account::default() };
        for &index in &job.buffers {
            let bytes = size(plan, index, rows);
            let (part, copies) = match plan.buffers[index].role {
                Role::Weight { .. } => continue,
                Role::Scratch => (&mut account.activations, 1),
                Role::Input(_) | Role::Output => (&mut account.transfers, 2),
            };
            *part = part.saturating_add(bytes.saturating_mul(copies));
        }
        account
    }
}

/// The symbols' values for which buffers are made, so that steps of up to `rows` rows fit.
pub(crate) fn capacity_sizes(rows: u64) -> Sizes {
    let rows = rows.next_multiple_of(ROW_BLOCK);
    Sizes { tokens: rows, context: rows, sequences: rows }
}

/// Bytes of a buffer for steps of up to `rows` rows.
pub(crate) fn size(plan: &Plan, buffer: usize, rows: u64) -> u64 {
    plan.buffers[buffer].bytes.eval(capacity_sizes(rows)).unwrap_or(u64::MAX)
}

/// Where a limit comes from.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) bytes: u64,
    pub(crate) what: String,
}

/// The limit that the user sets, or what the system has free if the CPU does the work. GPUs don't tell.
pub(crate) fn limit(adapter: &Adapter, wanted: Option<u64>) -> Limit {
    if let Some(bytes) = wanted {
        return Limit { bytes, what: "is the limit that was set".into() };
    }
    let free = if adapter.is_software() { available() } else { None };
    let what = "is what the system has available".into();
    Limit { bytes: free.unwrap_or(u64::MAX), what }
}

/// What Linux says can be taken without swapping.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The greatest number of rows that one step can have, at most `ceiling` unless one sequence is longer.
///
/// # Errors
/// [`RuntimeError::Memory`] if the longest sequence that the device's buffers allow does not fit into `limit`,
/// [`RuntimeError::NoTier`] if not even one row fits into the device's buffers.
pub(crate) fn capacity(
    plan: &Plan,
    job: &Job,
    weights: &BTreeSet<Window>,
    adapter: &Adapter,
    ceiling: u64,
    limit: &Limit,
) -> Result<u64, RuntimeError> {
    let longest = u64::from(plan.model.max_positions);
    let most = greatest(ceiling.max(longest), |rows| device_allows(plan, job, adapter, rows));
    if most == 0 {
        let reasons =
            vec![format!("{}: a step of one row needs buffers or grids above the device's limits", job.target)];
        return Err(RuntimeError::NoTier { adapter: adapter.name.clone(), reasons });
    }
    let account = |rows| Account::new(plan, job, weights, rows);
    let need = account(longest.min(most));
    if need.total() > limit.bytes {
        return Err(RuntimeError::Memory {
            weights: need.weights,
            activations: need.activations,
            transfers: need.transfers,
            limit: limit.bytes,
            limit_is: limit.what.clone(),
        });
    }
    Ok(greatest(most, |rows| account(rows).total() <= limit.bytes).max(longest.min(most)))
}

fn device_allows(plan: &Plan, job: &Job, adapter: &Adapter, rows: u64) -> bool {
    let most = adapter.limits.max_storage_buffer_binding_size.min(adapter.limits.max_buffer_size);
    let sizes = Sizes { tokens: rows, context: rows, sequences: rows };
    job.buffers.iter().all(|&i| size(plan, i, rows) <= most)
        && job
            .program(plan, rows)
            .steps
            .iter()
            .all(|step| step.grid.iter().all(|groups| groups.count(sizes).is_some_and(|n| n <= MAX_GROUPS)))
}

/// The greatest number up to `most` for which a condition holds that only ever stops holding; 0 if there is none.
fn greatest(most: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if holds(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::greatest;

    #[test]
    fn greatest_is_found() {
        for limit in [0, 1, 7, 8, 100] {
            assert_eq!(greatest(100, |n| n <= limit), limit);
        }
        assert_eq!(greatest(5, |_| true), 5);
    }
}
