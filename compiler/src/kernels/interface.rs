//! The bindings of a kernel and the functions that read and write them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use warpweft_plan::{Access, Binding, CacheFormat, IMAGE_WIDTH, PAD};

use super::spec::{Index, Operand, Rows, Term, View};
use super::table::table;
use super::term::{Function, expression, reads};
use super::{KernelError, Slot};
use crate::formats::{Format, cache};
use crate::target::Target;

/// Collects bindings in their order, and the text of the functions over them.
#[derive(Default)]
pub(crate) struct Interface {
    /// Memory is read and written as 64-bit integers where it can be, and whether it is.
    longs: bool,
    has_longs: bool,
    /// Weights are images, and whether there are any images.
    images: bool,
    has_images: bool,
    bindings: Vec<(Slot, String, Access, String)>,
    functions: Vec<String>,
    formats: BTreeSet<Format>,
    cache: Option<CacheFormat>,
    library: BTreeSet<Function>,
    kept: Vec<String>,
    operands: usize,
}

/// 64-bit integers as words and as floats, and words as one.
const LONGS: &str = "fn split(long: u64) -> vec2<u32> {
    return vec2<u32>(u32(long & 0xfffffffflu), u32(long >> 32u));
}

fn join(words: vec2<u32>) -> u64 {
    return u64(words.x) | (u64(words.y) << 32u);
}

fn four_words(longs: vec2<u64>) -> vec4<u32> {
    return vec4<u32>(split(longs.x), split(longs.y));
}

fn floats(longs: vec2<u64>) -> vec4<f32> {
    return bitcast<vec4<f32>>(four_words(longs));
}
";

/// Where a texel of a weight or a matrix stands.
const PLACE: &str = "fn place(texel: u32) -> vec2<u32> {
    return vec2<u32>(texel % WIDTH, texel / WIDTH);
}
";

/// What an [`Interface`] comes to.
pub(crate) struct Bound {
    pub(crate) slots: Vec<Slot>,
    pub(crate) bindings: Vec<Binding>,
    /// Text of the slot `bindings`.
    pub(crate) declarations: String,
    /// Text of the slot `functions`.
    pub(crate) functions: String,
}

impl Interface {
    /// An empty one for a target.
    pub(crate) fn of(target: &Target) -> Interface {
        Interface { longs: target.int64, images: target.images > 0, ..Interface::default() }
    }

    /// Binds a weight that is read by [`Interface::quad_word`].
    pub(crate) fn bind_quads(&mut self, slot: Slot, name: &str) {
        self.bind_weight(slot, name, "array<vec4<u32>>");
    }

    /// The quad word number `at` of what [`Interface::bind_quads`] bound: an expression.
    pub(crate) fn quad_word(&self, name: &str, at: &str) -> String {
        if self.images { format!("textureLoad({name}, place({at}))") } else { format!("{name}[{at}]") }
    }

    /// Binds a weight whose words are read one by one, by [`Interface::word`].
    pub(crate) fn bind_words(&mut self, slot: Slot, name: &str) {
        self.bind_weight(slot, name, "array<u32>");
    }

    /// Word `part` of quad word `quad` of what [`Interface::bind_words`] bound: an expression.
    pub(crate) fn word(&self, name: &str, quad: &str, part: &str) -> String {
        match self.images {
            true => format!("{}[{part}]", self.quad_word(name, quad)),
            false => format!("{name}[({quad}) * 4u + {part}]"),
        }
    }

    fn bind_weight(&mut self, slot: Slot, name: &str, kind: &str) {
        match self.images {
            true => self.bind_image(slot, name),
            false => self.bind(slot, name, Access::Read, kind),
        }
    }

    fn bind_image(&mut self, slot: Slot, name: &str) {
        self.bind(slot, name, Access::Image, "texture_storage_2d<rgba32uint, read>");
    }

    /// Binds what is read in vec4s of floats, by [`Interface::four`].
    pub(crate) fn bind_fours(&mut self, slot: Slot, name: &str) {
        let kind = if self.longs() { "array<vec2<u64>>" } else { "array<vec4<f32>>" };
        self.bind(slot, name, Access::Read, kind);
    }

    /// Whether memory is to be read as 64-bit integers; then `split`, `join`,
    /// `four_words` and `floats` are defined.
    pub(crate) fn longs(&mut self) -> bool {
        self.has_longs |= self.longs;
        self.longs
    }

    /// The vec4 that is read by an expression like `x[i]`, of what [`Interface::bind_fours`] bound.
    pub(crate) fn four(&self, element: &str) -> String {
        if self.longs { format!("floats({element})") } else { element.to_owned() }
    }

