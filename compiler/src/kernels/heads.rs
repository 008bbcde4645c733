//! Heads made ready for attention: normalised, turned by position, put into rows or caches.

mod text;

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
pub(super) use text::Heads;

/// Invocations of a workgroup where there are no subgroups.
const INVOCATIONS: u32 = 64;

/// The most units that an invocation keeps in `heads/pairs.wgsl`.
const MOST_UNITS: u32 = 8;

/// The slot `norm` where a workgroup is one subgroup: no barrier, which a CPU pays dearly for.
const SUBGROUP_NORM: &str = "var squares = 0.0;
//# trips C
for (var d = index; d < width(item); d += T) {
    squares += squared(raw(m, item, d));
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
    most = max(most, greatest(ready(m, position, item, d, scale)));
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
    most = max(most, greatest(ready(m, position, item, d, scale)));
}
workgroupBarrier();
sums[index] = most;
workgroupBarrier();
//# unroll
for (var i = 0u; i < T; i++) {
    most = max(most, sums[i]);
}
unit = scale_of(most);";

/// The same in `heads/pairs.wgsl`.
const PAIRS_UNIT: &str = "var most = 0.0;
//# unroll
for (var i = 0u; i < C; i++) {
    most = max(most, greatest(values[i]));
}
//# unroll
for (var o = 1u; o < T; o *= 2) {
    most = max(most, subgroupShuffleXor(most, o));
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

    /// Whether each of its heads is put with a scale.
    fn is_scaled(&self) -> bool {
        self.cache().is_some_and(|rows| rows.format.is_scaled())
    }

    /// The rows of its cache, as they are put.
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

    /// `put_i(m, to, head, d, value, unit)`.
    fn put(&self, i: usize, out: &str, unit: Unit, longs: bool) -> String {
        let (own, kind, put) = match self.stored() {
            None => {
                let (stride, dim) = (View::whole(self.x.width).stride / unit.columns(), self.dim() / unit.columns());
                (String::new(), unit.kind(), format!("{out}[m * {stride}u + head * {dim}u + d] = value;"))
            }
            Some(cache) => {
                let over = if self.is_scaled() { " / unit" } else { "" };
                (cache.put(out, longs) + "\n", "vec4<f32>", format!("put_{out}(to, head, d, value{over});"))
            }
        };
        format!("{own}fn put_{i}(m: u32, to: u32, head: u32, d: u32, value: {kind}, unit: f32) {{\n    {put}\n}}\n")
    }
}

/// What an invocation handles at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Column,
    Four,
}

