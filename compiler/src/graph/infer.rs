//! The fact of a node from those of its children.

mod contract;

use std::collections::BTreeSet;

use egg::Id;
use warpweft_plan::{DType, Dim};

use super::fact::{Fact, FactError, PrologueFact, Shape, TensorFact, TermFact, show};
use super::op::Op;
use super::{ArgDecl, Declarations, Element};

type Problem = String;

/// The fact of a node whose children have the facts that `child` gives.
///
/// # Errors
/// Names the operator, what was found and what was expected.
pub fn infer<'a>(op: &Op, child: impl Fn(Id) -> &'a Fact, declarations: &Declarations) -> Result<Fact, FactError> {
    Infer { child, declarations }.fact(op).map_err(|problem| FactError { op: op.name(), problem })
}

struct Infer<'d, F> {
    child: F,
    declarations: &'d Declarations,
}

impl<'a, F: Fn(Id) -> &'a Fact> Infer<'_, F> {
    fn fact(&self, op: &Op) -> Result<Fact, Problem> {
        match op {
            Op::Int(i) => Ok(Fact::Int(*i)),
            Op::Real(r) => Ok(Fact::Real(*r)),
            Op::Size(s) => Ok(Fact::Size(s.0)),
            Op::Format(format) => Ok(Fact::Format(*format)),
            Op::Weight(id) => {
                let w = self.declarations.weights.get(id.0 as usize).ok_or(format!("{id} is not declared"))?;
                let shape = w.shape.iter().map(|&n| Dim::constant(n as i64)).collect();
                Ok(Fact::Tensor(TensorFact { shape, dtype: w.dtype, constant: true }))
            }
            Op::Arg(id) => {
                let ArgDecl { shape, dtype } =
                    self.declarations.args.get(id.0 as usize).ok_or(format!("{id} is not declared"))?;
                if dtype.is_quantized() && !(dtype.is_activations() && shape.len() == 2) {
                    return Err(format!("an activation is numbers or a matrix of int8, not {dtype}{}", show(shape)));
                }
                tensor(shape.clone(), *dtype, false)
            }
            Op::Cache(id) => {
                let cache = self.declarations.caches.get(id.0 as usize).ok_or(format!("{id} is not declared"))?;
                Ok(Fact::Cache(cache.width))
            }
            Op::Ids | Op::Positions => tensor(vec![Dim::TOKENS], DType::U32, false),
            Op::Acc => Ok(Fact::Term(TermFact::default())),
            Op::Acc2 => Ok(Fact::Term(TermFact { paired: true, ..TermFact::default() })),
            Op::Add(c) | Op::Sub(c) | Op::Mul(c) | Op::Div(c) => self.pointwise(c),
            Op::Gelu(c) | Op::GeluTanh(c) | Op::Silu(c) | Op::Relu(c) | Op::Tanh(c) | Op::Sigmoid(c) => {
                self.pointwise(c)
            }
            Op::Fill([value, n]) => {
                self.real(*value)?;
                tensor(vec![self.positive(*n)?.into()], DType::F32, true)
            }
            Op::MatMul([a, b]) => self.matmul(*a, *b),
            Op::Transpose([x]) => {
                let t = self.tensor(*x)?;
                let mut shape = t.shape.clone();
                let n = shape.len();
                if n < 2 {
                    return Err(format!("needs two axes or more, found {}", show(&shape)));
                }
                shape.swap(n - 1, n - 2);
                tensor(shape, t.dtype, t.constant)
            }
            Op::Slice([x, axis, start, len]) => self.slice(*x, *axis, *start, *len),
            Op::Concat([axis, a, b]) => self.concat(*axis, *a, *b),
            Op::Quantize([format, w]) => self.quantize(*format, *w),
            Op::Dequantize([w]) => {
                let t = self.stored(*w)?;
                match t.dtype {
                    Element::Quantized(_) => tensor(t.shape.clone(), DType::F32, t.constant),
                    Element::Plain(dtype) => Err(format!("needs a quantized weight, found {dtype}")),
                }
            }
            Op::Gather([table, index]) => {
                let (t, i) = (self.stored(*table)?, self.tensor(*index)?);
                match (t.shape.as_slice(), i.shape.as_slice(), i.dtype) {
                    ([_, width], [rows], Element::Plain(DType::U32)) => tensor(vec![*rows, *width], DType::F32, false),
                    _ => Err(format!(
                        "needs a table [n, width] and u32 [rows], found {} and {}",
                        show(&t.shape),
                        show(&i.shape)
                    )),
                }
            }
            Op::GatherColumns([x, index]) => {
                let (t, i) = (self.tensor(*x)?, self.tensor(*index)?);
                let [rows, width] = matrix(t)?;
                match i.shape.as_slice() {
                    [n] if i.constant && width.as_constant().is_some() => {
                        tensor(vec![rows, *n], DType::F32, t.constant)
                    }
                    _ => Err(format!(
                        "needs rows of a constant width and a constant vector, found {} and {}",
                        show(&t.shape),
                        show(&i.shape)
                    )),
                }
            }
            Op::SplitHeads([x, n]) => {
                let (t, n) = (self.tensor(*x)?, self.positive(*n)?);
                let [rows, width] = matrix(t)?;
                let width = width.as_constant().ok_or("the width must be constant")?;
                if width % n != 0 {
                    return Err(format!("{n} heads do not divide {width} columns"));
                }
                tensor(vec![n.into(), rows, (width / n).into()], t.dtype, t.constant)
            }
            Op::MergeHeads([x]) => {
                let t = self.tensor(*x)?;
                match t.shape.as_slice() {
                    [n, rows, width] => {
                        let width = width.as_constant().ok_or("the head width must be constant")?;
                        tensor(vec![*rows, *n * width], t.dtype, t.constant)
                    }
                    other => Err(format!("needs [heads, rows, width], found {}", show(other))),
                }
            }
            Op::RepeatHeads([x, n]) => {
                let (t, n) = (self.tensor(*x)?, self.positive(*n)?);
                match t.shape.as_slice() {
                    [heads, rows, width] => tensor(vec![*heads * n, *rows, *width], t.dtype, t.constant),
                    other => Err(format!("needs [heads, rows, width], found {}", show(other))),
                }
            }
            Op::Softmax([x]) => {
                let t = self.tensor(*x)?;
                if t.shape.is_empty() {
                    return Err("needs an axis".into());
                }
                tensor(t.shape.clone(), t.dtype, t.constant)
            }
            Op::LayerNorm([x, eps, term]) | Op::RmsNorm([x, eps, term]) | Op::L2Norm([x, eps, term]) => {
                let t = self.tensor(*x)?;
                self.real(*eps)?;
                if t.shape.is_empty() {
                    return Err("needs an axis".into());
                }
                self.term(*term, &t.shape, false)?;
                tensor(t.shape.clone(), DType::F32, t.constant)
            }
            Op::BandMask([before, after, keys]) => {
                for bound in [before, after] {
                    let n = self.int(*bound)?;
                    if !(-1..=i64::from(u32::MAX)).contains(&n) {
                        return Err(format!("a bound is -1 (none) or a number of keys, found {n}"));
                    }
                }
                let Fact::Size(keys) = (self.child)(*keys) else {
                    return Err("needs the number of keys as a symbolic size".into());
                };
                tensor(vec![Dim::TOKENS, *keys], DType::F32, false)
            }
            Op::Rope([x, positions, frequencies, heads, interleaved, scale]) => {
                let (t, p, f) = (self.tensor(*x)?, self.tensor(*positions)?, self.tensor(*frequencies)?);
                let (heads, interleaved) = (self.positive(*heads)?, self.int(*interleaved)?);
                self.real(*scale)?;
                let [rows, width] = matrix(t)?;
                let width = width.as_constant().ok_or("the width must be constant")?;
                let pairs = match f.shape.as_slice() {
                    [n] => n.as_constant(),
                    _ => None,
                };
                let pairs = pairs.ok_or(format!("frequencies must be a vector, found {}", show(&f.shape)))?;
                if width % heads != 0 || pairs > width / heads / 2 || pairs == 0 {
                    return Err(format!("{heads} heads and {pairs} frequencies do not fit {width} columns"));
                }
                if p.shape != [rows] || p.dtype != DType::U32 {
                    return Err(format!("positions must be u32 [{rows}], found {}{}", p.dtype, show(&p.shape)));
                }
                if !(0..=1).contains(&interleaved) {
                    return Err(format!("interleaved is 0 or 1, found {interleaved}"));
                }
                tensor(t.shape.clone(), DType::F32, false)
            }
            Op::HeadNorm([x, heads, eps, gain]) => {
                let (t, g, heads) = (self.tensor(*x)?, self.tensor(*gain)?, self.positive(*heads)?);
                self.real(*eps)?;
                let [_, width] = matrix(t)?;
                let of_head = g.shape.first().and_then(|d| d.as_constant()).filter(|_| g.shape.len() == 1);
                if of_head.and_then(|n| n.checked_mul(heads)) != width.as_constant() {
                    return Err(format!("{heads} heads and a gain {} do not fit {width} columns", show(&g.shape)));
                }
                tensor(t.shape.clone(), DType::F32, t.constant && g.constant)
            }
            Op::Append([cache, x]) => {
                let t = self.tensor(*x)?;
                let Fact::Cache(columns) = *(self.child)(*cache) else {
                    return Err("appends to a cache".into());
                };
                let [rows, width] = matrix(t)?;
                if rows != Dim::TOKENS || width != Dim::constant(columns.into()) {
                    return Err(format!("{} does not fit a cache of {columns} columns", show(&t.shape)));
                }
                tensor(vec![Dim::CONTEXT, width], DType::F32, false)
            }
            Op::Candidates([x, n]) => {
                let (t, n) = (self.tensor(*x)?, self.positive(*n)?);
                let [rows, width] = matrix(t)?;
                if width.as_constant().is_none_or(|w| n > w) {
                    return Err(format!("there are no {n} greatest values in {}", show(&t.shape)));
                }
                tensor(vec![rows, Dim::from(n) * 2 + Dim::constant(1)], DType::F32, false)
            }
            Op::MeanPool([x]) | Op::FirstRow([x]) | Op::MaxPool([x]) | Op::LastRow([x]) => {
                let t = self.tensor(*x)?;
                let [rows, width] = matrix(t)?;
                if rows != Dim::TOKENS {
                    return Err(format!("pools the rows of a sequence, found {}", show(&t.shape)));
                }
                tensor(vec![Dim::SEQUENCES, width], DType::F32, false)
            }
            Op::Linear([x, w, term]) => {
                let shape = self.linear(*x, *w)?;
                self.term(*term, &shape, false)?;
                tensor(shape, DType::F32, false)
            }
            Op::HeadLinear([x, w, heads]) => {
                let (x, w, heads) = (self.tensor(*x)?, self.stored(*w)?, self.positive(*heads)?);
                let [rows, width] = matrix(x)?;
                let (of_heads, k) = match w.shape.as_slice() {
                    [n, k] => (n.as_constant(), *k),
                    [h, n, k] if *h == heads.into() => (n.as_constant().and_then(|n| n.checked_mul(heads)), *k),
                    _ => (None, Dim::default()),
                };
                match of_heads.filter(|n| n % heads == 0) {
                    Some(n) if w.constant && width == k * heads => tensor(vec![rows, n.into()], DType::F32, false),
                    _ => Err(format!(
                        "{heads} heads of {} and a weight {} do not contract",
                        show(&x.shape),
                        show(&w.shape)
                    )),
                }
            }
            Op::LinearPair([x, a, b, term]) => {
                let shape = self.linear_pair(*x, *a, *b)?;
                self.term(*term, &shape, true)?;
                tensor(shape, DType::F32, false)
            }
            Op::Rms([eps, term]) | Op::Layer([eps, term]) => {
                self.real(*eps)?;
                match (self.child)(*term) {
                    Fact::Term(t) if !t.paired => {
                        Ok(Fact::Prologue(PrologueFact { operands: t.operands.clone(), norms: 1 }))
                    }
                    other => Err(format!("needs a term over acc, found {other}")),
                }
            }
            Op::Then([a, b]) => match ((self.child)(*a), (self.child)(*b)) {
                (Fact::Prologue(a), Fact::Prologue(b)) if a.norms == 1 && b.norms == 1 => {
                    let operands = a.operands.union(&b.operands).cloned().collect();
                    Ok(Fact::Prologue(PrologueFact { operands, norms: 2 }))
                }
                (a, b) => Err(format!("needs two prologues of one norm, found {a} and {b}")),
            },
            Op::NormedLinear([x, prologue, w, term]) => {
                let shape = self.linear(*x, *w)?;
                self.term(*term, &shape, false)?;
                self.normed(*x, *prologue, shape)
            }
            Op::NormedLinearPair([x, prologue, a, b, term]) => {
                let shape = self.linear_pair(*x, *a, *b)?;
                self.term(*term, &shape, true)?;
                self.normed(*x, *prologue, shape)
            }
            Op::NormedRows([x, prologue]) => {
                let shape = self.tensor(*x)?.shape.clone();
                self.normed(*x, *prologue, shape)
            }
            Op::Gained([rows, gain]) => {
                let rows = self.tensor(*rows)?;
                tensor(self.gained(matrix(rows)?, *gain)?, DType::F32, rows.constant)
            }
            Op::GainedLinear([x, w, term, gain]) => {
                let shape = self.linear(*x, *w)?;
                self.term(*term, &shape, false)?;
                let gained = self.gained([shape[0], shape[1]], *gain)?;
                let result = |shape| TensorFact { shape, dtype: Element::F32, constant: false };
                Ok(Fact::Pair(result(shape), result(gained)))
            }
            Op::ScaledLinearPair([x, eps, a, b, term]) => {
                self.real(*eps)?;
                let (x, [n, k]) = (self.tensor(*x)?, matrix(self.stored(*a)?)?);
                let [rows, width] = matrix(x)?;
                if width != self.with_moments(k)? {
                    return Err(format!("needs {k} columns with their moments, found {}", show(&x.shape)));
                }
                let shape = vec![rows, n];
                self.weights_alike(*a, *b)?;
                self.term(*term, &shape, true)?;
                tensor(shape, DType::F32, false)
            }
            Op::First([pair]) => Ok(Fact::Tensor(self.pair(*pair)?.0.clone())),
            Op::Second([pair]) => Ok(Fact::Tensor(self.pair(*pair)?.1.clone())),
            Op::Scores([q, k, heads, kv_heads, term]) => {
                let (queries, keys) = self.scores(*q, *k, *heads, *kv_heads)?;
                let shape = vec![self.positive(*heads)?.into(), queries, keys];
                self.term(*term, &shape, false)?;
                tensor(shape, DType::F32, false)
            }
            Op::Attention([q, k, v, heads, kv_heads, term]) => {
                let (queries, keys) = self.scores(*q, *k, *heads, *kv_heads)?;
                let (h, g) = (self.positive(*heads)?, self.positive(*kv_heads)?);
                self.term(*term, &[h.into(), queries, keys], false)?;
                let v = self.tensor(*v)?;
                let [rows, width] = matrix(v)?;
                let width = width.as_constant().filter(|w| w % g == 0);
                match width {
                    Some(width) if rows == keys => tensor(vec![queries, Dim::from(width / g) * h], DType::F32, false),
                    _ => Err(format!("values {} do not fit {g} heads and {keys} keys", show(&v.shape))),
                }
            }
        }
    }

    /// A tensor of numbers.
    fn tensor(&self, id: Id) -> Result<&'a TensorFact, Problem> {
        let t = self.stored(id)?;
        match t.dtype {
            Element::Plain(_) => Ok(t),
            Element::Quantized(format) => Err(format!("needs numbers, found a weight as {format} stores it")),
        }
    }

    /// A tensor of numbers, or rows of a quantized weight.
    fn stored(&self, id: Id) -> Result<&'a TensorFact, Problem> {
        let fact = (self.child)(id);
        fact.tensor().ok_or_else(|| format!("needs a tensor, found {fact}"))
    }

    fn quantize(&self, format: Id, w: Id) -> Result<Fact, Problem> {
        let (t, format) = (self.tensor(w)?, (self.child)(format));
        let Fact::Format(format) = format else { return Err(format!("needs a format, found {format}")) };
        let element = Element::Quantized(*format);
        // Activations are rounded while the program runs, which kernels do to one format.
        let fits = if t.constant { format.is_quantized() } else { element.is_activations() };
        if !fits || t.dtype == DType::U32 || t.shape.len() != 2 {
            let found = format!("{format} and {}{}", t.dtype, show(&t.shape));
            let expected = "a quantized format and a matrix of weights, or int8 and one of activations";
            return Err(format!("needs {expected}, found {found}"));
        }
        tensor(t.shape.clone(), element, t.constant)
    }

    fn int(&self, id: Id) -> Result<i64, Problem> {
        match (self.child)(id) {
            Fact::Int(i) => Ok(*i),
            other => Err(format!("needs an integer, found {other}")),
        }
    }

    fn positive(&self, id: Id) -> Result<i64, Problem> {
        let n = self.int(id)?;
        if n > 0 { Ok(n) } else { Err(format!("needs a positive number, found {n}")) }
    }

    fn real(&self, id: Id) -> Result<f32, Problem> {
        match (self.child)(id) {
            Fact::Real(r) => Ok(r.value()),
            other => Err(format!("needs a real number, found {other}")),
        }
    }

    fn pointwise(&self, children: &[Id]) -> Result<Fact, Problem> {
        let facts: Vec<&Fact> = children.iter().map(|&c| (self.child)(c)).collect();
        if facts.iter().any(|f| matches!(f, Fact::Term(_))) {
            let mut term = TermFact::default();
            for fact in facts {
                match fact {
                    Fact::Term(t) => {
                        term.operands.extend(t.operands.iter().cloned());
                        term.paired |= t.paired;
                    }
                    Fact::Tensor(t) if t.dtype.is_quantized() => {
                        return Err(format!("needs numbers, found a weight as {} stores it", t.dtype));
                    }
                    Fact::Tensor(t) => {
                        term.operands.insert(t.shape.clone());
                    }
                    Fact::Real(_) => {}
                    Fact::Int(_)
                    | Fact::Size(_)
                    | Fact::Cache(_)
                    | Fact::Format(_)
                    | Fact::Prologue(_)
                    | Fact::Pair(..) => {
                        return Err(format!("needs numbers, found {fact}"));
                    }
                }
            }
            return Ok(Fact::Term(term));
        }
        let mut shape = Shape::new();
        let mut constant = true;
        let mut dtype = None;
        for fact in facts {
            match fact {
                Fact::Tensor(t) => {
                    if t.dtype == DType::U32 || t.dtype.is_quantized() {
                        return Err(format!("needs floats, found {}", t.dtype));
                    }
                    shape = broadcast(&shape, &t.shape)
                        .ok_or_else(|| format!("shapes {} and {} do not broadcast", show(&shape), show(&t.shape)))?;
                    constant &= t.constant;
                    dtype = Some(DType::F32);
                }
                Fact::Real(_) => {}
                Fact::Int(_)
                | Fact::Size(_)
                | Fact::Term(_)
                | Fact::Cache(_)
                | Fact::Format(_)
                | Fact::Prologue(_)
                | Fact::Pair(..) => {
                    return Err(format!("needs numbers, found {fact}"));
                }
            }
        }
        tensor(shape, dtype.ok_or("needs a tensor")?, constant)
    }

    fn matmul(&self, a: Id, b: Id) -> Result<Fact, Problem> {
        let (a, b) = (self.tensor(a)?, self.tensor(b)?);
        let error = || format!("shapes {} and {} do not contract", show(&a.shape), show(&b.shape));
        if a.shape.len() != b.shape.len() || a.shape.len() < 2 {
            return Err(error());
        }
        let n = a.shape.len();
        if a.shape[..n - 2] != b.shape[..n - 2] || a.shape[n - 1] != b.shape[n - 2] {
            return Err(error());
        }
        let mut shape = a.shape.clone();
        shape[n - 1] = b.shape[n - 1];
        tensor(shape, DType::F32, a.constant && b.constant)
    }

    fn slice(&self, x: Id, axis: Id, start: Id, len: Id) -> Result<Fact, Problem> {
        let t = self.stored(x)?;
        let (axis, start, len) = (self.int(axis)?, self.int(start)?, self.positive(len)?);
        let mut shape = t.shape.clone();
        let dim = usize::try_from(axis).ok().and_then(|a| shape.get_mut(a));
        let dim = dim.ok_or(format!("{} has no axis {axis}", show(&t.shape)))?;
        let size = dim.as_constant().ok_or(format!("axis {axis} of {} is not constant", show(&t.shape)))?;
        if start < 0 || start.checked_add(len).is_none_or(|end| end > size) {
            return Err(format!("{start} + {len} is outside axis {axis} of {}", show(&t.shape)));
        }
        *dim = len.into();
        by_rows(t, axis)?;
        tensor(shape, t.dtype, t.constant)
    }

    fn concat(&self, axis: Id, a: Id, b: Id) -> Result<Fact, Problem> {
        let (axis, a, b) = (self.int(axis)?, self.stored(a)?, self.stored(b)?);
        by_rows(a, axis)?;
        let error =
            || format!("{}{} and {}{} do not join on axis {axis}", a.dtype, show(&a.shape), b.dtype, show(&b.shape));
        let axis = usize::try_from(axis).map_err(|_| error())?;
        let mut shape = a.shape.clone();
        let same = |i: usize| i == axis || a.shape[i] == b.shape[i];
        if a.dtype != b.dtype || a.shape.len() != b.shape.len() || axis >= shape.len() || !(0..shape.len()).all(same) {
            return Err(error());
        }
        shape[axis] = shape[axis] + b.shape[axis];
        tensor(shape, a.dtype, a.constant && b.constant)
    }

    fn scores(&self, q: Id, k: Id, heads: Id, kv_heads: Id) -> Result<(Dim, Dim), Problem> {
        let (q, k, heads, kv_heads) =
            (self.tensor(q)?, self.tensor(k)?, self.positive(heads)?, self.positive(kv_heads)?);
        let ([queries, qw], [keys, kw]) = (matrix(q)?, matrix(k)?);
        match (qw.as_constant(), kw.as_constant()) {
            (Some(qw), Some(kw))
                if heads % kv_heads == 0 && qw % heads == 0 && kw % kv_heads == 0 && qw / heads == kw / kv_heads =>
            {
                Ok((queries, keys))
            }
            _ => Err(format!("{} and {} do not fit {heads} and {kv_heads} heads", show(&q.shape), show(&k.shape))),
        }
    }

    fn term(&self, id: Id, shape: &[Dim], paired: bool) -> Result<(), Problem> {
        let fact = (self.child)(id);
        let Fact::Term(term) = fact else {
            return Err(format!("needs a term over acc, found {fact}"));
        };
        if term.paired && !paired {
            return Err("acc2 is known only to linear-pair".into());
        }
        broadcasts(&term.operands, shape)
    }
}

