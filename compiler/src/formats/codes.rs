//! Codes and scales as checkpoints have them, and back.

use super::quantize::Parameters;
use super::{Format, FormatError};

/// A quantized matrix, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'c> {
    /// One byte for each value, row by row: of int8 the two's complement, of int4 0 to 15 (without zero points, 8 is
    /// zero), of fp8 and mxfp4 the bits of the float, of nf4 the index of the quantile.
    pub codes: &'c [u8],
    /// `[rows, groups]`
    pub scales: &'c [f32],
    /// `[rows, groups]`, of formats that have zero points; `None` is 8 for all.
    pub zeros: Option<&'c [f32]>,
}

/// [`Codes`] of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCodes {
    /// See [`Codes::codes`].
    pub codes: Vec<u8>,
    /// See [`Codes::scales`].
    pub scales: Vec<f32>,
    /// Only of formats that have zero points.
    pub zeros: Option<Vec<f32>>,
}

impl Format {
    /// Stored rows of `width` values with these codes and scales, exactly.
    ///
    /// # Errors
    /// A format of floats; lengths that don't fit; a scale or zero point that the format cannot hold without rounding it
    /// (int4 with zero points: scales of 16 bits of precision, zero points that are multiples of 1/8 from 0 to 31.875, in a
    /// group that the row's end cuts a whole code;
    /// mxfp4: powers of two); a code that is no number, such as the NaN of fp8; a value that is not finite.
    pub fn assemble(self, codes: &Codes<'_>, width: usize) -> Result<Vec<u8>, FormatError> {
        self.check_groups()?;
        if !self.is_quantized() {
            return Err(FormatError::Unquantized { format: self });
        }
        if width == 0 || !codes.codes.len().is_multiple_of(width) {
            return Err(FormatError::Shape { values: codes.codes.len(), width });
        }
        let (rows, groups) = (codes.codes.len() / width, self.groups(width));
        for (what, found) in [("scales", Some(codes.scales.len())), ("zero points", codes.zeros.map(<[f32]>::len))] {
            if found.is_some_and(|found| found != rows * groups) {
                let (found, expected) = (found.unwrap_or(0), rows * groups);
                return Err(FormatError::Parameters { what, found, expected, groups, rows });
            }
        }
        let mut bytes = vec![0; rows * self.row_bytes(width)];
        for (row, stored) in bytes.chunks_exact_mut(self.row_bytes(width)).enumerate() {
            let values = &codes.codes[row * width..(row + 1) * width];
            for (group, values) in values.chunks(self.group_width(width)).enumerate() {
                let at = row * groups + group;
                let (scale, zero) = (codes.scales[at], codes.zeros.map_or(self.common_zero(), |z| z[at]));
                let parameter = |what, value| FormatError::Parameter { what, value, row, group, format: self };
                if !self.holds_scale(scale) {
                    return Err(parameter("scale", scale));
                }
                // What is behind the row's end has to be zero.
                let padded = group + 1 == groups && self.last_is_padded(width);
                let odd = padded
                    && (Parameters { scale: 1.0, zero }).value(f32::from(self.padding(Parameters { scale, zero })))
                        != 0.0;
                let odd = odd && matches!(self, Format::Int4 { .. });
                if !self.holds_zero(zero) || odd {
                    return Err(parameter("zero point", zero));
                }
                let parameters = Parameters { scale, zero };
                let first = group * self.group_width(width);
                if let Some(i) = values.iter().position(|&code| !self.level(code).is_some_and(f32::is_finite)) {
                    return Err(FormatError::Code { code: values[i], row, column: first + i, format: self });
                }
                let value = |code: u8| self.level(code).map_or(f32::NAN, |level| parameters.value(level));
                if let Some(i) = values.iter().position(|&code| !value(code).is_finite()) {
                    let (value, column) = (value(values[i]), first + i);
                    return Err(FormatError::OutOfRange { value, row, column, format: self });
                }
                self.put_parameters(parameters, group, &mut stored[self.code_bytes(width)..]);
            }
            let last = self.parameters(groups - 1, &stored[self.code_bytes(width)..]);
            self.put_codes(values, self.padding(last), stored);
        }
        Ok(bytes)
    }

    /// What stored rows of `width` values are made of; the inverse of [`Format::assemble`]. Of floats, nothing.
    pub fn codes(self, bytes: &[u8], width: usize) -> StoredCodes {
        let has_zeros = matches!(self, Format::Int4 { zeros: true, .. });
        let mut all = StoredCodes { codes: Vec::new(), scales: Vec::new(), zeros: has_zeros.then(Vec::new) };
        if !self.is_quantized() {
            return all;
        }
        for row in bytes.chunks_exact(self.row_bytes(width).max(1)) {
            all.codes.extend((0..width).map(|column| self.code(row, column)));
            for group in 0..self.groups(width) {
                let Parameters { scale, zero } = self.parameters(group, &row[self.code_bytes(width)..]);
                all.scales.push(scale);
                all.zeros.iter_mut().for_each(|zeros| zeros.push(zero));
            }
        }
        all
    }
}
