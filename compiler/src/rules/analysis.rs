//! Facts as the e-class analysis: a merge of two different facts is an error, never last-writer-wins.

use std::sync::Arc;

use egg::{Analysis, DidMerge, Id};

use super::EGraph;
use crate::graph::{Declarations, Fact, FactError, Op, infer};

/// The analysis; its data for an e-class is the [`Fact`], or why there is none.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What leaves refer to.
    pub declarations: Arc<Declarations>,
    /// Merges of different facts. Any one stops the compile.
    pub clashes: Vec<Clash>,
}

/// Two different facts for what a rule says is equal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rule calls {left} and {right} equal")]
pub struct Clash {
    /// One.
    pub left: String,
    /// The other.
    pub right: String,
}

impl Analysis<Op> for Facts {
    type Data = Result<Fact, FactError>;

    fn make(egraph: &mut EGraph, node: &Op, _: Id) -> Self::Data {
        let mut failed = None;
        egg::Language::for_each(node, |c| {
            if let Err(e) = &egraph[c].data {
                failed = Some(e.clone());
            }
        });
        match failed {
            Some(error) => Err(error),
            None => infer(node, |c| egraph[c].data.as_ref().unwrap_or(&Fact::Int(0)), &egraph.analysis.declarations),
        }
    }

    fn merge(&mut self, a: &mut Self::Data, b: Self::Data) -> DidMerge {
        if *a != b {
            let show = |d: &Self::Data| d.as_ref().map_or_else(FactError::to_string, Fact::to_string);
            self.clashes.push(Clash { left: show(a), right: show(&b) });
        }
        DidMerge(false, false)
    }
}
