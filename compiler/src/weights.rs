//! Where the compiler gets the bytes of weights from.

use std::borrow::Cow;

/// A weight that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct WeightError {
    /// Names the file and the tensor, what was found and what was expected.
    pub problem: String,
}

/// Hands out the bytes of the weights that a graph declares.
pub trait WeightSource {
    /// The elements of the weight of that name, row-major, little-endian, in the dtype and shape that the graph
    /// declares. Floats are finite.
    ///
    /// # Errors
    /// When it is not there, cannot be read, or holds NaN or infinity.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError>;

    /// Says that the weight is not needed soon, so that its memory can go.
    fn release(&self, name: &str);
}
