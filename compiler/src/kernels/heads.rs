//! Heads made ready for attention: normalised, turned by position, put into rows or caches.

use std::fmt::Write as _;

use warpweft_plan::{Access, Dim, Groups};

use super::KernelError;
use super::compose::{Composed, Draft, Slot};
use super::interface::{Interface, check_view};
use super::spec::{Destination, HeadPart, View};
use super::term::literal;
use crate::target::Target;

/// Invocations of a workgroup where there are no subgroups.
const INVOCATIONS: u32 = 64;

/// The slot `norm` where a workgroup is one subgroup: no barrier, which a CPU pays dearly for.
const SUBGROUP_NORM: &str = "var squares = 0.0;
//# trips C
for (var d = index; d < width(item); d += T) {
    let v = value(m, item, d);
    squares += v * v;
}
//# unroll
for (var o = 1u; o < T; o *= 2) {
    squares += subgroupShuffleXor(squares, o);
}
scale = normal(item, squares);";

/// Storage buffers that the parts need together.
pub fn storage_buffers(parts: &[HeadPart], vectors: usize) -> usize {
    let cached = parts.iter().any(|p| p.to == Destination::Cache);
    let rows = cached || parts.iter().any(|p| p.rotation.is_some());
    1 + vectors + usize::from(rows) + 2 * usize::from(cached) + parts.len()
}

impl HeadPart {
    /// Columns of one head.
    pub fn dim(&self) -> u32 {
        self.x.width / self.heads.max(1)
    }

    fn check(&self, vectors: usize) -> Result<(), KernelError> {
        check_view("x", self.x)?;
        let known = |v: usize| v < vectors;
        let rotates = self.rotation.is_none_or(|r| {
            r.rotary > 0 && r.rotary.is_multiple_of(2) && r.rotary <= self.dim() && known(r.frequencies)
        });
        let gained = self.norm.and_then(|n| n.gain).is_none_or(known);
        if self.heads == 0 || !self.x.width.is_multiple_of(self.heads) || !rotates || !gained {
            return Err(KernelError::Shape(format!("heads {self:?}")));
        }
        Ok(())
    }

    /// `value_i(m, head, d, scale)`, normalised, and `put_i(m, head, d, scale)`.
    fn functions(&self, i: usize, out: &str) -> Result<String, KernelError> {
        let (dim, View { stride, offset, .. }) = (self.dim(), self.x);
        let mut text = String::new();
        let gain = match self.norm {
            Some(norm) => norm.gain.map_or(" * scale".to_owned(), |g| format!(" * scale * vector{g}[d]")),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "fn value_{i}(m: u32, head: u32, d: u32, scale: f32) -> f32 {{
    return x[m * {stride}u + {offset}u + head * {dim}u + d]{gain};\n}}\n"
        );
        let row = match self.to {
            Destination::Rows => "m",
            Destination::Cache => "cache_row(m)",
        };
        let _ = writeln!(text, "fn put_{i}(m: u32, head: u32, d: u32, scale: f32) {{");
        match self.rotation {
            None => {
                let _ = writeln!(text, "    let value = value_{i}(m, head, d, scale);");
            }
            Some(r) => {
                let half = r.rotary / 2;
                let (second, pair, distance) = match r.interleaved {
                    true => ("d % 2u == 1u".to_owned(), "d / 2u".to_owned(), 1),
                    false => (format!("d >= {half}u"), format!("d % {half}u"), half),
                };
                let factor = if r.scale == 1.0 { String::new() } else { format!("{} * ", literal(r.scale)?) };
                let _ = writeln!(
                    text,
                    "    var value = value_{i}(m, head, d, scale);
    if (d < {rotary}u) {{
        let second = {second};
        let partner = value_{i}(m, head, select(d + {distance}u, d - {distance}u, second), scale);
        let turn = {factor}cos_sin(f32(rows[m].x) * vector{f}[{pair}]);
        value = value * turn.x + select(-partner, partner, second) * turn.y;
    }}",
                    rotary = r.rotary,
                    f = r.frequencies,
                );
            }
        }
        let out_stride = View::whole(self.x.width).stride;
        let _ = writeln!(text, "    {out}[{row} * {out_stride}u + head * {dim}u + d] = value;\n}}");
        Ok(text)
    }
}

fn out_name(i: usize, parts: &[HeadPart]) -> String {
    if parts.len() == 1 { "out".to_owned() } else { format!("out{i}") }
}

/// A function that takes the part's own function for the item-th head of all.
fn dispatch(head: &str, parts: &[HeadPart], line: impl Fn(usize, &HeadPart, String) -> String) -> String {
    let mut text = format!("{head} {{\n");
    let mut first = 0;
    for (i, part) in parts.iter().enumerate() {
        let end = first + part.heads;
        let item = if first == 0 { "item".to_owned() } else { format!("item - {first}u") };
        let body = line(i, part, item);
        let _ = match i + 1 < parts.len() {
            true => writeln!(text, "    if (item < {end}u) {{\n        {body}\n    }}"),
            false => writeln!(text, "    {body}"),
        };
        first = end;
    }
    text + "}\n"
}

