//! Scheduling: calls of all regions become the steps of a program over buffers.

mod assemble;
mod order;
mod slots;
mod windows;

use egg::Id;
use rustc_hash::FxHashMap;
use warpweft_plan::{
    Buffer, CacheRows, Dim, Input as Table, Kernel, Output, OutputKind, PAD, Plan, Program, Role, Tap,
};

use crate::formats::Format;
use crate::graph::{CacheId, Fact, FactError, Graph, Op};
use crate::kernels::Composed;
use crate::lower::{Layout, LoweredBody, WeightUse};
use crate::pack::{Packing, Recipe};
use crate::roll::Region;

pub use assemble::{BodyProgram, Part, ScheduleError, assemble, scratch};

/// A call with its kernel.
#[derive(Clone, Debug)]
pub struct ComposedBody {
    /// The calls.
    pub lowered: LoweredBody,
    /// The kernel of each.
    pub kernels: Vec<Composed>,
}

/// What all programs of a plan share: kernels, buffers, packed weights.
#[derive(Debug, Default)]
pub struct Shared {
    kernels: Vec<Kernel>,
    kernel_index: FxHashMap<String, usize>,
    buffers: Vec<Buffer>,
    buffer_index: FxHashMap<(Role, Dim), usize>,
    /// By size, whether it is an image, and how many of those a program has had before.
    scratch: FxHashMap<((Dim, bool), usize), usize>,
    caches: FxHashMap<u32, usize>,
    recipes: Vec<Recipe>,
    recipe_index: FxHashMap<(String, Layout), usize>,
}

impl Shared {
    /// The plan of the given programs, and how to pack its weights.
    pub fn finish(self, model: warpweft_plan::Model, programs: Vec<Program>) -> (Plan, Packing) {
        let tensors = self.recipes.iter().map(|r| r.tensor.clone()).collect();
        let (buffers, kernels) = (self.buffers, self.kernels);
        let plan = Plan { model, tensors, buffers, kernels, programs, provenance: None, quantization: None };
        (plan, Packing { recipes: self.recipes })
    }

    /// The kernel's index; equal kernels are one.
    fn kernel(&mut self, composed: &Composed, meaning: &Graph) -> usize {
        if let Some(&at) = self.kernel_index.get(&composed.wgsl) {
            return at;
        }
        let taken = |name: &str| self.kernels.iter().any(|k| k.name == name);
        let mut name = composed.name.clone();
        let mut number = 2;
        while taken(&name) {
            name = format!("{}.{number}", composed.name);
            number += 1;
        }
        self.kernels.push(Kernel { name, ..composed.kernel(meaning.to_string()) });
        self.kernel_index.insert(composed.wgsl.clone(), self.kernels.len() - 1);
        self.kernels.len() - 1
    }

    fn buffer(&mut self, role: Role, bytes: Dim, name: impl FnOnce() -> String) -> usize {
        let buffers = &mut self.buffers;
        *self.buffer_index.entry((role, bytes)).or_insert_with(|| {
            buffers.push(Buffer { name: name(), role, bytes });
            buffers.len() - 1
        })
    }

    fn table(&mut self, table: Table) -> usize {
        let name = || {
            match table {
                Table::Ids => "ids",
                Table::Rows => "rows",
                Table::Sequences => "sequences",
                Table::Pages => "pages",
                Table::WindowPages => "window_pages",
                Table::Step => "step",
            }
            .to_owned()
        };
        self.buffer(Role::Input(table), table.bytes(), name)
    }

    /// Scratch buffers of these sizes, and images where it says so, all different. Programs share those of the same size; the
    /// runtime lets buffers of different programs lie in the same memory.
    fn scratch(&mut self, sizes: &[(Dim, bool)]) -> Vec<usize> {
        let mut taken: FxHashMap<(Dim, bool), usize> = FxHashMap::default();
        let mut of_size = |size: (Dim, bool)| {
            let ordinal = taken.entry(size).or_default();
            *ordinal += 1;
            *self.scratch.entry((size, *ordinal)).or_insert_with(|| {
                let name = format!("scratch{}", self.buffers.iter().filter(|b| b.role == Role::Scratch).count());
                self.buffers.push(Buffer { name, role: Role::Scratch, bytes: size.0 });
                self.buffers.len() - 1
            })
        };
        sizes.iter().map(|&size| of_size(size)).collect()
    }

    /// The buffer of a cache of the model: the same for all programs, which have to agree on its rows and its window.
    fn cache(&mut self, cache: CacheId, rows: CacheRows, window: Option<u32>) -> Result<usize, ScheduleError> {
        let buffers = &mut self.buffers;
        let role = Role::Cache { window, rows };
        let at = *self.caches.entry(cache.0).or_insert_with(|| {
            // A row is a small part of what a binding can have.
            let bytes = i64::try_from(rows.row_bytes()).unwrap_or(i64::MAX);
            let (name, bytes) = (format!("cache{}", cache.0), Dim::CONTEXT * bytes);
            buffers.push(Buffer { name, role, bytes });
            buffers.len() - 1
        });
        if self.buffers[at].role != role {
            return Err(ScheduleError::Cache(cache.0));
        }
        Ok(at)
    }

    /// The result of that kind; all programs write it to the same place.
    fn output(&mut self, kind: OutputKind, rows: Dim, width: u32) -> Output {
        let stride = width.next_multiple_of(PAD as u32);
        let bytes = rows * i64::from(stride) * 4;
        let known = self.buffers.iter().position(|b| b.role == Role::Output && b.name == kind.name());
        let buffer = known.unwrap_or_else(|| {
            self.buffers.push(Buffer { name: kind.name().into(), role: Role::Output, bytes });
            self.buffers.len() - 1
        });
        Output { kind, buffer, rows, width, stride }
    }

