//! Attention.

use warpweft_plan::{CacheRows, Cost, Dim, Groups, Keys, Work};

use super::{Launch, constant, padded};
use crate::formats::cache;
use crate::kernels::attention::{AttentionTile, WORKGROUP_TILE};
use crate::kernels::cached::{CachedTile, CachedWorkgroup, INVOCATIONS, READY};
use crate::kernels::compose::{Algorithm, Choice, RowRange};
use crate::kernels::spec::{Rows, Split};
use crate::kernels::stored::{shared, widest};
use crate::target::Target;

/// An attention as far as its time is concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AttentionShape {
    /// Query heads.
    pub(crate) heads: u32,
    /// Key/value heads.
    pub(crate) kv_heads: u32,
    /// Columns of a head of q and k.
    pub(crate) head_dim: u32,
    /// Columns of a head of v.
    pub(crate) value_dim: u32,
    /// The rows that a row sees.
    pub(crate) keys: Keys,
    /// Not all rows before a row are seen.
    pub(crate) windowed: bool,
    /// How the keys and values of a cache are stored; `None` if they are those of the step.
    pub(crate) caches: Option<[CacheRows; 2]>,
    /// Rows of q, k and v are made ready, k and v put into the cache.
    pub(crate) fresh: bool,
    /// How the context of a cache is cut.
    pub(crate) split: Option<Split>,
}

impl AttentionShape {
    /// Bytes to move at the least: q and the result of the step's rows, k and v of those or of one sequence.
    pub(crate) fn bytes(&self) -> Dim {
        let bytes = |heads: u32| 4 * i64::from(heads) * i64::from(self.head_dim + self.value_dim);
        let keys = match (self.caches.is_some(), self.windowed, self.keys.most) {
            (false, ..) => Dim::TOKENS,
            (true, true, Some(most)) => Dim::constant(most.into()),
            (true, ..) => Dim::CONTEXT,
        };
        let stored = self.caches.map_or(bytes(self.kv_heads), |caches| {
            caches.iter().map(|rows| i64::try_from(rows.row_bytes()).unwrap_or(i64::MAX)).sum()
        });
        // Read as they are, and written to the caches.
        let fresh = if self.fresh { bytes(self.kv_heads) + stored } else { 0 };
        Dim::TOKENS * (bytes(self.heads) + fresh) + keys * stored
    }

    /// What a tile of `vectors` rows of heads does for each key to read its columns and those of its value, shared by
    /// `invocations`: loads of `of_v` vec4s of the value's, of as many as there can be of the key's, and unpacking.
    fn reading(&self, invocations: u32, of_v: u32) -> (f64, f64, f64) {
        let vec4s = |columns: u32| f64::from(columns) / (4.0 * f64::from(invocations));
        let (key, value) = (vec4s(self.head_dim), vec4s(self.value_dim));
        let (of_k, decode) = self.caches.map_or((1, 0.0), |[k, _]| (widest(k), cache::format(k.format).decode()));
        (key / f64::from(of_k), value / f64::from(of_v), decode * (key + value))
    }

    /// Columns that a row of a head is multiplied with for each key.
    fn columns(&self) -> f64 {
        f64::from(self.head_dim + self.value_dim)
    }

    /// The ways to compute it over the rows of the step.
    pub(crate) fn candidates(&self, target: &Target, rows: RowRange) -> Vec<Choice> {
        let (rates, sizes, bytes) = (&target.rates, rows.sizes(Rows::Tokens), self.bytes());
        let mut choices = Vec::new();
        let mut take = |algorithm, launch: Launch| choices.push(launch.choice(algorithm, rates, bytes, sizes));
        if let Some(lanes) = target.subgroup_size {
            for rows in [4, 8, 16] {
                let tile = AttentionTile { rows };
                take(Algorithm::AttentionBroadcast(tile), tile.launch(self, lanes, rates.registers));
            }
        }
        take(Algorithm::AttentionWorkgroup, self.workgroup_tile());
        choices
    }

    /// `attention/workgroup_tile.wgsl`
    pub(crate) fn workgroup_tile(&self) -> Launch {
        let (rows, keys, invocations) = WORKGROUP_TILE;
        let fmas = f64::from(rows) * self.columns() / f64::from(invocations);
        let key = Work { fmas, loads: fmas / 4.0, shared: fmas, ..Work::default() };
        Launch { invocations, grid: self.grid(rows), cost: self.cost(key, keys) }
    }

    /// Half a block of keys is padding, on average.
    fn cost(&self, key: Work, block: u32) -> Cost {
        Cost { key, keys: self.keys, ..Cost::of(key.times(f64::from(block) / 2.0)) }
    }

    fn grid(&self, rows: u32) -> [Groups; 3] {
        [Groups { dim: Rows::Tokens.dim(), per: rows }, constant(self.heads), Groups::ONE]
    }

