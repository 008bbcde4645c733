//! Heads made ready: norms, rotations, pages.

use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Destination, HeadNorm, HeadPart, Operation, Rotation, View};
use warpweft_plan::CacheFormat;
use warpweft_tests::gpu;

use crate::data::{Batch, Data, PAGE, UNTOUCHED, bytes, floats, restored, rounding};
use crate::{everywhere, kernels};

pub(crate) const EPS: f32 = 1e-6;

const CACHE: Destination = Destination::Cache(CacheFormat::F16);

/// A part's columns as they should be in row m.
pub(crate) fn expected(part: &HeadPart, data: &Data, m: usize) -> Vec<f64> {
    let dim = (part.x.width / part.heads) as usize;
    let mut row: Vec<f64> = (0..part.x.width as usize).map(|n| data.at(Slot::X, part.x, m, n)).collect();
    let vector = |first: u32, i: usize| f64::from(data.matrices[&Slot::Vectors][first as usize + i]);
    for head in row.chunks_exact_mut(dim) {
        if let Some(norm) = part.norm {
            let mean = head.iter().map(|v| v * v).sum::<f64>() / dim as f64;
            for (i, v) in head.iter_mut().enumerate() {
                *v *= norm.gain.map_or(1.0, |g| vector(g, i)) / (mean + f64::from(EPS)).sqrt();
            }
        }
        let Some(r) = part.rotation else { continue };
        let half = (r.rotary / 2) as usize;
        let before = head.to_vec();
        for pair in 0..half {
            let (a, b) = if r.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
            let angle = f64::from(data.batch.rows[m][0] as f32 * vector(r.frequencies, pair) as f32);
            let (sin, cos) = angle.sin_cos();
            head[a] = (before[a] * cos - before[b] * sin) * f64::from(r.scale);
            head[b] = (before[b] * cos + before[a] * sin) * f64::from(r.scale);
        }
    }
    row
}

fn run(parts: Vec<HeadPart>, vectors: Vec<Vec<f32>>) {
    let mut data = Data::new(Batch::cached(&[(300, 37), (31, 3), (0, 2), (64, 1)]), 3);
    let tokens = data.batch.tokens();
    let end = parts.iter().map(|p| p.x.offset + p.x.width).max().unwrap();
    let x = View { width: end, stride: parts[0].x.stride, offset: 0, image: false };
    data.matrix(Slot::X, x, tokens, 1.0);
    let mut vector = vectors.concat();
    let length = vector.len() as u32;
    vector.resize(vector.len().next_multiple_of(8), 0.0);
    data.exactly(Slot::Vectors, vector);
    check(&parts, length, &data);
}

fn check(parts: &[HeadPart], vector: u32, data: &Data) {
    let operation = Operation::Heads { parts: parts.to_vec(), vector };
    everywhere(|device, target| {
        for kernel in kernels(&operation, target) {
            // Elements of f32.
            let size = |part: &HeadPart| match part.cache() {
                None => data.batch.capacity() * View::whole(part.x.width).stride as usize,
                Some(rows) => data.batch.pool_rows() * rows.row_bytes() as usize / 4,
            };
            let outputs = gpu::run_all(device, &kernel, data.sizes(), |slot| match slot {
                Slot::Part(i) => bytes(&vec![UNTOUCHED; size(&parts[i])], f32::to_le_bytes),
                slot => data.bytes(slot),
            });
            for (part, output) in parts.iter().zip(outputs) {
                check_part(part, &output, data, &kernel.name);
            }
        }
    });
}

fn check_part(part: &HeadPart, output: &[u8], data: &Data, name: &str) {
    let stride = View::whole(part.x.width).stride as usize;
    let found = match part.cache() {
        None => floats(output),
        Some(rows) => restored(rows, output),
    };
    let mut untouched = floats(output);
    for m in 0..data.batch.tokens() {
        let [position, _, _, sequence] = data.batch.rows[m];
        let row = match part.to {
            Destination::Rows => m,
            Destination::Cache(_) => data.batch.cache_row(sequence as usize, position),
        };
        let wanted = expected(part, data, m);
        let dim = (part.x.width / part.heads) as usize;
        for (n, &value) in wanted.iter().enumerate() {
            let off = (f64::from(found[row * stride + n]) - value).abs();
            let head = &wanted[n / dim * dim..][..dim];
            let half = part.cache().map_or(0.0, |rows| rounding(rows.format, head, value));
            let tolerance = 4e-6 * (1.0 + value.abs()) + half;
            assert!(off <= tolerance, "{name} [{m}, {n}] {} for {value}", found[row * stride + n]);
        }
        match part.cache() {
            None => untouched[row * stride..][..part.x.width as usize].fill(UNTOUCHED),
            Some(rows) => {
                let (heads, words, page) = (rows.heads as usize, rows.head_words() as usize, PAGE as usize);
                for head in 0..heads {
                    let first = ((row / page * heads + head) * page + row % page) * words;
                    untouched[first..][..words].fill(UNTOUCHED);
                }
            }
        }
    }
    assert!(untouched.iter().all(|v| *v == UNTOUCHED), "{name} wrote elsewhere");
}

pub(crate) fn frequencies(count: u32) -> Vec<f32> {
    (0..count).map(|i| 10f32.powi(i as i32 % 4) / 50.0).collect()
}

