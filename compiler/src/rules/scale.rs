//! Scales and gains folded into weights.
//!
//! Only into f32 weights: a 16-bit weight times a gain needs more bits than it has, so that folding would double what is
//! stored, to save what a term does for free.

use super::{Condition, Table, rule, var};

pub(super) fn rules() -> Table {
    let wide = || Condition::Wide(var("?w"));
    let column = || Condition::ColumnScale { scale: var("?g"), weight: var("?w") };
    [
        // (x ⊙ g)·Wᵀ = x·(W ⊙ g)ᵀ: a norm's gain is multiplied into the columns of the weight, when the plan is packed.
        rule!("fold-gain", Reassociates, "(linear (mul ?x ?g) ?w ?e)" => "(linear ?x (mul ?w ?g) ?e)", column(), wide()),
        // c·(x·Wᵀ) = x·(c·W)ᵀ
        rule!("fold-scale", Reassociates, "(linear ?x ?w (mul acc ?c))" => "(linear ?x (mul ?w ?c) acc)",
            Condition::Scalar(var("?c")), wide()),
    ]
    .into_iter()
    .collect()
}
