//! The reference: what every operator *means*, on the CPU, values in f32, sums and functions in f64.
//!
//! One sequence at a time. Rules, kernels and formats are tested against it; nothing runs on it.

mod contract;
mod pointwise;
mod reduce;
mod reorder;

use std::borrow::Cow;

use egg::{Id, Language};
use warpweft_plan::{Dim, Sizes};

use super::{Declarations, Fact, Graph, Op};
use crate::formats::FormatError;

/// A value: its shape and its elements, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements. Ids and positions are whole numbers below 2²⁴.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of the given shape.
    ///
    /// # Errors
    /// When the number of elements is another.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Result<Tensor, EvalError> {
        let expected = shape.iter().product::<usize>();
        if data.len() == expected {
            Ok(Tensor { shape, data })
        } else {
            Err(EvalError::Value(format!("{} elements for the shape {shape:?}", data.len())))
        }
    }

    fn filled(shape: Vec<usize>, f: impl FnMut(usize) -> f32) -> Tensor {
        let n = shape.iter().product();
        Tensor { shape, data: (0..n).map(f).collect() }
    }

    /// Sizes as `[outer, rows, columns]`, where the last two axes are a matrix.
    fn batches(&self) -> [usize; 3] {
        let n = self.shape.len();
        [self.shape[..n - 2].iter().product(), self.shape[n - 2], self.shape[n - 1]]
    }

    fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// What the evaluator is run on.
pub trait Inputs {
    /// The value of a declared weight.
    ///
    /// # Errors
    /// When it cannot be had.
    fn weight(&self, index: usize, declarations: &Declarations) -> Result<Cow<'_, Tensor>, EvalError>;

    /// The value of a declared argument.
    ///
    /// # Errors
    /// When it cannot be had.
    fn arg(&self, index: usize) -> Result<Cow<'_, Tensor>, EvalError>;

    /// The token ids; their number is `tokens`.
    fn ids(&self) -> &[u32];

    /// Rows that a cache holds before this step: `[cached, width]`, the same number in all caches. `None` is no row.
    fn cache(&self, _index: usize) -> Option<&Tensor> {
        None
    }

    /// What a cache makes of the rows that are appended to it, `[tokens, width]`. `None`: it has them as they are.
    fn appended(&self, _index: usize) -> Option<&Tensor> {
        None
    }
}

/// Values held in memory.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// By weight index.
    pub weights: Vec<Tensor>,
    /// By argument index.
    pub args: Vec<Tensor>,
    /// Token ids.
    pub ids: Vec<u32>,
    /// By cache index: the rows before this step. Empty: none in any.
    pub caches: Vec<Tensor>,
}

impl Inputs for Values {
    fn weight(&self, index: usize, _: &Declarations) -> Result<Cow<'_, Tensor>, EvalError> {
        self.weights.get(index).map(Cow::Borrowed).ok_or_else(|| EvalError::Value(format!("no weight @{index}")))
    }

    fn arg(&self, index: usize) -> Result<Cow<'_, Tensor>, EvalError> {
        self.args.get(index).map(Cow::Borrowed).ok_or_else(|| EvalError::Value(format!("no argument ${index}")))
    }

    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn cache(&self, index: usize) -> Option<&Tensor> {
        self.caches.get(index)
    }
}

/// Weights from a [`WeightSource`](crate::weights::WeightSource), ids from the caller.
pub struct SourceInputs<'s> {
    /// Where weights come from.
    pub source: &'s dyn crate::weights::WeightSource,
    /// Token ids.
    pub ids: Vec<u32>,
}

impl Inputs for SourceInputs<'_> {
    fn weight(&self, index: usize, declarations: &Declarations) -> Result<Cow<'_, Tensor>, EvalError> {
        let missing = || EvalError::Value(format!("no weight @{index}"));
        let decl = declarations.weights.get(index).ok_or_else(missing)?;
        let bytes = self.source.read(&decl.name).map_err(|e| EvalError::Value(e.problem))?;
        let shape: Vec<usize> = decl.shape.iter().map(|&n| n as usize).collect();
        let values = decl.dtype.decode(&bytes, shape.last().copied().unwrap_or(1));
        Ok(Cow::Owned(Tensor::new(shape, values)?))
    }

    fn arg(&self, index: usize) -> Result<Cow<'_, Tensor>, EvalError> {
        Err(EvalError::Value(format!("no argument ${index}")))
    }

    fn ids(&self) -> &[u32] {
        &self.ids
    }
}

