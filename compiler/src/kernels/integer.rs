//! Contractions of codes with codes: `out[m, n] = epilogue(s[m] · Σ_g t[n, g] · Σ_{k in g} x[m, k] · w[n, k])`.
//!
//! x and w are signed bytes, s and t the scales of a row of x and of a group of columns of a row of w. Products of four codes
//! are one instruction where the device has it, `dot4I8Packed`; sums over a group are exact.

use super::KernelError;
use super::codes::Codes;
use super::compose::{Choice, Composed, Draft, RowRange};
use super::cost::integer::IntegerShape;
use super::interface::Interface;
use super::linear::{ALONG_COLUMNS, INVOCATIONS, Linear};
use super::spec::{Operation, View};
use crate::target::Target;

/// A tile in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntegerTile {
    /// Rows.
    pub rows: u32,
    /// vec4s of columns of a lane.
    pub columns4: u32,
    /// Loads along k in one iteration.
    pub steps: u32,
}

/// A tile in workgroup memory, made by 64 invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntegerWorkgroup {
    /// Rows of an invocation; the tile has eight times as many.
    pub rows: u32,
    /// Loads along k at a time.
    pub steps: u32,
}

/// The ways to compute a linear over integers.
pub(crate) fn candidates(linear: &Operation, target: &Target, rows: RowRange) -> Result<Vec<Choice>, KernelError> {
    let of = IntegerLinear::of(linear, target)?;
    Ok(of.shape.candidates(target, rows))
}

/// A linear whose x is codes.
struct IntegerLinear<'a> {
    linear: Linear<'a>,
    codes: Codes,
    shape: IntegerShape,
    /// Loads of a group, and groups of a row.
    groups: (u32, u32),
}

impl<'a> IntegerLinear<'a> {
    fn of(operation: &'a Operation, target: &'a Target) -> Result<IntegerLinear<'a>, KernelError> {
        let linear = Linear::of(operation.inner(), target)?;
        if linear.x != View::whole(linear.x.width) {
            return Err(KernelError::Shape(format!("rows of codes as a window, {:?}", linear.x)));
        }
        let shape = IntegerShape(linear.shape());
        let groups = shape
            .groups()
            .ok_or_else(|| KernelError::Algorithm(format!("over integers with weights of {}", linear.format)))?;
        Ok(IntegerLinear { codes: Codes { width: linear.x.width }, shape, groups, linear })
    }

    /// The constants of both files behind those of one.
    fn constants(&self, own: &[Constant], steps: u32) -> Vec<Constant> {
        let (group, groups) = self.groups;
        let both = [
            ("P", self.linear.weights(), "weights"),
            ("U", steps, "loads along k at a time"),
            ("G", group, "loads of a group"),
            ("GROUPS", groups, "groups of a row"),
            ("K", self.shape.loads(), "loads along k, of sixteen codes"),
            ("N4", self.linear.n4(), "vec4s of columns"),
        ];
        [own, &both].concat()
    }

    fn name(&self, tile: &str) -> String {
        format!("integer_{}", self.linear.name(tile))
    }

    fn interface(&self) -> Result<Interface, KernelError> {
        self.linear.interface_of_codes(self.codes)
    }
}

/// Name, value, meaning.
type Constant = (&'static str, u32, &'static str);

/// Writes `integer/broadcast_tile.wgsl`.
pub(crate) fn broadcast_tile(
    operation: &Operation,
    tile: IntegerTile,
    target: &Target,
) -> Result<Composed, KernelError> {
    let of = IntegerLinear::of(operation, target)?;
    let lanes = target.subgroup_size.ok_or_else(|| KernelError::Algorithm("with subgroups".to_owned()))?;
    let IntegerTile { rows, columns4, steps } = tile;
    let own = [
        ("S", lanes, "lanes of a subgroup"),
        ("R", rows, "rows of a tile"),
        ("C4", columns4, "vec4s of columns of a lane"),
        ("X", tile.loads(lanes), "loads of x of a lane in one iteration"),
    ];
    Draft {
        name: of.name(&format!("broadcast{lanes}_{rows}x{}", columns4 * 4)),
        source: include_str!("integer/broadcast_tile.wgsl"),
        constants: of.constants(&own, steps),
        slots: of.linear.result("total[c * R + r] * s", "total[(C4 + c) * R + r] * s"),
        interface: of.interface()?,
        launch: tile.launch(&of.shape, lanes, &target.rates),
        flops: of.linear.flops(),
        bytes: of.shape.bytes(),
    }
    .finish(target)
}

/// Writes `integer/workgroup_tile.wgsl`.
pub(crate) fn workgroup_tile(
    operation: &Operation,
    tile: IntegerWorkgroup,
    target: &Target,
) -> Result<Composed, KernelError> {
    let of = IntegerLinear::of(operation, target)?;
    let IntegerWorkgroup { rows, steps } = tile;
    let along_rows = INVOCATIONS / ALONG_COLUMNS;
    let own = [
        ("TX", ALONG_COLUMNS, "invocations along columns"),
        ("TY", along_rows, "invocations along rows"),
        ("R", rows, "rows of an invocation"),
    ];
    Draft {
        name: of.name(&format!("workgroup_{}x{}", rows * along_rows, 4 * ALONG_COLUMNS)),
        source: include_str!("integer/workgroup_tile.wgsl"),
        constants: of.constants(&own, steps),
        slots: of.linear.result("total[r] * s", "total[R + r] * s"),
        interface: of.interface()?,
        launch: tile.launch(&of.shape, &target.rates),
        flops: of.linear.flops(),
        bytes: of.shape.bytes(),
    }
    .finish(target)
}
