//! Rows of a recipe's value, without making the whole.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use egg::Id;
use rustc_hash::FxHashMap;
use warpweft_plan::PAD;

use crate::graph::eval::{EvalError, Inputs, Tensor, evaluate_node};
use crate::graph::{Declarations, Element, Fact, Graph, Op};

pub(super) type Stored<'s> = FxHashMap<&'s str, Cow<'s, [u8]>>;

/// Rows of a recipe's value.
pub(super) enum Piece<'r> {
    /// As they are to be stored.
    Stored(&'r [u8]),
    /// As numbers.
    Floats(Vec<f32>),
}

/// The floats at the end of the pieces.
fn floats<'p>(pieces: &'p mut Vec<Piece<'_>>) -> &'p mut Vec<f32> {
    if !matches!(pieces.last(), Some(Piece::Floats(_))) {
        pieces.push(Piece::Floats(Vec::new()));
    }
    match pieces.last_mut() {
        Some(Piece::Floats(floats)) => floats,
        Some(Piece::Stored(_)) | None => unreachable!("floats were just put there"),
    }
}

/// How rows are to be stored.
struct Wanted {
    columns: u64,
    element: Element,
}

/// Where rows come from.
enum Plan {
    /// A stored weight, from a row on.
    Stored { name: String, dtype: Element, first: u64, rows: u64 },
    /// One below the other.
    Joined(Vec<Plan>),
    /// Vectors that stand one behind the other: one row.
    Vectors(Vec<Id>),
    /// Some rows of an expression that is evaluated as a whole.
    Whole { node: Id, first: u64, rows: u64 },
}

pub(super) struct RowReader<'s> {
    expression: &'s Graph,
    values: &'s Stored<'s>,
    plan: Plan,
    /// The expression that was evaluated last. Rows are asked for in order, so that no two are in memory.
    evaluated: RefCell<Option<(Id, Rc<Tensor>)>>,
}

impl<'s> RowReader<'s> {
    pub(super) fn new(expression: &'s Graph, values: &'s Stored<'s>) -> Result<RowReader<'s>, EvalError> {
        let plan = match expression.outputs() {
            [] => return Err(EvalError::Value("a recipe without a value".into())),
            [output] => plan(expression, output.id),
            vectors => Some(Plan::Vectors(vectors.iter().map(|o| o.id).collect())),
        };
        let plan = plan.ok_or_else(|| EvalError::Value("a recipe that is neither a matrix nor a vector".into()))?;
        Ok(RowReader { expression, values, plan, evaluated: RefCell::default() })
    }

    /// Some rows, in pieces of which each is as `element` stores it or floats.
    pub(super) fn rows(
        &self,
        first: u64,
        count: u64,
        columns: u64,
        element: Element,
    ) -> Result<Vec<Piece<'_>>, EvalError> {
        let mut pieces = Vec::new();
        self.collect(&self.plan, [first, first + count], &Wanted { columns, element }, &mut pieces)?;
        Ok(pieces)
    }

    fn collect<'r>(
        &'r self,
        plan: &Plan,
        [first, end]: [u64; 2],
        wanted: &Wanted,
        into: &mut Vec<Piece<'r>>,
    ) -> Result<(), EvalError> {
        let Wanted { columns, element } = *wanted;
        match plan {
            Plan::Stored { name, dtype, first: base, .. } => {
                let row = dtype.row_bytes(columns);
                let range = ((base + first) * row) as usize..((base + end) * row) as usize;
                let short = || EvalError::Value(format!("{name} has not the rows that it declares"));
                let bytes = self.values.get(name.as_str()).and_then(|b| b.get(range)).ok_or_else(short)?;
                // Rows of numbers are padded when they are packed.
                let is_packed = dtype.is_quantized() || columns.is_multiple_of(PAD);
                if *dtype == element && is_packed {
                    into.push(Piece::Stored(bytes));
                } else {
                    floats(into).extend(dtype.decode(bytes, columns as usize));
                }
            }
            Plan::Whole { node, first: base, .. } => {
                let range = ((base + first) * columns) as usize..((base + end) * columns) as usize;
                floats(into).extend(self.whole(*node)?.data.get(range).unwrap_or_default());
            }
            Plan::Vectors(nodes) => {
                for &node in nodes {
                    floats(into).extend(&self.whole(node)?.data);
                }
            }
            Plan::Joined(parts) => {
                let mut start = 0;
                for part in parts {
                    let rows = part.rows();
                    let (from, to) = (first.max(start), end.min(start + rows));
                    if from < to {
                        self.collect(part, [from - start, to - start], wanted, into)?;
                    }
                    start += rows;
                }
            }
        }
        Ok(())
    }

    fn whole(&self, node: Id) -> Result<Rc<Tensor>, EvalError> {
        if let Some((known, value)) = &*self.evaluated.borrow()
            && *known == node
        {
            return Ok(value.clone());
        }
        self.evaluated.take();
        let value = Rc::new(evaluate_node(self.expression, node, &StoredInputs { values: self.values })?);
        self.evaluated.replace(Some((node, value.clone())));
        Ok(value)
    }
}

