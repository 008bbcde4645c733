//! The graph's text form, its verifier and its evaluator.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use egg::Language;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::graph::eval::{Tensor, Values, evaluate};
use warpweft_compiler::graph::verify::{Form, VerifyError, verify};
use warpweft_compiler::graph::{ArgDecl, CacheDecl, Element, Fact, Graph, Id, Op, Real, SizeLeaf, WeightDecl};
use warpweft_models::import;
use warpweft_plan::{DType, Dim};
use warpweft_tests::{Magnitudes, Random, cost_models, fixture, graphs, program, random_values};

const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::U32];
const SIZES: [i64; 6] = [1, 2, 3, 4, 6, 12];

/// A graph made by adding what fits, as `choices` say.
fn built(names: &[String], choices: &[[u8; 6]]) -> Graph {
    let mut graph = Graph::default();
    let size = |c: u8| SIZES[usize::from(c) % SIZES.len()];
    for (i, name) in names.iter().enumerate() {
        let choice = choices.get(i).copied().unwrap_or_default();
        let rank = 1 + usize::from(choice[0] % 3);
        let shape = choice[1..=rank].iter().map(|&c| size(c) as u64).collect();
        let dtype = DTYPES[usize::from(choice[4] % 3)];
        let dtype = match choice[4] % 5 {
            4 => Element::from(Format::QUANTIZED[usize::from(choice[3]) % Format::QUANTIZED.len()]),
            _ => dtype.into(),
        };
        let weight = graph.declare_weight(WeightDecl { name: name.clone(), dtype, shape });
        graph.add(Op::Weight(weight)).unwrap();
        let rows =
            [Dim::TOKENS, Dim::SEQUENCES, Dim::CONTEXT, Dim::TOKENS * 2 + Dim::from(3)][usize::from(choice[5] % 4)];
        let dtype = DTYPES[usize::from(choice[4] % 4)];
        let dtype = if choice[5] % 8 == 7 { Element::from(Format::Int8(Group::Row)) } else { dtype.into() };
        let arg = graph.declare_arg(ArgDecl { shape: vec![rows, size(choice[3]).into()], dtype });
        graph.add(Op::Arg(arg)).unwrap();
        let cache = graph.declare_cache(CacheDecl { width: size(choice[3]) as u32 });
        graph.add(Op::Cache(cache)).unwrap();
    }
    for leaf in [-1, 0, 1, 2, 3].map(Op::Int) {
        graph.add(leaf).unwrap();
    }
    for format in [Format::Int8(Group::Row), Format::Int4 { group: Group::Of(32), zeros: true }, Format::F32] {
        graph.add(Op::Format(format)).unwrap();
    }
    for leaf in [Op::Acc, Op::Acc2, Op::Real(Real::new(0.5)), Op::Size(SizeLeaf(Dim::TOKENS))] {
        graph.add(leaf).unwrap();
    }
    for choice in choices {
        graph.set_layer([None, Some(0), Some(1), Some(7)][usize::from(choice[0] / 64)]);
        let operands = Operands { graph: &graph, choice };
        let op = operands.operator();
        if let Some(op) = op {
            let _ = graph.add(op);
        }
    }
    for (i, choice) in choices.iter().enumerate().take(3) {
        if !graph.nodes().is_empty() {
            graph.add_output(format!("out{i}"), Id::from(usize::from(choice[5]) % graph.nodes().len()));
        }
    }
    graph
}

/// Chooses operands of the right kind; whether their shapes fit is left to chance.
struct Operands<'g> {
    graph: &'g Graph,
    choice: &'g [u8; 6],
}

