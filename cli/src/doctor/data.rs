//! Random numbers for one kernel, as bytes for the device and as values for the reference.

use std::borrow::Cow;

use warpweft_compiler::formats::{Format, cache};
use warpweft_compiler::graph::eval::Tensor;
use warpweft_compiler::graph::{ArgDecl, CacheDecl, Graph, Op, WeightDecl};
use warpweft_plan::{Access, CacheRows, Dim, Kernel, PAD, PAGE_ROWS, Plan, ROW_BLOCK, Role, Sizes, Step};

use super::{TOLERANCE, codes};

/// Rows of a page.
const PAGE: usize = PAGE_ROWS as usize;

/// Rows that sequences have in their caches before a step: none, within a page, its end, beyond it.
const CACHED: [u32; 4] = [5, 0, 32, 40];

/// What a result holds before the kernel runs.
const UNTOUCHED: f32 = 12_345.0;

/// Rows of packed matrices are padded to a multiple of this.
const ROW_PAD: usize = 4;

/// Ids beyond a window of a table, so that rows outside are met too.
const BEYOND: usize = 64;

/// xorshift64*, the same numbers on each run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In (-1, 1).
    fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Sequences one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// New rows of each.
    pub(super) lengths: Vec<u32>,
    /// Rows that its caches held before.
    cached: Vec<u32>,
    ids: Vec<u32>,
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
    fn context(&self, sequence: usize) -> usize {
        (self.cached[sequence] + self.lengths[sequence]) as usize
    }

    /// Pages of all sequences before this one.
    fn first_page(&self, sequence: usize) -> usize {
        (0..sequence).map(|i| self.context(i).div_ceil(PAGE)).sum()
    }

    /// Pages of all sequences.
    fn pages(&self) -> usize {
        self.first_page(self.lengths.len())
    }

    /// The row of a cache that holds a position: pages lie in reverse, so that none is where a plain array has it.
    fn cache_row(&self, sequence: usize, position: usize) -> usize {
        (self.pages() - 1 - self.first_page(sequence) - position / PAGE) * PAGE + position % PAGE
    }

    /// First row of a sequence.
    fn first(&self, sequence: usize) -> usize {
        self.lengths[..sequence].iter().sum::<u32>() as usize
    }

    fn rows_of(&self, sequence: usize) -> std::ops::Range<usize> {
        let first = self.first(sequence);
        first..first + self.lengths[sequence] as usize
    }

    pub(super) fn ids_of(&self, sequence: usize) -> Vec<u32> {
        self.ids[self.rows_of(sequence)].to_vec()
    }

    /// Position, first row, rows and index of a row's sequence.
    fn row(&self, row: usize) -> [u32; 4] {
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
    fn capacity(&self) -> usize {
        self.ids.len().next_multiple_of(ROW_BLOCK as usize)
    }
}

/// What selects the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Ids,
    Positions,
}

/// A table of which a kernel gathers rows.
#[derive(Clone, Copy, Debug)]
struct Table {
    index: Index,
    /// First row that is bound, if it is a window.
    window: Option<usize>,
    rows: usize,
}

/// What a kernel writes.
pub(crate) struct Output {
    /// The binding's name.
    name: String,
    /// Columns that it computes.
    pub(super) width: usize,
    /// The first of them in the result.
    pub(super) first: usize,
    /// Columns of the whole result.
    whole: usize,
    /// How many rows it has: those of the step, of its sequences, or of a cache.
    rows: Dim,
    /// It is rows of codes.
    codes: bool,
    /// The cache that it is, by its index in the meaning.
    pub(super) cache: Option<usize>,
    /// How that stores its rows.
    pub(super) stored: Option<CacheRows>,
}

/// A kernel and its meaning.
pub(crate) struct Call {
    pub(super) graph: Graph,
    pub(super) outputs: Vec<Output>,
    tables: Vec<Table>,
    /// Whether it reads or writes caches.
    paged: bool,
    /// By binding: how the rows of the cache that it is are stored.
    stored: Vec<Option<CacheRows>>,
}

