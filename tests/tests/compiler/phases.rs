//! What each phase leaves of a small graph, as text.

use warpweft_compiler::graph::Graph;
use warpweft_compiler::target::Target;
use warpweft_compiler::{Options, Phase, compile};
use warpweft_plan::Model;

const GRAPH: &str = include_str!("../../graphs/phases/two-layers.graph");

#[test]
fn every_phase_is_as_recorded() {
    let graph: Graph = GRAPH.parse().unwrap();
    let model = Model {
        name: "two layers".into(),
        family: "test".into(),
        layers: 2,
        vocab_size: 16,
        max_positions: 64,
        max_text_tokens: 64,
        eos_ids: Vec::new(),
    };
    for phase in Phase::ALL {
        let targets = vec![Target::named("webgpu").unwrap()];
        let options = Options { targets, dump: Some(phase), ..Options::default() };
        let compiled = compile(&graph, &model, &options, &mut |_| ()).unwrap();
        insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(format!("phases__{phase}"), compiled.dump.unwrap());
        });
    }
}