    /// The ways to compute it over caches.
    pub(crate) fn cached_candidates(&self, target: &Target, rows: RowRange) -> Vec<Choice> {
        let (rates, sizes, bytes) = (&target.rates, rows.cached_sizes(), self.bytes());
        let mut choices = Vec::new();
        let mut take = |algorithm, launch: Launch| choices.push(launch.choice(algorithm, rates, bytes, sizes));
        // Few rows are mostly one of each sequence, and a tile has rows of one sequence only.
        let one = self.split.is_some() || self.fresh || rows.max.is_some();
        let tiles: &[u32] = if one { &[1] } else { &[1, 2, 4, 8, 16] };
        for &rows in tiles {
            for heads in together(self.heads / self.kv_heads.max(1)) {
                if let Some(lanes) = target.subgroup_size.filter(|_| rows * heads <= 8) {
                    let tile = CachedTile { rows, heads, keys4: 1 };
                    take(Algorithm::CachedBroadcast(tile), tile.launch(self, lanes, rates.registers));
                }
                let tile = CachedWorkgroup { rows, heads };
                take(Algorithm::CachedWorkgroup(tile), tile.launch(self));
            }
        }
        choices
    }

    fn cached_grid(&self, rows: u32, heads: u32) -> [Groups; 3] {
        let depth = match self.split {
            Some(split) if !self.windowed => Groups { dim: Dim::CONTEXT, per: split.keys },
            Some(split) => constant(split.count),
            // As many sequences may share a tile.
            None => constant(rows),
        };
        [Groups { dim: Dim::TOKENS, per: rows }, constant(self.heads / heads), depth]
    }

    /// The same, but of as many workgroups as rows of a tile, one alone has something to do. Each tile of `heads` heads
    /// makes its rows ready by itself, shared by `invocations`.
    fn cached_cost(&self, key: Work, block: u32, rows: u32, [heads, invocations]: [u32; 2]) -> Cost {
        let key = if self.split.is_some() { key } else { key.times(1.0 / f64::from(rows)) };
        let cost = self.cost(key, block);
        if !self.fresh {
            return cost;
        }
        let columns = heads * self.head_dim + self.head_dim + self.value_dim;
        let fmas = READY * f64::from(columns) / f64::from(invocations);
        Cost { once: cost.once.and(Work { fmas, ..Work::default() }), ..cost }
    }
}

/// Divisors of a group of heads that a tile may take together.
fn together(group: u32) -> impl Iterator<Item = u32> {
    (1..=group.min(8)).filter(move |h| group.is_multiple_of(*h))
}

impl AttentionTile {
    pub(crate) fn launch(self, attention: &AttentionShape, lanes: u32, registers: u32) -> Launch {
        // For each key: its share of the loads of keys and values and of the broadcasts.
        let fmas = f64::from(self.rows) * attention.columns() / f64::from(lanes);
        let reuse = 4.0 * f64::from(self.rows);
        let idle = padded(attention.value_dim.div_ceil(4), lanes);
        let spill = (2.0 * reuse / f64::from(registers)).max(1.0);
        let key = Work {
            fmas: fmas * (0.5 + 0.5 * idle) * spill,
            loads: fmas / reuse,
            scattered: fmas / reuse,
            broadcasts: fmas / 4.0,
            ..Work::default()
        };
        Launch { invocations: lanes, grid: attention.grid(self.rows), cost: attention.cost(key, 4 * lanes) }
    }
}

impl CachedTile {
    pub(crate) fn launch(self, attention: &AttentionShape, lanes: u32, registers: u32) -> Launch {
        let vectors = f64::from(self.rows * self.heads);
        let fmas = vectors * attention.columns() / f64::from(lanes);
        let c4 = f64::from(attention.value_dim.div_ceil(4).div_ceil(lanes));
        let spill = (4.0 * vectors * (2.0 + c4) / f64::from(registers)).max(1.0);
        let of_v = attention.caches.map_or(1, |[_, v]| shared(v, attention.value_dim.div_ceil(4), lanes));
        let (keys, values, decode) = attention.reading(lanes, of_v);
        let key = Work {
            fmas: fmas * spill + decode,
            loads: values,
            scattered: keys,
            broadcasts: fmas / 4.0,
            ..Work::default()
        };
        Launch {
            invocations: lanes,
            grid: attention.cached_grid(self.rows, self.heads),
            cost: attention.cached_cost(key, 4 * self.keys4 * lanes, self.rows, [self.heads, lanes]),
        }
    }
}

impl CachedWorkgroup {
    pub(crate) fn launch(self, attention: &AttentionShape) -> Launch {
        let vectors = f64::from(self.rows * self.heads);
        let fmas = vectors * attention.columns() / f64::from(INVOCATIONS);
        // Each invocation of a score loads its key, each of a result its values; the other is a query or a weight.
        let (keys, values, decode) = attention.reading(INVOCATIONS, 1);
        let loads = fmas / 4.0 + keys + values;
        let key = Work { fmas: fmas + decode * vectors, loads, shared: fmas, ..Work::default() };
        Launch {
            invocations: INVOCATIONS,
            grid: attention.cached_grid(self.rows, self.heads),
            cost: attention.cached_cost(key, 32, self.rows, [self.heads, INVOCATIONS]),
        }
    }
}
