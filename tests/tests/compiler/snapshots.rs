//! What the compiler makes, as text: the shaders of small graphs on every target, and a summary of every fixture's plan.
//! A change that makes a program worse shows here.

use std::collections::BTreeMap;
use std::fmt::Write;

use warpweft_compiler::graph::Graph;
use warpweft_compiler::target::Target;
use warpweft_compiler::{Options, WeightChoice, compile};
use warpweft_models::import;
use warpweft_plan::{CacheFormat, Model, OutputKind, Plan, Program, Role, Sizes};
use warpweft_tests::{ENCODERS, compiled_caching, fixture};

use crate::made::{Made, fixtures, made};

/// A layer with everything in it that an encoder has.
const SMALL: &str = include_str!("../../graphs/snapshot/encoder-layer.graph");

fn small_plan(target: &'static Target) -> Plan {
    let graph: Graph = SMALL.parse().unwrap();
    let model = Model {
        name: "small".into(),
        family: "test".into(),
        layers: 1,
        vocab_size: 16,
        max_positions: 64,
        max_text_tokens: 64,
        eos_ids: Vec::new(),
    };
    let options = Options { targets: vec![target], weights: WeightChoice::Keep, ..Options::default() };
    compile(&graph, &model, &options, &mut |_| ()).unwrap().plan
}

/// Compares a text with the recorded one.
fn recorded(name: &str, text: &str) {
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(format!("snapshots__{name}"), text);
    });
}

#[test]
fn shaders() {
    for target in ["webgpu", "subgroup8", "subgroup32"].map(|name| Target::named(name).unwrap()) {
        for kernel in small_plan(target).kernels {
            let text = format!("{}\n{}", kernel.meaning, kernel.wgsl);
            recorded(&format!("{}-{}", target.name, kernel.name), &text);
        }
    }
}

fn summary(Made { plan, e_nodes }: &Made) -> String {
    let mut text = String::new();
    let weights: u64 = plan.tensors.iter().map(|t| t.bytes().unwrap()).sum();
    writeln!(
        text,
        "{} tensors, {weights} bytes; {} kernels; {e_nodes} e-nodes",
        plan.tensors.len(),
        plan.kernels.len()
    )
    .unwrap();
    for program in &plan.programs {
        writeln!(text, "{}", program_line(plan, program)).unwrap();
    }
    text
}

fn program_line(plan: &Plan, program: &Program) -> String {
    let mut per_layer: BTreeMap<u32, usize> = BTreeMap::new();
    for layer in program.steps.iter().filter_map(|s| s.layer) {
        *per_layer.entry(layer).or_default() += 1;
    }
    let rows = u64::from(program.max_rows.unwrap_or(1024));
    let sizes = Sizes { tokens: rows, context: rows, sequences: 1 };
    let bytes: u64 = program.steps.iter().map(|s| s.bytes.eval(sizes).unwrap()).sum();
    let used: std::collections::BTreeSet<usize> = program.steps.iter().flat_map(|s| s.buffers.clone()).collect();
    let scratch = used.iter().filter(|&&b| plan.buffers[b].role == Role::Scratch);
    let activations: u64 = scratch.map(|&b| plan.buffers[b].bytes.eval(sizes).unwrap()).sum();
    let range =
        program.max_rows.map_or(format!("{}..", program.min_rows), |max| format!("{}..={max}", program.min_rows));
    format!(
        "{} {range} {}: {} dispatches, {} in a layer, {bytes} bytes and {activations} of activations at {rows} rows",
        program.target,
        program.output.kind.name(),
        program.steps.len(),
        per_layer.values().max().unwrap_or(&0),
    )
}

#[test]
fn plans() {
    for (name, made) in fixtures() {
        recorded(name, &summary(made));
    }
}

#[test]
fn a_bert_layer_is_seven_dispatches() {
    for name in ENCODERS.into_iter().filter(|name| *name != "modernbert") {
        let plan = &made(name).plan;
        for program in &plan.programs {
            for layer in 0..plan.model.layers {
                let dispatches = program.steps.iter().filter(|s| s.layer == Some(layer)).count();
                assert!(
                    dispatches <= 7,
                    "{name}: {dispatches} dispatches in layer {layer} of {}",
                    program_line(plan, program)
                );
            }
        }
    }
}

/// At one row a norm is never a dispatch of its own in a layer: the contraction behind it does it.
#[test]
fn norms_of_one_row_are_prologues() {
    for (name, Made { plan, .. }) in fixtures() {
        for program in plan.programs.iter().filter(|p| p.max_rows == Some(1)) {
            let in_layers = program.steps.iter().filter(|s| s.layer.is_some());
            let norms: Vec<&str> = in_layers
                .map(|s| plan.kernels[s.kernel].name.as_str())
                .filter(|kernel| kernel.starts_with("normalize"))
                .collect();
            assert!(norms.is_empty(), "{name}, {}: {norms:?}", program_line(plan, program));
        }
    }
}

/// The most dispatches in a layer for one row whose scores are wanted.
fn dispatches_of_one_row(plan: &Plan) -> usize {
    let programs = plan.programs.iter().filter(|p| p.max_rows == Some(1) && p.output.kind == OutputKind::Candidates);
    let in_layer = |p: &Program, layer| p.steps.iter().filter(|s| s.layer == Some(layer)).count();
    programs.flat_map(|p| (0..plan.model.layers).map(move |layer| in_layer(p, layer))).max().unwrap()
}

/// Norm and q, k, v; turn, cache and attention to the chunks of the context, and all of them together; output and
/// residual; norm, gate, up and activation; down and residual.
#[test]
fn a_llama_layer_of_one_row_is_five_dispatches_or_six() {
    for name in ["llama", "llama-sharded", "mistral", "qwen2", "qwen3"] {
        // So long that it is cut into chunks, unless there is a window.
        let long = &made(name).plan;
        assert!(long.model.max_positions > 512);
        let found = dispatches_of_one_row(long);
        assert!(found <= 6, "{name}: {found} dispatches for one row in a layer");
        // So short that it is not.
        let mut model = import(&fixture(name)).unwrap();
        model.info.max_positions = 512;
        let short = compiled_caching(&model, &[], WeightChoice::Keep, CacheFormat::default()).plan;
        let found = dispatches_of_one_row(&short);
        assert!(found <= 5, "{name}: {found} dispatches for one row in a layer, 512 positions");
    }
}
