//! Proofs as algebra.

use serde::Serialize;
use warpweft_compiler::proof::algebra::{Names, algebra, difference};
use warpweft_compiler::proof::{Chain, LOWERING, ProofFault, body_weight};
use warpweft_plan::Plan;
use warpweft_plan::provenance::{Call, FormulaValue, Provenance, Region};

use super::{Explain, Part, is_wanted, kernel_name, place, rows};
use crate::CliError;
use crate::console::Console;
use crate::lossy::{LossyDocument, lossy};

#[derive(Serialize)]
struct Document<'p> {
    parts: Vec<PartDocument<'p>>,
}

#[derive(Serialize)]
struct PartDocument<'p> {
    layers: Vec<Option<u32>>,
    target: &'p str,
    rows: (u32, Option<u32>),
    kernels: Vec<KernelDocument<'p>>,
}

/// A kernel with its proof, every term as lines of algebra.
#[derive(Serialize)]
struct KernelDocument<'p> {
    number: usize,
    kernel: &'p str,
    /// What the kernel's inputs hold.
    inputs: Vec<String>,
    /// Which values of the formula the results are.
    results: Vec<String>,
    /// A kernel before this one, together with which it computes the results.
    together: Option<usize>,
    /// Kernels whose proofs contain this one.
    within: &'p [usize],
    /// Over the weights as the checkpoint has them.
    formula: Vec<String>,
    /// Weights that are rounded.
    lossy: Vec<LossyDocument<'p>>,
    steps: Vec<StepDocument<'p>>,
}

#[derive(Serialize)]
struct StepDocument<'p> {
    rule: &'p str,
    class: &'static str,
    backward: bool,
    term: Vec<String>,
}

pub(super) fn run(
    args: &Explain,
    plan: &Plan,
    provenance: &Provenance,
    parts: &[Part<'_>],
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let mut document = Document { parts: Vec::new() };
    for part in parts {
        let mut kernels = Vec::new();
        let wanted: Vec<usize> =
            (0..part.variant.calls.len()).filter(|&call| is_wanted(args, plan, part.variant, call)).collect();
        if !console.json && !wanted.is_empty() {
            let (place, rows) = (place(&part.regions, provenance), rows(part.variant));
            console.print(&format!("{place}, {}, {rows}\n", part.variant.target))?;
        }
        for call in wanted {
            let kernel = explained(plan, provenance, part, call).map_err(|fault| {
                CliError::Failed(format!("kernel {call} ({}): {fault}", kernel_name(plan, part.variant, call)))
            })?;
            match console.json {
                true => kernels.push(kernel),
                false => console.print(&text(&kernel))?,
            }
        }
        document.parts.push(PartDocument {
            layers: part.regions.iter().map(|r| r.layer).collect(),
            target: &part.variant.target,
            rows: (part.variant.min_rows, part.variant.max_rows),
            kernels,
        });
    }
    if console.json { console.print_json(&document) } else { Ok(()) }
}

fn explained<'p>(
    plan: &'p Plan,
    provenance: &'p Provenance,
    part: &Part<'p>,
    number: usize,
) -> Result<KernelDocument<'p>, ProofFault> {
    let call: &'p Call = &part.variant.calls[number];
    let mut document = KernelDocument {
        number,
        kernel: kernel_name(plan, part.variant, number),
        inputs: Vec::new(),
        results: Vec::new(),
        together: part.variant.calls[..number].iter().position(|c| c.proof.is_some() && c.proof == call.proof),
        within: &call.within,
        formula: Vec::new(),
        lossy: Vec::new(),
        steps: Vec::new(),
    };
    let Some(proof) = call.proof else { return Ok(document) };
    let chain = Chain::parse(provenance, part.body, proof)?;
    let names = names(&chain, part.regions[0]);
    document.inputs = chain.proof.arguments.iter().map(|values| origin(part, values)).collect();
    document.results = chain.proof.results.iter().map(ToString::to_string).collect();
    (document.formula, document.lossy) = lossy(plan, &part.regions, &chain, &names)?;
    for ((pair, &(rule, class)), step) in chain.terms.windows(2).zip(&chain.rules).zip(&chain.proof.steps) {
        let found = difference(&pair[0], &pair[1])?;
        let term = algebra(&found.after, &names, &found.added);
        document.steps.push(StepDocument { rule, class: class.name(), backward: step.backward, term });
    }
    Ok(document)
}

