//! Norms in front of a linear: a workgroup finds the statistics of the rows that it reads, then normalises what it reads.
//!
//! The text is of three parts: functions `stage0` (x), `stage1` (after the first norm) and so on, which need a row's
//! statistics `s` = (mean, scale of the first norm, mean, scale of the second); loops over the row that find `s`, in two
//! passes where there is a mean, so that a large mean does not cancel; and the call of the last stage instead of `load_x`.

use warpweft_plan::{Access, Work};

use super::cost::linear::NormShape;
use super::interface::{Interface, count};
use super::linear::operands_bytes;
use super::spec::{Binary, Norm, Operand, Prologue, RowNorm, Rows, Term, View};
use super::term::{literal, reads};
use super::{KernelError, Slot};

/// A prologue with the sizes of its rows.
#[derive(Clone, Copy)]
pub(crate) struct Normed<'a> {
    pub(crate) prologue: &'a Prologue,
    pub(crate) x: View,
    pub(crate) rows: Rows,
}

/// What a lane does for four values of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NormCost {
    /// To take them into the statistics.
    pub statistics: Work,
    /// To normalise them, x being read.
    pub reading: Work,
}

impl NormCost {
    /// Of norms one after the other, each with the number of tensors that its term reads. Nothing hides a load while
    /// statistics are found, so it counts as a scattered one there.
    pub fn of(norms: &[(Norm, usize)]) -> NormCost {
        // What a value costs in arithmetic for each norm that it has been through.
        const EACH: f64 = 8.0;
        let mut cost = NormCost::default();
        let mut read = 0.0;
        for &(norm, operands) in norms {
            let passes = if norm == Norm::Layer { 2.0 } else { 1.0 };
            let found = Work { fmas: EACH, scattered: 1.0 + read, ..Work::default() };
            cost.statistics = cost.statistics.and(found.times(passes));
            cost.reading = cost.reading.and(Work { fmas: EACH, loads: operands as f64, ..Work::default() });
            read += operands as f64;
        }
        cost
    }
}

