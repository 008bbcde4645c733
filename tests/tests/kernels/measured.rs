//! Predicted times against measured ones, from a file: no test here looks at a clock.
//!
//! `measured/lavapipe.json` is what `compile-model tune --json` measured on lavapipe 22.3 with two shared cores: for each operation
//! its alternatives with their seconds, the least of four runs.

use std::collections::BTreeMap;

use serde_json::Value;
use warpweft_compiler::formats::Format;
use warpweft_compiler::kernels::spec::{Binary, Norm, Operand, Operation, Prologue, RowNorm, Rows, Term, View};
use warpweft_compiler::kernels::{RowRange, candidates, compose};
use warpweft_compiler::target::Target;
use warpweft_plan::Sizes;

/// Pairs of alternatives that differ by less are a matter of chance.
const DIFFERENT: f64 = 1.2;

/// `linear f16 1024x256, 16 rows`, maybe behind a norm with a gain.
fn linear(name: &str) -> Option<(Operation, u32)> {
    let plain = name.strip_prefix("rms-norm and ");
    let words: Vec<&str> = plain.unwrap_or(name).split([' ', 'x', ',']).filter(|word| !word.is_empty()).collect();
    let ["linear", format, k, n, rows, "rows"] = words[..] else { return None };
    let format = Format::FLOATS.into_iter().find(|f| f.name() == format)?;
    let (k, n) = (k.parse().ok()?, n.parse().ok()?);
    let operation = Operation::Linear {
        x: View::whole(k),
        n,
        format,
        paired: false,
        term: Term::Acc,
        operands: Vec::new(),
        out: View::whole(n),
        rows: Rows::Tokens,
    };
    let rows = rows.parse().ok()?;
    if plain.is_none() {
        return Some((operation, rows));
    }
    let term = Term::Binary(Binary::Mul, Box::new(Term::Acc), Box::new(Term::Operand(0)));
    let norms = vec![RowNorm { norm: Norm::Rms, eps: 1e-6, term }];
    let prologue = Prologue { norms, operands: vec![Operand::Vector], carried: false };
    Some((Operation::NormedLinear { prologue, linear: Box::new(operation) }, rows))
}

#[test]
fn the_order_of_tiles_is_that_of_the_clock() {
    let target = Target::named("subgroup8").unwrap();
    let recorded: Value = serde_json::from_str(include_str!("measured/lavapipe.json")).unwrap();
    let mut groups: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
    for sample in recorded["samples"].as_array().unwrap() {
        let kernel = (sample["kernel"].as_str().unwrap(), sample["seconds"].as_f64().unwrap());
        groups.entry(sample["operation"].as_str().unwrap()).or_default().push(kernel);
    }
    let (mut pairs, mut agreeing, mut chosen, mut errors) = (0, 0, Vec::new(), Vec::new());
    for (name, kernels) in &groups {
        let Some((operation, rows)) = linear(name) else { continue };
        let range = RowRange { min: rows, max: Some(rows) };
        let sizes = Sizes { tokens: rows.into(), context: rows.into(), sequences: 1 };
        let composed: Vec<_> = candidates(&operation, target, range)
            .unwrap()
            .into_iter()
            .filter_map(|choice| compose(&operation, choice, target).ok())
            .collect();
        let time = |&(kernel, seconds): &(&str, f64)| {
            let composed = composed.iter().find(|c| c.name == kernel)?;
            Some((composed.seconds(&target.rates, sizes), seconds))
        };
        let times: Vec<(f64, f64)> = kernels.iter().filter_map(time).collect();
        assert!(times.len() > 2, "{name}: its kernels are called otherwise now; measure again");
        for (i, a) in times.iter().enumerate() {
            for b in &times[i + 1..] {
                if a.1.max(b.1) > DIFFERENT * a.1.min(b.1) {
                    pairs += 1;
                    agreeing += usize::from((a.0 < b.0) == (a.1 < b.1));
                }
            }
        }
        let first = times.iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        let fastest = times.iter().map(|t| t.1).fold(f64::INFINITY, f64::min);
        chosen.push((name, first.1 / fastest));
        errors.extend(times.iter().map(|t| (t.0 / t.1).max(t.1 / t.0) - 1.0));
    }
    errors.sort_by(f64::total_cmp);
    println!("{agreeing} of {pairs} pairs, median error {:.2}, chosen {chosen:?}", errors[errors.len() / 2]);
    assert!(pairs >= 20, "{pairs}");
    assert!(agreeing * 100 >= pairs * 93, "{agreeing} of {pairs} pairs");
    assert!(errors[errors.len() / 2] < 0.25, "{errors:?}");
    for (name, ratio) in chosen {
        assert!(ratio <= 1.2, "{name}: what is chosen takes {ratio:.2} times as long as the fastest");
    }
}
