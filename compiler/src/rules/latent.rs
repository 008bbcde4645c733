//! Multi-head latent attention: keys and values are projections of one narrow latent, which is what is cached.
//!
//! Both rules are associativity of the product, head by head, with c the latent, W_h the rows of W that make head h, and one
//! key and value head, the latent itself, for all query heads. Which form is cheaper is for extraction to say: with few rows
//! the projections of the whole context cost more than they save, with many they cost less than scores over the latent's
//! width. The columns of a quantized weight cannot be its rows. Only where the latent is narrower than the heads together, or there is nothing to save at any number of rows.

use super::{Condition, Table, rule, var};

pub(super) fn rules() -> Table {
    let up = || Condition::Widens(var("?w"));
    [
        // q_h·(c·W_hᵀ)ᵀ = (q_h·W_h)·cᵀ: the keys' projection is done to the queries.
        rule!("latent-keys", Reassociates,
            "(matmul (split-heads ?q ?h) (transpose (split-heads (linear ?c ?w acc) ?h)))"
                => "(matmul (split-heads (head-linear ?q (split-heads (transpose ?w) ?h) ?h) ?h) \
                    (transpose (repeat-heads (split-heads ?c 1) ?h)))", up(), Condition::Numbers(var("?w"))),
        // P_h·(c·W_hᵀ) = (P_h·c)·W_hᵀ: the values' projection is done to what was mixed.
        rule!("latent-values", Reassociates,
            "(merge-heads (matmul ?p (split-heads (linear ?c ?w acc) ?h)))"
                => "(head-linear (merge-heads (matmul ?p (repeat-heads (split-heads ?c 1) ?h))) ?w ?h)", up()),
    ]
    .into_iter()
    .collect()
}
