//! Rows of caches in shaders: loads and stores of what the format makes of numbers.

use std::fmt::Write as _;

use warpweft_plan::{Access, CacheRows, PAGE_ROWS};

use super::KernelError;
use super::compose::Slot;
use super::interface::Interface;
use super::spec::View;

/// Words of the widest load.
const MOST_WORDS: u32 = 4;

/// A cache as a kernel binds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) rows: CacheRows,
    /// First column of the part of the only head that is read, else 0.
    first: u32,
    /// vec4s of columns of a load.
    pub(super) loads: u32,
}

impl Stored {
    /// A whole cache, of which a load gives as many vec4s as `loads` says.
    pub(super) fn whole(rows: CacheRows, loads: u32) -> Stored {
        Stored { rows, first: 0, loads }
    }

    /// The columns of a cache that a view is: all of its heads, or columns of the only one.
    pub(super) fn part(rows: CacheRows, view: View, heads: u32, loads: u32) -> Result<Stored, KernelError> {
        let whole = heads == rows.heads && view.offset == 0 && u64::from(view.width) == columns(rows);
        // So that any load begins with the first column.
        let one = heads == 1
            && rows.heads == 1
            && view.offset.is_multiple_of(16)
            && view.offset.checked_add(view.width).is_some_and(|end| end <= rows.columns);
        match (whole, one) {
            (true, _) => Ok(Stored::whole(rows, loads)),
            (false, true) => Ok(Stored { rows, first: view.offset, loads }),
            (false, false) => Err(KernelError::Shape(format!("{heads} heads in {view:?} of a cache of {rows:?}"))),
        }
    }

    /// vec4s of the columns of a head, with those beyond its width.
    pub(super) fn vectors(&self) -> u32 {
        self.rows.code_words() / self.rows.format.words()
    }

    /// Loads of the columns of a head.
    pub(super) fn pieces(&self) -> u32 {
        self.vectors() / self.loads
    }

    fn words(&self) -> u32 {
        self.loads * self.rows.format.words()
    }

