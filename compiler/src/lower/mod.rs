//! Lowering: an extracted body becomes calls of kernels.
//!
//! Each call is an [`Operation`] with the values that it reads. Column windows are views and cost nothing; pointwise
//! nodes that one call alone uses become part of its term; a weight above the binding limit becomes windows, a call each.

mod attention;
mod caches;
mod call;
mod codes;
mod heads;
mod in_place;
mod linear;
mod per_head;
mod windows;

use egg::{Id, Language};
use rustc_hash::FxHashMap;
use warpweft_plan::{CacheFormat, CacheRows, Dim};

use crate::graph::{Fact, FactError, Graph, Op, TensorFact};
use crate::kernels::cached::Uncut;
use crate::kernels::candidates::{groups_view, is_chunked};
use crate::kernels::spec::{Attention, Norm, Operand, Operation, Pool, Rows, View};
use crate::kernels::{RowRange, Slot};
use call::CallBuilder;

pub use in_place::write_over;

/// Where an activation comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The body's argument.
    Arg(usize),
    /// A value that a call of this body writes.
    Value(usize),
}

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Rows, each padded; the number of rows padded too.
    Matrix,
    /// One padded row of f32.
    Vector,
}

/// A weight expression that a call reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightUse {
    /// A node of the body made of weights alone.
    pub node: Id,
    /// How it lies.
    pub layout: Layout,
    /// First row (of a vector: element) of the window.
    pub first: u64,
    /// Rows (elements) of the window.
    pub rows: u64,
}

/// What a binding of a call is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// An activation, as a whole: the view stands in the operation.
    Activation(Source),
    /// A weight.
    Weight(WeightUse),
    /// Vectors of weights, nodes of the body, one behind the other.
    Vectors(Vec<Id>),
}

/// A kernel call.
#[derive(Clone, Debug)]
pub struct Call {
    /// What to compute.
    pub operation: Operation,
    /// What its inputs are; tables, result and step are known by their slots.
    pub inputs: Vec<(Slot, Input)>,
    /// The values that it writes, or parts of: of [`Slot::Out`], which is the first, or of each [`Slot::Part`].
    pub values: Vec<usize>,
    /// What it computes, as a graph: arguments in the order of its activations, weights named like the bindings.
    pub meaning: Graph,
}

impl Call {
    /// What results are written over: which of [`Call::values`], and what.
    pub fn over(&self) -> Vec<(usize, Source)> {
        let operands = self.operation.pointwise().map_or(&[][..], |(operands, _)| operands);
        let place = |(part, over): (usize, Operand)| {
            Some((part, self.operand(operands.iter().position(|operand| *operand == over)?)?))
        };
        [Operand::Result, Operand::Next].into_iter().enumerate().filter_map(place).collect()
    }

    /// Where an operand comes from, if that is an activation.
    fn operand(&self, operand: usize) -> Option<Source> {
        self.inputs.iter().find_map(|(slot, input)| match input {
            Input::Activation(source) if *slot == Slot::Operand(operand) => Some(*source),
            Input::Activation(_) | Input::Weight(_) | Input::Vectors(_) => None,
        })
    }
}

/// A matrix that calls write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Columns.
    pub width: u32,
    /// What a row is.
    pub rows: Rows,
    /// Where it lies.
    pub place: Place,
}

impl Value {
    /// Rows of the step.
    fn of_step(width: u32, rows: Rows) -> Value {
        Value { width, rows, place: Place::Step }
    }
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory that only this step uses.
    Step,
    /// The same, with as many bytes whatever the number of rows.
    Fixed(u64),
    /// In the body's cache of that number, with all rows of before.
    Cache(usize),
}

