//! Proofs read back from a plan, which may come from anywhere.

use warpweft_plan::provenance::{Body, Class, FormulaValue, Proof, Provenance};

use super::formula::ALIGNMENT;
use crate::graph::{ArgId, FactError, Graph, Id, Op, TextError, WeightId};

/// A proof that does not hold, or cannot be checked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProofFault {
    /// An index that leads nowhere.
    #[error("there is no {0}")]
    Missing(String),
    /// A text that is no graph.
    #[error("{what} is no graph: {error}")]
    Text {
        /// Which.
        what: String,
        /// Why.
        error: TextError,
    },
    /// Terms that do not fit each other.
    #[error("{what}: found {found}, expected {expected}")]
    Shape {
        /// Where.
        what: String,
        /// What is there.
        found: String,
        /// What may be there.
        expected: String,
    },
    /// It does not begin with the formula.
    #[error("its first term is not the formula's: {0}")]
    Start(String),
    /// A rule that is not in the table.
    #[error("step {step} names {rule:?}, which is neither a rule nor a step of lowering")]
    Unknown {
        /// Counted from 1.
        step: usize,
        /// The name.
        rule: String,
    },
    /// A rule of another class.
    #[error("step {step} calls {rule} {found}, it is {expected}")]
    Class {
        /// Counted from 1.
        step: usize,
        /// The rule.
        rule: String,
        /// What the plan says.
        found: &'static str,
        /// What the table says.
        expected: &'static str,
    },
    /// A step that its rule does not make.
    #[error("step {step} is nothing that {rule} does")]
    NoInstance {
        /// Counted from 1.
        step: usize,
        /// The rule.
        rule: String,
    },
    /// Other lossy steps than the first term has.
    #[error("the plan tells of these roundings: {found}; its first term has {expected}")]
    Roundings {
        /// What the plan tells.
        found: String,
        /// What the term has.
        expected: String,
    },
    /// Different numbers.
    #[error("{what}: the error is {error:e} of the greatest value, {tolerance:e} is allowed")]
    Numbers {
        /// Which step or meaning.
        what: String,
        /// The error.
        error: f64,
        /// What is allowed.
        tolerance: f64,
    },
    /// More than a check may take.
    #[error("{what} would take {found}, at most {limit} is checked")]
    Large {
        /// What.
        what: String,
        /// Elements or multiply-adds.
        found: String,
        /// The limit.
        limit: String,
    },
    /// A term that the evaluator refuses.
    #[error("{0}")]
    Evaluation(String),
    /// A call without a proof.
    #[error("call {call} has no proof and is in none")]
    Unproved {
        /// Its index.
        call: usize,
    },
}

impl From<FactError> for ProofFault {
    fn from(error: FactError) -> ProofFault {
        ProofFault::Evaluation(error.to_string())
    }
}

/// A proof whose texts have been parsed.
#[derive(Clone, Debug)]
pub struct Chain<'p> {
    /// As the plan has it.
    pub proof: &'p Proof,
    /// The first term, then the one after each step. All have the same declarations and as many outputs, of the same facts.
    pub terms: Vec<Graph>,
    /// Name and class of each step's rule.
    pub rules: Vec<(&'p str, Class)>,
}

