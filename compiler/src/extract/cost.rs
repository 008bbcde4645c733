//! What a node costs: time on a target.
//!
//! ```text
//! time = max(bytes / bandwidth, multiply-adds / rate) + one dispatch
//! ```
//!
//! A node that needs no dispatch (attributes, terms, column windows, what is computed when the plan is packed) costs next
//! to nothing, but never zero, so that of two equal programs the shorter one is taken.

use egg::{Id, Language};
use rustc_hash::FxHashSet;
use warpweft_plan::{Dim, Sizes};

use super::normed;
use crate::graph::{Element, Fact, Op, TensorFact};
use crate::rules::EGraph;

/// A target's rates at a number of rows.
#[derive(Clone, Debug)]
pub struct CostModel<'w> {
    /// Bytes per second.
    pub bandwidth: f64,
    /// Multiply-adds per second.
    pub fmas: f64,
    /// Seconds of a dispatch.
    pub dispatch: f64,
    /// Rows of the step that the program is made for.
    pub tokens: u64,
    /// What a load of 16 bytes costs a lane, in multiply-adds.
    pub load: f64,
    /// The same where nothing else is to be done meanwhile.
    pub scattered_load: f64,
    /// Columns of a contraction that one workgroup makes: for so many, a row is normalised once more.
    pub columns: u32,
    /// Each program of the body computes all of its outputs, so that one kernel may make several.
    pub whole: bool,
    /// Storage buffers of one kernel.
    pub storage_buffers: usize,
    /// Classes of weights that other programs of this body read already; any other pays for its bytes.
    pub stored: Option<&'w FxHashSet<Id>>,
}

/// What a node that needs no dispatch costs, in dispatches.
const FREE: f64 = 1e-6;

/// How often a second copy of a weight is paid for as if it were read: memory is dearer than time.
const SECOND_COPY: f64 = 16.0;

