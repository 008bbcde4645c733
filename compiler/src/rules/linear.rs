//! Contractions of activations with weights.

use super::{Condition, Table, rule, var};

pub(super) fn rules() -> Table {
    let w = || Condition::weight_matrix("?w");
    let x = || Condition::activation("?x");
    let same = || Condition::SameShape(var("?w"), var("?v"));
    [
        // y = x·Wᵀ is what the kernel computes, one dot product per element, held in acc.
        rule!("linear", Exact, "(matmul ?x (transpose ?w))" => "(linear ?x ?w acc)", x(), w()),
        // y = x·W with W stored [in, out]: the kernel reads the transpose, made when the plan is packed.
        rule!("linear-stored", Exact, "(matmul ?x ?w)" => "(linear ?x (transpose ?w) acc)",
            x(), w(), Condition::NotTransposed(var("?w"))),
        // Rows of W are columns of y, so a column window of y needs only these rows.
        rule!("slice-linear", Exact, "(slice (linear ?x ?w acc) 1 ?a ?n)" => "(linear ?x (slice ?w 0 ?a ?n) acc)", w()),
        rule!("slice-linear-bias", Exact,
            "(slice (linear ?x ?w (add acc ?b)) 1 ?a ?n)" => "(linear ?x (slice ?w 0 ?a ?n) (add acc (slice ?b 0 ?a ?n)))",
            w(), Condition::ConstantVector(var("?b"))),
        // f(x·Wᵀ) ⊙ (x·Vᵀ): two dot products over the same x, one kernel.
        rule!("gated-pair", Exact,
            "(mul (linear ?x ?w ?e) (linear ?x ?v acc))" => "(linear-pair ?x ?w ?v (mul ?e acc2))", w(), same()),
        rule!("gated-pair-mirrored", Exact,
            "(mul (linear ?x ?v acc) (linear ?x ?w ?e))" => "(linear-pair ?x ?w ?v (mul acc2 ?e))", w(), same()),
        rule!("gated-pair-bias", Exact,
            "(mul (linear ?x ?w ?e) (linear ?x ?v (add acc ?b)))" => "(linear-pair ?x ?w ?v (mul ?e (add acc2 ?b)))", w(), same()),
        rule!("gated-pair-bias-mirrored", Exact,
            "(mul (linear ?x ?v (add acc ?b)) (linear ?x ?w ?e))" => "(linear-pair ?x ?w ?v (mul (add acc2 ?b) ?e))", w(), same()),
    ]
    .into_iter()
    .collect()
}
