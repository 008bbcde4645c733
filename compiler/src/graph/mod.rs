//! The graph: what a model computes, for one sequence.
//!
//! A graph is a list of nodes in an order where operands come before their users. Its language is [`Op`], which is
//! also the language of the e-graph; attributes are leaves. Every node has a [`Fact`] (shape, element type), inferred
//! when it is added, so a graph that exists is well-formed.
//!
//! `tokens` rows go in. Everything except attention and pooling treats each row alone (the verifier proves it), and that is
//! what lets a runtime put the rows of many sequences into one dispatch.

mod builder;
mod element;
pub mod eval;
mod fact;
mod infer;
pub mod moments;
mod op;
mod text;
pub mod verify;

pub use egg::Id;
use egg::Language;
use rustc_hash::FxHashMap;
use warpweft_plan::OutputKind;

pub use element::Element;
pub use fact::{Fact, FactError, PrologueFact, Shape, TensorFact, TermFact, show};
pub use infer::{broadcast, infer};
pub use op::{ArgId, CacheId, NotALeaf, Op, Real, SizeLeaf, WeightId};
pub use text::TextError;

/// A weight that a graph reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightDecl {
    /// Its name in the checkpoint, or one that the model family made up for a constant.
    pub name: String,
    /// What its elements are. Rows of a quantized one lie as its format has them, without padding between rows.
    pub dtype: Element,
    /// Its shape, of values.
    pub shape: Vec<u64>,
}

/// An activation from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArgDecl {
    /// Its shape.
    pub shape: Shape,
    /// What its elements are: numbers, or codes of each row and their scale.
    pub dtype: Element,
}

/// Rows of one sequence that outlive the step: `[context, width]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheDecl {
    /// Columns.
    pub width: u32,
}

/// What leaves refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declarations {
    /// Weights, by [`WeightId`].
    pub weights: Vec<WeightDecl>,
    /// Activations from outside, by [`ArgId`].
    pub args: Vec<ArgDecl>,
    /// Caches, by [`CacheId`].
    pub caches: Vec<CacheDecl>,
}

/// A node with what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator and its operands.
    pub op: Op,
    /// Shape and element type.
    pub fact: Fact,
    /// The layer it belongs to; `None` for leaves and for what stands before and after the layers.
    pub layer: Option<u32>,
}

/// A named result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name: an [`OutputKind`]'s in a model, anything in a layer's body.
    pub name: String,
    /// The node.
    pub id: Id,
}

/// A graph; see the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    declarations: Declarations,
    outputs: Vec<Output>,
    known: FxHashMap<Op, Id>,
    layer: Option<u32>,
}

impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        self.nodes == other.nodes && self.declarations == other.declarations && self.outputs == other.outputs
    }
}

impl Graph {
    /// An empty graph with the given weights and arguments.
    pub fn with_declarations(declarations: Declarations) -> Graph {
        Graph { declarations, ..Graph::default() }
    }

    /// Nodes in order: operands before users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The ids of all nodes, in order.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.nodes.len()).map(Id::from)
    }

    /// One node.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[usize::from(id)]
    }

    /// What leaves refer to.
    pub fn declarations(&self) -> &Declarations {
        &self.declarations
    }

    /// The results.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The result of that kind.
    pub fn output(&self, kind: OutputKind) -> Option<Id> {
        self.outputs.iter().find(|o| o.name == kind.name()).map(|o| o.id)
    }

    /// Declares a weight; the same declaration twice is one weight.
    pub fn declare_weight(&mut self, weight: WeightDecl) -> WeightId {
        let weights = &mut self.declarations.weights;
        let at = weights.iter().position(|w| *w == weight).unwrap_or_else(|| {
            weights.push(weight);
            weights.len() - 1
        });
        WeightId(at as u32)
    }

    /// Declares an argument.
    pub fn declare_arg(&mut self, arg: ArgDecl) -> ArgId {
        self.declarations.args.push(arg);
        ArgId(self.declarations.args.len() as u32 - 1)
    }

    /// Declares a cache.
    pub fn declare_cache(&mut self, cache: CacheDecl) -> CacheId {
        self.declarations.caches.push(cache);
        CacheId(self.declarations.caches.len() as u32 - 1)
    }

    /// Says which layer the nodes that follow belong to.
    pub fn set_layer(&mut self, layer: Option<u32>) {
        self.layer = layer;
    }

    /// Adds a node, or finds the equal one that is there.
    ///
    /// # Errors
    /// When the operator does not fit its operands.
    pub fn add(&mut self, op: Op) -> Result<Id, FactError> {
        if let Some(&id) = self.known.get(&op) {
            return Ok(id);
        }
        if let Some(missing) = op.children().iter().find(|c| usize::from(**c) >= self.nodes.len()) {
            return Err(FactError { op: op.name(), problem: format!("operand {missing} does not exist") });
        }
        let fact = infer(&op, |id| &self.nodes[usize::from(id)].fact, &self.declarations)?;
        let layer = if op.is_leaf() { None } else { self.layer };
        let id = Id::from(self.nodes.len());
        self.known.insert(op.clone(), id);
        self.nodes.push(Node { op, fact, layer });
        Ok(id)
    }

    /// Names a result.
    pub fn add_output(&mut self, name: impl Into<String>, id: Id) {
        self.outputs.push(Output { name: name.into(), id });
    }

    /// The tensor fact of a node that is known to be a tensor.
    ///
    /// # Errors
    /// When it is an attribute or a term.
    pub fn tensor(&self, id: Id) -> Result<&TensorFact, FactError> {
        let node = self.node(id);
        let error = || FactError { op: node.op.name(), problem: format!("needs a tensor, found {}", node.fact) };
        node.fact.tensor().ok_or_else(error)
    }

    /// The same nodes over other declarations of the same leaves.
    ///
    /// # Errors
    /// When a node does not fit the new declarations.
    pub fn redeclared(&self, declarations: Declarations) -> Result<Graph, FactError> {
        let mut graph = Graph::with_declarations(declarations);
        for node in &self.nodes {
            graph.layer = node.layer;
            graph.add(node.op.clone())?;
        }
        graph.outputs.clone_from(&self.outputs);
        Ok(graph)
    }

    /// The same graph with those results alone.
    pub fn only(&self, kinds: &[OutputKind]) -> Graph {
        let kept = |o: &&Output| kinds.iter().any(|kind| o.name == kind.name());
        let outputs = self.outputs.iter().filter(kept).cloned().collect();
        Graph { outputs, ..self.clone() }
    }

    /// For each node: the outputs depend on it.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for output in &self.outputs {
            live[usize::from(output.id)] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                self.nodes[i].op.for_each(|c| live[usize::from(c)] = true);
            }
        }
        live
    }
}
