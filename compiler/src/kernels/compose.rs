//! From an operation to a kernel: candidates, choice, composition.

use warpweft_plan::{Binding, Cost, Dim, Groups, Kernel, Sizes};

use super::candidates::{chunk_of_candidates, greatest};
use super::cost::Launch;
use super::interface::{Bound, Interface};
use super::spec::{Operation, Rows};
use super::{
    KernelError, attention, cached, codes, columns, heads, integer, linear, per_head, rowwise, template, unroll,
    validate,
};
use crate::target::{Dispatch, Rates, Target, groups};

/// What a binding of a composed kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The input of what has one.
    X,
    /// The weight of a linear.
    W,
    /// Its second weight, where paired.
    W2,
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The operand of that index; of a gather, its table.
    Operand(usize),
    /// The operand of that index of a prologue.
    Prologue(usize),
    /// The vectors that parts of heads read, one behind the other.
    Vectors,
    /// The table of token ids.
    Ids,
    /// The table of rows.
    Rows,
    /// The table of sequences.
    Sequences,
    /// The table of pages.
    Pages,
    /// The result.
    Out,
    /// The result of that index, of what has several; of attention that appends, 1 is the cache of keys and 2 that of values.
    Part(usize),
    /// The step's sizes.
    Step,
}

/// The numbers of rows for which a kernel is made; it is right for any other number too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowRange {
    /// Least number of rows.
    pub min: u32,
    /// Greatest number of rows; `None` is any number.
    pub max: Option<u32>,
}

impl RowRange {
    /// The number of rows that costs are computed for.
    pub fn typical(self) -> u32 {
        match self.max {
            Some(max) => max.max(1),
            None => self.min.max(1024),
        }
    }

    /// The step for which costs are computed, given what these rows are: sequences of at most 128 rows.
    pub fn sizes(self, rows: Rows) -> Sizes {
        let n = u64::from(self.typical());
        let sequences = match rows {
            Rows::Tokens => n.div_ceil(128),
            Rows::Sequences => n,
        };
        Sizes { tokens: n, context: n.min(128), sequences }
    }

    /// The same where rows are cached: one sequence, of which some hundred rows are.
    pub fn cached_sizes(self) -> Sizes {
        let tokens = u64::from(self.typical());
        Sizes { tokens, context: tokens.max(512), sequences: 1 }
    }
}

/// An algorithm and its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `linear/broadcast_tile.wgsl`
    LinearBroadcast(linear::BroadcastTile),
    /// `linear/workgroup_tile.wgsl`
    LinearWorkgroup(linear::WorkgroupTile),
    /// `linear/split_dot.wgsl`
    LinearSplit(linear::SplitDot),
    /// `integer/broadcast_tile.wgsl`
    IntegerBroadcast(integer::IntegerTile),
    /// `integer/workgroup_tile.wgsl`
    IntegerWorkgroup(integer::IntegerWorkgroup),
    /// `attention/broadcast_tile.wgsl`
    AttentionBroadcast(attention::AttentionTile),
    /// `attention/workgroup_tile.wgsl`
    AttentionWorkgroup,
    /// `normalize/*.wgsl`
    Normalize(rowwise::NormalizeBy),
    /// `attention/cached_broadcast.wgsl`
    CachedBroadcast(cached::CachedTile),
    /// `attention/cached_workgroup.wgsl`
    CachedWorkgroup(cached::CachedWorkgroup),
    /// The only one that any other has.
    Only,
}

/// A way to compute an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// How.
    pub algorithm: Algorithm,
    /// Predicted time on the target for the typical number of rows; 0 for the only one that there is.
    pub seconds: f64,
}

