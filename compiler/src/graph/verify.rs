//! The verifier: which operators are legal in which phase, and that rows are independent of each other.
//!
//! A graph describes one sequence, and the runtime puts the rows of many sequences into one dispatch. That is right only
//! if every node except attention and pooling computes each row from the same row of its operands. [`verify`] proves it
//! for what is about to become kernels, node by node.

use egg::{Id, Language};
use warpweft_plan::Dim;

use super::{Fact, FactError, Graph, Op, infer};

/// How far a graph has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// As a model family wrote it: no operator that only rules find.
    Imported,
    /// As extraction leaves it: only what kernels compute, and rows independent.
    Extracted,
}

/// A graph that is not what its phase allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// An operator that has no place here.
    #[error("node {node}: {op} is not legal in an {form} graph")]
    Illegal {
        /// The node.
        node: usize,
        /// Its operator.
        op: String,
        /// The form, as an adjective.
        form: &'static str,
    },
    /// A fact that does not follow from the operands.
    #[error("node {node}: recorded as {found}, inferred as {expected}")]
    Fact {
        /// The node.
        node: usize,
        /// What the graph says.
        found: String,
        /// What follows.
        expected: String,
    },
    /// A node that mixes rows of a sequence and is neither attention nor pooling.
    #[error("node {node}: {op} mixes rows: {problem}")]
    Rows {
        /// The node.
        node: usize,
        /// Its operator.
        op: String,
        /// What depends on what.
        problem: &'static str,
    },
    /// An operator that does not fit its operands.
    #[error("node {node}: {error}")]
    Operands {
        /// The node.
        node: usize,
        /// Why.
        error: FactError,
    },
}

/// Checks a graph against its form.
///
/// # Errors
/// Names the first node that is wrong.
pub fn verify(graph: &Graph, form: Form) -> Result<(), VerifyError> {
    let live = graph.live();
    for (node, n) in graph.nodes().iter().enumerate() {
        let expected = infer(&n.op, |c| &graph.node(c).fact, graph.declarations())
            .map_err(|error| VerifyError::Operands { node, error })?;
        if expected != n.fact {
            return Err(VerifyError::Fact { node, found: n.fact.to_string(), expected: expected.to_string() });
        }
        if live[node] && !legal(&n.op, &n.fact, form) {
            let form = match form {
                Form::Imported => "imported",
                Form::Extracted => "extracted",
            };
            return Err(VerifyError::Illegal { node, op: n.op.name(), form });
        }
    }
    match form {
        Form::Imported => Ok(()),
        Form::Extracted => prove_rows(graph, &live),
    }
}

fn legal(op: &Op, fact: &Fact, form: Form) -> bool {
    match op {
        Op::Gained(_) => false,
        Op::NormedLinear(_)
        | Op::NormedLinearPair(_)
        | Op::NormedRows(_)
        | Op::GainedLinear(_)
        | Op::ScaledLinearPair(_)
        | Op::Rms(_)
        | Op::Layer(_)
        | Op::Then(_)
        | Op::First(_)
        | Op::Second(_) => form == Form::Extracted,
        Op::HeadLinear(_) => form == Form::Extracted,
        Op::Linear(_) | Op::LinearPair(_) | Op::HeadNorm(_) | Op::Scores(_) | Op::Attention(_) | Op::Acc2 => match op {
            Op::Scores(_) => false,
            _ => form == Form::Extracted,
        },
        Op::MatMul(_)
        | Op::Transpose(_)
        | Op::Concat(_)
        | Op::SplitHeads(_)
        | Op::MergeHeads(_)
        | Op::RepeatHeads(_)
        | Op::Softmax(_) => form == Form::Imported || fact.is_constant(),
        Op::Int(_)
        | Op::Real(_)
        | Op::Weight(_)
        | Op::Arg(_)
        | Op::Ids
        | Op::Positions
        | Op::Acc
        | Op::Size(_)
        | Op::Format(_)
        | Op::Quantize(_)
        | Op::Dequantize(_)
        | Op::Fill(_)
        | Op::Add(_)
        | Op::Sub(_)
        | Op::Mul(_)
        | Op::Div(_)
        | Op::Gelu(_)
        | Op::GeluTanh(_)
        | Op::Silu(_)
        | Op::Relu(_)
        | Op::Tanh(_)
        | Op::Sigmoid(_)
        | Op::Slice(_)
        | Op::Gather(_)
        | Op::GatherColumns(_)
        | Op::LayerNorm(_)
        | Op::RmsNorm(_)
        | Op::L2Norm(_)
        | Op::BandMask(_)
        | Op::Rope(_)
        | Op::MeanPool(_)
        | Op::FirstRow(_)
        | Op::LastRow(_)
        | Op::Append(_)
        | Op::Cache(_)
        | Op::Candidates(_)
        | Op::MaxPool(_) => true,
    }
}

/// What the rows of a node's value are, and so what they may be combined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowKind {
    /// It has no rows of a sequence: weights, attributes, masks, `acc`.
    None,
    /// Row i depends on row i of the operands, and on nothing else of the sequence.
    Token,
    /// One row for the sequence.
    Sequence,
    /// The rows of the sequence's cache, new ones included.
    Context,
}

fn prove_rows(graph: &Graph, live: &[bool]) -> Result<(), VerifyError> {
    let mut kinds: Vec<RowKind> = Vec::with_capacity(graph.nodes().len());
    for (node, n) in graph.nodes().iter().enumerate() {
        let kind = match row_kind(graph, &kinds, &n.op) {
            Ok(kind) => kind,
            Err(_) if !live[node] => RowKind::None,
            Err(problem) => return Err(VerifyError::Rows { node, op: n.op.name(), problem }),
        };
        kinds.push(kind);
    }
    Ok(())
}

