//! Contractions.

use warpweft_plan::{Cost, Dim, Groups, PAD, Work};

use super::Launch;
use crate::formats::Format;
use crate::graph::moments;
use crate::kernels::NormCost;
use crate::kernels::compose::{Algorithm, Choice, RowRange};
use crate::kernels::linear::{ALONG_COLUMNS, BroadcastTile, INVOCATIONS, MOST_SUMMED, SplitDot, WorkgroupTile};
use crate::kernels::moments::{OWN_ROWS, fours};
use crate::kernels::spec::Rows;
use crate::kernels::weights::{Scaling, Weights};
use crate::target::Target;

/// Multiply-adds of an octet of k from which on an iteration loads only four k: bodies of more than about a thousand don't
/// fit the instruction cache of a CPU.
const LARGE_BODY: u32 = 1024;

/// How much slower the multiply-adds of longer bodies are on one.
const LONG_BODY: f64 = 1.5;

/// The same of bodies of more than half as many, which leave no room for anything else there: in a model they are slower than
/// alone.
const FULL_BODY: f64 = 1.15;

/// How many times as long memory takes on a CPU where a lane has four quads of one weight: four panels are walked along at once.
/// Measured with one row and more weights than caches hold: in bf16 1.05 times as long as two, while codes, which are bound by
/// arithmetic, don't show it. With many rows arithmetic hides it too.
const FOUR_PANELS: f64 = 1.1;

/// What a loop around iterations takes each time for a sum in registers, in multiply-adds: all go to the stack and back.
const NESTED: f64 = 6.0;

/// Rows of a tile from which on such a loop gains anything (measured: with one row it loses a tenth).
const LEAST_NESTED: u32 = 16;

/// What a load of one component counts as, where one of four is 1.
pub(super) const WORD: f64 = 0.5;

/// What a texel takes, in multiply-adds: a constant, because a kernel's text must not depend on measured rates.
const TEXEL: f64 = 18.0;

/// A contraction as far as its time is concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LinearShape {
    /// Columns of x.
    pub(crate) k: u32,
    /// Columns of the result.
    pub(crate) n: u32,
    /// How the weights are stored.
    pub(crate) format: Format,
    /// Weights of the same shape: two where they are paired.
    pub(crate) weights: u32,
    /// What is done to x first.
    pub(crate) norm: Option<NormShape>,
    /// What it has to do with moments of rows.
    pub(crate) moments: Option<Moments>,
    /// Bytes that the epilogue reads for each row, and for all.
    pub(crate) operands: [i64; 2],
    /// What a row is.
    pub(crate) rows: Rows,
    /// Weights are images.
    pub(crate) images: bool,
    /// So is x.
    pub(crate) image_of_x: bool,
    /// A load of a buffer is a loop over lanes: the target is a CPU.
    pub(crate) looped: bool,
}

/// What a contraction has to do with [moments](crate::graph::moments).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moments {
    /// It leaves its rows behind with them.
    Left,
    /// Those of x scale its result.
    Read,
}

/// Norms in front of a contraction as far as its time is concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormShape {
    pub(crate) cost: NormCost,
    /// The scale of one row can follow its contraction.
    pub(crate) afterwards: bool,
    /// Bytes that the norms read or leave behind for each row, and for all.
    pub(crate) operands: [i64; 2],
}

impl LinearShape {
    fn k8(&self) -> u32 {
        self.k.div_ceil(PAD as u32)
    }

    pub(super) fn n4(&self) -> u32 {
        self.n.div_ceil(4)
    }

    /// Bytes to move at the least.
    pub(crate) fn bytes(&self) -> Dim {
        let weight = i64::from(self.weights) * i64::from(self.n) * self.format.row_bytes(self.k as usize) as i64;
        let [more, all] = self.norm.map_or([0, 0], |norm| norm.operands);
        let moments = match self.moments {
            Some(Moments::Left) => 4 * i64::from(moments::width(self.n)),
            Some(Moments::Read) => 4 * i64::from(moments::count(self.k)),
            None => 0,
        };
        let [row, once] = [self.operands[0] + more + moments, self.operands[1] + all];
        Dim::constant(weight + once) + self.rows.dim() * (4 * (i64::from(self.k) + i64::from(self.n)) + row)
    }

    /// Workgroups of `columns4` vec4s of columns and `rows` rows.
    pub(super) fn grid(&self, columns4: u32, rows: u32) -> [Groups; 3] {
        let x = Groups { dim: Dim::constant(self.n4().into()), per: columns4 };
        [x, Groups { dim: self.rows.dim(), per: rows }, Groups::ONE]
    }

