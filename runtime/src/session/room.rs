//! How many rows the pools may have, and a step beside them.

use std::collections::BTreeSet;

use warpweft_plan::{PAGE_ROWS, Plan};

use super::pool::{Class, classes};
use super::table::alive;
use crate::RuntimeError;
use crate::device::Adapter;
use crate::load::job::{Job, Window};
use crate::load::memory::{Account, Extent, Limit, PoolRows, device_rows, fits, greatest};

/// Sessions as long as the model allows for which there is room, unless the options say otherwise or memory is short.
const SESSIONS: u64 = 4;
/// Sequences for which a step has room, and which the queue puts into one step at the most.
pub(crate) const MAX_SEQUENCES: u64 = 64;
/// Rows of a step for which there must be room beside the cache.
pub(crate) const STEP_ROWS: u64 = 512;

/// A step of up to `rows` rows, with pools of so many rows.
pub(crate) fn extent(plan: &Plan, rows: u64, pool: PoolRows) -> Extent {
    let context = u64::from(plan.model.max_positions);
    let pages = pool.full.max(pool.window).max(context).div_ceil(PAGE_ROWS);
    Extent { rows, sequences: rows.min(MAX_SEQUENCES), context, pool, pages }
}

/// What the plan's caches need.
struct Needs<'a> {
    full: Option<&'a Class>,
    windows: Option<(&'a Class, u32)>,
    /// Bytes of the largest binding.
    binding: u64,
}