#[test]
fn rotations() {
    for ((heads, dim, rotary, interleaved, scale), format) in
        [(2, 20, 20, false, 1.0), (3, 15, 10, true, 1.25), (1, 64, 32, false, 1.0), (1, 6, 6, true, 1.0)]
            .into_iter()
            .zip(CacheFormat::ALL)
    {
        for (offset, to) in [(0, Destination::Rows), (3, Destination::Rows), (5, Destination::Cache(format))] {
            let width = heads * dim;
            let x = View { width, stride: (width + offset).next_multiple_of(8), offset, image: false };
            let rotation = Some(Rotation { rotary, interleaved, scale, frequencies: 0 });
            run(vec![HeadPart { x, heads, norm: None, rotation, to }], vec![frequencies(rotary / 2)]);
        }
    }
}

#[test]
fn queries_keys_and_values_together() {
    let window = |width, offset| View { width, stride: 8 * 128, offset, image: false };
    let rotation = Some(Rotation { rotary: 128, interleaved: false, scale: 1.0, frequencies: 0 });
    let part = |x, heads, rotation, to| HeadPart { x, heads, norm: None, rotation, to };
    let parts = vec![
        part(window(512, 0), 4, rotation, Destination::Rows),
        part(window(256, 512), 2, rotation, CACHE),
        part(window(256, 768), 4, None, CACHE),
    ];
    run(parts, vec![frequencies(64)]);
}

#[test]
fn norms_of_heads() {
    let gain = |n: u32| (0..n).map(|i| 0.5 + i as f32 / n as f32).collect::<Vec<f32>>();
    for ((heads, dim), format) in [(3, 20), (2, 128), (5, 15), (1, 256)].into_iter().zip(CacheFormat::ALL) {
        let to = Destination::Cache(format);
        let x =
            |offset| View { width: heads * dim, stride: (2 * heads * dim).next_multiple_of(8), offset, image: false };
        let rotary = dim / 2 * 2;
        let rotation = Some(Rotation { rotary, interleaved: false, scale: 1.0, frequencies: 0 });
        let norm = Some(HeadNorm { eps: EPS, gain: Some(rotary / 2) });
        let first = HeadPart { x: x(0), heads, norm, rotation, to };
        let plain = HeadPart { x: x(heads * dim), heads, norm: None, rotation: None, to: Destination::Rows };
        run(vec![first, plain], vec![frequencies(rotary / 2), gain(dim)]);
    }
}

/// All that a layer with norms of heads needs before it attends, in as many storage buffers as the floor has.
#[test]
fn norms_turns_and_caches_together() {
    let sizes = [(32u32, 32, false), (24, 16, false), (20, 10, true), (15, 8, false)];
    for ((dim, rotary, interleaved), format) in sizes.into_iter().zip(CacheFormat::ALL.into_iter().rev()) {
        let cache = Destination::Cache(format);
        let gain = |from: f32| (0..dim).map(|i| from + i as f32 / dim as f32).collect::<Vec<f32>>();
        let window = |heads, first| View {
            width: heads * dim,
            stride: (8 * dim).next_multiple_of(8),
            offset: first * dim,
            image: false,
        };
        let rotation = Some(Rotation { rotary, interleaved, scale: 1.0, frequencies: 0 });
        let norm = |gain| Some(HeadNorm { eps: EPS, gain: Some(gain) });
        let half = rotary / 2;
        let part = |x, heads, norm, rotation, to| HeadPart { x, heads, norm, rotation, to };
        let parts = vec![
            part(window(4, 0), 4, norm(half), rotation, Destination::Rows),
            part(window(2, 4), 2, norm(half + dim), rotation, cache),
            part(window(2, 6), 2, None, None, cache),
        ];
        run(parts, vec![frequencies(half), gain(0.5), gain(-0.75)]);
    }
}

#[test]
fn copies_to_a_cache() {
    let x = View { width: 60, stride: 72, offset: 7, image: false };
    for to in CacheFormat::ALL.map(Destination::Cache) {
        run(vec![HeadPart { x, heads: 1, norm: None, rotation: None, to }], vec![]);
    }
}

/// Rows of zeros, of numbers that are subnormal, and of numbers that are as large as there are.
#[test]
fn magnitudes_in_caches() {
    let magnitudes = [0.0, 1e-42, 1e-35, 3e-8, 6e-5, 1.0, 65504.0, 65520.0, 1e6, 1e30, f32::MAX];
    let (heads, dim) = (2, 20);
    let x = View { width: heads * dim, stride: 40, offset: 0, image: false };
    let mut data = Data::new(Batch::cached(&[(30, magnitudes.len() as u32)]), 5);
    data.matrix(Slot::X, x, magnitudes.len(), 1.0);
    let mut values = data.matrices[&Slot::X].clone();
    for (row, magnitude) in values.chunks_exact_mut(40).zip(magnitudes) {
        row.iter_mut().for_each(|value| *value *= magnitude);
        row[3] = magnitude;
        row[29] = -magnitude;
    }
    data.exactly(Slot::X, values);
    for to in CacheFormat::ALL.map(Destination::Cache) {
        check(&[HeadPart { x, heads, norm: None, rotation: None, to }], 0, &data);
    }
}