impl<'p> Chain<'p> {
    /// A body's proof.
    ///
    /// # Errors
    /// When texts are no graphs or do not fit each other.
    pub fn parse(provenance: &'p Provenance, body: &'p Body, proof: usize) -> Result<Chain<'p>, ProofFault> {
        let proof = body.proofs.get(proof).ok_or_else(|| ProofFault::Missing(format!("proof {proof}")))?;
        let mut terms = vec![term(provenance, proof, proof.start, "the proof's first term")?];
        let mut rules = Vec::new();
        for (i, step) in proof.steps.iter().enumerate() {
            let what = format!("the term after step {}", i + 1);
            terms.push(match terms.last() {
                Some(before) if step.after == before_text(proof, i) => before.clone(),
                _ => term(provenance, proof, step.after, &what)?,
            });
            let rule = provenance.rules.get(step.rule);
            let rule = rule.ok_or_else(|| ProofFault::Missing(format!("rule {}", step.rule)))?;
            rules.push((rule.name.as_str(), rule.class));
        }
        let chain = Chain { proof, terms, rules };
        chain.check_facts()?;
        Ok(chain)
    }

    /// The last term: what the kernel computes.
    pub fn end(&self) -> &Graph {
        // There is a first term.
        &self.terms[self.terms.len() - 1]
    }

    fn check_facts(&self) -> Result<(), ProofFault> {
        let facts = |graph: &Graph| graph.outputs().iter().map(|o| graph.node(o.id).fact.clone()).collect::<Vec<_>>();
        let first = facts(&self.terms[0]);
        if first.len() != self.proof.results.len() || first.iter().any(|fact| fact.tensor().is_none()) {
            return Err(ProofFault::Shape {
                what: "the proof's first term".into(),
                found: format!("{} outputs", first.len()),
                expected: format!("{} tensors, one for each result", self.proof.results.len()),
            });
        }
        for (i, term) in self.terms.iter().enumerate().skip(1) {
            let found = facts(term);
            if found != first {
                let show = |facts: &[_]| facts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let what = format!("the term after step {i}");
                return Err(ProofFault::Shape { what, found: show(&found), expected: show(&first) });
            }
        }
        Ok(())
    }

    /// Whether the first term is the formula's own for the values that the proof claims to be of.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_start(&self, provenance: &Provenance, body: &Body) -> Result<(), ProofFault> {
        let mut formula = formula(provenance, body)?;
        let values: Vec<Id> = numbered(&formula);
        let start = &self.terms[0];
        let args = start.declarations().args.len();
        if self.proof.arguments.len() != args {
            let found = format!("{} arguments where the plan tells of {}", args, self.proof.arguments.len());
            return Err(ProofFault::Start(found));
        }
        let mut places: Vec<Option<Id>> = Vec::with_capacity(start.nodes().len());
        for node in start.nodes() {
            places.push(self.place(&mut formula, &values, node.op.clone(), &places)?);
        }
        for (output, value) in start.outputs().iter().zip(&self.proof.results) {
            if places[usize::from(output.id)].is_none_or(|place| Some(place) != value_of(&formula, &values, *value)) {
                return Err(ProofFault::Start(format!("{} is not {value}", output.name)));
            }
        }
        Ok(())
    }

    /// The formula's node that a node of the first term is; `None` for a matrix that the formula has in parts.
    fn place(
        &self,
        formula: &mut Graph,
        values: &[Id],
        op: Op,
        places: &[Option<Id>],
    ) -> Result<Option<Id>, ProofFault> {
        let start = &self.terms[0];
        match op {
            Op::Arg(ArgId(arg)) => match self.proof.arguments[arg as usize][..] {
                [value] => {
                    let place = value_of(formula, values, value);
                    let place = place.ok_or_else(|| ProofFault::Missing(format!("{value} in the formula")))?;
                    let (found, declared) = (&formula.node(place).fact, &start.declarations().args[arg as usize]);
                    match found.tensor() {
                        Some(t) if t.shape == declared.shape && t.dtype == declared.dtype => Ok(Some(place)),
                        Some(_) | None => Err(ProofFault::Start(format!("${arg} is not {value}, {found}"))),
                    }
                }
                _ => Ok(None),
            },
            Op::Slice([matrix, axis, first, columns]) if places[usize::from(matrix)].is_none() => {
                let Op::Arg(ArgId(arg)) = start.node(matrix).op else {
                    return Err(ProofFault::Start("columns of columns".into()));
                };
                let int = |id: Id| match start.node(id).op {
                    Op::Int(n) => n,
                    _ => -1,
                };
                let mut next = 0i64;
                for &value in &self.proof.arguments[arg as usize] {
                    let place = value_of(formula, values, value);
                    let place = place.ok_or_else(|| ProofFault::Missing(format!("{value} in the formula")))?;
                    let width = formula.tensor(place)?.shape.get(1).and_then(|d| d.as_constant()).unwrap_or(0);
                    if (int(axis), int(first), int(columns)) == (1, next, width) {
                        return Ok(Some(place));
                    }
                    next = next.saturating_add(width).saturating_add(ALIGNMENT as i64 - 1) / ALIGNMENT as i64
                        * ALIGNMENT as i64;
                }
                Err(ProofFault::Start(format!("columns of ${arg} that are no value of the formula")))
            }
            Op::Weight(WeightId(weight)) => {
                let declared = &start.declarations().weights[weight as usize];
                let known = formula.declarations().weights.iter().position(|w| w == declared);
                let known = known.ok_or_else(|| ProofFault::Start(format!("it has no weight {:?}", declared.name)))?;
                Ok(Some(formula.add(Op::Weight(WeightId(known as u32)))?))
            }
            // Caches have no names; a term with another one is told by what is appended to it.
            Op::Cache(_) => Ok(None),
            Op::Append([_, x]) => {
                let new = places[usize::from(x)];
                let known =
                    formula.ids().find(|id| matches!(formula.node(*id).op, Op::Append([_, y]) if Some(y) == new));
                known.map(Some).ok_or_else(|| ProofFault::Start("it appends something else".into()))
            }
            other => {
                let mut whole = true;
                let op = egg::Language::map_children(other, |c| {
                    places[usize::from(c)].unwrap_or_else(|| {
                        whole = false;
                        Id::from(0)
                    })
                });
                match whole {
                    true => Ok(Some(formula.add(op)?)),
                    false => Err(ProofFault::Start("a matrix that the formula has in parts is used as a whole".into())),
                }
            }
        }
    }
}