/// What the formula's values that an input holds are: of the body's own inputs, or of another kernel.
fn origin(part: &Part<'_>, values: &[FormulaValue]) -> String {
    let shown: Vec<String> = values.iter().map(ToString::to_string).collect();
    let shown = shown.join(", ");
    let makes = |call: &Call| {
        let proof = call.proof.and_then(|p| part.body.proofs.get(p));
        proof.is_some_and(|p| values.iter().all(|v| p.results.contains(v)))
    };
    match values {
        [FormulaValue::Arg(_)] => format!("{shown}, from outside"),
        _ => match part.variant.calls.iter().rposition(makes) {
            Some(call) => format!("{shown}, from kernel {call}"),
            None => shown,
        },
    }
}

fn names(chain: &Chain<'_>, region: &Region) -> Names {
    let declared = chain.terms[0].declarations();
    let checkpoint = |name: &str| region.weights.get(body_weight(name)?).map(String::as_str);
    let all: Vec<&str> = region.weights.iter().map(String::as_str).collect();
    let outputs = chain.terms[0].outputs().len();
    let output = |i: usize| if outputs == 1 { "y".to_owned() } else { format!("y{i}") };
    Names {
        weights: declared.weights.iter().map(|w| short(checkpoint(&w.name).unwrap_or(&w.name), &all)).collect(),
        args: (0..declared.args.len()).map(|i| format!("x{i}")).collect(),
        outputs: (0..outputs).map(output).collect(),
    }
}

/// The last parts of a name, at least two, that tell it from all others.
fn short(name: &str, all: &[&str]) -> String {
    let dots: Vec<usize> = name.match_indices('.').map(|(at, _)| at + 1).rev().skip(1).collect();
    let is_own = |tail: &&str| {
        let ends = |other: &&&str| **other != name && (other.ends_with(&format!(".{tail}")) || **other == *tail);
        all.iter().filter(ends).count() == 0
    };
    dots.into_iter().map(|at| &name[at..]).find(is_own).unwrap_or(name).to_owned()
}

fn text<'k>(kernel: &'k KernelDocument<'_>) -> String {
    let mut lines = vec![format!("{}  {}", kernel.number, kernel.kernel)];
    if !kernel.results.is_empty() {
        let results = kernel.results.join(", ");
        lines.push(format!(
            "   computes {results} of the formula{}",
            if kernel.inputs.is_empty() { "" } else { " from" }
        ));
    }
    for (i, input) in kernel.inputs.iter().enumerate() {
        lines.push(format!("     x{i}: {input}"));
    }
    if let Some(other) = kernel.together {
        lines.truncate(1);
        lines.push(format!(
            "   computes {} of the formula together with kernel {other}: see there\n",
            kernel.results.join(", ")
        ));
        return lines.join("\n");
    }
    if kernel.formula.is_empty() {
        let within: Vec<String> = kernel.within.iter().map(ToString::to_string).collect();
        lines.push(match within.as_slice() {
            [] => "   has no proof".into(),
            [one] => format!("   computes a part of kernel {one}: see there"),
            more => format!("   computes a part of kernels {}: see there", more.join(", ")),
        });
    }
    let mut before: &[String] = &kernel.formula;
    lines.extend(kernel.formula.iter().map(|line| format!("       {line}")));
    let mut step = |heading: String, term: &'k [String]| {
        lines.push(format!("   {heading}"));
        // A line that is as it was is not said again.
        let unmarked = |line: &String| line.replace(['«', '»'], "");
        let known = |line: &&String| !before.iter().any(|b| unmarked(b) == unmarked(line));
        lines.extend(term.iter().filter(known).map(|line| format!("       {line}")));
        before = term;
    };
    kernel.lossy.iter().for_each(|rounding| step(rounding.heading(), &rounding.term));
    for StepDocument { rule, class, backward, term } in &kernel.steps {
        let way = if *backward { ", backward" } else { "" };
        let means = LOWERING.iter().find(|l| l.name == *rule).map_or(String::new(), |l| format!(": {}", l.means));
        step(format!("{rule} ({class}{way}){means}"), term);
    }
    lines.push(String::new());
    lines.join("\n")
}
