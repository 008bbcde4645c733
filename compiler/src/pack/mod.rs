//! Packing: the weights that programs read, from those that the checkpoint has.
//!
//! Each packed tensor has a recipe, an expression over the checkpoint's weights (mostly just one, or several joined).
//! Recipes are carried out in pieces of rows, so that no weight is ever in memory twice.

mod arranged;
mod choice;
mod measure;
mod rows;
mod threads;

use rustc_hash::FxHashMap;
use warpweft_plan::{PAD, Tensor};

use crate::formats::{Format, FormatError, PANEL, WORD};
use crate::graph::eval::EvalError;
use crate::graph::{Element, Graph};
use crate::lower::Layout;
use crate::weights::{WeightError, WeightSource};

use arranged::Arranged;
pub use choice::{WeightChoice, choose_formats};
pub use measure::rounding_error;
use rows::{Piece, RowReader};

/// Rows of a packed matrix are padded to a multiple of this.
pub(crate) const ROW_PAD: u64 = PANEL as u64;
/// Bytes of one piece, about.
const PIECE: u64 = 4 << 20;

/// How to make one packed tensor.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The tensor in the plan.
    pub tensor: Tensor,
    /// The value, over the checkpoint's weights: one output, or vectors that stand one behind the other.
    expression: Graph,
    layout: Layout,
    format: Format,
    /// Logical rows and columns.
    shape: [u64; 2],
}

impl Recipe {
    /// The recipe of an expression with the given logical shape; a vector is one row.
    pub(crate) fn new(name: String, expression: Graph, layout: Layout, format: Format, shape: [u64; 2]) -> Recipe {
        let [rows, columns] = shape;
        let padded = columns.next_multiple_of(PAD);
        let rows = rows.next_multiple_of(ROW_PAD);
        let panels = rows / ROW_PAD;
        let (format, physical) = match layout {
            Layout::Matrix if format.is_quantized() => {
                let words = format.row_bytes(columns as usize) as u64 / format.dtype().bytes();
                (format, vec![panels, ROW_PAD * words])
            }
            Layout::Matrix => {
                let piece = WORD as u64 / format.dtype().bytes();
                (format, vec![panels, padded / piece, ROW_PAD, piece])
            }
            Layout::Vector => (Format::F32, vec![padded]),
        };
        let named = format.is_quantized().then(|| format.name());
        let tensor = Tensor { name, dtype: format.dtype(), shape: physical, format: named };
        Recipe { tensor, expression, layout, format, shape }
    }

    /// Bytes from one row to the next.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.format.row_bytes(self.shape[1] as usize) as u64
    }

    /// Byte offset and size of a window of rows (of a vector: of elements).
    pub(crate) fn window(&self, first: u64, rows: u64) -> (u64, u64) {
        let (unit, pad) = match self.layout {
            Layout::Matrix => (self.row_bytes(), ROW_PAD),
            Layout::Vector => (u64::from(self.format.bytes()), PAD),
        };
        (first * unit, rows.next_multiple_of(pad) * unit)
    }
}

/// Weights that cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError<E> {
    /// The source does not give a weight.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A value does not fit in its format.
    #[error("tensor {tensor}: {problem}")]
    Format {
        /// The packed tensor.
        tensor: String,
        /// Where and what.
        problem: FormatError,
    },
    /// A recipe that cannot be evaluated; a bug.
    #[error("tensor {tensor}: {problem}")]
    Recipe {
        /// The packed tensor.
        tensor: String,
        /// Why.
        problem: EvalError,
    },
    /// The sink refused.
    #[error(transparent)]
    Sink(E),
}

/// Takes the index of a tensor and the next of its bytes.
pub type Sink<'s, E> = dyn FnMut(usize, &[u8]) -> Result<(), E> + 's;

/// All recipes of a plan, in the order of its tensors.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    pub(crate) recipes: Vec<Recipe>,
}

impl Packing {
    /// Packs everything: for each tensor in order, `sink` gets its index and its bytes piece by piece.
    ///
    /// # Errors
    /// When a weight is missing, not finite or does not fit in its format, and what the sink says.
    pub fn write<E>(&self, source: &dyn WeightSource, sink: &mut Sink<'_, E>) -> Result<(), PackError<E>> {
        (0..self.recipes.len()).try_for_each(|index| self.write_one(index, source, sink))
    }

    /// Packs the tensor with that index alone; does nothing if there is none.
    ///
    /// # Errors
    /// As [`Packing::write`].
    pub fn write_one<E>(
        &self,
        index: usize,
        source: &dyn WeightSource,
        sink: &mut Sink<'_, E>,
    ) -> Result<(), PackError<E>> {
        self.recipes.get(index).map_or(Ok(()), |recipe| recipe.write(source, &mut |bytes| sink(index, bytes)))
    }

    /// The tensors that are made of a weight of the checkpoint.
    pub fn made_of(&self, weight: &str) -> Vec<usize> {
        let reads = |recipe: &Recipe| recipe.expression.declarations().weights.iter().any(|w| w.name == weight);
        (0..self.recipes.len()).filter(|&i| reads(&self.recipes[i])).collect()
    }
}

impl Recipe {
    fn write<E>(
        &self,
        source: &dyn WeightSource,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), PackError<E>> {
        match self.layout {
            Layout::Matrix => {
                let mut arranged = Arranged::new(self.format, self.shape[1] as usize, sink);
                self.write_rows(source, &mut |rows| arranged.put(rows))?;
                arranged.finish().map_err(PackError::Sink)
            }
            Layout::Vector => self.write_rows(source, sink),
        }
    }

    /// Gives the sink stored rows.
    fn write_rows<E>(
        &self,
        source: &dyn WeightSource,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), PackError<E>> {
        let name = || self.tensor.name.clone();
        let mut values = FxHashMap::default();
        for decl in &self.expression.declarations().weights {
            values.insert(decl.name.as_str(), source.read(&decl.name)?);
        }
        let reader = RowReader::new(&self.expression, &values)
            .map_err(|problem| PackError::Recipe { tensor: name(), problem })?;
        let [rows, columns] = self.shape;
        let step = (PIECE / self.row_bytes().max(1)).max(1).next_multiple_of(ROW_PAD);
        let mut first = 0;
        let element = Element::from(self.format);
        while first < rows {
            let count = step.min(rows - first);
            let problem = |problem| PackError::Recipe { tensor: name(), problem };
            let mut row = first;
            for piece in reader.rows(first, count, columns, element).map_err(problem)? {
                match piece {
                    Piece::Stored(bytes) => {
                        row += bytes.len() as u64 / self.row_bytes();
                        sink(bytes).map_err(PackError::Sink)?;
                    }
                    Piece::Floats(floats) => {
                        let packed = threads::pack(self.format, &floats, columns as usize);
                        let problem =
                            |e: FormatError| PackError::Format { tensor: name(), problem: e.below(row as usize) };
                        packed.map_err(problem)?.iter().try_for_each(|bytes| sink(bytes)).map_err(PackError::Sink)?;
                        row += floats.len() as u64 / columns.max(1);
                    }
                }
            }
            first += count;
        }
        drop(reader);
        drop(values);
        for decl in &self.expression.declarations().weights {
            source.release(&decl.name);
        }
        Ok(())
    }
}
