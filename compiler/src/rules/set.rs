//! The rules that a compile uses: all of them, or all but some.

use super::{MERGE_NAME, RewriteError, Rule, table};

/// Names that a message about an unknown one lists.
const SUGGESTIONS: usize = 5;

/// How much alike two names have to be for one to be suggested for the other, from 0 to 1.
const ALIKE: f64 = 0.6;

/// The rules of a saturation.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// Patterns, in the order of the table.
    pub patterns: Vec<Rule>,
    /// Whether [`merge_siblings`](super::merge_siblings) is one of them.
    pub merges: bool,
}

/// A name that no rule has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule {found:?}; {}", hint(close))]
pub struct UnknownRule {
    /// The name.
    pub found: String,
    /// Names that are like it, the likest first.
    pub close: Vec<String>,
}

fn hint(close: &[String]) -> String {
    match close {
        [] => "docs/rules.md lists them".into(),
        [name] => format!("did you mean {name}?"),
        names => format!("did you mean one of {}?", names.join(", ")),
    }
}

impl RuleSet {
    /// All rules.
    ///
    /// # Errors
    /// When a line of the table does not parse; a bug.
    pub fn all() -> Result<RuleSet, RewriteError> {
        Ok(RuleSet { patterns: table()?, merges: true })
    }

    /// All rules but those of these names.
    ///
    /// # Errors
    /// When no rule has one of the names.
    pub fn without(names: &[String]) -> Result<RuleSet, RewriteError> {
        let mut rules = RuleSet::all()?;
        names.iter().try_for_each(|name| rules.check(name))?;
        rules.patterns.retain(|rule| !names.contains(&rule.name));
        rules.merges &= !names.iter().any(|name| name == MERGE_NAME);
        Ok(rules)
    }

    /// The names of all rules.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|rule| rule.name.as_str()).chain(self.merges.then_some(MERGE_NAME))
    }

    /// Whether a rule has that name.
    ///
    /// # Errors
    /// When none has.
    pub fn check(&self, name: &str) -> Result<(), UnknownRule> {
        if self.names().any(|known| known == name) {
            return Ok(());
        }
        let mut close: Vec<(f64, &str)> = self
            .names()
            .map(|known| {
                let part = !name.is_empty() && (known.contains(name) || name.contains(known));
                (strsim::normalized_damerau_levenshtein(known, name).max(if part { ALIKE } else { 0.0 }), known)
            })
            .filter(|(alike, _)| *alike >= ALIKE)
            .collect();
        close.sort_by(|a, b| b.0.total_cmp(&a.0));
        let close = close.into_iter().take(SUGGESTIONS).map(|(_, known)| known.to_owned()).collect();
        Err(UnknownRule { found: name.into(), close })
    }
}

impl From<Vec<Rule>> for RuleSet {
    /// These patterns and nothing else.
    fn from(patterns: Vec<Rule>) -> RuleSet {
        RuleSet { patterns, merges: false }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_are_left_out_by_name() {
        let all = RuleSet::all().unwrap();
        let some = RuleSet::without(&["linear-gelu".into(), MERGE_NAME.into()]).unwrap();
        assert_eq!(all.names().count(), some.names().count() + 2);
        assert!(all.merges && !some.merges && some.names().all(|name| name != "linear-gelu"));
    }

    #[test]
    fn unknown_names_are_refused_with_close_ones() {
        let message = |name: &str| RuleSet::without(&[name.into()]).map(|_| ()).unwrap_err().to_string();
        assert!(message("linear-gleu").contains("\"linear-gleu\"; did you mean one of linear-gelu,"));
        assert!(message("merge-sibling").ends_with("did you mean merge-siblings?"));
        assert!(message("attention-").contains("attention-grouped"));
        assert!(message("zzzzzzzz").ends_with("docs/rules.md lists them"));
        assert!(message("").ends_with("docs/rules.md lists them"));
    }
}
