//! A contraction of each head with its own rows of a weight: `out[m, h·n + i] = Σ_k x[m, h·K + k] · w[h·n + i, k]`.

use super::KernelError;
use super::compose::{Composed, Draft, Slot};
use super::cost::linear::PerHeadShape;
use super::interface::Interface;
use super::linear::INVOCATIONS;
use super::spec::{Rows, View};
use super::table::table;
use crate::formats::Format;
use crate::target::Target;

/// Sizes of a [`PerHead`](super::spec::Operation::PerHead).
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerHead {
    pub(crate) x: View,
    pub(crate) heads: u32,
    pub(crate) n: u32,
    pub(crate) format: Format,
    pub(crate) rows: Rows,
}

/// Writes `per-head/dot.wgsl`.
pub(crate) fn dot(linear: PerHead, target: &Target) -> Result<Composed, KernelError> {
    let PerHead { x, heads, n, format, rows } = linear;
    let k = x.width / heads.max(1);
    if heads == 0 || k * heads != x.width || !k.is_multiple_of(4) {
        return Err(KernelError::Shape(format!("{heads} heads of {} columns are no multiple of four each", x.width)));
    }
    let width = heads * n;
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    table(&mut interface, Slot::W, "w", format, k, ("n: u32, n4: u32", "n"));
    interface.result(View::whole(width), rows)?;
    let columns4 = width.div_ceil(4);
    let shape = PerHeadShape { heads, k, n, format, rows, images: target.images > 0 };
    Draft {
        name: format!("per_head_{format}_{heads}x{k}x{n}"),
        source: include_str!("per-head/dot.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations"),
            ("COLUMNS4", columns4, "vec4s of a row of out"),
            ("ROWS_W", width, "rows of w"),
            ("N", n, "columns of a head of out"),
            ("K4", k / 4, "vec4s of a head of x"),
        ],
        slots: Vec::new(),
        interface,
        launch: shape.launch(),
        flops: rows.dim() * (2 * i64::from(width) * i64::from(k)),
        bytes: shape.bytes(),
    }
    .finish(target)
}
