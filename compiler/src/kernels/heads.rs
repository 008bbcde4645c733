//! Heads made ready for attention: normalised, turned by position, put into rows or caches.

use std::fmt::Write as _;

use warpweft_plan::{Access, CacheRows, Dim};

use super::KernelError;
use super::compose::{Composed, Draft, Slot};
use super::cost;
use super::interface::{Interface, check_view};
use super::spec::{Destination, HeadPart, View};
use super::stored::Stored;
use super::term::literal;
use crate::target::Target;

/// Invocations of a workgroup where there are no subgroups.
const INVOCATIONS: u32 = 64;

/// The slot `norm` where a workgroup is one subgroup: no barrier, which a CPU pays dearly for.
const SUBGROUP_NORM: &str = "var squares = 0.0;
//# trips C
for (var d = index; d < width(item); d += T) {
    squares += squared(value(m, item, d));
}
//# unroll
for (var o = 1u; o < T; o *= 2) {
    squares += subgroupShuffleXor(squares, o);
}
scale = normal(item, squares);";

/// The slot `unit` where a workgroup is one subgroup: by what a cache's format divides the columns of a head.
const SUBGROUP_UNIT: &str = "var most = 0.0;
//# trips P
for (var d = index; d < puts(item); d += T) {
    most = max(most, greatest_of(m, position, item, d, scale));
}
//# unroll
for (var o = 1u; o < T; o *= 2) {
    most = max(most, subgroupShuffleXor(most, o));
}
unit = scale_of(most);";

/// The same without subgroups.
const WORKGROUP_UNIT: &str = "var most = 0.0;
//# trips P
for (var d = index; d < puts(item); d += T) {
    most = max(most, greatest_of(m, position, item, d, scale));
}
workgroupBarrier();
sums[index] = most;
workgroupBarrier();
//# unroll
for (var i = 0u; i < T; i++) {
    most = max(most, sums[i]);
}
unit = scale_of(most);";

/// The slot `put_unit`.
const PUT_UNIT: &str = "if (index == 0u) {
    put_unit(to, item, unit);
}";

/// Storage buffers that the parts need together.
pub fn storage_buffers(parts: &[HeadPart], vector: u32) -> usize {
    let cached = parts.iter().any(|p| p.cache().is_some());
    let rows = cached || parts.iter().any(|p| p.rotation.is_some());
    1 + usize::from(vector > 0) + usize::from(rows) + 2 * usize::from(cached) + parts.len()
}

impl HeadPart {
    /// Columns of one head.
    pub fn dim(&self) -> u32 {
        self.x.width / self.heads.max(1)
    }

    /// The rows of the cache that it goes to.
    pub fn cache(&self) -> Option<CacheRows> {
        match self.to {
            Destination::Rows => None,
            Destination::Cache(format) => Some(CacheRows { format, heads: self.heads, columns: self.dim() }),
        }
    }

    /// The same, as it is put.
    fn stored(&self) -> Option<Stored> {
        self.cache().map(|rows| Stored::whole(rows, 1))
    }

    /// Units of a head that are put.
    fn puts(&self, unit: Unit) -> u32 {
        self.stored().map_or(self.dim() / unit.columns(), |cache| cache.vectors())
    }

    pub(super) fn check(&self, vector: u32) -> Result<(), KernelError> {
        check_view("x", self.x)?;
        let known = |first: u32, count: u32| first.checked_add(count).is_some_and(|end| end <= vector);
        let rotates = self.rotation.is_none_or(|r| {
            r.rotary > 0 && r.rotary.is_multiple_of(2) && r.rotary <= self.dim() && known(r.frequencies, r.rotary / 2)
        });
        let gained = self.norm.and_then(|n| n.gain).is_none_or(|gain| known(gain, self.dim()));
        if self.heads == 0 || !self.x.width.is_multiple_of(self.heads) || !rotates || !gained {
            return Err(KernelError::Shape(format!("heads {self:?}")));
        }
        Ok(())
    }

