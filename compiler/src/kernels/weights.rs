//! How kernels read matrices of weights: so many vec4s at a load, decoded when they meet x.
//!
//! Of floats a load has eight values, or four. Of a quantized format it has up to sixteen bytes of codes, with 64-bit
//! integers up to 32 of either, and what scales a
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
    /// A load has components of 64 bits, up to four of them, and not of 32.
    pub(crate) wide: bool,
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
    /// How many vec4s of x a load can meet, the most first. Four bytes are the least that a shader can load, and a load of 32
    /// needs rows of whole ones.
    pub(crate) fn loads_of(format: Format, width: u32, wide: bool) -> &'static [u32] {
        let width = width as usize;
        let wide = wide && [format.code_bytes(width), format.row_bytes(width)].iter().all(|n| n.is_multiple_of(32));
        match (format.bits(), wide) {
            (4, true) => &[16, 8, 4, 2],
            (4, false) => &[8, 4, 2],
            (8, true) => &[8, 4, 2, 1],
            (8, false) => &[4, 2, 1],
            (16, true) => &[4, 2, 1],
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

    /// How often so many loads fit into one group; 1 where they need more than one.
    pub(crate) fn span(self, loads: u32) -> u32 {
        let columns = 4 * self.fours * loads;
        match self.format.group() {
            Some(Group::Of(n)) if n.is_multiple_of(columns) => n / columns,
            Some(Group::Of(_) | Group::Row) | None => 1,
        }
    }

    /// A load is part of one group, or has some whole ones.
    pub(crate) fn has_whole_groups(self) -> bool {
        let columns = 4 * self.fours;
        self.groups_in(1) == 1 || matches!(self.format.group(), Some(Group::Of(n)) if columns.is_multiple_of(n))
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

    /// Loads that read the scales of so many loads, and the components of each.
    pub(crate) fn parameter_loads(self, loads: u32) -> (u32, u32) {
        let groups = self.groups_in(loads);
        match (self.scaling(), self.at_once(loads)) {
            (Scaling::None | Scaling::Afterwards, _) => (0, 1),
            (Scaling::Unpacked, None) if self.of_bytes() && 4 % groups == 0 => (1, 1),
            (Scaling::Unpacked, None) => (groups, 1),
            (Scaling::Unpacked, Some(n)) if 4 * n == self.load_bytes() => (1, self.components(4 * n)),
            // Parts of a load's components.
            (Scaling::Unpacked, Some(n)) => (self.components(4 * n), 1),
        }
    }

    /// How many groups' parameters are read together, where all that so many loads need can be.
    fn at_once(self, loads: u32) -> Option<u32> {
        let (columns, groups) = (4 * self.fours * loads, self.groups_in(loads));
        let whole = matches!(self.format.group(), Some(Group::Of(n)) if columns.is_multiple_of(n));
        let fits = if self.of_longs() { [2, 4, 8].contains(&groups) } else { groups == 4 };
        let fits = fits && (4 * groups == self.load_bytes() || self.of_longs() && 4 * groups < self.load_bytes());
        (whole && fits && !self.of_bytes()).then_some(groups)
    }

    /// A group's parameters are a byte.
    fn of_bytes(self) -> bool {
        self.format.parameter_bytes() == 1
    }

    /// Statements that put the scales of the loads from `k` on into `ss[first + g]`: of row `n` of weight `p`.
    pub(crate) fn load_scales(self, loads: u32, [p, n, k]: [&str; 3], first: &str) -> String {
        let groups = self.groups_in(loads);
        let each = |body: &str| format!("//# unroll\nfor (var g = 0u; g < {groups}u; g++) {{\n{body}\n}}\n");
        if let Some(n_groups) = self.at_once(loads) {
            let at = format!("({k}) / {loads}u");
            let parameter = match n_groups {
                8 => "select(parameters.low[g % 4u], parameters.high[g % 4u], g >= 4u)",
                _ => "parameters[g]",
            };
            return format!("let parameters = load_parameters({p}, {n}, {at});\n")
                + &each(&format!("ss[{first} + g] = scale_of({parameter}, 0u);"));
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

    /// The shader's types of a load and of what it becomes.
    fn kinds(self) -> [&'static str; 2] {
        let words = match self.load_bytes() {
            32 => "PackedWords",
            16 => "vec4<u32>",
            8 => "vec2<u32>",
            _ => "u32",
        };
        match (self.wide, self.format.is_quantized(), self.load_bytes()) {
            (true, _, 32) => ["vec4<u64>", words],
            (true, _, 16) => ["vec2<u64>", words],
            (true, _, 8) => ["u64", words],
            (true, _, _) | (false, true, _) => [words, words],
            (false, false, _) if self.fours == 2 => [self.format.packed(); 2],
            (false, false, _) => [self.format.half(); 2],
        }
    }

    /// What a vec4 of x is multiplied with, an expression of the lane that reads it, where unpacking takes fewer steps if values
    /// may be so many times as great; `summed` where sums over loads are scaled. Of codes of four bits every other vec4 stands in
    /// the upper halves of bytes, and lanes read vec4s in turn.
    pub(crate) fn lowered(self, summed: bool) -> Option<&'static str> {
        match self.format {
            Format::Int8(_) => Some("5.9604645e-8"),
            Format::Int4 { .. } if summed && self.is_biased() => Some(
                "select(vec4<f32>(1.0, 0.00390625, 1.5258789e-5, 5.9604645e-8), \
                 vec4<f32>(0.0625, 0.00024414062, 9.536743e-7, 5.9604645e-8), lane % 2u == 1u)",
            ),
            Format::Int4 { .. } | Format::F32 | Format::F16 | Format::Bf16 => None,
            Format::Fp8(_) | Format::Nf4(_) | Format::Mxfp4 => None,
        }
    }

    /// A load's components are of 64 bits.
    fn of_longs(self) -> bool {
        self.wide && self.load_bytes() >= 8
    }

    /// The components of a load of so many bytes.
    pub(crate) fn components(self, bytes: u32) -> u32 {
        if self.wide && bytes >= 8 { bytes / 8 } else { bytes / 4 }
    }

    /// Binds the weights and defines `load_w(p, n, k) -> Packed`, load k of row n of weight p; `unpack(packed, h)`, the vec4
    /// of it that the h-th vec4 of x meets; and for scales `load_parameter(p, n, at) -> u32`, a word behind the codes of row n,
    /// `load_parameters(p, n, at)`, those of `steps` loads where they are read together, `scale_of(word, byte) -> Scale` and
    /// `scaled(value, scale)`. Where `raised`, what is unpacked is as many times greater as x is [`Weights::lowered`].
    pub(crate) fn functions(
        self,
        interface: &mut Interface,
        bindings: &[(Slot, &'static str)],
        steps: u32,
        raised: bool,
    ) {
        interface.format(self.format);
        let [kind, packed] = self.kinds();
        for (slot, name) in bindings {
            interface.bind(*slot, name, Access::Read, &format!("array<{kind}>"));
        }
        let paired = bindings.len() > 1;
        let row = self.row();
        let load = |name: &str| self.words(&format!("{name}[n * {row} + k]"));
        let second = if paired {
            format!("    if (p == 1u) {{\n        return {};\n    }}\n", load("w2"))
        } else {
            String::new()
        };
        if packed == "PackedWords" {
            interface.function("struct PackedWords {\n    low: vec4<u32>,\n    high: vec4<u32>,\n}\n".to_owned());
        }
        if self.of_longs() {
            interface.function(self.split());
        }
        interface.function(format!(
            "alias Packed = {packed};

fn load_w(p: u32, n: u32, k: u32) -> Packed {{
{second}    return {};
}}

fn unpack(packed: Packed, h: u32) -> vec4<f32> {{
{}}}
",
            load("w"),
            if self.format.is_quantized() {
                format!("    return {};\n", self.levels("h", raised))
            } else {
                self.floats()
            },
        ));
        if self.scaling() != Scaling::None {
            interface.function(self.scale(&row, paired, steps));
        }
    }

    /// Loads from one row to the next, as an expression.
    fn row(self) -> String {
        match (self.format.is_quantized(), self.fours) {
            (true, _) => format!("{}u", self.format.row_bytes(self.width as usize) as u32 / self.load_bytes()),
            (false, 4) => "(K8 / 2u)".to_owned(),
            (false, 2) => "K8".to_owned(),
            (false, _) => "(K8 * 2u)".to_owned(),
        }
    }

    /// A load as words.
    fn words(self, load: &str) -> String {
        if self.of_longs() { format!("words({load})") } else { load.to_owned() }
    }

    /// Defines `words`, the words of a load of longs.
    fn split(self) -> String {
        let [kind, packed] = self.kinds();
        let longs = self.load_bytes() / 8;
        let long = |i: u32| {
            if longs == 1 { "longs".to_owned() } else { format!("longs.{}", ["x", "y", "z", "w"][i as usize]) }
        };
        let both = |i: u32| format!("u32({0} & 0xfffffffflu), u32({0} >> 32u)", long(i));
        let value = match longs {
            4 => format!("PackedWords(vec4<u32>({}, {}), vec4<u32>({}, {}))", both(0), both(1), both(2), both(3)),
            2 => format!("vec4<u32>({}, {})", both(0), both(1)),
            _ => format!("vec2<u32>({})", both(0)),
        };
        format!("fn words(longs: {kind}) -> {packed} {{\n    return {value};\n}}\n")
    }

    /// The body of `unpack` for floats.
    fn floats(self) -> String {
        let suffix = self.format.suffix();
        if !self.wide {
            return match self.fours {
                2 => format!(
                    "    if (h == 1u) {{
        return high_{suffix}(packed);
    }}
    return low_{suffix}(packed);
"
                ),
                _ => format!("    return half_{suffix}(packed);\n"),
            };
        }
        let half = |words: &str| match self.format.bits() {
            32 => format!("half_{suffix}(bitcast<vec4<f32>>({words}))"),
            _ => format!("half_{suffix}({words})"),
        };
        let pieces: &[&str] = match (self.format.bits(), self.load_bytes()) {
            (32, 32) => &["packed.low", "packed.high"],
            (_, 32) => &["packed.low.xy", "packed.low.zw", "packed.high.xy", "packed.high.zw"],
            (16, 16) => &["packed.xy", "packed.zw"],
            _ => &["packed"],
        };
        let last = pieces.len() - 1;
        let mut text = String::new();
        for (h, piece) in pieces[..last].iter().enumerate() {
            let _ = write!(text, "    if (h == {h}u) {{\n        return {};\n    }}\n", half(piece));
        }
        text + &format!("    return {};\n", half(pieces[last]))
    }

    /// Four levels of a load, less the zero point where all have the same.
    fn levels(self, h: &str, raised: bool) -> String {
        let word = |at: String| match self.load_bytes() {
            32 => format!("select(packed.low[{at} % 4u], packed.high[{at} % 4u], {at} >= 4u)"),
            4 => "packed".to_owned(),
            _ => format!("packed[{at}]"),
        };
        if raised && self.format.bits() == 4 {
            return format!("raised_int4({}, {h} % 2u == 1u)", word(format!("{h} / 2u")));
        }
        let codes = match self.format.bits() {
            4 => format!("({} >> (4u * ({h} % 2u))) & 0x0f0f0f0fu", word(format!("{h} / 2u"))),
            _ => word(h.to_owned()),
        };
        let less = if matches!(self.format, Format::Int4 { .. }) && !self.is_biased() { " - 8.0" } else { "" };
        let levels = if raised { "raised" } else { "levels" };
        format!("{levels}_{}({codes}){less}", self.format.suffix())
    }

    /// What reads scales and multiplies with them, for rows of so many loads each.
    fn scale(self, row: &str, paired: bool, steps: u32) -> String {
        let suffix = self.format.suffix();
        let words = self.load_bytes() / 4;
        let codes = self.format.code_bytes(self.width as usize) as u32 / self.load_bytes();
        let word = |name: &str| match (words, self.of_longs()) {
            (1, _) => format!("{name}[n * {row} + {codes}u + at]"),
            (_, false) => format!("{name}[n * {row} + {codes}u + at / {words}u][at % {words}u]"),
            (2, true) => format!("u32(({name}[n * {row} + {codes}u + at / 2u] >> (at % 2u * 32u)) & 0xfffffffflu)"),
            (_, true) => format!(
                "u32(({name}[n * {row} + {codes}u + at / {words}u][at % {words}u / 2u] >> (at % 2u * 32u)) & 0xfffffffflu)"
            ),
        };
        let function = |name: &str, kind: &str, of: &dyn Fn(&str) -> String| {
            let second = if paired {
                format!("    if (p == 1u) {{\n        return {};\n    }}\n", of("w2"))
            } else {
                String::new()
            };
            format!("fn {name}(p: u32, n: u32, at: u32) -> {kind} {{\n{second}    return {};\n}}\n\n", of("w"))
        };
        let mut text = function("load_parameter", "u32", &word);
        if let Some(groups) = self.at_once(steps) {
            let kind = match groups {
                8 => "PackedWords",
                4 => "vec4<u32>",
                _ => "vec2<u32>",
            };
            text += &function("load_parameters", kind, &|name| {
                self.parameters(&format!("{name}[n * {row} + {codes}u"), groups)
            });
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

    /// So many groups' parameters, the `at`-th of such; `first` is the first load of them, without its bracket.
    fn parameters(self, first: &str, groups: u32) -> String {
        let words = self.load_bytes() / 4;
        if groups == words {
            return self.words(&format!("{first} + at]"));
        }
        let (of_load, longs) = (words / groups, groups / 2);
        let long = |i: u32| format!("{first} + at / {of_load}u][at % {of_load}u * {longs}u + {i}u]");
        let both = |i: u32| format!("u32({0} & 0xfffffffflu), u32({0} >> 32u)", long(i));
        let all: Vec<String> = (0..longs).map(both).collect();
        format!("vec{groups}<u32>({})", all.join(", "))
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
