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

/// How a kernel reads the scales of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// Those that four rows' so many loads need, as [`Weights::load_scales`] does.
    OfFour(u32),
    /// One, with `load_parameter(p, n, group) -> u32`, its word.
    OfOne,
    /// Four rows' of a group, with `load_scales(p, n, group) -> vec4<f32>`; there are no zero points.
    Vector,
}

impl Weights {
    /// How many vec4s of x a load can meet, the most first. Four bytes are the least that a shader can load, and a load of 32
    /// needs rows of whole ones.
    pub(crate) fn loads_of(format: Format, width: u32, wide: bool) -> &'static [u32] {
        let width = width as usize;
        let wide = wide && format.code_bytes(width).is_multiple_of(32);
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

    /// So many loads are part of one group, or have some whole ones.
    pub(crate) fn has_whole_groups(self, loads: u32) -> bool {
        let columns = 4 * self.fours * loads;
        self.groups_in(loads) == 1 || matches!(self.format.group(), Some(Group::Of(n)) if columns.is_multiple_of(n))
    }

    /// Words of the parameters of four rows' group.
    fn words_of_four(self) -> u32 {
        self.format.parameter_bytes() as u32
    }

    /// The words of the pieces in which the parameters that four rows' so many loads need are read, and how many such there are.
    fn pieces(self, loads: u32) -> (u32, u32) {
        let groups = self.groups_in(loads);
        let run = self.words_of_four() * if self.has_whole_groups(loads) { groups } else { 1 };
        let piece = (self.load_bytes() / 4).min(1 << run.trailing_zeros());
        (piece, groups * self.words_of_four() / piece)
    }

    /// Loads that read the scales of four rows' so many loads, and the components of each.
    pub(crate) fn parameter_loads(self, loads: u32) -> (u32, u32) {
        match self.scaling() {
            Scaling::None | Scaling::Afterwards => (0, 1),
            Scaling::Unpacked => {
                let (words, pieces) = self.pieces(loads);
                let components = self.components(4 * words);
                // A part of a load is read by its components.
                if 4 * words == self.load_bytes() { (pieces, components) } else { (pieces * components, 1) }
            }
        }
    }

    /// Statements that put the scales of the loads from `k` on into `ss[(first + j) * groups + g]`: of the rows `n + j` of weight
    /// `p`, j up to three.
    pub(crate) fn load_scales(self, loads: u32, [p, n, k]: [&str; 3], first: &str) -> String {
        let groups = self.groups_in(loads);
        let mut text = String::new();
        let (words, pieces) = self.pieces(loads);
        let each = pieces / groups.min(pieces);
        for i in 0..pieces {
            let at = match groups > 1 && self.has_whole_groups(loads) {
                true => format!("({k}) / {loads}u * {pieces}u + {i}u"),
                false => format!("({}) * {each}u + {}u", self.group(loads, k, &format!("{}u", i / each)), i % each),
            };
            let _ = writeln!(text, "let parameters{i} = load_parameters({p}, {n}, {at});");
        }
        for (g, j) in (0..groups).flat_map(|g| (0..4).map(move |j| (g, j))) {
            let (word, byte) = if self.words_of_four() == 4 { (4 * g + j, 0) } else { (g, j) };
            let (piece, part) = (word / words, word % words);
            let part = match words {
                1 => "",
                8 => {
                    [".low.x", ".low.y", ".low.z", ".low.w", ".high.x", ".high.y", ".high.z", ".high.w"][part as usize]
                }
                _ => [".x", ".y", ".z", ".w"][part as usize],
            };
            let _ =
                writeln!(text, "ss[({first} + {j}u) * {groups}u + {g}u] = scale_of(parameters{piece}{part}, {byte}u);");
        }
        text
    }

