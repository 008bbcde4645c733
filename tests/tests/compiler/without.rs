//! Each rule left out in turn: some graph's and some model's program changes, and what is computed does not.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Instant;

use serde_json::json;
use warpweft_compiler::extract::{ExtractError, extract};
use warpweft_compiler::graph::Graph;
use warpweft_compiler::graph::eval::evaluate;
use warpweft_compiler::graph::verify::{Form, verify};
use warpweft_compiler::roll::roll;
use warpweft_compiler::rules::{Limits, RuleSet, Saturated, saturate};
use warpweft_compiler::{CompileError, Options, compile};
use warpweft_models::{Imported, import};
use warpweft_plan::{CacheFormat, OutputKind};
use warpweft_runtime::{Engine, Part, block_on};
use warpweft_tests::{
    Copy, DECODERS, ENCODERS, Magnitudes, Random, Reference, cost_models, distance, fixture, graphs, plan_file,
    random_values, runners, worst,
};

/// Models that are published with other settings than those of the fixtures: an activation of the feed-forward block.
const VARIANTS: [(&str, &str, &str); 1] = [("bert", "hidden_act", "relu")];

/// Graphs of whole layers, as models have them that no family reads yet, or with operands in another order.
const LAYERS: &str = "layers/";

/// A graph and what all rules make of it.
struct Subject {
    name: String,
    graph: Graph,
    applied: BTreeSet<String>,
    programs: Vec<Result<Graph, ExtractError>>,
}

impl Subject {
    fn of(name: String, graph: Graph) -> Subject {
        let saturated = saturate(&graph, &RuleSet::all().unwrap(), Limits::default()).unwrap();
        let applied = saturated.stages.iter().flat_map(|s| s.applied.iter().map(|(rule, _)| rule.clone())).collect();
        Subject { name, applied, programs: programs(&saturated), graph }
    }

    /// What is made of it without a rule, if that is something else.
    fn without(&self, rule: &str) -> Option<Vec<Result<Graph, ExtractError>>> {
        if !self.applied.contains(rule) {
            return None;
        }
        let rules = RuleSet::without(&[rule.to_owned()]).unwrap();
        let found = programs(&saturate(&self.graph, &rules, Limits::default()).unwrap());
        (found != self.programs).then_some(found)
    }
}

fn programs(saturated: &Saturated) -> Vec<Result<Graph, ExtractError>> {
    cost_models().iter().map(|(_, model)| extract(saturated, model).map(|found| found.graph)).collect()
}

/// The distinct bodies of all models, and the layers among the graphs.
fn bodies() -> Vec<(String, Graph)> {
    let fixtures = ENCODERS.into_iter().chain(DECODERS).map(|name| (name.to_owned(), import(&fixture(name)).unwrap()));
    let variants = VARIANTS
        .into_iter()
        .map(|(name, field, value)| (format!("{name} with {value}"), Copy::of(name).set(field, json!(value)).import()));
    let mut seen = BTreeSet::new();
    let mut bodies = Vec::new();
    for (name, model) in fixtures.chain(variants) {
        let found = roll(&model.graph).unwrap().bodies;
        bodies.extend(found.into_iter().enumerate().map(|(i, body)| (format!("{name}, body {i}"), body)));
    }
    bodies.extend(graphs().into_iter().filter(|c| c.name.starts_with(LAYERS)).map(|c| (c.name, c.graph)));
    bodies.retain(|(_, body)| seen.insert(body.to_string()));
    bodies
}

/// Evaluates the programs against the graph; gives the operator for which there is none.
fn check(subject: &Subject, programs: &[Result<Graph, ExtractError>], random: &mut Random) -> Option<String> {
    let mut missing = None;
    for program in programs {
        match program {
            Ok(program) => {
                verify(program, Form::Extracted).unwrap_or_else(|e| panic!("{}: {e}", subject.name));
                let values = random_values(&subject.graph, 5, Magnitudes::Ordinary, random);
                let expected = evaluate(&subject.graph, &values).unwrap();
                for (a, b) in expected.iter().zip(&evaluate(program, &values).unwrap()) {
                    assert!(distance(a, b) <= 1e-5, "{}: off by {:e}\n{program}", subject.name, distance(a, b));
                }
            }
            Err(ExtractError::NoKernel { op }) => missing = Some(op.clone()),
            Err(other) => panic!("{}: {other}", subject.name),
        }
    }
    missing
}

