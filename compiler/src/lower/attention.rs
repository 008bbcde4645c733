//! Attention whose keys and values are caches.

use egg::Id;
use warpweft_plan::Dim;

use super::call::CallBuilder;
use super::{Call, LowerError, Lowering, Place, Source, Value};
use crate::graph::Op;
use crate::kernels::Slot;
use crate::kernels::cached::split;
use crate::kernels::spec::{Attention, Operation, Rows, Split};

impl Lowering<'_> {
    /// Whether its rows are those of a cache.
    pub(super) fn is_cached(&self, id: Id) -> Result<bool, LowerError> {
        Ok(self.tensor(id)?.shape.first() == Some(&Dim::CONTEXT))
    }

    /// One call, or where a program is for few rows and contexts can be long, one for the chunks and one for the whole.
    pub(super) fn cached_attention(&mut self, id: Id) -> Result<(), LowerError> {
        let Op::Attention([q, k, v, heads, kv_heads, term]) = self.body.node(id).op else {
            return Err(self.error(id, "an attention was expected"));
        };
        let max_context = self.bounds.max_context;
        let (h, g) = (self.int(heads)?, self.int(kv_heads)?);
        let mut b = CallBuilder::new(self);
        let (q, mq) = b.activation(Slot::Q, q)?;
        let (k, mk) = b.activation(Slot::K, k)?;
        let (v, mv) = b.activation(Slot::V, v)?;
        let (term, mt) = b.term(term)?;
        let (mh, mg) = (b.meaning.int(h.into())?, b.meaning.int(g.into())?);
        let meaning = b.meaning.add(Op::Attention([mq, mk, mv, mh, mg, mt]))?;
        let operation = |term, split| {
            let attention = Attention { q, k, v, heads: h, kv_heads: g, term, max_context };
            Operation::CachedAttention { attention, split }
        };
        let value = self.matrix(id)?;
        let rows = self.bounds.rows.max;
        let (Some(rows), Some(chunks)) = (rows, split(&term, max_context)) else {
            let call = b.finish(|_| operation(term, None), meaning);
            self.push(id, value, vec![call]);
            return Ok(());
        };
        let value_dim = value.width / h;
        let of_row = u64::from(chunks.count) * u64::from(h) * u64::from(Split::part4(value_dim)) * 16;
        let first = b.finish_apart(|_| operation(term.clone(), Some(chunks)));
        let parts = Value { width: value.width, rows: Rows::Tokens, place: Place::Fixed(u64::from(rows) * of_row) };
        let parts = self.value(parts);
        self.calls.push(Call { values: vec![parts], ..first });
        let mut second = CallBuilder::new(self);
        second.bind(Slot::X, Source::Value(parts));
        let second = second.finish_apart(|_| Operation::CombineAttention { heads: h, value_dim, term, split: chunks });
        self.push(id, value, vec![second]);
        Ok(())
    }
}
