//! Everything that goes over rows once or twice: norms, pointwise terms, pools, heads, candidates.

use warpweft_plan::{Cost, Dim, Groups, Keys, Work};

use super::{Launch, constant};
use crate::kernels::compose::{Algorithm, Choice, RowRange};
use crate::kernels::rowwise::{INVOCATIONS, MOST_IN_LANE, MOST_KEPT, NormalizeBy};
use crate::kernels::spec::{Pool, Rows};
use crate::target::Target;

/// Rows that are read, changed and written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RowShape {
    /// Columns.
    pub(crate) width: u32,
    /// Bytes that are read for each row, and for all.
    pub(crate) operands: [i64; 2],
    /// What a row is.
    pub(crate) rows: Rows,
    /// Two results: a norm, and a norm of what it makes.
    pub(crate) twice: bool,
}

impl RowShape {
    fn n4(&self) -> u32 {
        self.width.div_ceil(4)
    }

    /// Bytes to move at the least.
    pub(crate) fn bytes(&self) -> Dim {
        let [row, once] = self.operands;
        let results = if self.twice { 2 } else { 1 };
        Dim::constant(once) + self.rows.dim() * (4 * results * i64::from(self.width) + row)
    }

    /// What each vec4 takes: its operands and the result.
    fn each(&self, fmas: f64) -> Work {
        let operands: f64 =
            self.operands.iter().map(|&bytes| bytes as f64 / (4.0 * f64::from(self.width.max(1)))).sum();
        Work { fmas, loads: 1.0 + operands, ..Work::default() }
    }

    /// The ways to normalize: by subgroup, in its lanes' registers where the row fits, and by workgroup.
    pub(crate) fn norms(&self, target: &Target, rows: RowRange) -> Vec<Choice> {
        let (rates, sizes, bytes) = (&target.rates, rows.sizes(self.rows), self.bytes());
        let mut choices = Vec::new();
        let mut take = |by, launch: Launch| choices.push(launch.choice(Algorithm::Normalize(by), rates, bytes, sizes));
        if let Some(lanes) = target.subgroup_size {
            let by = match self.n4().div_ceil(lanes) <= MOST_IN_LANE {
                true => NormalizeBy::Subgroup,
                false => NormalizeBy::Streamed,
            };
            take(by, self.norm(by, lanes));
        }
        for invocations in [INVOCATIONS, target.limits.workgroup_invocations] {
            if self.n4().div_ceil(invocations) <= MOST_KEPT {
                let by = NormalizeBy::Workgroup(invocations);
                take(by, self.norm(by, invocations));
            }
        }
        choices
    }

    /// One row for each workgroup of `lanes` invocations.
    pub(crate) fn norm(&self, by: NormalizeBy, lanes: u32) -> Launch {
        let mine = f64::from(self.n4().div_ceil(lanes));
        let rounds = 2.0 * f64::from(lanes.ilog2());
        let (passes, exchange) = match by {
            NormalizeBy::Subgroup => (1.0, Work { broadcasts: 2.0 * rounds, ..Work::default() }),
            // Read again for each pass.
            NormalizeBy::Streamed => (2.5, Work { broadcasts: 2.0 * rounds, ..Work::default() }),
            NormalizeBy::Workgroup(_) => (1.0, Work { shared: 4.0 * rounds, fmas: 8.0 * rounds, ..Work::default() }),
        };
        let mut once = self.each(40.0).times(mine * passes).and(exchange);
        if self.twice {
            let again = match by {
                NormalizeBy::Subgroup | NormalizeBy::Workgroup(_) => 1.0,
                NormalizeBy::Streamed => 2.0,
            };
            once = once.and(Work { fmas: 30.0, loads: again, ..Work::default() }.times(mine)).and(exchange);
        }
        let grid = [Groups { dim: self.rows.dim(), per: 1 }, Groups::ONE, Groups::ONE];
        Launch { invocations: lanes, grid, cost: Cost::of(once) }
    }

    /// A pointwise term, each invocation four columns of a row.
    pub(crate) fn map(&self) -> Launch {
        Launch { invocations: INVOCATIONS, grid: self.columns(), cost: Cost::of(self.each(16.0)) }
    }

    /// A row of codes for each workgroup, which reads the row twice: its bytes are the operands'.
    pub(crate) fn quantize(&self) -> Launch {
        let mine = self.operands[0] as f64 / (16.0 * f64::from(INVOCATIONS));
        let rounds = 2.0 * f64::from(INVOCATIONS.ilog2());
        let exchange = Work { shared: 2.0 * rounds, fmas: 2.0 * rounds, ..Work::default() };
        let once = Work { fmas: 40.0, loads: 3.0, ..Work::default() }.times(mine.ceil()).and(exchange);
        let grid = [Groups { dim: self.rows.dim(), per: 1 }, Groups::ONE, Groups::ONE];
        Launch { invocations: INVOCATIONS, grid, cost: Cost::of(once) }
    }

