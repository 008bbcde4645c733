//! Contractions: `out[m, n] = epilogue(Σ_k x[m, k] · w[n, k])`.

use warpweft_plan::{Dim, PAD};

use super::KernelError;
use super::codes::Codes;
use super::compose::{Choice, Composed, Draft, RowRange, Slot};
use super::cost::linear::{LinearShape, Moments};
use super::interface::{Interface, check_view, count};
use super::moments;
use super::prologue::Normed;
use super::spec::{Operand, Operation, Rows, Term, View};
use super::term::reads;
use super::weights::{Scaling, Weights};
use super::weights_tile::{WeightsTile, afterwards, nest, sums};
use crate::formats::Format;
use crate::target::Target;

/// A tile in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BroadcastTile {
    /// Rows.
    pub rows: u32,
    /// vec4s of columns of a lane.
    pub columns4: u32,
    /// vec4s of x that a load of w meets: two where eight weights are loaded at once, one where four are, up to sixteen of
    /// quantized ones.
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

/// Dot products shared by invocations, 64 in a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SplitDot {
    /// Rows.
    pub rows: u32,
    /// Invocations that share four columns.
    pub shares: u32,
    /// vec4s of x that a load of w meets.
    pub fours: u32,
}

/// Invocations of a workgroup that uses workgroup memory.
pub(crate) const INVOCATIONS: u32 = 64;

/// The same along columns; the others are along rows.
pub(crate) const ALONG_COLUMNS: u32 = 8;

/// Rows of a tile up to which scaling the sum over a load takes less than scaling each weight of it.
pub(crate) const MOST_SUMMED: u32 = 2;

/// The fields of [`Operation::Linear`].
pub(super) struct Linear<'a> {
    pub(super) x: View,
    n: u32,
    pub(super) format: Format,
    paired: bool,
    term: &'a Term,
    operands: &'a [Operand],
    out: View,
    pub(super) rows: Rows,
    /// What is done to x first.
    norm: Option<Normed<'a>>,
    /// The operand with which the rows are left behind.
    gain: Option<usize>,
    /// The epsilon of the scale that x brings with it.
    scaled: Option<f32>,
    target: &'a Target,
}

impl<'a> Linear<'a> {
    pub(super) fn of(operation: &'a Operation, target: &'a Target) -> Result<Linear<'a>, KernelError> {
        let prologue = if let Operation::NormedLinear { prologue, .. } = operation { Some(prologue) } else { None };
        let gain = if let Operation::GainedLinear { gain, .. } = operation { Some(*gain) } else { None };
        let scaled = if let Operation::ScaledLinear { eps, .. } = operation { Some(*eps) } else { None };
        let Operation::Linear { x, n, format, paired, term, operands, out, rows } = operation.inner() else {
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
        if gain.is_some_and(|gain| operands.get(gain) != Some(&Operand::Vector) || out != View::whole(n)) {
            return Err(KernelError::Shape("rows are left behind as a whole, times a vector".to_owned()));
        }
        if operands.contains(&Operand::Result) && out != View::whole(n) {
            return Err(KernelError::Shape("what is written over is a whole matrix".to_owned()));
        }
        if scaled.is_some() && x != moments::view(x.width) {
            return Err(KernelError::Shape(format!("x is {x:?}, without moments")));
        }
        let norm = prologue.map(|prologue| Normed::new(prologue, x, rows)).transpose()?;
        Ok(Linear { x, n, format, paired, term, operands, out, rows, norm, gain, scaled, target })
    }

