//! Where things stand in a stored row.
//!
//! A row of a quantized weight is self-contained, so that rows can be joined, cut and bound in windows as those of floats:
//!
//! ```text
//! codes, padded to 16 bytes | one 32-bit word for each group (mxfp4: one byte), padded to 16 bytes
//! ```
//!
//! Where the codes are 512 bytes or more the row is padded to 32, so that a shader can load as many at once.
//!
//! What stands behind the row's last column is zero: its code, or where a group begins there, its scale.
//!
//! Codes of eight bits stand in order. Codes of four bits stand by octets of columns, one 32-bit word each: byte i of a
//! word holds column i in its low half and column i + 4 in its high half, so that a mask gives four columns as bytes.

use super::{Format, FormatError, Group};

/// Bytes that any shader loads at once.
pub(crate) const LOAD: usize = 16;

/// Bytes that one with 64-bit integers loads at once, and those of codes from which on rows are padded to that.
const LONG_LOAD: (usize, usize) = (32, 512);

/// Columns that share the scale of an [`Format::Mxfp4`].
const MX_BLOCK: u32 = 32;

impl Format {
    /// What shares a scale; floats have none.
    pub fn group(self) -> Option<Group> {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => None,
            Format::Int8(group) | Format::Fp8(group) | Format::Nf4(group) => Some(group),
            Format::Int4 { group, .. } => Some(group),
            Format::Mxfp4 => Some(Group::Of(MX_BLOCK)),
        }
    }

    /// Columns of a group in a row of `width`, but for the last group, which may have fewer; of floats, `width`.
    pub fn group_width(self, width: usize) -> usize {
        match self.group() {
            Some(Group::Of(n)) => n as usize,
            Some(Group::Row) | None => width,
        }
        .max(1)
    }

    /// Groups of a row of `width`; floats have none.
    pub fn groups(self, width: usize) -> usize {
        if self.is_quantized() { width.div_ceil(self.group_width(width)) } else { 0 }
    }

    /// Bytes of the codes (or floats) of a row, with their padding.
    pub fn code_bytes(self, width: usize) -> usize {
        if self.is_quantized() {
            (width * self.bits() as usize).div_ceil(8).next_multiple_of(LOAD)
        } else {
            self.padded(width) * self.bytes() as usize
        }
    }

    /// Bytes from one row of `width` values to the next.
    pub fn row_bytes(self, width: usize) -> usize {
        let codes = self.code_bytes(width);
        let bytes = codes + (self.groups(width) * self.parameter_bytes()).next_multiple_of(LOAD);
        let (load, from) = LONG_LOAD;
        if self.is_quantized() && codes >= from { bytes.next_multiple_of(load) } else { bytes }
    }

    /// Bytes of a group's parameters.
    pub fn parameter_bytes(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 0,
            Format::Int8(_) | Format::Int4 { .. } | Format::Fp8(_) | Format::Nf4(_) => 4,
            Format::Mxfp4 => 1,
        }
    }

    /// # Errors
    /// Groups that are no multiple of eight columns.
    pub(super) fn check_groups(self) -> Result<(), FormatError> {
        match self.group() {
            Some(Group::Of(n)) if n == 0 || n % 8 != 0 => Err(FormatError::Group { format: self }),
            Some(Group::Of(_) | Group::Row) | None => Ok(()),
        }
    }

    /// Writes a row's codes, one byte each, to where they are stored; behind them stands `padding`, the code of zero.
    pub(super) fn put_codes(self, codes: &[u8], padding: u8, stored: &mut [u8]) {
        if self.bits() == 8 {
            // The code of zero is 0, which is there already.
            stored[..codes.len()].copy_from_slice(codes);
            return;
        }
        let width = codes.len();
        for column in 0..self.code_bytes(width) * 2 {
            let code = codes.get(column).copied().unwrap_or(padding);
            stored[column / 8 * 4 + column % 4] |= code << (4 * (column / 4 % 2));
        }
    }

    /// The last group of a row has columns behind the row's end.
    pub(super) fn last_is_padded(self, width: usize) -> bool {
        match self.group() {
            Some(Group::Of(n)) => !width.is_multiple_of(n as usize),
            Some(Group::Row) => !(width * self.bits() as usize).is_multiple_of(8 * LOAD),
            None => false,
        }
    }

    /// The code of a column of a stored row.
    pub(super) fn code(self, stored: &[u8], column: usize) -> u8 {
        if self.bits() == 8 {
            return stored[column];
        }
        stored[column / 8 * 4 + column % 4] >> (4 * (column / 4 % 2)) & 15
    }
}
