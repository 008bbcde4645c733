//! How far the evaluator's result for one side of a rule can be from exact arithmetic.
//!
//! A rule that reassociates changes roundings, and nothing else: each side is within its own bound of the exact value, so
//! the sides are within the sum of their bounds of each other. `u` is f32's unit roundoff; sums are in f64, and their
//! roundings are covered by the slack of the constants below.

use warpweft_compiler::graph::eval::{Tensor, Values, evaluate};
use warpweft_compiler::graph::moments::GRANULE;
use warpweft_compiler::graph::{Fact, Graph, Id, Op};

/// Relative rounding error of one operation.
const U: f64 = 1.0 / (1u64 << 24) as f64 * 1.001;

/// Absolute rounding error of one operation whose result is subnormal.
const TINY: f64 = 1.0 / (1u128 << 120) as f64 / (1u64 << 29) as f64;

/// A value and how far it may be off.
#[derive(Clone, Copy, Debug)]
struct Near {
    value: f64,
    error: f64,
}

impl Near {
    /// After rounding to f32; what overflows has no bound.
    fn rounded(self) -> Near {
        let error = self.error + U * self.value.abs() + TINY;
        let fits = self.value.abs() + error <= f64::from(f32::MAX);
        Near { error: if fits { error } else { f64::INFINITY }, ..self }
    }

    fn exact(value: f32) -> Near {
        Near { value: value.into(), error: 0.0 }
    }

    fn times(self, other: Near) -> Near {
        let error = self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error;
        Near { value: self.value * other.value, error }
    }
}

/// For each element of `root`'s value, how far it may be from the exact one; infinite where nothing can be said.
///
/// # Panics
/// For operators that no reassociating rule has had at the root of a side: derive their bound here.
pub fn rounding_error(graph: &Graph, root: Id, values: &Values) -> Vec<f64> {
    let value = |id: Id| value_of(graph, id, values);
    match graph.node(root).op {
        Op::Linear([x, w, term]) => {
            let (x_error, w_error) = (operand_error(graph, x), operand_error(graph, w));
            let (x, w, result) = (value(x), value(w), value(root));
            let [rows, n] = result.shape[..] else { panic!("a linear's value is a matrix") };
            let k = x.shape[1];
            let element = |at: usize| {
                let (i, j) = (at / n, at % n);
                let mut acc = Near { value: 0.0, error: 0.0 };
                for (&a, &b) in x.data[i * k..][..k].iter().zip(&w.data[j * k..][..k]) {
                    let (a, b) = (f64::from(a), f64::from(b));
                    acc.value += a * b;
                    acc.error += x_error(a) * b.abs() + (a.abs() + x_error(a)) * w_error(b) + 1e-15 * (a * b).abs();
                }
                term_error(graph, term, values, [acc.rounded(); 2], (i, j)).error
            };
            (0..rows * n).map(element).collect()
        }
        Op::LinearPair([x, a, b, term]) => {
            let (x, result) = (normalized(graph, x, values), value(root));
            let scales = vec![None; result.shape[0]];
            pair_errors(graph, (term, &result), values, &x, &[value(a), value(b)], &scales)
        }
        Op::ScaledLinearPair([gained, eps, a, b, term]) => {
            let (Op::Gained([rows, gain]), Fact::Real(eps)) = (&graph.node(gained).op, &graph.node(eps).fact) else {
                panic!("rows with moments are made of rows")
            };
            let (rows, gain, result) = (value(*rows), value(*gain), value(root));
            let columns = rows.shape[1];
            let product = |at: usize| Near::exact(rows.data[at]).times(Near::exact(gain.data[at % columns])).rounded();
            let x: Vec<Near> = (0..rows.data.len()).map(product).collect();
            let scale = |row: &[f32]| {
                let sum = |part: &[f32]| {
                    let value = part.iter().map(|v| f64::from(*v).powi(2)).sum();
                    Near { value, error: 0.0 }.rounded()
                };
                let sums: Vec<Near> = row.chunks(GRANULE as usize).map(sum).collect();
                let of_all = |part: fn(&Near) -> f64| sums.iter().map(part).sum::<f64>() / columns as f64;
                let mean = of_all(|sum| sum.value) + f64::from(eps.value());
                let value = 1.0 / mean.sqrt();
                // The slope of 1 / sqrt, at its steepest where the mean is least.
                let least = mean - of_all(|sum| sum.error);
                let error = if least > 0.0 { of_all(|sum| sum.error) / (2.0 * least.powf(1.5)) } else { f64::INFINITY };
                Some(Near { value, error }.rounded())
            };
            let scales: Vec<_> = rows.data.chunks(columns).map(scale).collect();
            pair_errors(graph, (term, &result), values, &x, &[value(a), value(b)], &scales)
        }
        // A weighted mean of values, with weights that sum to one.
        Op::Attention([_, _, v, ..]) => mean_error(&value(v), &value(root)),
        Op::MergeHeads([mixed]) => match graph.node(mixed).op {
            Op::MatMul([p, v]) if matches!(graph.node(p).op, Op::Softmax(_)) => mean_error(&value(v), &value(root)),
            _ => contracted(graph, root, values).1,
        },
        Op::MatMul(_) | Op::HeadLinear(_) => contracted(graph, root, values).1,
        ref other => panic!("no bound for {other}"),
    }
}