    /// The same for files that know no moments.
    fn without_moments(operation: &'a Operation, target: &'a Target) -> Result<Linear<'a>, KernelError> {
        let linear = Linear::of(operation, target)?;
        match linear.moments() {
            None => Ok(linear),
            Some(_) => Err(KernelError::Algorithm("where lanes of a subgroup make moments".to_owned())),
        }
    }

    pub(super) fn weights(&self) -> u32 {
        1 + u32::from(self.paired)
    }

    fn k8(&self) -> u32 {
        self.x.width.div_ceil(PAD as u32)
    }

    pub(super) fn n4(&self) -> u32 {
        self.n.div_ceil(4)
    }

    /// How it reads its weights, so many vec4s at a load.
    fn stored(&self, fours: u32) -> Weights {
        Weights::new(self.format, self.x.width, fours)
    }

    /// Bindings and functions, in binding order: x, w, w2, operands, tables, out, step; scales are read for so many loads, and
    /// `raised` tells whether x is [`Weights::lowered`].
    fn interface(&self, stored: Weights, loads: u32, raised: bool) -> Result<Interface, KernelError> {
        let mut interface = Interface::of(self.target);
        interface.view_up_to(Slot::X, "x", self.x, stored.reach())?;
        interface.function(format!("fn last_row() -> u32 {{\n    return {} - 1u;\n}}\n", count(self.rows)));
        let bindings = [(Slot::W, "w"), (Slot::W2, "w2")];
        stored.functions(&mut interface, &bindings[..self.weights() as usize], loads, raised);
        if let Some(norm) = self.norm {
            norm.functions(&mut interface, stored.reach())?;
        }
        if self.scaled.is_some() {
            moments::load(&mut interface, self.x.width);
        }
        self.results(&mut interface)?;
        if let Some(norm) = self.norm {
            norm.result(&mut interface);
        }
        if self.gain.is_some() {
            moments::result(&mut interface, self.n);
        }
        Ok(interface)
    }

    /// The same where x is rows of codes.
    pub(super) fn interface_of_codes(&self, codes: Codes) -> Result<Interface, KernelError> {
        let mut interface = Interface::of(self.target);
        codes.functions(&mut interface);
        interface.function(format!("fn last_row() -> u32 {{\n    return {} - 1u;\n}}\n", count(self.rows)));
        let bindings = [(Slot::W, "w"), (Slot::W2, "w2")];
        let stored = Weights::new(self.format, self.x.width, Codes::FOURS);
        stored.functions(&mut interface, &bindings[..self.weights() as usize], 1, false);
        self.results(&mut interface)?;
        Ok(interface)
    }

    /// What is done to the product, and where it goes.
    fn results(&self, interface: &mut Interface) -> Result<(), KernelError> {
        interface.operands(self.operands, self.n, self.rows)?;
        interface.epilogue_with("epilogue", self.term, &self.vectors())?;
        interface.result(self.out, self.rows)
    }

    pub(super) fn flops(&self) -> Dim {
        let per_row = 2 * i64::from(self.weights()) * i64::from(self.n) * i64::from(self.x.width);
        self.rows.dim() * per_row
    }

    /// What its time depends on.
    pub(super) fn shape(&self) -> LinearShape {
        LinearShape {
            k: self.x.width,
            n: self.n,
            format: self.format,
            weights: self.weights(),
            norm: self.norm.map(|norm| norm.shape()),
            moments: self.moments(),
            operands: operands_bytes(self.operands, self.n),
            rows: self.rows,
            images: self.target.images > 0,
            image_of_x: self.x.image,
            looped: self.target.int64,
        }
    }

    fn moments(&self) -> Option<Moments> {
        match (self.gain, self.scaled) {
            (Some(_), _) => Some(Moments::Left),
            (None, Some(_)) => Some(Moments::Read),
            (None, None) => None,
        }
    }

    /// Operands that are the same for all rows.
    fn vectors(&self) -> Vec<usize> {
        let used = |i: &usize| matches!(self.operands[*i], Operand::Vector) && reads(self.term, &Term::Operand(*i));
        (0..self.operands.len()).filter(used).collect()
    }

    /// The slots `columns` and `result`: what is read once for four columns, and what is stored for each row of them.
    pub(super) fn result(&self, acc: &str, acc2: &str) -> Vec<(&'static str, String)> {
        let columns = self.vectors().iter().map(|i| format!("let v{i} = load_e{i}(0u, column4);\n")).collect();
        let mut arguments = acc.to_owned();
        if reads(self.term, &Term::Acc2) {
            arguments += &format!(", {acc2}");
        }
        arguments.extend(self.vectors().iter().map(|i| format!(", v{i}")));
        let value = format!("epilogue(m, column4, {arguments})");
        match self.gain {
            Some(gain) => moments::slots(columns, &value, gain),
            None => vec![("columns", columns), ("result", format!("store(m, column4, {value});"))],
        }
    }

    /// Whether a tile of so many rows finds its scale while it contracts.
    fn scales_afterwards(&self, rows: u32) -> bool {
        rows == 1 && self.norm.is_some_and(|norm| norm.scales_afterwards())
    }

    pub(super) fn name(&self, tile: &str) -> String {
        let acc2 = if self.paired { "_paired" } else { "" };
        let norm = match (self.norm, self.gain, self.scaled) {
            (Some(norm), ..) => norm.name(),
            (None, Some(_), _) => "gained_".to_owned(),
            (None, None, Some(_)) => "scaled_".to_owned(),
            (None, None, None) => String::new(),
        };
        format!("{norm}linear_{}{acc2}_{}x{}_{tile}", self.format, self.x.width, self.n)
    }
}

