//! Contractions of codes with codes.

use warpweft_plan::{Cost, Dim, Work};

use super::Launch;
use super::linear::LinearShape;
use crate::formats::{Format, Group};
use crate::kernels::codes::Codes;
use crate::kernels::compose::{Algorithm, Choice, RowRange};
use crate::kernels::integer::{IntegerTile, IntegerWorkgroup};
use crate::kernels::linear::{ALONG_COLUMNS, INVOCATIONS};
use crate::target::{Rates, Target};

/// Products of four codes in the body of a loop, at the most: a driver that takes each apart writes some twenty instructions
/// for it, and takes seconds to compile more.
const LARGEST_BODY: u32 = 256;

/// The greatest magnitude of a product of two codes: weights of checkpoints reach -128.
const MOST: i64 = 127 * 128;

/// A contraction of codes as far as its time is concerned: that of [`LinearShape`], without a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct IntegerShape(pub(crate) LinearShape);

impl IntegerShape {
    /// Loads of sixteen codes that share a scale of the weight, and how many such groups a row has. `None` where weights
    /// are no signed bytes, a group ends within a load, or a sum over a group might not fit 32 bits.
    pub(crate) fn groups(&self) -> Option<(u32, u32)> {
        let loads = self.loads();
        let (group, count) = match self.0.format {
            Format::Int8(Group::Row) => (loads, 1),
            Format::Int8(Group::Of(n)) if n % (4 * Codes::FOURS) == 0 => {
                let group = (n / (4 * Codes::FOURS)).min(loads);
                (group, loads.div_ceil(group.max(1)))
            }
            Format::Int8(Group::Of(_)) => return None,
            Format::F32 | Format::F16 | Format::Bf16 => return None,
            Format::Int4 { .. } | Format::Fp8(_) | Format::Mxfp4 | Format::Nf4(_) => return None,
        };
        let most = i64::from(group) * i64::from(4 * Codes::FOURS) * MOST;
        (group > 0 && most <= i64::from(i32::MAX)).then_some((group, count))
    }

    pub(crate) fn loads(&self) -> u32 {
        Codes { width: self.0.k }.loads()
    }

    /// Bytes to move at the least.
    pub(crate) fn bytes(&self) -> Dim {
        let floats = 4 * i64::from(self.0.k);
        let codes = 4 * i64::from(Codes { width: self.0.k }.view().width);
        self.0.bytes() + self.0.rows.dim() * (codes - floats)
    }

    /// Loads along k at a time: as many as fit, of which each group is made.
    fn steps(&self, group: u32, fits: impl Fn(u32) -> bool) -> u32 {
        let whole = |steps: &u32| group.is_multiple_of(*steps) && self.loads().is_multiple_of(*steps);
        [4, 2].into_iter().filter(whole).find(|&steps| fits(steps)).unwrap_or(1)
    }

    /// What scaling the sums over a group of `rows` rows and four columns of each of `columns4` vec4s takes, for all groups.
    fn scaling(&self, rows: f64, columns4: f64, groups: u32) -> Work {
        let each = Work { fmas: 8.0 * rows * columns4, ..Work::default() }.and(self.0.scattered(columns4));
        each.times(groups.into())
    }

    /// The ways to compute it; none where integers cannot.
    pub(crate) fn candidates(&self, target: &Target, rows: RowRange) -> Vec<Choice> {
        let (rates, sizes, bytes) = (&target.rates, rows.sizes(self.0.rows), self.bytes());
        let Some((group, _)) = self.groups() else { return Vec::new() };
        let mut choices = Vec::new();
        let mut take = |algorithm, launch: Launch| choices.push(launch.choice(algorithm, rates, bytes, sizes));
        if let Some(lanes) = target.subgroup_size {
            for rows in [1, 4, 8, 16] {
                for columns4 in [1, 2] {
                    let body = 16 * rows * columns4 * self.0.weights;
                    if body > LARGEST_BODY {
                        continue;
                    }
                    let steps = self.steps(group, |steps| body * steps <= LARGEST_BODY);
                    let tile = IntegerTile { rows, columns4, steps };
                    take(Algorithm::IntegerBroadcast(tile), tile.launch(self, lanes, rates));
                }
            }
        }
        for rows in [1, 2, 4, 8] {
            let tile = IntegerWorkgroup { rows, steps: self.steps(group, |_| true) };
            take(Algorithm::IntegerWorkgroup(tile), tile.launch(self, rates));
        }
        choices
    }
}

impl IntegerTile {
    /// Loads of x that a lane makes in one iteration.
    pub(crate) fn loads(self, lanes: u32) -> u32 {
        (self.rows * self.steps).div_ceil(lanes)
    }

    pub(crate) fn launch(self, shape: &IntegerShape, lanes: u32, rates: &Rates) -> Launch {
        let columns4 = f64::from(shape.0.weights * self.columns4);
        let (rows, steps) = (f64::from(self.rows), f64::from(self.steps));
        let (_, groups) = shape.groups().unwrap_or((1, 1));
        // A sum of integers and one of floats.
        let spill = (8.0 * rows * columns4 / f64::from(rates.registers)).max(1.0).powf(1.5);
        let iteration = Work {
            fmas: 16.0 * rates.dot4 * rows * columns4 * steps * spill,
            loads: self.loads(lanes).into(),
            broadcasts: 4.0 * rows * steps,
            ..Work::default()
        };
        let iteration = iteration.and(shape.0.scattered(4.0 * columns4 * steps));
        let once = iteration
            .times(f64::from(shape.loads()) / steps)
            .and(shape.scaling(rows, columns4, groups))
            .and(shape.0.epilogue(rows, self.columns4.into()));
        Launch { invocations: lanes, grid: shape.0.grid(self.columns4 * lanes, self.rows), cost: Cost::of(once) }
    }
}

impl IntegerWorkgroup {
    pub(crate) fn launch(self, shape: &IntegerShape, rates: &Rates) -> Launch {
        let weights = f64::from(shape.0.weights);
        let rows = f64::from(self.rows);
        let (_, groups) = shape.groups().unwrap_or((1, 1));
        let load = Work {
            fmas: 16.0 * rates.dot4 * rows * weights + 8.0,
            // Filling workgroup memory is shared, but costs index arithmetic and a barrier.
            loads: (rows + 4.0 * weights) / 8.0 * 1.5,
            shared: rows + 4.0 * weights,
            ..Work::default()
        };
        let once =
            load.times(shape.loads().into()).and(shape.scaling(rows, weights, groups)).and(shape.0.epilogue(rows, 1.0));
        let along_rows = INVOCATIONS / ALONG_COLUMNS;
        Launch {
            invocations: INVOCATIONS,
            grid: shape.0.grid(ALONG_COLUMNS, self.rows * along_rows),
            cost: Cost::of(once),
        }
    }
}
