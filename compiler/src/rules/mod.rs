//! Rewriting: the rule table and the saturation of one body.
//!
//! Laws for rules: directed (a right side is never worse than its left on every target), no general commutativity or
//! associativity, conditions are checked where the rule matches, and both sides have the same fact. Each rule names its
//! [`Class`]; the generic test in `tests/` runs over the whole table.

mod analysis;
mod attention;
mod conditions;
mod epilogue;
mod latent;
mod linear;
mod merge;
mod norm;
mod quantize;
mod saturate;
mod scale;
mod set;

use egg::{Pattern, Rewrite, Var};

use crate::graph::Op;

pub use analysis::{Clash, Facts};
pub use conditions::Condition;
pub use merge::{MERGE_NAME, merge_siblings};
pub use saturate::{
    Limits, RewriteError, RoundReport, Saturated, StageReport, StopReason, saturate, saturate_explained,
};
pub use set::{RuleSet, UnknownRule};
pub use warpweft_plan::Class;

/// An e-graph over the one language.
pub type EGraph = egg::EGraph<Op, Facts>;

/// A stage of saturation; stages run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Kernels are found and take up what surrounds them.
    Fuse,
    /// Kernels that share an input become one.
    Merge,
    /// Kernels take up the norms before them.
    Prologue,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 3] = [Stage::Fuse, Stage::Merge, Stage::Prologue];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Fuse => "fuse",
            Stage::Merge => "merge",
            Stage::Prologue => "prologue",
        }
    }
}

/// A rewrite.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// What it may change in the numbers.
    pub class: Class,
    /// When it runs.
    pub stage: Stage,
    /// What it matches.
    pub left: Pattern<Op>,
    /// What is equal to that.
    pub right: Pattern<Op>,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

impl Rule {
    fn rewrite(&self) -> Result<Rewrite<Op, Facts>, RewriteError> {
        let conditions = self.conditions.clone();
        let holds = move |egraph: &mut EGraph, _: egg::Id, subst: &egg::Subst| {
            conditions.iter().all(|c| c.holds(egraph, subst))
        };
        let applier = egg::ConditionalApplier { condition: holds, applier: self.right.clone() };
        Rewrite::new(self.name.clone(), self.left.clone(), applier)
            .map_err(|problem| RewriteError::Rule { name: self.name.clone(), problem })
    }
}

/// A line of the table: name, class, `left => right`, conditions.
macro_rules! rule {
    ($name:expr, $class:ident, $left:expr => $right:expr $(, $condition:expr)* $(,)?) => {
        crate::rules::line($name, crate::rules::Class::$class, $left, $right, vec![$($condition),*])
    };
}
pub(crate) use rule;

/// The table, or the first line of it that does not parse.
pub(crate) type Table = Result<Vec<Rule>, RewriteError>;

fn line(
    name: impl Into<String>,
    class: Class,
    left: &str,
    right: &str,
    conditions: Vec<Condition>,
) -> Result<Rule, RewriteError> {
    let name = name.into();
    let parse = |text: &str| {
        text.parse::<Pattern<Op>>().map_err(|e| RewriteError::Rule { name: name.clone(), problem: e.to_string() })
    };
    Ok(Rule { class, stage: Stage::Fuse, left: parse(left)?, right: parse(right)?, conditions, name: name.clone() })
}

/// All pattern rules. [`merge_siblings`] is the one rewrite beside them: its left side has any number of parts.
///
/// # Errors
/// When a line does not parse; a bug.
pub fn table() -> Table {
    let themes = [
        quantize::rules(),
        linear::rules(),
        epilogue::rules(),
        attention::rules(),
        scale::rules(),
        latent::rules(),
        norm::rules(),
    ];
    let mut rules = Vec::new();
    for theme in themes {
        rules.extend(theme?);
    }
    Ok(rules)
}

/// The variable of that name, `?x`.
fn var(name: &'static str) -> Var {
    // A Var is a question mark and a symbol, and every name here is written with one.
    name.parse().unwrap_or_else(|_| unreachable!("{name} is a variable"))
}
