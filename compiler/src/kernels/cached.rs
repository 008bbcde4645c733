//! Attention over a paged cache: rows of one sequence in tiles, or one row in chunks of its context.

use std::collections::BTreeSet;

use warpweft_plan::{Access, Dim, Keys};

use super::KernelError;
use super::attention::{Attention, Band, load_head, split_mask, store_head};
use super::compose::{Choice, Composed, Draft, RowRange, Slot};
use super::cost;
use super::cost::attention::AttentionShape;
use super::fresh::ADDING;
use super::interface::{Interface, store_columns, store_view, view_type};
use super::spec::{Fresh, Operation, Split, Term, View};
use super::term::expression;
use crate::target::Target;

/// `attention/cached_broadcast.wgsl`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CachedTile {
    /// Rows.
    pub rows: u32,
    /// Heads of a row, all of one group.
    pub heads: u32,
    /// vec4s of keys of a lane.
    pub keys4: u32,
}

/// `attention/cached_workgroup.wgsl`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CachedWorkgroup {
    /// Rows.
    pub rows: u32,
    /// Heads of a row, all of one group.
    pub heads: u32,
}

/// Invocations of a workgroup that uses workgroup memory.
pub(crate) const INVOCATIONS: u32 = 64;

/// Keys of a chunk of the context, where it is cut at all; a multiple of it in a very long one.
const CHUNK: u32 = 256;

/// The most chunks of a context.
const MOST_CHUNKS: u32 = 64;

/// What making a column ready costs, in multiply-adds: its loads, and its share of a sine and a cosine.
pub(crate) const READY: f64 = 24.0;

/// Contexts up to here are attended to at once.
const SHORT: u32 = 512;

/// How one row's attention is cut, if it is.
pub fn split(term: &Term, max_context: u32) -> Option<Split> {
    let (_, band) = split_mask(term);
    let seen = band.before.map_or(max_context, |before| max_context.min(before.saturating_add(1)));
    if seen <= SHORT {
        return None;
    }
    let all = chunks(max_context.into());
    // A window does not begin where a chunk does.
    Some(Split { count: all.count.min(seen.div_ceil(all.keys) + 1), ..all })
}

/// How one row's attention to all of a context is cut.
pub(crate) fn chunks(context: u64) -> Split {
    let context = u32::try_from(context).unwrap_or(u32::MAX);
    let keys = context.div_ceil(MOST_CHUNKS).next_multiple_of(CHUNK);
    Split { keys, count: context.div_ceil(keys) }
}

impl Operation {
    /// Rows before a row's own that it sees of the caches it reads; `None` if it may be all.
    pub fn window(&self) -> Option<u32> {
        let Operation::CachedAttention { attention, .. } = self else { return None };
        split_mask(&attention.term).1.before.filter(|&before| before < attention.max_context)
    }
}

struct Cached {
    core: Attention,
    split: Option<Split>,
    fresh: Option<Fresh>,
}

impl Cached {
    fn of(operation: &Operation) -> Result<Cached, KernelError> {
        let Operation::CachedAttention { attention, fresh, split } = operation else {
            return Err(KernelError::Algorithm("cached attention for another operation".to_owned()));
        };
        if let Some(fresh) = fresh {
            fresh.check(attention)?;
        }
        Ok(Cached { core: Attention::of(operation)?, split: *split, fresh: *fresh })
    }

    /// Query heads that read the same keys.
    fn group(&self) -> u32 {
        self.core.heads / self.core.kv_heads
    }

    /// The most keys that a tile of `rows` walks.
    fn span(&self, rows: u32) -> u32 {
        match (self.split, self.core.band.before) {
            (Some(split), _) => split.keys,
            (None, Some(before)) => self.core.max_context.min(before.saturating_add(rows)),
            (None, None) => self.core.max_context,
        }
    }

    /// q, k, v, rows, sequences, pages; or what rows that are not ready need.
    fn inputs(&self, interface: &mut Interface) -> Result<(), KernelError> {
        if let Some(fresh) = self.fresh {
            return fresh.bind([self.core.k, self.core.v], interface);
        }
        for (slot, name, view, dim, exact) in [
            (Slot::Q, "q", self.core.q, self.core.head_dim(), true),
            (Slot::K, "k", self.core.k, self.core.head_dim(), false),
            (Slot::V, "v", self.core.v, self.core.value_dim(), false),
        ] {
            let four = view.offset.is_multiple_of(4) && dim.is_multiple_of(4);
            interface.bind(slot, name, Access::Read, if four { view_type(view) } else { "array<f32>" });
            interface.function(load_head(name, view, dim, exact));
        }
        interface.rows_table();
        interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
        interface.bind(Slot::Pages, "pages", Access::Read, "array<u32>");
        Ok(())
    }

