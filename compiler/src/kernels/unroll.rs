//! Unrolls marked loops in WGSL text and turns small arrays into scalars.
//!
//! Drivers don't reliably keep `array<f32, 64>` in registers, so a kernel's tile is written as loops over arrays, which
//! can be read, and written out before a driver sees it:
//!
//! * a `for` loop after a line `//# unroll` is replaced by its iterations, the variable by its value;
//! * inside, a `let` whose value is then a constant is replaced by that value;
//! * `subgroupShuffle` from a lane that is then a constant becomes `subgroupBroadcast`;
//! * a local array that is only indexed by constants becomes one variable for each element.
//!
//! Every other loop must follow a line `//# trips N` with the most iterations it can make; their total is the result's
//! [`Unrolled::trips`].

use super::constant::{Constants, evaluate, is_word, module_constants};

/// Unrolled text.
#[derive(Debug, PartialEq)]
pub(crate) struct Unrolled {
    /// The text.
    pub(crate) wgsl: String,
    /// The most iterations that one invocation makes, over all loops that are left.
    pub(crate) trips: u64,
}

/// Why a text cannot be unrolled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnrollError {
    /// A loop has no pragma.
    #[error("the loop `{0}` has neither `//# unroll` nor `//# trips`")]
    Unmarked(String),
    /// A pragma's expression is no constant.
    #[error("`{0}` is not a constant expression")]
    NotConstant(String),
    /// What follows `//# unroll` is not `for (var i = A; i < B; i++) {`, `i += C` or `i *= C`.
    #[error("`{0}` is not a loop that can be unrolled")]
    Header(String),
    /// A brace is missing.
    #[error("unbalanced braces after `{0}`")]
    Unbalanced(String),
    /// An array's element does not exist.
    #[error("`{0}` is out of the array's bounds")]
    Bounds(String),
    /// A loop outside of the entry point, whose trips would be counted once however often it is called.
    #[error("the function `{0}` has a loop; only `main` may")]
    LoopInFunction(String),
}

/// Unrolls all marked loops of a module.
pub(crate) fn unroll(source: &str) -> Result<Unrolled, UnrollError> {
    let known = module_constants(source);
    let (text, trips) = expand(source, &known, false)?;
    let main = text.find("fn main(").unwrap_or(0);
    if let Some(at) = text[..main].lines().find(|l| starts_loop(l)) {
        return Err(UnrollError::LoopInFunction(at.trim().to_owned()));
    }
    let body = split_arrays(&broadcast_constant_lanes(&text[main..], &known), &known)?;
    Ok(Unrolled { wgsl: text[..main].to_owned() + &indent(&body), trips })
}

/// Indents lines by the brackets that they are inside.
fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut depth = 0usize;
    for line in text.lines().map(str::trim) {
        let code = line.split("//").next().unwrap_or("");
        let closes = code.chars().take_while(|c| matches!(c, '}' | ')')).count();
        let level = depth.saturating_sub(closes);
        if !line.is_empty() {
            out.extend(std::iter::repeat_n("    ", level));
            out.push_str(line);
        }
        out.push('\n');
        let count = |set: [char; 2]| code.chars().filter(|c| set.contains(c)).count();
        depth = (depth + count(['{', '('])).saturating_sub(count(['}', ')']));
    }
    out
}

fn starts_loop(line: &str) -> bool {
    let line = line.trim_start();
    ["for (", "loop {", "while (", "while "].iter().any(|k| line.starts_with(k))
}

