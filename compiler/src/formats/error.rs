//! Why values or codes cannot be stored.

use super::Format;

/// Why values cannot be stored in a format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormatError {
    /// The value is not finite, or its magnitude is above what the format can hold.
    #[error("the value {value} at row {row}, column {column} does not fit in {format}")]
    OutOfRange {
        /// The value.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The format.
        format: Format,
    },
    /// The number of values is no multiple of the width.
    #[error("{values} values are no rows of {width}")]
    Shape {
        /// Values given.
        values: usize,
        /// Columns of a row.
        width: usize,
    },
    /// The format has no such groups.
    #[error("{format}: the columns of a group must be a multiple of 8")]
    Group {
        /// The format.
        format: Format,
    },
    /// It is no format of codes.
    #[error("{format} is not quantized: it has no codes and scales")]
    Unquantized {
        /// The format.
        format: Format,
    },
    /// Scales or zero points of another number of groups.
    #[error("{found} {what} where {expected} are expected, {groups} for each of {rows} rows")]
    Parameters {
        /// Scales or zero points.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
        /// Groups of a row.
        groups: usize,
        /// Rows.
        rows: usize,
    },
    /// A code that the format does not have, or that is no number.
    #[error("the code {code:#04x} at row {row}, column {column} is no number of {format}")]
    Code {
        /// The code.
        code: u8,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The format.
        format: Format,
    },
    /// A scale or zero point that the format cannot hold as it is.
    #[error("the {what} {value} of group {group} of row {row} cannot be held in {format}")]
    Parameter {
        /// A scale or a zero point.
        what: &'static str,
        /// Its value.
        value: f32,
        /// Its row.
        row: usize,
        /// Its group in that row.
        group: usize,
        /// The format.
        format: Format,
    },
}

impl FormatError {
    /// The same, for rows that are a piece of a matrix from row `first` on.
    pub fn below(self, first: usize) -> FormatError {
        match self {
            FormatError::OutOfRange { value, row, column, format } => {
                FormatError::OutOfRange { value, row: row + first, column, format }
            }
            FormatError::Code { code, row, column, format } => {
                FormatError::Code { code, row: row + first, column, format }
            }
            FormatError::Parameter { what, value, row, group, format } => {
                FormatError::Parameter { what, value, row: row + first, group, format }
            }
            FormatError::Shape { .. }
            | FormatError::Group { .. }
            | FormatError::Unquantized { .. }
            | FormatError::Parameters { .. } => self,
        }
    }
}
