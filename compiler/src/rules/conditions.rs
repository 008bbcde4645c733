//! What a rule may ask about the things that it matched.

use egg::{Subst, Var};
use warpweft_plan::{DType, Dim};

use super::{EGraph, var};
use crate::graph::{Fact, Op, TensorFact};

/// A condition on matched variables, all of which must hold for the rule to fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A matrix made of weights alone, of numbers that are not those of a quantized weight: that is contracted as it is.
    WeightMatrix(Var),
    /// Not made of weights alone.
    Activation(Var),
    /// No transpose is known for it, so that a stored `[in, out]` weight is told from a transposed one.
    NotTransposed(Var),
    /// A scalar, a constant vector or a matrix that a kernel whose result is `like · weightᵀ` can read at each element.
    EpilogueOperand {
        /// The operand.
        operand: Var,
        /// The contraction's weight, `[n, k]`.
        weight: Var,
    },
    /// The same for a kernel whose result has the shape of `like`.
    Elementwise {
        /// The operand.
        operand: Var,
        /// Has the result's shape.
        like: Var,
    },
    /// A scalar or a mask: what an attention kernel can add to a score.
    ScoreOperand(Var),
    /// Equal shapes of equal elements.
    SameShape(Var, Var),
    /// Equal elements: numbers of one type, or rows of one format.
    SameElements(Var, Var),
    /// It is not quantized.
    Numbers(Var),
    /// Signed bytes with scales, of weights or of activations.
    Integers(Var),
    /// A constant vector as long as the weight's inner axis.
    ColumnScale {
        /// The vector.
        scale: Var,
        /// The weight, `[n, k]`.
        weight: Var,
    },
    /// A weight `[n, k]` with more rows than columns: what it makes is wider than what it reads.
    Widens(Var),
    /// A tensor of f32: what a product with f32 can replace without taking more bytes.
    Wide(Var),
    /// A scalar.
    Scalar(Var),
    /// The first, a number of heads, is the second times the third.
    Product(Var, Var, Var),
    /// An integer of this value.
    Equals(Var, i64),
    /// A constant vector `[n]`.
    ConstantVector(Var),
}

impl Condition {
    pub(super) fn weight_matrix(name: &'static str) -> Condition {
        Condition::WeightMatrix(var(name))
    }

    pub(super) fn activation(name: &'static str) -> Condition {
        Condition::Activation(var(name))
    }

    /// Whether it holds for a match.
    pub fn holds(&self, egraph: &EGraph, subst: &Subst) -> bool {
        let fact = |v: &Var| egraph[subst[*v]].data.as_ref().ok();
        let tensor = |v: &Var| fact(v).and_then(Fact::tensor);
        match self {
            Condition::WeightMatrix(w) => {
                let quantized = || egraph[subst[*w]].nodes.iter().any(|n| matches!(n, Op::Dequantize(_)));
                tensor(w).is_some_and(|t| t.constant && t.shape.len() == 2) && !quantized()
            }
            Condition::Activation(x) => tensor(x).is_some_and(|t| !t.constant && t.shape.len() == 2),
            Condition::NotTransposed(w) => !egraph[subst[*w]].nodes.iter().any(|n| matches!(n, Op::Transpose(_))),
            Condition::EpilogueOperand { operand, weight } => {
                let width = tensor(weight).and_then(|t| t.shape.first().copied());
                width.zip(fact(operand)).is_some_and(|(width, o)| reads_at_element(o, width))
            }
            Condition::Elementwise { operand, like } => {
                let width = tensor(like).and_then(|t| t.shape.last().copied());
                width.zip(fact(operand)).is_some_and(|(width, o)| reads_at_element(o, width))
            }
            Condition::ScoreOperand(o) => {
                let is_mask = || egraph[subst[*o]].nodes.iter().any(|n| matches!(n, Op::BandMask(_)));
                matches!(fact(o), Some(Fact::Real(_))) || is_mask()
            }
            Condition::SameShape(a, b) => {
                tensor(a).zip(tensor(b)).is_some_and(|(a, b)| (&a.shape, a.dtype) == (&b.shape, b.dtype))
            }
            Condition::SameElements(a, b) => tensor(a).zip(tensor(b)).is_some_and(|(a, b)| a.dtype == b.dtype),
            Condition::Integers(v) => tensor(v).is_some_and(|t| t.dtype.is_integers()),
            Condition::Numbers(v) => tensor(v).is_some_and(|t| !t.dtype.is_quantized()),
            Condition::ColumnScale { scale, weight } => tensor(scale).zip(tensor(weight)).is_some_and(|(s, w)| {
                s.constant && w.constant && w.shape.len() == 2 && s.shape.as_slice() == &w.shape[1..]
            }),
            Condition::Widens(w) => tensor(w).is_some_and(|t| match t.shape.as_slice() {
                [n, k] => n.as_constant() > k.as_constant(),
                _ => false,
            }),
            Condition::Wide(w) => tensor(w).is_some_and(|t| t.dtype == DType::F32),
            Condition::Scalar(s) => matches!(fact(s), Some(Fact::Real(_))),
            Condition::Product(a, b, c) => match (fact(a), fact(b), fact(c)) {
                (Some(Fact::Int(a)), Some(Fact::Int(b)), Some(Fact::Int(c))) => b.checked_mul(*c) == Some(*a),
                _ => false,
            },
            Condition::Equals(v, n) => matches!(fact(v), Some(Fact::Int(i)) if i == n),
            Condition::ConstantVector(v) => tensor(v).is_some_and(|t| t.constant && t.shape.len() == 1),
        }
    }
}

/// A kernel that computes an element of a `[rows, width]` result can read this operand there.
fn reads_at_element(operand: &Fact, width: Dim) -> bool {
    let per_column = |t: &TensorFact| t.constant && matches!(t.shape.as_slice(), [w] if *w == width);
    let per_element = |t: &TensorFact| !t.constant && matches!(t.shape.as_slice(), [_, w] if *w == width);
    match operand {
        Fact::Real(_) => true,
        Fact::Tensor(t) => per_column(t) || one_row(t, width) || per_element(t),
        Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..) => false,
        Fact::Int(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => false,
    }
}

fn one_row(t: &TensorFact, width: Dim) -> bool {
    t.constant && t.shape == [Dim::constant(1), width]
}