/// Texts of slots.
type Slots = Vec<(&'static str, String)>;

/// Names of mean and scale of the norm of that index.
const STATISTICS: [[&str; 2]; 2] = [["s.x", "s.y"], ["s.z", "s.w"]];

impl<'a> Normed<'a> {
    pub(crate) fn new(prologue: &'a Prologue, x: View, rows: Rows) -> Result<Normed<'a>, KernelError> {
        if prologue.norms.is_empty() || prologue.norms.len() > STATISTICS.len() {
            return Err(KernelError::Shape(format!("{} norms in front of a linear", prologue.norms.len())));
        }
        Ok(Normed { prologue, x, rows })
    }

    /// Binds what the terms read and defines the stages.
    /// `reach` is how many columns of x a kernel asks for; those beyond its width are zeros.
    pub(crate) fn functions(&self, interface: &mut Interface, reach: u32) -> Result<(), KernelError> {
        let Prologue { norms, operands, .. } = self.prologue;
        interface.operands_of("p", Slot::Prologue, operands, self.x.width, self.rows)?;
        let masked = match self.x.width.is_multiple_of(8) && reach <= self.x.width {
            true => "value".to_owned(),
            false => format!(
                "select(vec4<f32>(0.0), value, 4u * k4 + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>({}u))",
                self.x.width
            ),
        };
        interface.function(format!(
            "fn masked(k4: u32, value: vec4<f32>) -> vec4<f32> {{
    return {masked};
}}

fn stage0(m: u32, k4: u32, s: vec4<f32>) -> vec4<f32> {{
    return masked(k4, load_x(m, k4));
}}
"
        ));
        for (i, (norm, [mean, scale])) in norms.iter().zip(STATISTICS).enumerate() {
            interface.term_of(&format!("norm{i}"), "p", operands.len(), &norm.term)?;
            let input = format!("stage{i}(m, k4, s)");
            let value = match norm.norm {
                Norm::Layer => format!("({input} - {mean}) * {scale}"),
                Norm::Rms | Norm::L2 => format!("{input} * {scale}"),
            };
            interface.function(format!(
                "fn stage{}(m: u32, k4: u32, s: vec4<f32>) -> vec4<f32> {{
    return masked(k4, norm{i}(m, k4, {value}));
}}
",
                i + 1
            ));
        }
        Ok(())
    }

    /// Binds the rows that are left behind, if they are.
    pub(crate) fn result(&self, interface: &mut Interface) {
        if self.prologue.carried {
            interface.bind(Slot::Part(1), "carried", Access::ReadWrite, "array<vec4<f32>>");
        }
    }

    /// x after all norms.
    fn value(&self, row: &str, k4: &str, statistics: &str) -> String {
        format!("stage{}({row}, {k4}, {statistics})", self.prologue.norms.len())
    }

    /// `let m` and `var s`, the statistics of a row; the first workgroups along columns leave it behind, if any does.
    fn statistics(&self, walk: &Walk) -> Result<String, KernelError> {
        let Walk { row, first, stride, total } = *walk;
        let each = |body: &str| {
            format!(
                "//# trips (K8 * 2 + {stride} - 1) / {stride}
for (var k4 = {first}; k4 < K8 * 2u; k4 += {stride}) {{
{body}
}}
"
            )
        };
        let mut text = format!("let m = min({row}, last_row());\nvar s = vec4<f32>(0.0, 1.0, 0.0, 1.0);\n");
        for (i, (RowNorm { norm, eps, .. }, [mean, scale])) in self.prologue.norms.iter().zip(STATISTICS).enumerate() {
            let input = format!("stage{i}(m, k4, s)");
            let mut centered = input.clone();
            if *norm == Norm::Layer {
                let sum = format!("sum{i}");
                text += &format!("var {sum} = 0.0;\n");
                text += &each(&format!("let part = {input};\n{sum} += (part.x + part.y) + (part.z + part.w);"));
                text += &total(&sum);
                text += &format!("{mean} = {sum} / f32(WIDTH);\n");
                centered = format!("masked(k4, {input} - {mean})");
            }
            let squares = format!("squares{i}");
            text += &format!("var {squares} = 0.0;\n");
            text += &each(&format!("let part = {centered};\n{squares} += dot(part, part);"));
            text += &total(&squares);
            text += &format!("{scale} = {};\n", reciprocal(*norm, &squares, *eps)?);
        }
        if self.prologue.carried {
            let store = each("carried[m * (K8 * 2u) + k4] = stage1(m, k4, s);");
            text += &format!("if (group.x == 0u && {row} < {}) {{\n{store}}}\n", count(self.rows));
        }
        Ok(text)
    }

    /// Slots of `linear/broadcast_tile.wgsl`: the lanes together, row by row; each keeps what its own x need.
    pub(crate) fn broadcast_slots(&self, afterwards: bool) -> Result<Slots, KernelError> {
        let item = "k * H + item % (H * U)";
        if afterwards {
            let scale = total_of_subgroup("squares") + &self.scale_afterwards()?;
            let x = passing_x("m0", item, "xs[i]", "item < H * U");
            return Ok(vec![("statistics", "var squares = 0.0;".to_owned()), ("x", x), ("scale", scale)]);
        }
        let walk = Walk { row: "m0 + r", first: "lane", stride: "S", total: total_of_subgroup };
        let statistics = format!(
            "var statistics: array<vec4<f32>, X>;
//# trips R
for (var r = 0u; r < R; r++) {{
{}//# unroll
for (var i = 0u; i < X; i++) {{
if ((i * S + lane) / (H * U) % R == r) {{
statistics[i] = s;
}}
}}
}}",
            self.statistics(&walk)?
        );
        let x = format!("xs[i] = {};", self.value("ms[i]", item, "statistics[i]"));
        Ok(vec![("statistics", statistics), ("x", x)])
    }

    /// Slots of `linear/split_dot.wgsl`: the invocations together, row by row.
    pub(crate) fn split_slots(&self, afterwards: bool) -> Result<Slots, KernelError> {
        let item = "k * H + h";
        if afterwards {
            return Ok(vec![
                ("statistics", "var squares = 0.0;".to_owned()),
                ("x", passing_x("m0", item, "let xr", "true")),
                ("share", "parts[P * R * T + index] = vec4<f32>(squares);".to_owned()),
                ("shares", "squares += parts[P * R * T + index + other * (T / KS)].x;".to_owned()),
                ("scale", self.scale_afterwards()?),
            ]);
        }
        let walk = Walk { row: "m0 + r", first: "index", stride: "T", total: total_of_workgroup };
        let statistics = format!(
            "var statistics: array<vec4<f32>, R>;
//# unroll
for (var r = 0u; r < R; r++) {{
{}statistics[r] = s;
}}",
            self.statistics(&walk)?
        );
        let x = format!("let xr = {};", self.value("min(m0 + r, last_row())", item, "statistics[r]"));
        Ok(vec![("statistics", statistics), ("x", x)])
    }

    /// Slots of `linear/workgroup_tile.wgsl`: as many invocations for each row of the tile as there are.
    pub(crate) fn workgroup_slots(&self) -> Result<Slots, KernelError> {
        let walk = Walk {
            row: "m0 + index / (TX / R)",
            first: "index % (TX / R)",
            stride: "(TX / R)",
            total: total_of_neighbors,
        };
        let statistics = format!(
            "{}if (index % (TX / R) == 0u) {{
statistics[index / (TX / R)] = s;
}}
workgroupBarrier();",
            self.statistics(&walk)?
        );
        let memory = "var<workgroup> parts: array<f32, T>;\nvar<workgroup> statistics: array<vec4<f32>, TY * R>;";
        let row = "min(m0 + item / (2u * KO), last_row())";
        let x = self.value(row, "k8 * 2u + item % (2u * KO)", "statistics[item / (2u * KO)]");
        Ok(vec![("memory", memory.to_owned()), ("statistics", statistics), ("x", format!("xs[item] = {x};"))])
    }

    /// Whether the scale can follow the contraction: `Σ_k (x_k s g_k) w_k = s Σ_k x_k g_k w_k`, and s follows from the
    /// squares of the x that pass by.
    pub(crate) fn scales_afterwards(&self) -> bool {
        let Prologue { norms, carried, .. } = self.prologue;
        match norms.as_slice() {
            [RowNorm { norm: Norm::Rms, term, .. }] => !carried && is_factor(term),
            _ => false,
        }
    }

    /// The scale, once `squares` is the sum over the row.
    fn scale_afterwards(&self) -> Result<String, KernelError> {
        let RowNorm { norm, eps, .. } = self.prologue.norms[0];
        Ok(format!("let scale = {};", reciprocal(norm, "squares", eps)?))
    }

    /// What its time depends on.
    pub(crate) fn shape(&self) -> NormShape {
        let Prologue { norms, operands, carried } = self.prologue;
        let read = |term: &Term| (0..operands.len()).filter(|i| reads(term, &Term::Operand(*i))).count();
        let norms: Vec<_> = norms.iter().map(|norm| (norm.norm, read(&norm.term))).collect();
        let [row, once] = operands_bytes(operands, self.x.width);
        let carried = if *carried { 4 * i64::from(self.x.width) } else { 0 };
        NormShape { cost: NormCost::of(&norms), afterwards: self.scales_afterwards(), operands: [row + carried, once] }
    }

    /// For kernels' names.
    pub(crate) fn name(&self) -> String {
        let norm = |norm: &RowNorm| match norm.norm {
            Norm::Layer => "layer_",
            Norm::Rms => "rms_",
            Norm::L2 => "l2_",
        };
        let norms: String = self.prologue.norms.iter().map(norm).collect();
        format!("{norms}{}", if self.prologue.carried { "carrying_" } else { "" })
    }
}

