//! Contractions: `out[m, n] = epilogue(Σ_k x[m, k] · w[n, k])`.

use warpweft_plan::{Access, Dim, Groups, PAD};

use super::KernelError;
use super::compose::{Algorithm, Choice, Composed, Draft, RowRange, Slot};
use super::interface::{Interface, check_view, count};
use super::prologue::Normed;
use super::spec::{Operand, Operation, Rows, Term, View};
use super::term::reads;
use crate::formats::Format;
use crate::target::{Rates, Target};

/// A tile in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BroadcastTile {
    /// Rows.
    pub rows: u32,
    /// vec4s of columns of a lane.
    pub columns4: u32,
    /// vec4s of x that a load of w meets: two where eight weights are loaded at once, one where four are.
    pub fours: u32,
    /// Loads of w along k in one iteration.
    pub steps: u32,
}

/// A tile in workgroup memory, made by 64 invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkgroupTile {
    /// Rows of an invocation; the tile has eight times as many.
    pub rows: u32,
    /// Octets of k at a time.
    pub octets: u32,
}

/// Dot products shared by neighbouring invocations, 64 in a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SplitDot {
    /// Rows.
    pub rows: u32,
    /// Invocations that share four columns.
    pub shares: u32,
}

/// Invocations of a workgroup that uses workgroup memory.
const INVOCATIONS: u32 = 64;

/// Multiply-adds of an octet of k from which on an iteration loads only four k: bodies of more than about a thousand don't
/// fit the instruction cache of a CPU.
const LARGE_BODY: u32 = 1024;

/// The same along columns; the others are along rows.
const ALONG_COLUMNS: u32 = 8;

/// The fields of [`Operation::Linear`].
struct Linear<'a> {
    x: View,
    n: u32,
    format: Format,
    paired: bool,
    term: &'a Term,
    operands: &'a [Operand],
    out: View,
    rows: Rows,
    /// What is done to x first.
    norm: Option<Normed<'a>>,
}

