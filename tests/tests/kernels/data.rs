//! Tensors for kernels, as the bytes that are bound and as the numbers that a reference reads.

use std::collections::HashMap;

use warpweft_compiler::formats::Format;
use warpweft_compiler::formats::cache::{self, pack, unpack};
use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Binary, Index, Operand, Term, Unary, View};
use warpweft_plan::{CacheFormat, CacheRows, Sizes};

/// What `out` holds before a kernel runs.
pub(crate) const UNTOUCHED: f32 = 12345.0;

/// Deterministic numbers in (-1, 1).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn number(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn numbers(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.number() * scale).collect()
    }
}

pub(crate) fn bytes<T: Copy>(values: &[T], le: impl Fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|&v| le(v)).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Rows of a page.
pub(crate) const PAGE: u32 = warpweft_plan::PAGE_ROWS as u32;

/// Sequences of given lengths in one step, one after the other.
pub(crate) struct Batch {
    pub(crate) lengths: Vec<u32>,
    /// Rows that each sequence's cache held before.
    pub(crate) cached: Vec<u32>,
    /// Pages of each sequence, in order.
    pub(crate) pages: Vec<Vec<u32>>,
    /// Row by row: position, first row, rows, sequence.
    pub(crate) rows: Vec<[u32; 4]>,
    pub(crate) ids: Vec<u32>,
}

impl Batch {
    pub(crate) fn new(lengths: &[u32]) -> Batch {
        Batch::cached(&lengths.iter().map(|&n| (0, n)).collect::<Vec<_>>())
    }

    /// Sequences of so many cached and new rows, their pages anywhere in the pool.
    pub(crate) fn cached(sequences: &[(u32, u32)]) -> Batch {
        let mut rows = Vec::new();
        for (s, &(cached, length)) in sequences.iter().enumerate() {
            let first = rows.len() as u32;
            rows.extend((0..length).map(|i| [cached + i, first, length, s as u32]));
        }
        let ids = (0..rows.len() as u32).map(|m| m * 7 % 50).collect();
        let counts = sequences.iter().map(|(cached, length)| (cached + length).div_ceil(PAGE));
        let total: u32 = counts.clone().sum();
        // An odd step through a pool of a power of two of pages meets each once.
        let pool = (total + 1).next_power_of_two();
        let mut next = (0..).map(|i: u32| (i * 5 + 3) % pool);
        let pages = counts.map(|n| next.by_ref().take(n as usize).collect()).collect();
        let (cached, lengths) = sequences.iter().copied().unzip();
        Batch { lengths, cached, pages, rows, ids }
    }

    /// The row of the caches that holds a position of a sequence.
    pub(crate) fn cache_row(&self, sequence: usize, position: u32) -> usize {
        (self.pages[sequence][(position / PAGE) as usize] * PAGE + position % PAGE) as usize
    }

    /// Rows of the whole pool.
    pub(crate) fn pool_rows(&self) -> usize {
        let pages: usize = self.pages.iter().map(Vec::len).sum();
        (pages + 1).next_power_of_two() * PAGE as usize
    }

    /// Rows of the longest context.
    pub(crate) fn context(&self) -> u32 {
        self.cached.iter().zip(&self.lengths).map(|(c, n)| c + n).max().unwrap_or(0)
    }

    pub(crate) fn tokens(&self) -> usize {
        self.rows.len()
    }

    /// Rows that buffers have room for.
    pub(crate) fn capacity(&self) -> usize {
        self.tokens().next_multiple_of(64)
    }
}

/// All that a kernel reads.
pub(crate) struct Data {
    pub(crate) batch: Batch,
    bytes: HashMap<Slot, Vec<u8>>,
    pub(crate) matrices: HashMap<Slot, Vec<f32>>,
    /// What the result is written over.
    over: Option<Slot>,
    random: Random,
}

impl Data {
    pub(crate) fn new(batch: Batch, seed: u64) -> Data {
        let mut bytes_of = HashMap::new();
        let mut rows: Vec<u32> = batch.rows.iter().flatten().copied().collect();
        rows.resize(batch.capacity() * 4, 0);
        let mut ids = batch.ids.clone();
        ids.resize(batch.capacity(), 0);
        let mut first = 0;
        let mut sequences = Vec::new();
        let mut first_page = 0;
        for ((&length, &cached), pages) in batch.lengths.iter().zip(&batch.cached).zip(&batch.pages) {
            sequences.extend([first, length, cached, first_page]);
            first += length;
            first_page += pages.len() as u32;
        }
        let pages: Vec<u32> = batch.pages.iter().flatten().copied().collect();
        bytes_of.insert(Slot::Pages, bytes(&pages, u32::to_le_bytes));
        let step = [batch.tokens() as u32, batch.lengths.len() as u32, 0, 0];
        bytes_of.insert(Slot::Rows, bytes(&rows, u32::to_le_bytes));
        bytes_of.insert(Slot::Ids, bytes(&ids, u32::to_le_bytes));
        bytes_of.insert(Slot::Sequences, bytes(&sequences, u32::to_le_bytes));
        bytes_of.insert(Slot::Step, bytes(&step, u32::to_le_bytes));
        Data { batch, bytes: bytes_of, matrices: HashMap::new(), over: None, random: Random::new(seed) }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        let Batch { lengths, .. } = &self.batch;
        let (tokens, sequences) = (self.batch.tokens() as u64, lengths.len() as u64);
        Sizes { tokens, sequences, context: self.batch.context().into() }
    }