/// Bytes of operands that a kernel of `width` columns must read for each row, and for all rows.
pub(crate) fn operands_bytes(operands: &[Operand], width: u32) -> [i64; 2] {
    let width = i64::from(width);
    operands.iter().fold([0, 0], |[row, once], operand| match operand {
        Operand::Vector => [row, once + 4 * width],
        Operand::Matrix(_) | Operand::Result | Operand::Next => [row + 4 * width, once],
        Operand::Gather { format, .. } => [row + format.row_bytes(width as usize) as i64, once],
    })
}

/// The ways to compute a linear.
pub(crate) fn candidates(operation: &Operation, target: &Target, rows: RowRange) -> Result<Vec<Choice>, KernelError> {
    Ok(Linear::of(operation, target)?.shape().candidates(target, rows))
}

/// Writes `linear/workgroup_tile.wgsl`.
pub(crate) fn workgroup_tile(
    operation: &Operation,
    tile: WorkgroupTile,
    target: &Target,
) -> Result<Composed, KernelError> {
    let linear = Linear::without_moments(operation, target)?;
    let WorkgroupTile { rows, octets } = tile;
    let along_rows = INVOCATIONS / ALONG_COLUMNS;
    let mut slots = linear.result("acc[c * R + r]", "acc[(C4 + c) * R + r]");
    if let Some(norm) = linear.norm {
        slots.extend(norm.workgroup_slots()?);
    }
    let stored = linear.stored(2);
    match stored.scaling() {
        Scaling::None => {}
        Scaling::Afterwards => {
            let quad = "min(n0 + tx + c % C4 * TX, N4 - 1u)";
            slots.push(("row_scales", afterwards("P * C4", "c / C4", quad)));
        }
        // Two k have one group.
        Scaling::Unpacked => {
            let values = [0, 1].map(|i| {
                let value = stored.scaled(&format!("unpack(words{i}, (k + {i}u) % V)"), "0u");
                format!("ws[(at + {i}u) * COLUMNS4 + c] = {value};\n")
            });
            let biases = if stored.is_biased() { "var bs: array<vec4<f32>, 1u>;\n" } else { "" };
            let read = stored.load_scales(1, ["p", "quad", "k / 8u"], "0u");
            slots.push(("unpacked", format!("var ss: array<vec4<f32>, 1u>;\n{biases}{read}{}", values.concat())));
        }
    }
    if stored.values() > 1 {
        slots.push(("second", "let words1 = words0;".to_owned()));
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
            ("V", stored.values(), "values of a word of w"),
            ("K8", linear.k8(), "octets of k"),
            ("N4", linear.n4(), "vec4s of columns"),
            ("WIDTH", linear.x.width, "columns of x"),
        ],
        slots,
        interface: linear.interface(stored, 1, false)?,
        launch: tile.launch(&linear.shape()),
        flops: linear.flops(),
        bytes: linear.shape().bytes(),
    }
    .finish(target)
}

