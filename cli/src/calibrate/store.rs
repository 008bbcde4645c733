//! Rounded weights, kept in a temporary file until the plan is packed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use warpweft_compiler::formats::Format;
use warpweft_compiler::quantize::Candidate;
use warpweft_compiler::weights::{WeightError, WeightSource};
use warpweft_models::Weights;
use warpweft_plan::DType;

use crate::CliError;
use crate::cache::temporary_folder;

/// A rounded weight.
#[derive(Clone, Copy, Debug)]
struct Place {
    format: Format,
    /// Columns of a row, as it is quantized.
    columns: usize,
    /// The checkpoint has it the other way round.
    turned: bool,
    /// The type that the checkpoint has.
    dtype: DType,
    offset: u64,
    bytes: u64,
}

/// The rows of rounded weights, as their formats store them. A clone has the same weights, and those that either of them gets
/// are its own.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    file: Arc<Mutex<Rows>>,
    places: BTreeMap<String, Place>,
}

/// The file of some stores, to which rows are added.
#[derive(Debug)]
struct Rows {
    file: File,
    end: u64,
}

impl Store {
    /// An empty one. Its file is removed whatever happens to the process.
    pub(super) fn new() -> Result<Store, CliError> {
        let folder = temporary_folder();
        let file = tempfile::tempfile_in(&folder).map_err(CliError::io(format!("write into {}", folder.display())))?;
        Ok(Store { file: Arc::new(Mutex::new(Rows { file, end: 0 })), places: BTreeMap::new() })
    }

    /// One with those of its weights alone.
    pub(super) fn only(&self, names: &BTreeSet<&str>) -> Store {
        let mut only = self.clone();
        only.places.retain(|name, _| names.contains(name.as_str()));
        only
    }

    /// Begins a weight, in the place of what was kept of it.
    pub(super) fn begin(&mut self, candidate: &Candidate, format: Format) {
        let (columns, turned, dtype) = (candidate.columns as usize, candidate.turned, candidate.dtype);
        let offset = self.file.lock().unwrap_or_else(PoisonError::into_inner).end;
        let place = Place { format, columns, turned, dtype, offset, bytes: 0 };
        self.places.insert(candidate.name.clone(), place);
    }

    /// Adds rows to the weight that was begun last.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), CliError> {
        let mut rows = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let end = SeekFrom::Start(rows.end);
        let written = rows.file.seek(end).and_then(|_| rows.file.write_all(bytes));
        written.map_err(CliError::io("write rounded weights"))?;
        rows.end += bytes.len() as u64;
        if let Some(place) = self.places.get_mut(name) {
            place.bytes += bytes.len() as u64;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Option<Result<(Place, Vec<u8>), WeightError>> {
        let place = self.places.get(name).copied()?;
        let mut bytes = vec![0; place.bytes as usize];
        let mut rows = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = rows.file.seek(SeekFrom::Start(place.offset)).and_then(|_| rows.file.read_exact(&mut bytes));
        let problem = |error| WeightError { problem: format!("cannot read the rounded weight {name}: {error}") };
        Some(read.map(|()| (place, bytes)).map_err(problem))
    }
}

/// The checkpoint's weights; those that are rounded in their formats.
#[derive(Debug)]
pub(crate) struct Quantized<'w> {
    pub(crate) weights: &'w Weights,
    pub(crate) store: &'w Store,
}

impl WeightSource for Quantized<'_> {
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        match self.store.read(name) {
            Some(read) => Ok(Cow::Owned(read?.1)),
            None => self.weights.read(name),
        }
    }

    fn release(&self, name: &str) {
        if !self.store.places.contains_key(name) {
            self.weights.release(name);
        }
    }
}

/// The checkpoint's weights in the types that it has; those that are rounded with the values that they then have.
#[derive(Debug)]
pub(super) struct Decoded<'w> {
    pub(super) weights: &'w Weights,
    pub(super) store: &'w Store,
    /// Of those that are rounded, the ones that are taken so.
    pub(super) names: &'w BTreeSet<&'w str>,
}

impl WeightSource for Decoded<'_> {
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        let read = self.names.contains(name).then(|| self.store.read(name)).flatten();
        let Some(read) = read else { return self.weights.read(name) };
        let (place, bytes) = read?;
        let problem = |problem: String| WeightError { problem: format!("{name}: {problem}") };
        let mut values = place.format.unpack(&bytes, place.columns);
        if place.turned {
            values = turned(&values, place.columns);
        }
        let format = Format::of(place.dtype).ok_or_else(|| problem(format!("{} is no float", place.dtype)))?;
        // As one row, which is padded at its end alone.
        let mut packed = format.pack(&values, values.len()).map_err(|error| problem(error.to_string()))?;
        packed.truncate(values.len() * format.bytes() as usize);
        Ok(Cow::Owned(packed))
    }

    fn release(&self, name: &str) {
        self.weights.release(name);
    }
}

/// The transpose of a matrix whose rows have `columns` values.
pub(super) fn turned(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_turns() {
        assert_eq!(turned(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(turned(&[], 3), [0.0f32; 0]);
    }
}