/// The elements of an activation, those of a norm as far as they may be off.
fn normalized(graph: &Graph, x: Id, values: &Values) -> Vec<Near> {
    let Op::RmsNorm([rows, eps, term]) = graph.node(x).op else {
        let error = operand_error(graph, x);
        let near = |v: f32| Near { value: v.into(), error: error(v.into()) };
        return value_of(graph, x, values).data.into_iter().map(near).collect();
    };
    let Fact::Real(eps) = &graph.node(eps).fact else { panic!("epsilon is a number") };
    let rows = value_of(graph, rows, values);
    let width = rows.shape[1];
    let mut found = Vec::with_capacity(rows.data.len());
    for (i, row) in rows.data.chunks(width).enumerate() {
        let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
        for (k, &v) in row.iter().enumerate() {
            let value = f64::from(v) / (mean + f64::from(eps.value())).sqrt();
            let acc = Near { value, error: 0.0 }.rounded();
            found.push(term_error(graph, term, values, [acc; 2], (i, k)));
        }
    }
    found
}

/// The errors of a term over the products of `x` with two weights, scaled by row where there are scales.
fn pair_errors(
    graph: &Graph,
    (term, result): (Id, &Tensor),
    values: &Values,
    x: &[Near],
    weights: &[Tensor; 2],
    scales: &[Option<Near>],
) -> Vec<f64> {
    let (n, k) = (result.shape[1], weights[0].shape[1]);
    let element = |at: usize| {
        let (i, j) = (at / n, at % n);
        let acc = [0, 1].map(|w: usize| {
            let mut acc = Near { value: 0.0, error: 0.0 };
            for (a, &b) in x[i * k..][..k].iter().zip(&weights[w].data[j * k..][..k]) {
                let product = a.times(Near::exact(b));
                acc = Near {
                    value: acc.value + product.value,
                    error: acc.error + product.error + 1e-15 * product.value.abs(),
                };
            }
            match scales[i] {
                Some(scale) => acc.rounded().times(scale).rounded(),
                None => acc.rounded(),
            }
        });
        term_error(graph, term, values, acc, (i, j)).error
    };
    (0..result.data.len()).map(element).collect()
}

/// The value of products of products and of what takes them apart by heads, and how far each element may be off.
fn contracted(graph: &Graph, id: Id, values: &Values) -> (Tensor, Vec<f64>) {
    let of = |id: Id| contracted(graph, id, values);
    let value = value_of(graph, id, values);
    let errors = match graph.node(id).op {
        Op::Weight(_) | Op::Arg(_) => vec![0.0; value.data.len()],
        Op::Transpose([x]) => {
            let (rows, columns) = (value.shape[value.shape.len() - 2], value.shape[value.shape.len() - 1]);
            let error = of(x).1;
            let from = |at: usize| at / (rows * columns) * rows * columns + at % columns * rows + at / columns % rows;
            (0..value.data.len()).map(|at| error[from(at)]).collect()
        }
        Op::SplitHeads([x, _]) => {
            let [heads, rows, width] = value.shape[..] else { panic!("heads have three axes") };
            let error = of(x).1;
            let from = |at: usize| (at / width % rows * heads + at / width / rows) * width + at % width;
            (0..value.data.len()).map(|at| error[from(at)]).collect()
        }
        Op::MergeHeads([x]) => {
            let (of_heads, error) = of(x);
            let [heads, rows, width] = of_heads.shape[..] else { panic!("heads have three axes") };
            let from = |at: usize| (at / width % heads * rows + at / width / heads) * width + at % width;
            (0..value.data.len()).map(|at| error[from(at)]).collect()
        }
        Op::RepeatHeads([x, _]) => {
            let (few, error) = of(x);
            let (head, times) = (few.data.len() / few.shape[0], value.shape[0] / few.shape[0]);
            (0..value.data.len()).map(|at| error[at / head / times * head + at % head]).collect()
        }
        // (outer, row, column, index along k) to the elements that meet.
        Op::MatMul([a, b]) => {
            let (rows, columns) = (value.shape[value.shape.len() - 2], value.shape[value.shape.len() - 1]);
            let (a, b) = (of(a), of(b));
            let k = a.0.shape[a.0.shape.len() - 1];
            dots(&value, k, &a, &b, |at, j| {
                let (outer, i, n) = (at / columns / rows, at / columns % rows, at % columns);
                ((outer * rows + i) * k + j, (outer * k + j) * columns + n)
            })
        }
        Op::Linear([x, w, acc]) if matches!(graph.node(acc).op, Op::Acc) => {
            let (x, w) = (of(x), of(w));
            let (columns, k) = (value.shape[1], w.0.shape[1]);
            dots(&value, k, &x, &w, |at, j| (at / columns * k + j, at % columns * k + j))
        }
        Op::HeadLinear([x, w, heads]) => {
            let Fact::Int(heads) = graph.node(heads).fact else { panic!("a number of heads") };
            let (x, w) = (of(x), of(w));
            let (columns, k, heads) = (value.shape[1], w.0.shape[w.0.shape.len() - 1], heads as usize);
            dots(&value, k, &x, &w, |at, j| {
                let (i, n) = (at / columns, at % columns);
                ((i * heads + n / (columns / heads)) * k + j, n * k + j)
            })
        }
        ref other => panic!("no bound for {other} in a product"),
    };
    (value, errors)
}

