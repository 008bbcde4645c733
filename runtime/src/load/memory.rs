//! Memory is accounted for before it is taken: drivers often promise more than there is.

use std::collections::BTreeSet;

use warpweft_plan::{Access, Input, MAX_GROUPS, PAGE_ROWS, Plan, ROW_BLOCK, Role, Sizes};

use super::job::{Job, Window};
use super::scratch;
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
    /// Rows of sessions.
    pub cache: u64,
}

impl Account {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.activations).saturating_add(self.transfers).saturating_add(self.cache)
    }

    /// What a job needs for steps of some extent, with these weights on the device.
    pub(crate) fn new(plan: &Plan, job: &Job, weights: &BTreeSet<Window>, extent: Extent) -> Account {
        let places = scratch::places(plan, job, extent).into_iter();
        let activations = places.map(|(_, bytes)| bytes).fold(0, u64::saturating_add);
        let mut account =
            Account { weights: weights.iter().map(Window::held).sum(), activations, ..Account::default() };
        for &index in &job.buffers {
            let bytes = size(plan, index, extent);
            let (part, copies) = match plan.buffers[index].role {
                Role::Weight { .. } | Role::Scratch => continue,
                Role::Cache { .. } => (&mut account.cache, 1),
                Role::Input(_) | Role::Output => (&mut account.transfers, 2),
            };
            *part = part.saturating_add(bytes.saturating_mul(copies));
        }
        account
    }
}

/// The steps for which buffers are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Rows in a step.
    pub(crate) rows: u64,
    /// Sequences in a step.
    pub(crate) sequences: u64,
    /// Rows of the longest sequence, cached ones included.
    pub(crate) context: u64,
    /// Rows of the pools of all sessions.
    pub(crate) pool: PoolRows,
    /// Pages of all sequences in each pool; those that several share count for each.
    pub(crate) pages: u64,
}

/// Rows of the pools, 0 where a plan has no caches of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolRows {
    /// Of the caches that keep all rows.
    pub(crate) full: u64,
    /// Of those that keep a window.
    pub(crate) window: u64,
}

impl PoolRows {
    /// Those of the caches with or without a window.
    pub(crate) fn of(&self, window: Option<u32>) -> u64 {
        if window.is_some() { self.window } else { self.full }
    }
}

impl Extent {
    /// Whole sequences of `rows` rows together.
    pub(crate) fn whole(rows: u64) -> Extent {
        Extent { rows, sequences: rows, context: rows, pool: PoolRows::default(), pages: 0 }
    }

    /// Whether a step of extent `other` fits.
    pub(crate) fn covers(&self, other: &Extent) -> bool {
        self.rows >= other.rows
            && self.sequences >= other.sequences
            && self.context >= other.context
            && self.pool == other.pool
            && self.pages >= other.pages
    }
}

/// Bytes of a buffer for steps of some extent.
pub(crate) fn size(plan: &Plan, buffer: usize, extent: Extent) -> u64 {
    let block = |rows: u64| rows.next_multiple_of(ROW_BLOCK);
    let buffer = &plan.buffers[buffer];
    let context = match buffer.role {
        Role::Cache { window, .. } => extent.pool.of(window).next_multiple_of(PAGE_ROWS),
        Role::Input(Input::Pages | Input::WindowPages) => extent.pages,
        _ => block(extent.context),
    };
    let sizes = Sizes { tokens: block(extent.rows), context, sequences: extent.sequences };
    buffer.bytes.eval(sizes).unwrap_or(u64::MAX)
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
    let what = "is what the system has available".into();
    Limit { bytes: adapter.available_memory().unwrap_or(u64::MAX), what }
}

/// What Linux says can be taken without swapping.
pub(crate) fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The greatest number of rows that one step of whole sequences can have, at most `ceiling` unless one sequence is longer.
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
    let most = device_rows(plan, job, adapter, ceiling.max(longest), Extent::whole)?;
    let account = |rows| Account::new(plan, job, weights, Extent::whole(rows));
    fits(&account(longest.min(most)), limit)?;
    Ok(greatest(most, |rows| account(rows).total() <= limit.bytes).max(longest.min(most)))
}

/// The greatest number of rows, at most `most`, that one step can have on the device.
///
/// # Errors
/// [`RuntimeError::NoTier`] if not even one row fits into the device's buffers.
pub(crate) fn device_rows(
    plan: &Plan,
    job: &Job,
    adapter: &Adapter,
    most: u64,
    extent: impl Fn(u64) -> Extent,
) -> Result<u64, RuntimeError> {
    match greatest(most, |rows| device_allows(plan, job, adapter, extent(rows))) {
        0 => {
            let reasons =
                vec![format!("{}: a step of one row needs buffers or grids above the device's limits", job.target)];
            Err(RuntimeError::NoTier { adapter: adapter.name.clone(), reasons })
        }
        rows => Ok(rows),
    }
}

/// Refuses what is more than the limit.
pub(crate) fn fits(need: &Account, limit: &Limit) -> Result<(), RuntimeError> {
    if need.total() <= limit.bytes {
        return Ok(());
    }
    Err(RuntimeError::Memory {
        weights: need.weights,
        activations: need.activations,
        transfers: need.transfers,
        cache: need.cache,
        limit: limit.bytes,
        limit_is: limit.what.clone(),
    })
}

fn device_allows(plan: &Plan, job: &Job, adapter: &Adapter, extent: Extent) -> bool {
    let most = adapter.largest_binding();
    let most_of = |access: Access| if access.is_image() { adapter.largest_image() } else { most };
    let sizes = Sizes { tokens: extent.rows, context: extent.context, sequences: extent.sequences };
    job.buffers.iter().all(|&i| size(plan, i, extent) <= most)
        && scratch::places(plan, job, extent).into_iter().all(|(access, bytes)| bytes <= most_of(access))
        && job
            .program(plan, extent.rows)
            .steps
            .iter()
            .all(|step| step.grid.iter().all(|groups| groups.count(sizes).is_some_and(|n| n <= MAX_GROUPS)))
}

/// The greatest number up to `most` for which a condition holds that only ever stops holding; 0 if there is none.
pub(crate) fn greatest(most: u64, holds: impl Fn(u64) -> bool) -> u64 {
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
