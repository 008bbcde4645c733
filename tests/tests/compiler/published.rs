//! The optimiser at the sizes of published models: how large e-graphs get, how long that takes, and what comes out.
//!
//! `cargo test --release --workspace --test compiler -- --nocapture published::` prints the times; none is asserted.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use warpweft_compiler::roll::roll;
use warpweft_compiler::target::Target;
use warpweft_compiler::{Compiled, Options, Phase, compile};
use warpweft_models::{Imported, import_config};
use warpweft_plan::{OutputKind, Program};
use warpweft_tests::saturated;

use crate::scheduling::waste;

const MODELS: [&str; 4] = ["Llama-3.2-1B", "Qwen3-0.6B", "Gemma-2-2B", "Llama-3.1-8B"];

/// A model of these sizes with random weights, with so many layers.
fn model(name: &str, layers: Option<u32>) -> Imported {
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name).join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(published).unwrap()).unwrap();
    if let Some(layers) = layers {
        config["num_hidden_layers"] = layers.into();
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    import_config(folder.path()).unwrap()
}

/// As many e-nodes for three layers as for all of them: the first of two kinds of layers, the other, and the first kind again,
/// which unlike the first layer begins with the norm that ends the layer before.
#[test]
fn depth_costs_nothing() {
    for name in MODELS {
        let [few, all] = [Some(3), None].map(|layers| {
            let model = model(name, layers);
            let rolled = roll(&model.graph).unwrap();
            let nodes: usize = rolled.bodies.iter().map(|body| saturated(body).egraph.total_size()).sum();
            (model.info.layers, rolled.bodies.len(), nodes)
        });
        println!("{name}: {} e-nodes of {} bodies for {} layers as for {}", all.2, all.1, all.0, few.0);
        assert!(all.0 > few.0);
        assert_eq!((few.1, few.2), (all.1, all.2), "{name}");
    }
}

fn time(compiled: &Compiled, phase: Phase) -> Duration {
    compiled.phases.iter().find(|report| report.phase == phase).unwrap().time
}

/// The programs that find what may come next.
fn next(compiled: &Compiled) -> impl Iterator<Item = &Program> {
    compiled.plan.programs.iter().filter(|program| program.output.kind == OutputKind::Candidates)
}

/// Dispatches in the second layer, which like all but the first begins with what ends the layer before.
fn in_layer(program: &Program) -> usize {
    program.steps.iter().filter(|step| step.layer == Some(1)).count()
}

/// The most that scratch buffers of a program take, as a multiple of what must be alive.
fn worst(name: &str, compiled: &Compiled) -> f64 {
    let waste = compiled.plan.programs.iter().map(|program| waste(&compiled.plan, program)).fold(0.0, f64::max);
    assert!(waste <= 1.25, "{name}: {waste}");
    waste
}

/// Dispatches of the program that writes a token and of the one that reads a prompt, for every target, with others in a plan and alone.
#[test]
fn programs() {
    let mut text = String::new();
    for name in MODELS {
        let model = model(name, None);
        let compiled = compile(&model.graph, &model.info, &Options::default(), &mut |_| ()).unwrap();
        let (rewrite, extract) = (time(&compiled, Phase::Rewritten), time(&compiled, Phase::Extracted));
        println!("{name}: e-graphs {rewrite:?}, extraction for {} targets {extract:?}", Target::all().len());
        let nodes = compiled.phases.iter().map(|report| report.e_nodes).max().unwrap();
        writeln!(text, "{name}: {nodes} e-nodes, {} kernels", compiled.plan.kernels.len()).unwrap();
        writeln!(text, "  scratch buffers at most {:.2} of what is alive at once", worst(name, &compiled)).unwrap();
        for program in next(&compiled) {
            let layer = in_layer(program);
            let rows = program.max_rows.map_or("any".to_owned(), |max| max.to_string());
            writeln!(
                text,
                "  {} {} to {rows} rows: {} dispatches, {layer} in a layer",
                program.target,
                program.min_rows,
                program.steps.len()
            )
            .unwrap();
        }
        for target in Target::all() {
            let options = Options { targets: vec![target], ..Options::default() };
            let alone = compile(&model.graph, &model.info, &options, &mut |_| ()).unwrap();
            let waste = worst(name, &alone);
            let layers: Vec<usize> = next(&alone).map(in_layer).collect();
            writeln!(text, "  {} alone: {layers:?} in a layer, scratch {waste:.2}", target.name).unwrap();
        }
    }
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("published__programs", text);
    });
}
