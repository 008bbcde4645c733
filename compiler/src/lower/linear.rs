//! Contractions, with the norm before them where there is one row alone.
//!
//! A norm in front costs a dispatch, and where a step has one row that is more than to sum up the row in every workgroup
//! that reads it anyway.

use egg::{Id, Language};

use super::call::CallBuilder;
use super::{Call, LowerError, Lowering, Value};
use crate::graph::{Fact, Graph, Op};
use crate::kernels::spec::{Operation, View};
use crate::kernels::{RowRange, Slot};

/// For each node: it is a norm with a gain, and all that read it are contractions, which take it up.
pub(super) fn taken_norms(body: &Graph, rows: RowRange) -> Vec<bool> {
    let live = body.live();
    body.ids()
        .map(|id| {
            let users = || body.ids().filter(|&u| live[usize::from(u)] && body.node(u).op.children().contains(&id));
            let takes = |user: Id| match body.node(user).op {
                Op::Linear([x, _, term]) | Op::LinearPair([x, _, _, term]) => x == id && term != id,
                _ => false,
            };
            let is_output = body.outputs().iter().any(|o| o.id == id);
            rows.max == Some(1) && !is_output && gained_norm(body, id).is_some() && users().all(takes)
        })
        .collect()
}

/// What is normalised, epsilon and gain, if a node is a norm with a gain of something that lies in memory.
fn gained_norm(body: &Graph, id: Id) -> Option<[Id; 3]> {
    let Op::RmsNorm([x, eps, term]) = body.node(id).op else { return None };
    let Op::Mul([acc, gain]) = body.node(term).op else { return None };
    let is_vector = matches!(&body.node(gain).fact, Fact::Tensor(t) if t.constant && t.shape.len() == 1);
    let made = body.node(x).op.is_pointwise() || matches!(body.node(x).op, Op::Gather(_));
    let plain = matches!(body.node(acc).op, Op::Acc) && is_vector && !made && !body.node(x).fact.is_constant();
    plain.then_some([x, eps, gain])
}

impl Lowering<'_> {
    /// The contraction of `x` with one weight, or with two.
    pub(super) fn linear(&self, x: Id, w: Id, w2: Option<Id>, term: Id, value: Value) -> Result<Call, LowerError> {
        let Value { width, rows, .. } = value;
        let mut b = CallBuilder::new(self);
        let norm = gained_norm(self.body, x).filter(|_| self.normed[usize::from(x)]);
        let (view, mut mx) = b.activation(Slot::X, norm.map_or(x, |[x, ..]| x))?;
        let (format, mw) = b.weight_matrix(Slot::W, "w", w)?;
        let mw2 = w2.map(|w2| b.weight_matrix(Slot::W2, "w2", w2)).transpose()?.map(|(_, meaning)| meaning);
        let mut epsilon = None;
        if let Some([_, eps, gain]) = norm {
            let eps = self.real(eps)?;
            let mg = b.weight_vector(Slot::Vector(0), "gain", gain)?;
            let acc = b.meaning.add(Op::Acc)?;
            let (me, scaled) = (b.meaning.real(eps)?, b.meaning.times(acc, mg)?);
            mx = b.meaning.add(Op::RmsNorm([mx, me, scaled]))?;
            epsilon = Some(eps);
        }
        let (term, mt) = b.term(term)?;
        let meaning = b.meaning.add(match mw2 {
            Some(mw2) => Op::LinearPair([mx, mw, mw2, mt]),
            None => Op::Linear([mx, mw, mt]),
        })?;
        let (n, out, paired) = (width, View::whole(width), mw2.is_some());
        Ok(b.finish(
            |operands| {
                let linear = Operation::Linear { x: view, n, format, paired, term, operands, out, rows };
                match epsilon {
                    Some(eps) => Operation::NormedLinear { eps, linear: Box::new(linear) },
                    None => linear,
                }
            },
            meaning,
        ))
    }
}