impl<'c> Needs<'c> {
    fn of(classes: &'c [Class], binding: u64) -> Needs<'c> {
        let full = classes.iter().find(|class| class.window.is_none());
        Needs { full, windows: classes.iter().find_map(|class| Some((class, class.window?))), binding }
    }

    /// The most rows of a class that a kernel can see.
    fn visible(&self, class: Option<&Class>) -> u64 {
        let rows = class.into_iter().flat_map(|c| c.row_bytes.values()).map(|&bytes| self.binding / bytes.max(1));
        rows.min().unwrap_or(u64::MAX) / PAGE_ROWS * PAGE_ROWS
    }

    fn window_bytes(&self) -> u64 {
        self.windows.map_or(0, |(class, _)| class.bytes())
    }

    /// Pools for `rows` rows of all sessions. Windows have room for a few sessions in the middle of a long prompt, which
    /// without layers that keep all rows is always at least one.
    fn pools(&self, rows: u64) -> PoolRows {
        let full = if self.full.is_some() { rows } else { 0 };
        let window = self.windows.map_or(0, |(class, window)| {
            let least = if full > 0 { 0 } else { alive(window, 1) };
            rows.max(least).min(SESSIONS * alive(window, STEP_ROWS)).min(self.visible(Some(class)))
        });
        PoolRows { full, window }
    }

    /// The same with room in the windows for many sessions, as far as `rest` bytes go.
    fn with_more_windows(&self, pools: PoolRows, rows: u64, rest: u64) -> PoolRows {
        let Some((class, window)) = self.windows else { return pools };
        let ample = rows.min(MAX_SEQUENCES * alive(window, STEP_ROWS)).min(self.visible(Some(class)));
        let more = rest / self.window_bytes().max(1) / PAGE_ROWS * PAGE_ROWS;
        PoolRows { window: ample.min(pools.window.saturating_add(more)).max(pools.window), ..pools }
    }

    fn bytes(&self, pools: PoolRows) -> u64 {
        let full = self.full.map_or(0, Class::bytes).saturating_mul(pools.full);
        full.saturating_add(self.window_bytes().saturating_mul(pools.window))
    }
}

/// The least pools for `rows` rows of all sessions.
pub(crate) fn pools(plan: &Plan, rows: u64) -> PoolRows {
    Needs::of(&classes(plan), u64::MAX).pools(rows)
}

/// Rows that the pools may have.
///
/// # Errors
/// [`RuntimeError::Memory`] if `wanted` rows, or one page if none are wanted, do not fit into `limit`;
/// [`RuntimeError::Context`] if a cache of `wanted` rows is more than a kernel can see.
pub(crate) fn limit_rows(
    plan: &Plan,
    job: &Job,
    weights: &BTreeSet<Window>,
    adapter: &Adapter,
    wanted: Option<u32>,
    limit: &Limit,
) -> Result<PoolRows, RuntimeError> {
    let classes = classes(plan);
    let needs = Needs::of(&classes, adapter.largest_binding());
    let account = |pool: PoolRows| {
        let rows = STEP_ROWS.min(pool.full.max(pool.window));
        Account::new(plan, job, weights, extent(plan, rows, pool))
    };
    let visible = needs.visible(needs.full);
    if let Some(wanted) = wanted {
        let rows = u64::from(wanted).max(1).next_multiple_of(PAGE_ROWS);
        if rows > visible {
            let why = "a kernel of this device sees no larger cache";
            return Err(RuntimeError::Context { rows: rows as usize, limit: visible, why });
        }
        let pools = needs.pools(rows);
        let account = account(pools);
        fits(&account, limit)?;
        return Ok(needs.with_more_windows(pools, rows, limit.bytes - account.total()));
    }
    let first = account(needs.pools(PAGE_ROWS));
    fits(&first, limit)?;
    // Half of what is left: others want memory as well.
    let budget = (limit.bytes - first.total()) / 2;
    let ample = SESSIONS.saturating_mul(u64::from(plan.model.max_positions)).next_multiple_of(PAGE_ROWS);
    let pages = greatest(ample.min(visible) / PAGE_ROWS, |pages| needs.bytes(needs.pools(pages * PAGE_ROWS)) <= budget);
    let rows = pages.max(1) * PAGE_ROWS;
    let pools = needs.pools(rows);
    Ok(needs.with_more_windows(pools, rows, budget.saturating_sub(needs.bytes(pools))))
}

/// The greatest number of rows, at most `most`, that one step can have beside the first page of each pool.
///
/// # Errors
/// [`RuntimeError::NoTier`] if not even one row is possible.
pub(crate) fn capacity(
    plan: &Plan,
    job: &Job,
    weights: &BTreeSet<Window>,
    adapter: &Adapter,
    most: u64,
    limit: &Limit,
) -> Result<u64, RuntimeError> {
    let extent = |rows| extent(plan, rows, PoolRows { full: PAGE_ROWS, window: PAGE_ROWS });
    let most = device_rows(plan, job, adapter, most, extent)?;
    Ok(greatest(most, |rows| Account::new(plan, job, weights, extent(rows)).total() <= limit.bytes).max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn class(window: Option<u32>) -> Class {
        Class { window, row_bytes: BTreeMap::from([(0, 64), (1, 32)]) }
    }

    #[test]
    fn windows_have_room_for_some_sessions_and_no_more_than_all_rows() {
        let (full, windows) = (class(None), class(Some(16)));
        let both = Needs { full: Some(&full), windows: Some((&windows, 16)), binding: 1 << 30 };
        let alive = alive(16, STEP_ROWS);
        assert_eq!(alive, 608);
        assert_eq!(both.pools(320), PoolRows { full: 320, window: 320 });
        assert_eq!(both.pools(1 << 20), PoolRows { full: 1 << 20, window: 4 * alive });
        let more = |rest| both.with_more_windows(both.pools(1 << 20), 1 << 20, rest).window;
        assert_eq!((more(0), more(96 * 32 - 1), more(96 * 32)), (4 * alive, 4 * alive, 4 * alive + 32));
        assert_eq!(more(u64::MAX), 64 * alive);
        assert_eq!(both.bytes(both.pools(320)), 2 * 320 * 96);
        // Without layers that keep all rows, one session must always be able to go on.
        let alone = Needs { full: None, ..both };
        assert_eq!(alone.pools(32), PoolRows { full: 0, window: 96 });
        assert_eq!(alone.pools(128), PoolRows { full: 0, window: 128 });
        let small = Needs { full: None, windows: Some((&windows, 16)), binding: 64 * 70 };
        assert_eq!(small.pools(1 << 20).window, 64);
        let none = Needs { full: Some(&full), windows: None, binding: 64 * 100 };
        assert_eq!(
            (none.visible(none.full), none.with_more_windows(none.pools(64), 64, 1 << 30)),
            (96, none.pools(64))
        );
    }
}
