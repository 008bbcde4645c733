//! Symbolic sizes: a constant plus coefficient × symbol.

use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a size may depend on at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Symbol {
    /// New rows in this step, over all its sequences.
    Tokens,
    /// Cached and new rows of one sequence.
    Context,
    /// Sequences in this step.
    Sequences,
}

impl Symbol {
    /// All symbols, in the order in which a [`Dim`] is printed.
    pub const ALL: [Symbol; 3] = [Symbol::Tokens, Symbol::Context, Symbol::Sequences];

    /// The name that the text forms use.
    pub fn name(self) -> &'static str {
        match self {
            Symbol::Tokens => "tokens",
            Symbol::Context => "context",
            Symbol::Sequences => "sequences",
        }
    }
}

/// Values of the symbols in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Value of [`Symbol::Tokens`].
    pub tokens: u64,
    /// Value of [`Symbol::Context`].
    pub context: u64,
    /// Value of [`Symbol::Sequences`].
    pub sequences: u64,
}

/// A size: `constant + tokens·T + context·C + sequences·S`.
///
/// Prints and parses as `2*tokens+64`; the order of terms is fixed, so equal sizes print alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Dim {
    /// The part that depends on no symbol.
    pub constant: i64,
    /// Coefficient of [`Symbol::Tokens`].
    pub tokens: i64,
    /// Coefficient of [`Symbol::Context`].
    pub context: i64,
    /// Coefficient of [`Symbol::Sequences`].
    pub sequences: i64,
}

impl Dim {
    /// `tokens`
    pub const TOKENS: Dim = Dim { constant: 0, tokens: 1, context: 0, sequences: 0 };
    /// `context`
    pub const CONTEXT: Dim = Dim { constant: 0, tokens: 0, context: 1, sequences: 0 };
    /// `sequences`
    pub const SEQUENCES: Dim = Dim { constant: 0, tokens: 0, context: 0, sequences: 1 };

    /// A size that depends on nothing.
    pub const fn constant(constant: i64) -> Dim {
        Dim { constant, tokens: 0, context: 0, sequences: 0 }
    }

    /// The value if no symbol occurs.
    pub fn as_constant(self) -> Option<i64> {
        (self.tokens == 0 && self.context == 0 && self.sequences == 0).then_some(self.constant)
    }

    /// The coefficient of `symbol`.
    pub fn coefficient(self, symbol: Symbol) -> i64 {
        match symbol {
            Symbol::Tokens => self.tokens,
            Symbol::Context => self.context,
            Symbol::Sequences => self.sequences,
        }
    }

    /// The value for given symbols; `None` if it is negative or does not fit in 64 bits.
    pub fn eval(self, sizes: Sizes) -> Option<u64> {
        let term = |coefficient: i64, value: u64| i64::try_from(value).ok()?.checked_mul(coefficient);
        let sum = self
            .constant
            .checked_add(term(self.tokens, sizes.tokens)?)?
            .checked_add(term(self.context, sizes.context)?)?
            .checked_add(term(self.sequences, sizes.sequences)?)?;
        u64::try_from(sum).ok()
    }
}

impl From<i64> for Dim {
    fn from(constant: i64) -> Dim {
        Dim::constant(constant)
    }
}

fn zip(a: Dim, b: Dim, f: impl Fn(i64, i64) -> i64) -> Dim {
    Dim {
        constant: f(a.constant, b.constant),
        tokens: f(a.tokens, b.tokens),
        context: f(a.context, b.context),
        sequences: f(a.sequences, b.sequences),
    }
}

impl Add for Dim {
    type Output = Dim;
    fn add(self, other: Dim) -> Dim {
        zip(self, other, i64::saturating_add)
    }
}

impl Sub for Dim {
    type Output = Dim;
    fn sub(self, other: Dim) -> Dim {
        zip(self, other, i64::saturating_sub)
    }
}

impl Mul<i64> for Dim {
    type Output = Dim;
    fn mul(self, factor: i64) -> Dim {
        zip(self, self, |a, _| a.saturating_mul(factor))
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for symbol in Symbol::ALL {
            let c = self.coefficient(symbol);
            if c == 0 {
                continue;
            }
            if !first && c > 0 {
                f.write_str("+")?;
            }
            match c {
                1 => write!(f, "{}", symbol.name())?,
                -1 => write!(f, "-{}", symbol.name())?,
                c => write!(f, "{c}*{}", symbol.name())?,
            }
            first = false;
        }
        if first {
            write!(f, "{}", self.constant)
        } else if self.constant != 0 {
            write!(f, "{:+}", self.constant)
        } else {
            Ok(())
        }
    }
}

/// A text that is no [`Dim`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size such as 64, tokens or 2*tokens+64")]
pub struct ParseDimError(String);

impl FromStr for Dim {
    type Err = ParseDimError;

    fn from_str(text: &str) -> Result<Dim, ParseDimError> {
        let error = || ParseDimError(text.chars().take(80).collect());
        let mut dim = Dim::default();
        let mut rest = text;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let end = rest.char_indices().skip(1).find(|(_, c)| matches!(c, '+' | '-')).map_or(rest.len(), |(i, _)| i);
            let (term, tail) = rest.split_at(end);
            rest = tail;
            let (sign, body) = match term.as_bytes()[0] {
                b'+' => (1, &term[1..]),
                b'-' => (-1, &term[1..]),
                _ => (1, term),
            };
            let (number, name) = match body.split_once('*') {
                Some((n, name)) if !name.is_empty() => (n, name),
                _ if body.is_empty() || body.ends_with('*') => return Err(error()),
                _ if body.starts_with(|c: char| c.is_ascii_digit()) => (body, ""),
                _ => ("1", body),
            };
            if !number.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(error());
            }
            let value = sign * number.parse::<i64>().map_err(|_| error())?;
            let slot = match name {
                "" => &mut dim.constant,
                "tokens" => &mut dim.tokens,
                "context" => &mut dim.context,
                "sequences" => &mut dim.sequences,
                _ => return Err(error()),
            };
            *slot = slot.checked_add(value).ok_or_else(error)?;
        }
        Ok(dim)
    }
}

impl From<Dim> for String {
    fn from(dim: Dim) -> String {
        dim.to_string()
    }
}

impl TryFrom<String> for Dim {
    type Error = ParseDimError;
    fn try_from(text: String) -> Result<Dim, ParseDimError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_and_parses() {
        for text in ["0", "64", "-3", "tokens", "-tokens", "2*tokens+64", "tokens+context-1", "3*sequences"] {
            assert_eq!(text.parse::<Dim>().unwrap().to_string(), text);
        }
        for text in ["", "+", "x", "2*", "*tokens", "tokens*2", "99999999999999999999", "é", "1+é"] {
            assert!(text.parse::<Dim>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(constant in -99i64..99, tokens in -9i64..9, context in -9i64..9, sequences in -9i64..9) {
            let dim = Dim { constant, tokens, context, sequences };
            prop_assert_eq!(dim.to_string().parse::<Dim>().unwrap(), dim);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,20}") {
            let _ = text.parse::<Dim>();
        }
    }
}
