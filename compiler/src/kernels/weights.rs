//! How kernels read matrices of weights: quad words (`formats/layout.rs`), decoded when they meet x.
//!
//! A *load* is so many of them as meet some vec4s of x. What scales a group of columns is read beside it, or, where a row has
//! one scale, multiplied into the finished sum.

use std::fmt::Write as _;

use warpweft_plan::PAD;

use super::Slot;
use super::interface::Interface;
use crate::formats::{Format, Group, PANEL_QUADS, WORD};

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

/// In what parameters of groups are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameters {
    /// Quad words.
    Quads,
    /// Words, each of which has a byte of each row's group.
    Bytes,
}

impl Weights {
    /// Loads that meet so many vec4s of x.
    pub(crate) fn new(format: Format, width: u32, fours: u32) -> Weights {
        Weights { format, width, fours }
    }

    /// How many vec4s of x a load can meet, the most first: no more than four quad words have, of images eight, and than all
    /// rows are multiples of.
    pub(crate) fn loads_of(format: Format, width: u32, images: bool) -> &'static [u32] {
        let width = width as usize;
        let many = images && format.code_bytes(width).is_multiple_of(32);
        match (format.bits(), many) {
            (4, true) => &[16, 8, 4, 2, 1],
            (4, false) => &[8, 4, 2, 1],
            (8, true) => &[8, 4, 2, 1],
            (8, false) => &[4, 2, 1],
            (16, true) => &[4, 2, 1],
            _ => &[2, 1],
        }
    }

    /// Values of a word.
    pub(crate) fn values(self) -> u32 {
        8 * WORD as u32 / self.format.bits()
    }

    /// Quad words of a load.
    pub(crate) fn words(self) -> u32 {
        (4 * self.fours).div_ceil(self.values())
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

    /// How many groups' parameters a quad word has.
    fn groups_of_quad(self) -> u32 {
        (WORD / self.format.parameter_bytes().max(1)) as u32
    }

    /// In what the parameters that so many loads need are read.
    fn parameters(self, loads: u32) -> Parameters {
        let (groups, each) = (self.groups_in(loads), self.groups_of_quad());
        let whole = self.has_whole_groups(loads) && groups.is_multiple_of(each);
        if each == 1 || whole { Parameters::Quads } else { Parameters::Bytes }
    }

    /// Reads of the scales of so many loads and the components of each.
    pub(crate) fn parameter_reads(self, loads: u32) -> (u32, u32) {
        let groups = self.groups_in(loads);
        match (self.scaling(), self.parameters(loads)) {
            (Scaling::None | Scaling::Afterwards, _) => (0, 1),
            (Scaling::Unpacked, Parameters::Quads) => (groups / self.groups_of_quad(), 4),
            (Scaling::Unpacked, Parameters::Bytes) => (groups, 1),
        }
    }

    /// Statements that read load `k` of four rows, `quad`, of weight `p` into `ws` from `first` on.
    pub(crate) fn load(self, [p, quad, k]: [&str; 3], first: &str) -> String {
        let of_load = self.first_word(k);
        (0..self.words()).map(|i| format!("ws[{first} + {i}u] = load_w({p}, {quad}, {of_load} + {i}u);\n")).collect()
    }

    /// The same of those quad words alone that vec4 `h` of x is the first to meet.
    pub(crate) fn load_part(self, [p, quad, k]: [&str; 3], first: &str, h: &str) -> String {
        let (fours, words) = match self.values() / 4 {
            0 => (1, 4 / self.values()),
            of_word => (of_word.min(self.fours), 1),
        };
        let of_load = self.first_word(k);
        let number = format!("{h} / {fours}u * {words}u + i");
        format!(
            "//# unroll
for (var i = 0u; i < {words}u * ({fours}u - {h} % {fours}u) / {fours}u; i++) {{
ws[{first} + {number}] = load_w({p}, {quad}, {of_load} + {number});
}}
"
        )
    }

    /// The first quad word of load `k`.
    fn first_word(self, k: &str) -> String {
        match self.values() / (4 * self.fours) {
            0 | 1 => format!("({k}) * {}u", self.words()),
            loads_of_word => format!("({k}) / {loads_of_word}u"),
        }
    }

    /// Four columns at k `4 h + i` of load `k`, which `ws` has from `first` on: an expression.
    pub(crate) fn unpacked(self, first: &str, k: &str, h: &str, i: u32) -> String {
        let values = self.values();
        if 4 * self.fours < values {
            return format!("unpack(ws[{first}], ({k}) % {}u * 4u + {i}u)", values / (4 * self.fours));
        }
        match values {
            1 => format!("unpack(ws[{first} + {h} * 4u + {i}u], 0u)"),
            2 => format!("unpack(ws[{first} + {h} * 2u + {}u], {}u)", i / 2, i % 2),
            4 => format!("unpack(ws[{first} + {h}], {i}u)"),
            _ => format!("unpack(ws[{first} + {h} / 2u], {h} % 2u * 4u + {i}u)"),
        }
    }

    /// The same with the scale and, where there is one, the bias of a group, `ss[at]` and `bs[at]`.
    pub(crate) fn scaled(self, value: &str, at: &str) -> String {
        if self.is_biased() { format!("fma({value}, ss[{at}], bs[{at}])") } else { format!("{value} * ss[{at}]") }
    }

    /// Statements that put the scales of the loads from `k` on into `ss[first + g]`, and what zero points take off into
    /// `bs`: of four rows, `quad`, of weight `p`.
    pub(crate) fn load_scales(self, loads: u32, [p, quad, k]: [&str; 3], first: &str) -> String {
        let (groups, each) = (self.groups_in(loads), self.groups_of_quad());
        let read = self.parameters(loads);
        let mut text = String::new();
        let mut words = Vec::new();
        let of_quad = |quad: String, g: u32| match each {
            1 => quad,
            _ => format!("{quad}[{}u]", g % each),
        };
        match read {
            Parameters::Quads => {
                let quads = groups / each;
                for i in 0..quads {
                    let at = match groups > 1 && self.has_whole_groups(loads) {
                        true => format!("({k}) / {loads}u * {quads}u + {i}u"),
                        false => self.group(loads, k, &format!("{i}u")),
                    };
                    let _ = writeln!(text, "let parameters{i} = load_parameters({p}, {quad}, {at});");
                }
                words.extend((0..groups).map(|g| of_quad(format!("parameters{}", g / each), g)));
            }
            Parameters::Bytes => {
                for g in 0..groups {
                    let at = self.group(loads, k, &format!("{g}u"));
                    let _ = writeln!(text, "let parameters{g} = load_parameters({p}, {quad}, {at});");
                }
                words.extend((0..groups).map(|g| format!("parameters{g}")));
            }
        }
        for (g, word) in words.iter().enumerate() {
            let _ = writeln!(text, "ss[{first} + {g}u] = scale_of({word});");
            if self.is_biased() {
                let _ = writeln!(text, "bs[{first} + {g}u] = bias_of({word});");
            }
        }
        text
    }

    /// What is read for a group is its scale and what its zero point takes off.
    pub(crate) fn is_biased(self) -> bool {
        matches!(self.format, Format::Int4 { .. }) && self.scaling() == Scaling::Unpacked
    }

    /// Each group has a zero point of its own.
    fn zero_in_group(self) -> bool {
        matches!(self.format, Format::Int4 { zeros: true, .. })
    }

    /// What a vec4 of x is multiplied with, an expression of the lane that reads it, where unpacking takes fewer steps if values
    /// may be so many times as great; `summed` where sums over loads are scaled. Of codes of four bits every other vec4 stands in
    /// the upper halves of bytes, and lanes read vec4s in turn.
    pub(crate) fn lowered(self, summed: bool) -> Option<&'static str> {
        match self.format {
            Format::Int8(_) => Some("5.9604645e-8"),
            Format::Int4 { .. } if summed && self.is_biased() && self.fours > 1 => Some(
                "select(vec4<f32>(1.0, 0.00390625, 1.5258789e-5, 5.9604645e-8), \
                 vec4<f32>(0.0625, 0.00024414062, 9.536743e-7, 5.9604645e-8), lane % 2u == 1u)",
            ),
            Format::Int4 { .. } | Format::F32 | Format::F16 | Format::Bf16 => None,
            Format::Fp8(_) | Format::Nf4(_) | Format::Mxfp4 => None,
        }
    }

    /// Quad words of a quad, and those of them that are codes.
    fn quad(self) -> [u32; 2] {
        [self.format.row_bytes(self.width as usize), self.format.code_bytes(self.width as usize)]
            .map(|bytes| (bytes / WORD) as u32)
    }

    /// Binds the weights and defines `load_w(p, n4, i) -> vec4<u32>`, the i-th quad word of the n4-th four rows of weight p;
    /// `unpack(words, at)`, value `at` of each of four words; and what reads scales for so many loads. Where `raised`, what is
    /// unpacked is as many times greater as x is [`Weights::lowered`].
    pub(crate) fn functions(
        self,
        interface: &mut Interface,
        bindings: &[(Slot, &'static str)],
        loads: u32,
        raised: bool,
    ) {
        interface.format(self.format);
        for (slot, name) in bindings {
            interface.bind_quads(*slot, name);
        }
        let paired = bindings.len() > 1;
        let function = |name: &str, kind: &str, of: &dyn Fn(&str) -> String| {
            let second = if paired {
                format!("    if (p == 1u) {{\n        return {};\n    }}\n", of("w2"))
            } else {
                String::new()
            };
            format!("fn {name}(p: u32, n4: u32, i: u32) -> {kind} {{\n{second}    return {};\n}}\n", of("w"))
        };
        let [quad, codes] = self.quad();
        let word = |name: &str, at: &str| interface.quad_word(name, at);
        // Of each quad of a panel its quad words of the same number stand side by side. What is the same for all loads stands
        // together, so that a driver computes it once.
        let first = format!("n4 / {PANEL_QUADS}u * {}u + n4 % {PANEL_QUADS}u", quad * PANEL_QUADS as u32);
        let placed = |number: &str| format!("{first} + {number} * {PANEL_QUADS}u");
        let mut text = function("load_w", "vec4<u32>", &|name| word(name, &placed("i")));
        let _ = write!(
            text,
            "\nfn unpack(words: vec4<u32>, at: u32) -> vec4<f32> {{\n    return {};\n}}\n",
            self.value(raised)
        );
        if self.scaling() != Scaling::None {
            text += "\n";
            text += &match self.parameters(loads) {
                Parameters::Quads => {
                    function("load_parameters", "vec4<u32>", &|name| word(name, &placed(&format!("({codes}u + i)"))))
                }
                Parameters::Bytes => function("load_parameters", "u32", &|name| {
                    format!("{}[i % 4u]", word(name, &placed(&format!("({codes}u + i / 4u)"))))
                }),
            };
            text += &self.scale();
        }
        interface.function(text);
    }

    /// Value `at` of each of four words: an expression, of codes their levels, less the zero point where all have the same.
    fn value(self, raised: bool) -> String {
        let suffix = self.format.suffix();
        let less = if matches!(self.format, Format::Int4 { .. }) && !self.is_biased() { " - 8.0" } else { "" };
        match self.format {
            Format::F32 => "bitcast<vec4<f32>>(words)".to_owned(),
            Format::F16 | Format::Bf16 => {
                format!("halves_{suffix}(words, vec4<bool>(at == 1u))")
            }
            Format::Int8(_) | Format::Int4 { .. } if raised => format!("raised_{suffix}(words, at)"),
            Format::Int8(_) | Format::Fp8(_) => format!("levels_{suffix}(words >> vec4<u32>(8u * at))"),
            Format::Int4 { .. } | Format::Mxfp4 | Format::Nf4(_) => {
                format!("levels_{suffix}(words >> vec4<u32>(8u * (at % 4u) + 4u * (at / 4u))){less}")
            }
        }
    }

    /// Defines `scale_of`, four rows' scales of a group, and where there are zero points `bias_of`, what they take off.
    fn scale(self) -> String {
        let (kind, scale) = match self.format {
            Format::Int4 { zeros: true, .. } => ("vec4<u32>", "scale_int4(words)"),
            Format::Mxfp4 => ("u32", "scale_mxfp4(words)"),
            Format::F32 | Format::F16 | Format::Bf16 | Format::Int4 { zeros: false, .. } => {
                ("vec4<u32>", "bitcast<vec4<f32>>(words)")
            }
            Format::Int8(_) | Format::Fp8(_) | Format::Nf4(_) => ("vec4<u32>", "bitcast<vec4<f32>>(words)"),
        };
        let mut text = format!("\nfn scale_of(words: {kind}) -> vec4<f32> {{\n    return {scale};\n}}\n");
        if self.is_biased() {
            let zero = if self.zero_in_group() { "zero_int4(words)" } else { "8.0" };
            let _ = write!(
                text,
                "\nfn bias_of(words: {kind}) -> vec4<f32> {{\n    return -{zero} * scale_of(words);\n}}\n"
            );
        }
        text
    }
}