impl<'a> Linear<'a> {
    fn of(operation: &'a Operation) -> Result<Linear<'a>, KernelError> {
        let (operation, prologue) = match operation {
            Operation::NormedLinear { prologue, linear } => (linear.as_ref(), Some(prologue)),
            other => (other, None),
        };
        let Operation::Linear { x, n, format, paired, term, operands, out, rows } = operation else {
            return Err(KernelError::Algorithm("linear for another operation".to_owned()));
        };
        check_view("x", *x)?;
        check_view("out", *out)?;
        if out.width != *n {
            return Err(KernelError::Shape(format!("out is {} wide, not {n}", out.width)));
        }
        if reads(term, &Term::Acc2) && !paired {
            return Err(KernelError::Term("a second accumulator without a second weight".to_owned()));
        }
        let (x, n, format, paired, out, rows) = (*x, *n, *format, *paired, *out, *rows);
        let norm = prologue.map(|prologue| Normed::new(prologue, x, rows)).transpose()?;
        Ok(Linear { x, n, format, paired, term, operands, out, rows, norm })
    }

    fn weights(&self) -> u32 {
        1 + u32::from(self.paired)
    }

    fn k8(&self) -> u32 {
        self.x.width.div_ceil(PAD as u32)
    }

    fn n4(&self) -> u32 {
        self.n.div_ceil(4)
    }

    /// Bindings and functions, in binding order: x, w, w2, operands, tables, out, step. `fours` is how many times four
    /// weights are loaded at once.
    fn interface(&self, fours: u32) -> Result<Interface, KernelError> {
        let mut interface = Interface::default();
        interface.view(Slot::X, "x", self.x)?;
        interface.function(format!("fn last_row() -> u32 {{\n    return {} - 1u;\n}}\n", count(self.rows)));
        interface.format(self.format);
        let suffix = self.format.name();
        let kind = if fours == 2 { self.format.packed() } else { self.format.half() };
        let row = if fours == 2 { "K8" } else { "(K8 * 2u)" };
        interface.bind(Slot::W, "w", Access::Read, &format!("array<{kind}>"));
        if self.paired {
            interface.bind(Slot::W2, "w2", Access::Read, &format!("array<{kind}>"));
        }
        let second = if self.paired {
            format!("    if (p == 1u) {{\n        return w2[n * {row} + k];\n    }}\n")
        } else {
            String::new()
        };
        let unpack = if fours == 2 {
            format!(
                "    if (h == 1u) {{
        return high_{suffix}(packed);
    }}
    return low_{suffix}(packed);
"
            )
        } else {
            format!("    return half_{suffix}(packed);\n")
        };
        interface.function(format!(
            "alias Packed = {kind};

fn load_w(p: u32, n: u32, k: u32) -> Packed {{
{second}    return w[n * {row} + k];
}}

fn unpack(packed: Packed, h: u32) -> vec4<f32> {{
{unpack}}}
"
        ));
        if let Some(norm) = self.norm {
            norm.functions(&mut interface)?;
        }
        interface.operands(self.operands, self.n, self.rows)?;
        interface.epilogue_with("epilogue", self.term, &self.vectors())?;
        interface.result(self.out, self.rows)?;
        if let Some(norm) = self.norm {
            norm.result(&mut interface);
        }
        Ok(interface)
    }

    fn flops(&self) -> Dim {
        let per_row = 2 * i64::from(self.weights()) * i64::from(self.n) * i64::from(self.x.width);
        self.rows.dim() * per_row
    }

    fn bytes(&self) -> Dim {
        let weight = i64::from(self.weights() * self.format.bytes()) * i64::from(self.n) * i64::from(self.x.width);
        let operands: Dim =
            self.operands.iter().fold(Dim::default(), |sum, o| sum + operand_bytes(o, self.n, self.rows));
        let normed = self.norm.map_or(Dim::default(), |norm| norm.bytes());
        Dim::constant(weight) + operands + normed + self.rows.dim() * (4 * i64::from(self.x.width + self.n))
    }

    /// Operands that are the same for all rows.
    fn vectors(&self) -> Vec<usize> {
        let used = |i: &usize| matches!(self.operands[*i], Operand::Vector) && reads(self.term, &Term::Operand(*i));
        (0..self.operands.len()).filter(used).collect()
    }

    /// The slots `columns` and `result`: what is read once for four columns, and what is stored for each row of them.
    fn result(&self, acc: &str, acc2: &str) -> Vec<(&'static str, String)> {
        let columns = self.vectors().iter().map(|i| format!("let v{i} = load_e{i}(0u, column4);\n")).collect();
        let mut arguments = acc.to_owned();
        if reads(self.term, &Term::Acc2) {
            arguments += &format!(", {acc2}");
        }
        arguments.extend(self.vectors().iter().map(|i| format!(", v{i}")));
        vec![("columns", columns), ("result", format!("store(m, column4, epilogue(m, column4, {arguments}));"))]
    }

    /// Workgroups of `columns4` vec4s of columns and `rows` rows.
    fn grid(&self, columns4: u32, rows: u32) -> [Groups; 3] {
        let x = Groups { dim: Dim::constant(i64::from(self.n4())), per: columns4 };
        [x, Groups { dim: self.rows.dim(), per: rows }, Groups::ONE]
    }

    /// Whether a tile of so many rows finds its scale while it contracts.
    fn scales_afterwards(&self, rows: u32) -> bool {
        rows == 1 && self.norm.is_some_and(|norm| norm.scales_afterwards())
    }

    /// Multiply-adds of one of `invocations` that together find the statistics of a tile's rows first.
    fn statistics(&self, rates: &Rates, rows: u32, invocations: u32) -> f64 {
        let fours = f64::from(rows) * f64::from((2 * self.k8()).div_ceil(invocations));
        self.norm.map_or(0.0, |norm| fours * norm.cost(rates).statistics)
    }

    fn name(&self, tile: &str) -> String {
        let acc2 = if self.paired { "_paired" } else { "" };
        let norm = self.norm.map_or(String::new(), |norm| norm.name());
        format!("{norm}linear_{}{acc2}_{}x{}_{tile}", self.format.name(), self.x.width, self.n)
    }
}

