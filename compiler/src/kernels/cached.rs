//! Attention over a paged cache: rows of one sequence in tiles, or one row in chunks of its context.

mod slots;

use std::collections::BTreeSet;

use warpweft_plan::{Access, CacheRows, Dim, Keys};

use super::KernelError;
use super::attention::{Attention, load_head, split_mask, store};
use super::compose::{Choice, Composed, Draft, RowRange, Slot};
use super::cost;
use super::cost::attention::AttentionShape;
use super::fresh::ADDING;
use super::interface::Interface;
use super::spec::{Fresh, Operation, Split, Term};
use super::stored::{Stored, shared, widest};
use super::term::expression;
use crate::target::Target;
use slots::{BROADCAST_SCALES, BROADCAST_WEIGH, WORKGROUP_SCALES, key_range};

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

/// Trips of its loops that are not over keys, at the most.
const ONCE: u64 = 1024;

/// Loads of an invocation in one iteration there.
const LOADS: u32 = 16;

/// Keys of a chunk of the context, where it is cut at all; a multiple of it in a very long one.
const CHUNK: u32 = 256;

/// The most chunks of a context.
const MOST_CHUNKS: u32 = 64;

/// What making a column ready costs, in multiply-adds: its loads, and its share of a sine and a cosine.
pub(crate) const READY: f64 = 24.0;

/// Contexts up to here are attended to at once.
const SHORT: u32 = 512;

/// Rows of a step that are made ready, at the most: lowering has one made ready, a plan's step of several has other kernels.
const NEW: u32 = 32;

/// Up to where a device gains nothing from chunks of one row's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncut {
    /// Workgroups that run side by side: where there are as many heads, chunks would run one after the other, and putting them
    /// together is a dispatch more.
    pub places: u32,
    /// Keys that a workgroup can walk along, as drivers limit iterations.
    pub keys: u32,
}

