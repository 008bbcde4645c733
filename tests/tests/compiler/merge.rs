//! The rewrite that is no pattern: contractions of one input become one.

use std::collections::BTreeMap;
use std::sync::Arc;

use egg::Language;
use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::graph::eval::{Tensor, Values, evaluate};
use warpweft_compiler::graph::{ArgDecl, Element, Graph, Id, Op};
use warpweft_compiler::rules::{EGraph, Facts, merge_siblings};
use warpweft_plan::{DType, Dim};
use warpweft_tests::{Magnitudes, Random, random_values};

/// Random layers.
const INSTANCES: usize = 300;

/// Every window of every merge has the fact and, bit by bit, the value of the contraction that it stands for.
#[test]
fn windows_are_exact() {
    let mut random = Random::new(11);
    let (mut windows, mut biased, mut filled, mut finite, mut elements) = (0, 0, 0, 0, 0);
    for _ in 0..INSTANCES {
        let graph = layer(&mut random);
        let mut merged = Merged::of(&graph);
        let results = graph.outputs().to_vec();
        let mut found = 0;
        for output in &results {
            found += merged.add_windows(output.id);
        }
        windows += found;
        let text = merged.graph.to_string();
        biased += usize::from(text.contains("(add acc"));
        filled += usize::from(text.contains("(fill -0.0"));
        let rows = 1 + random.below(6);
        let values = random_values(&merged.graph, rows, random.of(&Magnitudes::ALL), &mut random);
        let all = evaluate(&merged.graph, &values).unwrap();
        let (plain, of_windows) = all.split_at(results.len());
        for (name, window) in merged.graph.outputs()[results.len()..].iter().map(|o| &o.name).zip(of_windows) {
            let at = results.iter().position(|o| o.name == *name).unwrap();
            same(&plain[at], window, &merged.graph, &values);
            elements += window.data.len();
            finite += window.data.iter().filter(|x| x.is_finite()).count();
        }
    }
    println!(
        "{windows} windows, {biased} merges with biases, {filled} with some, {elements} elements, {finite} finite"
    );
    assert!(windows > 2 * INSTANCES && biased > INSTANCES / 4 && filled > INSTANCES / 8 && finite * 4 > elements);
}

fn same(a: &Tensor, b: &Tensor, graph: &Graph, values: &Values) {
    assert_eq!(a.shape, b.shape);
    let equal = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
    assert!(a.data.iter().zip(&b.data).all(equal), "{:?} and {:?}\n{graph}{values:?}", a.data, b.data);
}

/// Two to six contractions of one or two inputs: stored weights, rows of several heads of a stored one, scaled ones; with
/// or without biases and what else kernels take up.
fn layer(random: &mut Random) -> Graph {
    let mut graph = Graph::default();
    let rows = random.of(&[Dim::TOKENS, Dim::SEQUENCES, Dim::CONTEXT]);
    let inner = 1 + random.below(9) as u64;
    let inputs: Vec<Id> = (0..random.of(&[1, 1, 2]))
        .map(|_| {
            let arg = ArgDecl { shape: vec![rows, Dim::from(inner as i64)], dtype: DType::F32.into() };
            let arg = graph.declare_arg(arg);
            graph.add(Op::Arg(arg)).unwrap()
        })
        .collect();
    let acc = graph.add(Op::Acc).unwrap();
    let [wide, brain, half] = [DType::F32, DType::BF16, DType::F16].map(Element::from);
    let [bytes, fours] = [Format::Int8(Group::Row), Format::Mxfp4].map(Element::from);
    let mixes = [vec![wide], vec![brain], vec![half, half, wide], vec![bytes, bytes, fours], vec![fours, brain]];
    let dtypes = &mixes[random.below(mixes.len())];
    for part in 0..2 + random.below(5) {
        let x = random.of(&inputs);
        let columns = 1 + random.below(13) as u64;
        let dtype = random.of(dtypes);
        let (weight, bias) = operands(&mut graph, random, &format!("{part}"), [columns, inner], dtype);
        let plain = graph.add(Op::Linear([x, weight, acc])).unwrap();
        graph.add_output(format!("{part}"), plain);
        let mut term = acc;
        if random.below(2) == 0 {
            term = graph.add(if random.below(3) > 0 { Op::Add([acc, bias]) } else { Op::Add([bias, acc]) }).unwrap();
            let biased = graph.add(Op::Linear([x, weight, term])).unwrap();
            graph.add_output(format!("{part} with a bias"), biased);
        }
        if random.below(3) == 0 {
            term = graph.add(Op::Silu([term])).unwrap();
            let bent = graph.add(Op::Linear([x, weight, term])).unwrap();
            graph.add_output(format!("{part} bent"), bent);
        }
        if random.below(4) == 0 && dtype == DType::F32 {
            let scale = graph.real(0.125).unwrap();
            let scaled = graph.times(weight, scale).unwrap();
            let scaled = graph.add(Op::Linear([x, scaled, acc])).unwrap();
            graph.add_output(format!("{part} scaled"), scaled);
        }
    }
    graph
}