impl Operands<'_> {
    fn of(&self, slot: usize, kind: fn(&Fact) -> bool) -> Option<Id> {
        let fitting: Vec<Id> = self.graph.ids().filter(|&id| kind(&self.graph.node(id).fact)).collect();
        let at = usize::from(self.choice[slot]) % fitting.len().max(1);
        fitting.get(at).copied()
    }

    fn int(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| matches!(f, Fact::Int(_)))
    }

    fn real(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| matches!(f, Fact::Real(_)))
    }

    fn term(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| matches!(f, Fact::Term(_)))
    }

    fn prologue(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| matches!(f, Fact::Prologue(_)))
    }

    fn size(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| matches!(f, Fact::Size(_)))
    }

    fn ranked(&self, slot: usize) -> Option<Id> {
        match self.choice[0] / 64 {
            0 => self.of(slot, |f| f.tensor().is_some_and(|t| t.shape.len() == 3)).or_else(|| self.tensor(slot)),
            _ => self.of(slot, |f| f.tensor().is_some_and(|t| t.shape.len() == 2)),
        }
    }

    fn tensor(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| f.tensor().is_some())
    }

    fn vector(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| f.tensor().is_some_and(|t| t.shape.len() == 1))
    }

    fn any(&self, slot: usize) -> Option<Id> {
        self.of(slot, |f| !matches!(f, Fact::Int(_) | Fact::Size(_)))
    }

    fn operator(&self) -> Option<Op> {
        let number = |slot: usize| f32::from(self.choice[slot]);
        let exponent = i32::from(self.choice[2] % 60) - 30;
        Some(match self.choice[0] % 51 {
            0 => Op::Int(i64::from(self.choice[1]) % 9 - 2),
            1 => Op::Real(Real::new((number(1) - 100.0) * 10f32.powi(exponent))),
            2 => Op::Ids,
            3 => Op::Positions,
            4 => Op::BandMask([self.int(1)?, self.int(2)?, self.size(3)?]),
            5 => Op::Rope([
                self.ranked(1)?,
                self.of(2, |f| f.tensor().is_some_and(|t| t.dtype == DType::U32))?,
                self.vector(3)?,
                self.of(4, |f| matches!(f, Fact::Int(1..=3)))?,
                self.of(5, |f| matches!(f, Fact::Int(0 | 1)))?,
                self.real(1)?,
            ]),
            6 => Op::Attention([
                self.ranked(1)?,
                self.ranked(2)?,
                self.ranked(2)?,
                self.int(3)?,
                self.int(4)?,
                self.term(5)?,
            ]),
            7 => Op::Add([self.any(1)?, self.any(2)?]),
            8 => Op::Sub([self.any(1)?, self.any(2)?]),
            9 => Op::Mul([self.any(1)?, self.any(2)?]),
            10 => Op::Div([self.any(1)?, self.any(2)?]),
            11 => Op::Gelu([self.any(1)?]),
            12 => Op::GeluTanh([self.any(1)?]),
            13 => Op::Silu([self.any(1)?]),
            14 => Op::Relu([self.any(1)?]),
            15 => Op::Tanh([self.any(1)?]),
            16 => Op::Sigmoid([self.any(1)?]),
            17 => Op::MatMul([self.ranked(1)?, self.ranked(2)?]),
            18 => Op::Transpose([self.ranked(1)?]),
            19 | 20 => Op::Slice([self.tensor(1)?, self.int(2)?, self.int(3)?, self.int(4)?]),
            21 => Op::Concat([self.int(1)?, self.tensor(2)?, self.tensor(3)?]),
            22 => Op::Gather([self.ranked(1)?, self.vector(2)?]),
            50 => Op::GatherColumns([self.ranked(1)?, self.vector(2)?]),
            23 => Op::SplitHeads([self.ranked(1)?, self.int(2)?]),
            24 => Op::MergeHeads([self.ranked(1)?]),
            25 => Op::RepeatHeads([self.ranked(1)?, self.int(2)?]),
            26 => Op::Softmax([self.tensor(1)?]),
            27 => Op::LayerNorm([self.tensor(1)?, self.real(2)?, self.term(3)?]),
            28 => Op::RmsNorm([self.tensor(1)?, self.real(2)?, self.term(3)?]),
            29 => Op::L2Norm([self.tensor(1)?, self.real(2)?, self.term(3)?]),
            30 => Op::MeanPool([self.ranked(1)?]),
            31 => Op::FirstRow([self.ranked(1)?]),
            32 => Op::MaxPool([self.ranked(1)?]),
            36 => Op::LastRow([self.ranked(1)?]),
            37 => Op::Append([self.of(1, |f| matches!(f, Fact::Cache(_)))?, self.ranked(2)?]),
            38 => Op::Candidates([self.ranked(1)?, self.int(2)?]),
            39 => Op::HeadNorm([self.ranked(1)?, self.int(2)?, self.real(3)?, self.vector(4)?]),
            41 => Op::NormedLinear([self.ranked(1)?, self.prologue(2)?, self.ranked(3)?, self.term(4)?]),
            42 => Op::NormedLinearPair([
                self.ranked(1)?,
                self.prologue(2)?,
                self.ranked(3)?,
                self.ranked(3)?,
                self.term(4)?,
            ]),
            43 => Op::Rms([self.real(1)?, self.term(2)?]),
            44 => Op::Layer([self.real(1)?, self.term(2)?]),
            45 => Op::Then([self.prologue(1)?, self.prologue(2)?]),
            46 => Op::First([self.of(1, |f| matches!(f, Fact::Pair(..)))?]),
            47 => Op::Second([self.of(1, |f| matches!(f, Fact::Pair(..)))?]),
            48 => Op::Quantize([self.of(1, |f| matches!(f, Fact::Format(_)))?, self.tensor(2)?]),
            49 => Op::Dequantize([self.tensor(1)?]),
            33 | 34 => Op::Linear([self.ranked(1)?, self.ranked(2)?, self.term(3)?]),
            35 => Op::LinearPair([self.ranked(1)?, self.ranked(2)?, self.ranked(2)?, self.term(3)?]),
            _ => Op::Scores([self.ranked(1)?, self.ranked(2)?, self.int(3)?, self.int(4)?, self.term(5)?]),
        })
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new_with_rng(
        Config { cases, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
}

fn any_graph() -> impl Strategy<Value = Graph> {
    let names = proptest::collection::vec("[a-z]{1,3}(\\PC|[\"\\\\#\n\r\t]){0,6}", 1..5);
    let choices = proptest::collection::vec(any::<[u8; 6]>(), 5..120);
    (names, choices).prop_map(|(names, choices)| built(&names, &choices))
}

/// What is printed and parsed prints the same and computes the same; leaves may come in another order.
#[test]
fn random_graphs_print_and_parse() {
    let operators = RefCell::new(BTreeMap::<String, usize>::new());
    runner(2000)
        .run(&any_graph(), |graph| {
            let text = graph.to_string();
            let parsed: Graph = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
            prop_assert_eq!(&parsed.to_string(), &text);
            prop_assert_eq!(parsed.declarations(), graph.declarations());
            let facts = |g: &Graph| g.outputs().iter().map(|o| g.node(o.id).fact.clone()).collect::<Vec<_>>();
            prop_assert_eq!(facts(&parsed), facts(&graph));
            let again: Graph = parsed.to_string().parse().unwrap();
            prop_assert!(again == parsed);
            for node in graph.nodes().iter().filter(|n| !n.op.is_leaf()) {
                *operators.borrow_mut().entry(node.op.name()).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    println!("{:?}", operators.borrow());
    assert!(operators.borrow().len() == 45, "only {operators:?} occur");
}

/// A graph that was parsed has its nodes in the order of the text, so that it comes back as it is.
#[test]
fn files_print_and_parse() {
    let fixtures = ["bert", "bert-mlm", "roberta", "distilbert", "modernbert"];
    let models = fixtures.map(|name| (name.to_owned(), import(&fixture(name)).unwrap().graph));
    let fused = graphs().into_iter().map(|c| (c.name, program(&c.graph, &cost_models()[1].1)));
    let cases = graphs().into_iter().map(|c| (c.name, c.graph)).chain(models).chain(fused);
    for (name, graph) in cases {
        let text = graph.to_string();
        let parsed: Graph = text.parse().unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        assert_eq!(parsed.to_string(), text, "{name}");
    }
}

/// Whatever stands in a text, it is parsed or refused with the line named.
#[test]
fn hostile_texts_are_refused() {
    let texts: Vec<String> = graphs().iter().map(|c| c.graph.to_string()).collect();
    let words = [
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
        "-1",
        "0",
        "tokens",
        "1e38",
        "nan",
        "inf",
        "acc",
        "acc2",
        "&0",
        "cache",
        "cache &1 4294967295",
        "append",
        "candidates",
        "$0",
        "@0",
        "@4294967295",
        "%0",
        "%99999999999999999999",
        "(",
        ")",
        "((((",
        "[",
        "]",
        "\"",
        "\\",
        "#",
        "é",
        "\u{0}",
        "slice",
        "rope",
        "attention",
        "scores",
        "concat",
        "repeat-heads",
        "4611686018427387904*tokens",
        "u32[]",
        "f32[9223372036854775807]",
        "weight",
        "arg $1 f32[]",
        "output",
        "layer",
        "layer -1",
        "\n",
        "=",
        "%0 =",
    ];
    let refused = Cell::new(0);
    let edit = (any::<u32>(), any::<u32>(), 0..3u8);
    let strategy = (0..texts.len(), proptest::collection::vec(edit, 1..6));
    runner(20_000)
        .run(&strategy, |(i, edits)| {
            let mut tokens: Vec<&str> = texts[i].split_inclusive([' ', '\n', '(', ')', ',', '[', ']']).collect();
            for (at, word, kind) in edits {
                let at = at as usize % tokens.len().max(1);
                let word = words[word as usize % words.len()];
                match kind {
                    0 if at < tokens.len() => tokens[at] = word,
                    1 if tokens.len() > 1 => drop(tokens.remove(at)),
                    _ => tokens.insert(at, word),
                }
            }
            if let Err(error) = tokens.concat().parse::<Graph>() {
                prop_assert!(error.line >= 1 && !error.problem.is_empty());
                refused.set(refused.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    let any_text = "(\\PC|[\n%@$()\"]){0,200}";
    runner(5_000)
        .run(&any_text, |text| {
            let _ = text.parse::<Graph>();
            Ok(())
        })
        .unwrap();
    let deep = format!("arg $0 f32[tokens, 4]\n%0 = {}$0{}\n", "(gelu ".repeat(100_000), ")".repeat(100_000));
    assert!(deep.parse::<Graph>().unwrap_err().problem.contains("nest"));
    let refused = refused.get();
    println!("{refused} of 20000 changed graphs are refused");
    assert!((2_000..20_000).contains(&refused));
}

fn graph(text: &str) -> Graph {
    text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The messages of the verifier, for graphs that no phase may let through.
#[test]
fn illegal_graphs_are_refused() {
    let heads = "arg $0 f32[tokens, 8]\n%0 = (split-heads $0 2)\n";
    let cases = [
        (
            Form::Imported,
            "weight @0 \"w\" f32[4, 8]\narg $0 f32[tokens, 8]\n%0 = (linear $0 @0 acc)\noutput y %0\n",
            "linear is not legal in an imported",
        ),
        (
            Form::Imported,
            "arg $0 f32[tokens, 8]\n%0 = (attention $0 $0 $0 2 2 acc)\noutput y %0\n",
            "attention is not legal in an imported",
        ),
        (
            Form::Extracted,
            "arg $0 f32[tokens, 8]\n%0 = (gelu $0)\n%1 = (scores $0 $0 2 2 acc)\noutput y %1\n",
            "node 4: scores is not legal in an extracted",
        ),
        (
            Form::Extracted,
            "weight @0 \"w\" f32[8, 4]\narg $0 f32[tokens, 8]\n%0 = (matmul $0 @0)\noutput y %0\n",
            "matmul is not legal in an extracted",
        ),
        (
            Form::Extracted,
            &format!("{heads}%1 = (merge-heads %0)\noutput y %1\n"),
            "split-heads is not legal in an extracted",
        ),
        (
            Form::Extracted,
            "arg $0 f32[tokens, 8]\n%0 = (softmax $0)\noutput y %0\n",
            "softmax is not legal in an extracted",
        ),
        (
            Form::Extracted,
            "arg $0 f32[8, 4]\n%0 = (slice $0 0 1 2)\noutput y %0\n",
            "mixes rows: an argument's rows are of no known kind",
        ),
        (
            Form::Extracted,
            "arg $0 f32[tokens, 8]\narg $1 f32[tokens, tokens]\n%0 = (attention $0 $0 $0 2 2 (add acc $1))\noutput y %0\n",
            "attention mixes rows: the scores' term",
        ),
        (
            Form::Extracted,
            "arg $0 f32[sequences, 8]\n%0 = (attention $0 $0 $0 2 2 acc)\noutput y %0\n",
            "attention mixes rows: keys and values are neither",
        ),
    ];
    for (form, text, message) in cases {
        let error = verify(&graph(text), form).unwrap_err().to_string();
        assert!(error.contains(message) && error.starts_with("node "), "{error}\n{text}");
    }
}

/// Rows of tokens and rows of sequences are different things even where their numbers agree.
#[test]
fn rows_of_different_kinds_do_not_meet() {
    let pooled = "arg $0 f32[tokens, 8]\narg $1 f32[sequences, 8]\n%0 = (gelu $0)\n%1 = (gelu $1)\n";
    for text in [format!("{pooled}%2 = (add %0 %1)\n"), format!("{pooled}%2 = (concat 1 %0 %1)\n")] {
        let error = text.parse::<Graph>().unwrap_err().to_string();
        assert!(error.starts_with("line 5"), "{error}");
    }
    let twice = "arg $0 f32[tokens, 8]\n%0 = (mean-pool $0)\n%1 = (mean-pool %0)\n";
    assert!(
        twice.parse::<Graph>().unwrap_err().to_string().contains("pools the rows of a sequence, found [sequences, 8]")
    );
}

/// A recorded fact that does not follow from the operands: here the declarations change under a graph.
#[test]
fn other_declarations_are_checked() {
    let text = "weight @0 \"w\" f32[4, 8]\narg $0 f32[tokens, 8]\n%0 = (linear $0 @0 acc)\noutput y %0\n";
    let graph = graph(text);
    let mut declarations = graph.declarations().clone();
    declarations.weights[0].dtype = DType::F16.into();
    let other = graph.redeclared(declarations.clone()).unwrap();
    assert_eq!(verify(&other, Form::Extracted), Ok(()));
    declarations.weights[0].shape = vec![4, 7];
    let error = graph.redeclared(declarations).unwrap_err();
    assert!(error.to_string().contains("[tokens, 8] and [4, 7]"), "{error}");
    assert!(matches!(verify(&graph, Form::Imported), Err(VerifyError::Illegal { node: 3, .. })));
}

/// A row of a verified graph does not change when another row of its sequence does, unless attention or pooling looks.
#[test]
fn rows_are_independent() {
    let mut random = Random::new(11);
    let mut checked = 0;
    for case in graphs() {
        let program = program(&case.graph, &cost_models()[1].1);
        verify(&program, Form::Extracted).unwrap();
        let looks = |op: &Op| {
            matches!(op, Op::Attention(_) | Op::MeanPool(_) | Op::FirstRow(_) | Op::MaxPool(_) | Op::LastRow(_))
        };
        if program.nodes().iter().any(|n| looks(&n.op)) {
            continue;
        }
        let values = random_values(&program, 5, Magnitudes::Ordinary, &mut random);
        let mut changed = values.clone();
        let last = |t: &mut Tensor| t.data.iter_mut().rev().take(t.shape[1]).for_each(|x| *x += 1.0);
        changed.args.iter_mut().for_each(last);
        changed.ids[4] += 1;
        let first_rows = |values: &Values| -> Vec<Vec<u32>> {
            let outputs = evaluate(&program, values).unwrap();
            outputs.iter().map(|t| t.data[..4 * t.shape[1]].iter().map(|x| x.to_bits()).collect()).collect()
        };
        assert_eq!(first_rows(&values), first_rows(&changed), "{}", case.name);
        checked += 1;
    }
    assert!(checked > 20);
}