/// Bytes of an operand that a kernel of `width` columns must read.
pub(crate) fn operand_bytes(operand: &Operand, width: u32, rows: Rows) -> Dim {
    match operand {
        Operand::Vector => Dim::constant(4 * i64::from(width)),
        Operand::Matrix(_) => rows.dim() * (4 * i64::from(width)),
        Operand::Gather { format, .. } => rows.dim() * (i64::from(format.bytes()) * i64::from(width)),
    }
}

/// The ways to compute a linear.
pub(crate) fn candidates(operation: &Operation, target: &Target, rows: RowRange) -> Result<Vec<Choice>, KernelError> {
    let linear = Linear::of(operation)?;
    let mut choices = Vec::new();
    if let Some(lanes) = target.subgroup_size {
        for rows_of_tile in [1, 2, 4, 8, 16, 32] {
            // With one row, more columns of a lane would share nothing but its share of x.
            for columns4 in 1..=rows_of_tile.min(2) {
                let fours = if 32 * rows_of_tile * columns4 * linear.weights() < LARGE_BODY { 2 } else { 1 };
                let steps = steps_per_iteration(linear.k8() * 2 / fours, rows_of_tile * fours, lanes);
                let tile = BroadcastTile { rows: rows_of_tile, columns4, fours, steps };
                let seconds = tile.seconds(&linear, target, lanes, rows.typical());
                choices.push(Choice { algorithm: Algorithm::LinearBroadcast(tile), seconds });
            }
        }
    }
    for rows_each in [1, 2, 4, 8] {
        let octets = if linear.k8().is_multiple_of(2) { 2 } else { 1 };
        let tile = WorkgroupTile { rows: rows_each, octets };
        choices.push(Choice {
            algorithm: Algorithm::LinearWorkgroup(tile),
            seconds: tile.seconds(&linear, target, rows.typical()),
        });
    }
    for rows_each in [1, 2, 4] {
        let split = SplitDot { rows: rows_each, shares: if linear.k8() >= 32 { 16 } else { 8 } };
        choices.push(Choice {
            algorithm: Algorithm::LinearSplit(split),
            seconds: split.seconds(&linear, target, rows.typical()),
        });
    }
    Ok(choices)
}

/// The fewest of `along` loads of w, each of which meets `each` vec4s of x, for which every lane has one of those to read.
fn steps_per_iteration(along: u32, each: u32, lanes: u32) -> u32 {
    let wanted = (lanes / each).clamp(1, 4);
    (1..=wanted).rev().find(|u| along.is_multiple_of(*u)).unwrap_or(1)
}

impl BroadcastTile {
    /// vec4s of x that a lane reads in one iteration.
    fn loads(self, lanes: u32) -> u32 {
        (self.rows * self.fours * self.steps).div_ceil(lanes)
    }

    fn seconds(self, linear: &Linear, target: &Target, lanes: u32, rows: u32) -> f64 {
        let rates = &target.rates;
        let columns = f64::from(linear.weights() * self.columns4 * 4);
        let tile_rows = f64::from(self.rows);
        let fours = f64::from(self.fours * self.steps);
        let fmas = 4.0 * fours * tile_rows * columns;
        // A load of 8 bytes saves little.
        let vec4s_of_w = (f64::from(linear.format.bytes() * self.fours) / 4.0).max(0.7);
        let loads_of_w = vec4s_of_w * columns * f64::from(self.steps) * rates.scattered_load;
        let reading = linear.norm.map_or(0.0, |norm| norm.cost(rates).reading);
        let loads = loads_of_w + f64::from(self.loads(lanes)) * (rates.load + reading);
        let broadcasts = 4.0 * fours * tile_rows * rates.broadcast;
        let spill = (tile_rows * columns / f64::from(rates.registers)).max(1.0).powf(1.5);
        let lane = f64::from(linear.k8()) * 2.0 / fours * (fmas * spill + loads + broadcasts)
            + if linear.scales_afterwards(self.rows) { 0.0 } else { linear.statistics(rates, self.rows, lanes) };
        let groups = f64::from(rows.div_ceil(self.rows)) * f64::from(linear.n4().div_ceil(self.columns4 * lanes));
        let busy = f64::from(rates.lanes / lanes).max(1.0);
        lane * f64::from(lanes) * (groups / busy).ceil() * busy / rates.fmas
    }
}

