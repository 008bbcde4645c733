//! Operations on rows: normalise, map, pool.

use warpweft_plan::{Access, Dim};

use super::KernelError;
use super::compose::{Choice, Composed, Draft, RowRange, Slot};
use super::cost::rowwise::RowShape;
use super::interface::{Interface, check_view};
use super::linear::operands_bytes;
use super::prologue::reciprocal;
use super::spec::{Norm, Operand, Operation, Pool, Rows, Term, View};
use crate::target::Target;

/// Invocations of a workgroup that works on columns one by one.
pub(crate) const INVOCATIONS: u32 = 64;

/// The most vec4s of a row that an invocation of a workgroup keeps.
pub(crate) const MOST_KEPT: u32 = 32;

/// The most vec4s of a row that a lane of a subgroup keeps. Written out, more take a driver seconds to compile: 32 took
/// lavapipe 22.3 five seconds beside other builds.
pub(crate) const MOST_IN_LANE: u32 = 12;

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormalizeBy {
    /// `normalize/subgroup.wgsl`
    Subgroup,
    /// `normalize/streamed.wgsl`
    Streamed,
    /// `normalize/workgroup.wgsl`, with so many invocations, a power of two.
    Workgroup(u32),
}

/// The ways to normalise: by subgroup, in its lanes' registers where the row fits, and by workgroup.
pub(crate) fn normalize_candidates(
    operation: &Operation,
    target: &Target,
    rows: RowRange,
) -> Result<Vec<Choice>, KernelError> {
    let Operation::Normalize { width, operands, rows: rows_of, .. } = operation else {
        return Err(KernelError::Algorithm("normalize for another operation".to_owned()));
    };
    let choices = shape(*width, operands, *rows_of).norms(target, rows);
    match choices.is_empty() {
        true => Err(KernelError::Shape(format!("a row of {width} is too wide to normalise"))),
        false => Ok(choices),
    }
}

/// Writes the file that `by` names.
pub(crate) fn normalize(operation: &Operation, by: NormalizeBy, target: &Target) -> Result<Composed, KernelError> {
    let Operation::Normalize { norm, eps, width, input, term, operands, rows } = operation else {
        return Err(KernelError::Algorithm("normalize for another operation".to_owned()));
    };
    let (norm, width, rows) = (*norm, *width, *rows);
    let view = View::whole(width);
    check_view("out", view)?;
    let n4 = width.div_ceil(4);
    let mut interface = Interface::of(target);
    interface.operands(operands, width, rows)?;
    interface.epilogue("input", input)?;
    interface.epilogue("epilogue", term)?;
    interface.result(view, rows)?;
    let kind = match norm {
        Norm::Layer => "layer",
        Norm::Rms => "rms",
        Norm::L2 => "l2",
    };
    let mut slots = vec![("scale", format!("let scale = {};", reciprocal(norm, "squares", *eps)?))];
    if norm != Norm::Layer {
        slots.push(("mean", String::new()));
    }
    let lanes = match by {
        NormalizeBy::Workgroup(invocations) => invocations,
        NormalizeBy::Subgroup | NormalizeBy::Streamed => {
            target.subgroup_size.ok_or_else(|| KernelError::Algorithm("with subgroups".to_owned()))?
        }
    };
    let (source, count, tile) = match by {
        NormalizeBy::Workgroup(_) => {
            (include_str!("normalize/workgroup.wgsl"), ("T", lanes, "invocations"), "workgroup")
        }
        NormalizeBy::Subgroup => {
            (include_str!("normalize/subgroup.wgsl"), ("S", lanes, "lanes of a subgroup"), "subgroup")
        }
        NormalizeBy::Streamed => {
            (include_str!("normalize/streamed.wgsl"), ("S", lanes, "lanes of a subgroup"), "streamed")
        }
    };
    let shape = shape(width, operands, rows);
    Draft {
        name: format!("normalize_{kind}_{width}_{tile}{lanes}"),
        source,
        constants: vec![
            count,
            ("V", n4.div_ceil(lanes), "vec4s of each"),
            ("N4", n4, "vec4s of a row"),
            ("WIDTH", width, "columns"),
        ],
        slots,
        interface,
        launch: shape.norm(by, lanes),
        flops: rows.dim() * (8 * i64::from(width)),
        bytes: shape.bytes(),
    }
    .finish(target)
}

/// What the time of an operation on rows depends on.
fn shape(width: u32, operands: &[Operand], rows: Rows) -> RowShape {
    RowShape { width, operands: operands_bytes(operands, width), rows }
}

/// Writes `map/pointwise.wgsl`.
pub(crate) fn map(
    (width, term, operands, rows): (u32, &Term, &[Operand], Rows),
    target: &Target,
) -> Result<Composed, KernelError> {
    let view = View::whole(width);
    check_view("out", view)?;
    let n4 = width.div_ceil(4);
    let mut interface = Interface::of(target);
    interface.operands(operands, width, rows)?;
    interface.epilogue("epilogue", term)?;
    interface.result(view, rows)?;
    Draft {
        name: format!("map_{width}"),
        source: include_str!("map/pointwise.wgsl"),
        constants: vec![("T", INVOCATIONS, "invocations"), ("N4", n4, "vec4s of a row")],
        slots: Vec::new(),
        interface,
        launch: shape(width, operands, rows).map(),
        flops: rows.dim() * i64::from(width),
        bytes: shape(width, operands, rows).bytes(),
    }
    .finish(target)
}

/// Writes `pool/columns.wgsl`.
pub(crate) fn pool((pool, x, max_context): (Pool, View, u32), target: &Target) -> Result<Composed, KernelError> {
    let n4 = x.width.div_ceil(4);
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
    interface.result(View::whole(x.width), Rows::Sequences)?;
    let walk =
        |step: &str| format!("//# trips CONTEXT\nfor (var m = first + 1u; m < first + count; m++) {{\n    {step}\n}}");
    let (kind, slots) = match pool {
        Pool::Mean => ("mean", Vec::new()),
        Pool::Max => ("max", vec![("reduce", walk("acc = max(acc, load_x(m, n4));"))]),
        Pool::First => ("first", vec![("reduce", String::new())]),
        Pool::Last => ("last", vec![("reduce", "acc = load_x(first + count - 1u, n4);".to_owned())]),
    };
    let read = match pool {
        Pool::First | Pool::Last => Dim::SEQUENCES,
        Pool::Mean | Pool::Max => Dim::TOKENS,
    };
    Draft {
        name: format!("pool_{kind}_{}", x.width),
        source: include_str!("pool/columns.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations"),
            ("N4", n4, "vec4s of a row"),
            ("CONTEXT", max_context, "the most rows of a sequence"),
        ],
        slots,
        interface,
        launch: shape(x.width, &[], Rows::Sequences).pool(pool),
        flops: read * i64::from(x.width),
        bytes: (read + Dim::SEQUENCES) * (4 * i64::from(x.width)),
    }
    .finish(target)
}
