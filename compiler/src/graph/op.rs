//! The one language: what a graph's node and an e-graph's node can be.

use std::fmt;
use std::str::FromStr;

use egg::{Id, define_language};
use warpweft_plan::Dim;

use crate::formats::Format;

/// A finite 32-bit float that can be compared and hashed by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Real(u32);

impl Real {
    /// The leaf for `value`.
    pub fn new(value: f32) -> Real {
        Real(value.to_bits())
    }

    /// The number.
    pub fn value(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.value())
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.value())
    }
}

/// A leaf that could not be parsed.
#[derive(Debug, thiserror::Error)]
#[error("not a leaf")]
pub struct NotALeaf;

impl FromStr for Real {
    type Err = NotALeaf;
    fn from_str(text: &str) -> Result<Real, NotALeaf> {
        if !text.contains(['.', 'e']) {
            return Err(NotALeaf);
        }
        let value = text.parse::<f32>().map_err(|_| NotALeaf)?;
        if value.is_finite() { Ok(Real::new(value)) } else { Err(NotALeaf) }
    }
}

macro_rules! numbered_leaf {
    ($(#[$doc:meta])* $name:ident, $sigil:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($sigil, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotALeaf;
            fn from_str(text: &str) -> Result<$name, NotALeaf> {
                let digits = text.strip_prefix($sigil).ok_or(NotALeaf)?;
                Ok($name(digits.parse().map_err(|_| NotALeaf)?))
            }
        }
    };
}

numbered_leaf!(
    /// A weight, by its place in [`Declarations::weights`](super::Declarations::weights); prints as `@3`.
    WeightId,
    "@"
);
numbered_leaf!(
    /// An activation from outside, by its place in [`Declarations::args`](super::Declarations::args); prints as `$0`.
    ArgId,
    "$"
);

numbered_leaf!(
    /// A cache, by its place in [`Declarations::caches`](super::Declarations::caches); prints as `&0`.
    CacheId,
    "&"
);

/// A size that depends on a symbol, as a leaf: `tokens`, `context`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SizeLeaf(pub Dim);

impl fmt::Display for SizeLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SizeLeaf {
    type Err = NotALeaf;
    fn from_str(text: &str) -> Result<SizeLeaf, NotALeaf> {
        let dim = text.parse::<Dim>().map_err(|_| NotALeaf)?;
        if dim.as_constant().is_some() { Err(NotALeaf) } else { Ok(SizeLeaf(dim)) }
    }
}

define_language! {
    /// A node. Activations are f32 matrices `[tokens, width]` unless said otherwise; attributes are leaves.
    ///
    /// A *term* is a pointwise expression over [`Acc`](Op::Acc): what a fused kernel does to each element that its
    /// algorithm has computed.
    #[allow(missing_docs, reason = "the macro takes no docs on variants; the builder's methods describe them")]
    pub enum Op {
        // Leaves
        // An integer attribute.
        Int(i64),
        // A real attribute, and a scalar in pointwise expressions.
        Real(Real),
        // A weight.
        Weight(WeightId),
        // An activation from outside the graph.
        Arg(ArgId),
        // Rows of one sequence that outlive the step.
        Cache(CacheId),
        "ids" = Ids,
        "positions" = Positions,
        "acc" = Acc,
        "acc2" = Acc2,
        // A symbolic size.
        Size(SizeLeaf),
        // How weights are stored.
        Format(Format),

        // Pointwise, with broadcasting from the last axis
        "add" = Add([Id; 2]),
        "sub" = Sub([Id; 2]),
        "mul" = Mul([Id; 2]),
        "div" = Div([Id; 2]),
        "gelu" = Gelu([Id; 1]),
        "gelu-tanh" = GeluTanh([Id; 1]),
        "silu" = Silu([Id; 1]),
        "relu" = Relu([Id; 1]),
        "tanh" = Tanh([Id; 1]),
        "sigmoid" = Sigmoid([Id; 1]),

        // Contractions and shapes
        "fill" = Fill([Id; 2]),
        "matmul" = MatMul([Id; 2]),
        "transpose" = Transpose([Id; 1]),
        "slice" = Slice([Id; 4]),
        "concat" = Concat([Id; 3]),
        "gather" = Gather([Id; 2]),
        "quantize" = Quantize([Id; 2]),
        "dequantize" = Dequantize([Id; 1]),
        "gather-columns" = GatherColumns([Id; 2]),
        "split-heads" = SplitHeads([Id; 2]),
        "merge-heads" = MergeHeads([Id; 1]),
        "repeat-heads" = RepeatHeads([Id; 2]),

        // Over rows
        "softmax" = Softmax([Id; 1]),
        "layer-norm" = LayerNorm([Id; 3]),
        "rms-norm" = RmsNorm([Id; 3]),
        "l2-norm" = L2Norm([Id; 3]),
        "band-mask" = BandMask([Id; 3]),
        "rope" = Rope([Id; 6]),
        "mean-pool" = MeanPool([Id; 1]),
        "first-row" = FirstRow([Id; 1]),
        "max-pool" = MaxPool([Id; 1]),
        "last-row" = LastRow([Id; 1]),
        "append" = Append([Id; 2]),
        "candidates" = Candidates([Id; 2]),

        // Found by rules
        "linear" = Linear([Id; 3]),
        "linear-pair" = LinearPair([Id; 4]),
        "normed-linear" = NormedLinear([Id; 4]),
        "normed-linear-pair" = NormedLinearPair([Id; 5]),
        "normed-rows" = NormedRows([Id; 2]),
        "gained" = Gained([Id; 2]),
        "gained-linear" = GainedLinear([Id; 4]),
        "scaled-linear-pair" = ScaledLinearPair([Id; 5]),
        "head-linear" = HeadLinear([Id; 3]),
        "head-norm" = HeadNorm([Id; 4]),
        "scores" = Scores([Id; 5]),
        "attention" = Attention([Id; 6]),

        // Prologues: what a kernel does to each row that it reads
        "rms" = Rms([Id; 2]),
        "layer" = Layer([Id; 2]),
        "then" = Then([Id; 2]),

        // The results of a node that has two
        "first" = First([Id; 1]),
        "second" = Second([Id; 1]),
    }
}

