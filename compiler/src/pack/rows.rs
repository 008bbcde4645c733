//! Rows of a recipe's value, without making the whole.

use std::borrow::Cow;

use egg::Id;
use rustc_hash::FxHashMap;
use warpweft_plan::DType;

use crate::graph::eval::{EvalError, Inputs, Tensor, decode, evaluate};
use crate::graph::{Declarations, Fact, Graph, Op};

pub(super) type Stored<'s> = FxHashMap<&'s str, Cow<'s, [u8]>>;

/// Where rows come from.
enum Plan {
    /// A stored weight, from a row on.
    Stored { name: String, dtype: DType, first: u64, rows: u64 },
    /// One below the other.
    Joined(Vec<Plan>),
    /// An expression that was evaluated as a whole.
    Whole(Tensor),
}

pub(super) struct RowReader<'s> {
    values: &'s Stored<'s>,
    plan: Plan,
}

impl<'s> RowReader<'s> {
    pub(super) fn new(expression: &Graph, values: &'s Stored<'s>) -> Result<RowReader<'s>, EvalError> {
        let plan = match expression.outputs() {
            [] => return Err(EvalError::Value("a recipe without a value".into())),
            [output] => plan(expression, output.id),
            _ => None,
        };
        let plan = match plan {
            Some(plan) => plan,
            None => Plan::Whole(whole(expression, values)?),
        };
        Ok(RowReader { values, plan })
    }

    /// The bytes of rows as they are stored, where they lie together in one weight.
    pub(super) fn stored(&self, first: u64, count: u64, columns: u64) -> Option<(DType, &[u8])> {
        let (mut plan, mut first) = (&self.plan, first);
        while let Plan::Joined(parts) = plan {
            let mut found = None;
            let mut start = 0;
            for part in parts {
                let rows = part.rows(columns);
                if first >= start && first + count <= start + rows {
                    found = Some((part, first - start));
                }
                start += rows;
            }
            (plan, first) = found?;
        }
        match plan {
            Plan::Stored { name, dtype, first: base, .. } => {
                let row = columns * dtype.bytes();
                let bytes = self.values.get(name.as_str())?;
                Some((*dtype, bytes.get(((base + first) * row) as usize..((base + first + count) * row) as usize)?))
            }
            Plan::Joined(_) | Plan::Whole(_) => None,
        }
    }

    /// Rows as floats.
    pub(super) fn rows(&self, first: u64, count: u64, columns: u64) -> Vec<f32> {
        let mut floats = Vec::with_capacity((count * columns) as usize);
        self.collect(&self.plan, first, first + count, columns, &mut floats);
        floats
    }

    fn collect(&self, plan: &Plan, first: u64, end: u64, columns: u64, into: &mut Vec<f32>) {
        match plan {
            Plan::Stored { name, dtype, first: base, .. } => {
                let row = columns * dtype.bytes();
                let range = ((base + first) * row) as usize..((base + end) * row) as usize;
                let bytes = self.values.get(name.as_str()).and_then(|b| b.get(range)).unwrap_or_default();
                into.extend(decode(bytes, *dtype));
            }
            Plan::Whole(t) => {
                into.extend(t.data.get((first * columns) as usize..(end * columns) as usize).unwrap_or_default())
            }
            Plan::Joined(parts) => {
                let mut start = 0;
                for part in parts {
                    let rows = part.rows(columns);
                    let (from, to) = (first.max(start), end.min(start + rows));
                    if from < to {
                        self.collect(part, from - start, to - start, columns, into);
                    }
                    start += rows;
                }
            }
        }
    }
}

impl Plan {
    fn rows(&self, columns: u64) -> u64 {
        match self {
            Plan::Stored { rows, .. } => *rows,
            Plan::Joined(parts) => parts.iter().map(|p| p.rows(columns)).sum(),
            Plan::Whole(t) => t.data.len() as u64 / columns.max(1),
        }
    }
}

/// The rows of weights that are stored as they are, joined or cut by rows; `None` for any other expression.
fn plan(graph: &Graph, id: Id) -> Option<Plan> {
    let int = |id: Id| match graph.node(id).fact {
        Fact::Int(i) => u64::try_from(i).ok(),
        Fact::Tensor(_) | Fact::Term(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) => None,
    };
    let shape = &graph.node(id).fact.tensor()?.shape;
    // A vector is one row of a matrix, so joining or cutting vectors is no matter of rows.
    let is_matrix = shape.len() == 2;
    match &graph.node(id).op {
        Op::Weight(w) => {
            let decl = &graph.declarations().weights[w.0 as usize];
            let rows = if is_matrix { decl.shape[0] } else { 1 };
            Some(Plan::Stored { name: decl.name.clone(), dtype: decl.dtype, first: 0, rows })
        }
        Op::Concat([axis, a, b]) if is_matrix && int(*axis) == Some(0) => {
            Some(Plan::Joined(vec![plan(graph, *a)?, plan(graph, *b)?]))
        }
        Op::Slice([x, axis, start, len]) if is_matrix && int(*axis) == Some(0) => match plan(graph, *x)? {
            Plan::Stored { name, dtype, first, .. } => {
                Some(Plan::Stored { name, dtype, first: first + int(*start)?, rows: int(*len)? })
            }
            Plan::Joined(_) | Plan::Whole(_) => None,
        },
        _ => None,
    }
}

/// The value; of several, vectors, one behind the other.
fn whole(expression: &Graph, values: &Stored<'_>) -> Result<Tensor, EvalError> {
    let mut parts = evaluate(expression, &StoredInputs { values })?;
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let data: Vec<f32> = parts.into_iter().flat_map(|part| part.data).collect();
    Tensor::new(vec![data.len()], data)
}

struct StoredInputs<'s> {
    values: &'s Stored<'s>,
}

impl Inputs for StoredInputs<'_> {
    fn weight(&self, index: usize, declarations: &Declarations) -> Result<Cow<'_, Tensor>, EvalError> {
        let missing = || EvalError::Value(format!("no weight @{index}"));
        let decl = declarations.weights.get(index).ok_or_else(missing)?;
        let bytes = self.values.get(decl.name.as_str()).ok_or_else(missing)?;
        let shape = decl.shape.iter().map(|&n| n as usize).collect();
        Ok(Cow::Owned(Tensor::new(shape, decode(bytes, decl.dtype))?))
    }

    fn arg(&self, index: usize) -> Result<Cow<'_, Tensor>, EvalError> {
        Err(EvalError::Value(format!("no argument ${index}")))
    }

    fn ids(&self) -> &[u32] {
        &[]
    }
}