/// What an invocation can handle at once of all parts of a matrix.
fn unit_of(parts: &[HeadPart]) -> Unit {
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

/// Writes `heads/ready.wgsl`, or `heads/pairs.wgsl` where an invocation has both units of each pair.
pub(crate) fn ready(parts: &[HeadPart], vector: u32, target: &Target) -> Result<Composed, KernelError> {
    for part in parts {
        part.check(vector)?;
    }
    let heads = Heads::new(parts, "");
    let unit = heads.unit;
    let invocations = target.subgroup_size.unwrap_or(INVOCATIONS);
    let most = |units: fn(&HeadPart, Unit) -> u32| {
        parts.iter().map(|p| units(p, unit)).max().unwrap_or(0).div_ceil(invocations)
    };
    let (units, puts) = (most(|p, unit| p.dim() / unit.columns()), most(HeadPart::puts));
    let count: u32 = parts.iter().map(|p| p.heads).sum();
    if count == 0 {
        return Err(KernelError::Shape("no heads".to_owned()));
    }
    let caches: Vec<CacheRows> = parts.iter().filter_map(HeadPart::cache).collect();
    if caches.iter().any(|rows| rows.format != caches[0].format) {
        return Err(KernelError::Shape(format!("caches of several formats: {caches:?}")));
    }
    let by_pairs = target.subgroup_size.is_some_and(|lanes| has_pairs(parts, unit, lanes));
    let mut interface = interface(&heads, vector, target)?;
    for (i, part) in parts.iter().enumerate() {
        interface.function(part.put(i, &out_name(i, parts), unit, target.int64));
    }
    interface.function(heads.functions(parts.iter().map(|p| p.puts(unit)).max().unwrap_or(0), &interface)?);
    let put = |i: usize, head: String, value: &str| {
        let leave = if i + 1 < parts.len() { "\n        return;" } else { "" };
        format!("put_{i}(m, to, {head}, d, {value}, unit);{leave}")
    };
    let scaled = parts.iter().any(HeadPart::is_scaled);
    let mut slots = Vec::new();
    match unit {
        Unit::Four => {
            let head = "fn put_value(m: u32, to: u32, item: u32, d: u32, value: vec4<f32>, unit: f32)";
            interface.function(dispatch(head, parts, |i, _, head| put(i, head, "value")));
        }
        Unit::Column => {
            let head = "fn put(m: u32, to: u32, position: f32, item: u32, d: u32, scale: f32, unit: f32)";
            interface.function(dispatch(head, parts, |i, p, head| match p.cache() {
                None => put(i, head, "turned(m, position, item, d, scale)"),
                Some(_) => put(i, head, "ready(m, position, item, d, scale)"),
            }));
        }
    }
    if scaled {
        let head = "fn put_unit(to: u32, item: u32, unit: f32)";
        interface.function(dispatch(head, parts, |i, p, item| {
            let leave = if i + 1 < parts.len() { "return;" } else { "" };
            match p.is_scaled() {
                true => format!("put_scale_{}(to, {item}, unit);\n        {leave}", out_name(i, parts)),
                false => leave.to_owned(),
            }
        }));
        slots.push(("put_unit", PUT_UNIT.to_owned()));
    }
    if parts.iter().any(|p| p.norm.is_some()) {
        interface.function(format!("fn squared(v: {}) -> f32 {{\n    return {};\n}}\n", unit.kind(), unit.squares()));
        let epsilons =
            parts.iter().map(|p| p.norm.map(|n| literal(n.eps)).transpose()).collect::<Result<Vec<_>, _>>()?;
        let head = "fn normal(item: u32, squares: f32) -> f32";
        interface.function(dispatch(head, parts, |i, p, _| match &epsilons[i] {
            Some(eps) => format!("return 1.0 / sqrt(squares / {}.0 + {eps});", p.dim()),
            None => "return 1.0;".to_owned(),
        }));
    } else {
        slots.push(("norm", String::new()));
    }
    let mut constants = vec![("T", invocations, "invocations"), ("C", units, "the most units of an invocation")];
    let source = match by_pairs {
        true => {
            interface.function(heads.pair(&interface)?);
            if scaled {
                slots.push(("unit", PAIRS_UNIT.to_owned()));
            }
            include_str!("heads/pairs.wgsl")
        }
        false => {
            constants.push(("P", puts, "the most units that an invocation puts"));
            ready_slots(&heads, parts, target, &mut interface, &mut slots);
            include_str!("heads/ready.wgsl")
        }
    };
    let width: i64 = parts.iter().map(|p| i64::from(p.x.width)).sum();
    let what = |p: &HeadPart| {
        let norm = if p.norm.is_some() { "norm" } else { "" };
        let rope = p.rotation.map_or("", |r| if r.interleaved { "turn2" } else { "turn" });
        let to = p.cache().map_or(String::new(), |rows| format!("{}cache", rows.format));
        format!("{}x{}{norm}{rope}{to}", p.heads, p.dim())
    };
    Draft {
        name: format!("heads_{}", parts.iter().map(what).collect::<Vec<_>>().join("_")),
        source,
        constants,
        slots,
        interface,
        launch: cost::rowwise::heads(count, units, invocations),
        flops: Dim::TOKENS * (4 * width),
        bytes: Dim::TOKENS * (8 * width),
    }
    .finish(target)
}

/// The bindings in their order, and where a row's heads go.
fn interface(heads: &Heads<'_>, vector: u32, target: &Target) -> Result<Interface, KernelError> {
    let (parts, unit) = (heads.parts, heads.unit);
    let array = format!("array<{}>", unit.kind());
    let mut interface = Interface::of(target);
    heads.bind(vector, &mut interface);
    let cached = parts.iter().any(|p| p.cache().is_some());
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
    for (i, part) in parts.iter().enumerate() {
        match part.stored() {
            Some(cache) => cache.bind(Slot::Part(i), &out_name(i, parts), Access::ReadWrite, &mut interface),
            None => interface.bind(Slot::Part(i), &out_name(i, parts), Access::ReadWrite, &array),
        }
    }
    interface.bind(Slot::Step, "step", Access::Uniform, "vec4<u32>");
    Ok(interface)
}

/// Functions and slots that only `heads/ready.wgsl` has.
fn ready_slots(
    heads: &Heads<'_>,
    parts: &[HeadPart],
    target: &Target,
    interface: &mut Interface,
    slots: &mut Vec<(&'static str, String)>,
) {
    let unit = heads.unit;
    interface.function(dispatch("fn width(item: u32) -> u32", parts, |_, p, _| {
        format!("return {}u;", p.dim() / unit.columns())
    }));
    interface.function(dispatch("fn puts(item: u32) -> u32", parts, |_, p, _| format!("return {}u;", p.puts(unit))));
    if unit == Unit::Four {
        interface.function(
            "fn put(m: u32, to: u32, position: f32, item: u32, d: u32, scale: f32, unit: f32) {
    put_value(m, to, item, d, ready(m, position, item, d, scale), unit);\n}\n"
                .to_owned(),
        );
    }
    let (subgroups, scaled) = (target.subgroup_size.is_some(), parts.iter().any(HeadPart::is_scaled));
    let norms = parts.iter().any(|p| p.norm.is_some());
    if subgroups && norms {
        slots.push(("norm", SUBGROUP_NORM.to_owned()));
    }
    if subgroups || !(norms || scaled) {
        slots.push(("sums", String::new()));
    }
    if scaled {
        slots.push(("unit", if subgroups { SUBGROUP_UNIT } else { WORKGROUP_UNIT }.to_owned()));
    }
}

/// Whether invocations that take every `lanes`-th unit of a head have both units of each pair that turns, and no more
/// units than registers.
fn has_pairs(parts: &[HeadPart], unit: Unit, lanes: u32) -> bool {
    let units = parts[0].dim() / 4;
    let whole = |p: &HeadPart| {
        p.dim() == 4 * units
            && p.puts(unit) == units
            && p.rotation.is_none_or(|r| r.rotary == p.dim() && !r.interleaved)
    };
    unit == Unit::Four
        && parts.iter().all(whole)
        && parts.iter().any(|p| p.rotation.is_some())
        && units.is_multiple_of(2 * lanes)
        && units / lanes <= MOST_UNITS
}
