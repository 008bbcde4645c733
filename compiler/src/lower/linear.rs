//! Contractions, with the norm before them where extraction chose that.

use egg::Id;
use warpweft_plan::Dim;

use super::call::CallBuilder;
use super::{Call, LowerError, Lowering, Value, windows};
use crate::formats::Format;
use crate::graph::{Fact, Op};
use crate::kernels::Slot;
use crate::kernels::spec::{Operand, Operation, Prologue, RowNorm, Term, View};

/// The name of the rows that a kernel leaves beside its product.
pub(super) const CARRIED: &str = "carried";

/// The same of those that are left times a gain, with moments.
const GAINED: &str = "gained";
/// What the meaning calls rows after a second norm.
const NEXT: &str = "next";

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
        let [first, second] = self.results(pair);

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

        self.push_two(call, [(first, Some(value)), (second, second.map(|_| rows))])
    }

    /// Rows after two norms, beside the rows after the first, which may be written over what they add to.
    pub(super) fn normed_rows(&mut self, pair: Id, [x, prologue]: [Id; 2]) -> Result<(), LowerError> {
        let rows = self.matrix(x)?;
        let [second, first] = self.results(pair);
        let mut b = CallBuilder::new(self);
        let (input, mx) = b.operand(x)?;
        let (norms, mp) = b.norms_of(prologue)?;
        let Ok([RowNorm { norm, eps, term }, then]) = <[RowNorm; 2]>::try_from(norms) else {
            return Err(self.error(pair, "two norms were expected"));
        };
        let both = b.meaning.add(Op::NormedRows([mx, mp]))?;
        for (name, op) in [("out", Op::Second([both])), (NEXT, Op::First([both]))] {
            let result = b.meaning.add(op)?;
            b.meaning.add_output(name, result);
        }
        let Value { width, rows: of, .. } = rows;
        let call = b.finish_with(|operands| {
            let then = Some(then);
            Operation::Normalize { norm, eps, width, input, term, then, operands, rows: of, image: false }
        });
        self.push_two(call, [(first, Some(rows)), (second, Some(rows))])
    }

    /// A contraction that leaves its rows behind times a gain, with their moments.
    pub(super) fn gained_linear(&mut self, pair: Id, [x, w, term, gain]: [Id; 4]) -> Result<(), LowerError> {
        let Fact::Pair(product, gained) = &self.body.node(pair).fact else {
            return Err(self.error(pair, "it has one result"));
        };
        let rows = self.matrix(x)?;
        let width = |shape: &[Dim]| self.size("a width", shape[1]);
        let value = Value { width: width(&product.shape)?, ..rows };
        let gained = Value { width: width(&gained.shape)?, ..rows };
        let [first, second] = self.results(pair);

        let mut b = CallBuilder::new(self);
        let (view, mx) = b.activation(Slot::X, x)?;
        let (format, mw, _) = weights(&mut b, w, None)?;
        let (term, mt) = b.term(term)?;
        let (Term::Operand(gain), mg) = b.operand(gain)? else {
            return Err(self.error(pair, "a gain is a vector"));
        };
        let both = b.meaning.add(Op::GainedLinear([mx, mw, mt, mg]))?;
        for (name, op) in [("out", Op::First([both])), (GAINED, Op::Second([both]))] {
            let result = b.meaning.add(op)?;
            b.meaning.add_output(name, result);
        }
        let contraction = Contraction { x: view, format, paired: false, value };
        let call = b.finish_with(|operands| {
            let linear = Box::new(contraction.with(term, operands));
            Operation::GainedLinear { gain, linear }
        });
        self.push_two(call, [(first, Some(value)), (second, Some(gained))])
    }

    /// The contraction of rows that have their moments behind them.
    pub(super) fn scaled_linear(&self, operands: [Id; 5], value: Value) -> Result<Call, LowerError> {
        let [x, eps, w, w2, term] = operands;
        let mut b = CallBuilder::new(self);
        let (whole, mx) = b.activation(Slot::X, x)?;
        let (format, mw, mw2) = weights(&mut b, w, Some(w2))?;
        let view = View { width: self.width(w)?, ..whole };
        let eps = self.real(eps)?;
        let me = b.meaning.real(eps)?;
        let (term, mt) = b.term(term)?;
        let meaning = b.meaning.add(Op::ScaledLinearPair([mx, me, mw, mw2.unwrap_or(mw), mt]))?;
        let contraction = Contraction { x: view, format, paired: true, value };
        let operation = |operands| {
            let linear = Box::new(contraction.with(term, operands));
            Operation::ScaledLinear { eps, linear }
        };
        Ok(b.finish(operation, meaning))
    }

    /// The two results of a node, as far as they are read.
    fn results(&self, pair: Id) -> [Option<Id>; 2] {
        let live = self.body.live();
        let part = |op: Op| self.body.ids().find(|&id| live[usize::from(id)] && self.body.node(id).op == op);
        [part(Op::First([pair])), part(Op::Second([pair]))]
    }

    /// A call of two results, which are these nodes where they are read; one that the kernel does not make has no value.
    fn push_two(&mut self, call: Call, results: [(Option<Id>, Option<Value>); 2]) -> Result<(), LowerError> {
        let mut values = Vec::new();
        for (id, value) in results {
            let Some(value) = value else { continue };
            let at = self.value(value);
            self.known.extend(id.map(|id| (id, at)));
            values.push(at);
        }
        let calls = windows::split(call, self.bounds.binding_bytes)?;
        self.calls.extend(calls.into_iter().map(|call| Call { values: values.clone(), ..call }));
        Ok(())
    }
}