    /// Adds a binding. A table that is bound already is not bound again.
    pub(crate) fn bind(&mut self, slot: Slot, name: &str, access: Access, kind: &str) {
        self.has_images |= access.is_image();
        if !self.bindings.iter().any(|(_, other, ..)| other == name) {
            self.bindings.push((slot, name.to_owned(), access, kind.to_owned()));
        }
    }

    /// Adds the text of a function.
    pub(crate) fn function(&mut self, text: String) {
        self.functions.push(text);
    }

    /// Binds a matrix and defines `load_name(m, n4) -> vec4<f32>`, which may be asked for any `n4` of the padded row and
    /// gives finite numbers beyond the view's width.
    pub(crate) fn view(&mut self, slot: Slot, name: &str, view: View) -> Result<(), KernelError> {
        self.view_up_to(slot, name, view, view.width.next_multiple_of(PAD as u32))
    }

    /// The same for `n4` up to those of `reach` columns, a multiple of four.
    pub(crate) fn view_up_to(&mut self, slot: Slot, name: &str, view: View, reach: u32) -> Result<(), KernelError> {
        check_view(name, view)?;
        match (view.image, by_four(view)) {
            (true, _) => self.bind_image(slot, name),
            (false, true) => self.bind_fours(slot, name),
            (false, false) => self.bind(slot, name, Access::Read, "array<f32>"),
        }
        self.function(self.load_view(name, view, reach));
        Ok(())
    }

    /// Binds the operands `e0`, `e1`… of an operation and defines `load_e0(m, n4)`…
    pub(crate) fn operands(&mut self, operands: &[Operand], width: u32, rows: Rows) -> Result<(), KernelError> {
        self.operands = operands.len();
        self.operands_of("e", Slot::Operand, operands, width, rows)
    }

    /// The same with another letter than `e`.
    pub(crate) fn operands_of(
        &mut self,
        letter: &str,
        slot: fn(usize) -> Slot,
        operands: &[Operand],
        width: u32,
        rows: Rows,
    ) -> Result<(), KernelError> {
        for (i, operand) in operands.iter().enumerate() {
            let name = format!("{letter}{i}");
            match *operand {
                Operand::Vector => {
                    self.bind_fours(slot(i), &name);
                    self.function(format!(
                        "fn load_{name}(m: u32, n4: u32) -> vec4<f32> {{\n    return {};\n}}\n",
                        self.four(&format!("{name}[n4]"))
                    ));
                }
                Operand::Matrix(view) => {
                    if view.width < width {
                        return Err(KernelError::Shape(format!("operand {i} is {} wide, not {width}", view.width)));
                    }
                    self.view(slot(i), &name, view)?;
                }
                Operand::Result | Operand::Next => {
                    let stride = View::whole(width).stride / 4;
                    let over = if *operand == Operand::Next { "next" } else { "out" };
                    self.function(format!(
                        "fn load_{name}(m: u32, n4: u32) -> vec4<f32> {{\n    return {over}[m * {stride}u + n4];\n}}\n"
                    ));
                }
                Operand::Gather { format, rows: window, .. } => {
                    if rows != Rows::Tokens || window == 0 {
                        return Err(KernelError::Shape(format!("operand {i} gathers without tokens or rows")));
                    }
                    self.kept.push(format!("index_{name}(m) < {window}u"));
                    let row = format!("min(index_{name}(m), {}u)", window - 1);
                    table(self, slot(i), &name, format, width, ("m: u32, n4: u32", &row));
                }
            }
        }
        for (i, operand) in operands.iter().enumerate() {
            let Operand::Gather { first, index, .. } = *operand else { continue };
            let index = match index {
                Index::Ids => {
                    self.bind(Slot::Ids, "ids", Access::Read, "array<u32>");
                    "ids[m]"
                }
                Index::Positions => {
                    self.rows_table();
                    "rows[m].x"
                }
            };
            let first = if first == 0 { String::new() } else { format!(" - {first}u") };
            self.function(format!("fn index_{letter}{i}(m: u32) -> u32 {{\n    return {index}{first};\n}}\n"));
        }
        Ok(())
    }

    /// Binds the table of rows.
    pub(crate) fn rows_table(&mut self) {
        self.bind(Slot::Rows, "rows", Access::Read, "array<vec4<u32>>");
    }

    /// Uses a weight format.
    pub(crate) fn format(&mut self, format: Format) {
        self.formats.insert(format);
    }

    /// Uses the format of caches: all caches of a model have the same.
    pub(crate) fn cache(&mut self, format: CacheFormat) {
        self.cache = Some(format);
    }

    /// Defines a function `name` of `(m, n4, acc)`, and `acc2` where the term reads it, from a term.
    pub(crate) fn epilogue(&mut self, name: &str, term: &Term) -> Result<(), KernelError> {
        let operands: Vec<String> = (0..self.operands).map(|i| format!("load_e{i}(m, n4)")).collect();
        self.define(name, "", term, &operands)
    }