/// A graph that cannot be evaluated on these inputs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// An input is missing or does not have its declared shape.
    #[error("{0}")]
    Value(String),
    /// An id that no row of the table has.
    #[error("id {id} is outside a table of {rows} rows")]
    Id {
        /// The id.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// A weight that cannot be rounded to a format.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// The values of the graph's outputs, in order.
///
/// # Errors
/// When inputs are missing or do not fit.
pub fn evaluate(graph: &Graph, inputs: &dyn Inputs) -> Result<Vec<Tensor>, EvalError> {
    let ids: Vec<Id> = graph.outputs().iter().map(|o| o.id).collect();
    let mut evaluator = Evaluator::new(graph, inputs, rows_of(graph, inputs)?);
    ids.into_iter().map(|id| evaluator.value(id)).collect()
}

/// The value of one node.
///
/// # Errors
/// When inputs are missing or do not fit.
pub fn evaluate_node(graph: &Graph, id: Id, inputs: &dyn Inputs) -> Result<Tensor, EvalError> {
    Evaluator::new(graph, inputs, rows_of(graph, inputs)?).value(id)
}

/// `tokens`: the number of ids, or what an argument's shape says.
fn rows_of(graph: &Graph, inputs: &dyn Inputs) -> Result<usize, EvalError> {
    for (i, arg) in graph.declarations().args.iter().enumerate() {
        if let Some(axis) = arg.shape.iter().position(|d| *d == Dim::TOKENS) {
            let value = inputs.arg(i)?;
            return value.shape.get(axis).copied().ok_or_else(|| EvalError::Value(format!("${i} has too few axes")));
        }
    }
    Ok(inputs.ids().len())
}

struct Evaluator<'g> {
    graph: &'g Graph,
    inputs: &'g dyn Inputs,
    tokens: usize,
    cached: usize,
    values: Vec<Option<Tensor>>,
}

/// What `acc` and `acc2` stand for inside a term.
#[derive(Clone, Copy)]
struct Accumulators<'t> {
    acc: &'t Tensor,
    acc2: Option<&'t Tensor>,
}

impl<'g> Evaluator<'g> {
    fn new(graph: &'g Graph, inputs: &'g dyn Inputs, tokens: usize) -> Self {
        let cached = inputs.cache(0).map_or(0, |t| t.shape.first().copied().unwrap_or(0));
        Evaluator { graph, inputs, tokens, cached, values: vec![None; graph.nodes().len()] }
    }

    fn sizes(&self) -> Sizes {
        Sizes { tokens: self.tokens as u64, context: (self.cached + self.tokens) as u64, sequences: 1 }
    }

    fn value(&mut self, id: Id) -> Result<Tensor, EvalError> {
        // Operands stand before users, so one pass in order needs no recursion whatever the depth of the model.
        let mut needed = vec![false; usize::from(id) + 1];
        needed[usize::from(id)] = true;
        for i in (0..=usize::from(id)).rev() {
            if needed[i] && self.values[i].is_none() {
                self.graph.nodes()[i].op.for_each(|c| needed[usize::from(c)] = true);
            }
        }
        for (i, needed) in needed.into_iter().enumerate() {
            let is_tensor = self.graph.nodes()[i].fact.tensor().is_some();
            if needed && is_tensor && self.values[i].is_none() {
                let value = self.compute(Id::from(i))?;
                self.values[i] = Some(value);
            }
        }
        self.get(id).cloned()
    }

    fn get(&self, id: Id) -> Result<&Tensor, EvalError> {
        self.values[usize::from(id)].as_ref().ok_or_else(|| EvalError::Value(format!("node {id} has no value")))
    }

    fn int(&self, id: Id) -> usize {
        match self.graph.node(id).fact {
            Fact::Int(i) => usize::try_from(i).unwrap_or(0),
            _ => 0,
        }
    }

    fn real(&self, id: Id) -> f64 {
        match self.graph.node(id).fact {
            Fact::Real(r) => f64::from(r.value()),
            _ => 0.0,
        }
    }