    /// What storing the results of `rows` rows and `columns4` vec4s of columns takes.
    pub(super) fn epilogue(&self, rows: f64, columns4: f64) -> Work {
        let [row, once] = self.operands.map(|bytes| bytes as f64 / (4.0 * f64::from(self.n.max(1))));
        Work { loads: columns4 * (rows * (1.0 + row) + once), ..Work::default() }
    }

    /// What normalizing four values of x takes.
    fn reading(&self) -> Work {
        self.norm.map_or(Work::default(), |norm| norm.cost.reading)
    }

    /// What one of `invocations` does that together find the statistics of a tile's rows first.
    fn statistics(&self, rows: u32, invocations: u32) -> Work {
        let fours = f64::from(rows) * f64::from((2 * self.k8()).div_ceil(invocations));
        match self.norm {
            Some(norm) if !(norm.afterwards && rows == 1) => norm.cost.statistics.times(fours),
            Some(_) | None => Work::default(),
        }
    }

    /// What a lane does that leaves `columns4` vec4s of `rows` rows behind, or finds the scales of those rows.
    fn moments(&self, rows: u32, columns4: u32, lanes: u32) -> Work {
        match self.moments {
            Some(Moments::Left) => {
                let each = f64::from(rows * columns4);
                Work { loads: 1.25 * each, fmas: 16.0 * each, ..Work::default() }
            }
            Some(Moments::Read) => {
                let fours = fours(self.k);
                let loads = if rows < OWN_ROWS { rows * fours.div_ceil(lanes) } else { rows.div_ceil(lanes) * fours };
                Work { scattered: f64::from(loads), fmas: 16.0 * f64::from(rows), ..Work::default() }
            }
            None => Work::default(),
        }
    }

    /// What unpacking so many vec4s of weights takes, and scaling them where their loads have scales; sums over loads are
    /// scaled at less than one operation a weight.
    fn decode(&self, vec4s: f64, summed: bool) -> Work {
        let scaling = match self.stored(2).scaling() {
            Scaling::None | Scaling::Afterwards => 0.0,
            Scaling::Unpacked if summed => 1.0,
            Scaling::Unpacked => 4.0,
        };
        Work { fmas: (self.format.decode() + scaling) * vec4s, ..Work::default() }
    }

    /// How the weights are read, so many vec4s at a load.
    fn stored(&self, fours: u32) -> Weights {
        Weights::new(self.format, self.k, fours)
    }

    /// Quad words of a load of four rows.
    fn load(&self, fours: u32) -> f64 {
        f64::from(self.stored(fours).words())
    }

    /// The same of the scales of four rows' so many loads; a word alone saves little.
    fn load_of_scales(&self, fours: u32, steps: u32) -> f64 {
        let (reads, components) = self.stored(fours).parameter_reads(steps);
        let each = if components == 1 && !self.images { WORD } else { 1.0 };
        f64::from(reads) * each
    }

    /// Reading so many quad words, each neighbour those of other rows.
    pub(super) fn scattered(&self, words: f64) -> Work {
        match self.images {
            true => Work { texels: words, ..Work::default() },
            false => Work { scattered: words, ..Work::default() },
        }
    }

    /// Loads of w along k in one iteration: so many that each lane has x to read, and as many as can share what is read of
    /// scales.
    fn steps(&self, fours: u32, rows: u32, columns4: u32, lanes: u32) -> u32 {
        let stored = self.stored(fours);
        let fits = |steps: u32| 16 * fours * steps * rows * columns4 * self.weights < LARGE_BODY;
        let shared = [4, 2].into_iter().find(|steps| stored.loads().is_multiple_of(*steps) && fits(*steps));
        match (stored.scaling(), shared) {
            (Scaling::Unpacked, Some(steps)) => steps,
            (Scaling::None | Scaling::Afterwards | Scaling::Unpacked, _) => {
                steps_per_iteration(stored.loads(), rows * fours, lanes)
            }
        }
    }

    /// Iterations that contract `steps` loads each.
    fn iterations(&self, fours: u32, steps: u32) -> f64 {
        f64::from(self.stored(fours).loads()) / f64::from(steps)
    }

    /// vec4s of x that a load of w meets, for so many multiply-adds with each: as many as a body of that size allows.
    fn fours(&self, each: u32) -> u32 {
        let all = Weights::loads_of(self.format, self.k, self.images);
        let fits = |fours: &&u32| 16 * **fours * each < LARGE_BODY;
        let least = all.last().copied().unwrap_or(1);
        all.iter().find(fits).copied().unwrap_or(least)
    }

