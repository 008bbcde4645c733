//! Rolling: identical layers are found, so that each distinct body is optimized once.
//!
//! The graph is cut into regions: what stands before the layers, each layer, what stands after. A norm at the end of a layer
//! stands at the head of the region that reads it. A region's *body* is its part of the graph with everything from outside
//! made an argument and its weights numbered in order of first use; two regions with the same body text compute the same
//! function of their weights and arguments.

use egg::{Id, Language};
use rustc_hash::FxHashMap;

use crate::graph::{ArgDecl, CacheId, Fact, FactError, Graph, Op, WeightDecl, WeightId};

/// Part of a model: an instance of a body.
#[derive(Clone, Debug)]
pub struct Region {
    /// Index into [`Rolled::bodies`].
    pub body: usize,
    /// The layer; `None` before the first and after the last.
    pub layer: Option<u32>,
    /// What the body's arguments are: nodes of the model's graph.
    pub args: Vec<Id>,
    /// What the body's weights are.
    pub weights: Vec<WeightId>,
    /// What the body's caches are.
    pub caches: Vec<CacheId>,
    /// What the body's outputs are: nodes of the model's graph.
    pub outputs: Vec<Id>,
}

/// A model as instances of bodies.
#[derive(Clone, Debug, Default)]
pub struct Rolled {
    /// Distinct bodies.
    pub bodies: Vec<Graph>,
    /// In the order in which they run.
    pub regions: Vec<Region>,
}

impl Rolled {
    /// Whether whoever needs one output of a body needs all of them: of a layer's, not of what stands after the layers,
    /// where each of the model's outputs is a program's alone.
    pub fn is_whole(&self, body: usize) -> bool {
        self.regions.iter().filter(|r| r.body == body).all(|r| r.layer.is_some())
    }
}

/// A graph that cannot be cut into layers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollError {
    /// A layer needs what a later one computes.
    #[error("{user} uses {used}, which comes later: layers must be numbered in the order of their data")]
    Order {
        /// The region that uses.
        user: String,
        /// The region that is used.
        used: String,
    },
    /// A body that does not type-check; a bug.
    #[error(transparent)]
    Fact(#[from] FactError),
}

/// Where a node belongs, in running order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    /// Weights, masks and attributes alone: copied to wherever they are used.
    Anywhere,
    Before,
    Layer(u32),
    After,
}

impl Place {
    fn name(self) -> String {
        match self {
            Place::Anywhere | Place::Before => "the part before the layers".into(),
            Place::Layer(n) => format!("layer {n}"),
            Place::After => "the part after the layers".into(),
        }
    }
}

/// Cuts the graph into regions and finds their distinct bodies.
///
/// # Errors
/// When a layer uses what a later one computes.
pub fn roll(graph: &Graph) -> Result<Rolled, RollError> {
    let live = graph.live();
    let mut places = places(graph);
    hand_on_norms(graph, &live, &mut places);
    let escapes = escapes(graph, &live, &places);
    let computed = |id: &Id| live[usize::from(*id)] && !graph.node(*id).op.is_leaf();
    let mut order: Vec<Place> = graph.ids().filter(computed).map(|id| places[usize::from(id)]).collect();
    order.sort_unstable();
    order.dedup();
    order.retain(|p| *p != Place::Anywhere);

    let mut rolled = Rolled::default();
    let mut known: FxHashMap<String, usize> = FxHashMap::default();
    for place in order {
        let (body, mut region) = Cutter { graph, live: &live, places: &places, escapes: &escapes, place }.cut()?;
        region.body = *known.entry(body.to_string()).or_insert_with(|| {
            rolled.bodies.push(body);
            rolled.bodies.len() - 1
        });
        rolled.regions.push(region);
    }
    Ok(rolled)
}

fn places(graph: &Graph) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let latest = node.op.children().iter().map(|c| places[usize::from(*c)]).max().unwrap_or(Place::Anywhere);
        let depends_on_input =
            matches!(node.op, Op::Ids | Op::Positions | Op::Arg(_) | Op::Cache(_)) || latest != Place::Anywhere;
        places.push(match (depends_on_input, node.layer) {
            (false, _) => Place::Anywhere,
            (true, Some(layer)) => Place::Layer(layer),
            // Inputs are leaves and belong to no layer; what is made of them alone stands before the layers.
            (true, None) if latest > Place::Before => Place::After,
            (true, None) => Place::Before,
        });
    }
    places
}

