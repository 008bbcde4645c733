//! Activations as codes, and back.

use egg::Id;

use super::call::CallBuilder;
use super::{Call, LowerError, Lowering, Value};
use crate::graph::Fact;
use crate::kernels::Slot;
use crate::kernels::codes::Codes;
use crate::kernels::spec::Operation;

impl Lowering<'_> {
    /// The call for `(quantize FORMAT x)`: a matrix of words.
    pub(super) fn quantize(&mut self, id: Id, format: Id, x: Id) -> Result<(), LowerError> {
        if self.body.node(format).fact != Fact::Format(Codes::FORMAT) {
            return Err(self.error(id, "activations are rounded to int8 by row alone"));
        }
        let value = self.matrix(x)?;
        let mut b = CallBuilder::new(self);
        let (x, mx) = b.activation(Slot::X, x)?;
        let meaning = b.meaning.quantize(mx, Codes::FORMAT)?;
        let call = b.finish(|_| Operation::Quantize { x, rows: value.rows }, meaning);
        let words = Codes { width: value.width }.view().width;
        self.push(id, Value::of_step(words, value.rows), vec![call]);
        Ok(())
    }

    /// The call for `(dequantize x)`.
    pub(super) fn dequantize(&self, x: Id, value: Value) -> Result<Call, LowerError> {
        let mut b = CallBuilder::new(self);
        let (_, mx) = b.activation(Slot::X, x)?;
        let meaning = b.meaning.dequantize(mx)?;
        Ok(b.finish(|_| Operation::Dequantize { width: value.width, rows: value.rows }, meaning))
    }
}
