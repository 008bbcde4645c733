//! Every rule: alone on random instances, and in the graphs under `tests/graphs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use warpweft_compiler::extract::extract;
use warpweft_compiler::graph::eval::{Tensor, evaluate};
use warpweft_compiler::graph::verify::{Form, verify};
use warpweft_compiler::graph::{Graph, Id};
use warpweft_compiler::rules::{
    Class, Condition, Limits, MERGE_NAME, RewriteError, Rule, RuleSet, Stage, StopReason, saturate, table,
};
use warpweft_tests::{
    Instance, Magnitudes, Random, cost_models, distance, graphs, instance, random_values, rounding_error, saturated,
};

/// Random instances of each rule.
const INSTANCES: usize = 250;

#[test]
fn names_are_unique() {
    let mut names = BTreeSet::from([MERGE_NAME.to_owned()]);
    for rule in table().unwrap() {
        assert!(names.insert(rule.name.clone()), "two rules are called {}", rule.name);
    }
}

#[derive(Default)]
struct Tally {
    elements: usize,
    finite: usize,
    unbounded: usize,
}

/// Both sides have the same fact and the same value, within what the rule's class allows.
#[test]
fn both_sides_are_equal() {
    let started = Instant::now();
    let rules = table().unwrap();
    let mut tally = Tally::default();
    for (i, rule) in rules.iter().enumerate() {
        let mut random = Random::new(i as u64);
        let (mut found, mut tried) = (0, 0);
        let mut own = Tally::default();
        while found < INSTANCES {
            tried += 1;
            assert!(tried < 100 * INSTANCES, "{}: only {found} of {tried} instances meet its conditions", rule.name);
            if let Some(instance) = instance(rule, &mut random) {
                check(rule, &instance, &mut random, &mut own).unwrap_or_else(|e| panic!("{}: {e}", rule.name));
                found += 1;
            }
        }
        assert!(own.finite * 4 > own.elements, "{}: too few finite elements", rule.name);
        assert!(own.unbounded * 2 < own.elements, "{}: too few elements have a bound", rule.name);
        tally.elements += own.elements;
        tally.finite += own.finite;
        tally.unbounded += own.unbounded;
    }
    println!(
        "{} rules, {INSTANCES} instances each, {} elements ({} finite, {} without a bound), {:?}",
        rules.len(),
        tally.elements,
        tally.finite,
        tally.unbounded,
        started.elapsed()
    );
}

/// Whether both sides agree on random values; if not, on what they do not.
fn check(rule: &Rule, instance: &Instance, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
    let mut graph = instance.graph.clone();
    let left = instance.left;
    let right = instance.right.clone().map_err(|e| format!("the right side has no fact: {e}\n{graph}"))?;
    graph.add_output("left", left);
    graph.add_output("right", right);
    let (left_fact, right_fact) = (&graph.node(left).fact, &graph.node(right).fact);
    if left_fact != right_fact {
        return Err(format!("the sides are {left_fact} and {right_fact}\n{graph}"));
    }
    let values = random_values(&graph, 1 + random.below(6), random.of(&Magnitudes::ALL), random);
    let [a, b] = <[Tensor; 2]>::try_from(evaluate(&graph, &values).unwrap()).unwrap();
    if a.shape != b.shape {
        return Err(format!("the values are {:?} and {:?}\n{graph}", a.shape, b.shape));
    }
    let bounds = |id: Id| match rule.class {
        Class::Exact => vec![0.0; a.data.len()],
        Class::Reassociates => rounding_error(&graph, id, &values),
        Class::Lossy => panic!("{}: say here how far a lossy rule may go", rule.name),
    };
    let allowed = bounds(left).into_iter().zip(bounds(right)).map(|(a, b)| a + b);
    for ((&x, &y), allowed) in a.data.iter().zip(&b.data).zip(allowed) {
        tally.elements += 1;
        tally.finite += usize::from(x.is_finite());
        let same = x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
        let near = f64::from((x - y).abs()) <= allowed && rule.class != Class::Exact;
        // What overflows on one side alone has no bound.
        let unbounded = rule.class != Class::Exact && !(x.is_finite() && y.is_finite() && allowed.is_finite());
        tally.unbounded += usize::from(!same && unbounded);
        if !(same || near || unbounded) {
            return Err(format!("{x:e} and {y:e} are not within {allowed:e}\n{graph}{values:?}"));
        }
    }
    Ok(())
}

