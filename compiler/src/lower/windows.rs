//! Weights above the binding limit: a call for each window of rows.

use warpweft_plan::PAD;

use super::{Call, Input, LowerError, WeightUse, gather_rows};
use crate::kernels::Slot;
use crate::kernels::spec::{Operand, Operation, View};

/// First rows of windows are multiples of this: vec4 columns of the result, and 256-byte offsets of vectors.
const STEP: u64 = 64;

/// The calls that together do what `call` does, each within the binding limit.
pub(super) fn split(call: Call, binding_bytes: u64) -> Result<Vec<Call>, LowerError> {
    match &call.operation {
        Operation::Linear { x, n, format, .. } => {
            let row_bytes = padded(x.width) * u64::from(format.bytes());
            let rows = window(u64::from(*n), row_bytes, binding_bytes)?;
            Ok(starts(u64::from(*n), rows)
                .map(|first| linear_window(&call, first, rows.min(u64::from(*n) - first)))
                .collect())
        }
        Operation::Map { width, operands, .. } | Operation::Normalize { width, operands, .. } => {
            let mut calls = vec![call.clone()];
            for (at, operand) in operands.iter().enumerate() {
                let Operand::Gather { format, rows, .. } = operand else { continue };
                let row_bytes = padded(*width) * u64::from(format.bytes());
                let each = window(u64::from(*rows), row_bytes, binding_bytes)?;
                calls = calls
                    .iter()
                    .flat_map(|c| {
                        starts(u64::from(*rows), each)
                            .map(|first| gather_window(c, at, first, each))
                            .collect::<Vec<_>>()
                    })
                    .collect();
            }
            Ok(calls)
        }
        Operation::Attention { .. }
        | Operation::Pool { .. }
        | Operation::Heads { .. }
        | Operation::CachedAttention { .. }
        | Operation::CombineAttention { .. }
        | Operation::CandidateChunks { .. }
        | Operation::Candidates { .. } => Ok(vec![call]),
    }
}

fn padded(width: u32) -> u64 {
    u64::from(width).next_multiple_of(PAD)
}

/// Rows of each window: all of them where they fit.
fn window(rows: u64, row_bytes: u64, binding_bytes: u64) -> Result<u64, LowerError> {
    let fit = binding_bytes / row_bytes;
    if rows <= fit {
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

fn linear_window(call: &Call, first: u64, rows: u64) -> Call {
    let mut call = call.clone();
    if let Operation::Linear { n, out, operands, .. } = &mut call.operation {
        *n = rows as u32;
        *out = View { width: rows as u32, offset: first as u32, ..*out };
        for operand in operands {
            if let Operand::Matrix(view) = operand {
                *view = View { width: rows as u32, offset: view.offset + first as u32, ..*view };
            }
        }
    }
    for (_, input) in &mut call.inputs {
        if let Input::Weight(weight) = input {
            *weight = WeightUse { first, rows, ..*weight };
        }
    }
    call
}

fn gather_window(call: &Call, at: usize, start: u64, each: u64) -> Call {
    let mut call = call.clone();
    let (Operation::Map { operands, .. } | Operation::Normalize { operands, .. }) = &mut call.operation else {
        return call;
    };
    let all = u64::from(gather_rows(&operands[at]).unwrap_or(0));
    let count = each.min(all - start);
    if let Operand::Gather { first, rows, .. } = &mut operands[at] {
        (*first, *rows) = (start as u32, count as u32);
    }
    for (slot, input) in &mut call.inputs {
        if let (true, Input::Weight(weight)) = (*slot == Slot::Operand(at), input) {
            *weight = WeightUse { first: start, rows: count, ..*weight };
        }
    }
    call
}
