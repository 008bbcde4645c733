//! Proofs: for each fixture every kernel has one or is part of one, its steps chain, and each holds when it is replayed;
//! what was tampered with does not.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use warpweft_compiler::WeightChoice;
use warpweft_compiler::proof::{
    CallCheck, Chain, LOWERING, ProofFault, StepCheck, check_call, check_proof, check_roundings, formula, tolerance,
};
use warpweft_compiler::roll::roll;
use warpweft_compiler::rules::{Limits, MERGE_NAME, RuleSet, saturate, saturate_explained};
use warpweft_models::import;
use warpweft_plan::provenance::{Class, FormulaValue, LossyStep, Provenance};
use warpweft_plan::{Plan, PlanFile};
use warpweft_tests::{compiled, demo, fixture, plan_file, with_integers};

use crate::made::made;

/// The plan of a folder, as its file has it.
fn plan_of(folder: &std::path::Path, targets: &[&str]) -> Plan {
    let model = import(folder).unwrap();
    let file: PlanFile = plan_file(&model, &compiled(&model, targets, WeightChoice::Keep));
    file.plan().clone()
}

fn told(plan: &Plan) -> &Provenance {
    plan.provenance.as_ref().unwrap()
}

/// Checks everything that a plan tells of itself; gives the steps by rule with the greatest error of each.
fn check(name: &str, plan: &Plan) -> BTreeMap<String, (usize, f64)> {
    let (provenance, rules) = (told(plan), RuleSet::all().unwrap());
    let mut found: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    let (mut proofs, mut meanings, mut parts) = (0, 0, 0);
    for (i, body) in provenance.bodies.iter().enumerate() {
        for proof in 0..body.proofs.len() {
            let steps: Vec<StepCheck> = check_proof(provenance, body, proof, &rules)
                .unwrap_or_else(|fault| panic!("{name}, body {i}, proof {proof}: {fault}"));
            proofs += 1;
            for step in steps {
                assert!(step.error <= tolerance(step.class), "{name}: {step:?}");
                let (count, error) = found.entry(step.rule).or_default();
                (*count, *error) = (*count + 1, error.max(step.error));
            }
        }
        for variant in &body.variants {
            assert!(!variant.calls.is_empty(), "{name}, body {i}: no calls");
            for call in 0..variant.calls.len() {
                let what = || format!("{name}, body {i}, {}, call {call}", variant.target);
                match check_call(plan, provenance, body, variant, call) {
                    Ok(CallCheck::Proved) => meanings += 1,
                    Ok(CallCheck::Part) => parts += 1,
                    Err(fault) => panic!("{}: {fault}", what()),
                }
                assert!(!variant.calls[call].nodes.is_empty(), "{}: covers nothing", what());
            }
        }
    }
    println!("{name}: {proofs} proofs, {meanings} meanings, {parts} parts, {found:?}");
    found
}

/// Every rule that a proof names is in the table or a step of lowering, with its class, and the first term of each proof
/// stands in the formula.
fn chains(name: &str, plan: &Plan) {
    let (provenance, rules) = (told(plan), RuleSet::all().unwrap());
    for rule in &provenance.rules {
        let known = rules.patterns.iter().find(|r| r.name == rule.name).map(|r| r.class);
        let lowering = LOWERING.iter().find(|s| s.name == rule.name).map(|s| s.class);
        let class = known.or(lowering).or((rule.name == MERGE_NAME).then_some(Class::Exact));
        assert_eq!(class, Some(rule.class), "{name}: {}", rule.name);
    }
    for body in &provenance.bodies {
        let graph = formula(provenance, body).unwrap();
        for proof in 0..body.proofs.len() {
            let chain = Chain::parse(provenance, body, proof).unwrap();
            assert_eq!(chain.terms.len(), chain.rules.len() + 1);
            for (pair, (rule, _)) in chain.terms.windows(2).zip(&chain.rules) {
                let same = LOWERING.iter().any(|s| s.name == *rule);
                assert_eq!(pair[0] == pair[1], same, "{name}: {rule} changes its term, lowering leaves it");
            }
            let lines = graph.lines().iter().flatten().count();
            let inside = |v: &FormulaValue| match *v {
                FormulaValue::Line(line) => (line as usize) < lines,
                FormulaValue::Arg(arg) => (arg as usize) < graph.declarations().args.len(),
            };
            assert!(chain.proof.results.iter().chain(chain.proof.arguments.iter().flatten()).all(inside));
        }
    }
}