impl CostModel<'_> {
    /// Seconds of this node of `class` alone, its operands being there; `None` if no kernel computes it.
    pub fn node(&self, egraph: &EGraph, class: Id, node: &Op) -> Option<f64> {
        let fact = |id: Id| egraph[id].data.as_ref().ok();
        let free = Some(self.dispatch * FREE);
        let result = match fact(class)? {
            Fact::Tensor(t) if !t.constant => t,
            Fact::Pair(product, _) => product,
            Fact::Tensor(_) | Fact::Term(_) | Fact::Prologue(_) => return free,
            Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => return free,
        };
        let tensors: Vec<(Id, &TensorFact)> =
            node.children().iter().filter_map(|&c| Some((c, fact(c)?.tensor()?))).collect();
        let moved: f64 = self.bytes(result) + tensors.iter().map(|(_, t)| self.bytes(t)).sum::<f64>();
        let second_copy: f64 = tensors
            .iter()
            .filter(|(id, t)| t.constant && self.stored.is_some_and(|s| !s.contains(&egraph.find(*id))))
            .map(|(_, t)| SECOND_COPY * self.bytes(t))
            .sum();
        let operands: f64 = node.children().iter().filter_map(|&c| fact(c)).map(|f| self.operand_bytes(f)).sum();
        let size = |t: &TensorFact| self.elements(&t.shape);
        let mut first = 0.0;
        let fmas = match node {
            Op::Ids | Op::Positions | Op::Arg(_) | Op::Cache(_) | Op::BandMask(_) => return free,
            Op::Second(_) if !self.whole => return None,
            Op::Slice(_) | Op::First(_) | Op::Second(_) => return free,
            Op::Add(_) | Op::Sub(_) | Op::Mul(_) | Op::Div(_) => size(result),
            Op::Gelu(_) | Op::GeluTanh(_) | Op::Silu(_) | Op::Relu(_) | Op::Tanh(_) | Op::Sigmoid(_) => size(result),
            Op::Gather(_) => return Some(self.dispatch + 2.0 * self.bytes(result) / self.bandwidth),
            Op::LayerNorm(_) | Op::RmsNorm(_) | Op::L2Norm(_) => 4.0 * size(result),
            Op::Rope(_) | Op::HeadNorm(_) => 4.0 * size(result),
            // Only the new rows are written.
            Op::Append([_, x]) => {
                return Some(self.dispatch + 2.0 * fact(*x)?.tensor().map_or(0.0, |t| self.bytes(t)) / self.bandwidth);
            }
            Op::Candidates(_) => tensors.iter().map(|(_, t)| size(t)).sum(),
            Op::LastRow(_) => return Some(self.dispatch + 2.0 * self.bytes(result) / self.bandwidth),
            Op::MeanPool(_) | Op::FirstRow(_) | Op::MaxPool(_) => tensors.iter().map(|(_, t)| size(t)).sum(),
            Op::Linear(_) | Op::LinearPair(_) | Op::NormedLinear(_) | Op::NormedLinearPair(_) => {
                if normed::storage_buffers(egraph, node) > self.storage_buffers {
                    return None;
                }
                let rows = self.elements(&result.shape[..1]);
                if let Op::NormedLinear([x, prologue, ..]) | Op::NormedLinearPair([x, prologue, ..]) = node {
                    let passes = rows * (self.elements(&result.shape[1..]) / f64::from(self.columns)).ceil();
                    let fours = passes * self.elements(&fact(*x)?.tensor()?.shape[1..]) / 4.0;
                    first = fours
                        * normed::cost_of_four(egraph, *prologue, [self.load, self.scattered_load], rows == 1.0)?
                        / self.fmas;
                }
                tensors.iter().skip(1).map(|(_, t)| size(t) * rows).sum()
            }
            Op::HeadLinear([_, _, heads]) => match fact(*heads)? {
                Fact::Int(heads) => size(tensors.first()?.1) * self.value(result.shape[1]) / *heads as f64,
                _ => return None,
            },
            // Each query meets each key twice: for its score and for its value.
            Op::Attention([_, k, ..]) => {
                let keys = fact(*k)?.tensor()?.shape.first().copied().unwrap_or_default();
                2.0 * size(result) * self.value(keys)
            }
            Op::Int(_) | Op::Real(_) | Op::Weight(_) | Op::Fill(_) | Op::Acc | Op::Acc2 | Op::Size(_) => return free,
            Op::Rms(_) | Op::Layer(_) | Op::Then(_) | Op::Format(_) => return free,
            Op::Quantize(_) | Op::Dequantize(_) => return free,
            Op::MatMul(_) | Op::Transpose(_) | Op::Concat(_) | Op::SplitHeads(_) | Op::MergeHeads(_) => return None,
            Op::RepeatHeads(_) | Op::Softmax(_) | Op::Scores(_) | Op::GatherColumns(_) => return None,
        };
        let bytes = moved + operands + second_copy;
        Some(self.dispatch + first + (bytes / self.bandwidth).max(fmas / self.fmas))
    }

    fn operand_bytes(&self, fact: &Fact) -> f64 {
        match fact {
            Fact::Term(t) => t.operands.iter().map(|shape| 4.0 * self.elements(shape)).sum(),
            Fact::Prologue(p) => p.operands.iter().map(|shape| 4.0 * self.elements(shape)).sum(),
            Fact::Pair(..)
            | Fact::Tensor(_)
            | Fact::Int(_)
            | Fact::Real(_)
            | Fact::Size(_)
            | Fact::Cache(_)
            | Fact::Format(_) => 0.0,
        }
    }

    fn bytes(&self, t: &TensorFact) -> f64 {
        match t.dtype {
            Element::Plain(dtype) => dtype.bytes() as f64 * self.elements(&t.shape),
            Element::Quantized(_) => {
                let (width, rows) =
                    t.shape.split_last().map_or((0.0, 0.0), |(w, r)| (self.value(*w), self.elements(r)));
                rows * t.dtype.row_bytes(width as u64) as f64
            }
        }
    }

    fn elements(&self, shape: &[Dim]) -> f64 {
        shape.iter().map(|&d| self.value(d)).product()
    }

    fn value(&self, dim: Dim) -> f64 {
        // Where rows are cached, some hundred are.
        let context = self.tokens.max(512);
        let sizes = Sizes { tokens: self.tokens, context, sequences: self.tokens.div_ceil(128) };
        dim.eval(sizes).unwrap_or(0) as f64
    }
}