impl Op {
    /// The operator's name, or the leaf as it prints.
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// A function of each element alone (with broadcasting).
    pub fn is_pointwise(&self) -> bool {
        match self {
            Op::Add(_) | Op::Sub(_) | Op::Mul(_) | Op::Div(_) => true,
            Op::Gelu(_) | Op::GeluTanh(_) | Op::Silu(_) | Op::Relu(_) | Op::Tanh(_) | Op::Sigmoid(_) => true,
            Op::Int(_) | Op::Real(_) | Op::Weight(_) | Op::Arg(_) | Op::Cache(_) | Op::Ids | Op::Positions => false,
            Op::Acc | Op::Acc2 | Op::Size(_) | Op::MatMul(_) | Op::Transpose(_) | Op::Slice(_) => false,
            Op::Fill(_) | Op::HeadLinear(_) | Op::Format(_) | Op::Quantize(_) | Op::Dequantize(_) => false,
            Op::GatherColumns(_) => false,
            Op::Concat(_) | Op::Gather(_) | Op::SplitHeads(_) | Op::MergeHeads(_) | Op::RepeatHeads(_) => false,
            Op::Softmax(_) | Op::LayerNorm(_) | Op::RmsNorm(_) | Op::L2Norm(_) | Op::BandMask(_) => false,
            Op::Rope(_) | Op::HeadNorm(_) | Op::MeanPool(_) | Op::FirstRow(_) | Op::MaxPool(_) => false,
            Op::LastRow(_) | Op::Append(_) | Op::Candidates(_) => false,
            Op::Linear(_) | Op::LinearPair(_) | Op::Scores(_) | Op::Attention(_) => false,
            Op::NormedLinear(_) | Op::NormedLinearPair(_) | Op::Rms(_) | Op::Layer(_) | Op::Then(_) => false,
            Op::NormedRows(_) | Op::Gained(_) | Op::GainedLinear(_) | Op::ScaledLinearPair(_) => false,
            Op::First(_) | Op::Second(_) => false,
        }
    }

    /// Which child, if any, is a term with its own `acc`.
    pub fn term_child(&self) -> Option<usize> {
        match self {
            Op::LayerNorm(_) | Op::RmsNorm(_) | Op::L2Norm(_) | Op::Linear(_) | Op::GainedLinear(_) => Some(2),
            Op::LinearPair(_) | Op::NormedLinear(_) => Some(3),
            Op::Rms(_) | Op::Layer(_) => Some(1),
            Op::Scores(_) | Op::NormedLinearPair(_) | Op::ScaledLinearPair(_) => Some(4),
            Op::Attention(_) => Some(5),
            _ if self.is_pointwise() => None,
            Op::Int(_) | Op::Real(_) | Op::Weight(_) | Op::Arg(_) | Op::Cache(_) | Op::Ids | Op::Positions => None,
            Op::Acc | Op::Acc2 | Op::Size(_) | Op::MatMul(_) | Op::Transpose(_) | Op::Slice(_) => None,
            Op::Fill(_) | Op::HeadLinear(_) | Op::Format(_) | Op::Quantize(_) | Op::Dequantize(_) => None,
            Op::GatherColumns(_) => None,
            Op::Concat(_) | Op::Gather(_) | Op::SplitHeads(_) | Op::MergeHeads(_) | Op::RepeatHeads(_) => None,
            Op::Softmax(_) | Op::BandMask(_) | Op::Rope(_) | Op::MeanPool(_) | Op::FirstRow(_) => None,
            Op::LastRow(_) | Op::Append(_) | Op::Candidates(_) | Op::HeadNorm(_) => None,
            Op::Then(_) | Op::First(_) | Op::Second(_) | Op::NormedRows(_) | Op::Gained(_) => None,
            Op::MaxPool(_) | Op::Add(_) | Op::Sub(_) | Op::Mul(_) | Op::Div(_) | Op::Gelu(_) => None,
            Op::GeluTanh(_) | Op::Silu(_) | Op::Relu(_) | Op::Tanh(_) | Op::Sigmoid(_) => None,
        }
    }
}
