//! Constant u32 expressions in WGSL text.

use std::collections::HashMap;

/// Names with a known value.
pub(crate) type Constants = HashMap<String, u64>;

/// The value of `text` if it is an expression over literals and `known` names with `+ - * / %`, parentheses,
/// `min` and `max`.
pub(crate) fn evaluate(text: &str, known: &Constants) -> Option<u64> {
    let mut parser = Parser { rest: text.trim(), known };
    let value = parser.sum()?;
    parser.rest.trim_start().is_empty().then_some(value)
}

/// All `const NAME: u32 = EXPRESSION;` lines of a module, in order.
pub(crate) fn module_constants(source: &str) -> Constants {
    let mut known = Constants::new();
    for line in source.lines() {
        let Some(rest) = line.strip_prefix("const ") else { continue };
        let Some((name, rest)) = rest.split_once(": u32 =") else { continue };
        let Some((expression, _)) = rest.split_once(';') else { continue };
        if let Some(value) = evaluate(expression, &known) {
            known.insert(name.trim().to_owned(), value);
        }
    }
    known
}

/// Whether `c` may stand in an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

struct Parser<'a> {
    rest: &'a str,
    known: &'a Constants,
}

impl Parser<'_> {
    fn eat(&mut self, token: char) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(token) {
            Some(tail) => {
                self.rest = tail;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Option<u64> {
        let mut value = self.product()?;
        loop {
            if self.eat('+') {
                value = value.checked_add(self.product()?)?;
            } else if self.eat('-') {
                value = value.checked_sub(self.product()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<u64> {
        let mut value = self.atom()?;
        loop {
            if self.eat('*') {
                value = value.checked_mul(self.atom()?)?;
            } else if self.eat('/') {
                value = value.checked_div(self.atom()?)?;
            } else if self.eat('%') {
                value = value.checked_rem(self.atom()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn atom(&mut self) -> Option<u64> {
        if self.eat('(') {
            let value = self.sum()?;
            return self.eat(')').then_some(value);
        }
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (word, tail) = self.rest.split_at(end);
        self.rest = tail;
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.strip_suffix('u').unwrap_or(word).parse().ok();
        }
        if matches!(word, "min" | "max") && self.eat('(') {
            let a = self.sum()?;
            let b = self.eat(',').then(|| self.sum())??;
            return self.eat(')').then_some(if word == "min" { a.min(b) } else { a.max(b) });
        }
        self.known.get(word).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn evaluates() {
        let known = module_constants("const R: u32 = 4;\nconst C: u32 = R * 2u + 1; // nine\nconst X: f32 = 1.0;\n");
        assert_eq!(known.len(), 2);
        for (text, value) in [
            ("3u", Some(3)),
            ("R * C", Some(36)),
            ("(R + C) / 2 % 4", Some(2)),
            ("max(R, C) - min(R, 1u)", Some(8)),
            ("R - C", None),
            ("k + 1", None),
            ("1 / 0", None),
            ("2 3", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(evaluate(text, &known), value, "{text}");
        }
    }
}