    /// Whether columns can be taken by four.
    fn by_four(&self) -> bool {
        let turns = self
            .rotation
            .is_none_or(|r| !r.interleaved && r.rotary.is_multiple_of(8) && r.frequencies.is_multiple_of(4));
        let gained = self.norm.and_then(|n| n.gain).is_none_or(|gain| gain.is_multiple_of(4));
        self.x.offset.is_multiple_of(4) && self.dim().is_multiple_of(4) && turns && gained
    }

    /// `value_name(m, head, d, scale)`, normalised, and `turned_name(m, position, head, d, scale)`.
    pub(super) fn turned(&self, name: &str, unit: Unit) -> Result<String, KernelError> {
        let columns = unit.columns();
        let (dim, stride, offset) = (self.dim() / columns, self.x.stride / columns, self.x.offset / columns);
        let kind = unit.kind();
        let mut text = String::new();
        let gain = match self.norm {
            Some(norm) => {
                norm.gain.map_or(" * scale".to_owned(), |g| format!(" * scale * vector[{}d]", after(g / columns)))
            }
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "fn value_{name}(m: u32, head: u32, d: u32, scale: f32) -> {kind} {{
    return x[m * {stride}u + {offset}u + head * {dim}u + d]{gain};\n}}\n"
        );
        let _ = writeln!(text, "fn turned_{name}(m: u32, position: f32, head: u32, d: u32, scale: f32) -> {kind} {{");
        match self.rotation {
            None => {
                let _ = writeln!(text, "    return value_{name}(m, head, d, scale);");
            }
            Some(r) => {
                let half = r.rotary / 2 / columns;
                let (second, pair, distance) = match r.interleaved {
                    true => ("d % 2u == 1u".to_owned(), "d / 2u".to_owned(), 1),
                    false => (format!("d >= {half}u"), format!("d % {half}u"), half),
                };
                let factor = if r.scale == 1.0 { String::new() } else { format!("{} * ", literal(r.scale)?) };
                let _ = writeln!(
                    text,
                    "    var value = value_{name}(m, head, d, scale);
    if (d < {rotary}u) {{
        let second = {second};
        let partner = value_{name}(m, head, select(d + {distance}u, d - {distance}u, second), scale);
        let turn = cos_sin(vec4<f32>(position * vector[{f}{pair}]));
        value = {factor}(value * turn.cos{part} + select(-partner, partner, second) * turn.sin{part});
    }}
    return value;",
                    rotary = r.rotary / columns,
                    f = after(r.frequencies / columns),
                    part = unit.part(),
                );
            }
        }
        Ok(text + "}\n")
    }

    /// `put_i(m, to, position, head, d, scale, unit)`, and for a cache with scales `greatest_of_i(m, position, head, d,
    /// scale)` and `put_scale_outi(to, head, unit)`.
    fn put(&self, i: usize, out: &str, unit: Unit) -> Result<String, KernelError> {
        let head = format!(
            "fn put_{i}(m: u32, to: u32, position: f32, head: u32, d: u32, scale: f32, unit: f32) {{
"
        );
        let Some(cache) = self.stored() else {
            let (stride, dim) = (View::whole(self.x.width).stride / unit.columns(), self.dim() / unit.columns());
            let place = format!("{out}[m * {stride}u + head * {dim}u + d]");
            return Ok(format!("{head}    {place} = turned_{i}(m, position, head, d, scale);\n}}\n"));
        };
        let ready = self.ready(&i.to_string(), unit, cache.vectors())?;
        let put = cache.put(out);
        let scaled = cache.rows.format.is_scaled();
        let over = if scaled { " / unit" } else { "" };
        let put_four = format!("{head}    put_{out}(to, head, d, ready_{i}(m, head, d, scale){over});\n}}\n");
        let greatest = match scaled {
            false => String::new(),
            true => format!(
                "\nfn greatest_of_{i}(m: u32, position: f32, head: u32, d: u32, scale: f32) -> f32 {{
    return greatest(ready_{i}(m, head, d, scale));\n}}\n"
            ),
        };
        Ok([ready, put, put_four].join("\n") + &greatest)
    }
}

/// What an invocation handles at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Column,
    Four,
}

/// What an invocation can handle at once of all parts of a matrix.
pub(super) fn unit_of(parts: &[HeadPart]) -> Unit {
    if parts.iter().all(HeadPart::by_four) { Unit::Four } else { Unit::Column }
}

