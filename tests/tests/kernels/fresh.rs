//! Attention that makes its rows ready itself and appends them: the same as heads and attention one after the other, and
//! nothing else of the caches is touched or, where it is not written yet, read.

use warpweft_compiler::kernels::cached::split;
use warpweft_compiler::kernels::spec::{
    Attention, Destination, Fresh, HeadNorm, HeadPart, Operation, Rotation, Split, View,
};
use warpweft_compiler::kernels::{Composed, Slot};
use warpweft_compiler::target::Target;
use warpweft_plan::CacheFormat;
use warpweft_runtime::Device;
use warpweft_tests::gpu;

use crate::cached::{ALWAYS, Case};
use crate::data::{Data, UNTOUCHED, bytes, floats, restored, rounding};
use crate::heads::{EPS, expected, frequencies};
use crate::{all_kernels, compare, everywhere, kernels};

/// What stands in a cache's row that is not written yet.
const GARBAGE: f32 = 1e9;

/// What happens to heads before they attend.
struct Layer {
    case: Case,
    /// Columns of a head that turn, and whether their pairs are neighbours.
    rotary: Option<(u32, bool)>,
    norms: bool,
    /// Columns before those of the queries.
    offset: u32,
}

impl Layer {
    fn new(dim: u32, sequences: &[(u32, u32)]) -> Layer {
        Layer { case: Case::new(dim, sequences), rotary: Some((dim / 2 * 2, false)), norms: false, offset: 0 }
    }

    fn caching(self, format: CacheFormat) -> Layer {
        Layer { case: Case { format, ..self.case }, ..self }
    }

    fn x(&self) -> View {
        let width = (self.case.heads + 2 * self.case.kv_heads) * self.case.dim;
        View { width, stride: (self.offset + width).next_multiple_of(8) + 8, offset: self.offset, image: false }
    }

    /// The parts, and the vector that they read.
    fn parts(&self) -> (Fresh, Vec<f32>) {
        let Case { dim, heads, kv_heads, .. } = self.case;
        let pairs = self.rotary.map_or(0, |(rotary, _)| rotary / 2);
        let mut vector = frequencies(pairs);
        let gains = if self.norms { 2 * dim } else { 0 };
        vector.extend((0..gains).map(|i| 1.5 - i as f32 / gains as f32));
        let rotation =
            self.rotary.map(|(rotary, interleaved)| Rotation { rotary, interleaved, scale: 1.25, frequencies: 0 });
        let norm = |gain| Some(HeadNorm { eps: EPS, gain: Some(gain) }).filter(|_| self.norms);
        let part = |first: u32, count: u32, norm, rotation, to| {
            let x = View { width: count * dim, offset: self.offset + first * dim, ..self.x() };
            HeadPart { x, heads: count, norm, rotation, to }
        };
        let cache = Destination::Cache(self.case.format);
        let fresh = Fresh {
            q: part(0, heads, norm(pairs), rotation, Destination::Rows),
            k: part(heads, kv_heads, norm(pairs + dim), rotation, cache),
            v: part(heads + kv_heads, kv_heads, None, None, cache),
            vector: vector.len() as u32,
        };
        vector.resize(vector.len().next_multiple_of(8), 0.0);
        (fresh, vector)
    }

    /// What the kernel reads.
    fn data(&self, vector: Vec<f32>) -> Data {
        let mut data = self.case.data();
        let tokens = data.batch.tokens();
        data.matrix(Slot::X, self.x(), tokens, 2.0);
        data.exactly(Slot::Vectors, vector);
        let stride = self.case.cache().stride as usize;
        for (slot, part) in [(Slot::K, Slot::Part(1)), (Slot::V, Slot::Part(2))] {
            let mut cache = data.matrices[&slot].clone();
            for row in new_rows(&data) {
                cache[row * stride..][..stride].fill(GARBAGE);
            }
            data.cached(part, self.case.rows(), cache);
        }
        data
    }

