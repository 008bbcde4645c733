//! Contractions: `out[m, n] = epilogue(Σ_k x[m, k] · w[n, k])`.

use warpweft_plan::{Access, Dim, PAD};

use super::KernelError;
use super::compose::{Choice, Composed, Draft, RowRange, Slot};
use super::cost::linear::LinearShape;
use super::interface::{Interface, check_view, count};
use super::prologue::Normed;
use super::spec::{Operand, Operation, Rows, Term, View};
use super::term::reads;
use crate::formats::Format;
use crate::target::Target;

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
pub(crate) const INVOCATIONS: u32 = 64;

/// The same along columns; the others are along rows.
pub(crate) const ALONG_COLUMNS: u32 = 8;

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

    /// What its time depends on.
    fn shape(&self) -> LinearShape {
        LinearShape {
            k: self.x.width,
            n: self.n,
            format: self.format,
            weights: self.weights(),
            norm: self.norm.map(|norm| norm.shape()),
            operands: operands_bytes(self.operands, self.n),
            rows: self.rows,
        }
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

    /// Whether a tile of so many rows finds its scale while it contracts.
    fn scales_afterwards(&self, rows: u32) -> bool {
        rows == 1 && self.norm.is_some_and(|norm| norm.scales_afterwards())
    }

    fn name(&self, tile: &str) -> String {
        let acc2 = if self.paired { "_paired" } else { "" };
        let norm = self.norm.map_or(String::new(), |norm| norm.name());
        format!("{norm}linear_{}{acc2}_{}x{}_{tile}", self.format.name(), self.x.width, self.n)
    }
}

/// Bytes of operands that a kernel of `width` columns must read for each row, and for all rows.
pub(crate) fn operands_bytes(operands: &[Operand], width: u32) -> [i64; 2] {
    let width = i64::from(width);
    operands.iter().fold([0, 0], |[row, once], operand| match operand {
        Operand::Vector => [row, once + 4 * width],
        Operand::Matrix(_) => [row + 4 * width, once],
        Operand::Gather { format, .. } => [row + i64::from(format.bytes()) * width, once],
    })
}

/// The ways to compute a linear.
pub(crate) fn candidates(operation: &Operation, target: &Target, rows: RowRange) -> Result<Vec<Choice>, KernelError> {
    Ok(Linear::of(operation)?.shape().candidates(target, rows))
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
        launch: tile.launch(&linear.shape()),
        flops: linear.flops(),
        bytes: linear.shape().bytes(),
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
        launch: split.launch(&linear.shape()),
        flops: linear.flops(),
        bytes: linear.shape().bytes(),
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
        launch: tile.launch(&linear.shape(), lanes, target.rates.registers),
        flops: linear.flops(),
        bytes: linear.shape().bytes(),
    }
    .finish(target)
}
