//! Columns in another order: `out[m, n] = x[m, index[n]]`.

use warpweft_plan::Access;

use super::KernelError;
use super::compose::{Composed, Draft, Slot};
use super::cost::rowwise::RowShape;
use super::interface::Interface;
use super::rowwise::INVOCATIONS;
use super::spec::{Rows, View};
use crate::target::Target;

/// Writes `columns/gather.wgsl`: `x`'s columns in the order of a vector of `width` indices.
pub(crate) fn gather(x: View, width: u32, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    interface.bind(Slot::Vectors, "columns", Access::Read, "array<vec4<f32>>");
    interface.result(View::whole(width), rows)?;
    let shape = RowShape { width, operands: operands(x.width.into(), width.into()), rows, twice: false };
    Draft {
        name: format!("columns_{}_{width}", x.width),
        source: include_str!("columns/gather.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations"),
            ("N4", width.div_ceil(4), "vec4s of a row"),
            ("K", x.width, "columns of x"),
        ],
        slots: Vec::new(),
        interface,
        launch: shape.map(),
        flops: rows.dim() * i64::from(width),
        bytes: shape.bytes(),
    }
    .finish(target)
}

/// Bytes that are read for each row, and for all rows, of that many columns of x and of the result.
pub(crate) fn operands(inputs: i64, width: i64) -> [i64; 2] {
    [4 * inputs, 4 * width]
}
