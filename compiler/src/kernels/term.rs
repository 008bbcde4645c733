//! Terms as WGSL.

use std::collections::BTreeSet;

use super::KernelError;
use super::spec::{Binary, Term, Unary};

/// The pure functions of `lib/` that a kernel uses; ordered so that each stands after those it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Function {
    SafeTanh,
    Gelu,
    GeluTanh,
    Sigmoid,
    Silu,
    Relu,
}

impl Function {
    pub(crate) fn wgsl(self) -> &'static str {
        match self {
            Function::SafeTanh => include_str!("lib/tanh.wgsl"),
            Function::Gelu => include_str!("lib/gelu.wgsl"),
            Function::GeluTanh => include_str!("lib/gelu_tanh.wgsl"),
            Function::Sigmoid => include_str!("lib/sigmoid.wgsl"),
            Function::Silu => include_str!("lib/silu.wgsl"),
            Function::Relu => include_str!("lib/relu.wgsl"),
        }
    }
}

/// The WGSL expression (a `vec4<f32>`) of a term. `acc` and `acc2` are the accumulators, `operands[i]` the expression
/// of an operand.
///
/// # Errors
/// An operand that does not exist, a number that is not finite, a mask.
pub(crate) fn expression(
    term: &Term,
    operands: &[String],
    functions: &mut BTreeSet<Function>,
) -> Result<String, KernelError> {
    Ok(match term {
        Term::Acc => "acc".to_owned(),
        Term::Acc2 => "acc2".to_owned(),
        Term::Operand(i) => match operands.get(*i) {
            Some(operand) => operand.clone(),
            None => return Err(KernelError::Term(format!("operand {i} of {}", operands.len()))),
        },
        Term::Constant(c) => format!("vec4<f32>({})", literal(*c)?),
        Term::Unary(function, a) => {
            let a = expression(a, operands, functions)?;
            let (name, used): (_, &[Function]) = match function {
                Unary::Gelu => ("gelu", &[Function::Gelu]),
                Unary::GeluTanh => ("gelu_tanh", &[Function::SafeTanh, Function::GeluTanh]),
                Unary::Silu => ("silu", &[Function::Sigmoid, Function::Silu]),
                Unary::Relu => ("relu", &[Function::Relu]),
                Unary::Tanh => ("safe_tanh", &[Function::SafeTanh]),
                Unary::Sigmoid => ("sigmoid", &[Function::Sigmoid]),
            };
            functions.extend(used);
            format!("{name}({a})")
        }
        Term::Binary(operator, a, b) => {
            let a = expression(a, operands, functions)?;
            let b = expression(b, operands, functions)?;
            let operator = match operator {
                Binary::Add => '+',
                Binary::Sub => '-',
                Binary::Mul => '*',
                Binary::Div => '/',
            };
            format!("({a} {operator} {b})")
        }
        Term::BandMask { .. } => {
            return Err(KernelError::Term("a mask that is not added to the whole score".to_owned()));
        }
    })
}

/// An f32 literal.
pub(crate) fn literal(value: f32) -> Result<String, KernelError> {
    if !value.is_finite() {
        return Err(KernelError::Term(format!("the number {value}")));
    }
    Ok(format!("{value:?}f"))
}

/// Whether a term reads the accumulator of that kind.
pub(crate) fn reads(term: &Term, what: &Term) -> bool {
    term == what
        || match term {
            Term::Unary(_, a) => reads(a, what),
            Term::Binary(_, a, b) => reads(a, what) || reads(b, what),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn writes_terms() {
        let mut functions = BTreeSet::new();
        let operands = ["load_e0(m, n4)".to_owned()];
        let sum = Term::Binary(Binary::Add, Box::new(Term::Acc), Box::new(Term::Operand(0)));
        let term = Term::Unary(Unary::Silu, Box::new(sum));
        assert_eq!(expression(&term, &operands, &mut functions).unwrap(), "silu((acc + load_e0(m, n4)))");
        assert_eq!(functions.into_iter().collect::<Vec<_>>(), [Function::Sigmoid, Function::Silu]);
        assert!(reads(&term, &Term::Acc) && !reads(&term, &Term::Acc2));
        let mut functions = BTreeSet::new();
        for bad in [Term::Operand(1), Term::Constant(f32::NAN), Term::BandMask { before: None, after: None }] {
            assert!(matches!(expression(&bad, &operands, &mut functions), Err(KernelError::Term(_))));
        }
        assert_eq!(literal(1e-12).unwrap(), "1e-12f");
        assert_eq!(literal(-2.0).unwrap(), "-2.0f");
    }
}
