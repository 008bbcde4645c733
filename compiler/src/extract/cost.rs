//! What a node costs: the predicted time of the kernel that it would become, the best of its candidates on the target.
//!
//! The prediction is that of the choice between kernels ([`Rates::seconds`](crate::target::Rates::seconds)), so what is
//! fused is what is faster with the tile that it would get.
//!
//! A node that needs no dispatch (attributes, terms, column windows, what is computed when the plan is packed) costs next
//! to nothing, but never zero, so that of two equal programs the shorter one is taken.

use std::cell::RefCell;

use egg::{Id, Language};
use rustc_hash::{FxHashMap, FxHashSet};
use warpweft_plan::{CacheFormat, CacheRows, Dim, Keys};

use super::normed;
use crate::formats::Format;
use crate::graph::{Fact, Op, Shape, TensorFact};
use crate::kernels::RowRange;
use crate::kernels::cached;
use crate::kernels::codes;
use crate::kernels::columns;
use crate::kernels::cost::attention::AttentionShape;
use crate::kernels::cost::integer::IntegerShape;
use crate::kernels::cost::linear::{LinearShape, Moments, NormShape, PerHeadShape};
use crate::kernels::cost::rowwise::RowShape;
use crate::kernels::cost::{Launch, cheapest};
use crate::kernels::heads;
use crate::kernels::spec::{Pool, Rows};
use crate::rules::EGraph;
use crate::target::Target;

/// A target at a range of rows.
#[derive(Clone, Debug)]
pub struct CostModel<'w> {
    target: &'w Target,
    rows: RowRange,
    /// How caches are stored.
    cache: CacheFormat,
    /// Each program of the body computes all of its outputs, so that one kernel may make several.
    whole: bool,
    /// Classes of weights that other programs of this body read already; any other pays for its bytes.
    stored: Option<&'w FxHashSet<Id>>,
    /// Contractions that were asked for: many nodes have the same sizes.
    known: RefCell<FxHashMap<LinearKey, f64>>,
}

/// The sizes of a contraction, its format, whether x is codes and whether it is an image.
type LinearKey = (u32, u32, (Format, bool, bool), u32, [i64; 2], RowRange);

/// A contraction's operands: its result, what it reads, its weight, how many of those, its term.
struct Contraction<'f> {
    result: &'f TensorFact,
    x: &'f TensorFact,
    /// x is made in the same body.
    made: bool,
    w: &'f TensorFact,
    weights: u32,
    term: &'f Fact,
    norm: Option<NormShape>,
    moments: Option<Moments>,
}

/// What a node that needs no dispatch costs, in dispatches.
const FREE: f64 = 1e-6;

/// How often a second copy of a weight is paid for as if a dispatch read it: memory is dearer than time.
const SECOND_COPY: f64 = 16.0;

