//! Functions of shaders over heads: what x has of them and what norms and turns make of it.
//!
//! Lanes of a CPU go through every branch, so parts differ by numbers that are chosen, not by what is called.

use std::fmt::Write as _;

use warpweft_plan::Access;

use crate::kernels::interface::Interface;
use crate::kernels::spec::{HeadPart, Rotation};
use crate::kernels::term::literal;
use crate::kernels::{KernelError, Slot};

use super::{Unit, unit_of};

/// The parts of a matrix whose functions have names that end so.
pub(in crate::kernels) struct Heads<'p> {
    pub(super) parts: &'p [HeadPart],
    suffix: &'p str,
    pub(in crate::kernels) unit: Unit,
}

impl<'p> Heads<'p> {
    pub(in crate::kernels) fn new(parts: &'p [HeadPart], suffix: &'p str) -> Heads<'p> {
        Heads { parts, suffix, unit: unit_of(parts) }
    }

    /// The same of parts that are read together with others by so many columns at once.
    pub(in crate::kernels) fn by(self, unit: Unit) -> Heads<'p> {
        Heads { unit, ..self }
    }

    /// What `value` says of the part that has `head`; it gets each part and the first of its heads.
    fn pick(&self, value: impl Fn(&HeadPart, u32) -> String) -> String {
        let ends = self.parts.iter().scan(0, |end, part| {
            let first = *end;
            *end += part.heads;
            Some((value(part, first), *end))
        });
        let values: Vec<(String, u32)> = ends.collect();
        let mut parts = values.iter().rev();
        let last = parts.next().map_or(String::new(), |(value, _)| value.clone());
        parts.fold(last, |rest, (value, end)| match rest == *value {
            true => rest,
            false => format!("select({rest}, {value}, head < {end}u)"),
        })
    }

    /// The same of how a part turns; those that don't are as the others.
    fn pick_turn(&self, value: impl Fn(&Rotation) -> String) -> String {
        let any = self.parts.iter().find_map(|part| part.rotation);
        self.pick(|part, _| part.rotation.or(any).as_ref().map_or(String::new(), &value))
    }

    fn turns(&self) -> bool {
        self.parts.iter().any(|part| part.rotation.is_some())
    }

    /// Binds x and what gains and frequencies are in, of `vector` values, and defines what turns need.
    pub(in crate::kernels) fn bind(&self, vector: u32, interface: &mut Interface) {
        let names = [(Slot::X, "x"), (Slot::Vectors, "vector")];
        for (slot, name) in names.into_iter().take(if vector > 0 { 2 } else { 1 }) {
            match self.unit {
                Unit::Four => interface.bind_fours(slot, name),
                Unit::Column => interface.bind(slot, name, Access::Read, "array<f32>"),
            }
        }
        if self.turns() {
            interface.function(include_str!("../lib/cos_sin.wgsl").to_owned());
        }
    }

    /// `raw(m, head, d)`, a unit of x; `normed(head, d, value, scale)`; `turned(m, position, head, d, scale)`, and
    /// `ready(m, position, head, d4, scale)`: four columns of it, zeros beyond a head's width, for `d4` below `vectors`.
    pub(in crate::kernels) fn functions(&self, vectors: u32, interface: &Interface) -> Result<String, KernelError> {
        let Heads { suffix, unit, .. } = self;
        let (columns, kind) = (unit.columns(), unit.kind());
        let load = |element: &str| match unit {
            Unit::Four => interface.four(element),
            Unit::Column => element.to_owned(),
        };
        let stride = self.pick(|part, _| format!("{}u", part.x.stride / columns));
        let start = self.pick(|part, first| {
            let (offset, dim) = (part.x.offset / columns, part.dim() / columns);
            match offset.checked_sub(first * dim) {
                Some(0) => format!("head * {dim}u"),
                Some(base) => format!("{base}u + head * {dim}u"),
                None => format!("{offset}u + (head - {first}u) * {dim}u"),
            }
        });
        let mut text = format!(
            "fn raw{suffix}(m: u32, head: u32, d: u32) -> {kind} {{\n    return {};\n}}\n\n",
            load(&format!("x[m * {stride} + {start} + d]"))
        );
        let gain = |part: &HeadPart| part.norm.and_then(|norm| norm.gain);
        let any = self.parts.iter().find_map(gain);
        let times = match any {
            None => String::new(),
            Some(any) => {
                let at = self.pick(|part, _| format!("{}u", gain(part).unwrap_or(any) / columns));
                let value = load(&format!("vector[{at} + d]"));
                match self.parts.iter().all(|part| gain(part).is_some()) {
                    true => format!(" * {value}"),
                    false => {
                        let gained = self.pick(|part, _| gain(part).is_some().to_string());
                        format!(" * select({kind}(1.0), {value}, {gained})")
                    }
                }
            }
        };
        let scaled = if self.parts.iter().any(|part| part.norm.is_some()) { " * scale" } else { "" };
        let _ = writeln!(
            text,
            "fn normed{suffix}(head: u32, d: u32, value: {kind}, scale: f32) -> {kind} {{
    return value{scaled}{times};\n}}\n"
        );
        let _ = writeln!(
            text,
            "fn turned{suffix}(m: u32, position: f32, head: u32, d: u32, scale: f32) -> {kind} {{
    {} value = normed{suffix}(head, d, raw{suffix}(m, head, d), scale);",
            if self.turns() { "var" } else { "let" }
        );
        if self.turns() {
            let half = |r: &Rotation| r.rotary / 2 / columns;
            let rotary =
                self.pick(|part, _| format!("{}u", part.rotation.map_or(0, |rotation| rotation.rotary / columns)));
            let second = self.pick_turn(|r| match r.interleaved {
                true => "d % 2u == 1u".to_owned(),
                false => format!("d >= {}u", half(r)),
            });
            let distance = self.pick_turn(|r| format!("{}u", if r.interleaved { 1 } else { half(r) }));
            let pair = self.pick_turn(|r| match r.interleaved {
                true => "d / 2u".to_owned(),
                false => format!("d % {}u", half(r)),
            });
            let _ = writeln!(
                text,
                "    if (d < {rotary}) {{
        let second = {second};
        let other = select(d + {distance}, d - {distance}, second);
        let partner = normed{suffix}(head, other, raw{suffix}(m, head, other), scale);
        let turn = cos_sin(vec4<f32>(position * {angle}));
        value = {factor}(value * turn.cos{part} + select(-partner, partner, second) * turn.sin{part});
    }}",
                angle = load(&format!("vector[{} + {pair}]", self.frequencies())),
                factor = self.factor()?,
                part = unit.part(),
            );
        }
        text += "    return value;\n}\n\n";
        let turned = |at: &str| format!("turned{suffix}(m, position, head, {at}, scale)");
        let body = match unit {
            Unit::Four => {
                let last = self.pick(|part, _| format!("{}u", part.dim() / 4 - 1));
                let value = turned(&format!("min(d4, {last})"));
                match self.parts.iter().any(|part| vectors > part.dim() / 4) {
                    true => format!("    return select(vec4<f32>(0.0), {value}, d4 <= {last});\n"),
                    false => format!("    return {};\n", turned("d4")),
                }
            }
            Unit::Column => self.four_columns(turned),
        };
        let _ = writeln!(
            text,
            "fn ready{suffix}(m: u32, position: f32, head: u32, d4: u32, scale: f32) -> vec4<f32> {{\n{body}}}\n"
        );
        Ok(text)
    }

    /// Four columns from `d4` on, each by itself, zeros beyond the head's width.
    fn four_columns(&self, value: impl Fn(&str) -> String) -> String {
        format!(
            "    let d = 4u * d4 + vec4<u32>(0u, 1u, 2u, 3u);
    let width = {};
    let at = min(d, vec4<u32>(width - 1u));
    let value = vec4<f32>({}, {}, {}, {});
    return select(vec4<f32>(0.0), value, d < vec4<u32>(width));\n",
            self.pick(|part, _| format!("{}u", part.dim())),
            value("at.x"),
            value("at.y"),
            value("at.z"),
            value("at.w"),
        )
    }

    /// `squares_of(m, head, d4)` of four columns of x.
    pub(in crate::kernels) fn squares(&self) -> String {
        let suffix = self.suffix;
        let raw = |at: &str| format!("raw{suffix}(m, head, {at})");
        let body = match self.unit {
            Unit::Four => format!("    return {};\n", raw("d4")),
            Unit::Column => self.four_columns(raw),
        };
        format!(
            "fn raw_four{suffix}(m: u32, head: u32, d4: u32) -> vec4<f32> {{\n{body}}}

fn squares_of{suffix}(m: u32, head: u32, d4: u32) -> f32 {{
    let value = raw_four{suffix}(m, head, d4);
    return dot(value, value);\n}}\n"
        )
    }

    /// `pair(position, head, d, first, second)`: units d and d + half of a head, turned where heads turn as a whole.
    pub(super) fn pair(&self, interface: &Interface) -> Result<String, KernelError> {
        let angle = interface.four(&format!("vector[{} + d]", self.frequencies()));
        let turns = self.pick(|part, _| part.rotation.is_some().to_string());
        let factor = self.factor()?;
        Ok(format!(
            "struct Pair {{
    first: vec4<f32>,
    second: vec4<f32>,
}}

fn pair(position: f32, head: u32, d: u32, first: vec4<f32>, second: vec4<f32>) -> Pair {{
    let turn = cos_sin(vec4<f32>(position * {angle}));
    let turns = {turns};
    return Pair(
        select(first, {factor}(first * turn.cos - second * turn.sin), turns),
        select(second, {factor}(second * turn.cos + first * turn.sin), turns));
}}
"
        ))
    }

    /// The first unit of the frequencies in `vector`.
    fn frequencies(&self) -> String {
        self.pick_turn(|rotation| format!("{}u", rotation.frequencies / self.unit.columns()))
    }

    /// What sine and cosine are multiplied with, and `*`; nothing where it is 1.
    fn factor(&self) -> Result<String, KernelError> {
        let scales: Vec<f32> = self.parts.iter().filter_map(|part| part.rotation).map(|r| r.scale).collect();
        if scales.iter().all(|scale| *scale == 1.0) {
            return Ok(String::new());
        }
        scales.iter().try_for_each(|&scale| literal(scale).map(|_| ()))?;
        Ok(format!("{} * ", self.pick_turn(|rotation| literal(rotation.scale).unwrap_or_default())))
    }
}