    fn compute(&self, id: Id) -> Result<Tensor, EvalError> {
        let node = self.graph.node(id);
        let value = match &node.op {
            Op::Weight(w) => self.inputs.weight(w.0 as usize, self.graph.declarations())?.into_owned(),
            Op::Arg(a) => self.inputs.arg(a.0 as usize)?.into_owned(),
            Op::Ids => Tensor::filled(vec![self.tokens], |i| self.inputs.ids().get(i).map_or(0.0, |&x| x as f32)),
            Op::Positions => Tensor::filled(vec![self.tokens], |i| (self.cached + i) as f32),
            Op::Add(_)
            | Op::Sub(_)
            | Op::Mul(_)
            | Op::Div(_)
            | Op::Gelu(_)
            | Op::GeluTanh(_)
            | Op::Silu(_)
            | Op::Relu(_)
            | Op::Tanh(_)
            | Op::Sigmoid(_) => self.pointwise(&node.op, None)?,
            Op::Fill([value, n]) => {
                let value = self.real(*value) as f32;
                Tensor::filled(vec![self.int(*n)], |_| value)
            }
            Op::MatMul([a, b]) => contract::matmul(self.get(*a)?, self.get(*b)?),
            Op::Transpose([x]) => reorder::transpose(self.get(*x)?),
            Op::Slice([x, axis, start, len]) => {
                reorder::slice(self.get(*x)?, self.int(*axis), self.int(*start), self.int(*len))
            }
            Op::Concat([axis, a, b]) => reorder::concat(self.get(*a)?, self.get(*b)?, self.int(*axis)),
            Op::Quantize([format, w]) => self.quantize(*format, self.get(*w)?)?,
            // The value of what is quantized is what it stands for.
            Op::Dequantize([w]) => self.get(*w)?.clone(),
            Op::Gather([table, index]) => reorder::gather(self.get(*table)?, self.get(*index)?)?,
            Op::GatherColumns([x, index]) => reorder::gather_columns(self.get(*x)?, self.get(*index)?),
            Op::SplitHeads([x, n]) => reorder::split_heads(self.get(*x)?, self.int(*n)),
            Op::MergeHeads([x]) => reorder::merge_heads(self.get(*x)?),
            Op::RepeatHeads([x, n]) => reorder::repeat_heads(self.get(*x)?, self.int(*n)),
            Op::Softmax([x]) => reduce::softmax(self.get(*x)?),
            Op::LayerNorm([x, eps, term]) => {
                self.term(*term, &reduce::layer_norm(self.get(*x)?, self.real(*eps)), None)?
            }
            Op::RmsNorm([x, eps, term]) => self.term(*term, &reduce::rms_norm(self.get(*x)?, self.real(*eps)), None)?,
            Op::L2Norm([x, eps, term]) => self.term(*term, &reduce::l2_norm(self.get(*x)?, self.real(*eps)), None)?,
            Op::BandMask([before, after, keys]) => self.band_mask(*before, *after, *keys)?,
            Op::Rope([x, positions, frequencies, heads, interleaved, scale]) => reduce::rope(
                self.get(*x)?,
                self.get(*positions)?,
                self.get(*frequencies)?,
                self.int(*heads),
                self.int(*interleaved) == 1,
                self.real(*scale),
            ),
            Op::HeadNorm([x, heads, eps, gain]) => {
                reduce::head_norm(self.get(*x)?, self.int(*heads), self.real(*eps), self.get(*gain)?)
            }
            Op::MeanPool([x]) => reduce::mean_pool(self.get(*x)?),
            Op::LastRow([x]) => reduce::last_row(self.get(*x)?),
            Op::Candidates([x, n]) => reduce::candidates(self.get(*x)?, self.int(*n)),
            Op::Append([cache, x]) => {
                let new = self.get(*x)?;
                let Op::Cache(c) = &self.graph.node(*cache).op else { return Ok(new.clone()) };
                let new = self.inputs.appended(c.0 as usize).unwrap_or(new);
                match self.cached {
                    0 => new.clone(),
                    1.. => {
                        let old = self.inputs.cache(c.0 as usize);
                        let old = old.ok_or_else(|| EvalError::Value(format!("cache {c} holds nothing")))?;
                        reorder::concat(old, new, 0)
                    }
                }
            }
            Op::FirstRow([x]) => reduce::first_row(self.get(*x)?),
            Op::MaxPool([x]) => reduce::max_pool(self.get(*x)?),
            Op::Linear([x, w, term]) => self.term(*term, &contract::linear(self.get(*x)?, self.get(*w)?), None)?,
            Op::HeadLinear([x, w, heads]) => contract::head_linear(self.get(*x)?, self.get(*w)?, self.int(*heads)),
            Op::LinearPair([x, a, b, term]) => {
                let (x, a, b) = (self.get(*x)?, self.get(*a)?, self.get(*b)?);
                self.term(*term, &contract::linear(x, a), Some(&contract::linear(x, b)))?
            }
            Op::Gained([rows, gain]) => reduce::gained(self.get(*rows)?, self.get(*gain)?),
            Op::ScaledLinearPair([x, eps, a, b, term]) => {
                let (x, a, b) = (self.get(*x)?, self.get(*a)?, self.get(*b)?);
                let columns = a.last();
                let scales = reduce::scales(x, columns, self.real(*eps));
                let rows = reorder::slice(x, 1, 0, columns);
                let scaled = |w: &Tensor| {
                    let mut product = contract::linear(&rows, w);
                    let width = product.last().max(1);
                    for (row, scale) in product.data.chunks_exact_mut(width).zip(&scales) {
                        row.iter_mut().for_each(|value| *value *= scale);
                    }
                    product
                };
                self.term(*term, &scaled(a), Some(&scaled(b)))?
            }
            Op::First([pair]) => match &self.graph.node(*pair).op {
                Op::GainedLinear([x, w, term, _]) => {
                    self.term(*term, &contract::linear(self.get(*x)?, self.get(*w)?), None)?
                }
                Op::NormedLinear([x, prologue, w, term]) => {
                    let x = self.prologue(*prologue, self.get(*x)?)?;
                    self.term(*term, &contract::linear(&x, self.get(*w)?), None)?
                }
                Op::NormedLinearPair([x, prologue, a, b, term]) => {
                    let x = self.prologue(*prologue, self.get(*x)?)?;
                    let (a, b) = (contract::linear(&x, self.get(*a)?), contract::linear(&x, self.get(*b)?));
                    self.term(*term, &a, Some(&b))?
                }
                Op::NormedRows([x, prologue]) => self.prologue(*prologue, self.get(*x)?)?,
                other => return Err(EvalError::Value(format!("{other} has one result"))),
            },
            Op::Second([pair]) => match &self.graph.node(*pair).op {
                Op::GainedLinear([x, w, term, gain]) => {
                    let rows = self.term(*term, &contract::linear(self.get(*x)?, self.get(*w)?), None)?;
                    reduce::gained(&rows, self.get(*gain)?)
                }
                Op::NormedLinear([x, prologue, ..])
                | Op::NormedLinearPair([x, prologue, ..])
                | Op::NormedRows([x, prologue]) => {
                    let mut first = *prologue;
                    if let Op::Then([of_two, _]) = self.graph.node(first).op {
                        first = of_two;
                    }
                    self.prologue(first, self.get(*x)?)?
                }
                other => return Err(EvalError::Value(format!("{other} has one result"))),
            },
            Op::Scores([q, k, heads, kv_heads, term]) => {
                let raw = contract::scores(self.get(*q)?, self.get(*k)?, self.int(*heads), self.int(*kv_heads));
                self.term(*term, &raw, None)?
            }
            Op::Attention([q, k, v, heads, kv_heads, term]) => {
                let (heads, kv_heads) = (self.int(*heads), self.int(*kv_heads));
                let raw = contract::scores(self.get(*q)?, self.get(*k)?, heads, kv_heads);
                let weights = reduce::softmax(&self.term(*term, &raw, None)?);
                let v = reorder::repeat_heads(&reorder::split_heads(self.get(*v)?, kv_heads), heads / kv_heads);
                reorder::merge_heads(&contract::matmul(&weights, &v))
            }
            Op::Int(_)
            | Op::Real(_)
            | Op::Size(_)
            | Op::Format(_)
            | Op::Cache(_)
            | Op::Acc
            | Op::Acc2
            | Op::NormedRows(_)
            | Op::GainedLinear(_)
            | Op::NormedLinear(_)
            | Op::NormedLinearPair(_)
            | Op::Rms(_)
            | Op::Layer(_)
            | Op::Then(_) => {
                return Err(EvalError::Value(format!("{} has no value of its own", node.op)));
            }
        };
        Ok(value)
    }

