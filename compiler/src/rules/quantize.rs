//! Quantized weights are read by kernels as they are stored.
//!
//! `dequantize` gives the values that codes and scales stand for, and that is what a kernel computes with whether they lie in
//! memory as floats or are decoded when they are read; so all of these are exact. Where weights were rounded, that was
//! done before, by `quantize`, which no rule makes.
//!
//! So it is with activations that the lossy stage rounded: their product with int8 weights is that of the codes, which are
//! whole numbers, times the scales of row and group. Which of both is computed is a matter of cost.

use super::{Condition, Rule, Stage, Table, rule, var};

pub(super) fn rules() -> Table {
    let x = || Condition::activation("?x");
    let alike = || Condition::SameElements(var("?a"), var("?b"));
    let (of_x, of_w) = (Condition::Integers(var("?x")), Condition::Integers(var("?w")));
    // Kernels have taken up what follows them by then.
    let late = |rule: Rule| Rule { stage: Stage::Prologue, ..rule };
    [
        // y = x·Wᵀ with W decoded where it is read.
        rule!("linear-quantized", Exact, "(matmul ?x (transpose (dequantize ?w)))" => "(linear ?x ?w acc)", x()),
        rule!("gather-quantized", Exact, "(gather (dequantize ?w) ?i)" => "(gather ?w ?i)"),
        // Rows are decoded each by itself.
        rule!("slice-quantized", Exact, "(slice (dequantize ?w) 0 ?a ?n)" => "(dequantize (slice ?w 0 ?a ?n))"),
        rule!(
            "concat-quantized",
            Exact,
            "(concat 0 (dequantize ?a) (dequantize ?b))" => "(dequantize (concat 0 ?a ?b))",
            alike()
        ),
        // Σ_k (s x_k) (t w_k) = s t Σ_k x_k w_k over codes x and w, group by group where w has groups.
        rule!("linear-integers", Exact, "(linear (dequantize ?x) ?w ?e)" => "(linear ?x ?w ?e)", of_x, of_w).map(late),
        rule!(
            "linear-pair-integers",
            Exact,
            "(linear-pair (dequantize ?x) ?w ?v ?e)" => "(linear-pair ?x ?w ?v ?e)",
            of_x,
            of_w
        )
        .map(late),
    ]
    .into_iter()
    .collect()
}
