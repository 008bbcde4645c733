//! Attention over caches: pages in any order, cached and new rows mixed, windows, chunks of long contexts.

use warpweft_compiler::kernels::cached::{Uncut, split};
use warpweft_compiler::kernels::spec::{Attention, Binary, Operation, Split, Term, View};
use warpweft_compiler::kernels::{RowRange, Slot};
use warpweft_compiler::target::Target;
use warpweft_plan::{CacheFormat, CacheRows};
use warpweft_runtime::Device;
use warpweft_tests::gpu;

use crate::data::{Batch, Data, UNTOUCHED, bytes};
use crate::{all_kernels, check, everywhere, kernels, kernels_for};

/// No context is too short to be cut.
pub(crate) const ALWAYS: Uncut = Uncut { places: u32::MAX, keys: 0 };

pub(crate) struct Case {
    pub(crate) dim: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    /// Cached and new rows of each sequence.
    pub(crate) sequences: Vec<(u32, u32)>,
    pub(crate) before: Option<u32>,
    pub(crate) max_context: u32,
    pub(crate) every_tile: bool,
    pub(crate) format: CacheFormat,
}

impl Case {
    pub(crate) fn new(dim: u32, sequences: &[(u32, u32)]) -> Case {
        let sequences = sequences.to_vec();
        let format = CacheFormat::F16;
        Case { dim, heads: 4, kv_heads: 2, sequences, before: None, max_context: 300, every_tile: false, format }
    }

    /// How keys and values are stored.
    pub(crate) fn rows(&self) -> CacheRows {
        CacheRows { format: self.format, heads: self.kv_heads, columns: self.dim }
    }

    pub(crate) fn term(&self) -> Term {
        let binary = |operator, a, b| Term::Binary(operator, Box::new(a), Box::new(b));
        let scaled = binary(Binary::Mul, Term::Acc, Term::Constant(1.0 / (self.dim as f32).sqrt()));
        binary(Binary::Add, scaled, Term::BandMask { before: self.before, after: Some(0) })
    }

    pub(crate) fn data(&self) -> Data {
        let mut data = Data::new(Batch::cached(&self.sequences), u64::from(self.dim));
        let tokens = data.batch.tokens();
        data.matrix(Slot::Q, self.q(), tokens, 2.0);
        for slot in [Slot::K, Slot::V] {
            data.cache(slot, self.rows(), 2.0);
        }
        data
    }

    /// A window of a matrix that holds more.
    pub(crate) fn q(&self) -> View {
        let width = self.heads * self.dim;
        View { width, stride: (width + 12).next_multiple_of(8), offset: 4, image: false }
    }

    pub(crate) fn cache(&self) -> View {
        View::whole(self.kv_heads * self.dim)
    }

    pub(crate) fn expected(&self, data: &Data) -> Vec<(f64, f64)> {
        let (d, group) = (self.dim as usize, (self.heads / self.kv_heads) as usize);
        let term = self.term();
        let mut expected = Vec::new();
        for m in 0..data.batch.tokens() {
            let [position, _, _, sequence] = data.batch.rows[m];
            let first = position - position.min(self.before.unwrap_or(u32::MAX));
            let seen: Vec<usize> = (first..=position).map(|key| data.batch.cache_row(sequence as usize, key)).collect();
            for head in 0..self.heads as usize {
                let logit = |row: &usize| {
                    let products = (0..d).map(|i| {
                        data.at(Slot::Q, self.q(), m, head * d + i)
                            * data.at(Slot::K, self.cache(), *row, head / group * d + i)
                    });
                    data.term(&term, &[], 0, (m, 0), [products.sum(), 0.0])
                };
                let logits: Vec<f64> = seen.iter().map(logit).collect();
                let top = logits.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..d {
                    let value = |row: &usize| data.at(Slot::V, self.cache(), *row, head / group * d + i);
                    let sum: f64 = weights.iter().zip(&seen).map(|(w, row)| w * value(row)).sum();
                    expected.push((sum / total, 2e-5));
                }
            }
        }
        expected
    }

    fn operation(&self, split: Option<Split>) -> Operation {
        let (q, k, v) = (self.q(), self.cache(), self.cache());
        let (heads, kv_heads, term, max_context) = (self.heads, self.kv_heads, self.term(), self.max_context);
        let attention = Attention { q, k, v, heads, kv_heads, term, max_context, image: false };
        Operation::CachedAttention { attention, caches: [self.rows(); 2], fresh: None, split }
    }

