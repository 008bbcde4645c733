//! Operations on rows: normalise, map, pool.

use warpweft_plan::{Access, Dim};

use super::KernelError;
use super::compose::{Choice, Composed, Draft, RowRange, Slot};
use super::cost::rowwise::RowShape;
use super::interface::{Interface, check_view};
use super::linear::operands_bytes;
use super::prologue::reciprocal;
use super::spec::{Norm, Operand, Operation, Pool, RowNorm, Rows, Term, View};
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
    let Operation::Normalize { width, then, operands, rows: rows_of, .. } = operation else {
        return Err(KernelError::Algorithm("normalize for another operation".to_owned()));
    };
    let shape = RowShape { twice: then.is_some(), ..shape(*width, operands, *rows_of) };
    let choices = shape.norms(target, rows);
    match choices.is_empty() {
        true => Err(KernelError::Shape(format!("a row of {width} is too wide to normalise"))),
        false => Ok(choices),
    }
}

/// Writes the file that `by` names.
pub(crate) fn normalize(operation: &Operation, by: NormalizeBy, target: &Target) -> Result<Composed, KernelError> {
    let Operation::Normalize { norm, eps, width, input, term, then, operands, rows, image } = operation else {
        return Err(KernelError::Algorithm("normalize for another operation".to_owned()));
    };
    let (norm, width, rows) = (*norm, *width, *rows);
    let view = View::whole_in(width, *image);
    check_view("out", view)?;
    if *image && then.is_some() {
        return Err(KernelError::Algorithm("for two results of which the first is an image".to_owned()));
    }
    let n4 = width.div_ceil(4);
    let mut interface = Interface::of(target);
    interface.operands(operands, width, rows)?;
    interface.epilogue("input", input)?;
    interface.epilogue("epilogue", term)?;
    interface.result(view, rows)?;
    let mut slots = vec![("scale", format!("let scale = {};", reciprocal(norm, "squares", *eps)?))];
    if norm != Norm::Layer {
        slots.push(("mean", String::new()));
    }
    if let Some(then) = then {
        interface.epilogue("then", &then.term)?;
        next(&mut interface, view);
        slots.push(("end", twice(by, then, view)?));
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
    let shape = RowShape { twice: then.is_some(), ..shape(width, operands, rows) };
    let second = then.as_ref().map_or(String::new(), |then| format!("{}_", kind_of(then.norm)));
    Draft {
        name: format!("normalize_{}_{second}{width}_{tile}{lanes}", kind_of(norm)),
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

fn kind_of(norm: Norm) -> &'static str {
    match norm {
        Norm::Layer => "layer",
        Norm::Rms => "rms",
        Norm::L2 => "l2",
    }
}

/// Binds the result of a second norm and defines what writes it.
fn next(interface: &mut Interface, view: View) {
    interface.bind(Slot::Part(1), "next", Access::ReadWrite, "array<vec4<f32>>");
    let value = match view.width.is_multiple_of(4) {
        true => "value",
        false => "select(vec4<f32>(0.0), value, inside(n4))",
    };
    interface.function(format!(
        "fn store_next(m: u32, n4: u32, value: vec4<f32>) {{\n    next[m * {}u + n4] = {value};\n}}\n",
        view.stride / 4
    ));
}

/// What ends a kernel that normalises its own result once more: it writes that and sums its squares, then writes the second
/// result. Lanes that are beside the row count nothing.
fn twice(by: NormalizeBy, then: &RowNorm, view: View) -> Result<String, KernelError> {
    if then.norm == Norm::Layer {
        return Err(KernelError::Algorithm("with a mean only for the first of two norms".to_owned()));
    }
    let scale = format!("let scale2 = {};\n", reciprocal(then.norm, "squares2", then.eps)?);
    let own = |count: &str, lane: &str| {
        let first = format!(
            "squares4 = vec4<f32>(0.0);
//# unroll
for (var i = 0u; i < V; i++) {{
let n4 = i * {count} + {lane};
if (kept(m) && n4 < N4) {{
x[i] = select(vec4<f32>(0.0), epilogue(m, n4, x[i] * scale), inside(n4));
store(m, n4, x[i]);
squares4 = fma(x[i], x[i], squares4);
}}
}}
"
        );
        let last = format!(
            "//# unroll
for (var i = 0u; i < V; i++) {{
let n4 = i * {count} + {lane};
if (kept(m) && n4 < N4) {{
store_next(m, n4, then(m, n4, x[i] * scale2));
}}
}}
"
        );
        (first, last)
    };
    let over_lanes = "var squares2 = (squares4.x + squares4.y) + (squares4.z + squares4.w);
//# unroll
for (var o = 1u; o < S; o *= 2) {
squares2 += subgroupShuffleXor(squares2, o);
}
";
    Ok(match by {
        NormalizeBy::Subgroup => {
            let (first, last) = own("S", "lane");
            format!("{first}{over_lanes}{scale}{last}")
        }
        NormalizeBy::Workgroup(_) => {
            let (first, last) = own("T", "index");
            format!(
                "workgroupBarrier();
{first}parts[index] = (squares4.x + squares4.y) + (squares4.z + squares4.w);
workgroupBarrier();
//# trips 8
for (var o = 1u; o < T; o += o) {{
if (index % (2u * o) == 0u) {{
parts[index] += parts[index + o];
}}
workgroupBarrier();
}}
let squares2 = parts[0];
{scale}{last}"
            )
        }
        NormalizeBy::Streamed => {
            let place = format!("out[m * {}u + n4]", view.stride / 4);
            format!(
                "squares4 = vec4<f32>(0.0);
//# trips V
for (var n4 = lane; n4 < N4; n4 += S) {{
if (kept(m)) {{
let value = select(vec4<f32>(0.0), epilogue(m, n4, (at(m, n4) - mean) * scale), inside(n4));
store(m, n4, value);
squares4 = fma(value, value, squares4);
}}
}}
{over_lanes}{scale}if (!kept(m)) {{
return;
}}
//# trips V
for (var n4 = lane; n4 < N4; n4 += S) {{
store_next(m, n4, then(m, n4, {place} * scale2));
}}
"
            )
        }
    })
}

/// What the time of an operation on rows depends on.
fn shape(width: u32, operands: &[Operand], rows: Rows) -> RowShape {
    RowShape { width, operands: operands_bytes(operands, width), rows, twice: false }
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
