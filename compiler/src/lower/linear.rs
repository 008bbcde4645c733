//! Contractions, with the norm before them where extraction chose that.

use egg::Id;

use super::call::CallBuilder;
use super::{Call, LowerError, Lowering, Value, windows};
use crate::formats::Format;
use crate::graph::{Fact, Op};
use crate::kernels::Slot;
use crate::kernels::spec::{Operand, Operation, Prologue, Term, View};

/// The name of the rows that a kernel leaves beside its product.
pub(super) const CARRIED: &str = "carried";

/// A contraction whose term is not known yet.
struct Contraction {
    x: View,
    format: Format,
    paired: bool,
    value: Value,
}

impl Contraction {
    fn with(self, term: Term, operands: Vec<Operand>) -> Operation {
        let Contraction { x, format, paired, value: Value { width, rows, .. } } = self;
        Operation::Linear { x, n: width, format, paired, term, operands, out: View::whole(width), rows }
    }
}

/// Binds a contraction's weights.
fn weights(b: &mut CallBuilder<'_>, w: Id, w2: Option<Id>) -> Result<(Format, Id, Option<Id>), LowerError> {
    let (format, mw) = b.weight_matrix(Slot::W, "w", w)?;
    let mw2 = w2.map(|w2| b.weight_matrix(Slot::W2, "w2", w2)).transpose()?.map(|(_, meaning)| meaning);
    Ok((format, mw, mw2))
}

impl Lowering<'_> {
    /// The contraction of `x` with one weight, or with two.
    pub(super) fn linear(&self, x: Id, w: Id, w2: Option<Id>, term: Id, value: Value) -> Result<Call, LowerError> {
        let mut b = CallBuilder::new(self);
        let (view, mx) = b.activation(Slot::X, x)?;
        let (format, mw, mw2) = weights(&mut b, w, w2)?;
        let (term, mt) = b.term(term)?;
        let meaning = b.meaning.add(match mw2 {
            Some(mw2) => Op::LinearPair([mx, mw, mw2, mt]),
            None => Op::Linear([mx, mw, mt]),
        })?;
        let contraction = Contraction { x: view, format, paired: mw2.is_some(), value };
        let of_codes = self.tensor(x)?.dtype.is_quantized();
        let operation = |operands| match contraction.with(term, operands) {
            linear if of_codes => Operation::IntegerLinear(Box::new(linear)),
            linear => linear,
        };
        Ok(b.finish(operation, meaning))
    }

    /// The contraction of rows that are normalised first, and, if they are read, the rows after the first norm.
    pub(super) fn normed_linear(&mut self, pair: Id) -> Result<(), LowerError> {
        let (x, prologue, w, w2, term) = match self.body.node(pair).op {
            Op::NormedLinear([x, prologue, w, term]) => (x, prologue, w, None, term),
            Op::NormedLinearPair([x, prologue, w, w2, term]) => (x, prologue, w, Some(w2), term),
            _ => return Err(self.error(pair, "it has one result")),
        };
        let Fact::Pair(product, _) = &self.body.node(pair).fact else {
            return Err(self.error(pair, "it has one result"));
        };
        let rows = self.matrix(x)?;
        let value = Value { width: self.size("a width", product.shape[1])?, ..rows };
        let live = self.body.live();
        let part = |op: Op| self.body.ids().find(|&id| live[usize::from(id)] && self.body.node(id).op == op);
        let (first, second) = (part(Op::First([pair])), part(Op::Second([pair])));

        let mut b = CallBuilder::new(self);
        let (view, mx) = b.activation(Slot::X, x)?;
        let (format, mw, mw2) = weights(&mut b, w, w2)?;
        let (norms, operands, mp) = b.prologue(prologue)?;
        let (term, mt) = b.term(term)?;
        let both = b.meaning.add(match mw2 {
            Some(mw2) => Op::NormedLinearPair([mx, mp, mw, mw2, mt]),
            None => Op::NormedLinear([mx, mp, mw, mt]),
        })?;
        let out = b.meaning.add(Op::First([both]))?;
        b.meaning.add_output("out", out);
        if second.is_some() {
            let carried = b.meaning.add(Op::Second([both]))?;
            b.meaning.add_output(CARRIED, carried);
        }
        let prologue = Prologue { norms, operands, carried: second.is_some() };
        let contraction = Contraction { x: view, format, paired: mw2.is_some(), value };
        let call = b.finish_with(|operands| {
            let linear = Box::new(contraction.with(term, operands));
            Operation::NormedLinear { prologue, linear }
        });

        let out = self.value(value);
        self.known.extend(first.map(|id| (id, out)));
        let mut values = vec![out];
        if let Some(id) = second {
            values.push(self.value(rows));
            self.known.insert(id, values[1]);
        }
        let calls = windows::split(call, self.bounds.binding_bytes)?;
        self.calls.extend(calls.into_iter().map(|call| Call { values: values.clone(), ..call }));
        Ok(())
    }
}