impl Plan {
    fn rows(&self) -> u64 {
        match self {
            Plan::Stored { rows, .. } | Plan::Whole { rows, .. } => *rows,
            Plan::Vectors(_) => 1,
            Plan::Joined(parts) => parts.iter().map(Plan::rows).sum(),
        }
    }

    /// The rows from `start` on.
    fn window(self, start: u64, len: u64) -> Plan {
        match self {
            Plan::Stored { name, dtype, first, .. } => Plan::Stored { name, dtype, first: first + start, rows: len },
            Plan::Whole { node, first, .. } => Plan::Whole { node, first: first + start, rows: len },
            Plan::Vectors(_) => self,
            Plan::Joined(parts) => {
                let (mut at, mut within) = (0, Vec::new());
                for part in parts {
                    let rows = part.rows();
                    let (from, to) = (start.max(at), (start + len).min(at + rows));
                    if from < to {
                        within.push(part.window(from - at, to - from));
                    }
                    at += rows;
                }
                Plan::Joined(within)
            }
        }
    }
}

/// Where the rows of a matrix come from: of weights that are stored, joined or cut by rows, from where they are; of any
/// other expression, and of vectors, from its value.
fn plan(graph: &Graph, id: Id) -> Option<Plan> {
    let int = |id: Id| match graph.node(id).fact {
        Fact::Int(i) => u64::try_from(i).ok(),
        Fact::Tensor(_) | Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..) => None,
        Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => None,
    };
    let shape = &graph.node(id).fact.tensor()?.shape;
    // A vector is one row of a matrix, so joining or cutting vectors is no matter of rows.
    let is_matrix = shape.len() == 2;
    // Matrices of heads stand one below the other.
    let sizes = shape.iter().rev().skip(1).map(|d| u64::try_from(d.as_constant()?).ok());
    let rows = sizes.product::<Option<u64>>()?;
    match &graph.node(id).op {
        Op::Weight(w) => {
            let decl = &graph.declarations().weights[w.0 as usize];
            Some(Plan::Stored { name: decl.name.clone(), dtype: decl.dtype, first: 0, rows })
        }
        Op::Concat([axis, a, b]) if is_matrix && int(*axis) == Some(0) => {
            Some(Plan::Joined(vec![plan(graph, *a)?, plan(graph, *b)?]))
        }
        Op::Slice([x, axis, start, _]) if is_matrix && int(*axis) == Some(0) => {
            Some(plan(graph, *x)?.window(int(*start)?, rows))
        }
        // What is rounded is rounded to the recipe's own format, when it is packed.
        Op::Quantize([_, w]) => plan(graph, *w),
        _ => Some(Plan::Whole { node: id, first: 0, rows }),
    }
}

struct StoredInputs<'s> {
    values: &'s Stored<'s>,
}

impl Inputs for StoredInputs<'_> {
    fn weight(&self, index: usize, declarations: &Declarations) -> Result<Cow<'_, Tensor>, EvalError> {
        let missing = || EvalError::Value(format!("no weight @{index}"));
        let decl = declarations.weights.get(index).ok_or_else(missing)?;
        let bytes = self.values.get(decl.name.as_str()).ok_or_else(missing)?;
        let shape: Vec<usize> = decl.shape.iter().map(|&n| n as usize).collect();
        let values = decl.dtype.decode(bytes, shape.last().copied().unwrap_or(1));
        Ok(Cow::Owned(Tensor::new(shape, values)?))
    }

    fn arg(&self, index: usize) -> Result<Cow<'_, Tensor>, EvalError> {
        Err(EvalError::Value(format!("no argument ${index}")))
    }

    fn ids(&self) -> &[u32] {
        &[]
    }
}