/// Expands the loops of a block; `inside` an unrolled loop, comments and constant `let`s vanish.
fn expand(source: &str, known: &Constants, inside: bool) -> Result<(String, u64), UnrollError> {
    let mut text = String::with_capacity(source.len());
    let mut trips = 0u64;
    let mut rest = source.to_owned();
    while !rest.is_empty() {
        let (line, tail) = match rest.find('\n') {
            Some(at) => (rest[..at].to_owned(), rest[at + 1..].to_owned()),
            None => (rest.clone(), String::new()),
        };
        let trimmed = line.trim();
        if trimmed == "//# unroll" {
            let (header, body, after) = take_loop(&tail)?;
            let (name, values) = loop_values(&header, known)?;
            for value in values {
                let (one, inner) = expand(&replace_word(&body, &name, &format!("{value}u")), known, true)?;
                trips = trips.saturating_add(inner);
                if declares(&one) {
                    let indent = &header[..header.len() - header.trim_start().len()];
                    text.push_str(&format!("{indent}{{\n{one}{indent}}}\n"));
                } else {
                    text.push_str(&one);
                }
            }
            rest = after;
        } else if let Some(bound) = trimmed.strip_prefix("//# trips ") {
            let bound = evaluate(bound, known).ok_or_else(|| UnrollError::NotConstant(bound.to_owned()))?;
            let (header, body, after) = take_loop(&tail)?;
            let (body, inner) = expand(&body, known, inside)?;
            trips = trips.saturating_add(bound.saturating_mul(inner.saturating_add(1)));
            let indent = &header[..header.len() - header.trim_start().len()];
            text.push_str(&format!("{header}\n{body}{indent}}}\n"));
            rest = after;
        } else if starts_loop(&line) {
            return Err(UnrollError::Unmarked(trimmed.to_owned()));
        } else if inside && (trimmed.starts_with("//") || trimmed.is_empty()) {
            rest = tail;
        } else if let (true, Some((name, value))) = (inside, constant_let(trimmed, known)) {
            let end = block_end(&tail);
            rest = replace_word(&tail[..end], &name, &format!("{value}u")) + &tail[end..];
        } else {
            let code = if inside { line.split("//").next().unwrap_or("").trim_end() } else { &line };
            text.push_str(code);
            text.push('\n');
            rest = tail;
        }
    }
    Ok((text, trips))
}

/// Splits text that starts with a loop into its header up to `{`, its body, and what follows its closing brace.
fn take_loop(text: &str) -> Result<(String, String, String), UnrollError> {
    let unbalanced = || UnrollError::Unbalanced(text.lines().next().unwrap_or("").trim().to_owned());
    let (header, tail) = text.split_once('\n').ok_or_else(unbalanced)?;
    if !starts_loop(header) || !header.trim_end().ends_with('{') {
        return Err(UnrollError::Header(header.trim().to_owned()));
    }
    let end = block_end(tail);
    let after = tail[end..].strip_prefix('}').ok_or_else(unbalanced)?;
    let after = after.split_once('\n').map_or("", |(_, after)| after);
    let body = tail[..end].trim_end_matches(' ');
    Ok((header.to_owned(), body.to_owned(), after.to_owned()))
}

