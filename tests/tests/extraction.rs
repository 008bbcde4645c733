//! The compiler's extraction against an exhaustive one, and the e-graphs of whole models.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use warpweft_compiler::extract::extract;
use warpweft_compiler::graph::{Graph, Op};
use warpweft_compiler::roll::roll;
use warpweft_compiler::rules::{Saturated, StopReason};
use warpweft_models::import;
use warpweft_tests::{Copy, cheapest, cost_models, fixture, graphs, saturated};

const FIXTURES: [&str; 6] = ["bert", "bert-mlm", "roberta", "xlm-roberta", "distilbert", "modernbert"];

/// How much dearer than the cheapest program a chosen one may be.
const SLACK: f64 = 1.01;

/// Partial programs that the exhaustive search may look at.
const LIMIT: usize = 300_000;

fn bodies() -> Vec<(String, Graph)> {
    let mut bodies: Vec<(String, Graph)> = graphs().into_iter().map(|case| (case.name, case.graph)).collect();
    for name in FIXTURES {
        let rolled = roll(&import(&fixture(name)).unwrap().graph).unwrap();
        bodies.extend(rolled.bodies.into_iter().enumerate().map(|(i, body)| (format!("{name}, body {i}"), body)));
    }
    bodies
}

/// Greedy and descent are within one percent of the cheapest program.
#[test]
fn near_the_cheapest_program() {
    let started = Instant::now();
    let (mut programs, mut optimal, mut worst) = (0, 0, 1.0f64);
    for (name, body) in bodies() {
        let saturated = saturated(&body);
        for (rates, model) in cost_models() {
            let found = extract(&saturated, &model).unwrap().cost;
            let exact = cheapest(&saturated, &model, found, LIMIT)
                .unwrap_or_else(|| panic!("{name}, {rates}: more than {LIMIT} partial programs"));
            let ratio = found / exact.cost;
            if ratio > 1.0 + 1e-4 {
                println!("{name}, {rates}: {ratio:.4} of the cheapest, {} partial programs", exact.visited);
            }
            assert!(ratio <= SLACK, "{name}, {rates}: {found:e} s, the cheapest takes {:e} s", exact.cost);
            (programs, worst) = (programs + 1, worst.max(ratio));
            optimal += usize::from(ratio <= 1.0 + 1e-4);
        }
    }
    println!("{programs} programs, {optimal} of them the cheapest, the worst {worst:.4} of it, {:?}", started.elapsed());
}