fn broadcasts(operands: &BTreeSet<Shape>, shape: &[Dim]) -> Result<(), Problem> {
    match operands.iter().find(|s| broadcast(s, shape).as_deref() != Some(shape)) {
        Some(operand) => Err(format!("a term's operand {} does not broadcast to {}", show(operand), show(shape))),
        None => Ok(()),
    }
}

fn tensor(shape: Shape, dtype: impl Into<Element>, constant: bool) -> Result<Fact, Problem> {
    Ok(Fact::Tensor(TensorFact { shape, dtype: dtype.into(), constant }))
}

/// Rows of a quantized weight can be cut and joined, columns cannot.
fn by_rows(t: &TensorFact, axis: i64) -> Result<(), Problem> {
    match t.dtype {
        Element::Quantized(format) if axis + 1 == t.shape.len() as i64 => {
            Err(format!("rows of {format} cannot be cut or joined along their columns"))
        }
        Element::Quantized(_) | Element::Plain(_) => Ok(()),
    }
}

fn matrix(t: &TensorFact) -> Result<[Dim; 2], Problem> {
    <[Dim; 2]>::try_from(t.shape.as_slice()).map_err(|_| format!("needs a matrix, found {}", show(&t.shape)))
}

/// The common shape of two operands of a pointwise operator, aligned at the last axis; an axis of 1 is repeated.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Shape> {
    let n = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(n).map_or(Dim::constant(1), |j| s[j]);
    (0..n)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (x, y) if y == Dim::constant(1) => Some(x),
            (x, y) if x == Dim::constant(1) => Some(y),
            _ => None,
        })
        .collect()
}
