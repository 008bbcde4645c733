//! What lowering does after extraction, as steps of a proof. The term stays as it is; what changes is how it is computed.

use warpweft_plan::provenance::Class;

use super::calls::Group;
use crate::graph::{Fact, Graph, Op};
use crate::kernels::candidates::is_chunked;
use crate::kernels::spec::{Norm, Operation, Prologue};
use crate::lower::LoweredBody;

/// A step that lowering takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoweringStep {
    /// Unique, also among rules.
    pub name: &'static str,
    /// What it may change in the numbers.
    pub class: Class,
    /// What it does.
    pub means: &'static str,
}

/// A value that one kernel alone reads is computed where it is read.
const INLINE: LoweringStep = LoweringStep {
    name: "inline",
    class: Class::Exact,
    means: "values that this kernel alone reads are computed where they are read",
};

/// Results that are made of the same matrix are made by one kernel.
const SHARE_INPUT: LoweringStep = LoweringStep {
    name: "share-input",
    class: Class::Exact,
    means: "results that are made of the same matrix are made by one kernel",
};

/// Σ_k (x_k s g_k) w_k = s Σ_k x_k g_k w_k
const SCALE_AFTER: LoweringStep = LoweringStep {
    name: "scale-after",
    class: Class::Reassociates,
    means: "where a tile has one row, the norm's scale is multiplied into the dot product instead of its elements",
};

/// The chunks of a context are attended to apart and put together.
const SPLIT_CONTEXT: LoweringStep = LoweringStep {
    name: "split-context",
    class: Class::Reassociates,
    means: "chunks of the context are attended to by themselves and then put together",
};

/// The chunks of a row of scores are searched apart and put together.
const SPLIT_CANDIDATES: LoweringStep = LoweringStep {
    name: "split-candidates",
    class: Class::Reassociates,
    means: "chunks of the columns are searched and summed up by themselves and then put together",
};

/// Rows of a weight above the binding limit are windows, a call each.
const SPLIT_WEIGHT: LoweringStep = LoweringStep {
    name: "split-weight",
    class: Class::Exact,
    means: "a weight above the binding limit is read through windows, a dispatch each",
};

/// All of them.
pub const LOWERING: [LoweringStep; 6] =
    [INLINE, SHARE_INPUT, SCALE_AFTER, SPLIT_CONTEXT, SPLIT_CANDIDATES, SPLIT_WEIGHT];

/// The steps that a group of calls takes.
pub(super) fn steps(body: &Graph, lowered: &LoweredBody, group: &Group) -> Vec<LoweringStep> {
    let mut steps = Vec::new();
    if group.results.len() > 1 {
        steps.push(SHARE_INPUT);
    }
    // Windows and masks are not computed; a node of two results counts by its results.
    let computed = group
        .nodes
        .iter()
        .map(|id| body.node(*id))
        .filter(|node| !matches!(node.op, Op::Slice(_) | Op::BandMask(_)) && !matches!(node.fact, Fact::Pair(..)));
    if computed.count() > group.results.len() {
        steps.push(INLINE);
    }
    let operations: Vec<&Operation> = group.calls.iter().map(|&at| &lowered.calls[at].operation).collect();
    let may_scale = |prologue: &Prologue| {
        !prologue.carried && matches!(prologue.norms.as_slice(), [only] if only.norm == Norm::Rms)
    };
    if operations.iter().any(|o| matches!(o, Operation::NormedLinear { prologue, .. } if may_scale(prologue))) {
        steps.push(SCALE_AFTER);
    }
    match operations.last() {
        Some(Operation::CombineAttention { .. }) => steps.push(SPLIT_CONTEXT),
        Some(Operation::Candidates { x, .. }) => {
            if is_chunked(x.width) {
                steps.push(SPLIT_CANDIDATES);
            }
        }
        Some(
            Operation::Linear { .. }
            | Operation::PerHead { .. }
            | Operation::NormedLinear { .. }
            | Operation::GainedLinear { .. }
            | Operation::ScaledLinear { .. }
            | Operation::Attention { .. }
            | Operation::Normalize { .. }
            | Operation::Map { .. }
            | Operation::IntegerLinear(_)
            | Operation::Quantize { .. }
            | Operation::Dequantize { .. }
            | Operation::Columns { .. }
            | Operation::Pool { .. }
            | Operation::Heads { .. }
            | Operation::CachedAttention { .. }
            | Operation::CandidateChunks { .. },
        ) if operations.len() > 1 => steps.push(SPLIT_WEIGHT),
        Some(
            Operation::Linear { .. }
            | Operation::PerHead { .. }
            | Operation::NormedLinear { .. }
            | Operation::GainedLinear { .. }
            | Operation::ScaledLinear { .. }
            | Operation::Attention { .. }
            | Operation::Normalize { .. }
            | Operation::Map { .. }
            | Operation::IntegerLinear(_)
            | Operation::Quantize { .. }
            | Operation::Dequantize { .. }
            | Operation::Columns { .. }
            | Operation::Pool { .. }
            | Operation::Heads { .. }
            | Operation::CachedAttention { .. }
            | Operation::CandidateChunks { .. },
        )
        | None => {}
    }
    steps
}