/// The errors of dot products of `k` elements each.
fn dots(
    value: &Tensor,
    k: usize,
    (a, a_error): &(Tensor, Vec<f64>),
    (b, b_error): &(Tensor, Vec<f64>),
    meet: impl Fn(usize, usize) -> (usize, usize),
) -> Vec<f64> {
    let error = |at: usize| {
        let term = |j: usize| {
            let (p, q) = meet(at, j);
            let (x, y) = (f64::from(a.data[p]), f64::from(b.data[q]));
            x.abs() * b_error[q] + y.abs() * a_error[p] + a_error[p] * b_error[q] + 1e-15 * (x * y).abs()
        };
        let sum = (0..k).map(term).sum();
        Near { value: value.data[at].into(), error: sum }.rounded().error
    };
    (0..value.data.len()).map(error).collect()
}

fn mean_error(v: &Tensor, result: &Tensor) -> Vec<f64> {
    let largest = v.data.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    vec![(v.data.len() as f64 + 8.0) * U * largest; result.data.len()]
}

/// A leaf is exact; a scaled tensor was rounded once, a scaled scale twice.
fn operand_error(graph: &Graph, id: Id) -> impl Fn(f64) -> f64 + use<> {
    let roundings = match graph.node(id).op {
        Op::Weight(_) | Op::Arg(_) => 0.0,
        Op::Mul(_) => 2.0,
        ref other => panic!("no bound for {other}"),
    };
    move |x| roundings * (U * x.abs() + TINY)
}

fn term_error(graph: &Graph, term: Id, values: &Values, acc: [Near; 2], at: (usize, usize)) -> Near {
    let node = graph.node(term);
    let of = |id: Id| term_error(graph, id, values, acc, at);
    let lipschitz = |x: Id, factor: f64, f: fn(f64) -> f64| {
        let x = of(x);
        Near { value: f(x.value), error: factor * x.error }.rounded()
    };
    match (&node.fact, &node.op) {
        (_, Op::Acc) => acc[0],
        (_, Op::Acc2) => acc[1],
        (Fact::Real(r), _) => Near { value: r.value().into(), error: 0.0 },
        (Fact::Tensor(_), _) => Near { value: element(&value_of(graph, term, values), at), error: 0.0 },
        (_, Op::Add([a, b])) => {
            let (a, b) = (of(*a), of(*b));
            Near { value: a.value + b.value, error: a.error + b.error }.rounded()
        }
        (_, Op::Sub([a, b])) => {
            let (a, b) = (of(*a), of(*b));
            Near { value: a.value - b.value, error: a.error + b.error }.rounded()
        }
        (_, Op::Mul([a, b])) => of(*a).times(of(*b)).rounded(),
        (_, Op::Div([a, b])) => {
            let (a, b) = (of(*a), of(*b));
            let (value, least) = (a.value / b.value, b.value.abs() - b.error);
            let error = if least > 0.0 { (a.error + value.abs() * b.error) / least } else { f64::INFINITY };
            Near { value, error }.rounded()
        }
        // The greatest slopes.
        (_, Op::Gelu([x])) => lipschitz(*x, 1.13, |x| 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)),
        (_, Op::GeluTanh([x])) => lipschitz(*x, 1.13, |x| {
            0.5 * x * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }),
        (_, Op::Silu([x])) => lipschitz(*x, 1.1, |x| x / (1.0 + (-x).exp())),
        (_, Op::Relu([x])) => lipschitz(*x, 1.0, |x| x.max(0.0)),
        (_, Op::Tanh([x])) => lipschitz(*x, 1.0, f64::tanh),
        (_, Op::Sigmoid([x])) => lipschitz(*x, 0.25, |x| 1.0 / (1.0 + (-x).exp())),
        (_, other) => panic!("no bound for {other} in a term"),
    }
}

/// The element of an operand that meets element (i, j) of the result.
fn element(t: &Tensor, (i, j): (usize, usize)) -> f64 {
    let n = t.shape.len();
    let column = if t.shape[n - 1] == 1 { 0 } else { j };
    let row = if n < 2 || t.shape[n - 2] == 1 { 0 } else { i };
    t.data[row * t.shape[n - 1] + column].into()
}

fn value_of(graph: &Graph, id: Id, values: &Values) -> Tensor {
    let mut graph = Graph::clone(graph);
    let at = graph.outputs().len();
    graph.add_output("value", id);
    evaluate(&graph, values).unwrap().swap_remove(at)
}