/// The index of the text before a step.
fn before_text(proof: &Proof, step: usize) -> usize {
    step.checked_sub(1).map_or(proof.start, |before| proof.steps[before].after)
}

/// A body's formula.
///
/// # Errors
/// When its text is no graph.
pub fn formula(provenance: &Provenance, body: &Body) -> Result<Graph, ProofFault> {
    let text = provenance.texts.get(body.formula);
    let text = text.ok_or_else(|| ProofFault::Missing(format!("text {}", body.formula)))?;
    text.parse().map_err(|error| ProofFault::Text { what: "the formula".into(), error })
}

/// A text below a proof's declarations as a graph.
///
/// # Errors
/// When it is none.
pub(super) fn term(provenance: &Provenance, proof: &Proof, text: usize, what: &str) -> Result<Graph, ProofFault> {
    let part = |at: usize| provenance.texts.get(at).ok_or_else(|| ProofFault::Missing(format!("text {at}")));
    let declarations = part(proof.declarations)?;
    let whole = format!("{declarations}\n{}", part(text)?);
    let graph: Graph = whole.parse().map_err(|error| ProofFault::Text { what: what.into(), error })?;
    let declared: Graph =
        declarations.parse().map_err(|error| ProofFault::Text { what: "the declarations".into(), error })?;
    match declared.declarations() == graph.declarations() {
        true => Ok(graph),
        false => Err(ProofFault::Shape {
            what: what.into(),
            found: "declarations of its own".into(),
            expected: "those of the proof".into(),
        }),
    }
}

/// The nodes of a graph's lines.
fn numbered(graph: &Graph) -> Vec<Id> {
    graph.ids().zip(graph.lines()).filter_map(|(id, line)| line.map(|_| id)).collect()
}

fn value_of(formula: &Graph, values: &[Id], value: FormulaValue) -> Option<Id> {
    match value {
        FormulaValue::Line(line) => values.get(line as usize).copied(),
        FormulaValue::Arg(arg) => formula.ids().find(|&id| formula.node(id).op == Op::Arg(ArgId(arg))),
    }
}
