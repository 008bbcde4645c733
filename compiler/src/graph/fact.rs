//! What is known of a node before anything runs: shape, element type, and whether it is made of weights alone.

use std::collections::BTreeSet;
use std::fmt;

use warpweft_plan::Dim;

use super::Element;
use super::op::Real;
use crate::formats::Format;

/// A tensor's shape, outermost axis first.
pub type Shape = Vec<Dim>;

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A tensor.
    Tensor(TensorFact),
    /// A pointwise expression over `acc`.
    Term(TermFact),
    /// What a kernel does to each row that it reads.
    Prologue(PrologueFact),
    /// The two results of a node.
    Pair(TensorFact, TensorFact),
    /// An integer attribute.
    Int(i64),
    /// A scalar.
    Real(Real),
    /// A symbolic size.
    Size(Dim),
    /// A cache of that many columns.
    Cache(u32),
    /// How weights are stored.
    Format(Format),
}

/// What is known of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFact {
    /// Its shape.
    pub shape: Shape,
    /// What its elements are.
    pub dtype: Element,
    /// It is computed from weights alone, so it is computed once, when the plan is packed.
    pub constant: bool,
}

/// What is known of a term: the shapes that its `acc` has to be broadcast with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermFact {
    /// Shapes of the tensors it reads.
    pub operands: BTreeSet<Shape>,
    /// It reads `acc2`.
    pub paired: bool,
}

/// What is known of a prologue: the shapes that rows have to be broadcast with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrologueFact {
    /// Shapes of the tensors that its terms read.
    pub operands: BTreeSet<Shape>,
    /// Norms, one after the other.
    pub norms: u32,
}

impl Fact {
    /// The tensor's facts.
    pub fn tensor(&self) -> Option<&TensorFact> {
        match self {
            Fact::Tensor(t) => Some(t),
            Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..) => None,
            Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => None,
        }
    }

    /// It is a tensor made of weights alone.
    pub fn is_constant(&self) -> bool {
        self.tensor().is_some_and(|t| t.constant)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Tensor(t) => write!(f, "{}{}", t.dtype, show(&t.shape)),
            Fact::Term(t) => write!(f, "term over {}", show_all(&t.operands)),
            Fact::Prologue(p) => write!(f, "prologue of {} norms over {}", p.norms, show_all(&p.operands)),
            Fact::Pair(a, b) => {
                write!(f, "pair of {}{} and {}{}", a.dtype, show(&a.shape), b.dtype, show(&b.shape))
            }
            Fact::Int(i) => write!(f, "{i}"),
            Fact::Real(r) => write!(f, "{r}"),
            Fact::Size(d) => write!(f, "{d}"),
            Fact::Cache(width) => write!(f, "cache of {width} columns"),
            Fact::Format(format) => write!(f, "format {format}"),
        }
    }
}

/// A shape as it is printed: `[tokens, 384]`.
pub fn show(shape: &[Dim]) -> String {
    let dims: Vec<_> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

fn show_all(shapes: &BTreeSet<Shape>) -> String {
    shapes.iter().map(|s| show(s)).collect::<Vec<_>>().join(", ")
}

/// An operator that does not fit its operands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {problem}")]
pub struct FactError {
    /// The operator.
    pub op: String,
    /// What was found and what was expected.
    pub problem: String,
}
