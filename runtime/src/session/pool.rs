//! The caches on the device. They begin small and grow with what sessions need, up to a limit that is known at opening.

use std::collections::{BTreeSet, HashMap};

use warpweft_plan::{PAGE_ROWS, Plan, Role};

use super::Ledger;
use crate::RuntimeError;
use crate::device::{Adapter, Device};
use crate::load::job::{Job, Window};
use crate::load::memory::{Account, Extent, Limit, device_rows, fits, greatest};

/// Rows of the pool before anything is cached.
const FIRST_ROWS: u64 = 512;
/// Sessions as long as the model allows for which there is room, unless the options say otherwise or memory is short.
const SESSIONS: u64 = 4;
/// Sequences for which a step has room, and which the queue puts into one step at the most.
pub(crate) const MAX_SEQUENCES: u64 = 64;
/// Rows of a step for which there must be room beside the cache.
pub(crate) const STEP_ROWS: u64 = 512;

/// The caches of all layers.
#[derive(Debug)]
pub(crate) struct Pool {
    /// By the index of their buffer in the plan.
    pub(crate) buffers: HashMap<usize, wgpu::Buffer>,
    /// Bytes of a row of each.
    row_bytes: HashMap<usize, u64>,
    /// Rows that there are.
    pub(crate) rows: u64,
    /// Rows that there can be.
    pub(crate) most: u64,
    pub(crate) ledger: Ledger,
}

/// Whether a job reads or writes a cache.
pub(crate) fn is_cached(plan: &Plan, job: &Job) -> bool {
    job.buffers.iter().any(|&i| plan.buffers[i].role == Role::Cache)
}

/// Whether any program of a plan has a cache.
pub(crate) fn has_cache(plan: &Plan) -> bool {
    plan.buffers.iter().any(|buffer| buffer.role == Role::Cache)
}

/// A step of up to `rows` rows, with a pool of `pool` rows.
pub(crate) fn extent(plan: &Plan, rows: u64, pool: u64) -> Extent {
    Extent { rows, sequences: MAX_SEQUENCES, context: u64::from(plan.model.max_positions), pool, pages: pool }
}

/// Rows that the pool may have.
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
) -> Result<u64, RuntimeError> {
    let account = |pool| Account::new(plan, job, weights, extent(plan, STEP_ROWS.min(pool), pool));
    let bytes = row_bytes(plan);
    let visible = bytes.values().map(|&bytes| adapter.largest_binding() / bytes.max(1)).min().unwrap_or(0);
    let visible = visible / PAGE_ROWS * PAGE_ROWS;
    if let Some(wanted) = wanted {
        let rows = u64::from(wanted).max(1).next_multiple_of(PAGE_ROWS);
        if rows > visible {
            let why = "a kernel of this device sees no larger cache";
            return Err(RuntimeError::Context { rows: rows as usize, limit: visible, why });
        }
        fits(&account(rows), limit)?;
        return Ok(rows);
    }
    let first = account(PAGE_ROWS);
    fits(&first, limit)?;
    let rest = (limit.bytes - first.total()) / bytes.values().sum::<u64>().max(1);
    let ample = SESSIONS.saturating_mul(u64::from(plan.model.max_positions));
    // Half of what is left: others want memory as well.
    Ok(ample.min(visible).min(rest / 2).max(1).next_multiple_of(PAGE_ROWS))
}

/// The greatest number of rows, at most `most`, that one step can have beside the first page of the cache.
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
    let extent = |rows| extent(plan, rows, PAGE_ROWS);
    let most = device_rows(plan, job, adapter, most, extent)?;
    Ok(greatest(most, |rows| Account::new(plan, job, weights, extent(rows)).total() <= limit.bytes).max(1))
}

fn row_bytes(plan: &Plan) -> HashMap<usize, u64> {
    let caches = plan.buffers.iter().enumerate().filter(|(_, buffer)| buffer.role == Role::Cache);
    caches.map(|(i, buffer)| (i, u64::try_from(buffer.bytes.context).unwrap_or(0))).collect()
}

impl Pool {
    /// A pool without any rows yet.
    pub(crate) fn new(plan: &Plan, ledger: &Ledger, most: u64) -> Pool {
        Pool { buffers: HashMap::new(), row_bytes: row_bytes(plan), rows: 0, most, ledger: ledger.clone() }
    }

    /// Grows until `pages` pages are free.
    ///
    /// # Errors
    /// [`RuntimeError::CacheFull`] if the limit is in the way; the device's own. The pool is as before then.
    pub(crate) async fn ensure(&mut self, device: &Device, pages: usize) -> Result<(), RuntimeError> {
        let (_, free) = self.ledger.count();
        let missing = pages.saturating_sub(free) as u64 * PAGE_ROWS;
        if missing == 0 && self.rows > 0 {
            return Ok(());
        }
        if self.rows + missing > self.most {
            let rows = |pages: usize| pages as u64 * PAGE_ROWS;
            let free = rows(free) + (self.most - self.rows);
            return Err(RuntimeError::CacheFull { needed: rows(pages), free, limit: self.most });
        }
        let rows = (self.rows * 2).max(self.rows + missing).max(FIRST_ROWS).min(self.most);
        let doing = "growing the cache";
        for (&index, &bytes) in &self.row_bytes {
            let grown = device.guard(doing, || self.enlarged(device, index, rows * bytes)).await?;
            self.buffers.insert(index, grown);
        }
        device.idle(doing).await?;
        tracing::debug!(from = self.rows, to = rows, "cache grown");
        self.rows = rows;
        self.ledger.grow(u32::try_from(rows / PAGE_ROWS).unwrap_or(u32::MAX));
        Ok(())
    }

    /// A larger buffer with the content of the one that is there.
    fn enlarged(&self, device: &Device, index: usize, size: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let label = Some("cache");
        let grown = device.gpu.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
        if let Some(old) = self.buffers.get(&index) {
            let mut encoder = device.gpu.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(old, 0, &grown, 0, old.size().min(size));
            device.queue.submit([encoder.finish()]);
        }
        grown
    }

    /// Copies pages in all caches. Goes through a buffer of its own, because none can be copied to itself.
    pub(crate) async fn copy(&self, device: &Device, pages: &[(u32, u32)]) -> Result<(), RuntimeError> {
        if pages.is_empty() {
            return Ok(());
        }
        let size = self.row_bytes.values().max().map_or(0, |bytes| bytes * PAGE_ROWS);
        let copy = || {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let descriptor = wgpu::BufferDescriptor { label: Some("page"), size, usage, mapped_at_creation: false };
            let stage = device.gpu.create_buffer(&descriptor);
            let mut encoder = device.gpu.create_command_encoder(&Default::default());
            for (index, buffer) in &self.buffers {
                let page = self.row_bytes[index] * PAGE_ROWS;
                for &(from, to) in pages {
                    encoder.copy_buffer_to_buffer(buffer, u64::from(from) * page, &stage, 0, page);
                    encoder.copy_buffer_to_buffer(&stage, 0, buffer, u64::from(to) * page, page);
                }
            }
            device.queue.submit([encoder.finish()]);
        };
        device.guard("copying pages of the cache", copy).await
    }
}