    /// The same, but the operands in `vectors` are parameters `v0`, `v1`…, so that a kernel reads them once for many
    /// rows.
    pub(crate) fn epilogue_with(&mut self, name: &str, term: &Term, vectors: &[usize]) -> Result<(), KernelError> {
        let operand = |i| if vectors.contains(&i) { format!("v{i}") } else { format!("load_e{i}(m, n4)") };
        let operands: Vec<String> = (0..self.operands).map(operand).collect();
        let parameters: String = vectors.iter().map(|i| format!(", v{i}: vec4<f32>")).collect();
        self.define(name, &parameters, term, &operands)
    }

    /// A function of a term over the operands of that letter.
    pub(crate) fn term_of(&mut self, name: &str, letter: &str, count: usize, term: &Term) -> Result<(), KernelError> {
        let operands: Vec<String> = (0..count).map(|i| format!("load_{letter}{i}(m, n4)")).collect();
        self.define(name, "", term, &operands)
    }

    /// Defines `load_name(m, n4)` of a bound matrix.
    fn load_view(&self, name: &str, view: View, reach: u32) -> String {
        let (stride, offset, width) = (view.stride, view.offset, view.width);
        if by_four(view) {
            let last = (stride - offset) / 4 - 1;
            let column = if last + 1 < reach.max(width.next_multiple_of(PAD as u32)) / 4 {
                format!("min(n4, {last}u)")
            } else {
                "n4".to_owned()
            };
            let offset = if offset == 0 { String::new() } else { format!("{}u + ", offset / 4) };
            let at = format!("m * {}u + {offset}{column}", stride / 4);
            let value = match view.image {
                true => format!("bitcast<vec4<f32>>(textureLoad({name}, place({at})))"),
                false => self.four(&format!("{name}[{at}]")),
            };
            return format!("fn load_{name}(m: u32, n4: u32) -> vec4<f32> {{\n    return {value};\n}}\n");
        }
        format!(
            "fn load_{name}(m: u32, n4: u32) -> vec4<f32> {{
    let i = m * {stride}u + {offset}u + min(4u * n4 + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>({last}u));
    return vec4<f32>({name}[i.x], {name}[i.y], {name}[i.z], {name}[i.w]);
}}
",
            last = width - 1
        )
    }

    fn define(&mut self, name: &str, more: &str, term: &Term, operands: &[String]) -> Result<(), KernelError> {
        let value = expression(term, operands, &mut self.library)?;
        let acc2 = if reads(term, &Term::Acc2) { ", acc2: vec4<f32>" } else { "" };
        self.function(format!(
            "fn {name}(m: u32, n4: u32, acc: vec4<f32>{acc2}{more}) -> vec4<f32> {{\n    return {value};\n}}\n"
        ));
        Ok(())
    }

    /// Binds the result and the step, and defines `kept(m)`, whether row m is to be written, and
    /// `store(m, n4, value)`, which leaves other columns of the matrix alone.
    pub(crate) fn result(&mut self, out: View, rows: Rows) -> Result<(), KernelError> {
        check_view("out", out)?;
        let text = self.output_view(out);
        let mut kept = vec![format!("m < {}", count(rows))];
        kept.append(&mut self.kept);
        self.function(format!("fn kept(m: u32) -> bool {{\n    return {};\n}}\n", kept.join(" && ")));
        self.function(text);
        Ok(())
    }

    /// Binds the result and the step; gives `store(m, n4, value)`.
    pub(crate) fn output_view(&mut self, out: View) -> String {
        let (access, kind, text) = store_view(out);
        self.bind(Slot::Out, "out", access, kind);
        self.bind(Slot::Step, "step", Access::Uniform, "vec4<u32>");
        text
    }

    /// Binds the result, of that type, and the step.
    pub(crate) fn output(&mut self, kind: &str) {
        self.bind(Slot::Out, "out", Access::ReadWrite, kind);
        self.bind(Slot::Step, "step", Access::Uniform, "vec4<u32>");
    }

    /// Uses functions of the library.
    pub(crate) fn library(&mut self, functions: BTreeSet<Function>) {
        self.library.extend(functions);
    }

    /// Numbers the bindings and checks them against the target's limits.
    pub(crate) fn finish(self, target: &Target) -> Result<Bound, KernelError> {
        let count = |of: &[Access]| self.bindings.iter().filter(|b| of.contains(&b.2)).count() as u32;
        let (need, limit) = (count(&[Access::Read, Access::ReadWrite]), target.limits.storage_buffers);
        if need > limit {
            return Err(KernelError::StorageBuffers { need, limit });
        }
        let (need, limit) = (count(&[Access::Image, Access::ImageWrite]), target.images);
        if need > limit {
            return Err(KernelError::Images { need, limit });
        }
        let mut declarations = String::new();
        let (mut slots, mut bindings) = (Vec::new(), Vec::new());
        for (number, (slot, name, access, kind)) in self.bindings.into_iter().enumerate() {
            let space = match access {
                Access::Read => "<storage, read>",
                Access::ReadWrite => "<storage, read_write>",
                Access::Uniform => "<uniform>",
                Access::Image | Access::ImageWrite => "",
            };
            let _ = writeln!(declarations, "@group(0) @binding({number}) var{space} {name}: {kind};");
            slots.push(slot);
            bindings.push(Binding { name, access });
        }
        let mut formats: Vec<&str> = self.formats.iter().map(|f| f.wgsl()).collect();
        // Formats with groups of different sizes share their functions.
        formats.dedup();
        let caches = self.cache.map_or_else(Vec::new, cache::wgsl);
        let library = self.library.iter().map(|f| f.wgsl());
        let longs = self.has_longs.then_some(LONGS);
        let place = PLACE.replace("WIDTH", &format!("{IMAGE_WIDTH}u"));
        let place = self.has_images.then_some(place.as_str());
        let functions: Vec<&str> = formats
            .into_iter()
            .chain(caches)
            .chain(library)
            .chain(longs)
            .chain(place)
            .chain(self.functions.iter().map(String::as_str))
            .collect();
        Ok(Bound { slots, bindings, declarations, functions: functions.join("\n") })
    }
}

