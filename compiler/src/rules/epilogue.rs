//! Kernels take up the pointwise operators after them.
//!
//! For a kernel K whose term is e: `f(K(…, e)) = K(…, f(e))`, because e is applied to each element alone. One rule for
//! each kernel and each pointwise operator makes any chain of them fuse, in any order, without a rule per combination.

use super::{Class, Condition, Rule, Table, line, var};

/// A kernel with a term: its name, its operands before the term, and what its result looks like.
struct Kernel {
    name: &'static str,
    operands: &'static str,
    result: Shape,
    /// Operators of one operand that it takes up.
    unary: &'static [&'static str],
    /// Operators of two, where its own value comes first, and where it comes second.
    binary: &'static [&'static str],
    mirrored: &'static [&'static str],
}

/// How a kernel tells which operands its term may read.
enum Shape {
    /// `[rows of x, rows of w]`.
    Contraction,
    /// The shape of x.
    LikeX,
    /// `[heads, queries, keys]`.
    Scores,
}

/// What models have after each kernel, and no more: a rule that no model needs is a pattern that every body is searched for.
const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "linear",
        operands: "?x ?w",
        result: Shape::Contraction,
        unary: &["gelu", "gelu-tanh", "silu", "relu", "tanh", "sigmoid"],
        binary: &["add", "mul", "div"],
        mirrored: &["add", "mul"],
    },
    Kernel {
        name: "layer-norm",
        operands: "?x ?eps",
        result: Shape::LikeX,
        unary: &[],
        binary: &["add", "mul"],
        mirrored: &["add", "mul"],
    },
    Kernel {
        name: "rms-norm",
        operands: "?x ?eps",
        result: Shape::LikeX,
        unary: &[],
        binary: &["add", "mul"],
        mirrored: &["add", "mul"],
    },
    Kernel {
        name: "scores",
        operands: "?q ?k ?h ?g",
        result: Shape::Scores,
        unary: &["tanh"],
        binary: &["add", "mul", "div"],
        mirrored: &["add", "mul"],
    },
];

pub(super) fn rules() -> Table {
    let mut rules = Vec::new();
    for kernel in &KERNELS {
        let Kernel { name, operands, .. } = kernel;
        for f in kernel.unary {
            rules.push(fuse(
                format!("{name}-{f}"),
                &format!("({f} ({name} {operands} ?e))"),
                &format!("({name} {operands} ({f} ?e))"),
                vec![],
            )?);
        }
        for f in kernel.binary {
            rules.push(fuse(
                format!("{name}-{f}"),
                &format!("({f} ({name} {operands} ?e) ?r)"),
                &format!("({name} {operands} ({f} ?e ?r))"),
                vec![kernel.condition()],
            )?);
        }
        for f in kernel.mirrored {
            rules.push(fuse(
                format!("{name}-{f}-mirrored"),
                &format!("({f} ?r ({name} {operands} ?e))"),
                &format!("({name} {operands} ({f} ?r ?e))"),
                vec![kernel.condition()],
            )?);
        }
    }
    Ok(rules)
}

fn fuse(name: String, left: &str, right: &str, conditions: Vec<Condition>) -> Result<Rule, super::RewriteError> {
    line(name, Class::Exact, left, right, conditions)
}

impl Kernel {
    fn condition(&self) -> Condition {
        match self.result {
            Shape::Contraction => Condition::EpilogueOperand { operand: var("?r"), weight: var("?w") },
            Shape::LikeX => Condition::Elementwise { operand: var("?r"), like: var("?x") },
            Shape::Scores => Condition::ScoreOperand(var("?r")),
        }
    }
}
