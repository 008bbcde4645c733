//! Checkpoints that come quantized. What a layout stores becomes a weight in one of the compiler's formats, with the same
//! codes and the same scales, so that it keeps its size.
//!
//! Each method is a file that reads its part of config.json, finds the tensors of a weight, and takes them apart; and a
//! line in `METHODS`. Model families know nothing of it: they ask for `X.weight`.

mod awq;
mod bitsandbytes;
mod bytes;
mod compressed_tensors;
mod fp8;
mod gptq;
mod integers;
mod mxfp4;
mod order;
mod parts;

use std::fmt;
use std::ops::Range;

use warpweft_compiler::formats::{Codes, Format, Group};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{CheckpointError, clip};

/// A way to quantize checkpoints.
struct Known {
    /// Its `quant_method`.
    name: &'static str,
    /// Reads what else config.json says of it.
    read: fn(&Config) -> Result<Box<dyn Method>, CheckpointError>,
}

/// All of them.
const METHODS: &[Known] = &[
    Known { name: "awq", read: awq::read },
    Known { name: "bitsandbytes", read: bitsandbytes::read },
    Known { name: COMPRESSED, read: compressed_tensors::read },
    Known { name: "fbgemm_fp8", read: fp8::read },
    Known { name: "fp8", read: fp8::read },
    Known { name: "gptq", read: gptq::read },
    Known { name: "mxfp4", read: mxfp4::read },
];

const COMPRESSED: &str = "compressed-tensors";

/// A method with its settings for one checkpoint.
trait Method: fmt::Debug + Send + Sync {
    /// Tensors of which one is there where weight `name` is stored by this method. It may be `name` itself, with other
    /// elements than floats.
    fn keys(&self, name: &str) -> Vec<String>;

    /// How the weight is stored, of which one of the keys is there.
    ///
    /// # Errors
    /// When a part is missing, has another type or shape than the settings imply, or cannot be kept as it is.
    fn find(&self, site: &Site<'_>) -> Result<Found, CheckpointError>;

    /// Tensors that may be in a file although weights need none of them, as a family has them: scales of activations
    /// and caches.
    fn unused(&self) -> &'static [&'static str] {
        &[]
    }
}

/// Where a weight is looked for.
struct Site<'a> {
    checkpoint: &'a Checkpoint,
    /// Its name, as an unquantized checkpoint has it.
    name: &'a str,
    /// All sizes but the last.
    outer: &'a [usize],
    /// Their product.
    rows: usize,
    /// The last size.
    columns: usize,
}