/// Rules that are almost right are told from right ones, or the test above proves nothing.
#[test]
fn almost_right_rules_are_caught() {
    let is =
        |left, right, class| Rule { class, ..wrong(left, right, vec![Condition::Activation("?x".parse().unwrap())]) };
    let rules = [
        is("(gelu (linear ?x ?w ?e))", "(linear ?x ?w (gelu-tanh ?e))", Class::Exact),
        is("(sub ?r (linear ?x ?w ?e))", "(linear ?x ?w (sub ?e ?r))", Class::Exact),
        is("(gelu (linear ?x ?w ?e))", "(linear ?x ?w (gelu acc))", Class::Exact),
        is("(linear (mul ?x ?g) ?w ?e)", "(linear ?x ?w (mul ?e ?g))", Class::Reassociates),
        is("(linear (mul ?x ?g) ?w ?e)", "(linear ?x ?w ?e)", Class::Reassociates),
        is("(linear (mul ?x ?g) ?w ?e)", "(linear ?x (mul ?w ?g) ?e)", Class::Exact),
        is("(rms-norm ?x ?n ?e)", "(layer-norm ?x ?n ?e)", Class::Exact),
        is("(mul (linear ?x ?w ?e) (linear ?x ?v acc))", "(linear-pair ?x ?v ?w (mul ?e acc2))", Class::Exact),
        is("(slice (linear ?x ?w acc) 1 ?a ?n)", "(linear ?x (slice ?w 0 0 ?n) acc)", Class::Exact),
        is("(slice (linear ?x ?w acc) 1 ?a ?n)", "(linear ?x ?w acc)", Class::Exact),
    ];
    for rule in rules {
        let mut random = Random::new(5);
        let caught = (0..INSTANCES)
            .filter_map(|_| instance(&rule, &mut random))
            .collect::<Vec<_>>()
            .iter()
            .any(|instance| check(&rule, instance, &mut random, &mut Tally::default()).is_err());
        assert!(caught, "{} => {} passes", rule.left, rule.right);
    }
}

/// A rule that no graph needs has no test that shows it working together with the others.
#[test]
fn every_rule_fires_somewhere() {
    let mut applied: BTreeMap<String, usize> = BTreeMap::new();
    for case in graphs() {
        for stage in saturated(&case.graph).stages {
            assert_eq!(stage.stop, StopReason::Saturated, "{}: {} hits a limit", case.name, stage.stage.name());
            for (name, n) in stage.applied {
                *applied.entry(name).or_default() += n;
            }
        }
    }
    let names = table().unwrap().into_iter().map(|r| r.name).chain([MERGE_NAME.to_owned()]);
    let idle: Vec<String> = names.filter(|name| !applied.contains_key(name)).collect();
    assert!(idle.is_empty(), "no graph under tests/graphs needs {idle:?}: add one for each");
}

/// The programs of every graph, as they are chosen for one row and for many.
#[test]
fn programs_are_as_recorded() {
    for case in graphs() {
        let saturated = saturated(&case.graph);
        let mut programs: Vec<(String, String)> = Vec::new();
        for (rates, model) in cost_models() {
            let program = extract(&saturated, &model).unwrap().graph.to_string();
            match programs.iter_mut().find(|(_, p)| *p == program) {
                Some((all, _)) => *all += &format!("; {rates}"),
                None => programs.push((format!("# {rates}"), program)),
            }
        }
        let text: String = programs.iter().map(|(rates, program)| format!("{rates}\n{program}")).collect();
        let name = case.name.replace('/', "__");
        insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, text);
        });
    }
}

/// Rewriting and extraction change no value beyond rounding, whatever the target.
#[test]
fn programs_compute_what_the_graph_says() {
    let mut random = Random::new(7);
    let mut worst = 0.0;
    for case in graphs() {
        verify(&case.graph, Form::Imported).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let saturated = saturated(&case.graph);
        for (rates, model) in cost_models() {
            let program = extract(&saturated, &model).unwrap().graph;
            verify(&program, Form::Extracted).unwrap_or_else(|e| panic!("{}, {rates}: {e}", case.name));
            for tokens in [1, 2, 5, 17] {
                let values = random_values(&case.graph, tokens, Magnitudes::Ordinary, &mut random);
                let expected = evaluate(&case.graph, &values).unwrap();
                let found = evaluate(&program, &values).unwrap();
                assert_eq!(expected.len(), found.len());
                for (a, b) in expected.iter().zip(&found) {
                    let off = distance(a, b);
                    assert!(off <= 1e-5, "{}, {rates}, {tokens} rows: off by {off:e}\n{program}", case.name);
                    worst = off.max(worst);
                }
            }
        }
    }
    println!("the worst element is off by {worst:.1e} of its tensor's largest");
}