    /// A statement that puts the scale of load `k` of row `n` of weight `p` into `ss[0]`, where a load has one group.
    pub(crate) fn load_scale(self, [p, n, k]: [&str; 3]) -> String {
        let byte = if self.words_of_four() == 1 { format!("{n} % 4u") } else { "0u".to_owned() };
        format!("ss[0u] = scale_of(load_parameter({p}, {n}, {}), {byte});\n", self.group(1, k, "0u"))
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
    /// of it that the h-th vec4 of x meets; and what [`Scales`] names for scales. Where `raised`, what is unpacked is as many times
    /// greater as x is [`Weights::lowered`].
    pub(crate) fn functions(
        self,
        interface: &mut Interface,
        bindings: &[(Slot, &'static str)],
        scales: Scales,
        raised: bool,
    ) {
        interface.format(self.format);
        let [kind, packed] = self.kinds();
        for (slot, name) in bindings {
            interface.bind(*slot, name, Access::Read, &format!("array<{kind}>"));
        }
        let paired = bindings.len() > 1;
        let place = place(self.format, self.width, self.load_bytes(), "n", "k");
        let load = |name: &str| self.words(&format!("{name}[{place}]"));
        let second = if paired {
            format!("    if (p == 1u) {{\n        return {};\n    }}\n", load("w2"))
        } else {
            String::new()
        };
        if packed == "PackedWords" {
            interface.function("struct PackedWords {\n    low: vec4<u32>,\n    high: vec4<u32>,\n}\n".to_owned());
        }
        if self.of_longs() && interface.longs() {
            interface.function(self.words_of_longs());
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
            interface.function(self.scale(paired, scales));
        }
    }

    /// A load as words.
    fn words(self, load: &str) -> String {
        if self.of_longs() { format!("words({load})") } else { load.to_owned() }
    }

    /// Defines `words`, those of a load of longs.
    fn words_of_longs(self) -> String {
        let [kind, packed] = self.kinds();
        let value = match self.load_bytes() {
            32 => "PackedWords(vec4<u32>(split(longs.x), split(longs.y)), vec4<u32>(split(longs.z), split(longs.w)))",
            16 => "vec4<u32>(split(longs.x), split(longs.y))",
            _ => "split(longs)",
        };
        format!(
            "fn words(longs: {kind}) -> {packed} {{
    return {value};
}}
"
        )
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

    /// What reads scales and multiplies with them.
    fn scale(self, paired: bool, scales: Scales) -> String {
        let function = |name: &str, at: &str, kind: &str, of: &dyn Fn(&str) -> String| {
            let second = if paired {
                format!("    if (p == 1u) {{\n        return {};\n    }}\n", of("w2"))
            } else {
                String::new()
            };
            format!("fn {name}(p: u32, n: u32, {at}: u32) -> {kind} {{\n{second}    return {};\n}}\n\n", of("w"))
        };
        let mut text = match (scales, self.scaling()) {
            (Scales::OfOne, Scaling::Unpacked) => {
                function("load_parameter", "group", "u32", &|name| self.parameter(name))
            }
            (Scales::OfFour(loads), Scaling::Unpacked) => {
                let (words, _) = self.pieces(loads);
                let kind = ["u32", "vec2<u32>", "vec4<u32>", "PackedWords"][words.ilog2() as usize];
                function("load_parameters", "at", kind, &|name| self.parameters(name, words))
            }
            (Scales::Vector, _) | (_, Scaling::None | Scaling::Afterwards) => {
                function("load_scales", "at", "vec4<f32>", &|name| {
                    format!("bitcast<vec4<f32>>({})", self.parameters(name, 4))
                })
            }
        };
        if self.scaling() == Scaling::Afterwards || scales == Scales::Vector {
            return text;
        }
        let kind = if self.is_biased() { "vec2<f32>" } else { "f32" };
        let (value, scaled) = match self.format {
            Format::Int4 { zeros: false, .. } => (
                "    let scale = bitcast<f32>(word);\n    return vec2<f32>(scale, -8.0 * scale);",
                "fma(value, vec4<f32>(scale.x), vec4<f32>(scale.y))",
            ),
            Format::Int4 { zeros: true, .. } => (
                "    let scale = scale_int4(word);\n    return vec2<f32>(scale, -zero_int4(word) * scale);",
                "fma(value, vec4<f32>(scale.x), vec4<f32>(scale.y))",
            ),
            Format::Mxfp4 => ("    return scale_mxfp4(word, byte);", "value * scale"),
            Format::F32 | Format::F16 | Format::Bf16 => ("", "value"),
            Format::Int8(_) | Format::Fp8(_) | Format::Nf4(_) => ("    return bitcast<f32>(word);", "value * scale"),
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

    /// The word of the parameter of `group` of row `n`: an expression.
    fn parameter(self, name: &str) -> String {
        let at = if self.words_of_four() == 4 { "(group * 4u + n % 4u)" } else { "group" };
        self.parameter_words(name, at, 1)
    }

    /// The `at`-th so many words of the parameters of the four rows from `n` on: an expression.
    fn parameters(self, name: &str, words: u32) -> String {
        self.parameter_words(name, "at", words)
    }

    fn parameter_words(self, name: &str, at: &str, words: u32) -> String {
        let [quad, codes] = [self.format.row_bytes(self.width as usize), self.format.code_bytes(self.width as usize)]
            .map(|bytes| 4 * bytes as u32 / self.load_bytes());
        let of_load = self.load_bytes() / 4;
        let first = format!("{name}[n / 4u * {quad}u + {codes}u + {at}");
        let vector =
            |all: Vec<String>| if words == 1 { all.concat() } else { format!("vec{words}<u32>({})", all.join(", ")) };
        if words == of_load {
            return self.words(&format!("{first}]"));
        }
        if words > of_load {
            let loads = words / of_load;
            return vector((0..loads).map(|i| self.words(&format!("{first} * {loads}u + {i}u]"))).collect());
        }
        // A part of a load.
        let parts = of_load / words;
        let load = format!("{first} / {parts}u]");
        let component = |each: u32, i: u32| match each {
            1 => format!("{load}[{at} % {parts}u]"),
            _ => format!("{load}[{at} % {parts}u * {each}u + {i}u]"),
        };
        if !self.of_longs() {
            return vector((0..words).map(|i| component(words, i)).collect());
        }
        let word = match of_load {
            2 => load.clone(),
            _ => format!("{load}[{at} % {parts}u / 2u]"),
        };
        match words {
            1 => format!("u32(({word} >> ({at} % 2u * 32u)) & 0xfffffffflu)"),
            2 => format!("split({})", component(1, 0)),
            _ => format!("vec4<u32>(split({}), split({}))", component(2, 0), component(2, 1)),
        }
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
            let place = place(format, width, format.bits(), "row", "k8");
            interface.function(format!(
                "fn load_{name}({parameters}) -> vec4<f32> {{
    let row = {row};
    let k8 = n4 / 2u;
    let packed = {name}[{place}];
    return select(low_{suffix}(packed), high_{suffix}(packed), n4 % 2u == 1u);
}}
"
            ));
            return;
        }
        let [quad, first] = [format.row_bytes(width as usize), format.code_bytes(width as usize)];
        let word = place(format, width, 4, "row", "k");
        let (k, levels) = match format.bits() {
            4 => ("n4 / 2u", format!("levels_{suffix}(({name}[{word}] >> (4u * (n4 % 2u))) & 0x0f0f0f0fu)")),
            _ => ("n4", format!("levels_{suffix}({name}[{word}])")),
        };
        let group = match format.group() {
            Some(Group::Of(group)) => format!("4u * n4 / {group}u"),
            Some(Group::Row) | None => "0u".to_owned(),
        };
        let of_group = if format.parameter_bytes() == 4 { "group * 4u + row % 4u" } else { "group" };
        let value = match format {
            Format::Int4 { zeros: true, .. } => format!("({levels} - zero_int4(word)) * scale_int4(word)"),
            Format::Int4 { zeros: false, .. } => format!("({levels} - 8.0) * bitcast<f32>(word)"),
            Format::Mxfp4 => format!("{levels} * scale_mxfp4(word, row % 4u)"),
            Format::F32 | Format::F16 | Format::Bf16 | Format::Int8(_) | Format::Fp8(_) | Format::Nf4(_) => {
                format!("{levels} * bitcast<f32>(word)")
            }
        };
        interface.function(format!(
            "fn load_{name}({parameters}) -> vec4<f32> {{
    let row = {row};
    let k = {k};
    let group = {group};
    let word = {name}[row / 4u * {quad}u + {first}u + {of_group}];
    return {value};
}}
"
        ));
    }

    /// The shader's type of the elements of a table.
    pub(crate) fn table_kind(format: Format) -> &'static str {
        if format.is_quantized() { "u32" } else { format.packed() }
    }
}

/// Where load `k` of row `n` of a weight stands, for loads of so many bytes: an expression of those two names.
pub(crate) fn place(format: Format, width: u32, load_bytes: u32, n: &str, k: &str) -> String {
    let quad = 4 * format.row_bytes(width as usize) as u32 / load_bytes;
    match format.piece_bytes(width as usize) as u32 / load_bytes {
        1 => format!("{n} / 4u * {quad}u + {k} * 4u + {n} % 4u"),
        of_piece => format!(
            "{n} / 4u * {quad}u + {k} / {of_piece}u * {}u + {n} % 4u * {of_piece}u + {k} % {of_piece}u",
            4 * of_piece
        ),
    }
}