    /// The inputs, then out and step.
    fn interface(&self) -> Result<Interface, KernelError> {
        let mut interface = Interface::default();
        self.inputs(&mut interface)?;
        interface.function(key_range(self.core.band));
        let mut functions = BTreeSet::new();
        let value = expression(&self.core.logit, &[], &mut functions)?;
        interface.library(functions);
        interface.function(format!("fn logit(acc: vec4<f32>) -> vec4<f32> {{\n    return {value};\n}}\n"));
        match self.split {
            None => {
                let kind = store(self.core.heads, self.core.value_dim(), &mut interface);
                interface.output(kind);
            }
            Some(split) => {
                let (count, heads, part4) = (split.count, self.core.heads, Split::part4(self.core.value_dim()));
                interface.function(format!(
                    "fn store(m: u32, chunk: u32, head: u32, d4: u32, value: vec4<f32>) {{
    out[((m * {count}u + chunk) * {heads}u + head) * {part4}u + d4] = value;\n}}\n"
                ));
                interface.output("array<vec4<f32>>");
            }
        }
        Ok(interface)
    }

    /// The slot `range` where a tile is one row: all of its context, or a chunk.
    fn range(&self, rows: u32) -> Option<String> {
        let row =
            "let m0 = group.x;\nif (m0 >= step.x) {\n    return;\n}\nlet last = m0;\nlet sequence = rows[m0].w;\n";
        // Keys of before the step end where the step's own rows begin.
        let (stop, before) = match self.fresh {
            Some(_) => ("stop", "\nlet own = sequences[sequence];\nlet end = min(stop, own.z);"),
            None => ("end", ""),
        };
        match self.split {
            Some(_) => Some(format!(
                "{row}let chunk = first_key(m0) / CHUNK + group.z;
let begin = max(first_key(m0), chunk * CHUNK);
let {stop} = min(end_key(m0), chunk * CHUNK + CHUNK);
if (begin >= {stop}) {{\n    return;\n}}{before}"
            )),
            None if rows == 1 => Some(format!("{row}let begin = first_key(m0);\nlet {stop} = end_key(m0);{before}")),
            None => None,
        }
    }

    /// What its time depends on.
    fn shape(&self) -> AttentionShape {
        let shape = self.core.shape();
        let most = shape.keys.most.into_iter().chain(self.split.map(|split| split.keys)).min();
        let keys = Keys { most, ..shape.keys };
        AttentionShape { cached: true, fresh: self.fresh.is_some(), split: self.split, keys, ..shape }
    }

    /// An error for a tile of several rows, where each row has to be made ready.
    fn check_tile(&self, rows: u32) -> Result<(), KernelError> {
        match self.fresh.is_some() && rows != 1 {
            true => Err(KernelError::Algorithm(format!("for {rows} rows that are made ready"))),
            false => Ok(()),
        }
    }

    fn flops(&self) -> Dim {
        let per_key = 2 * i64::from(self.core.heads) * i64::from(self.core.head_dim() + self.core.value_dim());
        Dim::TOKENS
            * (per_key
                * i64::from(self.core.band.before.map_or(self.core.max_context, |b| b.min(self.core.max_context))))
    }

    fn name(&self, tile: &str) -> String {
        let heads = match self.core.kv_heads == self.core.heads {
            true => format!("{}", self.core.heads),
            false => format!("{}to{}", self.core.heads, self.core.kv_heads),
        };
        let band = self.core.band.before.map_or(String::new(), |before| format!("_window{before}"));
        let chunk = self.split.map_or(String::new(), |s| format!("_chunks{}", s.keys));
        let fresh = if self.fresh.is_some() { "_fresh" } else { "" };
        format!("cached_attention_{heads}x{}{band}{chunk}{fresh}_{tile}", self.core.head_dim())
    }

    /// vec4s of columns of q and k in one iteration: a divisor of all, few enough iterations for the longest contexts.
    fn columns(&self) -> u32 {
        let d4 = self.core.head_dim().div_ceil(4);
        let least = d4.div_ceil(8).max(4).min(d4);
        (least..=d4).find(|u| d4.is_multiple_of(*u)).unwrap_or(d4)
    }
}

