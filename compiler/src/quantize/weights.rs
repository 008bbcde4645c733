//! Which weights of a model can be quantized, and what each is multiplied with.

use egg::{Id, Language};
use warpweft_plan::{DType, Dim};

use crate::graph::{Graph, Op, WeightId};

/// Rows or columns below which a matrix stays as it is: it has few bytes, and each of its values counts for much.
pub const LEAST_SIDE: u64 = 32;

/// A matrix that can be quantized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the graph's declarations.
    pub weight: WeightId,
    /// Its name there.
    pub name: String,
    /// The type of its values.
    pub dtype: DType,
    /// Rows, of which each gives one column of the contraction's result.
    pub rows: u64,
    /// Columns, which are contracted.
    pub columns: u64,
    /// It is stored the other way round: `[columns, rows]`.
    pub turned: bool,
    /// The rows that it is multiplied with, `[tokens, columns]`; `None` for a table of which rows are taken.
    pub input: Option<Id>,
    /// Rows are taken of it.
    pub gathered: bool,
    /// The layer that it belongs to.
    pub layer: Option<u32>,
    /// Its name without the layer's number: weights that do the same in each layer have the same.
    pub role: String,
}

impl Candidate {
    /// Values.
    pub fn values(&self) -> u64 {
        self.rows * self.columns
    }

    /// A table of embeddings, or the head, or both.
    pub fn is_table(&self) -> bool {
        self.gathered || self.layer.is_none()
    }
}

/// How a node uses a weight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Contraction { input: Id, turned: bool },
    Gather,
    Other,
}

/// The matrices that contractions or lookups read as they are stored, in the order of their declaration.
/// Those of which anything else is made (a slice, a sum) are left out, and so are small ones.
pub fn candidates(graph: &Graph) -> Vec<Candidate> {
    let live = graph.live();
    let weights = graph.declarations().weights.iter().enumerate();
    let matrices = weights.filter(|(_, w)| w.shape.len() == 2 && w.shape.iter().all(|&n| n >= LEAST_SIDE));
    matrices
        .filter_map(|(at, decl)| {
            let weight = WeightId(at as u32);
            let dtype = decl.dtype.plain().filter(|dtype| *dtype != DType::U32)?;
            let uses = uses(graph, &live, weight);
            let first = uses.iter().find_map(|&(user, found)| match found {
                Use::Contraction { input, turned } => Some((user, Some(input), turned)),
                Use::Gather | Use::Other => None,
            });
            let gathered = uses.iter().any(|(_, found)| *found == Use::Gather);
            let (user, input, turned) = first.or_else(|| Some((uses.first()?.0, None, false)))?;
            // A table whose columns are contracted elsewhere, or a weight that is used both ways, has no one row.
            let same = |found: Use| match found {
                Use::Contraction { turned: other, .. } => other == turned,
                Use::Gather => !turned,
                Use::Other => false,
            };
            if !uses.iter().all(|&(_, found)| same(found)) {
                return None;
            }
            let [a, b] = decl.shape[..] else { return None };
            let (rows, columns) = if turned { (b, a) } else { (a, b) };
            let layer = graph.node(user).layer;
            let role = role(&decl.name, layer);
            let name = decl.name.clone();
            Some(Candidate { weight, name, dtype, rows, columns, turned, input, gathered, layer, role })
        })
        .collect()
}

fn uses(graph: &Graph, live: &[bool], weight: WeightId) -> Vec<(Id, Use)> {
    let users = |id: Id| {
        let reads = move |user: &Id| live[usize::from(*user)] && graph.node(*user).op.children().contains(&id);
        graph.ids().filter(reads)
    };
    let per_token = |id: Id| {
        let shape = graph.node(id).fact.tensor().map_or(&[][..], |t| &t.shape);
        matches!(shape, [rows, _] if *rows == Dim::TOKENS)
    };
    let mut found = Vec::new();
    for leaf in graph.ids().filter(|&id| graph.node(id).op == Op::Weight(weight)) {
        for user in users(leaf) {
            match graph.node(user).op {
                Op::Gather([table, _]) if table == leaf => {
                    found.push((user, Use::Gather));
                }
                Op::MatMul([input, w]) if w == leaf && input != leaf => {
                    found.push((user, Use::Contraction { input, turned: true }));
                }
                Op::Transpose(_) => found.extend(users(user).map(|product| match graph.node(product).op {
                    Op::MatMul([input, w]) if w == user => (product, Use::Contraction { input, turned: false }),
                    _ => (product, Use::Other),
                })),
                _ => found.push((user, Use::Other)),
            }
        }
    }
    // Moments are of rows of tokens; the head is multiplied with the last ones of sequences as well.
    found.sort_by_key(|(_, found)| match found {
        Use::Contraction { input, .. } => !per_token(*input),
        Use::Gather | Use::Other => true,
    });
    found
}

/// The name with a star in the place of the layer's number.
fn role(name: &str, layer: Option<u32>) -> String {
    let Some(layer) = layer.map(|n| n.to_string()) else { return name.to_owned() };
    let mut replaced = false;
    let part = |part| match part == layer && !std::mem::replace(&mut replaced, part == layer) {
        true => "*",
        false => part,
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_no_number() {
        assert_eq!(role("model.layers.3.mlp.up.weight", Some(3)), "model.layers.*.mlp.up.weight");
        assert_eq!(role("h.1.c.1.weight", Some(1)), "h.*.c.1.weight");
        assert_eq!(role("h.12.weight", Some(1)), "h.12.weight");
        assert_eq!(role("head.weight", None), "head.weight");
    }
}
