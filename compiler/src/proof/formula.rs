//! A body's formula and what of it a saturated e-graph says of a value.

use egg::Id;
use rustc_hash::FxHashMap;
use warpweft_plan::provenance::FormulaValue;

use crate::graph::{Fact, Graph, Op};
use crate::rules::Saturated;

/// Where columns that are a value of the formula begin in a matrix with others: at the first multiple of this behind
/// those before.
pub(super) const ALIGNMENT: u64 = 4;

/// What the formula has of a value in memory.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// All of it: a node.
    Value(Id),
    /// Columns that together are all of it.
    Columns(Vec<Window>),
}

/// Columns of a matrix that the formula has as a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) first: u64,
    pub(super) columns: u64,
    /// The formula's node.
    pub(super) node: Id,
    /// Its class.
    pub(super) class: Id,
}

/// A body's formula in its e-graph.
pub(super) struct Formula<'a> {
    pub(super) body: &'a Graph,
    saturated: &'a Saturated,
    lines: Vec<Option<u32>>,
    /// The first node of each class.
    nodes: FxHashMap<Id, Id>,
    /// By the class of the matrix, in order.
    windows: FxHashMap<Id, Vec<Window>>,
}

impl<'a> Formula<'a> {
    pub(super) fn new(body: &'a Graph, saturated: &'a Saturated) -> Formula<'a> {
        let mut nodes: FxHashMap<Id, Id> = FxHashMap::default();
        for (id, &class) in body.ids().zip(&saturated.formula) {
            nodes.entry(class).or_insert(id);
        }
        let mut windows: FxHashMap<Id, Vec<Window>> = FxHashMap::default();
        let egraph = &saturated.egraph;
        let int = |id: Id| match egraph[id].data {
            Ok(Fact::Int(n)) => u64::try_from(n).ok(),
            _ => None,
        };
        for (&class, &node) in &nodes {
            for other in &egraph[class].nodes {
                let Op::Slice([matrix, axis, first, columns]) = *other else { continue };
                if let (Some(1), Some(first), Some(columns)) = (int(axis), int(first), int(columns)) {
                    windows.entry(egraph.find(matrix)).or_default().push(Window { first, columns, node, class });
                }
            }
        }
        windows.values_mut().for_each(|windows| windows.sort_unstable_by_key(|w| (w.first, w.columns, w.node)));
        Formula { body, saturated, lines: body.lines(), nodes, windows }
    }

    pub(super) fn class(&self, node: Id) -> Id {
        self.saturated.formula[usize::from(node)]
    }

    /// How a plan names a node's value; `None` for terms and leaves other than arguments.
    pub(super) fn value(&self, node: Id) -> Option<FormulaValue> {
        match self.body.node(node).op {
            Op::Arg(arg) => Some(FormulaValue::Arg(arg.0)),
            _ => self.lines[usize::from(node)].map(FormulaValue::Line),
        }
    }

    /// What the formula has of the value of a class.
    pub(super) fn known(&self, class: Id) -> Option<Known> {
        let class = self.saturated.egraph.find(class);
        if let Some(&node) = self.nodes.get(&class) {
            return Some(Known::Value(node));
        }
        let fact = self.saturated.egraph[class].data.as_ref().ok()?.tensor()?;
        let width = u64::try_from(fact.shape.get(1)?.as_constant()?).ok()?;
        let (mut columns, mut end) = (Vec::new(), 0u64);
        for window in self.windows.get(&class)? {
            if window.first == end.next_multiple_of(ALIGNMENT) {
                end = window.first;
                end += window.columns;
                columns.push(*window);
            }
        }
        (end == width).then_some(Known::Columns(columns))
    }
}
