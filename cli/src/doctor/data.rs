//! Random numbers for one kernel, as bytes for the device and as values for the reference.

use warpweft_compiler::formats::Format;
use warpweft_compiler::graph::eval::Tensor;
use warpweft_compiler::graph::{ArgDecl, CacheDecl, WeightDecl};
use warpweft_plan::{Dim, Kernel};

use super::batch::{Batch, PAGE, Random};
use super::call::{BEYOND, Call, Content, Output, constant, start};
use super::storage::{Storage, floats, padded};

/// What a result holds before the kernel runs.
const UNTOUCHED: f32 = 12_345.0;

/// All that a kernel is run on.
pub(crate) struct Data {
    pub(crate) batch: Batch,
    /// By binding.
    pub(crate) buffers: Vec<Vec<u8>>,
    /// By weight of the meaning.
    pub(super) weights: Vec<Tensor>,
    /// By argument of the meaning: all rows, padded.
    matrices: Vec<Vec<f32>>,
    /// By output of the meaning: what it holds before.
    pub(super) before: Vec<Vec<f32>>,
}

impl Call {
    /// Random numbers for a batch.
    pub(crate) fn data(&self, kernel: &Kernel, batch: Batch, seed: u64) -> Data {
        let mut random = Random::new(seed);
        let declarations = self.graph.declarations();
        let capacity = batch.capacity();
        let rows_of = |cached: bool| if cached { batch.pages() * PAGE } else { capacity };
        let numbers = |random: &mut Random, n: usize| (0..n).map(|_| random.number()).collect::<Vec<f32>>();
        let stored = |storage: Storage, mut values: Vec<f32>, width: usize| {
            let bytes = storage.store(&mut values, width);
            (values, bytes)
        };
        let activation = |random: &mut Random, (arg, &storage): (&ArgDecl, &Storage)| {
            let width = arg.shape.last().and_then(|d| constant(*d)).unwrap_or(0);
            let rows = rows_of(arg.shape.first() == Some(&Dim::CONTEXT));
            stored(storage, numbers(random, rows * padded(width)), width)
        };
        let args = declarations.args.iter().zip(&self.args).map(|arg| activation(&mut random, arg));
        let (matrices, args): (Vec<_>, Vec<_>) = args.unzip();
        let weights: Vec<_> = declarations.weights.iter().map(|decl| weight(decl, &mut random)).collect();
        let before = |output: &Output| match (output.cache, output.over) {
            (_, Some(arg)) => (matrices[arg].clone(), args[arg].clone()),
            // A kernel may read the rows of a cache that it appends to.
            (Some(_), None) => {
                let values = numbers(&mut random, rows_of(true) * output.stride());
                stored(output.storage, values, output.whole)
            }
            (None, None) => {
                let bytes = floats(&vec![UNTOUCHED; rows_of(false) * output.storage.words(output.whole)]);
                (output.numbers(&bytes), bytes)
            }
        };
        let (before, results): (Vec<_>, Vec<_>) = self.outputs.iter().map(before).unzip();
        let content = |content: &Content| match *content {
            Content::Arg(i) => args[i].clone(),
            Content::Weight(i) => weights[i].0.clone(),
            Content::Ids => words((0..capacity).map(|row| batch.ids.get(row).copied().unwrap_or(0))),
            Content::Rows => words((0..capacity).flat_map(|row| batch.row(row))),
            Content::Sequences => {
                let entry =
                    |i: usize| [batch.first(i) as u32, batch.lengths[i], batch.cached[i], batch.first_page(i) as u32];
                words((0..batch.lengths.len()).flat_map(entry))
            }
            Content::Pages => words((0..batch.pages() as u32).rev()),
            Content::Step => words([batch.ids.len() as u32, batch.lengths.len() as u32, 0, 0]),
            Content::Out(i) => results[i].clone(),
        };
        let buffers = self.contents(kernel).iter().map(content).collect();
        Data { batch, buffers, weights: weights.into_iter().map(|(_, values)| values).collect(), matrices, before }
    }
}

