//! Small models that together have every kind of kernel, for a doctor without a plan.

use warpweft_compiler::graph::{Graph, TextError};
use warpweft_compiler::target::Target;
use warpweft_compiler::{Options, WeightChoice, compile};
use warpweft_plan::{Model, Plan};

use crate::CliError;

/// One layer each: the names and the texts of the graphs.
const MODELS: [(&str, &str); 2] =
    [("bert", include_str!("graphs/bert.graph")), ("modernbert", include_str!("graphs/modernbert.graph"))];

/// The built-in models, compiled for one target with weights in each format.
///
/// # Errors
/// When the compiler refuses one.
pub fn builtin_plans(target: &'static Target) -> Result<Vec<Plan>, CliError> {
    let mut plans = Vec::new();
    for (name, text) in MODELS {
        let refused = |e: TextError| CliError::Failed(format!("the built-in model {name} cannot be read: {e}"));
        let graph: Graph = text.parse().map_err(refused)?;
        for weights in [WeightChoice::F32, WeightChoice::F16, WeightChoice::Bf16] {
            let model = Model {
                name: format!("{name}-{}", weights.name()),
                family: name.into(),
                layers: 1,
                vocab_size: 509,
                max_positions: 64,
                max_text_tokens: 64,
                eos_ids: Vec::new(),
            };
            let options = Options { targets: vec![target], weights, ..Options::default() };
            plans.push(compile(&graph, &model, &options, &mut |_| ())?.plan);
        }
    }
    Ok(plans)
}
