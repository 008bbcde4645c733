//! What rounding does to a weight, measured on some of its rows.

use std::convert::Infallible;

use rustc_hash::FxHashMap;

use super::PackError;
use super::rows::{Piece, RowReader};
use crate::graph::Element;
use crate::lossy::Rounding;
use crate::weights::WeightSource;

/// Rows that are measured, spread evenly over the weight: the error of a whole matrix is known to a few percent by then.
const ROWS: u64 = 64;

/// The root of the mean square of what rounding to nearest changes, over that of the values: of as many as 64 rows.
///
/// # Errors
/// When the weight cannot be read, or a value does not fit in the format.
pub fn rounding_error(rounding: &Rounding, source: &dyn WeightSource) -> Result<f64, PackError<Infallible>> {
    let tensor = || rounding.weight.clone();
    let recipe = |problem| PackError::Recipe { tensor: tensor(), problem };
    let mut values = FxHashMap::default();
    for decl in &rounding.rows.declarations().weights {
        values.insert(decl.name.as_str(), source.read(&decl.name)?);
    }
    let reader = RowReader::new(&rounding.rows, &values).map_err(recipe)?;
    let [rows, columns] = rounding.shape();
    let (mut off, mut all) = (0.0, 0.0);
    let step = rows.div_ceil(ROWS).max(1);
    for row in (0..rows).step_by(step as usize) {
        for piece in reader.rows(row, 1, columns, Element::from(rounding.format)).map_err(recipe)? {
            let Piece::Floats(floats) = piece else { continue };
            let format = |problem: crate::formats::FormatError| PackError::Format {
                tensor: tensor(),
                problem: problem.below(row as usize),
            };
            let stored = rounding.format.pack(&floats, columns as usize).map_err(format)?;
            for (value, rounded) in floats.iter().zip(rounding.format.unpack(&stored, columns as usize)) {
                let difference = f64::from(*value) - f64::from(rounded);
                off += difference * difference;
                all += f64::from(*value) * f64::from(*value);
            }
        }
    }
    drop(reader);
    drop(values);
    for decl in &rounding.rows.declarations().weights {
        source.release(&decl.name);
    }
    Ok(if all > 0.0 { (off / all).sqrt() } else { 0.0 })
}