impl WorkgroupTile {
    fn seconds(self, linear: &Linear, target: &Target, rows: u32) -> f64 {
        let rates = &target.rates;
        let columns = f64::from(4 * linear.weights());
        let each = f64::from(self.rows);
        let per_octet = 8.0 * each * columns + 2.0 * (each + columns) * rates.workgroup_load;
        let bytes = f64::from(linear.format.bytes()) / 4.0;
        let reading = linear.norm.map_or(0.0, |norm| norm.cost(rates).reading);
        let fill = ((2.0 * each + bytes * columns) * rates.load + 2.0 * each * reading) / 8.0 * 1.5;
        let lane =
            f64::from(linear.k8()) * (per_octet + fill + 8.0) + linear.statistics(rates, 8 * self.rows, INVOCATIONS);
        let tiles = rows.div_ceil(8 * self.rows) * linear.n4().div_ceil(ALONG_COLUMNS);
        let busy = (f64::from(rates.lanes) / f64::from(INVOCATIONS)).max(1.0);
        lane * f64::from(INVOCATIONS) * (f64::from(tiles) / busy).ceil() * busy / rates.fmas
    }
}

impl SplitDot {
    fn seconds(self, linear: &Linear, target: &Target, rows: u32) -> f64 {
        let rates = &target.rates;
        let columns = f64::from(4 * linear.weights());
        let each = f64::from(self.rows);
        let bytes = f64::from(linear.format.bytes()) / 2.0;
        let reading = linear.norm.map_or(0.0, |norm| norm.cost(rates).reading);
        let per_octet = 8.0 * each * columns + columns * bytes * rates.load + 2.0 * each * (rates.load + reading);
        // The last of the work is adding up through workgroup memory.
        let sums = columns / 4.0 * each * f64::from(self.shares) * (rates.workgroup_load + 4.0);
        let lane = f64::from(linear.k8().div_ceil(self.shares)) * per_octet
            + sums
            + if linear.scales_afterwards(self.rows) { 0.0 } else { linear.statistics(rates, self.rows, INVOCATIONS) };
        let groups = rows.div_ceil(self.rows) * linear.n4().div_ceil(INVOCATIONS / self.shares);
        let busy = (f64::from(rates.lanes) / f64::from(INVOCATIONS)).max(1.0);
        lane * f64::from(INVOCATIONS) * (f64::from(groups) / busy).ceil() * busy / rates.fmas
    }
}

/// Writes `linear/workgroup_tile.wgsl`.
pub(crate) fn workgroup_tile(
    operation: &Operation,
    tile: WorkgroupTile,
    target: &Target,
) -> Result<Composed, KernelError> {
    let linear = Linear::of(operation)?;
    let WorkgroupTile { rows, octets } = tile;
    let along_rows = INVOCATIONS / ALONG_COLUMNS;
    let mut slots = linear.result("acc[c * R + r]", "acc[(C4 + c) * R + r]");
    if let Some(norm) = linear.norm {
        slots.extend(norm.workgroup_slots()?);
    }
    Draft {
        name: linear.name(&format!("workgroup_{}x{}", rows * along_rows, 4 * ALONG_COLUMNS)),
        source: include_str!("linear/workgroup_tile.wgsl"),
        constants: vec![
            ("TX", ALONG_COLUMNS, "invocations along columns"),
            ("TY", along_rows, "invocations along rows"),
            ("R", rows, "rows of an invocation"),
            ("C4", 1, "vec4s of columns of an invocation"),
            ("P", linear.weights(), "weights"),
            ("KO", octets, "octets of k at a time"),
            ("K8", linear.k8(), "octets of k"),
            ("N4", linear.n4(), "vec4s of columns"),
            ("WIDTH", linear.x.width, "columns of x"),
        ],
        slots,
        interface: linear.interface(2)?,
        workgroup: INVOCATIONS,
        grid: linear.grid(ALONG_COLUMNS, rows * along_rows),
        flops: linear.flops(),
        bytes: linear.bytes(),
    }
    .finish(target)
}