    /// What attention alone would read: queries and caches with the new rows.
    fn ready(&self, fresh: &Fresh, data: &Data) -> Data {
        let mut ready = self.case.data();
        let rows: Vec<usize> = (0..data.batch.tokens()).collect();
        for (slot, part, view, to) in [
            (Slot::Q, &fresh.q, self.case.q(), rows),
            (Slot::K, &fresh.k, self.case.cache(), new_rows(data)),
            (Slot::V, &fresh.v, self.case.cache(), new_rows(data)),
        ] {
            let mut values = ready.matrices[&slot].clone();
            for (m, row) in to.into_iter().enumerate() {
                let first = row * view.stride as usize + view.offset as usize;
                for (at, value) in values[first..].iter_mut().zip(expected(part, data, m)) {
                    *at = value as f32;
                }
            }
            ready.exactly(slot, values);
        }
        ready
    }

    fn run(self) {
        let case = &self.case;
        let (fresh, vector) = self.parts();
        let data = self.data(vector);
        let ready = self.ready(&fresh, &data);
        let operation = |split| Operation::CachedAttention {
            attention: Attention {
                q: View::whole(fresh.q.x.width),
                k: case.cache(),
                v: case.cache(),
                heads: case.heads,
                kv_heads: case.kv_heads,
                term: case.term(),
                max_context: case.max_context,
                image: false,
            },
            caches: [case.rows(); 2],
            fresh: Some(fresh),
            split,
        };
        everywhere(|device, target| {
            let compose = if case.every_tile { all_kernels } else { kernels };
            let chunks = split(&case.term(), case.max_context, case.heads, ALWAYS);
            for cut in chunks.map(Some).into_iter().chain([None]) {
                for kernel in compose(&operation(cut), target) {
                    self.check(device, target, &kernel, (&data, &ready), cut);
                }
            }
        });
    }

    fn check(
        &self,
        device: &Device,
        target: &Target,
        kernel: &Composed,
        (data, ready): (&Data, &Data),
        chunks: Option<Split>,
    ) {
        let out = View::whole(self.case.heads * self.case.dim);
        let tokens = data.batch.tokens();
        let room = chunks.map_or(tokens.next_multiple_of(64) * out.stride as usize, |s| self.case.room(s, data));
        let results = gpu::run_all(device, kernel, data.sizes(), |slot| match slot {
            Slot::Out => bytes(&vec![UNTOUCHED; room], f32::to_le_bytes),
            slot => data.bytes(slot),
        });
        let [k, v, result] = &results[..] else { panic!("{} has {} results", kernel.name, results.len()) };
        // New rows are attended to as they are stored.
        let mut attended = self.case.data();
        attended.exactly(Slot::Q, ready.matrices[&Slot::Q].clone());
        for (found, slot, part) in [(k, Slot::K, Slot::Part(1)), (v, Slot::V, Slot::Part(2))] {
            let found = restored(self.case.rows(), found);
            self.check_cache(kernel, &found, (&data.matrices[&part], &ready.matrices[&slot]), data);
            attended.exactly(slot, found);
        }
        let expected = self.case.expected(&attended);
        match chunks {
            Some(split) => self.case.together(device, target, split, result, &expected),
            None => compare(kernel, &floats(result), (out, tokens), |m, n| Some(expected[m * out.width as usize + n])),
        }
    }

    /// New rows are what they should be, all else is what it was.
    fn check_cache(&self, kernel: &Composed, found: &[f32], (before, ready): (&[f32], &[f32]), data: &Data) {
        let (stride, width) = (self.case.cache().stride as usize, self.case.cache().width as usize);
        let mut is_new = vec![false; found.len() / stride];
        new_rows(data).into_iter().for_each(|row| is_new[row] = true);
        for (i, &value) in found.iter().enumerate() {
            let (row, column) = (i / stride, i % stride);
            if is_new[row] && column < width {
                let dim = self.case.dim as usize;
                let head = &ready[row * stride + column / dim * dim..][..dim];
                let head: Vec<f64> = head.iter().map(|&v| f64::from(v)).collect();
                let wanted = head[column % dim];
                let tolerance = 4e-6 * (1.0 + wanted.abs()) + rounding(self.case.format, &head, wanted);
                let off = (f64::from(value) - wanted).abs();
                assert!(off <= tolerance, "{}: [{row}, {column}] {value} {wanted}", kernel.name);
            } else {
                assert_eq!(value.to_bits(), before[i].to_bits(), "{}: [{row}, {column}]", kernel.name);
            }
        }
    }
}