/// A body as calls.
#[derive(Clone, Debug)]
pub struct LoweredBody {
    /// In order.
    pub calls: Vec<Call>,
    /// What they write.
    pub values: Vec<Value>,
    /// The values of the body's outputs.
    pub outputs: Vec<usize>,
    /// The rows of the body's caches.
    pub caches: Vec<CacheRows>,
    /// The body's nodes that are values as a whole. Values that no node is are intermediate ones, of two calls that compute
    /// a node together.
    pub results: FxHashMap<Id, usize>,
}

/// A body that cannot be lowered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// Found by an extraction that is wrong; a bug.
    #[error("{op} cannot be lowered: {problem}")]
    Op {
        /// The operator.
        op: String,
        /// Why.
        problem: String,
    },
    /// A size above what a shader can index.
    #[error("{what} is {size}, above {limit}")]
    Size {
        /// Which.
        what: String,
        /// Found.
        size: i64,
        /// Expected at the most.
        limit: i64,
    },
    /// A meaning that does not type-check; a bug.
    #[error(transparent)]
    Fact(#[from] FactError),
}

/// What lowering has to know beside the body.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The longest sequence.
    pub max_context: u32,
    /// Bytes of one binding.
    pub binding_bytes: u64,
    /// Storage buffers of one kernel.
    pub storage_buffers: u32,
    /// Rows of the step that the program is made for.
    pub rows: RowRange,
    /// How caches are stored.
    pub cache: CacheFormat,
    /// Up to where one row's context is not cut.
    pub uncut: Uncut,
}

/// Lowers an extracted body.
///
/// # Errors
/// When a node has no operation or a size is above what shaders can index.
pub fn lower(body: &Graph, bounds: Bounds) -> Result<LoweredBody, LowerError> {
    let caches = caches::rows(body, bounds.cache)?;
    let mut lowering = Lowering {
        body,
        bounds,
        inlined: inlined(body, &caches),
        fresh: FxHashMap::default(),
        caches: Vec::new(),
        calls: Vec::new(),
        values: Vec::new(),
        known: FxHashMap::default(),
    };
    lowering.fresh = attention::fresh(body, &lowering.inlined, bounds);
    lowering.caches = caches;
    let live = body.live();
    for id in body.ids() {
        if live[usize::from(id)] && lowering.needs_call(id) && !lowering.known.contains_key(&id) {
            lowering.call(id)?;
        }
    }
    let outputs = body.outputs().iter().map(|o| lowering.output(o.id)).collect::<Result<_, _>>()?;
    let Lowering { calls, values, caches, known, .. } = lowering;
    Ok(LoweredBody { calls, values, outputs, caches, results: known })
}

/// The operation of a kernel whose meaning that graph is; `None` if it takes several, or none.
pub fn operation(meaning: &Graph, bounds: Bounds) -> Option<Operation> {
    let mut calls = lower(meaning, bounds).ok()?.calls;
    let call = calls.pop()?;
    calls.is_empty().then_some(call.operation)
}

/// For each node: one user alone reads it, and takes it up into its term.
fn inlined(body: &Graph, caches: &[CacheRows]) -> Vec<bool> {
    let live = body.live();
    let mut users: Vec<Vec<Id>> = vec![Vec::new(); body.nodes().len()];
    for id in body.ids().filter(|&id| live[usize::from(id)]) {
        body.node(id).op.for_each(|c| users[usize::from(c)].push(id));
    }
    let is_output = |id: Id| body.outputs().iter().any(|o| o.id == id);
    body.ids()
        .map(|id| {
            let node = body.node(id);
            if heads::is_prepared(body, id) && !is_output(id) {
                return matches!(users[usize::from(id)].as_slice(), [user] if heads::takes_up(body, caches, *user, id));
            }
            let is_gather = matches!(node.op, Op::Gather(_));
            let activation = node.fact.tensor().is_some_and(|t| !t.constant);
            if !activation || !(node.op.is_pointwise() || is_gather) || is_output(id) {
                return false;
            }
            let [user] = users[usize::from(id)].as_slice() else { return false };
            let user = &body.node(*user);
            let in_term = user.op.is_pointwise() && (matches!(user.fact, Fact::Tensor(_)) || !is_gather);
            let normalized = match &user.op {
                Op::LayerNorm([x, ..]) | Op::RmsNorm([x, ..]) | Op::L2Norm([x, ..]) => *x == id,
                _ => false,
            };
            in_term || normalized
        })
        .collect()
}

