//! Results.

use crate::run::timer::StepTime;

/// Rows of f32, one after the other, without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Values in a row.
    pub width: usize,
    /// `rows × width` values, row-major.
    pub values: Vec<f32>,
}

impl Matrix {
    /// Row `index`; `None` if there is none.
    pub fn row(&self, index: usize) -> Option<&[f32]> {
        if index >= self.rows {
            return None;
        }
        self.values.get(index * self.width..(index + 1) * self.width)
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }
}

/// A step of a program that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimedStep {
    /// Index into [`Engine::submissions`](crate::Engine::submissions).
    pub submission: usize,
    /// Index of the program in the plan.
    pub program: usize,
    /// Index of the step in the program.
    pub step: usize,
    /// Index of its kernel in the plan.
    pub kernel: usize,
    /// The layer it belongs to; `None` before the first and after the last.
    pub layer: Option<u32>,
    /// When it ran.
    pub time: StepTime,
}

/// Vectors of texts.
#[cfg(feature = "text")]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// A row for each text, in order.
    pub vectors: Matrix,
    /// Tokens of each text, special ones included, after the cut to the model's length.
    pub tokens: Vec<usize>,
}