impl Data {
    /// The arguments of one sequence.
    pub(super) fn args(&self, call: &Call, sequence: usize) -> Vec<Tensor> {
        let arg = |(decl, values): (&ArgDecl, &Vec<f32>)| {
            let width = decl.shape.last().and_then(|dim| constant(*dim)).unwrap_or(0);
            let rows: Vec<usize> = match decl.shape.first() {
                Some(&Dim::SEQUENCES) => vec![sequence],
                Some(&Dim::CONTEXT) => {
                    (0..self.batch.context(sequence)).map(|p| self.batch.cache_row(sequence, p)).collect()
                }
                _ => self.batch.rows_of(sequence).collect(),
            };
            let shape = vec![rows.len(), width];
            let stride = padded(width);
            let data = rows.into_iter().flat_map(|row| values[row * stride..][..width].iter().copied()).collect();
            Tensor { shape, data }
        };
        call.graph.declarations().args.iter().zip(&self.matrices).map(arg).collect()
    }

    /// What the caches of one sequence held before. At least one, since the first says how many rows came before.
    pub(super) fn caches(&self, call: &Call, sequence: usize) -> Vec<Tensor> {
        let rows = self.batch.cached[sequence] as usize;
        let empty = |width: usize| Tensor { shape: vec![rows, width], data: vec![0.0; rows * width] };
        let held = |(index, cache): (usize, &CacheDecl)| {
            let width = cache.width as usize;
            let output = call.outputs.iter().position(|output| output.cache == Some(index));
            let Some((values, stride)) = output.map(|at| (&self.before[at], padded(width))) else {
                return empty(width);
            };
            let row = |p: usize| values[self.batch.cache_row(sequence, p) * stride..][..width].iter().copied();
            Tensor { shape: vec![rows, width], data: (0..rows).flat_map(row).collect() }
        };
        let mut caches: Vec<Tensor> = call.graph.declarations().caches.iter().enumerate().map(held).collect();
        if caches.is_empty() {
            caches.push(empty(0));
        }
        caches
    }

    /// The rows of one sequence that each cache has of those that were appended, as the outputs hold them.
    pub(super) fn appended(&self, call: &Call, sequence: usize, found: &[Vec<f32>]) -> Vec<Option<Tensor>> {
        let new = |index: usize| {
            let at = call.outputs.iter().position(|output| output.cache == Some(index))?;
            let (output, values) = (call.outputs.get(at)?, found.get(at)?);
            let places: Vec<usize> = self.places(call, output, sequence).into_iter().flatten().collect();
            let row = |place: &usize| values[place * output.stride()..][..output.width].iter().copied();
            Some(Tensor { shape: vec![places.len(), output.width], data: places.iter().flat_map(row).collect() })
        };
        (0..call.graph.declarations().caches.len()).map(new).collect()
    }

    /// Where each row of one sequence's part of an output stands; `None` for rows that the kernel leaves alone.
    pub(super) fn places(&self, call: &Call, output: &Output, sequence: usize) -> Vec<Option<usize>> {
        let batch = &self.batch;
        match output.rows {
            Dim::SEQUENCES => vec![Some(sequence)],
            Dim::CONTEXT => {
                let is_new = |p: &usize| *p >= batch.cached[sequence] as usize;
                (0..batch.context(sequence))
                    .map(|p| Some(p).filter(is_new).map(|p| batch.cache_row(sequence, p)))
                    .collect()
            }
            _ => batch.rows_of(sequence).map(|row| Some(row).filter(|&row| call.keeps(self, row))).collect(),
        }
    }
}

/// The bytes of a weight as kernels expect them, and its values.
fn weight(decl: &WeightDecl, random: &mut Random) -> (Vec<u8>, Tensor) {
    let shape: Vec<usize> = decl.shape.iter().map(|&n| n as usize).collect();
    let width = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().product::<usize>() / width.max(1);
    // So that sums over a row are about 1.
    let scale = if shape.len() == 2 { 2.0 / (width as f32).sqrt() } else { 1.0 };
    let values: Vec<f32> = (0..rows * width).map(|_| random.number() * scale).collect();
    let format = decl.dtype.format().unwrap_or(Format::F32);
    // Numbers of this size fit in every format.
    let mut bytes = format.pack(&values, width).unwrap_or_default();
    let stored = format.unpack(&bytes, width);
    if shape.len() == 2 {
        bytes = format.arrange(&bytes, width);
    }
    // A window of a table stands behind the rows before it.
    match start(&decl.name) {
        Some(first) => {
            let mut data = vec![0.0; first * width];
            data.extend(stored);
            data.resize((first + rows + BEYOND) * width, 0.0);
            (bytes, Tensor { shape: vec![first + rows + BEYOND, width], data })
        }
        None => (bytes, Tensor { shape, data: stored }),
    }
}

fn words(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}