    /// The ways to compute it.
    pub(crate) fn candidates(&self, target: &Target, rows: RowRange) -> Vec<Choice> {
        let (rates, sizes, bytes) = (&target.rates, rows.sizes(self.rows), self.bytes());
        let mut choices = Vec::new();
        let mut take = |algorithm, launch: Launch| choices.push(launch.choice(algorithm, rates, bytes, sizes));
        if let Some(lanes) = target.subgroup_size {
            for rows in [1, 2, 4, 8, 16, 32] {
                let wide = if rows <= MOST_SUMMED { Some(4) } else { None };
                for columns4 in [1, 2].into_iter().chain(wide) {
                    let fours = self.fours(rows * columns4 * self.weights);
                    let steps = self.steps(fours, rows, columns4, lanes);
                    let tile = BroadcastTile { rows, columns4, fours, steps };
                    take(Algorithm::LinearBroadcast(tile), tile.launch(self, lanes, rates.registers));
                }
            }
        }
        // Lanes of a subgroup add up squares.
        if self.moments.is_some() {
            return choices;
        }
        for rows in [1, 2, 4, 8] {
            let octets = if self.k8().is_multiple_of(2) { 2 } else { 1 };
            let tile = WorkgroupTile { rows, octets };
            take(Algorithm::LinearWorkgroup(tile), tile.launch(self));
        }
        for rows in [1, 2, 4] {
            let fours = if self.format.is_quantized() { self.fours(2 * rows * self.weights) } else { 2 };
            let shares = if self.stored(fours).loads() >= 32 { 16 } else { 8 };
            let split = SplitDot { rows, shares, fours };
            take(Algorithm::LinearSplit(split), split.launch(self));
        }
        choices
    }
}

/// The fewest of `along` loads of w, each of which meets `each` vec4s of x, for which every lane has one of those to read.
fn steps_per_iteration(along: u32, each: u32, lanes: u32) -> u32 {
    let wanted = (lanes / each).clamp(1, 4);
    (1..=wanted).rev().find(|u| along.is_multiple_of(*u)).unwrap_or(1)
}

impl BroadcastTile {
    /// vec4s of x that a lane reads in one iteration.
    pub(crate) fn loads(self, lanes: u32) -> u32 {
        (self.rows * self.fours * self.steps).div_ceil(lanes)
    }

    /// Iterations that read their scales together, where a loop around them takes less than reading again.
    pub(crate) fn span(self, linear: &LinearShape) -> u32 {
        let span = linear.stored(self.fours).span(self.steps);
        let saved = linear.load_of_scales(self.fours, self.steps) * TEXEL * f64::from(span - 1);
        let gains = self.rows >= LEAST_NESTED && saved > NESTED * f64::from(self.rows);
        if linear.looped && gains { span } else { 1 }
    }

    pub(crate) fn launch(self, linear: &LinearShape, lanes: u32, registers: u32) -> Launch {
        let columns = f64::from(linear.weights * self.columns4 * 4);
        let rows = f64::from(self.rows);
        let fours = f64::from(self.fours * self.steps);
        let span = self.span(linear);
        let scales = linear.load_of_scales(self.fours, self.steps) / f64::from(span);
        let loads_of_w = f64::from(self.steps) * linear.load(self.fours) + scales;
        let of_x = f64::from(self.loads(lanes));
        let spill = (rows * columns / f64::from(registers)).max(1.0).powf(1.5);
        let filled = 4.0 * fours * rows * columns / f64::from(LARGE_BODY);
        let long = match linear.looped {
            true if filled > 1.0 => LONG_BODY,
            true if filled > 0.5 => FULL_BODY,
            true | false => 1.0,
        };
        let many = linear.looped && self.rows <= MOST_SUMMED && self.columns4 > 2 && !linear.format.is_quantized();
        let disorder = if many { FOUR_PANELS } else { 1.0 };
        let iteration = Work {
            fmas: 4.0 * fours * rows * columns * spill * long,
            broadcasts: 4.0 * fours * rows,
            ..Work::default()
        };
        let iteration = iteration.and(linear.scattered(loads_of_w * columns / 4.0)).and(match linear.image_of_x {
            true => Work { texels: of_x, ..Work::default() },
            false => Work { loads: of_x, ..Work::default() },
        });
        let decode = linear.decode(fours * columns, self.rows <= MOST_SUMMED);
        let iteration = iteration.and(decode).and(linear.reading().times(of_x));
        let iterations = linear.iterations(self.fours, self.steps);
        let nested = if span > 1 { NESTED * rows * columns * iterations / f64::from(span) } else { 0.0 };
        let once = iteration.times(iterations).and(linear.statistics(self.rows, lanes));
        let once = once.and(Work { fmas: nested, ..Work::default() });
        let once = once.and(linear.moments(self.rows, self.columns4, lanes));
        Launch {
            invocations: lanes,
            grid: linear.grid(self.columns4 * lanes, self.rows),
            cost: Cost { disorder, ..Cost::of(once.and(linear.epilogue(rows, self.columns4.into()))) },
        }
    }
}

