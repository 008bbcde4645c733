//! Random numbers, and batches of sequences of random lengths and ids.

use warpweft_plan::{PAGE_ROWS, ROW_BLOCK, Sizes};

use super::call::Call;

/// Rows of a page.
pub(super) const PAGE: usize = PAGE_ROWS as usize;

/// Rows that sequences have in their caches before a step: none, within a page, its end, beyond it.
const CACHED: [u32; 4] = [5, 0, 32, 40];

/// xorshift64*, the same numbers on each run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In (-1, 1).
    pub(super) fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Sequences one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// New rows of each.
    pub(super) lengths: Vec<u32>,
    /// Rows that its caches held before.
    pub(super) cached: Vec<u32>,
    pub(super) ids: Vec<u32>,
}

impl Batch {
    /// Sequences of the given lengths (as far as the model allows) with random ids below `limit`. Where there are caches,
    /// some of them go on from earlier rows.
    pub(crate) fn new(lengths: &[u32], max_positions: u32, call: &Call, seed: u64) -> Batch {
        let lengths: Vec<u32> = lengths.iter().map(|&n| n.min(max_positions)).collect();
        let before = CACHED.iter().cycle().map(|&n| if call.paged { n } else { 0 });
        let cached = lengths.iter().zip(before).map(|(&rows, cached)| cached.min(max_positions - rows)).collect();
        let mut random = Random::new(seed ^ 0x1d5);
        let tokens: u32 = lengths.iter().sum();
        let limit = call.id_limit().max(1) as u64;
        let ids = (0..tokens).map(|_| (random.bits() % limit) as u32).collect();
        Batch { lengths, cached, ids }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            tokens: self.ids.len() as u64,
            context: (0..self.lengths.len()).map(|i| self.context(i)).max().unwrap_or(0) as u64,
            sequences: self.lengths.len() as u64,
        }
    }

    /// Rows that a sequence has, the new ones included.
    pub(super) fn context(&self, sequence: usize) -> usize {
        (self.cached[sequence] + self.lengths[sequence]) as usize
    }

    /// Pages of all sequences before this one.
    pub(super) fn first_page(&self, sequence: usize) -> usize {
        (0..sequence).map(|i| self.context(i).div_ceil(PAGE)).sum()
    }

    /// Pages of all sequences.
    pub(super) fn pages(&self) -> usize {
        self.first_page(self.lengths.len())
    }

    /// The row of a cache that holds a position: pages lie in reverse, so that none is where a plain array has it.
    pub(super) fn cache_row(&self, sequence: usize, position: usize) -> usize {
        (self.pages() - 1 - self.first_page(sequence) - position / PAGE) * PAGE + position % PAGE
    }

    /// First row of a sequence.
    pub(super) fn first(&self, sequence: usize) -> usize {
        self.lengths[..sequence].iter().sum::<u32>() as usize
    }

    pub(super) fn rows_of(&self, sequence: usize) -> std::ops::Range<usize> {
        let first = self.first(sequence);
        first..first + self.lengths[sequence] as usize
    }

    pub(super) fn ids_of(&self, sequence: usize) -> Vec<u32> {
        self.ids[self.rows_of(sequence)].to_vec()
    }

    /// Position, first row, rows and index of a row's sequence.
    pub(super) fn row(&self, row: usize) -> [u32; 4] {
        let mut first = 0;
        for (index, &length) in (0..).zip(&self.lengths) {
            if row < (first + length) as usize {
                return [self.cached[index as usize] + row as u32 - first, first, length, index];
            }
            first += length;
        }
        [0; 4]
    }

    /// Rows that buffers have room for.
    pub(super) fn capacity(&self) -> usize {
        self.ids.len().next_multiple_of(ROW_BLOCK as usize)
    }
}
