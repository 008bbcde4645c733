//! One call: its operation, its inputs and its meaning, built side by side.

use egg::{Id, Language};
use rustc_hash::FxHashMap;
use warpweft_plan::Dim;

use super::{Call, Input, Layout, LowerError, Lowering, Source, Value, WeightUse};
use crate::formats::Format;
use crate::graph::{ArgDecl, Element, Fact, Graph, Op, WeightDecl};
use crate::kernels::Slot;
use crate::kernels::spec::{Binary, Index, Norm, Operand, Operation, Pool, RowNorm, Term, Unary, View};

/// Which terms are being written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    /// What is done to the result.
    Epilogue,
    /// What is done to the input.
    Prologue,
}

impl Side {
    /// The binding of an operand, and its name.
    fn binding(self, at: usize) -> (Slot, String) {
        match self {
            Side::Epilogue => (Slot::Operand(at), format!("e{at}")),
            Side::Prologue => (Slot::Prologue(at), format!("p{at}")),
        }
    }
}

pub(super) struct CallBuilder<'l> {
    lowering: &'l Lowering<'l>,
    pub(super) meaning: Graph,
    operands: Vec<Operand>,
    prologue: Vec<Operand>,
    side: Side,
    inputs: Vec<(Slot, Input)>,
    /// Operands by the node that they stand for, with their node in the meaning.
    known: FxHashMap<(Side, Id), (usize, Id)>,
}

type Built<T> = Result<T, LowerError>;