fn wrong(left: &str, right: &str, conditions: Vec<Condition>) -> Rule {
    let (left, right) = (left.parse().unwrap(), right.parse().unwrap());
    Rule { name: "wrong".into(), class: Class::Exact, stage: Stage::Fuse, left, right, conditions }
}

fn graph(text: &str) -> Graph {
    text.parse().unwrap()
}

/// Two facts for one thing stop the compile, whichever of them came first.
#[test]
fn a_rule_with_two_facts_is_reported() {
    let square = graph(
        "weight @0 \"w\" f32[6, 8]\narg $0 f32[tokens, 8]\n%0 = (transpose @0)\n%1 = (matmul $0 %0)\noutput y %1\n",
    );
    for (right, found) in [
        ("?x", "f32[tokens, 8]"),
        ("?w", "f32[8, 6]"),
        ("(transpose (matmul ?x ?w))", "f32[6, tokens]"),
        ("(linear ?x ?w acc)", "needs x [rows, k] and a weight [n, k]"),
        ("acc", "term over"),
        ("1.0", "1.0"),
    ] {
        let rule = wrong("(matmul ?x ?w)", right, vec![]);
        for rules in [vec![rule.clone()], [table().unwrap(), vec![rule.clone()]].concat()] {
            match saturate(&square, &rules.into(), Limits::default()) {
                Err(RewriteError::Clash(clash)) => {
                    let message = clash.to_string();
                    assert!(message.contains("f32[tokens, 6]") && message.contains(found), "{right}: {message}");
                }
                Err(other) => panic!("{right}: {other}"),
                Ok(_) => panic!("{right} is accepted"),
            }
        }
    }
}

/// A right side that reads what the left does not bind.
#[test]
fn a_rule_with_a_free_variable_is_reported() {
    let body = graph("arg $0 f32[tokens, 8]\n%0 = (gelu $0)\noutput y %0\n");
    match saturate(&body, &vec![wrong("(gelu ?x)", "(gelu ?y)", vec![])].into(), Limits::default()) {
        Err(RewriteError::Rule { name, problem }) => assert!(name == "wrong" && problem.contains("?y"), "{problem}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

/// A stage that hits a limit says so, and what it found until then is still right.
#[test]
fn limits_are_reported() {
    let case = graphs().into_iter().find(|c| c.name == "layers/bert").unwrap();
    let few = |limits| saturate(&case.graph, &RuleSet::all().unwrap(), limits).unwrap().stages[0].stop;
    let limits = Limits::default();
    assert_eq!(few(limits), StopReason::Saturated);
    assert_eq!(few(Limits { nodes: 60, ..limits }), StopReason::Nodes);
    assert_eq!(few(Limits { iterations: 1, ..limits }), StopReason::Iterations);
    assert_eq!(few(Limits { time: std::time::Duration::ZERO, ..limits }), StopReason::Time);
}

/// The page names every rule, and no other.
#[test]
fn the_page_lists_the_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
    let page = fs::read_to_string(page).unwrap();
    let listed: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .flat_map(|(name, rest)| expanded(name, rest))
        .collect();
    let mut expected: Vec<String> = table().unwrap().into_iter().map(|r| r.name).collect();
    expected.push(MERGE_NAME.into());
    let difference = |a: &[String], b: &[String]| a.iter().filter(|n| !b.contains(n)).cloned().collect::<Vec<_>>();
    assert_eq!(difference(&expected, &listed), Vec::<String>::new(), "rules that docs/rules.md does not list");
    assert_eq!(difference(&listed, &expected), Vec::<String>::new(), "rules that docs/rules.md alone knows");
    assert_eq!(listed.len(), expected.len(), "docs/rules.md lists a rule twice");
}

/// `KERNEL-add` stands for a rule for each kernel that the page names in its row.
fn expanded(name: &str, rest: &str) -> Vec<String> {
    let Some(operator) = name.strip_prefix("KERNEL-") else { return vec![name.to_owned()] };
    let kernels = rest.split('|').nth(1).unwrap_or_default().split(',').map(|k| k.trim().trim_matches('`'));
    kernels.map(|kernel| format!("{kernel}-{operator}")).collect()
}