/// How many rows of that kind the step has.
pub(crate) fn count(rows: Rows) -> &'static str {
    match rows {
        Rows::Tokens => "step.x",
        Rows::Sequences => "step.y",
    }
}

/// An error where a view is empty, misplaced or not padded.
pub(crate) fn check_view(name: &str, view: View) -> Result<(), KernelError> {
    let fits = view.offset.checked_add(view.width).is_some_and(|end| end <= view.stride);
    let fits = fits && (!view.image || by_four(view));
    if view.width == 0 || !fits || !view.stride.is_multiple_of(PAD as u32) {
        return Err(KernelError::Shape(format!("{name} is {view:?}")));
    }
    Ok(())
}

/// Whether the view's columns can be read four at a time.
fn by_four(view: View) -> bool {
    view.offset.is_multiple_of(4)
}

/// How the binding `out` is bound, its type, and the function that writes four columns of it.
fn store_view(view: View) -> (Access, &'static str, String) {
    let (stride, offset, width) = (view.stride, view.offset, view.width);
    let head = "fn store(m: u32, n4: u32, value: vec4<f32>) {\n";
    let is_whole = view == View::whole_in(width, view.image);
    if is_whole || by_four(view) && width.is_multiple_of(4) {
        let offset = if offset == 0 { String::new() } else { format!("{}u + ", offset / 4) };
        let at = format!("m * {}u + {offset}n4", stride / 4);
        let (inside, value) = match width.is_multiple_of(4) {
            true => (String::new(), "value"),
            false => (
                format!("    let inside = 4u * n4 + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>({width}u);\n"),
                "select(vec4<f32>(0.0), value, inside)",
            ),
        };
        return match view.image {
            true => (
                Access::ImageWrite,
                "texture_storage_2d<rgba32uint, write>",
                format!("{head}{inside}    textureStore(out, place({at}), bitcast<vec4<u32>>({value}));\n}}\n"),
            ),
            false => (Access::ReadWrite, "array<vec4<f32>>", format!("{head}{inside}    out[{at}] = {value};\n}}\n")),
        };
    }
    let place = format!("    let i = m * {stride}u + {offset}u + 4u * n4;\n");
    (Access::ReadWrite, "array<f32>", format!("{head}{place}{}}}\n", each_column("out", "n4", width)))
}

/// Writes the columns of `value` that are below `width` one by one, from `name[i]` on.
pub(super) fn each_column(name: &str, n4: &str, width: u32) -> String {
    let mut text = String::new();
    for (j, part) in ["x", "y", "z", "w"].iter().enumerate() {
        let _ =
            writeln!(text, "    if (4u * {n4} + {j}u < {width}u) {{\n        {name}[i + {j}u] = value.{part};\n    }}");
    }
    text
}

/// Writes four columns of a head, as far as it has them, to row `m` of a matrix `name` of such heads.
pub(super) fn store_columns(name: &str, stride: u32, dim: u32) -> String {
    format!("    let i = m * {stride}u + head * {dim}u + 4u * d4;\n{}", each_column(name, "d4", dim))
}