/// The position of the brace that closes the block in which `text` starts, or the end of the text.
fn block_end(text: &str) -> usize {
    let mut depth = 0usize;
    let mut comment = false;
    let bytes = text.as_bytes();
    for (i, &c) in bytes.iter().enumerate() {
        match c {
            b'\n' => comment = false,
            b'/' if bytes.get(i + 1) == Some(&b'/') => comment = true,
            _ if comment => {}
            b'{' => depth += 1,
            b'}' if depth == 0 => return i,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The variable and its values in `for (var i = A; i < B; i++) {`.
fn loop_values(header: &str, known: &Constants) -> Result<(String, Vec<u64>), UnrollError> {
    let parse = || {
        let inner = header.trim().strip_prefix("for (var ")?.strip_suffix(") {")?;
        let mut parts = inner.split(';');
        let (name, first) = parts.next()?.split_once('=')?;
        let name = name.trim();
        let last = parts.next()?.trim().strip_prefix(name)?.trim_start().strip_prefix('<')?;
        let step = parts.next()?.trim().strip_prefix(name)?.trim_start();
        let (first, last) = (evaluate(first, known)?, evaluate(last, known)?);
        let next: Box<dyn Fn(u64) -> Option<u64>> = if step == "++" {
            Box::new(|i| i.checked_add(1))
        } else if let Some(factor) = step.strip_prefix("*=") {
            let factor = evaluate(factor, known).filter(|&f| f > 1 && first > 0)?;
            Box::new(move |i| i.checked_mul(factor))
        } else {
            let step = evaluate(step.strip_prefix("+=")?, known).filter(|&s| s > 0)?;
            Box::new(move |i| i.checked_add(step))
        };
        let values = std::iter::successors(Some(first), |&i| next(i)).take_while(|&i| i < last).collect();
        Some((name.to_owned(), values))
    };
    parse().ok_or_else(|| UnrollError::Header(header.trim().to_owned()))
}

/// The name and value in `let name = constant;`.
fn constant_let(line: &str, known: &Constants) -> Option<(String, u64)> {
    let (name, value) = line.strip_prefix("let ")?.split_once('=')?;
    Some((name.trim().to_owned(), evaluate(value.split_once(';')?.0, known)?))
}

/// Whether a block declares a name, so that it needs its own scope.
fn declares(block: &str) -> bool {
    let mut depth = 0i32;
    for line in block.lines() {
        let code = line.trim_start();
        if depth == 0 && (code.starts_with("let ") || code.starts_with("var ")) {
            return true;
        }
        depth += code.matches('{').count() as i32 - code.matches('}').count() as i32;
    }
    false
}

/// Calls `visit` at each whole word of `text`; what it returns replaces the word and as many bytes after it.
fn map_words<E>(
    text: &str,
    mut visit: impl FnMut(&str, &str) -> Result<Option<(String, usize)>, E>,
) -> Result<String, E> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            before = ' ';
            continue;
        }
        if !is_word(c) {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            before = c;
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        let replaced = if before == '.' || c.is_ascii_digit() { None } else { visit(word, tail)? };
        match replaced {
            Some((text, skip)) => {
                out.push_str(&text);
                rest = &tail[skip..];
            }
            None => {
                out.push_str(word);
                rest = tail;
            }
        }
        before = 'a';
    }
    Ok(out)
}

fn replace_word(text: &str, word: &str, by: &str) -> String {
    let mapped =
        map_words(text, |found, _| Ok::<_, std::convert::Infallible>((found == word).then(|| (by.to_owned(), 0))));
    mapped.unwrap_or_else(|never| match never {})
}

/// What is inside the bracket that `text` starts with, and its length with both brackets.
fn bracketed(text: &str) -> Option<(&str, usize)> {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some((&text[1..i], i + 1));
                }
            }
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn broadcast_constant_lanes(text: &str, known: &Constants) -> String {
    let mapped = map_words(text, |word, tail| {
        let call = if word == "subgroupShuffle" { bracketed(tail) } else { None };
        let replaced = call.and_then(|(arguments, length)| {
            let (value, lane) = arguments.rsplit_once(',')?;
            let lane = evaluate(lane, known)?;
            Some((format!("subgroupBroadcast({value}, {lane}u)"), length))
        });
        Ok::<_, std::convert::Infallible>(replaced)
    });
    mapped.unwrap_or_else(|never| match never {})
}

/// The name, element type and length in `var name: array<T, N>;`.
fn array_declaration(line: &str, known: &Constants) -> Option<(String, String, u64)> {
    let (name, kind) = line.trim().strip_prefix("var ")?.split_once(": array<")?;
    let (element, length) = kind.strip_suffix(">;")?.rsplit_once(',')?;
    Some((name.to_owned(), element.trim().to_owned(), evaluate(length, known)?))
}