/// Defines `store(m, head, d4, value)` into a whole matrix; gives the type of the binding.
fn store(heads: u32, dim: u32, interface: &mut Interface) -> &'static str {
    let out = View::whole(heads * dim);
    if dim.is_multiple_of(4) {
        let (kind, text) = store_view(out);
        let call = format!("    store_out(m, head * {}u + d4, value);\n", dim / 4);
        interface.function(text.replace("fn store(", "fn store_out(") + "\n" + &store_head(&call));
        return kind;
    }
    interface.function(store_head(&store_columns("out", out.stride, dim)));
    "array<f32>"
}

/// `first_key(m)` and `end_key(m)`, positions in the row's own sequence.
fn key_range(band: Band) -> String {
    let first = match band.before {
        Some(before) => format!("rows[m].x - min(rows[m].x, {before}u)"),
        None => "0u".to_owned(),
    };
    let all = "sequences[rows[m].w].z + sequences[rows[m].w].y";
    let end = match band.after.filter(|&after| after < 1 << 30) {
        Some(0) => "rows[m].x + 1u".to_owned(),
        Some(after) => format!("min({all}, rows[m].x + {}u)", after + 1),
        None => all.to_owned(),
    };
    format!(
        "fn first_key(m: u32) -> u32 {{\n    return {first};\n}}\n\nfn end_key(m: u32) -> u32 {{\n    return {end};\n}}\n"
    )
}

/// The ways to compute an attention over a cache.
pub(crate) fn candidates(operation: &Operation, target: &Target, rows: RowRange) -> Result<Vec<Choice>, KernelError> {
    Ok(Cached::of(operation)?.shape().cached_candidates(target, rows))
}

/// Writes `attention/cached_broadcast.wgsl`.
pub(crate) fn broadcast(operation: &Operation, tile: CachedTile, target: &Target) -> Result<Composed, KernelError> {
    let cached = Cached::of(operation)?;
    let lanes = target.subgroup_size.ok_or_else(|| KernelError::Algorithm("with subgroups".to_owned()))?;
    let CachedTile { rows, heads, keys4 } = tile;
    let (d4, dv4) = (cached.core.head_dim().div_ceil(4), cached.core.value_dim().div_ceil(4));
    cached.check_tile(rows)?;
    let columns = cached.columns();
    let mut slots = cached.fresh.map_or_else(Vec::new, |fresh| fresh.broadcast());
    if lanes > 8 {
        // Written out, the lanes of a large subgroup make too long a text.
        slots.push(("lanes", "//# trips S".to_owned()));
    }
    slots.extend(cached.range(rows).map(|text| ("range", text)));
    if cached.split.is_some() {
        let text = "//# unroll
for (var c = 0u; c < C4; c++) {
    if (lane + c * S < DV4) {
        store(m, group.z, head, lane + c * S, acc[r * C4 + c]);
    }
}
if (lane == 0u) {
    store(m, group.z, head, DV4, vec4<f32>(top[r], sum, 0.0, 0.0));
}";
        slots.push(("result", text.to_owned()));
    }
    let mut constants = vec![
        ("S", lanes, "lanes of a subgroup"),
        ("ROWS", rows, "rows of a tile"),
        ("HEADS", heads, "heads of a tile"),
        ("B", keys4, "vec4s of keys of a lane"),
        ("U", columns, "vec4s of columns of q and k in one iteration"),
        ("X", (rows * heads * columns).div_ceil(lanes), "vec4s of q that a lane reads in one iteration"),
        ("D4", d4, "vec4s of columns of a head of q and k"),
        ("DV4", dv4, "vec4s of columns of a head of v"),
        ("C4", dv4.div_ceil(lanes), "vec4s of columns of a lane"),
        ("G", cached.group(), "heads of q for one of k and v"),
        ("BLOCKS", cached.span(rows).div_ceil(4 * keys4 * lanes), "the most blocks of keys"),
        ("CHUNK", cached.split.map_or(cached.core.max_context, |s| s.keys), "keys of a chunk of the context"),
    ];
    if cached.fresh.is_some() {
        constants.push(("L4", d4.div_ceil(lanes), "vec4s of columns of q and k of a lane"));
    }
    Draft {
        name: cached.name(&format!("broadcast{lanes}_{rows}x{heads}x{}", keys4 * 4 * lanes)),
        source: include_str!("attention/cached_broadcast.wgsl"),
        constants,
        slots,
        interface: cached.interface()?,
        launch: tile.launch(&cached.shape(), lanes, target.rates.registers),
        flops: cached.flops(),
        bytes: cached.shape().bytes(),
    }
    .finish(target)
}