/// A kernel, and what a step needs to know to dispatch it.
#[derive(Clone, Debug, PartialEq)]
pub struct Composed {
    /// Operation, algorithm and what distinguishes it. Equal names don't imply equal kernels: compare the text.
    pub name: String,
    /// Complete WGSL.
    pub wgsl: String,
    /// Invocations in a workgroup.
    pub workgroup: [u32; 3],
    /// Binding `i` is `@binding(i)`.
    pub bindings: Vec<Binding>,
    /// What each binding is for, in the same order.
    pub slots: Vec<Slot>,
    /// Workgroups.
    pub grid: [Groups; 3],
    /// The most loop iterations that one invocation makes.
    pub loop_trips: u64,
    /// What one invocation does.
    pub cost: Cost,
    /// Floating-point operations.
    pub flops: Dim,
    /// Bytes to move at the least.
    pub bytes: Dim,
}

impl Composed {
    /// As a plan has it; `meaning` is the graph of what it computes.
    pub fn kernel(&self, meaning: String) -> Kernel {
        Kernel {
            name: self.name.clone(),
            wgsl: self.wgsl.clone(),
            workgroup: self.workgroup,
            bindings: self.bindings.clone(),
            loop_trips: self.loop_trips,
            cost: self.cost,
            meaning,
        }
    }

    /// Predicted seconds of a dispatch in a step of these sizes.
    pub fn seconds(&self, rates: &Rates, sizes: Sizes) -> f64 {
        let invocations = self.workgroup.iter().product();
        let bytes = self.bytes.eval(sizes).unwrap_or(0);
        rates.seconds(&self.cost, Dispatch { invocations, groups: groups(self.grid, sizes), bytes }, sizes)
    }
}

/// The algorithms for an operation, cheapest first.
///
/// # Errors
/// Sizes that don't fit together.
pub fn candidates(operation: &Operation, target: &Target, rows: RowRange) -> Result<Vec<Choice>, KernelError> {
    let mut choices = match operation {
        Operation::Linear { .. }
        | Operation::NormedLinear { .. }
        | Operation::GainedLinear { .. }
        | Operation::ScaledLinear { .. } => linear::candidates(operation, target, rows)?,
        Operation::IntegerLinear(linear) => integer::candidates(linear, target, rows)?,
        Operation::Attention(_) => attention::candidates(operation, target, rows)?,
        Operation::Normalize { .. } => rowwise::normalize_candidates(operation, target, rows)?,
        Operation::CachedAttention { .. } => cached::candidates(operation, target, rows)?,
        Operation::Map { .. }
        | Operation::Columns { .. }
        | Operation::Quantize { .. }
        | Operation::Dequantize { .. }
        | Operation::PerHead { .. }
        | Operation::Pool { .. }
        | Operation::Heads { .. }
        | Operation::CombineAttention { .. }
        | Operation::CandidateChunks { .. }
        | Operation::Candidates { .. } => vec![Choice { algorithm: Algorithm::Only, seconds: 0.0 }],
    };
    choices.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(choices)
}

/// Writes the kernel of one choice.
///
/// # Errors
/// What the target cannot do; sizes and terms that cannot be; text that naga refuses.
pub fn compose(operation: &Operation, choice: Choice, target: &Target) -> Result<Composed, KernelError> {
    let composed = written(operation, choice, target)?;
    validate::validate(&composed, target)?;
    Ok(composed)
}

/// The kernel of one choice, which naga has not seen yet.
fn written(operation: &Operation, choice: Choice, target: &Target) -> Result<Composed, KernelError> {
    match choice.algorithm {
        Algorithm::LinearBroadcast(tile) => linear::broadcast_tile(operation, tile, target),
        Algorithm::LinearWorkgroup(tile) => linear::workgroup_tile(operation, tile, target),
        Algorithm::LinearSplit(split) => linear::split_dot(operation, split, target),
        Algorithm::IntegerBroadcast(tile) => integer::broadcast_tile(operation, tile, target),
        Algorithm::IntegerWorkgroup(tile) => integer::workgroup_tile(operation, tile, target),
        Algorithm::AttentionBroadcast(tile) => attention::broadcast_tile(operation, tile, target),
        Algorithm::AttentionWorkgroup => attention::workgroup_tile(operation, target),
        Algorithm::Normalize(by) => rowwise::normalize(operation, by, target),
        Algorithm::CachedBroadcast(tile) => cached::broadcast(operation, tile, target),
        Algorithm::CachedWorkgroup(tile) => cached::workgroup(operation, tile, target),
        Algorithm::Only => only(operation, target),
    }
}

