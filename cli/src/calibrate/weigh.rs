//! Rounding whole weights, some rows at a time.

use warpweft_compiler::formats::Format;
use warpweft_compiler::graph::Element;
use warpweft_compiler::quantize::{Candidate, Factors, Feedback, Rounded, round};
use warpweft_compiler::weights::WeightSource;
use warpweft_models::Weights;

use super::store::{Store, turned};
use crate::CliError;
use crate::interrupt;

/// Bytes of the values that are in memory at once.
const PIECE: usize = 32 << 20;
/// Rows by which the error of a format is estimated.
const SAMPLE: u64 = 192;

/// Rounds a weight into the store; returns its error.
pub(super) fn round_into(
    weights: &Weights,
    candidate: &Candidate,
    (format, feedback): (Format, Feedback),
    factors: Option<&Factors>,
    store: &mut Store,
) -> Result<f64, CliError> {
    let columns = candidate.columns as usize;
    let mut error = 0.0;
    store.begin(candidate, format);
    each_piece(weights, candidate, None, &mut |rows| {
        let rounded = round(rows, columns, format, factors, feedback);
        error += checked(&rounded, candidate)?;
        let failed = |problem| CliError::Failed(format!("tensor {} in {format}: {problem}", candidate.name));
        store.add(&candidate.name, &rounded.pack(format, columns).map_err(failed)?)
    })?;
    Ok(error)
}

/// The error that a weight would have in a format, estimated from some of its rows.
pub(super) fn error_in(
    weights: &Weights,
    candidate: &Candidate,
    format: Format,
    factors: Option<&Factors>,
) -> Result<f64, CliError> {
    let sample = candidate.rows.min(SAMPLE);
    let mut error = 0.0;
    each_piece(weights, candidate, Some(sample), &mut |rows| {
        error += checked(&round(rows, candidate.columns as usize, format, factors, Feedback::On), candidate)?;
        Ok(())
    })?;
    Ok(error * candidate.rows as f64 / sample.max(1) as f64)
}

fn checked(rounded: &Rounded, candidate: &Candidate) -> Result<f64, CliError> {
    match rounded.error.is_finite() {
        true => Ok(rounded.error),
        false => Err(CliError::Failed(format!(
            "tensor {}: its values are too large for error feedback: the error is {}",
            candidate.name, rounded.error
        ))),
    }
}

/// Hands rows of a weight to `each`: all of them in order, or a sample, evenly spaced.
fn each_piece(
    weights: &Weights,
    candidate: &Candidate,
    sample: Option<u64>,
    each: &mut dyn FnMut(&[f32]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let bytes = weights.read(&candidate.name).map_err(|error| CliError::Failed(error.to_string()))?;
    let (rows, columns) = (candidate.rows as usize, candidate.columns as usize);
    let element = Element::from(candidate.dtype);
    // One that is stored the other way round is turned as a whole.
    let whole = candidate.turned.then(|| turned(&element.decode(&bytes, rows), rows));
    let row_bytes = columns * candidate.dtype.bytes() as usize;
    let row = |at: usize| match &whole {
        Some(values) => values.get(at * columns..(at + 1) * columns).unwrap_or_default().to_vec(),
        None => element.decode(bytes.get(at * row_bytes..(at + 1) * row_bytes).unwrap_or_default(), columns),
    };
    let count = sample.map_or(rows, |n| n as usize);
    let step = (PIECE / 4 / columns.max(1)).max(1);
    for first in (0..count).step_by(step) {
        interrupt::check()?;
        let piece: Vec<f32> = (first..count.min(first + step)).flat_map(|i| row(i * rows / count.max(1))).collect();
        each(&piece)?;
    }
    drop(bytes);
    weights.release(&candidate.name);
    Ok(())
}
