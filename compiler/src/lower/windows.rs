//! Weights above the binding limit: a call for each window of rows.

use egg::{Id, Language};

use super::linear::CARRIED;
use super::{Call, Input, LowerError, WeightUse};
use crate::graph::{ArgId, Fact, FactError, Graph, Op};
use crate::kernels::spec::{Operand, Operation, View};
use crate::kernels::{Slot, matrices};
use crate::pack::ROW_PAD;

/// First rows of windows are multiples of this: whole panels, vec4 columns of the result, and 256-byte offsets of vectors.
const STEP: u64 = 64;

/// The calls that together do what `call` does, each within the binding limit.
pub(super) fn split(call: Call, binding_bytes: u64) -> Result<Vec<Call>, LowerError> {
    let left = matches!(call.operation, Operation::GainedLinear { .. });
    match call.operation.inner() {
        Operation::Linear { x, n, format, .. } => {
            let row_bytes = format.row_bytes(x.width as usize) as u64;
            let rows = window(u64::from(*n), row_bytes, binding_bytes)?;
            let n = u64::from(*n);
            if rows == n {
                return Ok(vec![call]);
            }
            if left {
                return Err(LowerError::Size {
                    what: "rows of a weight that makes rows with moments, as a whole,".into(),
                    size: n as i64,
                    limit: rows as i64,
                });
            }
            starts(n, rows).map(|first| linear_window(&call, first, rows.min(n - first))).collect()
        }
        Operation::Map { width, operands, .. } | Operation::Normalize { width, operands, .. } => {
            let mut calls = vec![call.clone()];
            for (at, operand) in operands.iter().enumerate() {
                let Operand::Gather { format, rows, .. } = operand else { continue };
                let row_bytes = format.row_bytes(*width as usize) as u64;
                let each = window(u64::from(*rows), row_bytes, binding_bytes)?;
                if each == u64::from(*rows) {
                    continue;
                }
                let windows = |c: &Call| {
                    let first = starts(u64::from(*rows), each);
                    first
                        .map(|first| gather_window(c, at, first, each.min(u64::from(*rows) - first)))
                        .collect::<Vec<_>>()
                };
                calls = calls.iter().flat_map(windows).collect::<Result<_, _>>()?;
            }
            Ok(calls)
        }
        Operation::PerHead { x, heads, n, format, .. } => {
            let row_bytes = format.row_bytes((x.width / heads) as usize) as u64;
            let all = u64::from(heads * n);
            match window(all, row_bytes, binding_bytes)? {
                rows if rows == all => Ok(vec![call]),
                rows => Err(LowerError::Size {
                    what: "rows of a weight of heads, of which none can be left out,".into(),
                    size: all as i64,
                    limit: rows as i64,
                }),
            }
        }
        Operation::NormedLinear { .. }
        | Operation::GainedLinear { .. }
        | Operation::ScaledLinear { .. }
        | Operation::IntegerLinear(_)
        | Operation::Quantize { .. }
        | Operation::Dequantize { .. }
        | Operation::Columns { .. }
        | Operation::Attention(_)
        | Operation::Pool { .. }
        | Operation::Heads { .. }
        | Operation::CachedAttention { .. }
        | Operation::CombineAttention { .. }
        | Operation::CandidateChunks { .. }
        | Operation::Candidates { .. } => Ok(vec![call]),
    }
}

/// Rows of each window: all of them where they fit.
fn window(rows: u64, row_bytes: u64, binding_bytes: u64) -> Result<u64, LowerError> {
    let fit = binding_bytes / row_bytes;
    if rows.next_multiple_of(ROW_PAD) <= fit {
        return Ok(rows);
    }
    match fit / STEP * STEP {
        0 => Err(LowerError::Size {
            what: format!("{STEP} rows of a weight, in bytes,"),
            size: (STEP * row_bytes) as i64,
            limit: binding_bytes as i64,
        }),
        n => Ok(n),
    }
}

fn starts(rows: u64, each: u64) -> impl Iterator<Item = u64> {
    (0..rows).step_by(each as usize)
}

