//! Pointwise operators and terms.

use egg::{Id, Language};

use super::{Accumulators, EvalError, Evaluator, Tensor};
use crate::graph::{Fact, Op};

impl Evaluator<'_> {
    /// The value of a term whose `acc` is given; it has `acc`'s shape.
    pub(super) fn term(&self, term: Id, acc: &Tensor, acc2: Option<&Tensor>) -> Result<Tensor, EvalError> {
        let value = self.operand(term, Some(Accumulators { acc, acc2 }))?;
        Ok(Tensor::filled(acc.shape.clone(), |i| value.at(i, &acc.shape)))
    }

    pub(super) fn pointwise(&self, op: &Op, acc: Option<Accumulators<'_>>) -> Result<Tensor, EvalError> {
        let function = function(op).ok_or_else(|| EvalError::Value(format!("{op} is not pointwise")))?;
        let operands = op.children().iter().map(|&c| self.operand(c, acc)).collect::<Result<Vec<_>, _>>()?;
        let shape = operands.iter().fold(Vec::new(), |shape, o| o.broadcast(&shape));
        Ok(Tensor::filled(shape.clone(), |i| {
            let a = f64::from(operands[0].at(i, &shape));
            let b = operands.get(1).map_or(0.0, |o| f64::from(o.at(i, &shape)));
            function(a, b) as f32
        }))
    }

    fn operand(&self, id: Id, acc: Option<Accumulators<'_>>) -> Result<Operand, EvalError> {
        let node = self.graph.node(id);
        match (&node.fact, &node.op, acc) {
            (Fact::Real(r), _, _) => Ok(Operand::Scalar(r.value())),
            (Fact::Term(_), Op::Acc, Some(a)) => Ok(Operand::Tensor(a.acc.clone())),
            (Fact::Term(_), Op::Acc2, Some(Accumulators { acc2: Some(b), .. })) => Ok(Operand::Tensor(b.clone())),
            (Fact::Term(_), op, Some(_)) if op.is_pointwise() => Ok(Operand::Tensor(self.pointwise(op, acc)?)),
            (Fact::Tensor(_), _, _) => Ok(Operand::Tensor(self.get(id)?.clone())),
            _ => Err(EvalError::Value(format!("{} has no value here", node.op))),
        }
    }
}

enum Operand {
    Scalar(f32),
    Tensor(Tensor),
}

impl Operand {
    fn broadcast(&self, with: &[usize]) -> Vec<usize> {
        let own: &[usize] = match self {
            Operand::Scalar(_) => &[],
            Operand::Tensor(t) => &t.shape,
        };
        let n = own.len().max(with.len());
        let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(n).map_or(1, |j| s[j]);
        (0..n).map(|i| if at(own, i) == 1 { at(with, i) } else { at(own, i) }).collect()
    }

    /// The element that stands at flat index `i` of the broadcast shape.
    fn at(&self, mut i: usize, shape: &[usize]) -> f32 {
        let t = match self {
            Operand::Scalar(x) => return *x,
            Operand::Tensor(t) => t,
        };
        let (mut index, mut stride) = (0, 1);
        for (axis, &size) in shape.iter().enumerate().rev() {
            let digit = i % size;
            i /= size;
            if let Some(own) = (axis + t.shape.len()).checked_sub(shape.len()) {
                if t.shape[own] != 1 {
                    index += digit * stride;
                }
                stride *= t.shape[own];
            }
        }
        t.data[index]
    }
}

/// What a pointwise operator computes of its operands; the second is ignored where there is only one.
fn function(op: &Op) -> Option<fn(f64, f64) -> f64> {
    Some(match op {
        Op::Add(_) => |a, b| a + b,
        Op::Sub(_) => |a, b| a - b,
        Op::Mul(_) => |a, b| a * b,
        Op::Div(_) => |a, b| a / b,
        Op::Gelu(_) => |a, _| a * 0.5 * libm::erfc(-a / std::f64::consts::SQRT_2),
        Op::GeluTanh(_) => {
            |a, _| 0.5 * a * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (a + 0.044715 * a * a * a)).tanh())
        }
        Op::Silu(_) => |a, _| a / (1.0 + (-a).exp()),
        Op::Relu(_) => |a, _| a.max(0.0),
        Op::Tanh(_) => |a, _| a.tanh(),
        Op::Sigmoid(_) => |a, _| 1.0 / (1.0 + (-a).exp()),
        _ => return None,
    })
}