/// How the invocations of a workgroup walk along a row and add up what they found.
struct Walk {
    /// The row, which may be behind the last one.
    row: &'static str,
    /// The first vec4 of an invocation.
    first: &'static str,
    /// From one of its vec4s to the next.
    stride: &'static str,
    /// What makes of a variable of each invocation the sum over those that share the row.
    total: fn(&str) -> String,
}

/// Reads x in front of its gain, and counts its squares where `once`, which says which of several readers counts.
fn passing_x(row: &str, k4: &str, x: &str, once: &str) -> String {
    format!(
        "let k4 = {k4};
let raw = stage0({row}, k4, vec4<f32>());
squares += select(0.0, dot(raw, raw), {once});
{x} = norm0({row}, k4, raw);"
    )
}

fn total_of_subgroup(variable: &str) -> String {
    format!(
        "//# unroll
for (var o = 1u; o < S; o *= 2) {{
{variable} += subgroupShuffleXor({variable}, o);
}}
"
    )
}

/// Over a workgroup, through `parts`. The doubling is a sum, which drivers don't take for a counter: those that unroll
/// what they can count take seconds to compile the barriers.
fn total_of_workgroup(variable: &str) -> String {
    format!(
        "parts[index].x = {variable};
workgroupBarrier();
//# trips 8
for (var o = 1u; o < T; o += o) {{
if (index % (2u * o) == 0u) {{
parts[index].x += parts[index + o].x;
}}
workgroupBarrier();
}}
{variable} = parts[0].x;
workgroupBarrier();
"
    )
}

/// Over the neighbours that share a row, through `parts`.
fn total_of_neighbors(variable: &str) -> String {
    format!(
        "parts[index] = {variable};
workgroupBarrier();
{variable} = 0.0;
//# unroll
for (var o = 0u; o < TX / R; o++) {{
{variable} += parts[index / (TX / R) * (TX / R) + o];
}}
workgroupBarrier();
"
    )
}

/// One over the deviation of a row, given the sum of its squares.
pub(crate) fn reciprocal(norm: Norm, squares: &str, eps: f32) -> Result<String, KernelError> {
    let eps = literal(eps)?;
    Ok(match norm {
        Norm::Layer | Norm::Rms => format!("1.0 / sqrt({squares} / f32(WIDTH) + {eps})"),
        Norm::L2 => format!("1.0 / max(sqrt({squares}), {eps})"),
    })
}

/// Whether a term is `acc` times what does not depend on it.
fn is_factor(term: &Term) -> bool {
    let free = |t: &Term| !reads(t, &Term::Acc);
    match term {
        Term::Acc => true,
        Term::Binary(Binary::Mul, a, b) => (is_factor(a) && free(b)) || (free(a) && is_factor(b)),
        Term::Binary(Binary::Div, a, b) => is_factor(a) && free(b),
        Term::Binary(Binary::Add | Binary::Sub, ..) => false,
        Term::Acc2 | Term::Operand(_) | Term::Constant(_) | Term::Unary(..) | Term::BandMask { .. } => false,
    }
}

/// Matrices among a prologue's operands.
pub fn matrices(prologue: &Prologue) -> usize {
    prologue.operands.iter().filter(|o| matches!(o, Operand::Matrix(_))).count()
}