    fn run(self) {
        assert!(self.sequences.iter().all(|(cached, new)| cached + new <= self.max_context));
        let data = self.data();
        let expected = self.expected(&data);
        let out = View::whole(self.heads * self.dim);
        everywhere(|device, target| {
            let operation = self.operation(None);
            let compose = if self.every_tile { all_kernels } else { kernels };
            for kernel in compose(&operation, target) {
                check(device, &kernel, &data, (out, data.batch.tokens()), |m, n| {
                    Some(expected[m * out.width as usize + n])
                });
            }
            if let Some(split) = split(&self.term(), self.max_context, self.heads, ALWAYS) {
                self.in_chunks(device, target, split, &data, &expected);
            }
        });
    }

    /// The chunks, then all of them together.
    fn in_chunks(&self, device: &Device, target: &Target, split: Split, data: &Data, expected: &[(f64, f64)]) {
        let rows = RowRange { min: 1, max: Some(1) };
        let room = self.room(split, data);
        for kernel in kernels_for(&self.operation(Some(split)), target, rows) {
            let parts = gpu::run(device, &kernel, data.sizes(), |slot| match slot {
                Slot::Out => bytes(&vec![UNTOUCHED; room], f32::to_le_bytes),
                slot => data.bytes(slot),
            });
            self.together(device, target, split, &parts, expected);
        }
    }

    /// Elements that the chunks of all rows leave behind.
    pub(crate) fn room(&self, split: Split, data: &Data) -> usize {
        data.batch.tokens() * (split.count * self.heads * Split::part4(self.dim) * 4) as usize
    }

    /// Chunks that are there become the result.
    pub(crate) fn together(
        &self,
        device: &Device,
        target: &Target,
        split: Split,
        parts: &[u8],
        expected: &[(f64, f64)],
    ) {
        let out = View::whole(self.heads * self.dim);
        let combine = Operation::CombineAttention {
            heads: self.heads,
            value_dim: self.dim,
            term: self.term(),
            split,
            image: false,
        };
        let mut data = self.data();
        data.exactly(Slot::X, crate::floats(parts));
        for kernel in kernels(&combine, target) {
            check(device, &kernel, &data, (out, data.batch.tokens()), |m, n| {
                Some(expected[m * out.width as usize + n])
            });
        }
    }
}

#[test]
fn cached_and_new_rows() {
    Case::new(32, &[(0, 1)]).run();
    Case::new(32, &[(0, 37)]).run();
    Case::new(32, &[(31, 1), (32, 1), (33, 1), (0, 5), (64, 64), (100, 3), (0, 1)]).run();
    Case::new(16, &[(250, 50), (1, 1)]).run();
}

#[test]
fn head_sizes_of_caches() {
    for dim in [20, 15, 128] {
        Case::new(dim, &[(40, 9), (0, 30), (5, 1)]).run();
    }
    Case { heads: 2, kv_heads: 1, ..Case::new(256, &[(3, 8)]) }.run();
}

#[test]
fn heads_that_share_keys() {
    for ((heads, kv_heads), format) in [(3, 1), (6, 6), (8, 1), (6, 2)].into_iter().zip(CacheFormat::ALL) {
        Case { heads, kv_heads, format, ..Case::new(20, &[(21, 4), (0, 3), (70, 1)]) }.run();
    }
}

#[test]
fn windows_of_caches() {
    let formats = CacheFormat::ALL.into_iter().cycle();
    for (before, format) in [0, 3, 31, 32, 100, 299].into_iter().zip(formats) {
        let before = Some(before);
        Case { before, format, ..Case::new(16, &[(50, 20), (0, 1), (0, 100), (200, 1)]) }.run();
    }
}

#[test]
fn long_contexts() {
    let mut formats = CacheFormat::ALL.into_iter().cycle();
    for before in [None, Some(600), Some(4000)] {
        for sequences in [&[(4095, 1)][..], &[(1500, 1), (255, 1), (256, 1), (0, 1), (3000, 2)]] {
            let format = formats.next().unwrap();
            Case { before, max_context: 4096, format, ..Case::new(16, sequences) }.run();
        }
    }
    let format = CacheFormat::Fp8;
    Case { heads: 2, kv_heads: 1, max_context: 4096, format, ..Case::new(20, &[(4000, 5)]) }.run();
}

#[test]
fn every_tile_over_caches() {
    let case = Case::new(12, &[(30, 40), (0, 3), (7, 1), (90, 2)]);
    Case { every_tile: true, before: Some(40), format: CacheFormat::Int8, ..case }.run();
}

/// What the formats do differently: whole loads and parts of one, heads that end within one, scales.
#[test]
fn heads_in_other_formats() {
    for (format, dim) in [
        (CacheFormat::F32, 15),
        (CacheFormat::F32, 128),
        (CacheFormat::Int8, 15),
        (CacheFormat::Int8, 128),
        (CacheFormat::Fp8, 20),
    ] {
        Case { format, ..Case::new(dim, &[(40, 9), (0, 30), (31, 1), (5, 1)]) }.run();
    }
}