impl<'w> CostModel<'w> {
    /// The costs of a program for that range of rows, with caches of that format. `whole` says that each program of the
    /// body computes all of its outputs, so that one kernel may make several; `stored` are the classes of weights that
    /// other programs of the body read already, if there are other programs.
    pub fn new(
        target: &'w Target,
        rows: RowRange,
        cache: CacheFormat,
        whole: bool,
        stored: Option<&'w FxHashSet<Id>>,
    ) -> CostModel<'w> {
        CostModel { target, rows, cache, whole, stored, known: RefCell::default() }
    }

    /// The same for another range of rows.
    pub fn at(&self, rows: RowRange) -> CostModel<'w> {
        CostModel::new(self.target, rows, self.cache, self.whole, self.stored)
    }

    /// The rows for which costs are predicted.
    pub fn rows(&self) -> RowRange {
        self.rows
    }

    /// What a node that is a dispatch costs at the least, in seconds.
    pub(super) fn dispatch(&self) -> f64 {
        self.target.rates.dispatch
    }

    /// Seconds of this node of `class` alone, its operands being there; `None` if no kernel computes it.
    pub fn node(&self, egraph: &EGraph, class: Id, node: &Op) -> Option<f64> {
        let fact = |id: Id| egraph[id].data.as_ref().ok();
        let free = Some(self.target.rates.dispatch * FREE);
        let result = match fact(class)? {
            Fact::Tensor(t) if !t.constant => t,
            Fact::Pair(product, _) => product,
            Fact::Tensor(_) | Fact::Term(_) | Fact::Prologue(_) => return free,
            Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => return free,
        };
        let tensor = |id: &Id| fact(*id).and_then(Fact::tensor);
        let made = |id: &Id| !egraph[*id].nodes.iter().any(|node| matches!(node, Op::Arg(_)));
        let int = |id: &Id| match fact(*id) {
            Some(Fact::Int(n)) => u32::try_from(*n).ok(),
            _ => None,
        };
        let seconds = match node {
            Op::Ids | Op::Positions | Op::Arg(_) | Op::Cache(_) | Op::BandMask(_) => return free,
            Op::Second(_) if !self.whole => return None,
            Op::Slice(_) | Op::First(_) | Op::Second(_) | Op::Rms(_) | Op::Layer(_) | Op::Then(_) => return free,
            Op::Int(_) | Op::Real(_) | Op::Weight(_) | Op::Fill(_) | Op::Acc | Op::Acc2 | Op::Size(_) => {
                return free;
            }
            Op::Add(_) | Op::Sub(_) | Op::Mul(_) | Op::Div(_) | Op::Gelu(_) | Op::GeluTanh(_) | Op::Silu(_) => {
                self.rowwise(result, operands(egraph, node, result), |shape| Some(shape.map()))?
            }
            Op::Relu(_) | Op::Tanh(_) | Op::Sigmoid(_) => {
                self.rowwise(result, operands(egraph, node, result), |shape| Some(shape.map()))?
            }
            // Only the rows that are asked for are read.
            Op::Gather([table, _]) => {
                let bytes = row_bytes(tensor(table)?)?;
                self.rowwise(result, [bytes, 0], |shape| Some(shape.map()))?
            }
            Op::GatherColumns([x, _]) => {
                let operands = columns::operands(width(tensor(x)?)?, width(result)?);
                self.rowwise(result, operands, |shape| Some(shape.map()))?
            }
            Op::LayerNorm(_) | Op::RmsNorm(_) | Op::L2Norm(_) => {
                let shape = row_shape(result, operands(egraph, node, result))?;
                cheapest(&shape.norms(self.target, self.range(result)))?
            }
            // What norms by head and appends add to the same kernel is counted as if each were a map.
            Op::Rope([x, _, _, heads, ..]) => {
                let launch = heads::launch(int(heads)?, u32::try_from(width(tensor(x)?)?).ok()?, self.target);
                let bytes = Dim::TOKENS * (8 * width(result)?);
                launch.seconds(&self.target.rates, bytes, self.range(result).sizes(rows_of(result)?))
            }
            Op::HeadNorm(_) => self.rowwise(result, operands(egraph, node, result), |shape| Some(shape.map()))?,
            // Only the new rows are written.
            Op::Append([_, x]) => {
                let x = tensor(x)?;
                self.rowwise(x, [4 * width(x)?, 0], |shape| Some(shape.map()))?
            }
            Op::Candidates([x, _]) => self.rowwise(tensor(x)?, [0, 0], |shape| Some(shape.map()))?,
            Op::MeanPool(_) | Op::MaxPool(_) => self.rowwise(result, [0, 0], |shape| Some(shape.pool(Pool::Mean)))?,
            Op::FirstRow(_) | Op::LastRow(_) => self.rowwise(result, [0, 0], |shape| Some(shape.pool(Pool::First)))?,
            Op::Linear(_)
            | Op::LinearPair(_)
            | Op::NormedLinear(_)
            | Op::NormedLinearPair(_)
            | Op::NormedRows(_)
            | Op::GainedLinear(_)
            | Op::ScaledLinearPair(_)
                if normed::storage_buffers(egraph, node) > self.target.limits.storage_buffers as usize =>
            {
                return None;
            }
            Op::NormedRows([_, prologue]) => {
                let Some(Fact::Prologue(prologue)) = fact(*prologue) else { return None };
                let width = width(result)?;
                let [row, once] = shapes_bytes(prologue.operands.iter(), width);
                let shape = RowShape { twice: true, ..row_shape(result, [4 * width + row, once])? };
                cheapest(&shape.norms(self.target, self.range(result)))?
            }
            Op::Linear([x, w, term]) => {
                let (made, x, w, term) = (made(x), tensor(x)?, tensor(w)?, fact(*term)?);
                self.linear(&Contraction { result, x, made, w, weights: 1, term, norm: None, moments: None })?
            }
            Op::LinearPair([x, w, _, term]) => {
                let (made, x, w, term) = (made(x), tensor(x)?, tensor(w)?, fact(*term)?);
                self.linear(&Contraction { result, x, made, w, weights: 2, term, norm: None, moments: None })?
            }
            Op::NormedLinear([x, prologue, w, term]) => {
                let (made, x, w, term) = (made(x), tensor(x)?, tensor(w)?, fact(*term)?);
                let norm = self.norm(egraph, *prologue, x);
                self.linear(&Contraction { result, x, made, w, weights: 1, term, norm: Some(norm?), moments: None })?
            }
            Op::NormedLinearPair([x, prologue, w, _, term]) => {
                let (made, x, w, term) = (made(x), tensor(x)?, tensor(w)?, fact(*term)?);
                let norm = self.norm(egraph, *prologue, x);
                self.linear(&Contraction { result, x, made, w, weights: 2, term, norm: Some(norm?), moments: None })?
            }
            Op::GainedLinear([x, w, term, _]) => {
                let (made, x, w, term) = (made(x), tensor(x)?, tensor(w)?, fact(*term)?);
                let moments = Some(Moments::Left);
                self.linear(&Contraction { result, x, made, w, weights: 1, term, norm: None, moments })?
            }
            Op::ScaledLinearPair([x, _, w, _, term]) => {
                let (made, x, w, term) = (made(x), tensor(x)?, tensor(w)?, fact(*term)?);
                let moments = Some(Moments::Read);
                self.linear(&Contraction { result, x, made, w, weights: 2, term, norm: None, moments })?
            }
            Op::HeadLinear([x, w, heads]) => {
                let heads = int(heads)?.max(1);
                let columns = |t: &TensorFact| Some(u32::try_from(width(t)?).ok()? / heads);
                let shape = PerHeadShape {
                    heads,
                    k: columns(tensor(x)?)?,
                    n: columns(result)?,
                    format: tensor(w)?.dtype.format()?,
                    rows: rows_of(result)?,
                    images: self.target.images > 0,
                };
                let sizes = self.range(result).sizes(shape.rows);
                shape.launch().seconds(&self.target.rates, shape.bytes(), sizes)
            }
            Op::Attention([of_q, of_k, of_v, heads, kv_heads, _]) => {
                let (q, k, v) = (tensor(of_q)?, tensor(of_k)?, tensor(of_v)?);
                let (heads, kv_heads) = (int(heads)?, int(kv_heads)?);
                let columns = |t: &TensorFact, heads: u32| Some(u32::try_from(width(t)?).ok()? / heads.max(1));
                let cached = k.shape.first() == Some(&Dim::CONTEXT);
                let caches = match cached {
                    true => Some([self.cache_of(egraph, *of_k, kv_heads)?, self.cache_of(egraph, *of_v, kv_heads)?]),
                    false => None,
                };
                let sizes = self.rows.cached_sizes();
                // One row's context is cut into chunks where heads don't occupy the device.
                let cut = cached && self.rows.max == Some(1) && heads < self.target.uncut().places;
                let split = cut.then(|| cached::chunks(sizes.context));
                let shape = AttentionShape {
                    heads,
                    kv_heads,
                    head_dim: columns(q, heads)?,
                    value_dim: columns(v, kv_heads)?,
                    // What a term masks is not among its facts.
                    keys: Keys { causal: cached, most: split.map(|split| split.keys) },
                    windowed: false,
                    caches,
                    fresh: false,
                    split,
                };
                match cached {
                    true => cheapest(&shape.cached_candidates(self.target, self.rows))?,
                    false => cheapest(&shape.candidates(self.target, self.rows))?,
                }
            }
            Op::Quantize([_, x]) => {
                let x = tensor(x)?;
                let shape = codes::quantize_shape(u32::try_from(width(x)?).ok()?, rows_of(x)?);
                shape.quantize().seconds(&self.target.rates, shape.bytes(), self.range(x).sizes(shape.rows))
            }
            Op::Dequantize(_) => {
                let shape = codes::dequantize_shape(u32::try_from(width(result)?).ok()?, rows_of(result)?);
                shape.map().seconds(&self.target.rates, shape.bytes(), self.range(result).sizes(shape.rows))
            }
            Op::Format(_) => return free,
            Op::MatMul(_) | Op::Transpose(_) | Op::Concat(_) | Op::SplitHeads(_) | Op::MergeHeads(_) => return None,
            Op::RepeatHeads(_) | Op::Softmax(_) | Op::Scores(_) | Op::Gained(_) => return None,
        };
        Some(seconds + self.second_copies(egraph, node) + self.widened(egraph, node))
    }

    /// The rows of the cache that `id` is, or columns of: as attention with so many heads has them.
    fn cache_of(&self, egraph: &EGraph, id: Id, heads: u32) -> Option<CacheRows> {
        let columns = |id: Id| width(egraph[id].data.as_ref().ok()?.tensor()?);
        let (mut whole, mut found) = (id, columns(id)?);
        // Each is wider than the last, so that this ends in a circle too.
        while let Some((wider, width)) = egraph[whole].nodes.iter().find_map(|node| {
            let Op::Slice([x, ..]) = node else { return None };
            columns(*x).filter(|&width| width > found).map(|width| (*x, width))
        }) {
            (whole, found) = (wider, width);
        }
        Some(CacheRows { format: self.cache, heads, columns: u32::try_from(found).ok()?.checked_div(heads)? })
    }

    /// A quantized weight that is read as floats would be stored as wide as it is not.
    fn widened(&self, egraph: &EGraph, node: &Op) -> f64 {
        let is_decoded = |c: &&Id| egraph[**c].nodes.iter().any(|n| matches!(n, Op::Dequantize(_)));
        let floats = node.children().iter().filter(is_decoded);
        let weights = floats.filter_map(|c| egraph[*c].data.as_ref().ok()?.tensor()).filter(|t| t.constant);
        weights.map(|weight| self.copy(weight)).sum()
    }

    /// A layout of a weight that no other program reads has to be stored and fetched beside the others.
    fn second_copies(&self, egraph: &EGraph, node: &Op) -> f64 {
        let Some(stored) = self.stored else { return 0.0 };
        let new = node.children().iter().filter(|c| !stored.contains(&egraph.find(**c)));
        let weights = new.filter_map(|c| egraph[*c].data.as_ref().ok()?.tensor().filter(|t| t.constant));
        weights.map(|weight| self.copy(weight)).sum()
    }

    /// What storing a weight once more costs.
    fn copy(&self, weight: &TensorFact) -> f64 {
        let rows = weight.shape.iter().rev().skip(1).map(|d| d.as_constant().unwrap_or(0) as f64).product::<f64>();
        let bytes = rows * row_bytes(weight).unwrap_or(0) as f64;
        SECOND_COPY * (self.target.rates.dispatch + bytes / self.target.rates.bandwidth)
    }

    /// How many rows a result has: those of the step, its sequences, or where they are those of a cache, some hundred.
    fn range(&self, t: &TensorFact) -> RowRange {
        match rows_of(t) {
            _ if t.shape.first() == Some(&Dim::CONTEXT) => {
                let rows = u32::try_from(self.rows.cached_sizes().context).unwrap_or(u32::MAX);
                RowRange { min: rows, max: Some(rows) }
            }
            Some(rows) => rows.range(self.rows),
            None => self.rows,
        }
    }

    fn norm(&self, egraph: &EGraph, prologue: Id, x: &TensorFact) -> Option<NormShape> {
        let (cost, afterwards) = normed::cost(egraph, prologue)?;
        let Ok(Fact::Prologue(fact)) = &egraph[prologue].data else { return None };
        Some(NormShape { cost, afterwards, operands: shapes_bytes(fact.operands.iter(), width(x)?) })
    }

    fn linear(&self, contraction: &Contraction<'_>) -> Option<f64> {
        let Contraction { result, x, made, w, weights, term, norm, moments } = *contraction;
        // Rows of a cache are spread over its pages, which attention alone finds.
        if result.shape.first() == Some(&Dim::CONTEXT) {
            return None;
        }
        let shape = LinearShape {
            k: u32::try_from(width(w)?).ok()?,
            n: u32::try_from(width(result)?).ok()?,
            format: w.dtype.format()?,
            weights,
            norm,
            moments,
            operands: term_operands(term, width(result)?),
            rows: rows_of(result)?,
            images: self.target.images > 0,
            // What comes from elsewhere is none, nor what has its moments behind it, nor a residual, which is normalized.
            image_of_x: self.target.images > 0 && made && norm.is_none() && moments != Some(Moments::Read),
            looped: self.target.int64,
        };
        let of_codes = x.dtype.is_quantized();
        let key =
            (shape.k, shape.n, (shape.format, of_codes, shape.image_of_x), weights, shape.operands, self.range(result));
        // Those with norms or moments are few.
        let plain = norm.is_none() && moments.is_none();
        if let Some(&seconds) = self.known.borrow().get(&key).filter(|_| plain) {
            return Some(seconds);
        }
        let rows = self.range(result);
        let seconds = match of_codes {
            true => cheapest(&IntegerShape(shape).candidates(self.target, rows))?,
            false => cheapest(&shape.candidates(self.target, rows))?,
        };
        // A weight above the limit of a binding becomes windows, a dispatch each.
        let bytes = shape.format.row_bytes(shape.k as usize) as u64 * u64::from(shape.n);
        let windows = bytes.div_ceil(self.target.limits.binding_bytes).max(1);
        if windows > 1 && moments == Some(Moments::Left) {
            return None;
        }
        let seconds = seconds + (windows - 1) as f64 * self.target.rates.dispatch;
        if plain {
            self.known.borrow_mut().insert(key, seconds);
        }
        Some(seconds)
    }

    fn rowwise(
        &self,
        rows: &TensorFact,
        operands: [i64; 2],
        launch: impl Fn(&RowShape) -> Option<Launch>,
    ) -> Option<f64> {
        let shape = row_shape(rows, operands)?;
        let sizes = self.range(rows).sizes(shape.rows);
        Some(launch(&shape)?.seconds(&self.target.rates, shape.bytes(), sizes))
    }
}