    /// The type of an element in memory.
    fn element(&self, longs: bool) -> &'static str {
        match self.words() {
            2 if longs => "u64",
            4 if longs => "vec2<u64>",
            _ => self.kind(),
        }
    }

    /// A load of an element in memory.
    fn loaded(&self, element: &str, longs: bool) -> String {
        match self.words() {
            2 if longs => format!("split({element})"),
            4 if longs => format!("four_words({element})"),
            _ => element.to_owned(),
        }
    }

    /// The element of the words that these vectors have together.
    fn joined(&self, vectors: &[String], longs: bool) -> String {
        let together = |vectors: &[String], kind: &str| match vectors {
            [one] => one.clone(),
            several => format!("{kind}({})", several.join(", ")),
        };
        match self.words() {
            2 if longs => format!("join({})", together(vectors, "vec2<u32>")),
            4 if longs => {
                let halves = match vectors {
                    [one] => [format!("{one}.xy"), format!("{one}.zw")],
                    _ => {
                        let (first, second) = vectors.split_at(vectors.len() / 2);
                        [first, second].map(|half| together(half, "vec2<u32>"))
                    }
                };
                format!("vec2<u64>({})", halves.map(|half| format!("join({half})")).join(", "))
            }
            _ => together(vectors, self.kind()),
        }
    }

    /// The type of a load.
    fn kind(&self) -> &'static str {
        match self.words() {
            1 => "u32",
            2 => "vec2<u32>",
            _ => "vec4<u32>",
        }
    }

    /// An element that begins with a word.
    fn with(&self, word: &str, longs: bool) -> String {
        match self.words() {
            1 => word.to_owned(),
            2 if longs => format!("u64({word})"),
            2 => format!("vec2<u32>({word}, 0u)"),
            _ if longs => format!("vec2<u64>(u64({word}), 0lu)"),
            _ => format!("vec4<u32>({word}, 0u, 0u, 0u)"),
        }
    }

    /// Binds it and defines the format's functions.
    pub(super) fn bind(&self, slot: Slot, name: &str, access: Access, interface: &mut Interface) {
        interface.cache(self.rows.format);
        let longs = self.words() > 1 && interface.longs();
        interface.bind(slot, name, access, &format!("array<{}>", self.element(longs)));
    }

    /// The element at `index` of a head: a page has all its rows of one head, then those of the next.
    fn at(&self, name: &str, index: &str) -> String {
        let (heads, size) = (self.rows.heads, self.rows.head_words() / self.words());
        let head = match heads {
            1 => "m".to_owned(),
            _ => format!("((m / {PAGE_ROWS}u * {heads}u + head) * {PAGE_ROWS}u + m % {PAGE_ROWS}u)"),
        };
        format!("{name}[{head} * {size}u + {index}]")
    }

    /// `load_name(m, head, i)`: the i-th load of a head, of 64-bit integers if memory has `longs`; `part_name(p, h)`: its
    /// h-th four numbers; `scale_name(m, head)` where there are scales.
    pub(super) fn load(&self, name: &str, longs: bool) -> String {
        let kind = self.kind();
        let first = self.first / 4 * self.rows.format.words() / self.words();
        let index = if first == 0 { "i".to_owned() } else { format!("{first}u + i") };
        let whole = match self.words() {
            1 => "vec4<u32>(p, 0u, 0u, 0u)",
            2 => "vec4<u32>(p, 0u, 0u)",
            _ => "p",
        };
        let mut text = format!(
            "fn load_{name}(m: u32, head: u32, i: u32) -> {kind} {{\n    return {};\n}}

fn part_{name}(p: {kind}, h: u32) -> vec4<f32> {{\n    return restored({whole}, h);\n}}\n",
            self.loaded(&self.at(name, &index), longs)
        );
        if self.rows.format.is_scaled() {
            let part = if self.words() == 1 { "" } else { ".x" };
            let scale = self.loaded(&self.at(name, &format!("{}u", self.pieces())), longs);
            let _ = write!(
                text,
                "\nfn scale_{name}(m: u32, head: u32) -> f32 {{\n    return bitcast<f32>({scale}{part});\n}}\n"
            );
        }
        text
    }

    /// `put_name(m, head, i, …)` of the four numbers of each of a load's vec4s, and `put_scale_name(m, head, scale)`.
    pub(super) fn put(&self, name: &str, longs: bool) -> String {
        let values: Vec<String> = (0..self.loads).map(|h| format!("v{h}")).collect();
        let arguments: Vec<String> = values.iter().map(|value| format!(", {value}: vec4<f32>")).collect();
        let words: Vec<String> = values.iter().map(|value| format!("stored({value})")).collect();
        let value = self.joined(&words, longs);
        let mut text = format!(
            "fn put_{name}(m: u32, head: u32, i: u32{}) {{\n    {} = {value};\n}}\n",
            arguments.concat(),
            self.at(name, "i")
        );
        if self.rows.format.is_scaled() {
            let place = self.at(name, &format!("{}u", self.pieces()));
            let scale = self.with("bitcast<u32>(scale)", longs);
            let _ =
                write!(text, "\nfn put_scale_{name}(m: u32, head: u32, scale: f32) {{\n    {place} = {scale};\n}}\n");
        }
        text
    }
}

fn columns(rows: CacheRows) -> u64 {
    u64::from(rows.heads) * u64::from(rows.columns)
}

/// vec4s of a load of sixteen bytes.
pub(super) fn widest(rows: CacheRows) -> u32 {
    MOST_WORDS / rows.format.words()
}

/// vec4s of a load of a head's columns of which there are enough for `lanes`, if there can be.
pub(super) fn shared(rows: CacheRows, vectors: u32, lanes: u32) -> u32 {
    let mut loads = widest(rows);
    while loads > 1 && vectors.div_ceil(loads) < lanes {
        loads /= 2;
    }
    loads
}