/// What a binding holds.
enum Content {
    Arg(usize),
    Weight(usize),
    Ids,
    Rows,
    Sequences,
    Pages,
    Step,
    Out(usize),
}

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
    /// A kernel of a plan, as a step runs it.
    pub(crate) fn new(plan: &Plan, kernel: &Kernel, step: &Step, graph: Graph) -> Result<Call, String> {
        let stored: Vec<Option<CacheRows>> = step.buffers.iter().map(|&index| stored(plan, index)).collect();
        let at = |name: &str| kernel.bindings.iter().position(|binding| binding.name == name);
        let outputs = graph.outputs().iter().map(|output| {
            let output = Output::of(&graph, output)?;
            let stored = at(&output.name).and_then(|at| *stored.get(at)?);
            Ok::<_, String>(Output { stored, ..output })
        });
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let written = kernel.bindings.iter().filter(|b| b.access == Access::ReadWrite);
        if !written.map(|b| b.name.as_str()).eq(outputs.iter().map(|o| o.name.as_str())) {
            return Err("its meaning has other outputs than it writes".into());
        }
        let tables = tables(&graph);
        let paged = kernel.bindings.iter().any(|binding| binding.name == "pages");
        let call = Call { outputs, tables, paged, stored, graph };
        let args = call.contents(kernel).iter().filter(|c| matches!(c, Content::Arg(_))).count();
        let declared = call.graph.declarations().args.len();
        if args != declared {
            return Err(format!("it binds {args} activations, its meaning has {declared}"));
        }
        Ok(call)
    }

    /// What each binding is for.
    fn contents(&self, kernel: &Kernel) -> Vec<Content> {
        let weights = &self.graph.declarations().weights;
        let mut args = 0;
        let content = |binding: &warpweft_plan::Binding| match binding.name.as_str() {
            "ids" => Content::Ids,
            "rows" => Content::Rows,
            "sequences" => Content::Sequences,
            "pages" => Content::Pages,
            "step" => Content::Step,
            name => {
                let output = self.outputs.iter().position(|output| output.name == name);
                let weight = weights.iter().position(|w| base(&w.name) == name);
                match (output, weight) {
                    (Some(output), _) => Content::Out(output),
                    (None, Some(weight)) => Content::Weight(weight),
                    (None, None) => {
                        args += 1;
                        Content::Arg(args - 1)
                    }
                }
            }
        };
        kernel.bindings.iter().map(content).collect()
    }

    /// Multiply-adds of one row, roughly.
    pub(super) fn work(&self) -> u64 {
        let gathered = self.tables.len();
        let weights = self.graph.declarations().weights.iter();
        let sizes = weights.map(|w| w.shape.iter().product::<u64>());
        if gathered > 0 { 0 } else { sizes.max().unwrap_or(0) }
    }

    /// Ids are below this.
    fn id_limit(&self) -> usize {
        let by_id = self.tables.iter().filter(|table| table.index == Index::Ids);
        by_id.map(|t| t.window.map_or(t.rows, |first| first + t.rows + BEYOND)).min().unwrap_or(1000)
    }

    /// Whether a row is written: all tables have what it gathers.
    fn keeps(&self, data: &Data, row: usize) -> bool {
        self.tables.iter().all(|table| {
            let index = match table.index {
                Index::Ids => data.batch.ids.get(row).map_or(0, |&id| id as usize),
                Index::Positions => data.batch.row(row)[0] as usize,
            };
            let first = table.window.unwrap_or(0);
            (first..first + table.rows).contains(&index)
        })
    }

    /// Random numbers for a batch.
    pub(crate) fn data(&self, kernel: &Kernel, batch: Batch, seed: u64) -> Data {
        let mut random = Random::new(seed);
        let declarations = self.graph.declarations();
        let capacity = batch.capacity();
        let rows_of = |cached: bool| if cached { batch.pages() * PAGE } else { capacity };
        let matrix = |random: &mut Random, shape: &[Dim]| {
            let stride = padded(shape.last().and_then(|d| constant(*d)).unwrap_or(0));
            let rows = rows_of(shape.first() == Some(&Dim::CONTEXT));
            (0..rows * stride).map(|_| random.number()).collect::<Vec<f32>>()
        };
        let activation = |random: &mut Random, arg: &ArgDecl| {
            let values = matrix(random, &arg.shape);
            match (arg.dtype.is_quantized(), arg.shape.last().and_then(|d| constant(*d))) {
                (true, Some(width)) => {
                    let bytes = codes::encoded(&values, width);
                    (codes::decoded(&bytes, width), bytes)
                }
                _ => (values.clone(), floats(&values)),
            }
        };
        let args: Vec<_> = declarations.args.iter().map(|arg| activation(&mut random, arg)).collect();
        let (mut matrices, arg_bytes): (Vec<_>, Vec<_>) = args.into_iter().unzip();
        let weights: Vec<_> = declarations.weights.iter().map(|decl| weight(decl, &mut random)).collect();
        // A kernel may read the rows of a cache that it appends to.
        let before = |output: &Output, random: &mut Random| match output.cache {
            Some(_) => (0..rows_of(true) * output.stride()).map(|_| random.number()).collect(),
            None => vec![UNTOUCHED; rows_of(false) * output.words()],
        };
        let mut before: Vec<Vec<f32>> = self.outputs.iter().map(|output| before(output, &mut random)).collect();
        let contents = self.contents(kernel);
        // What a cache holds is what its format makes of the numbers.
        let caches: Vec<Option<Vec<u8>>> = contents
            .iter()
            .zip(&self.stored)
            .map(|(content, rows)| match (content, rows) {
                (Content::Arg(i), Some(rows)) => Some(store(*rows, &mut matrices[*i])),
                (Content::Out(i), Some(rows)) => Some(store(*rows, &mut before[*i])),
                (Content::Arg(_) | Content::Out(_), None)
                | (Content::Weight(_) | Content::Ids | Content::Rows | Content::Sequences, _)
                | (Content::Pages | Content::Step, _) => None,
            })
            .collect();
        let buffers = contents
            .iter()
            .zip(caches)
            .map(|(content, cache)| match content {
                Content::Arg(_) | Content::Out(_) if cache.is_some() => cache.unwrap_or_default(),
                Content::Arg(i) => arg_bytes[*i].clone(),
                Content::Weight(i) => weights[*i].0.clone(),
                Content::Ids => words((0..capacity).map(|row| batch.ids.get(row).copied().unwrap_or(0))),
                Content::Rows => words((0..capacity).flat_map(|row| batch.row(row))),
                Content::Sequences => {
                    let entry = |i: usize| {
                        [batch.first(i) as u32, batch.lengths[i], batch.cached[i], batch.first_page(i) as u32]
                    };
                    words((0..batch.lengths.len()).flat_map(entry))
                }
                Content::Pages => words((0..batch.pages() as u32).rev()),
                Content::Step => words([batch.ids.len() as u32, batch.lengths.len() as u32, 0, 0]),
                Content::Out(i) => floats(&before[*i]),
            })
            .collect();
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

impl Output {
    fn of(graph: &Graph, output: &warpweft_compiler::graph::Output) -> Result<Output, String> {
        let fact = graph.tensor(output.id).map_err(|e| e.to_string())?;
        let [rows, width] = fact.shape[..] else { return Err("its result is no matrix".into()) };
        let width = constant(width).ok_or("its result has no constant width")?;
        let (first, whole) = window(&output.name, width)?;
        let cache = match graph.node(output.id).op {
            Op::Append([cache, _]) => match graph.node(cache).op {
                Op::Cache(cache) => Some(cache.0 as usize),
                _ => None,
            },
            _ => None,
        };
        let codes = fact.dtype.is_quantized();
        let name = base(&output.name).to_owned();
        Ok(Output { name, width, first, whole, rows, codes, cache, stored: None })
    }

    /// The numbers in the bytes of the result, as many in a row as [`Output::stride`] says; where it is a cache, padding is what
    /// it was `before`.
    pub(super) fn numbers(&self, bytes: &[u8], before: &[f32]) -> Vec<f32> {
        if self.codes {
            return codes::decoded(bytes, self.whole);
        }
        let Some(rows) = self.stored else {
            return bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        };
        let mut numbers = before.to_vec();
        for (row, found) in numbers.chunks_exact_mut(self.stride()).zip(cache::unpack(rows, bytes).chunks(self.width)) {
            row[..self.width].copy_from_slice(found);
        }
        numbers
    }

    /// How far a number of a row may be from the exact one because it is stored.
    pub(super) fn rounding(&self, row: &[f32], column: usize) -> f32 {
        let Some(rows) = self.stored else { return 0.0 };
        let columns = rows.columns as usize;
        let head = &row[column / columns * columns..][..columns];
        let most = head.iter().fold(0f32, |most, v| most.max(v.abs()));
        cache::rounding(rows.format, most.into(), row[column].into()) as f32
    }

    /// Elements from one row of the result to the next.
    pub(super) fn stride(&self) -> usize {
        padded(self.whole)
    }

    /// 32-bit words from one row of the binding to the next.
    fn words(&self) -> usize {
        if self.codes { codes::words(self.whole) } else { self.stride() }
    }

    /// What its binding held before, `words` of 32 bits, as numbers.
    pub(super) fn held<'d>(&self, words: &'d [f32]) -> Cow<'d, [f32]> {
        if self.codes { Cow::Owned(codes::decoded(&floats(words), self.whole)) } else { Cow::Borrowed(words) }
    }

    /// How far a number may be off that is `largest` at the most. Of two codes that are equally near either is right.
    pub(super) fn tolerance(&self, largest: f32) -> f32 {
        if self.codes { largest * codes::STEP } else { TOLERANCE * largest }
    }

    /// Whether a kernel may write a column outside of its result: the padding of a whole matrix.
    pub(super) fn may_pad(&self, column: usize) -> bool {
        self.first + self.width == self.whole && column >= self.whole
    }
}