/// Without any one rule the program of some graph and of some model is another, and computes the same; or there is none, and
/// the operator that has no kernel is named.
#[test]
fn every_rule_is_needed_and_none_is_trusted() {
    let started = Instant::now();
    let mut random = Random::new(9);
    let subjects = |all: Vec<(String, Graph)>| all.into_iter().map(|(n, g)| Subject::of(n, g)).collect::<Vec<_>>();
    let kinds = [subjects(graphs().into_iter().map(|case| (case.name, case.graph)).collect()), subjects(bodies())];
    let all = RuleSet::all().unwrap();
    let (mut text, mut idle) = (String::new(), Vec::new());
    for rule in all.names() {
        let mut line = rule.to_owned();
        for (subjects, kind) in kinds.iter().zip(["graph", "model"]) {
            let changed = subjects.iter().find_map(|s| Some((s, s.without(rule)?)));
            let Some((subject, programs)) = changed else {
                idle.push(format!("{rule} changes no {kind}"));
                continue;
            };
            let missing = check(subject, &programs, &mut random).map(|op| format!(" (no kernel for {op})"));
            write!(line, "{} {}{}", if kind == "graph" { ":" } else { ";" }, subject.name, missing.unwrap_or_default())
                .unwrap();
        }
        writeln!(text, "{line}").unwrap();
    }
    println!("{text}{} subjects, {:?}", kinds.iter().map(Vec::len).sum::<usize>(), started.elapsed());
    assert_eq!(idle, Vec::<String>::new(), "rules that nothing needs");
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("without__each_rule", text);
    });
}

/// Compiles a model without a rule and runs it on an adapter; `None` when an operator has no kernel then.
fn logits_without(model: &Imported, rule: &str, ids: &[u32]) -> Option<Vec<f32>> {
    let runner = runners().remove(0);
    // Exact caches: the reference's are.
    let (targets, without, cache) = (vec![runner.target], vec![rule.to_owned()], CacheFormat::F32);
    let options = Options { targets, without, cache, ..Options::default() };
    let compiled = match compile(&model.graph, &model.info, &options, &mut |_| ()) {
        Ok(compiled) => compiled,
        Err(CompileError::Extract(ExtractError::NoKernel { op })) => {
            println!("{rule}: no kernel for {op}");
            return None;
        }
        Err(other) => panic!("{rule}: {other}"),
    };
    let wanted = warpweft_runtime::Options { output: Some(OutputKind::Logits), lazy: true, ..runner.options() };
    let plan = plan_file(model, &compiled);
    let mut engine = block_on(Engine::open_on(&runner.adapter, plan, &wanted, &mut |_| ())).unwrap();
    let mut session = engine.session().unwrap();
    let mut values = Vec::new();
    // Programs for many rows, for a few and for one.
    let (many, rest) = ids.split_at(ids.len() - 4);
    for ids in [many, &rest[..3], &rest[3..]] {
        values.extend(
            block_on(engine.advance(OutputKind::Logits, &mut [Part { session: &mut session, ids }])).unwrap().values,
        );
    }
    Some(values)
}

/// A model with each rule that it uses left out, on an adapter against Hugging Face transformers.
#[test]
fn a_model_runs_without_each_rule() {
    let started = Instant::now();
    let model = import(&fixture("qwen3")).unwrap();
    let reference = Reference::of("qwen3");
    let (ids, expected) = (reference.ids("input_ids"), reference.floats("logits"));
    let rules = RuleSet::all().unwrap();
    let applied: BTreeSet<String> = roll(&model.graph)
        .unwrap()
        .bodies
        .iter()
        .flat_map(|body| saturate(body, &rules, Limits::default()).unwrap().stages)
        .flat_map(|stage| stage.applied)
        .map(|(rule, _)| rule)
        .collect();
    let (mut ran, mut refused) = (0, Vec::new());
    for rule in &applied {
        match logits_without(&model, rule, &ids) {
            Some(found) => {
                let off = worst(&found, &expected);
                println!("{rule}: off by {off:.1e}");
                assert!(off <= 5e-4, "without {rule}: off by {off:e}");
                ran += 1;
            }
            None => refused.push(rule.as_str()),
        }
    }
    println!("{ran} of {} rules are not needed to run, {:?}", applied.len(), started.elapsed());
    assert!(ran >= 5, "{ran}");
}
