//! Attention, from softmax(term(q·kᵀ))·v per head.
//!
//! The scores kernel takes up scale, soft cap and mask as terms (see `epilogue`), so attention is found whatever stands
//! between the scores and the softmax, in whatever order.

use super::{Condition, Table, rule, var};

pub(super) fn rules() -> Table {
    let grouped = || Condition::Product(var("?h"), var("?g"), var("?n"));
    [
        // s_ij = q_i · k_j for each head.
        rule!("scores", Exact,
            "(matmul (split-heads ?q ?h) (transpose (split-heads ?k ?h)))" => "(scores ?q ?k ?h ?h acc)"),
        // Grouped heads: query head h reads key head h / n.
        rule!("scores-grouped", Exact,
            "(matmul (split-heads ?q ?h) (transpose (repeat-heads (split-heads ?k ?g) ?n)))" => "(scores ?q ?k ?h ?g acc)",
            grouped()),
        // A norm of each head alone, with one gain for all of them.
        rule!("head-norm", Exact,
            "(merge-heads (rms-norm (split-heads ?x ?h) ?eps (mul acc ?g)))" => "(head-norm ?x ?h ?eps ?g)",
            Condition::ConstantVector(var("?g"))),
        // o_i = Σ_j softmax_j(s_ij) v_j, in one pass over j with a running maximum and sum (Milakov & Gimelshein 2018,
        // arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135).
        rule!("attention", Reassociates,
            "(merge-heads (matmul (softmax (scores ?q ?k ?h ?h ?e)) (split-heads ?v ?h)))" => "(attention ?q ?k ?v ?h ?h ?e)"),
        rule!("attention-grouped", Reassociates,
            "(merge-heads (matmul (softmax (scores ?q ?k ?h ?g ?e)) (repeat-heads (split-heads ?v ?g) ?n)))"
                => "(attention ?q ?k ?v ?h ?g ?e)", grouped()),
    ]
    .into_iter()
    .collect()
}
