//! Attention over a ragged batch: every row attends to the rows of its own sequence.

use std::collections::BTreeSet;

use warpweft_plan::{Dim, Keys};

use super::KernelError;
use super::compose::{Choice, Composed, Draft, RowRange, Slot};
use super::cost::attention::AttentionShape;
use super::interface::{Interface, check_view, store_columns};
use super::spec::{self, Binary, Operation, Term, View};
use super::term::expression;
use crate::target::Target;

/// `attention/broadcast_tile.wgsl`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionTile {
    /// Rows.
    pub rows: u32,
}

/// vec4s of keys of a lane in `attention/broadcast_tile.wgsl`; with two, each is used less often than it costs.
const KEYS4: u32 = 1;

/// Rows of a tile, keys of a block and invocations in `attention/workgroup_tile.wgsl`.
pub(crate) const WORKGROUP_TILE: (u32, u32, u32) = (16, 32, 64);

/// Keys that a row sees around itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Band {
    pub(super) before: Option<u32>,
    pub(super) after: Option<u32>,
}

impl Band {
    fn intersect(self, other: Band) -> Band {
        let least = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        Band { before: least(self.before, other.before), after: least(self.after, other.after) }
    }
}

/// Takes the masks that are added to a term off it; the rest is `None` if nothing is left.
pub(super) fn split_mask(term: &Term) -> (Option<Term>, Band) {
    match term {
        Term::BandMask { before, after } => (None, Band { before: *before, after: *after }),
        Term::Binary(Binary::Add, a, b) => {
            let ((a, band_a), (b, band_b)) = (split_mask(a), split_mask(b));
            let rest = match (a, b) {
                (Some(a), Some(b)) => Some(Term::Binary(Binary::Add, Box::new(a), Box::new(b))),
                (a, b) => a.or(b),
            };
            (rest, band_a.intersect(band_b))
        }
        other => (Some(other.clone()), Band::default()),
    }
}

pub(super) struct Attention {
    pub(super) q: View,
    pub(super) k: View,
    pub(super) v: View,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) logit: Term,
    pub(super) band: Band,
    pub(super) max_context: u32,
    pub(super) image: bool,
}

impl Attention {
    /// An attention over rows of the step, or over caches.
    pub(super) fn of(operation: &Operation) -> Result<Attention, KernelError> {
        let (Operation::Attention(attention) | Operation::CachedAttention { attention, .. }) = operation else {
            return Err(KernelError::Algorithm("attention for another operation".to_owned()));
        };
        let spec::Attention { q, k, v, heads, kv_heads, term, max_context, image } = attention;
        for (name, view) in [("q", q), ("k", k), ("v", v)] {
            check_view(name, *view)?;
        }
        let (heads, kv_heads) = (*heads, *kv_heads);
        let divides = *max_context > 0
            && heads > 0
            && kv_heads > 0
            && heads.is_multiple_of(kv_heads)
            && q.width.is_multiple_of(heads)
            && v.width.is_multiple_of(kv_heads)
            && q.width / heads * kv_heads == k.width;
        if !divides {
            return Err(KernelError::Shape(format!("{heads} and {kv_heads} heads of {q:?}, {k:?}, {v:?}")));
        }
        let (logit, band) = split_mask(term);
        let logit = logit.unwrap_or(Term::Constant(0.0));
        let (max_context, image) = (*max_context, *image);
        Ok(Attention { q: *q, k: *k, v: *v, heads, kv_heads, logit, band, max_context, image })
    }

