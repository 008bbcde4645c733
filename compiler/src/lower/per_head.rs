//! Contractions of each head with its own rows of a weight.

use egg::Id;

use super::call::CallBuilder;
use super::{Call, LowerError, Lowering, Value};
use crate::graph::Op;
use crate::kernels::Slot;
use crate::kernels::spec::Operation;

impl Lowering<'_> {
    /// The call for `(head-linear x w heads)`.
    pub(super) fn head_linear(&self, id: Id, [x, w, heads]: [Id; 3], value: Value) -> Result<Call, LowerError> {
        let h = self.int(heads)?;
        let mut b = CallBuilder::new(self);
        let (x, mx) = b.activation(Slot::X, x)?;
        if !value.width.is_multiple_of(h) || !x.width.is_multiple_of(4 * h) {
            return Err(self.error(id, "no kernel contracts heads whose columns are no multiple of four"));
        }
        let (format, mw) = b.weight_matrix(Slot::W, "w", w)?;
        let mh = b.meaning.int(h.into())?;
        let meaning = b.meaning.add(Op::HeadLinear([mx, mw, mh]))?;
        let (n, rows) = (value.width / h, value.rows);
        Ok(b.finish(|_| Operation::PerHead { x, heads: h, n, format, rows }, meaning))
    }
}
