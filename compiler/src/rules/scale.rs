//! Scales and gains folded into weights.

use super::{Condition, Table, rule, var};

pub(super) fn rules() -> Table {
    let column = || Condition::ColumnScale { scale: var("?g"), weight: var("?w") };
    [
        // (x ⊙ g)·Wᵀ = x·(W ⊙ g)ᵀ: a norm's gain is multiplied into the columns of the weight, when the plan is packed.
        rule!("fold-gain", Reassociates, "(linear (mul ?x ?g) ?w ?e)" => "(linear ?x (mul ?w ?g) ?e)", column()),
        // c·(x·Wᵀ) = x·(c·W)ᵀ
        rule!("fold-scale", Reassociates, "(linear ?x ?w (mul acc ?c))" => "(linear ?x (mul ?w ?c) acc)",
            Condition::Scalar(var("?c"))),
    ]
    .into_iter()
    .collect()
}