    /// What its time depends on.
    pub(super) fn shape(&self) -> AttentionShape {
        let Band { before, after } = self.band;
        let most = before.map(|before| before.saturating_add(after.unwrap_or(0)).saturating_add(1));
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim(),
            value_dim: self.value_dim(),
            keys: Keys { causal: after == Some(0), most },
            windowed: before.is_some(),
            caches: None,
            fresh: false,
            split: None,
        }
    }

    pub(super) fn head_dim(&self) -> u32 {
        self.q.width / self.heads
    }

    pub(super) fn value_dim(&self) -> u32 {
        self.v.width / self.kv_heads
    }

    /// The most keys that a tile of `rows` has to walk: the rest of one sequence, short ones, the start of another.
    fn span(&self, rows: u32) -> u64 {
        let around = |bound: Option<u32>| u64::from(bound.unwrap_or(u32::MAX));
        let context = u64::from(self.max_context);
        let banded = around(self.band.before) + around(self.band.after) + u64::from(rows);
        (2 * context + u64::from(rows)).min(banded)
    }

    /// q, k, v, rows, out, step.
    fn interface(&self, target: &Target) -> Result<Interface, KernelError> {
        let mut interface = Interface::of(target);
        for (slot, name, view, dim, exact) in [
            (Slot::Q, "q", self.q, self.head_dim(), true),
            (Slot::K, "k", self.k, self.head_dim(), false),
            (Slot::V, "v", self.v, self.value_dim(), false),
        ] {
            let load = load_head(slot, name, view, dim, exact, &mut interface);
            interface.function(load);
        }
        interface.rows_table();
        interface.function(self.key_range());
        let mut functions = BTreeSet::new();
        let value = expression(&self.logit, &[], &mut functions)?;
        interface.library(functions);
        interface.function(format!("fn logit(acc: vec4<f32>) -> vec4<f32> {{\n    return {value};\n}}\n"));
        store(self.heads, self.value_dim(), self.image, &mut interface)?;
        Ok(interface)
    }

    fn key_range(&self) -> String {
        let first = match self.band.before {
            Some(before) => format!("max(rows[m].y, m - min(m, {before}u))"),
            None => "rows[m].y".to_owned(),
        };
        let end = match self.band.after.filter(|&after| after < 1 << 30) {
            Some(after) => format!("min(rows[m].y + rows[m].z, m + {}u)", after + 1),
            None => "rows[m].y + rows[m].z".to_owned(),
        };
        format!(
            "fn first_key(m: u32) -> u32 {{\n    return {first};\n}}\n\nfn end_key(m: u32) -> u32 {{\n    return {end};\n}}\n"
        )
    }

    fn flops(&self) -> Dim {
        let per_key = 2 * i64::from(self.heads) * i64::from(self.head_dim() + self.value_dim());
        Dim::TOKENS * (per_key * i64::from(self.max_context))
    }

    fn name(&self, tile: &str) -> String {
        let heads = match self.kv_heads == self.heads {
            true => format!("{}", self.heads),
            false => format!("{}to{}", self.heads, self.kv_heads),
        };
        let bound = |b: Option<u32>| b.map_or("all".to_owned(), |b| b.to_string());
        let band = match self.band {
            Band { before: None, after: None } => String::new(),
            Band { before, after } => format!("_band{}_{}", bound(before), bound(after)),
        };
        format!("attention_{heads}x{}{band}_{tile}", self.head_dim())
    }
}

/// Binds the result, a whole matrix, and the step, and defines `store(m, head, d4, value)`.
pub(super) fn store(heads: u32, dim: u32, image: bool, interface: &mut Interface) -> Result<(), KernelError> {
    let out = View::whole_in(heads * dim, image);
    if dim.is_multiple_of(4) {
        let text = interface.output_view(out);
        let call = format!("    store_out(m, head * {}u + d4, value);\n", dim / 4);
        interface.function(text.replace("fn store(", "fn store_out(") + "\n" + &store_head(&call));
        return Ok(());
    }
    if image {
        return Err(KernelError::Shape(format!("heads of {dim} columns as an image")));
    }
    interface.function(store_head(&store_columns("out", out.stride, dim)));
    interface.output("array<f32>");
    Ok(())
}

pub(super) fn store_head(body: &str) -> String {
    format!("fn store(m: u32, head: u32, d4: u32, value: vec4<f32>) {{\n{body}}}\n")
}

/// Binds a matrix and gives the text of `load_name(m, head, d4)`; beyond the head's width that gives zeros if `exact`, else any
/// finite numbers.
pub(super) fn load_head(
    slot: Slot,
    name: &str,
    view: View,
    dim: u32,
    exact: bool,
    interface: &mut Interface,
) -> String {
    let (stride, offset) = (view.stride, view.offset);
    let head = format!("fn load_{name}(m: u32, head: u32, d4: u32) -> vec4<f32> {{\n");
    if dim.is_multiple_of(4) && offset.is_multiple_of(4) {
        interface.bind_fours(slot, name);
        let offset = if offset == 0 { String::new() } else { format!("{}u + ", offset / 4) };
        let value = interface.four(&format!("{name}[m * {}u + {offset}head * {}u + d4]", stride / 4, dim / 4));
        return format!("{head}    return {value};\n}}\n");
    }
    interface.bind(slot, name, warpweft_plan::Access::Read, "array<f32>");
    let value = format!("vec4<f32>({name}[i.x], {name}[i.y], {name}[i.z], {name}[i.w])");
    let value = match exact {
        true => format!("select(vec4<f32>(0.0), {value}, d < vec4<u32>({dim}u))"),
        false => value,
    };
    format!(
        "{head}    let d = 4u * d4 + vec4<u32>(0u, 1u, 2u, 3u);
    let i = m * {stride}u + {offset}u + head * {dim}u + min(d, vec4<u32>({}u));
    return {value};\n}}\n",
        dim - 1
    )
}

