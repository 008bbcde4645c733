//! The caches on the device. They begin small and grow with what sessions need, up to a limit that is known at opening.

use std::collections::{BTreeMap, HashMap};

use warpweft_plan::{PAGE_ROWS, Plan, Role};

use super::Ledger;
use super::table::most_alive;
use crate::RuntimeError;
use crate::device::Device;
use crate::load::job::Job;
use crate::load::memory::PoolRows;

/// Rows of a pool before anything is cached.
const FIRST_ROWS: u64 = 512;

/// Caches whose pages are the same.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    /// The most rows before its own that a row sees; all if `None`.
    pub(crate) window: Option<u32>,
    /// Bytes of a row of each, by the index of its buffer in the plan.
    pub(crate) row_bytes: BTreeMap<usize, u64>,
}

impl Class {
    /// Bytes of a row of all.
    pub(crate) fn bytes(&self) -> u64 {
        self.row_bytes.values().sum()
    }
}

/// The caches of a plan: those that keep all rows, then those that keep a window, the widest of theirs.
pub(crate) fn classes(plan: &Plan) -> Vec<Class> {
    let class = |windowed: bool| {
        let mut class = Class { window: None, row_bytes: BTreeMap::new() };
        for (i, buffer) in plan.buffers.iter().enumerate() {
            match buffer.role {
                Role::Cache { window, .. } if window.is_some() == windowed => {
                    class.window = class.window.max(window);
                    class.row_bytes.insert(i, u64::try_from(buffer.bytes.context).unwrap_or(0));
                }
                Role::Cache { .. } | Role::Weight { .. } | Role::Scratch | Role::Input(_) | Role::Output => {}
            }
        }
        class
    };
    [class(false), class(true)].into_iter().filter(|class| !class.row_bytes.is_empty()).collect()
}

/// The books of the pools of a plan's caches.
pub(crate) fn ledgers(plan: &Plan) -> Vec<Ledger> {
    classes(plan).iter().map(|class| Ledger::new(class.window)).collect()
}

/// Whether a job reads or writes a cache.
pub(crate) fn is_cached(plan: &Plan, job: &Job) -> bool {
    job.buffers.iter().any(|&i| matches!(plan.buffers[i].role, Role::Cache { .. }))
}

/// The rows of pools as they are.
pub(crate) fn rows(pools: &[Pool]) -> PoolRows {
    let rows = |windowed| {
        let pool = pools.iter().find(|pool| pool.ledger.window().is_some() == windowed);
        pool.map_or(0, |pool| pool.rows)
    };
    PoolRows { full: rows(false), window: rows(true) }
}

/// Caches of all layers whose pages are the same.
#[derive(Debug)]
pub(crate) struct Pool {
    /// By the index of their buffer in the plan.
    pub(crate) buffers: HashMap<usize, wgpu::Buffer>,
    /// Bytes of a row of each.
    row_bytes: BTreeMap<usize, u64>,
    /// Rows that there are.
    pub(crate) rows: u64,
    /// Rows that there can be.
    pub(crate) most: u64,
    pub(crate) ledger: Ledger,
}

impl Pool {
    /// All pools of a plan without any rows yet, in the order of their books.
    pub(crate) fn all(plan: &Plan, ledgers: &[Ledger], most: PoolRows) -> Vec<Pool> {
        let pool = |(class, ledger): (Class, &Ledger)| {
            let (row_bytes, most, ledger) = (class.row_bytes, most.of(class.window), ledger.clone());
            Pool { buffers: HashMap::new(), row_bytes, rows: 0, most, ledger }
        };
        classes(plan).into_iter().zip(ledgers).map(pool).collect()
    }

    /// Pages that sessions can still take.
    pub(crate) fn free_pages(&self) -> usize {
        // Both come from sizes of buffers, in pages.
        self.ledger.count().1 + ((self.most - self.rows) / PAGE_ROWS) as usize
    }

    /// Rows that one session can have, `None` if this pool sets no limit; rows that one step can add to it.
    pub(crate) fn bounds(&self) -> (Option<u64>, u64) {
        match self.ledger.window() {
            None => (Some(self.most), u64::MAX),
            // Sessions forget rows as they grow, if there is room for as many as they keep.
            Some(window) => match most_alive(window, self.most) {
                Some(rows) => (None, rows),
                None => (Some(self.most), u64::MAX),
            },
        }
    }

    /// That `needed` pages are more than there are.
    pub(crate) fn full(&self, needed: usize) -> RuntimeError {
        let rows = |pages: usize| pages as u64 * PAGE_ROWS;
        let cache = match self.ledger.window() {
            None => "the cache",
            Some(_) => "the cache of sliding windows",
        };
        RuntimeError::CacheFull { cache, needed: rows(needed), free: rows(self.free_pages()), limit: self.most }
    }

    /// Grows until `pages` pages are free, of which there can be so many.
    ///
    /// # Errors
    /// [`RuntimeError`]: the device's. The pool is as before then.
    pub(crate) async fn ensure(&mut self, device: &Device, pages: usize) -> Result<(), RuntimeError> {
        let (_, free) = self.ledger.count();
        let missing = pages.saturating_sub(free) as u64 * PAGE_ROWS;
        if missing == 0 && self.rows > 0 {
            return Ok(());
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