/// A weight and a bias.
fn operands(
    graph: &mut Graph,
    random: &mut Random,
    name: &str,
    [columns, inner]: [u64; 2],
    dtype: Element,
) -> (Id, Id) {
    let stored = |graph: &mut Graph, rows| {
        let weight = graph.weight(format!("w{name}"), dtype, &[rows, inner]).unwrap();
        (weight, graph.weight(format!("b{name}"), DType::F32, &[rows]).unwrap())
    };
    match random.below(4) {
        0 if !dtype.is_quantized() => {
            let weight = graph.weight(format!("w{name}"), dtype, &[inner, columns]).unwrap();
            (graph.transpose(weight).unwrap(), stored(graph, columns).1)
        }
        1 => {
            let (weight, bias) = stored(graph, 3 * columns);
            let (a, b) = (1 + random.below(columns as usize) as u64, columns);
            let mut heads = |of: Id| {
                let first = graph.slice(of, 0, 0, a).unwrap();
                match b - a {
                    0 => first,
                    more => {
                        let second = graph.slice(of, 0, 2 * columns, more).unwrap();
                        graph.concat(0, first, second).unwrap()
                    }
                }
            };
            (heads(weight), heads(bias))
        }
        _ => stored(graph, columns),
    }
}

/// A graph and the windows that merging finds for its contractions.
struct Merged {
    graph: Graph,
    egraph: EGraph,
    classes: Vec<Id>,
    nodes: BTreeMap<Id, Id>,
}

impl Merged {
    fn of(graph: &Graph) -> Merged {
        let facts = Facts { declarations: Arc::new(graph.declarations().clone()), ..Facts::default() };
        let mut egraph = EGraph::new(facts);
        let mut classes = Vec::new();
        for node in graph.nodes() {
            classes.push(egraph.add(node.op.clone().map_children(|c| classes[usize::from(c)])));
        }
        egraph.rebuild();
        merge_siblings(&mut egraph);
        assert_eq!(egraph.analysis.clashes, [], "{graph}");
        let nodes = graph.ids().map(|id| (egraph.find(classes[usize::from(id)]), id)).collect();
        Merged { graph: graph.clone(), egraph, classes, nodes }
    }

    /// Makes each window in the class of a node a result of the same name; gives their number.
    fn add_windows(&mut self, id: Id) -> usize {
        let class = self.egraph.find(self.classes[usize::from(id)]);
        let is_window = |n: &&Op| matches!(n, Op::Slice(_));
        let windows: Vec<Op> = self.egraph[class].nodes.iter().filter(is_window).cloned().collect();
        let name = self.graph.outputs().iter().find(|o| o.id == id).unwrap().name.clone();
        for window in &windows {
            let built = self.build(window.clone());
            assert_eq!(self.graph.node(id).fact, self.graph.node(built).fact);
            self.graph.add_output(name.clone(), built);
        }
        windows.len()
    }

    fn build(&mut self, op: Op) -> Id {
        let op = op.map_children(|child| {
            let class = self.egraph.find(child);
            match self.nodes.get(&class) {
                Some(&id) => id,
                None => {
                    let [node] = &self.egraph[class].nodes[..] else { panic!("{class} is one thing") };
                    let built = self.build(node.clone());
                    self.nodes.insert(class, built);
                    built
                }
            }
        });
        self.graph.add(op).unwrap()
    }
}
