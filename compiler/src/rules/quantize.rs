//! Quantized weights are read by kernels as they are stored.
//!
//! `dequantize` gives the values that codes and scales stand for, and that is what a kernel computes with whether they lie in
//! memory as floats or are decoded when they are read; so all of these are exact. Where weights were rounded, that was
//! done before, by `quantize`, which no rule makes.

use super::{Condition, Table, rule, var};

pub(super) fn rules() -> Table {
    let x = || Condition::activation("?x");
    let alike = || Condition::SameElements(var("?a"), var("?b"));
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
    ]
    .into_iter()
    .collect()
}