/// Writes `linear/split_dot.wgsl`.
pub(crate) fn split_dot(operation: &Operation, split: SplitDot, target: &Target) -> Result<Composed, KernelError> {
    let linear = Linear::without_moments(operation, target)?;
    let SplitDot { rows, shares, fours } = split;
    let mut slots = linear.result("acc[r]", "acc[R + r]");
    let afterwards = linear.scales_afterwards(rows);
    if let Some(norm) = linear.norm {
        if afterwards {
            slots = linear.result("acc[r] * scale", "acc[R + r] * scale");
        }
        slots.extend(norm.split_slots(afterwards)?);
    }
    let stored = linear.stored(fours);
    let tile = WeightsTile {
        columns: "P",
        weight: "c",
        quad: "min(column4, N4 - 1u)",
        load: "k",
        in_parts: false,
        first: "k",
        loads: 1,
        scaled: true,
        within: "h",
    };
    slots.extend(tile.slots(stored));
    Draft {
        name: linear.name(&format!("split{shares}_{rows}")),
        source: include_str!("linear/split_dot.wgsl"),
        constants: vec![
            ("KS", shares, "invocations that share columns"),
            ("T", INVOCATIONS, "invocations"),
            ("R", rows, "rows"),
            ("P", linear.weights(), "weights"),
            ("NORMS", u32::from(afterwards), "norms of x whose scale follows"),
            ("H", fours, "vec4s of x that a load of w meets"),
            ("W", stored.words(), "quad words of a load of w"),
            ("K", stored.loads(), "loads of w along k"),
            ("K8", linear.k8(), "octets of k"),
            ("N4", linear.n4(), "vec4s of columns"),
            ("WIDTH", linear.x.width, "columns of x"),
        ],
        slots,
        interface: linear.interface(stored, 1, false)?,
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
    let linear = Linear::of(operation, target)?;
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
    if let Some(eps) = linear.scaled {
        slots = linear.result("acc[c * R + r] * scales[r]", "acc[(C4 + c) * R + r] * scales[r]");
        slots.push(("scale", moments::scales(linear.x.width, rows, eps)?));
    }
    let stored = linear.stored(fours);
    let summed = rows <= MOST_SUMMED && stored.scaling() == Scaling::Unpacked && stored.has_whole_groups(1);
    let span = tile.span(&linear.shape());
    let weights = WeightsTile {
        columns: "P * C4",
        weight: "c / C4",
        quad: "quads[c % C4]",
        load: "k + u",
        in_parts: true,
        first: if span > 1 { "g0" } else { "k" },
        loads: steps,
        scaled: !summed,
        within: "u * H + h",
    };
    slots.extend(weights.slots(stored));
    if summed {
        slots.extend(sums(stored, steps));
    }
    if span > 1 {
        nest(&mut slots, stored.loads(), span, steps);
    }
    let lowered = stored.lowered(summed);
    if let Some(factor) = lowered {
        slots.push(("factor", format!("let lowered = {factor};")));
        slots.push(("lowered", "xs[i] *= lowered;".to_owned()));
    }
    if linear.format.is_quantized() {
        slots.push(("loads", format!("const K: u32 = {}u; // loads of w along k", stored.loads())));
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
            ("W", stored.words(), "quad words of a load of w"),
            ("G", if summed { stored.groups_in(1) } else { 1 }, "groups of a load whose sums are scaled"),
            ("U", steps, "loads of w along k in one iteration"),
            ("X", tile.loads(lanes), "vec4s of x that a lane reads in one iteration"),
            ("K8", linear.k8(), "octets of k"),
            ("N4", linear.n4(), "vec4s of columns"),
            ("WIDTH", linear.x.width, "columns of x"),
        ],
        slots,
        interface: linear.interface(stored, steps, lowered.is_some())?,
        launch: tile.launch(&linear.shape(), lanes, target.rates.registers),
        flops: linear.flops(),
        bytes: linear.shape().bytes(),
    }
    .finish(target)
}