impl WorkgroupTile {
    pub(crate) fn launch(self, linear: &LinearShape) -> Launch {
        let columns = f64::from(4 * linear.weights);
        let rows = f64::from(self.rows);
        // A quad word for each two k, and their scale.
        let stored = linear.stored(2);
        let of_w = match stored.scaling() {
            Scaling::Unpacked => 4.0 * (1.0 + WORD),
            Scaling::None | Scaling::Afterwards => f64::from((8 / stored.values()).max(4)),
        } / 4.0;
        let octet = Work {
            fmas: 8.0 * rows * columns + 8.0,
            // Filling workgroup memory is shared, but costs index arithmetic and a barrier.
            loads: (2.0 * rows + of_w * columns) / 8.0 * 1.5,
            shared: 2.0 * (rows + columns),
            ..Work::default()
        };
        // Unpacked once for all rows of the tile.
        let decode = linear.decode(columns / 4.0, false);
        let octet = octet.and(decode).and(linear.reading().times(2.0 * rows / 8.0 * 1.5));
        let statistics = linear.statistics(8 * self.rows, INVOCATIONS);
        let once = octet.times(f64::from(linear.k8())).and(statistics).and(linear.epilogue(rows, 1.0));
        let along_rows = INVOCATIONS / ALONG_COLUMNS;
        Launch {
            invocations: INVOCATIONS,
            grid: linear.grid(ALONG_COLUMNS, self.rows * along_rows),
            cost: Cost::of(once),
        }
    }
}

impl SplitDot {
    pub(crate) fn launch(self, linear: &LinearShape) -> Launch {
        let columns = f64::from(4 * linear.weights);
        let rows = f64::from(self.rows);
        let of_w = (linear.load(self.fours) + linear.load_of_scales(self.fours, 1)) / 4.0 * 2.0 / f64::from(self.fours);
        let octet = Work { fmas: 8.0 * rows * columns, loads: 2.0 * rows, ..Work::default() };
        // Lanes that are a loop gain nothing by standing beside each other.
        let octet = octet.and(match linear.looped {
            true => linear.scattered(columns * of_w),
            false => Work { loads: columns * of_w, ..Work::default() },
        });
        // The last of the work is adding up through workgroup memory.
        let shared = columns / 4.0 * rows * f64::from(self.shares);
        let sums = Work { shared, fmas: 4.0 * shared, ..Work::default() };
        let octet = octet.and(linear.decode(2.0 * columns, false)).and(linear.reading().times(2.0 * rows));
        let sums = sums.and(linear.statistics(self.rows, INVOCATIONS));
        let once = octet
            .times(f64::from(linear.stored(self.fours).loads().div_ceil(self.shares) * self.fours) / 2.0)
            .and(sums);
        Launch {
            invocations: INVOCATIONS,
            grid: linear.grid(INVOCATIONS / self.shares, self.rows),
            cost: Cost::of(once.and(linear.epilogue(rows, 1.0))),
        }
    }
}

/// `per-head/dot.wgsl`: each head with its own rows of a weight, four columns for each invocation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PerHeadShape {
    pub(crate) heads: u32,
    /// Columns of a head of x.
    pub(crate) k: u32,
    /// Columns of a head of the result.
    pub(crate) n: u32,
    pub(crate) format: Format,
    pub(crate) rows: Rows,
    /// Weights are images.
    pub(crate) images: bool,
}

impl PerHeadShape {
    pub(crate) fn bytes(&self) -> Dim {
        let [heads, k, n] = [self.heads, self.k, self.n].map(i64::from);
        Dim::constant(self.format.row_bytes(self.k as usize) as i64 * heads * n)
            + self.rows.dim() * (4 * heads * (k + n))
    }

    pub(crate) fn launch(&self) -> Launch {
        let columns4 = (self.heads * self.n).div_ceil(4);
        // Four weights and one of x at a time; a load of 8 bytes saves little.
        let reads = 4.0 * f64::from((self.format.bits() / 8).max(1) + u32::from(self.format.is_quantized()));
        let four = Work { fmas: 16.0 + 4.0 * self.format.decode(), loads: 1.0, ..Work::default() };
        let four = four.and(match self.images {
            true => Work { texels: reads, ..Work::default() },
            false => Work { scattered: WORD * reads, ..Work::default() },
        });
        let stored = Work { loads: 1.0, ..Work::default() };
        let once = four.times(f64::from(self.k.div_ceil(4))).and(stored);
        let grid = [
            Groups { dim: Dim::constant(columns4.into()), per: INVOCATIONS },
            Groups { dim: self.rows.dim(), per: 1 },
            Groups::ONE,
        ];
        Launch { invocations: INVOCATIONS, grid, cost: Cost::of(once) }
    }
}
