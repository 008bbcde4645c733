//! How kernels read matrices of weights: so many vec4s at a load, decoded when they meet x.
//!
//! Of floats a load has eight values, or four. Of a quantized format it has up to sixteen bytes of codes, and what scales a
//! group of columns is read beside it, or, where a row has one scale, multiplied into the finished sum.

use std::fmt::Write as _;

use warpweft_plan::{Access, PAD};

use super::Slot;
use super::interface::Interface;
use crate::formats::{Format, Group};

/// A matrix of weights as a kernel reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weights {
    pub(crate) format: Format,
    /// Columns.
    pub(crate) width: u32,
    /// vec4s of x that a load meets.
    pub(crate) fours: u32,
}

/// When the scales of a quantized weight are multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// There are none.
    None,
    /// When values are unpacked.
    Unpacked,
    /// One for each row, into the sum.
    Afterwards,
}

impl Weights {
    /// How many vec4s of x a load can meet, the most first. Four bytes are the least that a shader can load.
    pub(crate) fn loads_of(format: Format) -> &'static [u32] {
        match format.bits() {
            4 => &[8, 4, 2],
            8 => &[4, 2, 1],
            _ => &[2, 1],
        }
    }

    /// Bytes of a load.
    pub(crate) fn load_bytes(self) -> u32 {
        self.format.bits() * self.fours / 2
    }

    /// Loads along a row. Together they may reach beyond its columns, where all values are zero.
    pub(crate) fn loads(self) -> u32 {
        match self.format.is_quantized() {
            true => self.width.div_ceil(4 * self.fours),
            false => self.width.next_multiple_of(PAD as u32) / (4 * self.fours),
        }
    }

    /// Columns that the loads reach.
    pub(crate) fn reach(self) -> u32 {
        self.loads() * 4 * self.fours
    }

    /// When scales are multiplied in.
    pub(crate) fn scaling(self) -> Scaling {
        match self.format.group() {
            None => Scaling::None,
            Some(Group::Row) if !self.zero_in_group() => Scaling::Afterwards,
            Some(Group::Row | Group::Of(_)) => Scaling::Unpacked,
        }
    }

    /// The scales that so many loads need, the first of which is a multiple of that many.
    pub(crate) fn groups_in(self, loads: u32) -> u32 {
        let columns = 4 * self.fours * loads;
        match self.format.group() {
            None | Some(Group::Row) => 1,
            Some(Group::Of(n)) if n % columns == 0 => 1,
            Some(Group::Of(n)) if columns.is_multiple_of(n) => columns / n,
            // A vec4 never has two groups.
            Some(Group::Of(_)) => self.fours * loads,
        }
    }

    /// The group of the g-th scale of the loads from `k` on.
    fn group(self, loads: u32, k: &str, g: &str) -> String {
        let columns = 4 * self.fours * loads;
        match self.format.group() {
            None | Some(Group::Row) => "0u".to_owned(),
            Some(Group::Of(n)) if n % columns == 0 => format!("({k}) * {}u / {n}u", 4 * self.fours),
            Some(Group::Of(n)) if columns.is_multiple_of(n) => format!("({k}) / {loads}u * {}u + {g}", columns / n),
            Some(Group::Of(n)) => format!("(({k}) * {}u + {g}) * 4u / {n}u", self.fours),
        }
    }

    /// Loads that read the scales of so many loads, of 16 bytes and of 4.
    pub(crate) fn parameter_loads(self, loads: u32) -> [u32; 2] {
        let groups = self.groups_in(loads);
        match self.scaling() {
            Scaling::None | Scaling::Afterwards => [0, 0],
            Scaling::Unpacked if self.of_bytes() => [0, if 4 % groups == 0 { 1 } else { groups }],
            Scaling::Unpacked if self.by_four(loads) => [1, 0],
            Scaling::Unpacked => [0, groups],
        }
    }

    /// Four groups' parameters are one load.
    fn by_four(self, loads: u32) -> bool {
        let columns = 4 * self.fours * loads;
        let whole = matches!(self.format.group(), Some(Group::Of(n)) if columns.is_multiple_of(n));
        whole && !self.of_bytes() && self.groups_in(loads) == 4 && self.load_bytes() == 16
    }

    /// A group's parameters are a byte.
    fn of_bytes(self) -> bool {
        self.format.parameter_bytes() == 1
    }

    /// Statements that put the scales of the loads from `k` on into `ss[first + g]`: of row `n` of weight `p`.
    pub(crate) fn load_scales(self, loads: u32, [p, n, k]: [&str; 3], first: &str) -> String {
        let groups = self.groups_in(loads);
        let each = |body: &str| format!("//# unroll\nfor (var g = 0u; g < {groups}u; g++) {{\n{body}\n}}\n");
        if self.by_four(loads) {
            let at = format!("({k}) / {loads}u");
            return format!("let parameters = load_parameters({p}, {n}, {at});\n")
                + &each(&format!("ss[{first} + g] = scale_of(parameters[g], 0u);"));
        }
        let group = self.group(loads, k, "g");
        if self.of_bytes() && 4 % groups == 0 {
            let group = self.group(loads, k, "0u");
            return format!("let group = {group};\nlet word = load_parameter({p}, {n}, group / 4u);\n")
                + &each(&format!("ss[{first} + g] = scale_of(word, group % 4u + g);"));
        }
        if self.of_bytes() {
            return each(&format!(
                "let group = {group};\nss[{first} + g] = scale_of(load_parameter({p}, {n}, group / 4u), group % 4u);"
            ));
        }
        each(&format!("ss[{first} + g] = scale_of(load_parameter({p}, {n}, {group}), 0u);"))
    }

    /// What is read for a group is its scale and what its zero point takes off.
    pub(crate) fn is_biased(self) -> bool {
        matches!(self.format, Format::Int4 { .. }) && self.scaling() == Scaling::Unpacked
    }

    /// Each group has a zero point of its own.
    fn zero_in_group(self) -> bool {
        matches!(self.format, Format::Int4 { zeros: true, .. })
    }

    /// The shader's type of a load.
    fn kind(self) -> &'static str {
        match (self.format.is_quantized(), self.fours, self.load_bytes()) {
            (false, 2, _) => self.format.packed(),
            (false, ..) => self.format.half(),
            (true, _, 16) => "vec4<u32>",
            (true, _, 8) => "vec2<u32>",
            (true, ..) => "u32",
        }
    }

    /// Binds the weights and defines `load_w(p, n, k) -> Packed`, load k of row n of weight p; `unpack(packed, h)`, the vec4
    /// of it that the h-th vec4 of x meets; and for scales `load_parameter(p, n, at) -> u32`, a word behind the codes of row n,
    /// `load_parameters(p, n, at)`, four of them, `scale_of(word, byte) -> Scale` and `scaled(value, scale)`.
    pub(crate) fn functions(self, interface: &mut Interface, bindings: &[(Slot, &'static str)]) {
        interface.format(self.format);
        let kind = self.kind();
        for (slot, name) in bindings {
            interface.bind(*slot, name, Access::Read, &format!("array<{kind}>"));
        }
        let paired = bindings.len() > 1;
        if !self.format.is_quantized() {
            interface.function(self.of_floats(kind, paired));
            return;
        }
        let row = self.format.row_bytes(self.width as usize) as u32 / self.load_bytes();
        let second = if paired {
            format!("    if (p == 1u) {{\n        return w2[n * {row}u + k];\n    }}\n")
        } else {
            String::new()
        };
        interface.function(format!(
            "alias Packed = {kind};

fn load_w(p: u32, n: u32, k: u32) -> Packed {{
{second}    return w[n * {row}u + k];
}}

fn unpack(packed: Packed, h: u32) -> vec4<f32> {{
    return {};
}}
",
            self.levels("packed", "h")
        ));
        if self.scaling() != Scaling::None {
            let scale = self.scale(row, paired);
            interface.function(scale);
        }
    }

    /// The same for floats.
    fn of_floats(self, kind: &str, paired: bool) -> String {
        let suffix = self.format.suffix();
        let row = if self.fours == 2 { "K8" } else { "(K8 * 2u)" };
        let second = if paired {
            format!("    if (p == 1u) {{\n        return w2[n * {row} + k];\n    }}\n")
        } else {
            String::new()
        };
        let unpack = if self.fours == 2 {
            format!(
                "    if (h == 1u) {{
        return high_{suffix}(packed);
    }}
    return low_{suffix}(packed);
"
            )
        } else {
            format!("    return half_{suffix}(packed);\n")
        };
        format!(
            "alias Packed = {kind};

fn load_w(p: u32, n: u32, k: u32) -> Packed {{
{second}    return w[n * {row} + k];
}}

fn unpack(packed: Packed, h: u32) -> vec4<f32> {{
{unpack}}}
"
        )
    }

    /// Four levels of a load, less the zero point where all have the same.
    fn levels(self, packed: &str, h: &str) -> String {
        let word = |at: String| if self.load_bytes() == 4 { packed.to_owned() } else { format!("{packed}[{at}]") };
        let codes = match self.format.bits() {
            4 => format!("({} >> (4u * ({h} % 2u))) & 0x0f0f0f0fu", word(format!("{h} / 2u"))),
            _ => word(h.to_owned()),
        };
        let less = if matches!(self.format, Format::Int4 { .. }) && !self.is_biased() { " - 8.0" } else { "" };
        format!("levels_{}({codes}){less}", self.format.suffix())
    }

    /// What reads scales and multiplies with them, for rows of so many loads.
    fn scale(self, row: u32, paired: bool) -> String {
        let suffix = self.format.suffix();
        let words = self.load_bytes() / 4;
        let codes = self.format.code_bytes(self.width as usize) as u32 / self.load_bytes();
        let word = |name: &str| match words {
            1 => format!("{name}[n * {row}u + {codes}u + at]"),
            _ => format!("{name}[n * {row}u + {codes}u + at / {words}u][at % {words}u]"),
        };
        let four = |name: &str| format!("{name}[n * {row}u + {codes}u + at]");
        let function = |name: &str, kind: &str, of: &dyn Fn(&str) -> String| {
            let second = if paired {
                format!("    if (p == 1u) {{\n        return {};\n    }}\n", of("w2"))
            } else {
                String::new()
            };
            format!("fn {name}(p: u32, n: u32, at: u32) -> {kind} {{\n{second}    return {};\n}}\n\n", of("w"))
        };
        let mut text = function("load_parameter", "u32", &word);
        if words == 4 {
            text += &function("load_parameters", "vec4<u32>", &four);
        }
        let kind = if self.is_biased() { "vec2<f32>" } else { "f32" };
        let (value, scaled) = match self.format {
            Format::Int4 { zeros: false, .. } if self.is_biased() => (
                "    let scale = bitcast<f32>(word);\n    return vec2<f32>(scale, -8.0 * scale);".to_owned(),
                "fma(value, vec4<f32>(scale.x), vec4<f32>(scale.y))",
            ),
            Format::Int4 { zeros: true, .. } => (
                "    let scale = scale_int4(word);\n    return vec2<f32>(scale, -zero_int4(word) * scale);".to_owned(),
                "fma(value, vec4<f32>(scale.x), vec4<f32>(scale.y))",
            ),
            Format::Mxfp4 => (format!("    return scale_{suffix}(word, byte);"), "value * scale"),
            Format::F32 | Format::F16 | Format::Bf16 => (String::new(), "value"),
            Format::Int8(_) | Format::Int4 { zeros: false, .. } | Format::Fp8(_) | Format::Nf4(_) => {
                ("    return bitcast<f32>(word);".to_owned(), "value * scale")
            }
        };
        let _ = write!(
            text,
            "alias Scale = {kind};

fn scale_of(word: u32, byte: u32) -> Scale {{
{value}
}}

fn scaled(value: vec4<f32>, scale: Scale) -> vec4<f32> {{
    return {scaled};
}}
"
        );
        text
    }

    /// Defines `load_name(…)` of one row of a table: four values decoded, exactly as they are unpacked when they are packed. `row`
    /// is an expression of the parameters.
    pub(crate) fn table(
        interface: &mut Interface,
        format: Format,
        width: u32,
        name: &str,
        parameters: &str,
        row: &str,
    ) {
        interface.format(format);
        let suffix = format.suffix();
        if !format.is_quantized() {
            let k8 = width.div_ceil(PAD as u32);
            interface.function(format!(
                "fn load_{name}({parameters}) -> vec4<f32> {{
    let packed = {name}[{row} * {k8}u + n4 / 2u];
    return select(low_{suffix}(packed), high_{suffix}(packed), n4 % 2u == 1u);
}}
"
            ));
            return;
        }
        let words = format.row_bytes(width as usize) / 4;
        let codes = format.code_bytes(width as usize) / 4;
        let group = match format.group() {
            Some(Group::Of(n)) => format!("4u * n4 / {n}u"),
            Some(Group::Row) | None => "0u".to_owned(),
        };
        let levels = match format.bits() {
            4 => format!("levels_{suffix}(({name}[row + n4 / 2u] >> (4u * (n4 % 2u))) & 0x0f0f0f0fu)"),
            _ => format!("levels_{suffix}({name}[row + n4])"),
        };
        let value = match format {
            Format::Int4 { zeros: true, .. } => {
                format!(
                    "let word = {name}[row + {codes}u + group];\n    return ({levels} - zero_int4(word)) * scale_int4(word);"
                )
            }
            Format::Int4 { zeros: false, .. } => {
                format!("return ({levels} - 8.0) * bitcast<f32>({name}[row + {codes}u + group]);")
            }
            Format::Mxfp4 => {
                format!("return {levels} * scale_mxfp4({name}[row + {codes}u + group / 4u], group % 4u);")
            }
            Format::F32 | Format::F16 | Format::Bf16 | Format::Int8(_) | Format::Fp8(_) | Format::Nf4(_) => {
                format!("return {levels} * bitcast<f32>({name}[row + {codes}u + group]);")
            }
        };
        interface.function(format!(
            "fn load_{name}({parameters}) -> vec4<f32> {{
    let row = {row} * {words}u;
    let group = {group};
    {value}
}}
"
        ));
    }

    /// The shader's type of the elements of a table.
    pub(crate) fn table_kind(format: Format) -> &'static str {
        if format.is_quantized() { "u32" } else { format.packed() }
    }
}