impl Unit {
    pub(super) fn columns(self) -> u32 {
        match self {
            Unit::Column => 1,
            Unit::Four => 4,
        }
    }

    pub(super) fn kind(self) -> &'static str {
        match self {
            Unit::Column => "f32",
            Unit::Four => "vec4<f32>",
        }
    }

    /// What it is of a vec4.
    fn part(self) -> &'static str {
        match self {
            Unit::Column => ".x",
            Unit::Four => "",
        }
    }

    /// The sum of its squares, `v` being its value.
    fn squares(self) -> &'static str {
        match self {
            Unit::Column => "v * v",
            Unit::Four => "dot(v, v)",
        }
    }
}

/// What an index that begins at `first` is added to.
fn after(first: u32) -> String {
    if first == 0 { String::new() } else { format!("{first}u + ") }
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

/// How heads that are so wide together are made ready, before it is known what else is done to them.
pub(crate) fn launch(heads: u32, width: u32, target: &Target) -> cost::Launch {
    let invocations = target.subgroup_size.unwrap_or(INVOCATIONS);
    let units = width.div_ceil(heads.max(1)).div_ceil(4).div_ceil(invocations);
    cost::rowwise::heads(heads, units, invocations)
}

/// Writes `heads/ready.wgsl`.
pub(crate) fn ready(parts: &[HeadPart], vector: u32, target: &Target) -> Result<Composed, KernelError> {
    for part in parts {
        part.check(vector)?;
    }
    let unit = unit_of(parts);
    let invocations = target.subgroup_size.unwrap_or(INVOCATIONS);
    let most = |units: fn(&HeadPart, Unit) -> u32| {
        parts.iter().map(|p| units(p, unit)).max().unwrap_or(0).div_ceil(invocations)
    };
    let (units, puts) = (most(|p, unit| p.dim() / unit.columns()), most(HeadPart::puts));
    let heads: u32 = parts.iter().map(|p| p.heads).sum();
    if heads == 0 {
        return Err(KernelError::Shape("no heads".to_owned()));
    }
    let kind = unit.kind();
    let array = format!("array<{kind}>");
    let mut interface = Interface::of(target);
    interface.bind(Slot::X, "x", Access::Read, &array);
    if vector > 0 {
        interface.bind(Slot::Vectors, "vector", Access::Read, &array);
    }
    let caches: Vec<CacheRows> = parts.iter().filter_map(HeadPart::cache).collect();
    let cached = !caches.is_empty();
    if caches.iter().any(|rows| rows.format != caches[0].format) {
        return Err(KernelError::Shape(format!("caches of several formats: {caches:?}")));
    }
    let rotates = parts.iter().any(|p| p.rotation.is_some());
    if cached || rotates {
        interface.rows_table();
    }
    let position = if rotates { "f32(rows[m].x)" } else { "0.0" };
    interface.function(format!("fn position_of(m: u32) -> f32 {{\n    return {position};\n}}\n"));
    let mut place = "    return m;";
    if cached {
        interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
        interface.bind(Slot::Pages, "pages", Access::Read, "array<u32>");
        place = "    let row = rows[m];
    return pages[sequences[row.w].w + row.x / PAGE] * PAGE + row.x % PAGE;";
    }
    interface.function(format!("fn cache_row(m: u32) -> u32 {{\n{place}\n}}\n"));
    if rotates {
        interface.function(include_str!("lib/cos_sin.wgsl").to_owned());
    }
    for (i, part) in parts.iter().enumerate() {
        interface.function(part.turned(&i.to_string(), unit)?);
        interface.function(part.put(i, &out_name(i, parts), unit)?);
        match part.stored() {
            Some(cache) => cache.bind(Slot::Part(i), &out_name(i, parts), Access::ReadWrite, &mut interface),
            None => interface.bind(Slot::Part(i), &out_name(i, parts), Access::ReadWrite, &array),
        }
    }
    interface.bind(Slot::Step, "step", Access::Uniform, "vec4<u32>");
    interface.function(dispatch("fn width(item: u32) -> u32", parts, |_, p, _| {
        format!("return {}u;", p.dim() / unit.columns())
    }));
    let head = "fn puts(item: u32) -> u32";
    interface.function(dispatch(head, parts, |_, p, _| format!("return {}u;", p.puts(unit))));
    let leave = |i: usize| if i + 1 < parts.len() { "\n        return;" } else { "" };
    let head = "fn put(m: u32, to: u32, position: f32, item: u32, d: u32, scale: f32, unit: f32)";
    interface.function(dispatch(head, parts, |i, _, item| {
        format!("put_{i}(m, to, position, {item}, d, scale, unit);{}", leave(i))
    }));
    let scaled = |p: &HeadPart| p.cache().is_some_and(|rows| rows.format.is_scaled());
    if parts.iter().any(scaled) {
        let head = "fn greatest_of(m: u32, position: f32, item: u32, d: u32, scale: f32) -> f32";
        interface.function(dispatch(head, parts, |i, p, item| match scaled(p) {
            true => format!("return greatest_of_{i}(m, position, {item}, d, scale);"),
            false => "return 0.0;".to_owned(),
        }));
        let head = "fn put_unit(to: u32, item: u32, unit: f32)";
        interface.function(dispatch(head, parts, |i, p, item| match scaled(p) {
            true => format!("put_scale_{}(to, {item}, unit);{}", out_name(i, parts), leave(i)),
            false => leave(i).trim_start().to_owned(),
        }));
    }
    let norms = parts.iter().any(|p| p.norm.is_some());
    let mut slots = Vec::new();
    if norms {
        let head = format!("fn value(m: u32, item: u32, d: u32) -> {kind}");
        interface.function(dispatch(&head, parts, |_, p, item| {
            let columns = unit.columns();
            let (stride, offset, dim) = (p.x.stride / columns, p.x.offset / columns, p.dim() / columns);
            format!("return x[m * {stride}u + {offset}u + ({item}) * {dim}u + d];")
        }));
        interface.function(format!("fn squared(v: {kind}) -> f32 {{\n    return {};\n}}\n", unit.squares()));
        let epsilons =
            parts.iter().map(|p| p.norm.map(|n| literal(n.eps)).transpose()).collect::<Result<Vec<_>, _>>()?;
        let head = "fn normal(item: u32, squares: f32) -> f32";
        interface.function(dispatch(head, parts, |i, p, _| match &epsilons[i] {
            Some(eps) => format!("return 1.0 / sqrt(squares / {}.0 + {eps});", p.dim()),
            None => "return 1.0;".to_owned(),
        }));
        if target.subgroup_size.is_some() {
            slots.push(("norm", SUBGROUP_NORM.to_owned()));
            slots.push(("sums", String::new()));
        }
    } else {
        slots.push(("norm", String::new()));
        if target.subgroup_size.is_some() || !parts.iter().any(scaled) {
            slots.push(("sums", String::new()));
        }
    }
    if parts.iter().any(scaled) {
        let text = if target.subgroup_size.is_some() { SUBGROUP_UNIT } else { WORKGROUP_UNIT };
        slots.extend([("unit", text.to_owned()), ("put_unit", PUT_UNIT.to_owned())]);
    }
    let width: i64 = parts.iter().map(|p| i64::from(p.x.width)).sum();
    let what = |p: &HeadPart| {
        let norm = if p.norm.is_some() { "norm" } else { "" };
        let rope = p.rotation.map_or("", |r| if r.interleaved { "turn2" } else { "turn" });
        let to = p.cache().map_or(String::new(), |rows| format!("{}cache", rows.format));
        format!("{}x{}{norm}{rope}{to}", p.heads, p.dim())
    };
    Draft {
        name: format!("heads_{}", parts.iter().map(what).collect::<Vec<_>>().join("_")),
        source: include_str!("heads/ready.wgsl"),
        constants: vec![
            ("T", invocations, "invocations"),
            ("C", units, "the most units of an invocation"),
            ("P", puts, "the most units that an invocation puts"),
        ],
        slots,
        interface,
        launch: cost::rowwise::heads(heads, units, invocations),
        flops: Dim::TOKENS * (4 * width),
        bytes: Dim::TOKENS * (8 * width),
    }
    .finish(target)
}
