//! Contractions that leave their rows times a gain with the moments of the rows, and contractions of such rows, which only
//! scale what they make: [`crate::graph::moments`].

use warpweft_plan::{Access, PAD};

use super::interface::{Interface, each_column};
use super::prologue::reciprocal;
use super::spec::{Norm, View};
use super::{KernelError, Slot};
use crate::graph::moments::{GRANULE, count, first, width};

/// Rows of a tile from which on each lane finds the scales of rows of its own; fewer are found one after the other, all lanes
/// together.
pub(crate) const OWN_ROWS: u32 = 8;

/// The columns of x that are contracted, of rows that have so many.
pub(crate) fn view(columns: u32) -> View {
    View { width: columns, ..View::whole(width(columns)) }
}

/// vec4s of moments of a row of so many columns.
pub(crate) fn fours(columns: u32) -> u32 {
    count(columns).div_ceil(4)
}

/// Defines `load_moments(m, i)`, four sums of row m of `x`, zeros where there are no more.
pub(super) fn load(interface: &mut Interface, columns: u32) {
    let place = format!("x[m * {}u + {}u + i]", view(columns).stride / 4, first(columns) / 4);
    let value = interface.four(&place);
    let value = match count(columns).is_multiple_of(4) {
        true => value,
        false => format!(
            "select(vec4<f32>(0.0), {value}, 4u * i + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>({}u))",
            count(columns)
        ),
    };
    interface.function(format!("fn load_moments(m: u32, i: u32) -> vec4<f32> {{\n    return {value};\n}}\n"));
}

/// What finds the scale of each row of `linear/broadcast_tile.wgsl`, `scales[r]`: before lanes go different ways, since they
/// hand it around.
pub(super) fn scales(columns: u32, rows: u32, eps: f32) -> Result<String, KernelError> {
    let reciprocal = reciprocal(Norm::Rms, "squares", eps)?;
    let fours = fours(columns);
    let sum = "let part = abs(load_moments(m, i));\nsquares += (part.x + part.y) + (part.z + part.w);";
    if rows < OWN_ROWS {
        let text = format!(
            "var scales: array<f32, R>;
//# unroll
for (var r = 0u; r < R; r++) {{
let m = min(m0 + r, last_row());
var squares = 0.0;
//# trips ({fours} + S - 1) / S
for (var i = lane; i < {fours}u; i += S) {{
{sum}
}}
//# unroll
for (var o = 1u; o < S; o *= 2) {{
squares += subgroupShuffleXor(squares, o);
}}
scales[r] = {reciprocal};
}}
"
        );
        return Ok(text);
    }
    Ok(format!(
        "var own: array<f32, (R + S - 1u) / S>;
//# unroll
for (var a = 0u; a < (R + S - 1) / S; a++) {{
let m = min(m0 + min(a * S + lane, R - 1u), last_row());
var squares = 0.0;
//# trips {fours}
for (var i = 0u; i < {fours}u; i++) {{
{sum}
}}
own[a] = {reciprocal};
}}
var scales: array<f32, R>;
//# unroll
for (var r = 0u; r < R; r++) {{
scales[r] = subgroupShuffle(own[r / S], r % S);
}}
"
    ))
}

/// Binds the rows that are left behind and defines what writes them.
pub(super) fn result(interface: &mut Interface, columns: u32) {
    interface.bind(Slot::Part(1), "gained", Access::ReadWrite, "array<f32>");
    let stride = width(columns).next_multiple_of(PAD as u32);
    let text: String = match columns.is_multiple_of(4) {
        true => ["x", "y", "z", "w"]
            .into_iter()
            .zip(0..)
            .map(|(c, j)| format!("    gained[i + {j}u] = value.{c};\n"))
            .collect(),
        false => each_column("gained", "n4", columns),
    };
    let inside = match columns.is_multiple_of(4) {
        true => "value".to_owned(),
        false => format!("select(vec4<f32>(0.0), value, 4u * n4 + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>({columns}u))"),
    };
    interface.function(format!(
        "fn store_gained(m: u32, n4: u32, value: vec4<f32>) {{
    let i = m * {stride}u + 4u * n4;
{text}}}

fn store_moment(m: u32, n4: u32, sum: f32) {{
    gained[m * {stride}u + {first}u + n4 / {fours}u] = sum;
}}

fn squared(n4: u32, value: vec4<f32>) -> f32 {{
    let inside = {inside};
    return dot(inside, inside);
}}
",
        first = first(columns),
        fours = GRANULE / 4,
    ));
}

/// Slots of `linear/broadcast_tile.wgsl`: `epilogue` makes the value of row m and vec4 `column4`, operand `gain` is the gain.
pub(super) fn slots(columns: String, epilogue: &str, gain: usize) -> Vec<(&'static str, String)> {
    let result = format!(
        "let value = {epilogue};
store(m, column4, value);
store_gained(m, column4, value * gain);
squares[c * R + r] = squared(column4, value);"
    );
    // The lanes that make the columns of one sum stand beside each other.
    let moments = format!(
        "//# unroll
for (var i = 0u; i < C4 * R; i++) {{
var sum = squares[i];
//# unroll
for (var o = 1u; o < {fours}u; o *= 2) {{
sum += subgroupShuffleXor(sum, o);
}}
let column4 = n4 + i / R * S;
if (lane % {fours}u == 0u && column4 < N4 && kept(m0 + i % R)) {{
store_moment(m0 + i % R, column4, sum);
}}
}}
",
        fours = GRANULE / 4
    );
    vec![
        ("columns", format!("{columns}let gain = load_e{gain}(0u, column4);\n")),
        ("result", result),
        ("scale", "var squares: array<f32, C4 * R>;\n".to_owned()),
        ("moments", moments),
    ]
}
