//! Random instances of a rule: its left side with every variable made into something that satisfies the conditions.

use std::collections::BTreeMap;

use egg::{ENodeOrVar, Language, PatternAst, Subst, Var};
use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::graph::{ArgDecl, Graph, Id, Op, Real, Shape, SizeLeaf};
use warpweft_compiler::rules::{EGraph, Facts, Rule};
use warpweft_plan::{DType, Dim};

use crate::random::Random;

/// Both sides of a rule over the same leaves, in one graph.
pub struct Instance {
    /// Holds both sides.
    pub graph: Graph,
    /// The left side.
    pub left: Id,
    /// The right side, or why it is none.
    pub right: Result<Id, String>,
}

/// What has to stand at a place of the pattern.
#[derive(Clone, Debug)]
enum Want {
    /// `[rows, width]`, not made of weights alone.
    Activation(Dim, i64),
    /// `[n, k]`, made of weights alone.
    Weight(i64, i64),
    /// The same, quantized.
    Quantized(i64, i64),
    /// What a contraction reads: either.
    Contracted(i64, i64),
    /// `[rows, width]`, not made of weights alone, quantized.
    Codes(Dim, i64),
    /// Which rows are gathered.
    Index,
    /// `[heads, rows, width]`.
    Heads(i64, i64),
    /// The same, transposed.
    HeadsTransposed(i64, i64),
    /// `[heads, tokens, tokens]`.
    Scores(i64),
    /// Anything that broadcasts to the shape.
    Operand(Shape),
    /// A normed contraction of rows of that width.
    Normed(Dim, i64, i64),
    /// What is done to rows of that shape.
    Prologue(Shape),
    /// A term for results of the shape; paired or not.
    Term(Shape, bool),
    Int(i64),
    Real,
}

struct Instantiation<'r> {
    left: &'r PatternAst<Op>,
    random: &'r mut Random,
    graph: Graph,
    variables: BTreeMap<Var, Id>,
    rows: Dim,
    inner: i64,
    heads: i64,
    kv_heads: i64,
    head_width: i64,
}

/// A random instance; `None` when the random choices do not satisfy the rule's conditions.
pub fn instance(rule: &Rule, random: &mut Random) -> Option<Instance> {
    let grouped = rule.left.vars().contains(&"?g".parse().unwrap()) && random.below(3) > 0;
    let about_attention = rule.left.to_string().contains("scores") || rule.left.to_string().contains("heads");
    let kv_heads = 1 + random.below(2) as i64;
    let mut filling = Instantiation {
        left: &rule.left.ast,
        graph: Graph::default(),
        variables: BTreeMap::new(),
        rows: if about_attention || random.below(4) > 0 { Dim::TOKENS } else { Dim::SEQUENCES },
        // Rows with moments have more than one sum.
        inner: 1 + random.below(if rule.right.to_string().contains("gained") { 40 } else { 7 }) as i64,
        heads: kv_heads * if grouped { 1 + random.below(3) as i64 } else { 1 },
        kv_heads,
        head_width: 1 + random.below(5) as i64,
        random,
    };
    let root = Id::from(rule.left.ast.len() - 1);
    let want = filling.result(root);
    let left = filling.fill(root, &want)?;
    let Instantiation { mut graph, variables, .. } = filling;
    if !holds(rule, &graph, &variables) {
        return None;
    }
    let right = substitute(&rule.right.ast, &variables, &mut graph);
    Some(Instance { graph, left, right })
}

/// Whether the rule fires on the filled left side: its conditions are asked as the saturation asks them.
fn holds(rule: &Rule, graph: &Graph, variables: &BTreeMap<Var, Id>) -> bool {
    let facts = Facts { declarations: std::sync::Arc::new(graph.declarations().clone()), ..Facts::default() };
    let mut egraph = EGraph::new(facts);
    let mut classes = Vec::new();
    for node in graph.nodes() {
        classes.push(egraph.add(node.op.clone().map_children(|c: Id| classes[usize::from(c)])));
    }
    egraph.rebuild();
    let mut subst = Subst::with_capacity(variables.len());
    variables.iter().for_each(|(&v, &id)| {
        subst.insert(v, classes[usize::from(id)]);
    });
    rule.conditions.iter().all(|c| c.holds(&egraph, &subst))
}

fn substitute(ast: &PatternAst<Op>, variables: &BTreeMap<Var, Id>, graph: &mut Graph) -> Result<Id, String> {
    let mut ids: Vec<Id> = Vec::new();
    for node in ast.as_ref() {
        ids.push(match node {
            ENodeOrVar::Var(v) => *variables.get(v).ok_or(format!("{v} is not bound on the left"))?,
            ENodeOrVar::ENode(op) => {
                let op = op.clone().map_children(|c| ids[usize::from(c)]);
                graph.add(op).map_err(|e| e.to_string())?
            }
        });
    }
    ids.last().copied().ok_or("an empty side".into())
}

