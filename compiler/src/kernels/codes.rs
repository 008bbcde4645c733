//! Activations as codes: signed bytes and a scale for each row, as [`Format::Int8`] by row stores them.

use warpweft_plan::Access;

use super::KernelError;
use super::compose::{Composed, Draft, Slot};
use super::cost::rowwise::RowShape;
use super::interface::{Interface, count};
use super::rowwise::INVOCATIONS;
use super::spec::{Rows, View};
use crate::formats::{Format, Group};
use crate::target::Target;

/// Rows of codes of so many columns.
///
/// A row is a stored row of int8-row, padded with zeros to what the rows of all activations are padded to:
///
/// ```text
/// codes, padded to 16 bytes | scale, f32 | padding
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Codes {
    pub(crate) width: u32,
}

impl Codes {
    /// What it is in a graph.
    pub(crate) const FORMAT: Format = Format::Int8(Group::Row);
    /// vec4s of columns of a load of sixteen bytes.
    pub(crate) const FOURS: u32 = 4;

    /// Loads of sixteen codes in a row.
    pub(crate) fn loads(self) -> u32 {
        self.width.div_ceil(4 * Codes::FOURS)
    }

    /// The matrix of 32-bit words that a row is.
    pub(crate) fn view(self) -> View {
        View::of_codes(self.width)
    }

    /// Binds `x` and defines `load_x(m, k) -> vec4<u32>`, sixteen codes of row m, and `scale_x(m) -> f32`.
    pub(crate) fn functions(self, interface: &mut Interface) {
        interface.bind(Slot::X, "x", Access::Read, "array<vec4<u32>>");
        let (row, loads) = (self.view().stride / 4, self.loads());
        interface.function(format!(
            "fn load_x(m: u32, k: u32) -> vec4<u32> {{
    return x[m * {row}u + k];
}}

fn scale_x(m: u32) -> f32 {{
    return bitcast<f32>(x[m * {row}u + {loads}u].x);
}}
"
        ));
    }
}

/// Writes `codes/quantize.wgsl`: the rows of `x` as codes.
pub(crate) fn quantize(x: View, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    let codes = Codes { width: x.width };
    let mut interface = Interface::of(target);
    interface.view(Slot::X, "x", x)?;
    interface.output("array<u32>");
    interface.function(format!("fn kept(m: u32) -> bool {{\n    return m < {};\n}}\n", count(rows)));
    let shape = quantize_shape(x.width, rows);
    Draft {
        name: format!("quantize_{}", x.width),
        source: include_str!("codes/quantize.wgsl"),
        constants: vec![
            ("T", INVOCATIONS, "invocations, a power of two"),
            ("N4", x.width.div_ceil(4), "vec4s of a row"),
            ("WIDTH", x.width, "columns"),
            ("SCALE", codes.loads() * Codes::FOURS, "the word that is the scale"),
            ("WORDS", codes.view().stride, "words of a row of codes"),
        ],
        slots: Vec::new(),
        interface,
        launch: shape.quantize(),
        flops: rows.dim() * (4 * i64::from(x.width)),
        bytes: shape.bytes(),
    }
    .finish(target)
}

/// What the time of [`quantize`] depends on.
pub(crate) fn quantize_shape(width: u32, rows: Rows) -> RowShape {
    // A row of a quarter of the bytes is written.
    RowShape { width: Codes { width }.view().stride, operands: [4 * i64::from(width), 0], rows, twice: false }
}

/// Writes `codes/dequantize.wgsl`: what rows of codes stand for.
pub(crate) fn dequantize(width: u32, rows: Rows, target: &Target) -> Result<Composed, KernelError> {
    let mut interface = Interface::of(target);
    let codes = Codes { width };
    codes.functions(&mut interface);
    interface.format(Codes::FORMAT);
    interface.result(View::whole(width), rows)?;
    let shape = dequantize_shape(width, rows);
    Draft {
        name: format!("dequantize_{width}"),
        source: include_str!("codes/dequantize.wgsl"),
        constants: vec![("T", INVOCATIONS, "invocations"), ("N4", width.div_ceil(4), "vec4s of a row")],
        slots: Vec::new(),
        interface,
        launch: shape.map(),
        flops: rows.dim() * i64::from(width),
        bytes: shape.bytes(),
    }
    .finish(target)
}

/// What the time of [`dequantize`] depends on.
pub(crate) fn dequantize_shape(width: u32, rows: Rows) -> RowShape {
    RowShape { width, operands: [4 * i64::from(Codes { width }.view().width), 0], rows, twice: false }
}