    /// A value that is kept, as number `at` of its program, unless it is kept in buffer `known` already.
    fn tap(&mut self, at: usize, width: u32, known: Option<usize>) -> Tap {
        let stride = width.next_multiple_of(PAD as u32);
        let bytes = Dim::TOKENS * i64::from(stride) * 4;
        let name = format!("tap{at}");
        let same = |b: &Buffer| b.role == Role::Output && b.name == name && b.bytes == bytes;
        let buffer = known.or_else(|| self.buffers.iter().position(same)).unwrap_or_else(|| {
            self.buffers.push(Buffer { name: name.clone(), role: Role::Output, bytes });
            self.buffers.len() - 1
        });
        Tap { buffer, width, stride }
    }

    /// The buffer of a window of a packed weight.
    fn weight(&mut self, model: &Graph, region: &Region, body: &Graph, weight: WeightUse) -> Result<usize, FactError> {
        let mut expression = Graph::default();
        let value = copy(model, region, body, weight.node, &mut expression)?;
        expression.add_output("value", value);
        let t = body.tensor(weight.node)?;
        let shape = match weight.layout {
            Layout::Matrix => {
                [t.shape.iter().rev().skip(1).map(|d| elements(Some(d))).product(), elements(t.shape.last())]
            }
            Layout::Vector => [1, elements(t.shape.last())],
        };
        let problem = || FactError { op: "weight".into(), problem: format!("{} is no float", t.dtype) };
        let format = t.dtype.format().ok_or_else(problem)?;
        let at = self.recipe(expression, weight.layout, format, shape);
        let (offset, bytes) = self.recipes[at].window(weight.first, weight.rows);
        let name = match weight.first {
            0 => self.recipes[at].tensor.name.clone(),
            first => format!("{} from {first}", self.recipes[at].tensor.name),
        };
        Ok(self.buffer(Role::Weight { tensor: at, offset }, Dim::constant(bytes as i64), || name))
    }

    /// The buffer of vectors that stand one behind the other.
    fn vectors(&mut self, model: &Graph, region: &Region, body: &Graph, nodes: &[Id]) -> Result<usize, FactError> {
        let mut expression = Graph::default();
        let mut length = 0;
        for (i, &node) in nodes.iter().enumerate() {
            let value = copy(model, region, body, node, &mut expression)?;
            expression.add_output(if i == 0 { "value".to_owned() } else { format!("value{i}") }, value);
            length += elements(body.tensor(node)?.shape.last());
        }
        let at = self.recipe(expression, Layout::Vector, Format::F32, [1, length]);
        let (offset, bytes) = self.recipes[at].window(0, length);
        let name = self.recipes[at].tensor.name.clone();
        Ok(self.buffer(Role::Weight { tensor: at, offset }, Dim::constant(bytes as i64), || name))
    }

    /// The recipe of the outputs of an expression; equal ones are one.
    fn recipe(&mut self, expression: Graph, layout: Layout, format: Format, shape: [u64; 2]) -> usize {
        let key = (expression.to_string(), layout);
        if let Some(&at) = self.recipe_index.get(&key) {
            return at;
        }
        let parts: Vec<String> = expression.outputs().iter().map(|o| describe(&expression, o.id)).collect();
        let name = self.tensor_name(&parts.join(", "), layout);
        self.recipes.push(Recipe::new(name, expression, layout, format, shape));
        self.recipe_index.insert(key, self.recipes.len() - 1);
        self.recipes.len() - 1
    }

    fn tensor_name(&self, description: &str, layout: Layout) -> String {
        let taken = self.recipes.iter().any(|r| r.tensor.name == description);
        match layout {
            _ if !taken => description.to_owned(),
            Layout::Matrix => format!("{description} (matrix)"),
            Layout::Vector => format!("{description} (vector)"),
        }
    }
}

fn elements(dim: Option<&Dim>) -> u64 {
    dim.and_then(|d| d.as_constant()).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// Copies a body's weight expression, with the weights that the region's layer has.
fn copy(model: &Graph, region: &Region, body: &Graph, id: Id, into: &mut Graph) -> Result<Id, FactError> {
    let mut op = body.node(id).op.clone();
    if let Op::Weight(w) = op {
        let decl = &model.declarations().weights[region.weights[w.0 as usize].0 as usize];
        let at = into.declare_weight(decl.clone());
        return into.add(Op::Weight(at));
    }
    for child in egg::Language::children_mut(&mut op) {
        *child = copy(model, region, body, *child, into)?;
    }
    into.add(op)
}

/// The expression with the weights' names: what a packed tensor is called.
fn describe(graph: &Graph, id: Id) -> String {
    let node = graph.node(id);
    match (&node.op, &node.fact) {
        (Op::Weight(w), _) => graph.declarations().weights[w.0 as usize].name.clone(),
        // The plan tells a tensor's format beside its name.
        (Op::Quantize([_, w]), _) => describe(graph, *w),
        (op, Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_)) => op.name(),
        (op, Fact::Tensor(_) | Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..)) => {
            let parts: Vec<_> = egg::Language::children(op).iter().map(|c| describe(graph, *c)).collect();
            format!("({} {})", op.name(), parts.join(" "))
        }
    }
}
