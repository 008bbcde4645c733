//! A kernel of a plan and what it means: what its bindings are for, and what it writes.

use warpweft_compiler::graph::{ArgDecl, Graph, Op};
use warpweft_plan::{CacheRows, Dim, Kernel, Plan, Role, Step};

use super::TOLERANCE;
use super::data::Data;
use super::storage::{Storage, padded};

/// Ids beyond a window of a table, so that rows outside are met too.
pub(super) const BEYOND: usize = 64;

/// What selects the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Ids,
    Positions,
}

/// More operands than devices can bind.
const MOST_OPERANDS: usize = 64;

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
    pub(super) whole: usize,
    /// How many rows it has: those of the step, of its sequences, or of a cache.
    pub(super) rows: Dim,
    /// The cache that it is, by its index in the meaning.
    pub(super) cache: Option<usize>,
    /// How its rows are stored.
    pub(super) storage: Storage,
    /// The argument that it is written over, by its index in the meaning.
    pub(super) over: Option<usize>,
}

/// A kernel and its meaning.
pub(crate) struct Call {
    pub(super) graph: Graph,
    pub(super) outputs: Vec<Output>,
    /// How the rows of each argument of the meaning are stored.
    pub(super) args: Vec<Storage>,
    tables: Vec<Table>,
    /// Whether it reads or writes caches.
    pub(super) paged: bool,
}

/// What a binding holds.
pub(super) enum Content {
    Arg(usize),
    Weight(usize),
    Ids,
    Rows,
    Sequences,
    Pages,
    Step,
    Out(usize),
}

impl Call {
    /// A kernel of a plan, as a step runs it.
    pub(crate) fn new(plan: &Plan, kernel: &Kernel, step: &Step, graph: Graph) -> Result<Call, String> {
        let stored = |binding: usize| step.buffers.get(binding).and_then(|&index| cache_rows(plan, index));
        let at = |name: &str| kernel.bindings.iter().position(|binding| binding.name == name);
        let outputs = graph.outputs().iter().map(|output| {
            let output = Output::of(&graph, output)?;
            let storage = at(&output.name).and_then(stored).map_or(output.storage, Storage::Cache);
            Ok::<_, String>(Output { storage, ..output })
        });
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let written = kernel.bindings.iter().filter(|b| b.access.writes());
        if !written.map(|b| b.name.as_str()).eq(outputs.iter().map(|o| o.name.as_str())) {
            return Err("its meaning has other outputs than it writes".into());
        }
        let tables = tables(&graph);
        let paged = kernel.bindings.iter().any(|binding| binding.name == "pages");
        let mut call = Call { outputs, args: Vec::new(), tables, paged, graph };
        let contents = call.contents(kernel);
        // They are counted in the order of their bindings.
        let mut args: Vec<Option<usize>> =
            (0..contents.len()).filter(|&at| matches!(contents[at], Content::Arg(_))).map(Some).collect();
        let declared = &call.graph.declarations().args;
        // What stands where a result goes has no binding of its own.
        for (missing, (operand, result)) in written_over(kernel).into_iter().enumerate() {
            let at = before(kernel, &contents, operand) + missing;
            args.insert(at.min(args.len()), None);
            call.outputs.iter_mut().filter(|o| o.name == result).for_each(|output| output.over = Some(at));
        }
        if args.len() != declared.len() {
            return Err(format!("it binds {} activations, its meaning has {}", args.len(), declared.len()));
        }
        let storage = |(at, arg): (Option<usize>, &ArgDecl)| {
            at.and_then(stored).map_or(storage_of(arg.dtype.is_quantized()), Storage::Cache)
        };
        call.args = args.into_iter().zip(declared).map(storage).collect();
        Ok(call)
    }

    /// What each binding is for.
    pub(super) fn contents(&self, kernel: &Kernel) -> Vec<Content> {
        let weights = &self.graph.declarations().weights;
        let over: Vec<usize> = self.outputs.iter().filter_map(|output| output.over).collect();
        let mut args = 0..;
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
                    (None, None) => Content::Arg(args.find(|arg| !over.contains(arg)).unwrap_or(usize::MAX)),
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
        let storage = storage_of(fact.dtype.is_quantized());
        let name = base(&output.name).to_owned();
        Ok(Output { name, width, first, whole, rows, cache, storage, over: None })
    }

    /// The numbers in the bytes of the result, as many in a row as [`Output::stride`] says.
    pub(super) fn numbers(&self, bytes: &[u8]) -> Vec<f32> {
        self.storage.numbers(bytes, self.whole)
    }

    /// Elements from one row of the result to the next.
    pub(super) fn stride(&self) -> usize {
        padded(self.whole)
    }

    /// How far a number may be off that is `largest` at the most.
    pub(super) fn tolerance(&self, largest: f32) -> f32 {
        self.storage.tolerance(largest, TOLERANCE)
    }

    /// Whether a kernel may write a column outside of its result: the padding of a whole matrix.
    pub(super) fn may_pad(&self, column: usize) -> bool {
        self.first + self.width == self.whole && column >= self.whole
    }
}

/// The operands `e0`, `e1`… that are read from where a result goes, each with the name of that result.
fn written_over(kernel: &Kernel) -> Vec<(usize, &'static str)> {
    let results = ["out", "next"];
    let read = |operand: usize| {
        let (_, function) = kernel.wgsl.split_once(&format!("fn load_e{operand}("))?;
        let (_, value) = function.split_once("return ")?;
        results.into_iter().find(|result| value.starts_with(&format!("{result}["))).map(|result| (operand, result))
    };
    (0..MOST_OPERANDS).filter_map(read).collect()
}

/// How many bound activations stand before an operand.
fn before(kernel: &Kernel, contents: &[Content], operand: usize) -> usize {
    let number = |name: &str| name.strip_prefix('e').and_then(|n| n.parse::<usize>().ok());
    let before = |(binding, content): &(&warpweft_plan::Binding, &Content)| {
        matches!(content, Content::Arg(_)) && number(&binding.name).is_none_or(|n| n < operand)
    };
    kernel.bindings.iter().zip(contents).filter(before).count()
}

/// Of activations that are no cache.
fn storage_of(quantized: bool) -> Storage {
    if quantized { Storage::Codes } else { Storage::Floats }
}

/// How the rows of a buffer are stored, if it is a cache.
fn cache_rows(plan: &Plan, buffer: usize) -> Option<CacheRows> {
    match plan.buffers.get(buffer)?.role {
        Role::Cache { rows, .. } => Some(rows),
        Role::Weight { .. } | Role::Scratch | Role::Input(_) | Role::Output => None,
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
pub(super) fn start(name: &str) -> Option<usize> {
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

pub(super) fn constant(dim: Dim) -> Option<usize> {
    dim.as_constant().and_then(|n| usize::try_from(n).ok())
}