/// Writes `attention/cached_workgroup.wgsl`.
pub(crate) fn workgroup(
    operation: &Operation,
    tile: CachedWorkgroup,
    target: &Target,
) -> Result<Composed, KernelError> {
    let cached = Cached::of(operation)?;
    let CachedWorkgroup { rows, heads } = tile;
    let (d4, dv4) = (cached.core.head_dim().div_ceil(4), cached.core.value_dim().div_ceil(4));
    let vectors = (rows * heads).next_power_of_two();
    let keys = 32.max(INVOCATIONS / vectors);
    cached.check_tile(rows)?;
    let mut slots = cached.fresh.map_or_else(Vec::new, |fresh| fresh.workgroup());
    slots.extend(cached.range(rows).map(|text| ("range", text)));
    if cached.split.is_some() {
        let text = "store(m, group.z, head, item % DV4, acc[a]);
if (item % DV4 == 0u) {
    store(m, group.z, head, DV4, vec4<f32>(top[row], total[row], 0.0, 0.0));
}";
        slots.push(("result", text.to_owned()));
    }
    let mut constants = vec![
        ("T", INVOCATIONS, "invocations"),
        ("ROWS", rows, "rows of a tile"),
        ("HEADS", heads, "heads of a tile"),
        ("R", vectors, "of both"),
        ("B", keys, "keys of a block"),
        ("A", (rows * heads * dv4).div_ceil(INVOCATIONS), "vec4s of out of an invocation"),
        ("U", cached.columns(), "vec4s of columns of q and k in one iteration"),
        ("V", 16, "keys in one iteration"),
        ("D4", d4, "vec4s of columns of a head of q and k"),
        ("DV4", dv4, "vec4s of columns of a head of v"),
        ("G", cached.group(), "heads of q for one of k and v"),
        ("BLOCKS", cached.span(rows).div_ceil(keys), "the most blocks of keys"),
        ("CHUNK", cached.split.map_or(cached.core.max_context, |s| s.keys), "keys of a chunk of the context"),
    ];
    if cached.fresh.is_some() {
        constants.extend([
            ("EACH", ADDING, "invocations that add up one head"),
            ("Q4", (heads * d4).div_ceil(INVOCATIONS), "vec4s of q of an invocation"),
            ("K4", d4.div_ceil(INVOCATIONS), "vec4s of a key of an invocation"),
            ("V4", dv4.div_ceil(INVOCATIONS), "vec4s of a value of an invocation"),
            ("L4", d4.div_ceil(ADDING), "vec4s of columns of q and k of an invocation that adds"),
            ("LV4", dv4.div_ceil(ADDING), "vec4s of columns of v of an invocation that adds"),
        ]);
    }
    Draft {
        name: cached.name(&format!("workgroup_{rows}x{heads}x{keys}")),
        source: include_str!("attention/cached_workgroup.wgsl"),
        constants,
        slots,
        interface: cached.interface()?,
        launch: tile.launch(&cached.shape()),
        flops: cached.flops(),
        bytes: cached.shape().bytes(),
    }
    .finish(target)
}

/// Writes `attention/combine.wgsl`.
pub(crate) fn combine(operation: &Operation, target: &Target) -> Result<Composed, KernelError> {
    let Operation::CombineAttention { heads, value_dim, term, split } = operation else {
        return Err(KernelError::Algorithm("combine for another operation".to_owned()));
    };
    let dv4 = value_dim.div_ceil(4);
    let mut interface = Interface::default();
    interface.bind(Slot::X, "x", Access::Read, "array<vec4<f32>>");
    interface.rows_table();
    interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
    interface.function(key_range(split_mask(term).1));
    let kind = store(*heads, *value_dim, &mut interface);
    interface.output(kind);
    let width = i64::from(heads * value_dim);
    Draft {
        name: format!("combine_attention_{heads}x{value_dim}_{}", split.count),
        source: include_str!("attention/combine.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations"),
            ("H", *heads, "heads"),
            ("DV4", dv4, "vec4s of columns of a head"),
            ("CHUNK", split.keys, "keys of a chunk"),
            ("CHUNKS", split.count, "the most chunks"),
        ],
        slots: Vec::new(),
        interface,
        launch: cost::rowwise::combine(heads * dv4, split.keys, INVOCATIONS),
        flops: Dim::TOKENS * (4 * width),
        bytes: Dim::TOKENS * (8 * width),
    }
    .finish(target)
}