/// Writes `heads/ready.wgsl`.
pub(crate) fn ready(parts: &[HeadPart], vectors: usize, target: &Target) -> Result<Composed, KernelError> {
    for part in parts {
        part.check(vectors)?;
    }
    let invocations = target.subgroup_size.unwrap_or(INVOCATIONS);
    let columns = parts.iter().map(HeadPart::dim).max().unwrap_or(0).div_ceil(invocations);
    let heads: u32 = parts.iter().map(|p| p.heads).sum();
    if heads == 0 {
        return Err(KernelError::Shape("no heads".to_owned()));
    }
    let mut interface = Interface::default();
    interface.bind(Slot::X, "x", Access::Read, "array<f32>");
    for i in 0..vectors {
        interface.bind(Slot::Vector(i), &format!("vector{i}"), Access::Read, "array<f32>");
    }
    let cached = parts.iter().any(|p| p.to == Destination::Cache);
    let rotates = parts.iter().any(|p| p.rotation.is_some());
    if cached || rotates {
        interface.rows_table();
    }
    if cached {
        interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
        interface.bind(Slot::Pages, "pages", Access::Read, "array<u32>");
        interface.function(
            "fn cache_row(m: u32) -> u32 {
    let row = rows[m];
    return pages[sequences[row.w].w + row.x / PAGE] * PAGE + row.x % PAGE;\n}\n"
                .to_owned(),
        );
    }
    if rotates {
        interface.function(include_str!("lib/cos_sin.wgsl").to_owned());
    }
    for (i, part) in parts.iter().enumerate() {
        interface.function(part.functions(i, &out_name(i, parts))?);
        interface.bind(Slot::Part(i), &out_name(i, parts), Access::ReadWrite, "array<f32>");
    }
    interface.bind(Slot::Step, "step", Access::Uniform, "vec4<u32>");
    interface.function(dispatch("fn width(item: u32) -> u32", parts, |_, p, _| format!("return {}u;", p.dim())));
    let put = "fn put(m: u32, item: u32, d: u32, scale: f32)";
    interface.function(dispatch(put, parts, |i, _, item| match i + 1 < parts.len() {
        true => format!("put_{i}(m, {item}, d, scale);\n        return;"),
        false => format!("put_{i}(m, {item}, d, scale);"),
    }));
    let norms = parts.iter().any(|p| p.norm.is_some());
    let mut slots = Vec::new();
    if norms {
        let head = "fn value(m: u32, item: u32, d: u32) -> f32";
        interface.function(dispatch(head, parts, |_, p, item| {
            let (View { stride, offset, .. }, dim) = (p.x, p.dim());
            format!("return x[m * {stride}u + {offset}u + ({item}) * {dim}u + d];")
        }));
        let epsilons =
            parts.iter().map(|p| p.norm.map(|n| literal(n.eps)).transpose()).collect::<Result<Vec<_>, _>>()?;
        let head = "fn normal(item: u32, squares: f32) -> f32";
        interface.function(dispatch(head, parts, |i, p, _| match &epsilons[i] {
            Some(eps) => format!("return 1.0 / sqrt(squares / {}.0 + {eps});", p.dim()),
            None => "return 1.0;".to_owned(),
        }));
    } else {
        slots.push(("norm", String::new()));
        slots.push(("sums", String::new()));
    }
    if norms && target.subgroup_size.is_some() {
        slots.push(("norm", SUBGROUP_NORM.to_owned()));
        slots.push(("sums", String::new()));
    }
    let width: i64 = parts.iter().map(|p| i64::from(p.x.width)).sum();
    let what = |p: &HeadPart| {
        let norm = if p.norm.is_some() { "norm" } else { "" };
        let rope = p.rotation.map_or("", |r| if r.interleaved { "turn2" } else { "turn" });
        let to = if p.to == Destination::Cache { "cache" } else { "" };
        format!("{}x{}{norm}{rope}{to}", p.heads, p.dim())
    };
    Draft {
        name: format!("heads_{}", parts.iter().map(what).collect::<Vec<_>>().join("_")),
        source: include_str!("heads/ready.wgsl"),
        constants: vec![("T", invocations, "invocations"), ("C", columns, "the most columns of an invocation")],
        slots,
        interface,
        workgroup: invocations,
        grid: [Groups { dim: Dim::constant(heads.into()), per: 1 }, Groups { dim: Dim::TOKENS, per: 1 }, Groups::ONE],
        flops: Dim::TOKENS * (4 * width),
        bytes: Dim::TOKENS * (8 * width),
    }
    .finish(target)
}