impl Instantiation<'_> {
    /// What the whole left side computes.
    fn result(&mut self, root: Id) -> Want {
        match self.op(root) {
            Some(Op::MatMul([a, _])) if matches!(self.op(a), Some(Op::SplitHeads(_))) => Want::Scores(self.heads),
            Some(Op::MergeHeads(_)) => Want::Activation(self.rows, self.heads * self.head_width),
            Some(op) if op.is_pointwise() => {
                let operands = op.children().iter().copied().filter(|&c| self.op(c).is_some()).collect::<Vec<_>>();
                self.result(operands[0])
            }
            Some(Op::Scores(_)) => Want::Scores(self.heads),
            Some(Op::Concat(_)) => Want::Weight(2 + self.random.below(6) as i64, self.inner),
            Some(Op::Slice([x, ..])) if matches!(self.op(x), Some(Op::Dequantize(_))) => {
                Want::Weight(1 + self.random.below(7) as i64, self.inner)
            }
            Some(Op::Gather(_)) => Want::Activation(Dim::TOKENS, self.inner),
            Some(Op::Gained(_)) => Want::Activation(self.rows, 1 + self.random.below(40) as i64),
            _ => Want::Activation(self.rows, 1 + self.random.below(7) as i64),
        }
    }

    fn op(&self, at: Id) -> Option<Op> {
        match &self.left[at] {
            ENodeOrVar::ENode(op) => Some(op.clone()),
            ENodeOrVar::Var(_) => None,
        }
    }

    fn fill(&mut self, at: Id, want: &Want) -> Option<Id> {
        let op = match &self.left[at] {
            ENodeOrVar::ENode(op) => op.clone(),
            ENodeOrVar::Var(v) => {
                if let Some(&id) = self.variables.get(v) {
                    return Some(id);
                }
                let id = self.leaf(want);
                self.variables.insert(*v, id);
                return Some(id);
            }
        };
        let wants = self.wants(&op, want);
        let mut filled = op.clone();
        for (child, want) in filled.children_mut().iter_mut().zip(wants) {
            *child = self.fill(*child, &want)?;
        }
        self.graph.add(filled).ok()
    }

    /// What the operands have to be for the operator to give `want`.
    fn wants(&mut self, op: &Op, want: &Want) -> Vec<Want> {
        let (k, h, g, d, rows) = (self.inner, self.heads, self.kv_heads, self.head_width, self.rows);
        let shape = self.shape(want);
        match (op, want) {
            (op, _) if op.is_leaf() => vec![],
            (Op::MatMul(_), Want::Activation(rows, n)) => vec![Want::Activation(*rows, k), Want::Weight(k, *n)],
            (Op::MatMul(_), Want::Scores(h)) => vec![Want::Heads(*h, d), Want::HeadsTransposed(*h, d)],
            (Op::MatMul(_), Want::Heads(h, width)) => vec![Want::Scores(*h), Want::Heads(*h, *width)],
            (Op::Transpose(_), Want::Weight(n, k)) => vec![Want::Weight(*k, *n)],
            (Op::Transpose(_), Want::HeadsTransposed(h, width)) => vec![Want::Heads(*h, *width)],
            (Op::Dequantize(_), Want::Activation(rows, k)) => vec![Want::Codes(*rows, *k)],
            (Op::Dequantize(_), Want::Weight(n, k)) => vec![Want::Quantized(*n, *k)],
            (Op::Gather(_), Want::Activation(_, n)) => vec![Want::Weight(14, *n), Want::Index],
            (Op::SplitHeads(_), Want::Heads(h, width)) => vec![Want::Activation(rows, h * width), Want::Int(*h)],
            (Op::RepeatHeads(_), Want::Heads(h, width)) => vec![Want::Heads(g, *width), Want::Int(h / g)],
            (Op::MergeHeads(_), _) => vec![Want::Heads(h, d)],
            (Op::Softmax(_), _) => vec![want.clone()],
            (Op::Scores(_), _) => {
                let term = Want::Term(shape, false);
                vec![Want::Activation(rows, h * d), Want::Activation(rows, g * d), Want::Int(h), Want::Int(g), term]
            }
            (Op::Linear(_), Want::Activation(rows, n)) => {
                vec![Want::Activation(*rows, k), Want::Contracted(*n, k), Want::Term(shape, false)]
            }
            (Op::LinearPair(_), Want::Activation(rows, n)) => {
                let weight = Want::Contracted(*n, k);
                vec![Want::Activation(*rows, k), weight.clone(), weight, Want::Term(shape, true)]
            }
            // Rows after two norms are as wide as they were.
            (Op::First([pair]) | Op::Second([pair]), Want::Activation(rows, n))
                if matches!(self.op(*pair), Some(Op::NormedRows(_))) =>
            {
                vec![Want::Normed(*rows, *n, *n)]
            }
            (Op::First(_), Want::Activation(rows, n)) => vec![Want::Normed(*rows, k, *n)],
            (Op::Second(_), Want::Activation(rows, width)) => {
                vec![Want::Normed(*rows, *width, 1 + self.random.below(7) as i64)]
            }
            (Op::NormedRows(_), Want::Normed(rows, k, _)) => {
                vec![Want::Activation(*rows, *k), Want::Prologue(vec![*rows, (*k).into()])]
            }
            (Op::NormedLinear(_) | Op::NormedLinearPair(_), Want::Normed(rows, k, n)) => {
                let (x, result) = (vec![*rows, (*k).into()], vec![*rows, (*n).into()]);
                let mut wants = vec![Want::Activation(*rows, *k), Want::Prologue(x), Want::Contracted(*n, *k)];
                let paired = matches!(op, Op::NormedLinearPair(_));
                wants.extend(paired.then_some(Want::Contracted(*n, *k)));
                wants.push(Want::Term(result, paired));
                wants
            }
            (Op::Gained(_), Want::Activation(..)) => vec![want.clone(), Want::Operand(shape)],
            (Op::GainedLinear(_), Want::Normed(rows, k, n)) => {
                let contraction = [Want::Activation(*rows, *k), Want::Contracted(*n, *k)];
                contraction.into_iter().chain([Want::Term(shape.clone(), false), Want::Operand(shape)]).collect()
            }
            (Op::Rms(_) | Op::Layer(_), Want::Prologue(shape)) => vec![Want::Real, Want::Term(shape.clone(), false)],
            (Op::Then(_), Want::Prologue(_)) => vec![want.clone(), want.clone()],
            (Op::LayerNorm(_) | Op::RmsNorm(_) | Op::L2Norm(_), _) => {
                vec![want.clone(), Want::Real, Want::Term(shape, false)]
            }
            (Op::Slice(_), Want::Activation(rows, n)) => {
                let (before, after) = (self.random.below(5) as i64, self.random.below(5) as i64);
                vec![Want::Activation(*rows, before + n + after), Want::Int(1), Want::Int(before), Want::Int(*n)]
            }
            (Op::Slice(_), Want::Weight(n, k)) => {
                let (before, after) = (self.random.below(5) as i64, self.random.below(5) as i64);
                vec![Want::Weight(before + n + after, *k), Want::Int(0), Want::Int(before), Want::Int(*n)]
            }
            (Op::Concat(_), Want::Weight(n, k)) => {
                let first = 1 + self.random.below(*n as usize - 1) as i64;
                vec![Want::Int(0), Want::Weight(first, *k), Want::Weight(n - first, *k)]
            }
            (op, want) if op.is_pointwise() => self.pointwise_wants(op, want, shape),
            (op, want) => panic!("no recipe for {op} that gives {want:?}: add one"),
        }
    }

    fn pointwise_wants(&self, op: &Op, want: &Want, shape: Shape) -> Vec<Want> {
        let any_operator = op.children().iter().any(|&c| self.op(c).is_some());
        let operand = |(i, &child): (usize, &Id)| match self.op(child) {
            Some(_) => want.clone(),
            None if i == 0 && !any_operator => want.clone(),
            None => Want::Operand(shape.clone()),
        };
        op.children().iter().enumerate().map(operand).collect()
    }

    fn shape(&self, want: &Want) -> Shape {
        match want {
            Want::Activation(rows, n) | Want::Codes(rows, n) => vec![*rows, (*n).into()],
            Want::Weight(n, k) | Want::Quantized(n, k) | Want::Contracted(n, k) => vec![(*n).into(), (*k).into()],
            Want::Heads(h, width) => vec![(*h).into(), self.rows, (*width).into()],
            Want::HeadsTransposed(h, width) => vec![(*h).into(), (*width).into(), self.rows],
            Want::Scores(h) => vec![(*h).into(), self.rows, self.rows],
            Want::Normed(rows, _, n) => vec![*rows, (*n).into()],
            Want::Operand(shape) | Want::Term(shape, _) | Want::Prologue(shape) => shape.clone(),
            Want::Int(_) | Want::Real | Want::Index => Shape::new(),
        }
    }

    fn leaf(&mut self, want: &Want) -> Id {
        match want {
            Want::Operand(shape) => self.operand(shape),
            Want::Term(shape, paired) => {
                let depth = self.random.below(4);
                self.term(shape, *paired, depth)
            }
            Want::Normed(..) | Want::Prologue(_) => panic!("a variable stands for {want:?}: add a recipe"),
            Want::Int(value) => self.add(Op::Int(*value)),
            Want::Real => self.real(&[1e-12, 1e-5, 0.5]),
            Want::Weight(n, k) => self.weight(&[*n, *k]),
            Want::Quantized(n, k) => self.quantized(*n, *k),
            Want::Contracted(n, k) if self.random.below(4) == 0 => self.quantized(*n, *k),
            Want::Contracted(n, k) => self.weight(&[*n, *k]),
            Want::Codes(..) => {
                let dtype = Format::Int8(Group::Row).into();
                let arg = self.graph.declare_arg(ArgDecl { shape: self.shape(want), dtype });
                self.add(Op::Arg(arg))
            }
            Want::Index => self.add(Op::Ids),
            Want::Activation(..) | Want::Heads(..) | Want::HeadsTransposed(..) | Want::Scores(_) => {
                self.activation(self.shape(want))
            }
        }
    }

    /// A scalar, vector, row, matrix or mask that broadcasts to the shape.
    fn operand(&mut self, shape: &Shape) -> Id {
        let last = shape.last().and_then(|d| d.as_constant());
        match (self.random.below(5), last) {
            (0, _) => self.real(&[0.0, -0.0, 0.125, -3.0, 1e-30, 1e30]),
            (1, _) => {
                let bounds = [-1, 0, 1, 3];
                let (before, after) = (self.random.of(&bounds), self.random.of(&bounds));
                let (before, after) = (self.add(Op::Int(before)), self.add(Op::Int(after)));
                let keys = self.add(Op::Size(SizeLeaf(Dim::TOKENS)));
                self.add(Op::BandMask([before, after, keys]))
            }
            (2, Some(n)) => self.weight(&[n]),
            (3, Some(n)) => self.weight(&[1, n]),
            _ => self.activation(shape.clone()),
        }
    }

    fn term(&mut self, shape: &Shape, paired: bool, depth: usize) -> Id {
        if depth == 0 {
            return if paired && self.random.below(2) == 0 { self.add(Op::Acc2) } else { self.add(Op::Acc) };
        }
        let inner = self.term(shape, paired, depth - 1);
        let other = match shape.len() {
            // Scores are combined with scalars and masks alone, as the rules about them do.
            3 => self.real(&[0.5, 2.0, -1.0]),
            _ if self.random.below(3) == 0 => self.term(shape, paired, 0),
            _ => loop {
                let operand = self.operand(shape);
                if !matches!(self.graph.node(operand).op, Op::BandMask(_)) {
                    break operand;
                }
            },
        };
        let op = match self.random.below(14) {
            0 => Op::Gelu([inner]),
            1 => Op::GeluTanh([inner]),
            2 => Op::Silu([inner]),
            3 => Op::Relu([inner]),
            4 => Op::Tanh([inner]),
            5 => Op::Sigmoid([inner]),
            6 => Op::Add([inner, other]),
            7 => Op::Add([other, inner]),
            8 => Op::Sub([inner, other]),
            9 => Op::Sub([other, inner]),
            10 => Op::Mul([inner, other]),
            11 => Op::Mul([other, inner]),
            12 => Op::Div([inner, other]),
            _ => Op::Div([other, inner]),
        };
        self.add(op)
    }

    fn real(&mut self, choices: &[f32]) -> Id {
        let value = self.random.of(choices);
        self.add(Op::Real(Real::new(value)))
    }

    fn weight(&mut self, shape: &[i64]) -> Id {
        let dtype = self.random.of(&[DType::F32, DType::F16, DType::BF16]);
        let name = format!("w{}", self.graph.declarations().weights.len());
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        self.graph.weight(name, dtype, &shape).unwrap()
    }

    fn quantized(&mut self, n: i64, k: i64) -> Id {
        // Two weights of a rule are to be of one format often enough.
        let format = self.random.of(&[Format::Int8(Group::Row), Format::Mxfp4]);
        let name = format!("w{}", self.graph.declarations().weights.len());
        self.graph.weight(name, format, &[n as u64, k as u64]).unwrap()
    }

    fn activation(&mut self, shape: Shape) -> Id {
        let arg = self.graph.declare_arg(ArgDecl { shape, dtype: DType::F32.into() });
        self.add(Op::Arg(arg))
    }

    fn add(&mut self, op: Op) -> Id {
        self.graph.add(op).unwrap()
    }
}
