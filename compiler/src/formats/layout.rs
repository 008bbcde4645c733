//! Where things stand in a stored row, and in a plan.
//!
//! A *stored row* is self-contained. It is how checkpoints' weights are kept until they are packed, and how activations that were
//! rounded and heads of caches are stored. Of a quantized format:
//!
//! ```text
//! codes, padded to 16 bytes | one 32-bit word for each group (mxfp4: one byte), padded to 16 bytes
//! ```
//!
//! What stands behind the row's last column is zero: its code, or where a group begins there, its scale.
//!
//! Codes of eight bits stand in order. Codes of four bits stand by octets of columns, one 32-bit word each: byte i of a
//! word holds column i in its low half and column i + 4 in its high half, so that a mask gives four columns as bytes.
//!
//! In a *plan* ([`Format::arrange`]) four rows make a *quad*, because a lane contracts four columns at once: the same word of
//! each of the four stands side by side. So a load of sixteen bytes, a *quad word*, has what four columns need for one k of 32
//! bits, two of 16, four of 8 or eight of 4. Eight quads make a *panel* (Goto and van de Geijn 2008), because neighbouring lanes
//! contract neighbouring quads at the same k: what eight lanes load at once is 128 bytes side by side.
//!
//! ```text
//! word 0 of rows 0 to 31, word 1 of rows 0 to 31 … | groups' words: rows 0 to 31 of group 0, of group 1 …
//! ```
//!
//! Where a group has one byte (mxfp4), a quad word has those of four groups: the four rows of the first, of the second …
//!
//! A panel has as many bytes as its rows.

use super::{Format, FormatError, Group};

/// Bytes that any shader loads at once.
pub(crate) const LOAD: usize = 16;

/// Columns that share the scale of an [`Format::Mxfp4`].
const MX_BLOCK: u32 = 32;

/// Bytes of a row that stand together in a plan.
pub(crate) const WORD: usize = 4;

/// Rows that a lane contracts at once.
const QUAD: usize = 4;

/// Quads whose words stand beside each other in a plan.
pub(crate) const PANEL_QUADS: usize = 8;

/// Rows whose words stand beside each other in a plan; matrices are padded to a multiple of it.
pub const PANEL: usize = QUAD * PANEL_QUADS;

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

    /// Bytes of a stored row of `width` values; a panel has as many times more as it has rows.
    pub fn row_bytes(self, width: usize) -> usize {
        self.code_bytes(width) + (self.groups(width) * self.parameter_bytes()).next_multiple_of(LOAD)
    }

    /// Bytes of a group's parameters.
    pub fn parameter_bytes(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 0,
            Format::Int8(_) | Format::Int4 { .. } | Format::Fp8(_) | Format::Nf4(_) => 4,
            Format::Mxfp4 => 1,
        }
    }

    /// Stored rows of `width` values as a plan has them, with rows of zeros up to a multiple of [`PANEL`].
    pub fn arrange(self, rows: &[u8], width: usize) -> Vec<u8> {
        let mut arranged = Vec::new();
        self.arrange_into(rows, width, &mut arranged);
        arranged
    }

    /// The same in place of what a buffer holds.
    pub(crate) fn arrange_into(self, rows: &[u8], width: usize, arranged: &mut Vec<u8>) {
        let (row_bytes, codes) = (self.row_bytes(width).max(1), self.code_bytes(width));
        let (each, groups) = (self.parameter_bytes(), self.groups(width));
        arranged.clear();
        arranged.resize(rows.len().next_multiple_of(PANEL * row_bytes), 0);
        for (panel, rows) in arranged.chunks_exact_mut(PANEL * row_bytes).zip(rows.chunks(PANEL * row_bytes)) {
            let (panel_codes, panel_parameters) = panel.split_at_mut(PANEL * codes);
            for (q, quad) in rows.chunks(QUAD * row_bytes).enumerate() {
                if let Ok([a, b, c, d]) = <[&[u8]; QUAD]>::try_from(quad.chunks_exact(row_bytes).collect::<Vec<_>>()) {
                    let [a, b, c, d] = [a, b, c, d].map(|row| row[..codes].as_chunks::<WORD>().0);
                    let places = panel_codes.as_chunks_mut::<{ QUAD * WORD }>().0.iter_mut().skip(q);
                    for ((((place, a), b), c), d) in places.step_by(PANEL_QUADS).zip(a).zip(b).zip(c).zip(d) {
                        place[..4].copy_from_slice(a);
                        place[4..8].copy_from_slice(b);
                        place[8..12].copy_from_slice(c);
                        place[12..].copy_from_slice(d);
                    }
                } else {
                    for (j, row) in quad.chunks_exact(row_bytes).enumerate() {
                        put(&row[..codes], WORD, QUAD * q + j, panel_codes);
                    }
                }
            }
            for (j, row) in rows.chunks_exact(row_bytes).enumerate() {
                put(&row[codes..][..groups * each], each, j, panel_parameters);
            }
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

/// Puts pieces of row `j` of a panel where they stand among those of the others.
fn put(pieces: &[u8], bytes: usize, j: usize, panel: &mut [u8]) {
    let (quad, row) = (j / QUAD, j % QUAD);
    for (i, piece) in pieces.chunks_exact(bytes.max(1)).enumerate() {
        let within = (i * QUAD + row) * bytes;
        let at = (within / LOAD * PANEL_QUADS + quad) * LOAD + within % LOAD;
        panel[at..][..bytes].copy_from_slice(piece);
    }
}