    pub(crate) fn bytes(&self, slot: Slot) -> Vec<u8> {
        self.bytes[&slot].clone()
    }

    /// What a result of so many elements holds before a kernel runs.
    pub(crate) fn result(&self, elements: usize) -> Vec<u8> {
        let mut values = vec![UNTOUCHED; elements];
        if let Some(over) = self.over {
            let all = &self.matrices[&over];
            let rows = self.batch.tokens() * elements / self.batch.capacity();
            values[..rows].copy_from_slice(&all[..rows]);
        }
        bytes(&values, f32::to_le_bytes)
    }

    /// A matrix of activations: numbers up to `scale`, and larger ones outside the view.
    pub(crate) fn matrix(&mut self, slot: Slot, view: View, rows: usize, scale: f32) {
        let (stride, first, end) = (view.stride as usize, view.offset as usize, (view.offset + view.width) as usize);
        let mut values = self.random.numbers(rows.next_multiple_of(64) * stride, scale);
        for row in values.chunks_exact_mut(stride) {
            for (n, value) in row.iter_mut().enumerate() {
                if n < first || n >= end {
                    *value = *value * 100.0 + 77.0;
                }
            }
        }
        self.bytes.insert(slot, bytes(&values, f32::to_le_bytes));
        self.matrices.insert(slot, values);
    }

    /// A matrix of given values.
    pub(crate) fn exactly(&mut self, slot: Slot, values: Vec<f32>) {
        self.bytes.insert(slot, bytes(&values, f32::to_le_bytes));
        self.matrices.insert(slot, values);
    }

    /// A cache with numbers up to `scale`: what the format makes of them.
    pub(crate) fn cache(&mut self, slot: Slot, rows: CacheRows, scale: f32) {
        let width = (rows.heads * rows.columns) as usize;
        let stride = View::whole(width as u32).stride as usize;
        let mut values = self.random.numbers(self.batch.pool_rows() * width, scale);
        // A row without a greatest value.
        values[..width].fill(0.0);
        let padded = values.chunks_exact(width).flat_map(|row| padded(row, stride)).collect();
        self.cached(slot, rows, padded);
    }

    /// A cache of given rows, each padded as a matrix is, as the format has them.
    pub(crate) fn cached(&mut self, slot: Slot, rows: CacheRows, values: Vec<f32>) {
        let packed = pack(rows, &without_padding(rows, &values)).unwrap();
        self.matrices.insert(slot, restored(rows, &packed));
        self.bytes.insert(slot, packed);
    }

    /// A weight of `n` rows, padded as the contract says.
    pub(crate) fn weight(&mut self, slot: Slot, n: usize, k: usize, format: Format, scale: f32) {
        let values = self.random.numbers(n * k, scale);
        self.stored(slot, &format.pack(&values, k).unwrap(), k, format);
    }

    /// A weight of stored rows.
    pub(crate) fn stored(&mut self, slot: Slot, packed: &[u8], k: usize, format: Format) {
        self.matrices.insert(slot, format.unpack(packed, k));
        self.bytes.insert(slot, format.arrange(packed, k));
    }

    /// The tensors of a term.
    pub(crate) fn operands(&mut self, operands: &[Operand], width: usize, rows: usize, scale: f32) {
        self.operands_of(Slot::Operand, operands, width, rows, scale);
    }

    /// The tensors of the terms of one side of a kernel.
    pub(crate) fn operands_of(
        &mut self,
        slot: fn(usize) -> Slot,
        operands: &[Operand],
        width: usize,
        rows: usize,
        scale: f32,
    ) {
        for (i, operand) in operands.iter().enumerate() {
            let slot = slot(i);
            match *operand {
                Operand::Vector => {
                    let mut values = self.random.numbers(width, scale);
                    values.resize(width.next_multiple_of(8), 0.0);
                    self.exactly(slot, values);
                }
                Operand::Matrix(view) => self.matrix(slot, view, rows, scale),
                Operand::Result => {
                    self.matrix(slot, View::whole(width as u32), rows, scale);
                    self.over = Some(slot);
                }
                Operand::Next => self.matrix(slot, View::whole(width as u32), rows, scale),
                Operand::Gather { format, rows, .. } => self.weight(slot, rows as usize, width, format, scale),
            }
        }
    }

