//! Decoders through the CPU reference evaluator, with caches that are carried from step to step.

use warpweft_compiler::graph::eval::{SourceInputs, Tensor, Values, evaluate};
use warpweft_compiler::graph::{Graph, Op};
use warpweft_compiler::weights::WeightSource;
use warpweft_models::Imported;
use warpweft_plan::OutputKind;

/// A sequence that grows.
pub struct Decoder {
    graph: Graph,
    values: Values,
}

impl Decoder {
    /// An empty sequence.
    pub fn new(model: &Imported) -> Decoder {
        let mut graph = model.graph.clone();
        let appends: Vec<_> = graph.ids().filter(|&id| matches!(graph.node(id).op, Op::Append(_))).collect();
        for (i, id) in appends.iter().enumerate() {
            let Op::Append([cache, _]) = graph.node(*id).op else { unreachable!() };
            assert!(matches!(&graph.node(cache).op, Op::Cache(c) if c.0 as usize == i), "caches are in order");
            graph.add_output(format!("cache {i}"), *id);
        }
        let weights = graph.declarations().weights.iter().map(|decl| {
            let shape: Vec<usize> = decl.shape.iter().map(|&n| n as usize).collect();
            let bytes = model.weights.read(&decl.name).unwrap();
            let values = decl.dtype.decode(&bytes, shape.last().copied().unwrap_or(1));
            Tensor::new(shape, values).unwrap()
        });
        let values = Values { weights: weights.collect(), ..Values::default() };
        Decoder { graph, values }
    }

    /// Appends rows; the outputs in the order of the graph.
    pub fn step(&mut self, ids: &[u32]) -> Steps {
        self.values.ids = ids.to_vec();
        let mut values = evaluate(&self.graph, &self.values).unwrap();
        let caches = self.graph.declarations().caches.len();
        self.values.caches = values.split_off(values.len() - caches);
        Steps { kinds: self.graph.outputs().iter().map(|o| o.name.clone()).collect(), values }
    }
}

/// What one step gives.
pub struct Steps {
    kinds: Vec<String>,
    values: Vec<Tensor>,
}

impl Steps {
    /// The output of that kind.
    pub fn get(&self, kind: OutputKind) -> &Tensor {
        &self.values[self.kinds.iter().position(|name| name == kind.name()).unwrap()]
    }

    /// The id of the greatest score for the next token.
    pub fn greedy(&self) -> u32 {
        self.get(OutputKind::Candidates).data[1 + (self.get(OutputKind::Candidates).shape[1] - 1) / 2] as u32
    }
}

/// All outputs for one sequence without caches.
pub fn recomputed(model: &Imported, ids: &[u32]) -> Steps {
    let values = evaluate(&model.graph, &SourceInputs { source: &model.weights, ids: ids.to_vec() }).unwrap();
    Steps { kinds: model.graph.outputs().iter().map(|o| o.name.clone()).collect(), values }
}