/// Writes `linear/split_dot.wgsl`.
pub(crate) fn split_dot(operation: &Operation, split: SplitDot, target: &Target) -> Result<Composed, KernelError> {
    let linear = Linear::of(operation)?;
    let SplitDot { rows, shares } = split;
    let mut slots = linear.result("acc[r]", "acc[R + r]");
    let afterwards = linear.scales_afterwards(rows);
    if let Some(norm) = linear.norm {
        if afterwards {
            slots = linear.result("acc[r] * scale", "acc[R + r] * scale");
        }
        slots.extend(norm.split_slots(afterwards)?);
    }
    Draft {
        name: linear.name(&format!("split{shares}_{rows}")),
        source: include_str!("linear/split_dot.wgsl"),
        constants: vec![
            ("KS", shares, "invocations that share columns"),
            ("T", INVOCATIONS, "invocations"),
            ("R", rows, "rows"),
            ("P", linear.weights(), "weights"),
            ("NORMS", u32::from(afterwards), "norms of x whose scale follows"),
            ("K8", linear.k8(), "octets of k"),
            ("N4", linear.n4(), "vec4s of columns"),
            ("WIDTH", linear.x.width, "columns of x"),
        ],
        slots,
        interface: linear.interface(2)?,
        workgroup: INVOCATIONS,
        grid: linear.grid(INVOCATIONS / shares, rows),
        flops: linear.flops(),
        bytes: linear.bytes(),
    }
    .finish(target)
}

/// Writes `linear/broadcast_tile.wgsl`.
pub(crate) fn broadcast_tile(
    operation: &Operation,
    tile: BroadcastTile,
    target: &Target,
) -> Result<Composed, KernelError> {
    let linear = Linear::of(operation)?;
    let lanes = target.subgroup_size.ok_or_else(|| KernelError::Algorithm("with subgroups".to_owned()))?;
    let BroadcastTile { rows, columns4, fours, steps } = tile;
    let mut slots = linear.result("acc[c * R + r]", "acc[(C4 + c) * R + r]");
    if let Some(norm) = linear.norm {
        let afterwards = linear.scales_afterwards(rows);
        if afterwards {
            slots = linear.result("acc[c * R + r] * scale", "acc[(C4 + c) * R + r] * scale");
        }
        slots.extend(norm.broadcast_slots(afterwards)?);
    }
    Draft {
        name: linear.name(&format!("broadcast{lanes}_{rows}x{}", columns4 * 4)),
        source: include_str!("linear/broadcast_tile.wgsl"),
        constants: vec![
            ("S", lanes, "lanes of a subgroup"),
            ("R", rows, "rows of a tile"),
            ("C4", columns4, "vec4s of columns of a lane"),
            ("P", linear.weights(), "weights"),
            ("H", fours, "vec4s of x that a load of w meets"),
            ("U", steps, "loads of w along k in one iteration"),
            ("X", tile.loads(lanes), "vec4s of x that a lane reads in one iteration"),
            ("K8", linear.k8(), "octets of k"),
            ("N4", linear.n4(), "vec4s of columns"),
            ("WIDTH", linear.x.width, "columns of x"),
        ],
        slots,
        interface: linear.interface(fours)?,
        workgroup: lanes,
        grid: linear.grid(columns4 * lanes, rows),
        flops: linear.flops(),
        bytes: linear.bytes(),
    }
    .finish(target)
}