fn holds(name: &str) {
    let plan = &made(name).plan;
    chains(name, plan);
    let found = check(name, plan);
    assert!(found.len() > 3, "{name}: no rules to speak of in {found:?}");
    for program in 0..plan.programs.len() {
        let counts = told(plan).class_counts(plan, program);
        assert_eq!(counts.lossy, 0);
        assert!(counts.exact + counts.reassociates > 0 || plan.programs[program].steps.len() < 3);
    }
}

macro_rules! fixtures {
    ($($test:ident = $name:literal,)+) => {
        $(
            #[test]
            fn $test() {
                holds($name);
            }
        )+
    };
}

fixtures! {
    bert = "bert",
    bert_with_a_head = "bert-mlm",
    distilbert = "distilbert",
    modernbert = "modernbert",
    roberta = "roberta",
    xlm_roberta = "xlm-roberta",
}

warpweft_tests::decoder_fixtures! { holds }

#[test]
fn the_demo() {
    let plan = plan_of(&demo().join("model"), &[]);
    chains("rustdoc-lm", &plan);
    check("rustdoc-lm", &plan);
}

/// Rounded activations meet int8 weights as integers, and the proofs say so.
#[test]
fn products_of_integers() {
    let model = import(&fixture("qwen3")).unwrap();
    let plan = plan_file(&model, &with_integers(&model, "subgroup8", "int8-g32", true)).plan().clone();
    chains("integers", &plan);
    let found = check("integers", &plan);
    assert!(["linear-integers", "linear-pair-integers"].iter().all(|rule| found.contains_key(*rule)), "{found:?}");
    // Each matrix of codes is made by one kernel, whose proof says so; those that read it round nothing.
    let mut rounded = 0;
    for body in &told(&plan).bodies {
        for proof in 0..body.proofs.len() {
            for check in check_roundings(told(&plan), body, proof).unwrap() {
                // Evenly spread values move by √(1/3) of half a 127th; those that gates and norms made have larger ones.
                let of_activations = matches!(check.step, LossyStep::Activations { .. });
                assert!(!of_activations || (1e-3..2e-2).contains(&check.relative_error), "{check:?}");
                rounded += usize::from(of_activations);
            }
        }
    }
    assert!(rounded >= 4, "{rounded} matrices of activations");
    let floats = |name: &str| name.starts_with("linear");
    let left: Vec<&str> = plan.kernels.iter().map(|k| k.name.as_str()).filter(|name| floats(name)).collect();
    assert!(left.is_empty(), "{left:?} are not over integers");
}

/// An e-graph that can explain itself holds what one holds that cannot.
#[test]
fn explanations_change_nothing() {
    let rules = RuleSet::all().unwrap();
    for name in ["bert", "modernbert", "llama", "gemma2", "qwen3"] {
        let rolled = roll(&import(&fixture(name)).unwrap().graph).unwrap();
        let [plain, explained] = [saturate, saturate_explained].map(|how| {
            let classes = |body| how(body, &rules, Limits::default()).unwrap().egraph.number_of_classes();
            rolled.bodies.iter().map(classes).sum::<usize>()
        });
        assert_eq!(plain, explained, "{name}");
    }
}

/// The first fault in a plan that says something else of itself.
fn fault_of(plan: &Plan, change: impl FnOnce(&mut Provenance)) -> Option<ProofFault> {
    let mut provenance = told(plan).clone();
    change(&mut provenance);
    let rules = RuleSet::all().unwrap();
    for body in &provenance.bodies {
        for proof in 0..body.proofs.len() {
            if let Err(fault) = check_proof(&provenance, body, proof, &rules) {
                return Some(fault);
            }
        }
        for variant in &body.variants {
            for call in 0..variant.calls.len() {
                if let Err(fault) = check_call(plan, &provenance, body, variant, call) {
                    return Some(fault);
                }
            }
        }
    }
    None
}

/// The body of a layer and its longest proof.
fn longest(provenance: &Provenance) -> (usize, usize) {
    let steps = |body: usize, proof: usize| provenance.bodies[body].proofs[proof].steps.len();
    let all = (0..provenance.bodies.len()).flat_map(|b| (0..provenance.bodies[b].proofs.len()).map(move |p| (b, p)));
    all.max_by_key(|&(b, p)| steps(b, p)).unwrap()
}

