//! Norms in front of contractions become what the contraction does to the rows that it reads.
//!
//! Every workgroup that reads a row finds its mean and deviation for itself, so this trades arithmetic for a dispatch, and
//! extraction says where that pays. What the norm makes is often read again, by the sum that skips the next half of the
//! layer; so a normed contraction is a pair, and its second part is the normalised row, which some workgroup leaves behind.
//!
//! These rules run after siblings were merged and kernels have taken up what follows them: then each contraction that there
//! is gets its prologue, whatever its term.

use super::{Class, Condition, Stage, Table, line, var};

/// A contraction: its name, its operands between x and the term.
const KERNELS: [(&str, &str); 2] = [("linear", "?w"), ("linear-pair", "?w ?v")];

/// A norm of ?x: for the rules' names; the norm; as a prologue; what the first norm makes; the whole norm of ?n, which
/// that is.
struct Norm {
    name: &'static str,
    norm: &'static str,
    prologue: &'static str,
    first: &'static str,
    of_first: &'static str,
}

const NORMS: [Norm; 3] = [
    Norm {
        name: "rms",
        norm: "(rms-norm ?x ?a ?s)",
        prologue: "(rms ?a ?s)",
        first: "(rms-norm ?x ?a ?s)",
        of_first: "?n",
    },
    Norm {
        name: "layer",
        norm: "(layer-norm ?x ?a ?s)",
        prologue: "(layer ?a ?s)",
        first: "(layer-norm ?x ?a ?s)",
        of_first: "?n",
    },
    // A norm that ends one half of a layer, summed with what skips that half, and the norm that begins the next.
    Norm {
        name: "rms-rms",
        norm: "(rms-norm (rms-norm ?x ?a ?s) ?b ?t)",
        prologue: "(then (rms ?a ?s) (rms ?b ?t))",
        first: "(rms-norm ?x ?a ?s)",
        of_first: "(rms-norm ?n ?b ?t)",
    },
];

pub(super) fn rules() -> Table {
    let mut rules = Vec::new();
    for (kernel, weights) in KERNELS {
        for Norm { name, norm, prologue, first, of_first } in NORMS {
            let pair = format!("(normed-{kernel} ?x {prologue} {weights} ?e)");
            let contraction = |x: &str| format!("({kernel} {x} {weights} ?e)");
            let mut rule = |suffix: &str, left: &str, right: &str| -> Result<(), super::RewriteError> {
                let name = format!("{kernel}-{name}{suffix}");
                let rule = line(name, Class::Exact, left, right, vec![Condition::Activation(var("?x"))])?;
                rules.push(super::Rule { stage: Stage::Prologue, ..rule });
                Ok(())
            };
            // norm(x)·Wᵀ: the kernel normalises the rows that it reads.
            rule("", &contraction(norm), &format!("(first {pair})"))?;
            // The same rows may come from any kernel that leaves them behind. By itself this gains nothing; it names what
            // is left behind, for the rule below to say what that is.
            let left_behind = of_first.replace("?n", &format!("(second {pair})"));
            rule("-carried", &contraction(norm), &contraction(&left_behind))?;
            rule("-carries", &format!("(second {pair})"), first)?;
        }
    }
    // The same without a contraction: both rows are left by the kernel that makes the first.
    let twice = "(rms-norm (rms-norm ?x ?a ?s) ?b ?t)";
    let pair = "(normed-rows ?x (then (rms ?a ?s) (rms ?b ?t)))";
    for (name, left, right) in [
        ("rows-rms-rms", twice, format!("(first {pair})")),
        // Gains nothing; it names the rows between, for the rule below to say what they are.
        ("rows-rms-rms-carried", twice, format!("(rms-norm (second {pair}) ?b ?t)")),
        ("rows-rms-rms-carries", &format!("(second {pair})"), "(rms-norm ?x ?a ?s)".to_owned()),
    ] {
        let rule = line(name, Class::Exact, left, &right, vec![Condition::Activation(var("?x"))])?;
        rules.push(super::Rule { stage: Stage::Prologue, ..rule });
    }
    let late = |rule: super::Rule| super::Rule { stage: Stage::Prologue, ..rule };
    // Σ_k (h_k g_k s) w_nk = s Σ_k (h_k g_k) w_nk: whoever makes h leaves h ⊙ g and sums of squares, of which s follows.
    rules.push(late(line(
        "linear-pair-scaled",
        Class::Reassociates,
        "(linear-pair (rms-norm ?h ?a (mul acc ?g)) ?w ?v ?e)",
        "(scaled-linear-pair (gained ?h ?g) ?a ?w ?v ?e)",
        vec![Condition::Activation(var("?h")), Condition::ConstantVector(var("?g"))],
    )?));
    rules.push(late(line(
        "linear-gained",
        Class::Exact,
        "(gained (linear ?x ?w ?e) ?g)",
        "(second (gained-linear ?x ?w ?e ?g))",
        Vec::new(),
    )?));
    // Gains nothing; it names the rows themselves, for the rule below to say what they are.
    rules.push(late(line(
        "linear-gained-rows",
        Class::Exact,
        "(gained (linear ?x ?w ?e) ?g)",
        "(gained (first (gained-linear ?x ?w ?e ?g)) ?g)",
        Vec::new(),
    )?));
    rules.push(late(line(
        "linear-gains",
        Class::Exact,
        "(first (gained-linear ?x ?w ?e ?g))",
        "(linear ?x ?w ?e)",
        Vec::new(),
    )?));
    Ok(rules)
}