    /// The nearest values that a format has.
    fn quantize(&self, format: Id, w: &Tensor) -> Result<Tensor, EvalError> {
        let Fact::Format(format) = self.graph.node(format).fact else {
            return Err(EvalError::Value("quantize without a format".into()));
        };
        let stored = format.pack(&w.data, w.last())?;
        Ok(Tensor { shape: w.shape.clone(), data: format.unpack(&stored, w.last()) })
    }

    /// The rows of `x` after a prologue.
    fn prologue(&self, prologue: Id, x: &Tensor) -> Result<Tensor, EvalError> {
        match self.graph.node(prologue).op {
            Op::Rms([eps, term]) => self.term(term, &reduce::rms_norm(x, self.real(eps)), None),
            Op::Layer([eps, term]) => self.term(term, &reduce::layer_norm(x, self.real(eps)), None),
            Op::Then([first, second]) => self.prologue(second, &self.prologue(first, x)?),
            ref other => Err(EvalError::Value(format!("{other} is no prologue"))),
        }
    }

    fn band_mask(&self, before: Id, after: Id, keys: Id) -> Result<Tensor, EvalError> {
        let bound = |id: Id| match self.graph.node(id).fact {
            Fact::Int(i) if i >= 0 => i,
            _ => i64::MAX,
        };
        let keys = match self.graph.node(keys).fact {
            Fact::Size(d) => d.eval(self.sizes()).unwrap_or(0) as usize,
            _ => return Err(EvalError::Value("band-mask without a number of keys".into())),
        };
        let (before, after) = (bound(before), bound(after));
        // With a cache, the new rows are the last ones of the context.
        let first = (keys - self.tokens.min(keys)) as i64;
        Ok(Tensor::filled(vec![self.tokens, keys], |at| {
            let (i, j) = (first + (at / keys) as i64, (at % keys) as i64);
            if (i - j) <= before && (j - i) <= after { 0.0 } else { f32::NEG_INFINITY }
        }))
    }
}