fn linear_window(call: &Call, first: u64, rows: u64) -> Result<Call, LowerError> {
    let mut call = call.clone();
    if let Operation::Linear { n, out, operands, .. } = call.operation.inner_mut() {
        *n = rows as u32;
        *out = View { width: rows as u32, offset: first as u32, ..*out };
        for operand in operands {
            if let Operand::Matrix(view) = operand {
                *view = View { width: rows as u32, offset: view.offset + first as u32, ..*view };
            }
        }
    }
    let mut args = 1;
    if let Operation::NormedLinear { prologue, .. } = &mut call.operation {
        prologue.carried &= first == 0;
        args += matrices(prologue);
    }
    for (slot, input) in &mut call.inputs {
        if let (Input::Weight(weight), Slot::W | Slot::W2 | Slot::Operand(_)) = (input, *slot) {
            *weight = WeightUse { first, rows, ..*weight };
        }
    }
    call.meaning = columns(&call.meaning, args, first, rows)?;
    Ok(call)
}

/// The meaning of a contraction's columns `first .. first + rows`: only these rows of the weights, only these columns of
/// what the term reads. The first `args` arguments are not its: they belong to the input. The output's name says where the
/// columns stand in the result.
fn columns(meaning: &Graph, args: usize, first: u64, rows: u64) -> Result<Graph, FactError> {
    let mut declarations = meaning.declarations().clone();
    let whole = declarations.weights.first().map_or(0, |w| w.shape[0]);
    // What a prologue reads belongs to the columns of the input.
    for weight in declarations.weights.iter_mut().filter(|w| !w.name.starts_with('p')) {
        weight.shape[0] = rows;
    }
    // The term reads its arguments as a whole or through a window.
    let read_by_term = |id: Id| matches!(meaning.node(id).op, Op::Arg(ArgId(at)) if at as usize >= args);
    let windowed = |id: Id| meaning.nodes().iter().any(|n| matches!(n.op, Op::Slice([x, ..]) if x == id));
    let mut graph = Graph::with_declarations(declarations);
    let mut copies: Vec<Id> = Vec::new();
    for (at, node) in meaning.nodes().iter().enumerate() {
        let mut copy = graph.add(node.op.clone().map_children(|c| copies[usize::from(c)]));
        if read_by_term(Id::from(at)) && !windowed(Id::from(at)) {
            copy = graph.slice(copy?, 1, first, rows);
        }
        if let Op::Slice([x, _, start, _]) = node.op
            && let (true, Fact::Int(start)) = (read_by_term(x), &meaning.node(start).fact)
        {
            copy = graph.slice(copies[usize::from(x)], 1, first + start.unsigned_abs(), rows);
        }
        copies.push(copy?);
    }
    for output in meaning.outputs() {
        match output.name == CARRIED {
            false => graph.add_output(format!("{}+{first}/{whole}", output.name), copies[usize::from(output.id)]),
            true if first == 0 => graph.add_output(CARRIED, copies[usize::from(output.id)]),
            true => {}
        }
    }
    Ok(graph)
}

fn gather_window(call: &Call, at: usize, start: u64, count: u64) -> Result<Call, LowerError> {
    let mut call = call.clone();
    if let Operation::Map { operands, .. } | Operation::Normalize { operands, .. } = &mut call.operation
        && let Operand::Gather { first, rows, .. } = &mut operands[at]
    {
        (*first, *rows) = (start as u32, count as u32);
    }
    for (slot, input) in &mut call.inputs {
        if let (true, Input::Weight(weight)) = (*slot == Slot::Operand(at), input) {
            *weight = WeightUse { first: start, rows: count, ..*weight };
        }
    }
    let mut declarations = call.meaning.declarations().clone();
    for weight in declarations.weights.iter_mut().filter(|w| w.name == format!("e{at}")) {
        weight.name = format!("e{at}+{start}");
        weight.shape[0] = count;
    }
    call.meaning = call.meaning.redeclared(declarations)?;
    Ok(call)
}