impl Site<'_> {
    /// The name of a part that takes the place of `weight` at the end of the weight's name.
    fn beside(&self, part: &str) -> String {
        beside(self.name, part)
    }

    /// The error that the weight is found in a state in which it cannot be kept.
    fn wrong(&self, found: impl Into<String>, expected: impl Into<String>) -> CheckpointError {
        CheckpointError::Quantized {
            file: self.checkpoint.weights_file(),
            tensor: self.name.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// The group of `size` columns; `None` is all columns.
    ///
    /// # Errors
    /// When it is smaller than the row and no multiple of eight.
    fn group(&self, size: Option<usize>) -> Result<Group, CheckpointError> {
        let Some(size) = size.filter(|&size| size < self.columns) else { return Ok(Group::Row) };
        match u32::try_from(size).ok().filter(|size| *size > 0 && size.is_multiple_of(8)) {
            Some(size) => Ok(Group::Of(size)),
            None => Err(self.wrong(
                format!("groups of {size} columns"),
                format!("a multiple of 8, or at least the {} columns of a row", self.columns),
            )),
        }
    }
}

/// The columns of a group; -1 or nothing is all of them.
///
/// # Errors
/// When the field is another number below 1, or none.
fn group_size(config: &Config, field: &str) -> Result<Option<usize>, CheckpointError> {
    match config.get(field).map(serde_json::Value::as_i64) {
        None | Some(Some(-1)) => Ok(None),
        Some(Some(size)) if size > 0 => Ok(usize::try_from(size).ok()),
        Some(_) => Err(config.wrong(field, "a number of columns, or -1 for whole rows")),
    }
}

/// A tensor by which some method recognizes that weight, for those that config.json does not name.
pub(crate) fn other(checkpoint: &Checkpoint, name: &str) -> Option<String> {
    let keys = [beside(name, "qweight"), beside(name, "weight_packed"), format!("{name}_blocks")];
    keys.into_iter().find(|key| checkpoint.tensor(key).is_some())
}

fn beside(name: &str, part: &str) -> String {
    format!("{}{part}", name.strip_suffix("weight").unwrap_or(name))
}

/// How a weight is stored.
struct Found {
    /// The format that holds it without loss.
    format: Format,
    /// Its columns in the order in which they have to stand: column `j` is `order[j]` of the weight.
    order: Option<Vec<u32>>,
    /// The tensors that belong to it, needed or not.
    parts: Vec<String>,
    layout: Box<dyn Layout>,
}

/// Takes stored tensors apart.
trait Layout: fmt::Debug + Send + Sync {
    /// The codes, scales and zero points of some rows.
    ///
    /// # Errors
    /// When a value is not finite or none that a code can have.
    fn rows(&self, checkpoint: &Checkpoint, rows: Range<usize>) -> Result<Rows, CheckpointError>;
}

/// Rows of a weight as the compiler's [`Codes`] have them.
#[derive(Debug, Default)]
struct Rows {
    /// A byte for each value, row-major.
    codes: Vec<u8>,
    /// One for each group of each row.
    scales: Vec<f32>,
    /// As many, where the format has them.
    zeros: Option<Vec<f32>>,
}

/// How a checkpoint is quantized, as its config.json says.
#[derive(Debug)]
pub struct Quantization {
    name: &'static str,
    method: Box<dyn Method>,
}

impl Quantization {
    /// Reads `quantization_config`, which early checkpoints of compressed-tensors call `compression_config`; `None` if
    /// there is neither.
    ///
    /// # Errors
    /// When it names a method that is unknown, or has settings that are not supported.
    pub fn read(config: &Config) -> Result<Option<Quantization>, CheckpointError> {
        let (settings, silent) = match config.object("quantization_config")? {
            Some(settings) => (settings, None),
            None => match config.object("compression_config")? {
                Some(settings) => (settings, Some(COMPRESSED)),
                None => return Ok(None),
            },
        };
        // Early configurations of bitsandbytes don't name it.
        let bitsandbytes = settings.get("load_in_4bit").is_some() || settings.get("load_in_8bit").is_some();
        let found = settings.text("quant_method")?.or(silent).or(bitsandbytes.then_some("bitsandbytes"));
        let known = || METHODS.iter().map(|method| method.name).collect::<Vec<_>>();
        let Some(found) = found else {
            return Err(settings.wrong("quant_method", format!("one of {}", known().join(", "))));
        };
        let Some(method) = METHODS.iter().find(|method| method.name == found) else {
            return Err(CheckpointError::UnknownQuantization {
                file: settings.file().to_owned(),
                field: settings.place("quant_method"),
                found: clip(found),
                known: known(),
            });
        };
        Ok(Some(Quantization { name: method.name, method: (method.read)(&settings)? }))
    }

    /// The method, as `quant_method` has it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the checkpoint has a weight that is stored by this method.
    pub fn has(&self, checkpoint: &Checkpoint, name: &str) -> bool {
        let stored = |key: &String| checkpoint.tensor(key).is_some_and(|tensor| tensor.stored.weight().is_none());
        self.method.keys(name).iter().any(stored)
    }

    /// How the weight `name` of that shape is stored; `None` where it is not quantized or not there.
    ///
    /// # Errors
    /// When a part is missing or has another type or shape, and when no format of the compiler can hold the weight as
    /// it is.
    pub fn find(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        shape: &[u64],
    ) -> Result<Option<Quantized>, CheckpointError> {
        if !self.has(checkpoint, name) {
            return Ok(None);
        }
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let [outer @ .., columns] = shape.as_slice() else { return Ok(None) };
        let rows = outer.iter().try_fold(1usize, |rows, n| rows.checked_mul(*n)).unwrap_or(0);
        if rows.checked_mul(*columns).is_none_or(|values| values == 0) {
            return Ok(None);
        }
        let site = Site { checkpoint, name, outer, rows, columns: *columns };
        let Found { format, order, parts, layout } = self.method.find(&site)?;
        let Site { rows, columns, .. } = site;
        let shape = shape.iter().map(|&n| n as u64).collect();
        Ok(Some(Quantized { name: name.to_owned(), shape, rows, columns, format, order, parts, layout }))
    }

    /// Tensors that may be in a file although no weight needs them.
    pub(crate) fn unused(&self) -> &'static [&'static str] {
        self.method.unused()
    }
}

/// A weight that is stored quantized.
#[derive(Debug)]
pub struct Quantized {
    name: String,
    shape: Vec<u64>,
    rows: usize,
    columns: usize,
    format: Format,
    order: Option<Vec<u32>>,
    parts: Vec<String>,
    layout: Box<dyn Layout>,
}

/// Values that are taken apart at once, about.
const PIECE: usize = 4 << 20;

impl Quantized {
    /// The format that holds it without loss.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its shape.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The order in which its columns are kept, where that is not their own: column `j` of the rows that
    /// [`Quantized::read`] gives is column `order[j]` of the weight.
    pub fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }

    /// The names of the tensors that it is made of, or that belong to it without being needed.
    pub fn parts(&self) -> &[String] {
        &self.parts
    }

    /// The weight in the compiler's row layout.
    ///
    /// # Errors
    /// When a value is not finite, or is none that a code can have.
    pub fn read(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, CheckpointError> {
        let mut packed = Vec::with_capacity(self.rows * self.format.row_bytes(self.columns));
        // Whole blocks of rows, for layouts in which rows stand side by side.
        let step = (PIECE / self.columns.max(1)).max(1).next_multiple_of(64);
        for first in (0..self.rows).step_by(step) {
            let rows = first..(first + step).min(self.rows);
            let Rows { codes, scales, zeros } = self.layout.rows(checkpoint, rows)?;
            let codes = Codes { codes: &codes, scales: &scales, zeros: zeros.as_deref() };
            let bytes = self.format.assemble(&codes, self.columns).map_err(|problem| CheckpointError::Format {
                file: checkpoint.weights_file(),
                tensor: self.name.clone(),
                problem: problem.below(first),
            })?;
            packed.extend(bytes);
        }
        Ok(packed)
    }
}