/// How the rows of a buffer are stored, if it is a cache.
fn stored(plan: &Plan, buffer: usize) -> Option<CacheRows> {
    match plan.buffers.get(buffer)?.role {
        Role::Cache { rows, .. } => Some(rows),
        Role::Weight { .. } | Role::Scratch | Role::Input(_) | Role::Output => None,
    }
}

/// The bytes of rows in a cache; the numbers become what they stand for.
fn store(rows: CacheRows, numbers: &mut [f32]) -> Vec<u8> {
    let width = (rows.heads * rows.columns) as usize;
    let stride = padded(width);
    let values: Vec<f32> = numbers.chunks_exact(stride).flat_map(|row| row[..width].iter().copied()).collect();
    // Numbers of this size fit in every format.
    let bytes = cache::pack(rows, &values).unwrap_or_default();
    for (row, kept) in numbers.chunks_exact_mut(stride).zip(cache::unpack(rows, &bytes).chunks_exact(width)) {
        row[..width].copy_from_slice(kept);
    }
    bytes
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
        let row_bytes = bytes.len() / rows.max(1);
        bytes.resize(row_bytes * rows.next_multiple_of(ROW_PAD), 0);
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

fn tables(graph: &Graph) -> Vec<Table> {
    let table = |op: &Op| {
        let Op::Gather([table, index]) = op else { return None };
        let Op::Weight(weight) = graph.node(*table).op else { return None };
        let decl = graph.declarations().weights.get(weight.0 as usize)?;
        let index = if graph.node(*index).op == Op::Positions { Index::Positions } else { Index::Ids };
        Some(Table { index, window: start(&decl.name), rows: *decl.shape.first()? as usize })
    };
    graph.nodes().iter().filter_map(|node| table(&node.op)).collect()
}

/// `e0+4096` without its start.
fn base(name: &str) -> &str {
    name.split_once('+').map_or(name, |(base, _)| base)
}

/// The start of `e0+4096`.
fn start(name: &str) -> Option<usize> {
    name.split_once('+')?.1.parse().ok()
}

/// First column and width of the whole result of an output's name, `out` or `out+64/256`.
fn window(name: &str, width: usize) -> Result<(usize, usize), String> {
    let error = || format!("its meaning has an output {name:?}, expected out or out+FIRST/WIDTH");
    let Some((_, window)) = name.split_once('+') else { return Ok((0, width)) };
    let (first, whole) = window.split_once('/').ok_or_else(error)?;
    let (first, whole) = (first.parse().map_err(|_| error())?, whole.parse::<usize>().map_err(|_| error())?);
    if whole < first + width { Err(error()) } else { Ok((first, whole)) }
}

fn padded(width: usize) -> usize {
    width.next_multiple_of(PAD as usize)
}

fn constant(dim: Dim) -> Option<usize> {
    dim.as_constant().and_then(|n| usize::try_from(n).ok())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}