    /// Element of a view.
    pub(crate) fn at(&self, slot: Slot, view: View, m: usize, n: usize) -> f64 {
        f64::from(self.matrices[&slot][m * view.stride as usize + view.offset as usize + n])
    }

    /// Element of a weight with rows of `k`.
    pub(crate) fn weight_at(&self, slot: Slot, k: usize, n: usize, column: usize) -> f64 {
        f64::from(self.matrices[&slot][n * k + column])
    }

    /// The row that a gather reads, if its window has it.
    fn gathered(&self, operand: &Operand, m: usize) -> Option<usize> {
        let Operand::Gather { first, rows, index, .. } = *operand else { return Some(0) };
        let index = match index {
            Index::Ids => self.batch.ids[m],
            Index::Positions => self.batch.rows[m][0],
        };
        index.checked_sub(first).filter(|&i| i < rows).map(|i| i as usize)
    }

    /// Whether all gathers have row m.
    pub(crate) fn kept(&self, operands: &[Operand], m: usize) -> bool {
        operands.iter().all(|o| self.gathered(o, m).is_some())
    }

    /// The value of a term.
    pub(crate) fn term(
        &self,
        term: &Term,
        operands: &[Operand],
        width: usize,
        at: (usize, usize),
        acc: [f64; 2],
    ) -> f64 {
        self.term_of(Slot::Operand, term, operands, width, at, acc)
    }

    /// The value of a term of one side of a kernel.
    pub(crate) fn term_of(
        &self,
        slot: fn(usize) -> Slot,
        term: &Term,
        operands: &[Operand],
        width: usize,
        (m, n): (usize, usize),
        acc: [f64; 2],
    ) -> f64 {
        let eval = |t: &Term| self.term_of(slot, t, operands, width, (m, n), acc);
        match term {
            Term::Acc => acc[0],
            Term::Acc2 => acc[1],
            Term::Constant(c) => f64::from(*c),
            Term::Operand(i) => match operands[*i] {
                Operand::Vector => f64::from(self.matrices[&slot(*i)][n]),
                Operand::Matrix(view) => self.at(slot(*i), view, m, n),
                Operand::Result | Operand::Next => self.at(slot(*i), View::whole(width as u32), m, n),
                Operand::Gather { .. } => {
                    self.weight_at(slot(*i), width, self.gathered(&operands[*i], m).unwrap_or(0), n)
                }
            },
            Term::Unary(function, a) => unary(*function, eval(a)),
            Term::Binary(operator, a, b) => {
                let (a, b) = (eval(a), eval(b));
                match operator {
                    Binary::Add => a + b,
                    Binary::Sub => a - b,
                    Binary::Mul => a * b,
                    Binary::Div => a / b,
                }
            }
            Term::BandMask { .. } => 0.0,
        }
    }
}

/// The numbers in the bytes of a cache, each row padded as that of a matrix is.
pub(crate) fn restored(rows: CacheRows, bytes: &[u8]) -> Vec<f32> {
    let width = (rows.heads * rows.columns) as usize;
    let stride = View::whole(width as u32).stride as usize;
    unpack(rows, bytes).chunks_exact(width).flat_map(|row| padded(row, stride)).collect()
}

fn padded(row: &[f32], stride: usize) -> impl Iterator<Item = f32> {
    row.iter().copied().chain(std::iter::repeat_n(0.0, stride - row.len()))
}

fn without_padding(rows: CacheRows, values: &[f32]) -> Vec<f32> {
    let width = (rows.heads * rows.columns) as usize;
    let stride = View::whole(width as u32).stride as usize;
    values.chunks_exact(stride).flat_map(|row| row[..width].iter().copied()).collect()
}

/// How far a value of a head may be from what a cache has of it.
pub(crate) fn rounding(format: CacheFormat, head: &[f64], value: f64) -> f64 {
    cache::rounding(format, head.iter().fold(0.0, |most, v| v.abs().max(most)), value)
}

fn unary(function: Unary, x: f64) -> f64 {
    match function {
        Unary::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Unary::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::Relu => x.max(0.0),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// The error function, by its power series; exact to 1e-13 where |x| < 5, and ±1 beyond.
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    // exp(-x²) Σ 2^n x^(2n+1) / (1·3·…·(2n+1)): all terms have one sign.
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}
