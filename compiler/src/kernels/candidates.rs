//! The greatest values of long rows, in two dispatches.

use warpweft_plan::Access;

use super::KernelError;
use super::compose::{Composed, Draft, Slot};
use super::cost;
use super::interface::Interface;
use super::spec::{Rows, View};
use crate::target::Target;

/// Invocations of a workgroup, one for each of 256 digits.
const INVOCATIONS: u32 = 256;

/// Columns of a chunk.
const CHUNK: u32 = 8192;

/// The most columns: their indices are exact as floats.
const MOST_COLUMNS: u32 = 1 << 24;

/// What `candidates/chunk.wgsl` leaves of rows of `width` columns.
pub fn groups_view(width: u32) -> View {
    View::whole(chunks(width) * (2 * INVOCATIONS + 2))
}

/// Columns of a chunk of a row.
fn columns(width: u32) -> u32 {
    CHUNK.min(width.next_multiple_of(4 * INVOCATIONS))
}

fn chunks(width: u32) -> u32 {
    width.div_ceil(CHUNK)
}

fn check(width: u32, n: u32) -> Result<(), KernelError> {
    if n == 0 || n > INVOCATIONS || n > width || width >= MOST_COLUMNS {
        return Err(KernelError::Shape(format!("the {n} greatest of {width} columns")));
    }
    Ok(())
}

fn row_count(rows: Rows) -> String {
    let count = match rows {
        Rows::Tokens => "step.x",
        Rows::Sequences => "step.y",
    };
    format!("fn row_count() -> u32 {{\n    return {count};\n}}\n")
}

/// Writes `candidates/chunk.wgsl`.
pub(crate) fn chunk_of_candidates(x: View, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    check(x.width, 1)?;
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    interface.output("array<u32>");
    interface.function(row_count(rows));
    let chunks = chunks(x.width);
    let columns = columns(x.width);
    Draft {
        name: format!("candidates_chunk_of_{}", x.width),
        source: include_str!("candidates/chunk.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations"),
            ("WIDTH", x.width, "columns"),
            ("CHUNK", columns, "columns of a chunk"),
            ("V", columns / INVOCATIONS / 4, "vec4s of columns of an invocation"),
            ("OUT_STRIDE", groups_view(x.width).stride, "of out"),
        ],
        slots: Vec::new(),
        interface,
        launch: cost::rowwise::groups(columns / INVOCATIONS, chunks, rows, INVOCATIONS),
        flops: rows.dim() * (8 * i64::from(x.width)),
        bytes: rows.dim() * (4 * i64::from(x.width)),
    }
    .finish(target)
}

/// Writes `candidates/merge.wgsl`.
pub(crate) fn merge_candidates(x: View, n: u32, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    let width = x.width;
    check(width, n)?;
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    interface.bind(Slot::Operand(0), "groups", Access::Read, "array<u32>");
    interface.output("array<f32>");
    interface.function(row_count(rows));
    let (chunks, columns) = (chunks(width), columns(width));
    Draft {
        name: format!("candidates_merge_{n}_of_{width}"),
        source: include_str!("candidates/merge.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations, one for each digit"),
            ("N", n, "greatest values"),
            ("WIDTH", width, "columns"),
            ("CHUNK", columns, "columns of a chunk"),
            ("CHUNKS", chunks, "chunks"),
            ("V", columns / INVOCATIONS / 4, "vec4s of columns of a group"),
            ("STRIDE", groups_view(width).stride, "of groups"),
            ("OUT_STRIDE", View::whole(1 + 2 * n).stride, "of out"),
        ],
        slots: Vec::new(),
        interface,
        launch: cost::rowwise::candidates(chunks, columns / INVOCATIONS, rows, INVOCATIONS),
        flops: rows.dim() * (8 * i64::from(chunks * INVOCATIONS + n * columns / INVOCATIONS)),
        bytes: rows.dim() * i64::from(8 * (chunks * INVOCATIONS + n) + 4 * n * columns / INVOCATIONS),
    }
    .finish(target)
}