impl<'l> CallBuilder<'l> {
    pub(super) fn new(lowering: &'l Lowering<'_>) -> CallBuilder<'l> {
        CallBuilder {
            lowering,
            meaning: Graph::default(),
            operands: Vec::new(),
            prologue: Vec::new(),
            side: Side::Epilogue,
            inputs: Vec::new(),
            known: FxHashMap::default(),
        }
    }

    pub(super) fn finish(mut self, operation: impl FnOnce(Vec<Operand>) -> Operation, meaning: Id) -> Call {
        self.meaning.add_output("out", meaning);
        self.finish_with(operation)
    }

    /// The call, its meaning's outputs being there already.
    pub(super) fn finish_with(self, operation: impl FnOnce(Vec<Operand>) -> Operation) -> Call {
        Call { operation: operation(self.operands), inputs: self.inputs, values: Vec::new(), meaning: self.meaning }
    }

    /// A call that does a part of an operator's work, which no graph can say.
    pub(super) fn finish_apart(mut self, operation: impl FnOnce(Vec<Operand>) -> Operation) -> Call {
        self.meaning = Graph::default();
        self.finish_with(operation)
    }

    /// Binds an activation whose meaning is of no concern.
    pub(super) fn bind(&mut self, slot: Slot, source: Source) {
        self.inputs.push((slot, Input::Activation(source)));
    }

    /// The same for one of several windows of the same matrix, which is bound once and remembered in `known`.
    pub(super) fn window(&mut self, slot: Slot, id: Id, known: &mut Option<(Source, Id)>) -> Built<(View, Id)> {
        let (source, view) = self.lowering.view(id)?;
        let arg = match *known {
            Some((bound, arg)) if bound == source => arg,
            _ => {
                let (_, arg) = self.matrix(slot, id)?;
                *known = Some((source, arg));
                arg
            }
        };
        Ok((view, self.columns(arg, view, self.base_width(id)?)?))
    }

    /// Binds an activation; gives its window and its node in the meaning.
    pub(super) fn activation(&mut self, slot: Slot, id: Id) -> Built<(View, Id)> {
        let (view, arg) = self.matrix(slot, id)?;
        Ok((view, self.columns(arg, view, self.base_width(id)?)?))
    }

    /// Binds the matrix that holds an activation; gives the window and the matrix in the meaning.
    fn matrix(&mut self, slot: Slot, id: Id) -> Built<(View, Id)> {
        let (source, view) = self.lowering.view(id)?;
        self.inputs.push((slot, Input::Activation(source)));
        let tensor = self.lowering.tensor(id)?;
        let dtype = if tensor.dtype.is_quantized() { tensor.dtype } else { Element::F32 };
        let rows = tensor.shape[0];
        let base = self.base_width(id)?;
        let arg = self.meaning.declare_arg(ArgDecl { shape: vec![rows, base], dtype });
        Ok((view, self.meaning.add(Op::Arg(arg))?))
    }

    fn columns(&mut self, arg: Id, view: View, base: Dim) -> Built<Id> {
        match Dim::constant(view.width.into()) == base {
            true => Ok(arg),
            false => Ok(self.meaning.slice(arg, 1, view.offset.into(), view.width.into())?),
        }
    }

    /// The width of the matrix that an activation is a window of.
    fn base_width(&self, id: Id) -> Built<Dim> {
        match self.lowering.body.node(id).op {
            Op::Slice([x, ..]) => self.base_width(x),
            _ => Ok(self.lowering.tensor(id)?.shape[1]),
        }
    }

    /// Binds a matrix of weights.
    pub(super) fn weight_matrix(&mut self, slot: Slot, name: &str, id: Id) -> Built<(Format, Id)> {
        let t = self.lowering.tensor(id)?;
        let (rows, width) = match t.shape[..] {
            [rows, width] => {
                (self.lowering.size("a weight's rows", rows)?, self.lowering.size("a weight's width", width)?)
            }
            // Of each head, one below the other.
            [heads, rows, width] => (
                self.lowering.size("a weight's rows", rows * heads.as_constant().unwrap_or(0))?,
                self.lowering.size("a weight's width", width)?,
            ),
            _ => return Err(self.lowering.error(id, "a weight matrix was expected")),
        };
        let format = t.dtype.format().ok_or_else(|| self.lowering.error(id, "a weight is a float"))?;
        let weight = WeightUse { node: id, layout: Layout::Matrix, first: 0, rows: rows.into() };
        self.inputs.push((slot, Input::Weight(weight)));
        let decl = WeightDecl { name: name.into(), dtype: t.dtype, shape: vec![rows.into(), width.into()] };
        let meaning = self.meaning.declare_weight(decl);
        Ok((format, self.meaning.add(Op::Weight(meaning))?))
    }

    pub(super) fn weight_vector(&mut self, slot: Slot, name: &str, id: Id) -> Built<Id> {
        let t = self.lowering.tensor(id)?;
        let n = t.shape.last().copied().ok_or_else(|| self.lowering.error(id, "a vector was expected"))?;
        let n = u64::from(self.lowering.size("a vector's length", n)?);
        let weight = WeightUse { node: id, layout: Layout::Vector, first: 0, rows: n };
        self.inputs.push((slot, Input::Weight(weight)));
        let decl = WeightDecl { name: name.into(), dtype: Element::F32, shape: vec![n] };
        let meaning = self.meaning.declare_weight(decl);
        Ok(self.meaning.add(Op::Weight(meaning))?)
    }

    /// Binds vectors that stand one behind the other, of so many elements together.
    pub(super) fn vectors(&mut self, slot: Slot, name: &str, ids: Vec<Id>, length: u32) -> Built<Id> {
        self.inputs.push((slot, Input::Vectors(ids)));
        let decl = WeightDecl { name: name.into(), dtype: Element::F32, shape: vec![length.into()] };
        let meaning = self.meaning.declare_weight(decl);
        Ok(self.meaning.add(Op::Weight(meaning))?)
    }

    pub(super) fn error(&self, id: Id, problem: &str) -> LowerError {
        self.lowering.error(id, problem)
    }

    /// A kernel's term.
    pub(super) fn term(&mut self, id: Id) -> Built<(Term, Id)> {
        let node = self.lowering.body.node(id);
        match node.op {
            Op::Acc => Ok((Term::Acc, self.meaning.add(Op::Acc)?)),
            Op::Acc2 => Ok((Term::Acc2, self.meaning.add(Op::Acc2)?)),
            Op::BandMask([before, after, _]) => self.band_mask(id, before, after),
            _ if matches!(node.fact, Fact::Term(_)) => self.expression(id),
            _ => self.operand(id),
        }
    }

    fn band_mask(&mut self, id: Id, before: Id, after: Id) -> Built<(Term, Id)> {
        let body = self.lowering.body;
        let bound = |id: Id| match body.node(id).fact {
            Fact::Int(i) => Ok(u32::try_from(i).ok()),
            _ => Err(self.lowering.error(id, "a bound is an integer")),
        };
        let (before, after) = (bound(before)?, bound(after)?);
        let keys = self.lowering.tensor(id)?.shape[1];
        Ok((Term::BandMask { before, after }, self.meaning.band_mask(before, after, keys)?))
    }

    /// A scalar, an expression that only this call uses, or a tensor that it reads.
    pub(super) fn operand(&mut self, id: Id) -> Built<(Term, Id)> {
        let node = self.lowering.body.node(id);
        if let Fact::Real(r) = node.fact {
            return Ok((Term::Constant(r.value()), self.meaning.real(r.value())?));
        }
        if self.lowering.inlined[usize::from(id)] {
            return self.expression(id);
        }
        if let Some(&(at, meaning)) = self.known.get(&(self.side, id)) {
            return Ok((Term::Operand(at), meaning));
        }
        let (at, slot, name) = self.next();
        let (operand, meaning) = if node.fact.is_constant() {
            (Operand::Vector, self.weight_vector(slot, &name, id)?)
        } else {
            let (view, meaning) = self.activation(slot, id)?;
            (Operand::Matrix(view), meaning)
        };
        self.list().push(operand);
        self.known.insert((self.side, id), (at, meaning));
        Ok((Term::Operand(at), meaning))
    }

    fn list(&mut self) -> &mut Vec<Operand> {
        match self.side {
            Side::Epilogue => &mut self.operands,
            Side::Prologue => &mut self.prologue,
        }
    }

    /// The next operand: its index, its slot and its name.
    fn next(&mut self) -> (usize, Slot, String) {
        let at = self.list().len();
        let (slot, name) = self.side.binding(at);
        (at, slot, name)
    }

    /// The norms of a prologue, the tensors that they read, and the prologue in the meaning.
    pub(super) fn prologue(&mut self, id: Id) -> Built<(Vec<RowNorm>, Vec<Operand>, Id)> {
        self.side = Side::Prologue;
        let mut norms = Vec::new();
        let meaning = self.norms(id, &mut norms)?;
        self.side = Side::Epilogue;
        Ok((norms, std::mem::take(&mut self.prologue), meaning))
    }

    /// The norms of a prologue, over the operands of what follows it too, and the prologue in the meaning.
    pub(super) fn norms_of(&mut self, id: Id) -> Built<(Vec<RowNorm>, Id)> {
        let mut norms = Vec::new();
        let meaning = self.norms(id, &mut norms)?;
        Ok((norms, meaning))
    }

    fn norms(&mut self, id: Id, norms: &mut Vec<RowNorm>) -> Built<Id> {
        let (norm, eps, term) = match self.lowering.body.node(id).op {
            Op::Rms([eps, term]) => (Norm::Rms, eps, term),
            Op::Layer([eps, term]) => (Norm::Layer, eps, term),
            Op::Then([first, second]) => {
                let (first, second) = (self.norms(first, norms)?, self.norms(second, norms)?);
                return Ok(self.meaning.add(Op::Then([first, second]))?);
            }
            _ => return Err(self.lowering.error(id, "a prologue was expected")),
        };
        let eps = self.lowering.real(eps)?;
        let (term, mt) = self.term(term)?;
        norms.push(RowNorm { norm, eps, term });
        let me = self.meaning.real(eps)?;
        Ok(self.meaning.add(match norm {
            Norm::Layer => Op::Layer([me, mt]),
            Norm::Rms | Norm::L2 => Op::Rms([me, mt]),
        })?)
    }

    /// The node's own expression, its operands read or inlined.
    pub(super) fn expression(&mut self, id: Id) -> Built<(Term, Id)> {
        let op = self.lowering.body.node(id).op.clone();
        if let Op::Gather([table, index]) = op {
            return self.gather(id, table, index);
        }
        let (mut terms, mut meanings) = (Vec::new(), Vec::new());
        for &child in op.children() {
            let (term, meaning) = self.term(child)?;
            terms.push(term);
            meanings.push(meaning);
        }
        let mut at = 0;
        let meaning = self.meaning.add(op.clone().map_children(|_| {
            at += 1;
            meanings[at - 1]
        }))?;
        let mut terms = terms.into_iter().map(Box::new);
        let term = match (operator(&op), terms.next(), terms.next()) {
            (Some(Operator::Unary(f)), Some(a), None) => Term::Unary(f, a),
            (Some(Operator::Binary(f)), Some(a), Some(b)) => Term::Binary(f, a, b),
            _ => return Err(self.lowering.error(id, "a pointwise operator was expected")),
        };
        Ok((term, meaning))
    }

    fn gather(&mut self, id: Id, table: Id, index: Id) -> Built<(Term, Id)> {
        let (index, index_meaning) = match self.lowering.body.node(index).op {
            Op::Ids => (Index::Ids, self.meaning.token_ids()?),
            Op::Positions => (Index::Positions, self.meaning.positions()?),
            _ => return Err(self.lowering.error(id, "rows are gathered by ids or positions")),
        };
        let (at, slot, name) = self.next();
        let (format, table_meaning) = self.weight_matrix(slot, &name, table)?;
        let rows = self.lowering.size("a table's rows", self.lowering.tensor(table)?.shape[0])?;
        self.list().push(Operand::Gather { format, first: 0, rows, index });
        Ok((Term::Operand(at), self.meaning.gather(table_meaning, index_meaning)?))
    }

    pub(super) fn normalize(
        mut self,
        norm: Norm,
        op: fn([Id; 3]) -> Op,
        [x, eps, term]: [Id; 3],
        value: Value,
    ) -> Built<Call> {
        let eps = self.lowering.real(eps)?;
        let (input, mx) = self.operand(x)?;
        let (term, mt) = self.term(term)?;
        let me = self.meaning.real(eps)?;
        let meaning = self.meaning.add(op([mx, me, mt]))?;
        let Value { width, rows, .. } = value;
        Ok(self.finish(
            |operands| Operation::Normalize { norm, eps, width, input, term, then: None, operands, rows, image: false },
            meaning,
        ))
    }

    pub(super) fn pool(mut self, pool: Pool, op: fn([Id; 1]) -> Op, x: Id, max_context: u32) -> Built<Call> {
        let (x, mx) = self.activation(Slot::X, x)?;
        let meaning = self.meaning.add(op([mx]))?;
        Ok(self.finish(|_| Operation::Pool { pool, x, max_context }, meaning))
    }
}

enum Operator {
    Unary(Unary),
    Binary(Binary),
}

fn operator(op: &Op) -> Option<Operator> {
    Some(match op {
        Op::Add(_) => Operator::Binary(Binary::Add),
        Op::Sub(_) => Operator::Binary(Binary::Sub),
        Op::Mul(_) => Operator::Binary(Binary::Mul),
        Op::Div(_) => Operator::Binary(Binary::Div),
        Op::Gelu(_) => Operator::Unary(Unary::Gelu),
        Op::GeluTanh(_) => Operator::Unary(Unary::GeluTanh),
        Op::Silu(_) => Operator::Unary(Unary::Silu),
        Op::Relu(_) => Operator::Unary(Unary::Relu),
        Op::Tanh(_) => Operator::Unary(Unary::Tanh),
        Op::Sigmoid(_) => Operator::Unary(Unary::Sigmoid),
        other if !other.is_pointwise() => return None,
        _ => return None,
    })
}