/// A norm that ends a layer goes to the region that reads it, with what is made of it pointwise: in front of a contraction
/// there it may cost no dispatch, and alone it costs what it did.
///
/// Only norms of what a contraction makes: the input of any other is computed by the norm's own kernel.
fn hand_on_norms(graph: &Graph, live: &[bool], places: &mut [Place]) {
    let is_norm = |op: &Op| matches!(op, Op::LayerNorm(_) | Op::RmsNorm(_));
    // Where a node is needed first, if it can go there. Users stand behind what they use.
    let mut needed: Vec<Option<Place>> = vec![None; places.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); places.len()];
    for (user, node) in graph.nodes().iter().enumerate().filter(|(user, _)| live[*user]) {
        node.op.for_each(|c| users[usize::from(c)].push(user));
    }
    for (at, node) in graph.nodes().iter().enumerate().rev() {
        let Place::Layer(_) = places[at] else { continue };
        if live[at] && (is_norm(&node.op) || node.op.is_pointwise()) && node.fact.tensor().is_some() {
            let place = |&user: &usize| if places[user] == places[at] { needed[user] } else { Some(places[user]) };
            let of_users: Option<Vec<Place>> = users[at].iter().map(place).collect();
            needed[at] = of_users.map(|places| places.into_iter().min().unwrap_or(Place::After));
        }
    }
    let mut moved = vec![false; places.len()];
    for (at, node) in graph.nodes().iter().enumerate() {
        let Some(place) = needed[at] else { continue };
        let follows = || node.op.children().iter().any(|c| moved[usize::from(*c)]);
        let here = |id: Id| places[usize::from(id)] == places[at];
        let ends = || is_norm(&node.op) && node.op.children().first().is_some_and(|x| contracted(graph, &here, *x));
        if ends() || follows() {
            (places[at], moved[at]) = (place, true);
        }
    }
}

/// Whether a value is the result of a contraction that is computed `here`, or made of one pointwise.
fn contracted(graph: &Graph, here: &impl Fn(Id) -> bool, id: Id) -> bool {
    let op = &graph.node(id).op;
    let made_of = || op.is_pointwise() && op.children().iter().any(|c| contracted(graph, here, *c));
    here(id) && (matches!(op, Op::MatMul(_)) || made_of())
}

/// For each node: another place uses it, or it is a result.
fn escapes(graph: &Graph, live: &[bool], places: &[Place]) -> Vec<bool> {
    let mut escapes = vec![false; places.len()];
    for output in graph.outputs() {
        escapes[usize::from(output.id)] = true;
    }
    for (user, node) in graph.nodes().iter().enumerate().filter(|(user, _)| live[*user]) {
        for &child in node.op.children() {
            escapes[usize::from(child)] |= places[usize::from(child)] != places[user];
        }
    }
    escapes
}

struct Cutter<'g> {
    graph: &'g Graph,
    live: &'g [bool],
    places: &'g [Place],
    escapes: &'g [bool],
    place: Place,
}

impl Cutter<'_> {
    fn cut(&self) -> Result<(Graph, Region), RollError> {
        let mut body = Graph::default();
        let layer = match self.place {
            Place::Layer(n) => Some(n),
            Place::Anywhere | Place::Before | Place::After => None,
        };
        let mut region =
            Region { body: 0, layer, args: Vec::new(), weights: Vec::new(), caches: Vec::new(), outputs: Vec::new() };
        let mut copies: FxHashMap<Id, Id> = FxHashMap::default();
        for id in self.graph.ids() {
            if self.live[usize::from(id)]
                && self.places[usize::from(id)] == self.place
                && !self.graph.node(id).op.is_leaf()
            {
                self.copy(id, &mut body, &mut region, &mut copies)?;
            }
        }
        for id in self.graph.ids() {
            let here = self.places[usize::from(id)] == self.place && !self.graph.node(id).op.is_leaf();
            if here && self.live[usize::from(id)] && self.escapes[usize::from(id)] {
                body.add_output(format!("out{}", region.outputs.len()), copies[&id]);
                region.outputs.push(id);
            }
        }
        Ok((body, region))
    }

    fn copy(
        &self,
        id: Id,
        body: &mut Graph,
        region: &mut Region,
        copies: &mut FxHashMap<Id, Id>,
    ) -> Result<Id, RollError> {
        if let Some(&copy) = copies.get(&id) {
            return Ok(copy);
        }
        let node = self.graph.node(id);
        let place = self.places[usize::from(id)];
        let is_input = matches!(node.op, Op::Ids | Op::Positions | Op::Cache(_));
        let op =
            if place != Place::Anywhere && place != self.place && !is_input {
                if place > self.place {
                    return Err(RollError::Order { user: self.place.name(), used: place.name() });
                }
                let Fact::Tensor(t) = &node.fact else {
                    return Err(FactError { op: node.op.name(), problem: "a term crosses layers".into() }.into());
                };
                let crosses = || FactError { op: node.op.name(), problem: format!("{} crosses layers", t.dtype) };
                region.args.push(id);
                Op::Arg(body.declare_arg(ArgDecl {
                    shape: t.shape.clone(),
                    dtype: t.dtype.plain().ok_or_else(crosses)?.into(),
                }))
            } else if let Op::Weight(w) = node.op {
                let decl = &self.graph.declarations().weights[w.0 as usize];
                let name = format!("w{}", region.weights.len());
                region.weights.push(w);
                Op::Weight(body.declare_weight(WeightDecl { name, ..decl.clone() }))
            } else if let Op::Cache(c) = node.op {
                region.caches.push(c);
                Op::Cache(body.declare_cache(self.graph.declarations().caches[c.0 as usize].clone()))
            } else {
                let mut op = node.op.clone();
                for child in op.children_mut() {
                    *child = self.copy(*child, body, region, copies)?;
                }
                op
            };
        let copy = body.add(op)?;
        copies.insert(id, copy);
        Ok(copy)
    }
}