    /// A pool, each invocation four columns of a sequence.
    pub(crate) fn pool(&self, pool: Pool) -> Launch {
        let loads = |loads| Work { loads, fmas: 4.0, ..Work::default() };
        let cost = match pool {
            Pool::Mean | Pool::Max => Cost { key: loads(1.0), keys: Keys::default(), ..Cost::of(loads(1.0)) },
            Pool::First | Pool::Last => Cost::of(loads(2.0)),
        };
        Launch { invocations: INVOCATIONS, grid: self.columns(), cost }
    }

    fn columns(&self) -> [Groups; 3] {
        let x = Groups { dim: Dim::constant(self.n4().into()), per: INVOCATIONS };
        [x, Groups { dim: self.rows.dim(), per: 1 }, Groups::ONE]
    }
}

/// `heads/ready.wgsl`: a head of a row for each workgroup, `units` pieces of it for each invocation.
pub(crate) fn heads(heads: u32, units: u32, invocations: u32) -> Launch {
    let once = Work { fmas: 60.0, loads: 4.0, ..Work::default() }.times(units.into());
    let grid = [constant(heads), Groups { dim: Dim::TOKENS, per: 1 }, Groups::ONE];
    Launch { invocations, grid, cost: Cost::of(once) }
}

/// `attention/combine.wgsl`: a vec4 of a head for each invocation, all of its chunks.
pub(crate) fn combine(vec4s: u32, chunk: u32, invocations: u32) -> Launch {
    let part = Work { fmas: 24.0, loads: 2.0, ..Work::default() };
    let grid = [
        Groups { dim: Dim::constant(vec4s.into()), per: invocations },
        Groups { dim: Dim::TOKENS, per: 1 },
        Groups::ONE,
    ];
    let key = part.times(1.0 / f64::from(chunk.max(1)));
    Launch { invocations, grid, cost: Cost { key, keys: Keys::default(), ..Cost::of(part) } }
}

/// `candidates/chunk.wgsl`: each invocation has `columns` of them; `chunks` workgroups for each row.
pub(crate) fn groups(columns: u32, chunks: u32, rows: Rows, invocations: u32) -> Launch {
    let once = summed(columns, invocations).and(Work { loads: 2.0, ..Work::default() });
    let grid = [constant(chunks), Groups { dim: rows.dim(), per: 1 }, Groups::ONE];
    Launch { invocations, grid, cost: Cost::of(once) }
}

/// `candidates/merge.wgsl`: each invocation looks at `groups` best values, then at `columns` of a group, each some times over; a
/// workgroup for each row.
pub(crate) fn candidates(groups: u32, columns: u32, rows: Rows, invocations: u32) -> Launch {
    let group = Work { fmas: 8.0, loads: 2.0, shared: 1.0, ..Work::default() }.times(DIGITS * f64::from(groups));
    let loads = Work { loads: 0.25, ..Work::default() }.times(columns.into());
    searched(group.and(loads), columns, rows, invocations)
}

/// `candidates/row.wgsl`: each invocation has `columns` of them; a workgroup for each row.
pub(crate) fn candidates_of_row(columns: u32, rows: Rows, invocations: u32) -> Launch {
    searched(summed(columns, invocations), columns, rows, invocations)
}

/// Digits that decide as a rule.
const DIGITS: f64 = 3.0;

/// Greatest value, sum of exponentials, greatest value of the group.
fn summed(columns: u32, invocations: u32) -> Work {
    let column = Work { fmas: 24.0, loads: 0.25, ..Work::default() };
    column.times(columns.into()).and(Work { shared: 2.0 * f64::from(invocations.ilog2()), ..Work::default() })
}

/// A workgroup for each row, each of whose invocations searches `columns` digit by digit. Then each value is compared with all
/// that are kept.
fn searched(before: Work, columns: u32, rows: Rows, invocations: u32) -> Launch {
    let column = Work { fmas: 8.0 * DIGITS, shared: 0.5 * DIGITS, ..Work::default() };
    let places = Work { fmas: 4.0, shared: 1.0, ..Work::default() }.times(invocations.into());
    let once = before.and(column.times(columns.into())).and(places);
    let grid = [constant(1), Groups { dim: rows.dim(), per: 1 }, Groups::ONE];
    Launch { invocations, grid, cost: Cost::of(once) }
}