/// The ways to compute an attention.
pub(crate) fn candidates(operation: &Operation, target: &Target, rows: RowRange) -> Result<Vec<Choice>, KernelError> {
    Ok(Attention::of(operation)?.shape().candidates(target, rows))
}

/// Writes `attention/broadcast_tile.wgsl`.
pub(crate) fn broadcast_tile(
    operation: &Operation,
    tile: AttentionTile,
    target: &Target,
) -> Result<Composed, KernelError> {
    let attention = Attention::of(operation)?;
    let lanes = target.subgroup_size.ok_or_else(|| KernelError::Algorithm("with subgroups".to_owned()))?;
    let AttentionTile { rows } = tile;
    let (d4, dv4) = (attention.head_dim().div_ceil(4), attention.value_dim().div_ceil(4));
    // Written out, the lanes of a large subgroup make too long a text.
    let lanes_loop = if lanes <= 8 { "//# unroll" } else { "//# trips S" };
    Draft {
        name: attention.name(&format!("broadcast{lanes}_{rows}x{}", KEYS4 * 4 * lanes)),
        source: include_str!("attention/broadcast_tile.wgsl"),
        constants: vec![
            ("S", lanes, "lanes of a subgroup"),
            ("R", rows, "rows of a tile"),
            ("B", KEYS4, "vec4s of keys of a lane"),
            ("X", rows.div_ceil(lanes), "vec4s of q that a lane reads for four columns"),
            ("D4", d4, "vec4s of columns of a head of q and k"),
            ("DV4", dv4, "vec4s of columns of a head of v"),
            ("C4", dv4.div_ceil(lanes), "vec4s of columns of a lane"),
            ("G", attention.heads / attention.kv_heads, "heads of q for one of k and v"),
            ("BLOCKS", blocks(attention.span(rows), 4 * KEYS4 * lanes), "the most blocks of keys"),
        ],
        slots: vec![("lanes", lanes_loop.to_owned())],
        interface: attention.interface(target)?,
        launch: tile.launch(&attention.shape(), lanes, target.rates.registers),
        flops: attention.flops(),
        bytes: attention.shape().bytes(),
    }
    .finish(target)
}

/// Writes `attention/workgroup_tile.wgsl`.
pub(crate) fn workgroup_tile(operation: &Operation, target: &Target) -> Result<Composed, KernelError> {
    let attention = Attention::of(operation)?;
    let (rows, keys, invocations) = WORKGROUP_TILE;
    let (d4, dv4) = (attention.head_dim().div_ceil(4), attention.value_dim().div_ceil(4));
    Draft {
        name: attention.name(&format!("workgroup_{rows}x{keys}")),
        source: include_str!("attention/workgroup_tile.wgsl"),
        constants: vec![
            ("T", invocations, "invocations"),
            ("R", rows, "rows"),
            ("B", keys, "keys of a block"),
            ("A", (rows * dv4).div_ceil(invocations), "vec4s of out of an invocation"),
            ("D4", d4, "vec4s of columns of a head of q and k"),
            ("DV4", dv4, "vec4s of columns of a head of v"),
            ("G", attention.heads / attention.kv_heads, "heads of q for one of k and v"),
            ("BLOCKS", blocks(attention.span(rows), keys), "the most blocks of keys"),
        ],
        slots: Vec::new(),
        interface: attention.interface(target)?,
        launch: attention.shape().workgroup_tile(),
        flops: attention.flops(),
        bytes: attention.shape().bytes(),
    }
    .finish(target)
}

pub(super) fn blocks(span: u64, keys: u32) -> u32 {
    u32::try_from(span.div_ceil(u64::from(keys))).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn masks_come_off_the_term() {
        let mask = |before, after| Term::BandMask { before, after };
        let add = |a, b| Term::Binary(Binary::Add, Box::new(a), Box::new(b));
        let (rest, band) = split_mask(&add(add(mask(Some(5), None), Term::Acc), mask(Some(3), Some(0))));
        assert_eq!(rest, Some(Term::Acc));
        assert_eq!(band, Band { before: Some(3), after: Some(0) });
        assert_eq!(split_mask(&mask(None, None)), (None, Band::default()));
    }
}