fn only(operation: &Operation, target: &Target) -> Result<Composed, KernelError> {
    match operation {
        Operation::Map { width, term, operands, rows } => rowwise::map((*width, term, operands, *rows), target),
        Operation::PerHead { x, heads, n, format, rows } => {
            let (x, heads, n, format, rows) = (*x, *heads, *n, *format, *rows);
            per_head::dot(per_head::PerHead { x, heads, n, format, rows }, target)
        }
        Operation::Quantize { x, rows } => codes::quantize(*x, *rows, target),
        Operation::Dequantize { width, rows } => codes::dequantize(*width, *rows, target),
        Operation::Columns { x, width, rows } => columns::gather(*x, *width, *rows, target),
        Operation::Pool { pool, x, max_context } => rowwise::pool((*pool, *x, *max_context), target),
        Operation::Heads { parts, vector } => heads::ready(parts, *vector, target),
        Operation::CombineAttention { .. } => cached::combine(operation, target),
        Operation::CandidateChunks { x, rows } => chunk_of_candidates(*x, *rows, target),
        Operation::Candidates { x, n, rows } => greatest(*x, *n, *rows, target),
        _ => Err(KernelError::Algorithm("for an operation with several".to_owned())),
    }
}

/// The cheapest kernel that the target can run.
///
/// # Errors
/// Why the last candidate is impossible, if all are.
pub fn lower(operation: &Operation, target: &Target, rows: RowRange) -> Result<Composed, KernelError> {
    let mut error = KernelError::Algorithm(format!("on {}", target.name));
    for choice in candidates(operation, target, rows)? {
        match compose(operation, choice, target) {
            Ok(composed) => return Ok(composed),
            Err(e) => error = e,
        }
    }
    Err(error)
}

/// Sizes and costs of a kernel that is being written.
pub(crate) struct Draft<'a> {
    pub(crate) name: String,
    pub(crate) source: &'a str,
    /// `(name, value, meaning)`
    pub(crate) constants: Vec<(&'static str, u32, &'static str)>,
    pub(crate) slots: Vec<(&'static str, String)>,
    pub(crate) interface: Interface,
    pub(crate) launch: Launch,
    pub(crate) flops: Dim,
    pub(crate) bytes: Dim,
}

impl Draft<'_> {
    /// Fills the slots, unrolls and checks the limits.
    pub(crate) fn finish(mut self, target: &Target) -> Result<Composed, KernelError> {
        let Bound { slots, bindings, declarations, functions } = self.interface.finish(target)?;
        let constants = self.constants.iter().map(|(name, value, meaning)| {
            let comment = if meaning.is_empty() { String::new() } else { format!(" // {meaning}") };
            format!("const {name}: u32 = {value}u;{comment}\n")
        });
        self.slots.push(("constants", constants.collect()));
        self.slots.push(("bindings", declarations));
        self.slots.push(("functions", functions));
        let text = template::fill(self.source, &self.slots)?;
        let unroll::Unrolled { wgsl, trips } = unroll::unroll(&text)?;
        if trips > target.limits.loop_trips {
            return Err(KernelError::LoopTrips { trips, limit: target.limits.loop_trips });
        }
        let enable: String = target.enable.iter().map(|e| format!("enable {e};\n")).collect();
        Ok(Composed {
            name: self.name,
            wgsl: enable + &wgsl,
            workgroup: [self.launch.invocations, 1, 1],
            bindings,
            slots,
            grid: self.launch.grid,
            loop_trips: trips,
            cost: self.launch.cost,
            flops: self.flops,
            bytes: self.bytes,
        })
    }
}

#[cfg(test)]
mod tests;
