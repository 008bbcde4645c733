//! Values of formulas, as proofs name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A value of a body's formula; prints as `%3` or `$0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum FormulaValue {
    /// A line.
    Line(u32),
    /// An argument of the body.
    Arg(u32),
}

impl fmt::Display for FormulaValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormulaValue::Line(n) => write!(f, "%{n}"),
            FormulaValue::Arg(n) => write!(f, "${n}"),
        }
    }
}

/// A text that is no [`FormulaValue`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no value of a formula, such as %3 or $0")]
pub struct ParseFormulaValueError(String);

impl FromStr for FormulaValue {
    type Err = ParseFormulaValueError;

    fn from_str(text: &str) -> Result<FormulaValue, ParseFormulaValueError> {
        let number = |digits: &str| digits.parse().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()));
        let value = match text.split_at_checked(1) {
            Some(("%", digits)) => number(digits).map(FormulaValue::Line),
            Some(("$", digits)) => number(digits).map(FormulaValue::Arg),
            Some(_) | None => None,
        };
        value.ok_or_else(|| ParseFormulaValueError(text.chars().take(80).collect()))
    }
}

impl From<FormulaValue> for String {
    fn from(value: FormulaValue) -> String {
        value.to_string()
    }
}

impl TryFrom<String> for FormulaValue {
    type Error = ParseFormulaValueError;
    fn try_from(text: String) -> Result<FormulaValue, ParseFormulaValueError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_print_and_parse() {
        for text in ["%0", "$12"] {
            assert_eq!(text.parse::<FormulaValue>().unwrap().to_string(), text);
        }
        for text in ["", "%", "$", "3", "%x", "%+1", "%-1", "é1", "%99999999999"] {
            assert!(text.parse::<FormulaValue>().is_err(), "{text}");
        }
    }
}