struct Lowering<'b> {
    body: &'b Graph,
    bounds: Bounds,
    inlined: Vec<bool>,
    /// The attentions that make q, k and v ready themselves.
    fresh: FxHashMap<Id, [heads::Chain; 3]>,
    caches: Vec<CacheRows>,
    calls: Vec<Call>,
    values: Vec<Value>,
    known: FxHashMap<Id, usize>,
}

impl Lowering<'_> {
    fn needs_call(&self, id: Id) -> bool {
        let node = self.body.node(id);
        let Some(t) = node.fact.tensor() else { return false };
        let free = t.constant || self.inlined[usize::from(id)] || self.is_fresh(id);
        !free && !matches!(node.op, Op::Arg(_) | Op::Ids | Op::Positions | Op::BandMask(_) | Op::Slice(_))
    }

    fn tensor(&self, id: Id) -> Result<&TensorFact, LowerError> {
        Ok(self.body.tensor(id)?)
    }

    fn error(&self, id: Id, problem: &str) -> LowerError {
        LowerError::Op { op: self.body.node(id).op.name(), problem: problem.into() }
    }

    fn int(&self, id: Id) -> Result<u32, LowerError> {
        match self.body.node(id).fact {
            Fact::Int(i) => u32::try_from(i).map_err(|_| LowerError::Size {
                what: "an attribute".into(),
                size: i,
                limit: u32::MAX.into(),
            }),
            _ => Err(self.error(id, "an integer was expected")),
        }
    }

    fn real(&self, id: Id) -> Result<f32, LowerError> {
        match self.body.node(id).fact {
            Fact::Real(r) => Ok(r.value()),
            _ => Err(self.error(id, "a real number was expected")),
        }
    }

    /// Rows and width of an activation.
    fn matrix(&self, id: Id) -> Result<Value, LowerError> {
        let [rows, width] = self.tensor(id)?.shape[..] else { return Err(self.error(id, "a matrix was expected")) };
        let rows = match rows {
            d if d == Dim::TOKENS => Rows::Tokens,
            d if d == Dim::SEQUENCES => Rows::Sequences,
            d if d == Dim::CONTEXT => return Err(self.error(id, "no kernel computes it for the rows of a cache")),
            _ => return Err(self.error(id, "its rows are neither tokens nor sequences")),
        };
        Ok(Value::of_step(self.size("a width", width)?, rows))
    }

    /// Columns of an activation.
    fn width(&self, id: Id) -> Result<u32, LowerError> {
        match self.tensor(id)?.shape[..] {
            [_, width] => self.size("a width", width),
            _ => Err(self.error(id, "a matrix was expected")),
        }
    }

    fn size(&self, what: &str, dim: Dim) -> Result<u32, LowerError> {
        // Element indices are 32-bit in shaders; widths stay far below so that row × width cannot overflow early.
        const LIMIT: i64 = 1 << 24;
        let size = dim.as_constant().unwrap_or(-1);
        match u32::try_from(size) {
            Ok(n) if size <= LIMIT && n > 0 => Ok(n),
            _ => Err(LowerError::Size { what: what.into(), size, limit: LIMIT }),
        }
    }

    /// The matrix that holds an activation and the window of it.
    fn view(&self, id: Id) -> Result<(Source, View), LowerError> {
        let node = self.body.node(id);
        if let Op::Slice([x, axis, start, _]) = node.op {
            let (source, base) = self.view(x)?;
            if self.int(axis)? != 1 {
                return Err(self.error(id, "only columns can be windowed"));
            }
            return Ok((source, View { width: self.width(id)?, offset: base.offset + self.int(start)?, ..base }));
        }
        let whole = View::whole(self.width(id)?);
        match node.op {
            Op::Arg(a) => Ok((Source::Arg(a.0 as usize), whole)),
            _ => match self.known.get(&id) {
                Some(&value) => Ok((Source::Value(value), whole)),
                None => Err(self.error(id, "it has not been computed")),
            },
        }
    }

    fn output(&mut self, id: Id) -> Result<usize, LowerError> {
        if let Some(&value) = self.known.get(&id) {
            return Ok(value);
        }
        // A window or an argument handed through: copied, so that whoever comes next finds a whole matrix.
        let value = self.matrix(id)?;
        let Value { width, rows, .. } = value;
        let mut builder = CallBuilder::new(self);
        let (term, meaning) = builder.operand(id)?;
        let call = builder.finish(|operands| Operation::Map { width, term, operands, rows }, meaning);
        self.push(id, value, vec![call]);
        Ok(self.known[&id])
    }

    fn push(&mut self, id: Id, value: Value, calls: Vec<Call>) {
        let at = self.value(value);
        self.known.insert(id, at);
        self.calls.extend(calls.into_iter().map(|call| Call { values: vec![at], ..call }));
    }

    fn value(&mut self, value: Value) -> usize {
        self.values.push(value);
        self.values.len() - 1
    }

    fn call(&mut self, id: Id) -> Result<(), LowerError> {
        let node = self.body.node(id);
        match node.op {
            Op::Rope(_) | Op::HeadNorm(_) | Op::Append(_) => return self.heads(id),
            Op::Attention([_, k, v, ..]) if self.is_cached(k)? && self.is_cached(v)? => {
                return self.cached_attention(id);
            }
            Op::Candidates([x, n]) => return self.candidates(id, x, n),
            Op::First([pair]) | Op::Second([pair]) => {
                return match self.body.node(pair).op {
                    Op::GainedLinear(operands) => self.gained_linear(pair, operands),
                    Op::NormedRows(operands) => self.normed_rows(pair, operands),
                    _ => self.normed_linear(pair),
                };
            }
            Op::Quantize([format, x]) => return self.quantize(id, format, x),
            _ => {}
        }
        let value = self.matrix(id)?;
        let Value { width, rows, .. } = value;
        let max_context = self.bounds.max_context;
        let mut b = CallBuilder::new(self);
        let op = self.body.node(id).op.clone();
        let call = match op {
            Op::Linear([x, w, term]) => self.linear(x, w, None, term, value)?,
            Op::LinearPair([x, w, w2, term]) => self.linear(x, w, Some(w2), term, value)?,
            Op::ScaledLinearPair(operands) => self.scaled_linear(operands, value)?,
            Op::Dequantize([x]) => self.dequantize(x, value)?,
            Op::HeadLinear(operands) => self.head_linear(id, operands, value)?,
            Op::GatherColumns([x, index]) => {
                let (x, mx) = b.activation(Slot::X, x)?;
                let index = b.vectors(Slot::Vectors, "columns", vec![index], width)?;
                let meaning = b.meaning.gather_columns(mx, index)?;
                b.finish(|_| Operation::Columns { x, width, rows }, meaning)
            }
            Op::Attention([q, k, v, heads, kv_heads, term]) => {
                let (h, g) = (self.int(heads)?, self.int(kv_heads)?);
                let (q, mq) = b.activation(Slot::Q, q)?;
                let (k, mk) = b.activation(Slot::K, k)?;
                let (v, mv) = b.activation(Slot::V, v)?;
                let (term, mt) = b.term(term)?;
                let (mh, mg) = (b.meaning.int(h.into())?, b.meaning.int(g.into())?);
                let meaning = b.meaning.add(Op::Attention([mq, mk, mv, mh, mg, mt]))?;
                let attention = Attention { q, k, v, heads: h, kv_heads: g, term, max_context, image: false };
                b.finish(|_| Operation::Attention(attention), meaning)
            }
            Op::LayerNorm([x, eps, term]) => b.normalize(Norm::Layer, Op::LayerNorm, [x, eps, term], value)?,
            Op::RmsNorm([x, eps, term]) => b.normalize(Norm::Rms, Op::RmsNorm, [x, eps, term], value)?,
            Op::L2Norm([x, eps, term]) => b.normalize(Norm::L2, Op::L2Norm, [x, eps, term], value)?,
            Op::MeanPool([x]) => b.pool(Pool::Mean, Op::MeanPool, x, max_context)?,
            Op::FirstRow([x]) => b.pool(Pool::First, Op::FirstRow, x, max_context)?,
            Op::MaxPool([x]) => b.pool(Pool::Max, Op::MaxPool, x, max_context)?,
            Op::LastRow([x]) => b.pool(Pool::Last, Op::LastRow, x, max_context)?,
            Op::Gather(_)
            | Op::Add(_)
            | Op::Sub(_)
            | Op::Mul(_)
            | Op::Div(_)
            | Op::Gelu(_)
            | Op::GeluTanh(_)
            | Op::Silu(_)
            | Op::Relu(_)
            | Op::Tanh(_)
            | Op::Sigmoid(_) => {
                let (term, meaning) = b.expression(id)?;
                b.finish(|operands| Operation::Map { width, term, operands, rows }, meaning)
            }
            Op::Int(_)
            | Op::Real(_)
            | Op::Weight(_)
            | Op::Arg(_)
            | Op::Ids
            | Op::Positions
            | Op::Acc
            | Op::Acc2
            | Op::Size(_)
            | Op::Format(_)
            | Op::Quantize(_)
            | Op::Fill(_)
            | Op::MatMul(_)
            | Op::Transpose(_)
            | Op::Slice(_)
            | Op::Concat(_)
            | Op::SplitHeads(_)
            | Op::MergeHeads(_)
            | Op::Cache(_)
            | Op::Append(_)
            | Op::Rope(_)
            | Op::HeadNorm(_)
            | Op::Candidates(_)
            | Op::RepeatHeads(_)
            | Op::Softmax(_)
            | Op::BandMask(_)
            | Op::NormedRows(_)
            | Op::Gained(_)
            | Op::GainedLinear(_)
            | Op::NormedLinear(_)
            | Op::NormedLinearPair(_)
            | Op::Rms(_)
            | Op::Layer(_)
            | Op::Then(_)
            | Op::First(_)
            | Op::Second(_)
            | Op::Scores(_) => {
                return Err(self.error(id, "no kernel computes it"));
            }
        };
        let calls = windows::split(call, self.bounds.binding_bytes)?;
        self.push(id, value, calls);
        Ok(())
    }
}

impl Lowering<'_> {
    /// Two calls where a row is searched in chunks: these first.
    fn candidates(&mut self, id: Id, x: Id, n: Id) -> Result<(), LowerError> {
        let Value { width: columns, rows, .. } = self.matrix(x)?;
        let n = self.int(n)?;
        let mut groups = None;
        if is_chunked(columns) {
            let mut first = CallBuilder::new(self);
            let (view, _) = first.activation(Slot::X, x)?;
            let first = first.finish_apart(|_| Operation::CandidateChunks { x: view, rows });
            let value = self.value(Value::of_step(groups_view(columns).width, rows));
            self.calls.push(Call { values: vec![value], ..first });
            groups = Some(value);
        }
        let mut second = CallBuilder::new(self);
        let (view, _) = second.activation(Slot::X, x)?;
        if let Some(groups) = groups {
            second.bind(Slot::Operand(0), Source::Value(groups));
        }
        let second = second.finish_apart(|_| Operation::Candidates { x: view, n, rows });
        let value = self.matrix(id)?;
        self.push(id, value, vec![second]);
        Ok(())
    }
}