/// Replaces arrays that are only indexed by constants.
fn split_arrays(text: &str, known: &Constants) -> Result<String, UnrollError> {
    let mut text = text.to_owned();
    let declared: Vec<_> = text.lines().filter_map(|line| array_declaration(line, known)).collect();
    for (name, element, length) in declared {
        let marker = format!("var {name}: array<");
        if !text.contains(&marker) {
            continue;
        }
        let mut constant = true;
        let mut out_of_bounds = None;
        let mut lines = String::with_capacity(text.len());
        for line in text.lines() {
            if line.trim_start().starts_with(&marker) {
                let indent = &line[..line.len() - line.trim_start().len()];
                for i in 0..length {
                    lines.push_str(&format!("{indent}var {name}_{i}: {element};\n"));
                }
                continue;
            }
            let replaced = map_words(line, |word, tail| {
                if word != name {
                    return Ok::<_, std::convert::Infallible>(None);
                }
                let index = bracketed(tail).and_then(|(index, skip)| Some((evaluate(index, known)?, skip)));
                Ok(match index {
                    Some((i, skip)) => {
                        if i >= length {
                            out_of_bounds = Some(format!("{name}[{i}]"));
                        }
                        Some((format!("{name}_{i}"), skip))
                    }
                    None => {
                        constant = false;
                        None
                    }
                })
            });
            lines.push_str(&replaced.unwrap_or_else(|never| match never {}));
            lines.push('\n');
        }
        if constant {
            if let Some(element) = out_of_bounds {
                return Err(UnrollError::Bounds(element));
            }
            text = lines;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn writes_out_nested_loops_and_arrays() {
        let source = "\
const R: u32 = 2;
fn main() {
    var acc: array<f32, R * 2>;
    //# trips 3
    for (var k = 0u; k < n; k++) {
        //# unroll
        for (var r = 0u; r < R; r++) {
            // a comment
            let x = subgroupShuffle(v.r, r + 1u);
            //# unroll
            for (var c = 0u; c < 2; c++) {
                let i = r * 2u + c;
                acc[i] += x; // another
            }
        }
    }
    //# unroll
    for (var i = 0u; i < 4; i += 3) {
        out[i] = acc[i];
    }
}
";
        let expected = "\
const R: u32 = 2;
fn main() {
    var acc_0: f32;
    var acc_1: f32;
    var acc_2: f32;
    var acc_3: f32;
    for (var k = 0u; k < n; k++) {
        {
            let x = subgroupBroadcast(v.r, 1u);
            acc_0 += x;
            acc_1 += x;
        }
        {
            let x = subgroupBroadcast(v.r, 2u);
            acc_2 += x;
            acc_3 += x;
        }
    }
    out[0u] = acc_0;
    out[3u] = acc_3;
}
";
        assert_eq!(unroll(source).unwrap(), Unrolled { wgsl: expected.to_owned(), trips: 3 });
    }

    #[test]
    fn sums_trips_in_sequence_and_multiplies_nested_ones() {
        let source = "fn main() {\n//# trips 5\nfor (a) {\n//# trips 7\nloop {\n}\n}\n//# trips 2\nfor (b) {\n}\n}\n";
        assert_eq!(unroll(source).unwrap().trips, 5 * 8 + 2);
    }

    #[test]
    fn keeps_arrays_with_a_computed_index() {
        let source = "fn main() {\n    var a: array<f32, 2>;\n    a[0] = a[i];\n}\n";
        assert_eq!(unroll(source).unwrap().wgsl, source);
    }

    #[test]
    fn refuses() {
        let main = |body: &str| unroll(&format!("fn main() {{\n{body}\n}}\n")).unwrap_err();
        assert!(matches!(main("for (var i = 0u; i < 2; i++) {\n}"), UnrollError::Unmarked(_)));
        assert!(matches!(main("//# trips n\nloop {\n}"), UnrollError::NotConstant(_)));
        assert!(matches!(main("//# unroll\nfor (var i = 0u; i < n; i++) {\n}"), UnrollError::Header(_)));
        assert!(matches!(main("//# unroll\nlet a = 1;"), UnrollError::Header(_)));
        assert!(matches!(main("var a: array<f32, 2>;\na[2] = 1.0;"), UnrollError::Bounds(_)));
        let unbalanced = unroll("fn main() {\n//# trips 2\nloop {\n").unwrap_err();
        assert!(matches!(unbalanced, UnrollError::Unbalanced(_)));
        let function = unroll("fn f() {\n//# trips 2\nloop {\n}\n}\nfn main() {\n}\n").unwrap_err();
        assert!(matches!(function, UnrollError::LoopInFunction(_)));
    }
}