/// For each row of the step, the row of the caches that is its own.
fn new_rows(data: &Data) -> Vec<usize> {
    data.batch
        .rows
        .iter()
        .map(|&[position, _, _, sequence]| data.batch.cache_row(sequence as usize, position))
        .collect()
}

const BORDERS: &[(u32, u32)] = &[(31, 1), (32, 1), (33, 1), (0, 1), (200, 1)];

#[test]
fn one_row_of_each_sequence() {
    Layer::new(32, &[(0, 1)]).run();
    Layer::new(32, BORDERS).caching(CacheFormat::Int8).run();
    Layer { rotary: None, ..Layer::new(16, BORDERS) }.caching(CacheFormat::Fp8).run();
}

/// A kernel is right for any number of rows.
#[test]
fn several_rows_of_a_sequence() {
    for format in [CacheFormat::F16, CacheFormat::Int8] {
        Layer { norms: true, ..Layer::new(24, &[(40, 9), (0, 30), (64, 3), (5, 1)]) }.caching(format).run();
    }
}

#[test]
fn norms_before_attention() {
    for (dim, rotary, interleaved, format) in [
        (128, 128, false, CacheFormat::F16),
        (64, 32, false, CacheFormat::F32),
        (20, 10, true, CacheFormat::Fp8),
        (15, 8, false, CacheFormat::Int8),
    ] {
        let layer = Layer::new(dim, &[(40, 1), (0, 2), (31, 1)]);
        Layer { norms: true, rotary: Some((rotary, interleaved)), ..layer }.caching(format).run();
    }
    let case = Case { heads: 2, kv_heads: 1, ..Case::new(256, &[(3, 1), (32, 1)]) };
    Layer { case, norms: true, rotary: Some((256, false)), offset: 8 }.run();
}

#[test]
fn turns_before_attention() {
    let formats = CacheFormat::ALL.into_iter().cycle();
    let turns = [(15, 14, false, 3), (6, 6, true, 0), (20, 20, false, 4), (64, 16, false, 0), (32, 32, true, 1)];
    for ((dim, rotary, interleaved, offset), format) in turns.into_iter().zip(formats) {
        let layer = Layer::new(dim, &[(40, 1), (0, 3)]);
        Layer { rotary: Some((rotary, interleaved)), offset, ..layer }.caching(format).run();
    }
}

#[test]
fn heads_that_share_new_keys() {
    let formats = CacheFormat::ALL.into_iter().rev();
    for ((heads, kv_heads), format) in [(3, 1), (6, 6), (16, 1), (6, 2)].into_iter().zip(formats) {
        let case = Case { heads, kv_heads, every_tile: true, format, ..Case::new(20, &[(21, 1), (0, 2), (70, 1)]) };
        Layer { case, rotary: Some((20, false)), norms: heads == 6, offset: 0 }.run();
    }
}

#[test]
fn windows_before_new_rows() {
    let formats = CacheFormat::ALL.into_iter().cycle();
    for (before, format) in [0, 3, 31, 32, 299].into_iter().zip(formats) {
        let case = Case { before: Some(before), format, ..Case::new(16, &[(50, 2), (0, 1), (200, 1), (31, 1)]) };
        Layer { case, rotary: Some((16, false)), norms: false, offset: 0 }.run();
    }
}

#[test]
fn new_rows_of_long_contexts() {
    let mut formats = CacheFormat::ALL.into_iter().cycle();
    for before in [None, Some(600), Some(4000)] {
        for sequences in [&[(4095, 1)][..], &[(1500, 1), (255, 1), (256, 1), (257, 2), (0, 1), (3000, 3)]] {
            let format = formats.next().unwrap();
            let case = Case { before, max_context: 4096, format, ..Case::new(16, sequences) };
            Layer { case, rotary: Some((16, false)), norms: true, offset: 0 }.run();
        }
    }
    let format = CacheFormat::F16;
    let case = Case { heads: 2, kv_heads: 1, max_context: 4096, format, ..Case::new(20, &[(4000, 2), (511, 1)]) };
    Layer { case, rotary: Some((12, false)), norms: true, offset: 5 }.run();
}
