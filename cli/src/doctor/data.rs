//! Random numbers for one kernel, as bytes for the device and as values for the reference.

use warpweft_compiler::formats::Format;
use warpweft_compiler::graph::eval::Tensor;
use warpweft_compiler::graph::{Graph, Op, WeightDecl};
use warpweft_plan::{Access, Dim, Kernel, PAD, ROW_BLOCK, Sizes};

/// What a result holds before the kernel runs.
pub(super) const UNTOUCHED: f32 = 12_345.0;

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
pub(super) struct Batch {
    pub(super) lengths: Vec<u32>,
    ids: Vec<u32>,
}

impl Batch {
    /// Sequences of the given lengths (as far as the model allows) with random ids below `limit`.
    pub(super) fn new(lengths: &[u32], max_positions: u32, limit: usize, seed: u64) -> Batch {
        let lengths: Vec<u32> = lengths.iter().map(|&n| n.min(max_positions)).collect();
        let mut random = Random::new(seed ^ 0x1d5);
        let tokens: u32 = lengths.iter().sum();
        let ids = (0..tokens).map(|_| (random.bits() % limit.max(1) as u64) as u32).collect();
        Batch { lengths, ids }
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            tokens: self.ids.len() as u64,
            context: self.lengths.iter().copied().max().unwrap_or(0).into(),
            sequences: self.lengths.len() as u64,
        }
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
                return [row as u32 - first, first, length, index];
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

/// A kernel and its meaning.
pub(super) struct Call {
    pub(super) graph: Graph,
    /// Columns that it computes.
    pub(super) width: usize,
    /// The first of them in the result.
    pub(super) first: usize,
    /// Columns of the whole result.
    whole: usize,
    tables: Vec<Table>,
}

/// What a binding holds.
enum Content {
    Arg(usize),
    Weight(usize),
    Ids,
    Rows,
    Sequences,
    Step,
    Out,
}

/// All that a kernel is run on.
pub(super) struct Data {
    pub(super) batch: Batch,
    /// By binding.
    pub(super) buffers: Vec<Vec<u8>>,
    /// By weight of the meaning.
    pub(super) weights: Vec<Tensor>,
    /// By argument of the meaning: all rows, padded.
    matrices: Vec<Vec<f32>>,
}

impl Call {
    pub(super) fn new(kernel: &Kernel, graph: Graph) -> Result<Call, String> {
        let output = graph.outputs().first().ok_or("its meaning has no output")?;
        let fact = graph.tensor(output.id).map_err(|e| e.to_string())?;
        let width = fact.shape.last().and_then(|dim| constant(*dim)).ok_or("its result has no constant width")?;
        let (first, whole) = window(&output.name, width)?;
        let tables = tables(&graph);
        let call = Call { width, first, whole, tables, graph };
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
            "step" => Content::Step,
            "out" => Content::Out,
            name => match weights.iter().position(|w| base(&w.name) == name) {
                Some(weight) => Content::Weight(weight),
                None => {
                    args += 1;
                    Content::Arg(args - 1)
                }
            },
        };
        kernel.bindings.iter().map(content).collect()
    }

    /// Elements from one row of the result to the next.
    pub(super) fn stride(&self) -> usize {
        padded(self.whole)
    }

    /// Whether a kernel may write a column outside of its result: the padding of a whole matrix.
    pub(super) fn may_pad(&self, column: usize) -> bool {
        self.first + self.width == self.whole && column >= self.whole
    }

    /// Multiply-adds of one row, roughly.
    pub(super) fn work(&self) -> u64 {
        let gathered = self.tables.len();
        let weights = self.graph.declarations().weights.iter();
        let sizes = weights.map(|w| w.shape.iter().product::<u64>());
        if gathered > 0 { 0 } else { sizes.max().unwrap_or(0) }
    }

    /// Ids are below this.
    pub(super) fn id_limit(&self) -> usize {
        let by_id = self.tables.iter().filter(|table| table.index == Index::Ids);
        by_id.map(|t| t.window.map_or(t.rows, |first| first + t.rows + BEYOND)).min().unwrap_or(1000)
    }

    /// Whether a row is written: all tables have what it gathers.
    pub(super) fn keeps(&self, data: &Data, row: usize) -> bool {
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
    pub(super) fn data(&self, kernel: &Kernel, batch: Batch, seed: u64) -> Data {
        let mut random = Random::new(seed);
        let declarations = self.graph.declarations();
        let capacity = batch.capacity();
        let matrix = |random: &mut Random, dim: Option<&Dim>| {
            let stride = padded(dim.and_then(|d| constant(*d)).unwrap_or(0));
            (0..capacity * stride).map(|_| random.number()).collect::<Vec<f32>>()
        };
        let matrices: Vec<_> = declarations.args.iter().map(|arg| matrix(&mut random, arg.shape.last())).collect();
        let weights: Vec<_> = declarations.weights.iter().map(|decl| weight(decl, &mut random)).collect();
        let buffers = self
            .contents(kernel)
            .iter()
            .zip(&kernel.bindings)
            .map(|(content, binding)| match content {
                Content::Arg(i) => floats(&matrices[*i]),
                Content::Weight(i) => weights[*i].0.clone(),
                Content::Ids => words((0..capacity).map(|row| batch.ids.get(row).copied().unwrap_or(0))),
                Content::Rows => words((0..capacity).flat_map(|row| batch.row(row))),
                Content::Sequences => {
                    let entry = |sequence: usize| [batch.first(sequence) as u32, batch.lengths[sequence], 0, 0];
                    words((0..batch.lengths.len()).flat_map(entry))
                }
                Content::Step => words([batch.ids.len() as u32, batch.lengths.len() as u32, 0, 0]),
                Content::Out => {
                    debug_assert_eq!(binding.access, Access::ReadWrite);
                    floats(&vec![UNTOUCHED; capacity * self.stride()])
                }
            })
            .collect();
        Data { batch, buffers, weights: weights.into_iter().map(|(_, values)| values).collect(), matrices }
    }
}

impl Data {
    /// The arguments of one sequence.
    pub(super) fn args(&self, call: &Call, sequence: usize) -> Vec<Tensor> {
        let arg = |(decl, values): (&warpweft_compiler::graph::ArgDecl, &Vec<f32>)| {
            let width = decl.shape.last().and_then(|dim| constant(*dim)).unwrap_or(0);
            let rows = match decl.shape.first() {
                Some(&Dim::SEQUENCES) => sequence..sequence + 1,
                _ => self.batch.rows_of(sequence),
            };
            let shape = vec![rows.len(), width];
            let stride = padded(width);
            let data = rows.flat_map(|row| values[row * stride..][..width].iter().copied()).collect();
            Tensor { shape, data }
        };
        call.graph.declarations().args.iter().zip(&self.matrices).map(arg).collect()
    }
}

/// The bytes of a weight as kernels expect them, and its values.
fn weight(decl: &WeightDecl, random: &mut Random) -> (Vec<u8>, Tensor) {
    let shape: Vec<usize> = decl.shape.iter().map(|&n| n as usize).collect();
    let width = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().product::<usize>() / width.max(1);
    // So that sums over a row are about 1.
    let scale = if shape.len() == 2 { 2.0 / (width as f32).sqrt() } else { 1.0 };
    let frequencies = decl.name == "frequencies";
    let values = (0..rows * width).map(|_| random.number() * scale);
    let values: Vec<f32> = values.map(|value| if frequencies { value.abs() } else { value }).collect();
    let format = Format::of(decl.dtype).unwrap_or(Format::F32);
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