/// How one row's attention is cut, if it is.
pub fn split(term: &Term, max_context: u32, heads: u32, device: Uncut) -> Option<Split> {
    let (_, band) = split_mask(term);
    let seen = band.before.map_or(max_context, |before| max_context.min(before.saturating_add(1)));
    if seen <= SHORT || (heads >= device.places && seen <= device.keys) {
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

    /// The rows of the cache that it reads as k or v.
    pub fn cached(&self, slot: Slot) -> Option<CacheRows> {
        let Operation::CachedAttention { caches, .. } = self else { return None };
        [(Slot::K, caches[0]), (Slot::V, caches[1])].into_iter().find(|(own, _)| *own == slot).map(|(_, rows)| rows)
    }
}

struct Cached {
    core: Attention,
    /// Those of k and v.
    caches: [CacheRows; 2],
    split: Option<Split>,
    fresh: Option<Fresh>,
}

impl Cached {
    fn of(operation: &Operation) -> Result<Cached, KernelError> {
        let Operation::CachedAttention { attention, caches, fresh, split } = operation else {
            return Err(KernelError::Algorithm("cached attention for another operation".to_owned()));
        };
        if let Some(fresh) = fresh {
            fresh.check(attention, *caches)?;
        }
        Ok(Cached { core: Attention::of(operation)?, caches: *caches, split: *split, fresh: *fresh })
    }

    /// k and v, of which loads give so many vec4s.
    fn stored(&self, [k, v]: [u32; 2]) -> Result<[Stored; 2], KernelError> {
        let heads = self.core.kv_heads;
        let (of_k, of_v) = (self.caches[0], self.caches[1]);
        if of_k.format != of_v.format {
            return Err(KernelError::Shape(format!("caches of two formats: {of_k:?}, {of_v:?}")));
        }
        Ok([Stored::part(of_k, self.core.k, heads, k)?, Stored::part(of_v, self.core.v, heads, v)?])
    }

    /// vec4s of columns of q and k in whole loads of k.
    fn key_vectors(&self) -> u32 {
        self.core.head_dim().div_ceil(4).next_multiple_of(widest(self.caches[0]))
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
    fn inputs(&self, stored: [Stored; 2], interface: &mut Interface) -> Result<(), KernelError> {
        if let Some(fresh) = self.fresh {
            return fresh.bind(stored, interface);
        }
        let (q, dim) = (self.core.q, self.core.head_dim());
        let four = q.offset.is_multiple_of(4) && dim.is_multiple_of(4);
        let load = load_head(Slot::Q, "q", q, dim, true, interface);
        match four && self.key_vectors() > dim / 4 {
            // What stands behind the columns of a head of k is no part of it.
            true => interface.function(format!(
                "{}
fn load_q(m: u32, head: u32, d4: u32) -> vec4<f32> {{
    return select(vec4<f32>(0.0), read_q(m, head, min(d4, {last}u)), d4 <= {last}u);\n}}\n",
                load.replace("fn load_q(", "fn read_q("),
                last = dim / 4 - 1
            )),
            false => interface.function(load),
        }
        let longs = interface.longs();
        for (slot, name, cache) in [(Slot::K, "k", stored[0]), (Slot::V, "v", stored[1])] {
            cache.bind(slot, name, Access::Read, interface);
            interface.function(cache.load(name, longs));
        }
        interface.rows_table();
        interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
        interface.bind(Slot::Pages, "pages", Access::Read, "array<u32>");
        Ok(())
    }

    /// The inputs, then out and step.
    fn interface(&self, stored: [Stored; 2], target: &Target) -> Result<Interface, KernelError> {
        let mut interface = Interface::of(target);
        self.inputs(stored, &mut interface)?;
        interface.function(key_range(self.core.band));
        let mut functions = BTreeSet::new();
        let value = expression(&self.core.logit, &[], &mut functions)?;
        interface.library(functions);
        interface.function(format!("fn logit(acc: vec4<f32>) -> vec4<f32> {{\n    return {value};\n}}\n"));
        match self.split {
            None => {
                store(self.core.heads, self.core.value_dim(), self.core.image, &mut interface)?;
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
        AttentionShape { caches: Some(self.caches), fresh: self.fresh.is_some(), split: self.split, keys, ..shape }
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
        let format = self.caches[0].format;
        format!("cached_attention_{format}_{heads}x{}{band}{chunk}{fresh}_{tile}", self.core.head_dim())
    }

    /// vec4s of columns of q and k in one iteration: whole loads and a divisor of all, `least` or the next more.
    fn columns(&self, least: u32) -> u32 {
        let (d4, load) = (self.key_vectors(), widest(self.caches[0]));
        (least.min(d4)..=d4).find(|u| d4.is_multiple_of(*u) && u.is_multiple_of(load)).unwrap_or(d4)
    }

    /// What iterations of `cached_workgroup.wgsl` have at a time: vec4s of columns, keys, and keys whose weights are found.
    /// With `scores` and `out` vec4s of an invocation they load enough to wait for together, and no more than that as long as
    /// the longest context leaves the trips: a driver takes seconds to compile hundreds.
    fn iterations(&self, blocks: u32, keys: u32, [scores, out]: [u32; 2], trips: u64) -> [u32; 3] {
        let sizes = |loads: u32| {
            let values = (loads / out).next_power_of_two().clamp(4, keys);
            [self.columns((loads / scores).max(1)), values, (loads / 4).min(values)]
        };
        let fits = |[columns, values, weights]: &[u32; 3]| {
            let inner = self.key_vectors() / columns + keys / values + 2 * (keys / weights);
            // Before them is what is done once, and the step's own keys follow, each by itself.
            u64::from(blocks) * u64::from(1 + inner) + ONCE <= trips
        };
        let all = [LOADS, 4 * LOADS, 16 * LOADS].map(sizes);
        all.iter().copied().find(fits).unwrap_or(all[2])
    }
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
    let (d4, dv4) = (cached.key_vectors(), cached.core.value_dim().div_ceil(4));
    cached.check_tile(rows)?;
    // Few enough iterations for the longest contexts.
    let columns = cached.columns(d4.div_ceil(8).max(4));
    let (hk, hv) = (widest(cached.caches[0]), shared(cached.caches[1], dv4, lanes));
    let stored = cached.stored([hk, hv])?;
    let scaled = cached.caches[0].format.is_scaled();
    let mut slots = cached.fresh.map_or_else(Vec::new, |fresh| fresh.broadcast(scaled, [hk, hv]));
    if scaled {
        slots.extend([("scales", BROADCAST_SCALES.to_owned()), ("weigh", BROADCAST_WEIGH.to_owned())]);
    }
    // Written out, the lanes of a large subgroup make too long a text.
    let together = if lanes > 8 { 4 } else { lanes };
    let walks = if lanes > 8 {
        slots.push(("lanes", "//# trips S / L".to_owned()));
        lanes / together
    } else {
        0
    };
    let blocks = cached.span(rows).div_ceil(4 * keys4 * lanes);
    // The longest contexts leave no trips for another loop.
    if u64::from(blocks) * u64::from(1 + d4 / columns + 4 * (1 + walks)) + ONCE > target.limits.loop_trips {
        slots.push(("keys", "//# unroll\nfor (var j = 0u; j < 4u; j++) {".to_owned()));
    }
    slots.extend(cached.range(rows).map(|text| ("range", text)));
    if cached.split.is_some() {
        let text = "//# unroll
for (var c = 0u; c < C4; c++) {
    if (column(lane, c) < DV4) {
        store(m, group.z, head, column(lane, c), acc[r * C4 + c]);
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
        ("D4", d4, "vec4s of columns of a head of q and k, whole loads"),
        ("DV4", dv4, "vec4s of columns of a head of v"),
        ("HK", hk, "vec4s of a load of k"),
        ("HV", hv, "vec4s of a load of v"),
        ("C4", dv4.div_ceil(hv).div_ceil(lanes) * hv, "vec4s of columns of a lane"),
        ("L", together, "keys in one iteration"),
        ("G", cached.group(), "heads of q for one of k and v"),
        ("BLOCKS", blocks, "the most blocks of keys"),
        ("CHUNK", cached.split.map_or(cached.core.max_context, |s| s.keys), "keys of a chunk of the context"),
    ];
    if cached.fresh.is_some() {
        constants.extend([
            ("NEW", NEW, "rows of a step that are made ready, at the most"),
            ("NK", stored[0].vectors(), "vec4s of columns of a key as it is stored"),
            ("NV", stored[1].vectors(), "vec4s of columns of a value as it is stored"),
            ("LK", stored[0].vectors().div_ceil(lanes), "of a key of a lane"),
            ("LV", stored[1].vectors().div_ceil(lanes), "of a value of a lane"),
            ("X4", cached.core.head_dim().div_ceil(4), "vec4s of columns of a head of q and k before they are stored"),
        ]);
    }
    Draft {
        name: cached.name(&format!("broadcast{lanes}_{rows}x{heads}x{}", keys4 * 4 * lanes)),
        source: include_str!("attention/cached_broadcast.wgsl"),
        constants,
        slots,
        interface: cached.interface(stored, target)?,
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
    let (d4, dv4) = (cached.key_vectors(), cached.core.value_dim().div_ceil(4));
    let hk = widest(cached.caches[0]);
    let stored = cached.stored([hk, 1])?;
    let scaled = cached.caches[0].format.is_scaled();
    let vectors = (rows * heads).next_power_of_two();
    let keys = 32.max(INVOCATIONS / vectors);
    cached.check_tile(rows)?;
    let (blocks, scores) = (cached.span(rows).div_ceil(keys), vectors * keys / INVOCATIONS);
    let out = (rows * heads * dv4).div_ceil(INVOCATIONS);
    let [columns, values, weights] = cached.iterations(blocks, keys, [scores, out], target.limits.loop_trips);
    let mut slots = cached.fresh.map_or_else(Vec::new, |fresh| fresh.workgroup(scaled, hk));
    if scaled {
        slots.extend(WORKGROUP_SCALES.map(|(slot, text)| (slot, text.to_owned())));
    }
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
        ("A", out, "vec4s of out of an invocation"),
        ("U", columns, "vec4s of columns of q and k in one iteration"),
        ("V", values, "keys in one iteration"),
        ("W", weights, "of them, whose weights are found together"),
        ("D4", d4, "vec4s of columns of a head of q and k, whole loads"),
        ("DV4", dv4, "vec4s of columns of a head of v"),
        ("HK", hk, "vec4s of a load of k"),
        ("G", cached.group(), "heads of q for one of k and v"),
        ("BLOCKS", blocks, "the most blocks of keys"),
        ("CHUNK", cached.split.map_or(cached.core.max_context, |s| s.keys), "keys of a chunk of the context"),
    ];
    if cached.fresh.is_some() {
        let most = stored[0].vectors().max(stored[1].vectors());
        constants.extend([
            ("NEW", NEW, "rows of a step that are made ready, at the most"),
            ("EACH", ADDING, "invocations that add up one head"),
            ("Q4", (heads * d4).div_ceil(INVOCATIONS), "vec4s of q of an invocation"),
            ("NK", stored[0].vectors(), "vec4s of columns of a key as it is stored"),
            ("NV", stored[1].vectors(), "vec4s of columns of a value as it is stored"),
            ("K4", stored[0].vectors().div_ceil(INVOCATIONS), "of a key of an invocation"),
            ("V4", stored[1].vectors().div_ceil(INVOCATIONS), "of a value of an invocation"),
            ("H4", most.div_ceil(INVOCATIONS / 2), "of either of half the invocations"),
            ("X4", cached.core.head_dim().div_ceil(4), "vec4s of columns of a head of q and k before they are stored"),
            ("L4", d4.div_ceil(ADDING), "vec4s of columns of q and k of an invocation that adds"),
            ("LV4", dv4.div_ceil(ADDING), "vec4s of columns of v of an invocation that adds"),
        ]);
    }
    Draft {
        name: cached.name(&format!("workgroup_{rows}x{heads}x{keys}")),
        source: include_str!("attention/cached_workgroup.wgsl"),
        constants,
        slots,
        interface: cached.interface(stored, target)?,
        launch: tile.launch(&cached.shape()),
        flops: cached.flops(),
        bytes: cached.shape().bytes(),
    }
    .finish(target)
}

/// Writes `attention/combine.wgsl`.
pub(crate) fn combine(operation: &Operation, target: &Target) -> Result<Composed, KernelError> {
    let Operation::CombineAttention { heads, value_dim, term, split, image } = operation else {
        return Err(KernelError::Algorithm("combine for another operation".to_owned()));
    };
    let dv4 = value_dim.div_ceil(4);
    let mut interface = Interface::of(target);
    interface.bind(Slot::X, "x", Access::Read, "array<vec4<f32>>");
    interface.rows_table();
    interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
    interface.function(key_range(split_mask(term).1));
    store(*heads, *value_dim, *image, &mut interface)?;
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