/// A plan that lies is found out, whatever it lies about.
#[test]
fn lies_are_found() {
    let plan = plan_of(&fixture("llama"), &["subgroup8"]);
    assert_eq!(fault_of(&plan, |_| ()), None);
    let (body, proof) = longest(told(&plan));
    let rewritten = |p: &mut Provenance, from: &str, to: &str| {
        let after = p.bodies[body].proofs[proof].steps[0].after;
        let text = p.texts[after].replacen(from, to, 1);
        assert_ne!(text, p.texts[after], "{}", p.texts[after]);
        p.texts.push(text);
        let new = p.texts.len() - 1;
        p.bodies[body].proofs[proof].steps[0].after = new;
    };
    let fault = fault_of(&plan, |p| {
        let rule = p.bodies[body].proofs[proof].steps[0].rule;
        p.rules[rule].name = "gelu-is-relu".into();
    });
    assert!(matches!(fault, Some(ProofFault::Unknown { .. })), "{fault:?}");
    let fault = fault_of(&plan, |p| {
        let rule = p.bodies[body].proofs[proof].steps[0].rule;
        p.rules[rule].class = Class::Lossy;
    });
    assert!(matches!(fault, Some(ProofFault::Class { .. })), "{fault:?}");
    let fault = fault_of(&plan, |p| {
        p.bodies[body].proofs[proof].steps.remove(0);
    });
    assert!(matches!(fault, Some(ProofFault::NoInstance { .. })), "{fault:?}");
    let fault = fault_of(&plan, |p| {
        let proof = &mut p.bodies[body].proofs[proof];
        proof.start = proof.steps[0].after;
    });
    assert!(matches!(fault, Some(ProofFault::Start(_))), "{fault:?}");
    let fault = fault_of(&plan, |p| {
        let results = &mut p.bodies[body].proofs[proof].results;
        let FormulaValue::Line(line) = results[0] else { panic!("{results:?}") };
        results[0] = FormulaValue::Line(line - 1);
    });
    assert!(matches!(fault, Some(ProofFault::Start(_))), "{fault:?}");
    let fault = fault_of(&plan, |p| rewritten(p, "(", "(("));
    assert!(matches!(fault, Some(ProofFault::Text { .. })), "{fault:?}");
    let fault = fault_of(&plan, |p| {
        for call in p.bodies.iter_mut().flat_map(|b| &mut b.variants).flat_map(|v| &mut v.calls) {
            call.proof = None;
        }
    });
    assert!(matches!(fault, Some(ProofFault::Unproved { .. })), "{fault:?}");
    // What a kernel means has to be what was proved.
    let mut other = plan.clone();
    for kernel in &mut other.kernels {
        kernel.meaning = kernel.meaning.replace("silu", "relu");
    }
    let fault = fault_of(&other, |_| ());
    assert!(matches!(fault, Some(ProofFault::Numbers { .. })), "{fault:?}");
}

/// Sizes that nobody has memory or time for are refused.
#[test]
fn absurd_sizes_are_refused() {
    let plan = plan_of(&fixture("bert"), &["webgpu"]);
    for (from, to) in [
        ("tokens", "tokens-9"),
        ("tokens", "9000000000*tokens"),
        ("f32[tokens, 64]", "f32[tokens, 0]"),
        ("[64, 64]", "[0, 64]"),
        ("[64, 64]", "[18446744073709551615, 64]"),
        ("[64, 64]", "[4000000000, 4000000000]"),
    ] {
        let mut changed = 0;
        let fault = fault_of(&plan, |p| {
            for text in &mut p.texts {
                if text.contains(from) && text.starts_with(['w', 'a']) {
                    *text = text.replace(from, to);
                    changed += 1;
                }
            }
        });
        assert!(changed > 0, "no declarations with {from:?}");
        assert!(fault.is_some(), "{from:?} became {to:?} and was believed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever is done to the texts, a check ends with a fault or without one.
    #[test]
    fn damaged_texts_never_panic(
        at in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        piece in prop::sample::select(vec![
            "", "0", "-1", "9", "(", ")", " ", "%0", "%1", "$0", "$1", "@0", "@1", "acc", "acc2", "tokens", "context",
            "(slice $0 1 0 4)", "(add $0 $0)", "(split-heads $0 4)", "1e-5", "ids", "positions", "output out0 %0\n",
        ]),
        length in 0usize..6,
    ) {
        static PLAN: LazyLock<Plan> = LazyLock::new(|| plan_of(&fixture("gemma2"), &["webgpu"]));
        let _ = fault_of(&PLAN, |p| {
            let i = at.index(p.texts.len());
            let starts: Vec<usize> = p.texts[i].char_indices().map(|(at, _)| at).collect();
            if starts.is_empty() {
                return;
            }
            let start = starts[place.index(starts.len())];
            let end = (start + length).min(p.texts[i].len());
            if p.texts[i].is_char_boundary(end) {
                p.texts[i].replace_range(start..end, piece);
            }
        });
    }
}
