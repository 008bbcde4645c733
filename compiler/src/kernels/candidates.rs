//! The greatest values of rows: of long ones in two dispatches, chunks first.

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

/// Text of both kernels that search.
const DIGIT: &str = include_str!("candidates/digit.wgsl");

/// The most columns: their indices are exact as floats.
const MOST_COLUMNS: u32 = 1 << 24;

/// Whether rows of `width` columns are searched in chunks, since one workgroup cannot hold them.
pub fn is_chunked(width: u32) -> bool {
    chunks(width) > 1
}

/// What `candidates/chunk.wgsl` leaves of rows of `width` columns.
pub fn groups_view(width: u32) -> View {
    View::whole(chunks(width) * (2 * INVOCATIONS + 2))
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
    Draft {
        name: format!("candidates_chunk_of_{}", x.width),
        source: include_str!("candidates/chunk.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations"),
            ("WIDTH", x.width, "columns"),
            ("CHUNK", CHUNK, "columns of a chunk"),
            ("V", CHUNK / INVOCATIONS / 4, "vec4s of columns of an invocation"),
            ("OUT_STRIDE", groups_view(x.width).stride, "of out"),
        ],
        slots: Vec::new(),
        interface,
        launch: cost::rowwise::groups(CHUNK / INVOCATIONS, chunks, rows, INVOCATIONS),
        flops: rows.dim() * (8 * i64::from(x.width)),
        bytes: rows.dim() * (4 * i64::from(x.width)),
    }
    .finish(target)
}

/// Writes `candidates/row.wgsl`, or `candidates/merge.wgsl` for rows that are searched in chunks.
pub(crate) fn greatest(x: View, n: u32, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    check(x.width, n)?;
    if is_chunked(x.width) { merge(x, n, rows, target) } else { row(x, n, rows, target) }
}

fn row(x: View, n: u32, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    interface.output("array<f32>");
    interface.function(row_count(rows));
    let vec4s = x.width.div_ceil(4 * INVOCATIONS);
    Draft {
        name: format!("candidates_{n}_of_{}", x.width),
        source: include_str!("candidates/row.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations, one for each digit"),
            ("N", n, "greatest values"),
            ("WIDTH", x.width, "columns"),
            ("V", vec4s, "vec4s of columns of an invocation"),
            ("OUT_STRIDE", View::whole(1 + 2 * n).stride, "of out"),
        ],
        slots: vec![("digit", DIGIT.to_owned())],
        interface,
        launch: cost::rowwise::candidates_of_row(4 * vec4s, rows, INVOCATIONS),
        flops: rows.dim() * (16 * i64::from(x.width)),
        bytes: rows.dim() * i64::from(4 * x.width + 8 * n),
    }
    .finish(target)
}

fn merge(x: View, n: u32, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    let width = x.width;
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    interface.bind(Slot::Operand(0), "groups", Access::Read, "array<u32>");
    interface.output("array<f32>");
    interface.function(row_count(rows));
    let chunks = chunks(width);
    Draft {
        name: format!("candidates_merge_{n}_of_{width}"),
        source: include_str!("candidates/merge.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations, one for each digit"),
            ("N", n, "greatest values"),
            ("WIDTH", width, "columns"),
            ("CHUNK", CHUNK, "columns of a chunk"),
            ("CHUNKS", chunks, "chunks"),
            ("V", CHUNK / INVOCATIONS / 4, "vec4s of columns of a group"),
            ("STRIDE", groups_view(width).stride, "of groups"),
            ("OUT_STRIDE", View::whole(1 + 2 * n).stride, "of out"),
        ],
        slots: vec![("digit", DIGIT.to_owned())],
        interface,
        launch: cost::rowwise::candidates(chunks, CHUNK / INVOCATIONS, rows, INVOCATIONS),
        flops: rows.dim() * (8 * i64::from(chunks * INVOCATIONS + n * CHUNK / INVOCATIONS)),
        bytes: rows.dim() * i64::from(8 * (chunks * INVOCATIONS + n) + 4 * n * CHUNK / INVOCATIONS),
    }
    .finish(target)
}