fn row_shape(rows: &TensorFact, operands: [i64; 2]) -> Option<RowShape> {
    Some(RowShape { width: u32::try_from(width(rows)?).ok()?, operands, rows: rows_of(rows)?, twice: false })
}

fn rows_of(t: &TensorFact) -> Option<Rows> {
    match *t.shape.first()? {
        d if d == Dim::SEQUENCES => Some(Rows::Sequences),
        // What has neither is computed once, and counts as one row for each token.
        _ => Some(Rows::Tokens),
    }
}

fn width(t: &TensorFact) -> Option<i64> {
    t.shape.last()?.as_constant()
}

/// Bytes of a row of a weight.
fn row_bytes(t: &TensorFact) -> Option<i64> {
    i64::try_from(t.dtype.row_bytes(u64::try_from(width(t)?).ok()?)).ok()
}

/// Bytes that a node reads for each row of its result, and for all.
fn operands(egraph: &EGraph, node: &Op, result: &TensorFact) -> [i64; 2] {
    let width = width(result).unwrap_or(0);
    node.children().iter().filter_map(|c| egraph[*c].data.as_ref().ok()).fold([0, 0], |[row, once], fact| match fact {
        Fact::Tensor(t) if t.constant => [row, once + 4 * width],
        Fact::Tensor(_) => [row + 4 * width, once],
        Fact::Term(_) => {
            let [more, all] = term_operands(fact, width);
            [row + more, once + all]
        }
        Fact::Prologue(_) | Fact::Pair(..) => [row, once],
        Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => [row, once],
    })
}

/// The same for the tensors of a term over rows of `width`.
fn term_operands(term: &Fact, width: i64) -> [i64; 2] {
    let Fact::Term(term) = term else { return [0, 0] };
    shapes_bytes(term.operands.iter(), width)
}

fn shapes_bytes<'s>(shapes: impl Iterator<Item = &'s Shape>, width: i64) -> [i64; 2] {
    shapes.fold([0, 0], |[row, once], shape| match shape.first().and_then(|d| d.as_constant()) {
        Some(_) => [row, once + 4 * width],
        None => [row + 4 * width, once],
    })
}