fn row_kind(graph: &Graph, kinds: &[RowKind], op: &Op) -> Result<RowKind, &'static str> {
    let kind = |id: &Id| kinds[usize::from(*id)];
    let token = |ids: &[Id]| {
        if ids.iter().all(|id| kind(id) == RowKind::Token) { Ok(()) } else { Err("an operand is not a row per token") }
    };
    let axis = |id: &Id| match graph.node(*id).fact {
        Fact::Int(i) => i,
        Fact::Tensor(_) | Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..) => -1,
        Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => -1,
    };
    match op {
        Op::Ids | Op::Positions => Ok(RowKind::Token),
        Op::Arg(_)
        | Op::Cache(_)
        | Op::Weight(_)
        | Op::Int(_)
        | Op::Real(_)
        | Op::Acc
        | Op::Acc2
        | Op::Size(_)
        | Op::Format(_)
        | Op::Fill(_)
        | Op::BandMask(_) => match op {
            Op::Arg(a) => rows_of_arg(graph, a.0 as usize),
            _ => Ok(RowKind::None),
        },
        Op::Attention([.., term]) if kind(term) != RowKind::None => Err("the scores' term depends on the sequence"),
        Op::Attention([q, k, v, ..]) => match (kind(k), kind(v)) {
            (RowKind::Token, RowKind::Token) | (RowKind::Context, RowKind::Context) => {
                token(&[*q]).map(|()| RowKind::Token)
            }
            _ => Err("keys and values are neither both new nor both cached"),
        },
        Op::Append([_, x]) => token(&[*x]).map(|()| RowKind::Context),
        Op::Candidates([x, _]) => Ok(kind(x)),
        Op::MeanPool([x]) | Op::FirstRow([x]) | Op::MaxPool([x]) | Op::LastRow([x]) => {
            token(&[*x]).map(|()| RowKind::Sequence)
        }
        Op::Slice([x, a, ..]) => columns_only(kind(x), axis(a), kind(x)),
        Op::Concat([a, x, y]) => columns_only(combine(&[kind(x), kind(y)])?, axis(a), kind(x)),
        Op::MatMul([x, w]) | Op::Gather([w, x]) => match (kind(x), kind(w)) {
            (rows, RowKind::None) => Ok(rows),
            _ => Err("the right operand depends on the sequence"),
        },
        Op::Transpose([x]) | Op::SplitHeads([x, _]) | Op::MergeHeads([x]) | Op::RepeatHeads([x, _]) => match kind(x) {
            RowKind::None => Ok(RowKind::None),
            RowKind::Token | RowKind::Sequence | RowKind::Context => Err("the rows are no longer the first axis"),
        },
        Op::GatherColumns([x, index]) => match kind(index) {
            RowKind::None => Ok(kind(x)),
            RowKind::Token | RowKind::Sequence | RowKind::Context => Err("the columns depend on the sequence"),
        },
        Op::Scores(_) => Err("scores relate rows to rows"),
        Op::Add(_)
        | Op::Sub(_)
        | Op::Mul(_)
        | Op::Div(_)
        | Op::Gelu(_)
        | Op::GeluTanh(_)
        | Op::Silu(_)
        | Op::Relu(_)
        | Op::Tanh(_)
        | Op::Sigmoid(_)
        | Op::Softmax(_)
        | Op::LayerNorm(_)
        | Op::RmsNorm(_)
        | Op::L2Norm(_)
        | Op::Rope(_)
        | Op::HeadNorm(_)
        | Op::HeadLinear(_)
        | Op::Linear(_)
        | Op::LinearPair(_)
        | Op::Gained(_)
        | Op::NormedRows(_)
        | Op::GainedLinear(_)
        | Op::ScaledLinearPair(_)
        | Op::NormedLinear(_)
        | Op::NormedLinearPair(_)
        | Op::Rms(_)
        | Op::Layer(_)
        | Op::Then(_)
        | Op::First(_)
        | Op::Second(_)
        | Op::Quantize(_)
        | Op::Dequantize(_) => combine(&op.children().iter().map(kind).collect::<Vec<_>>()),
    }
}

fn rows_of_arg(graph: &Graph, arg: usize) -> Result<RowKind, &'static str> {
    match graph.declarations().args[arg].shape.first() {
        Some(d) if *d == Dim::TOKENS => Ok(RowKind::Token),
        Some(d) if *d == Dim::SEQUENCES => Ok(RowKind::Sequence),
        Some(d) if *d == Dim::CONTEXT => Ok(RowKind::Context),
        _ => Err("an argument's rows are of no known kind"),
    }
}

fn columns_only(kind: RowKind, axis: i64, first: RowKind) -> Result<RowKind, &'static str> {
    match kind {
        RowKind::None => Ok(RowKind::None),
        RowKind::Token | RowKind::Sequence | RowKind::Context if axis > 0 && first == kind => Ok(kind),
        RowKind::Token | RowKind::Sequence | RowKind::Context => Err("rows are cut or joined"),
    }
}

fn combine(kinds: &[RowKind]) -> Result<RowKind, &'static str> {
    let mut all = RowKind::None;
    for &kind in kinds {
        match (all, kind) {
            (_, RowKind::None) => {}
            (RowKind::None, _) => all = kind,
            (a, b) if a == b => {}
            _ => return Err("rows of different kinds meet"),
        }
    }
    Ok(all)
}
