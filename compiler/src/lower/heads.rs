//! Heads made ready for attention: `(append &c (rope (head-norm x …) …))` and any part of that chain is one part of a
//! kernel, and parts that read the same matrix share one.

use egg::Id;
use warpweft_plan::CacheRows;

use super::call::CallBuilder;
use super::{Call, LowerError, Lowering, Place, Source, Value, caches};
use crate::graph::{CacheDecl, Fact, Graph, Op};
use crate::kernels::Slot;
use crate::kernels::heads::storage_buffers;
use crate::kernels::spec::{Destination, HeadNorm, HeadPart, Operation, Rotation, Rows};

/// Columns of a piece of a row that is copied without regard to heads, about.
const PIECE: u32 = 64;

/// Whether a node is a step of the chain.
pub(super) fn is_prepared(body: &Graph, id: Id) -> bool {
    matches!(body.node(id).op, Op::Rope(_) | Op::HeadNorm(_) | Op::Append(_))
}

/// Whether `user` does its own step and the one of `id`.
pub(super) fn takes_up(body: &Graph, caches: &[CacheRows], user: Id, id: Id) -> bool {
    match (&body.node(user).op, &body.node(id).op) {
        // A kernel that appends goes by the heads of the cache.
        (Op::Append([cache, x]), Op::Rope([.., heads, _, _]) | Op::HeadNorm([_, heads, ..])) => {
            let of_cache = caches::of(body, caches, *cache).map(|rows| rows.heads);
            *x == id && matches!(body.node(*heads).fact, Fact::Int(n) if u32::try_from(n).ok() == of_cache)
        }
        (Op::Rope([x, _, _, heads, ..]), Op::HeadNorm([_, own, ..])) => {
            *x == id && body.node(*heads).fact == body.node(*own).fact
        }
        _ => false,
    }
}

/// The chain that ends in a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) end: Id,
    pub(super) append: Option<Id>,
    rope: Option<Id>,
    norm: Option<Id>,
    pub(super) start: Id,
}

impl Chain {
    /// As far back as nodes are taken up.
    pub(super) fn of(body: &Graph, inlined: &[bool], end: Id) -> Chain {
        let mut chain = Chain { end, append: None, rope: None, norm: None, start: end };
        let takes = |chain: &Chain, x: Id| chain.start == end || inlined[usize::from(x)];
        if let Op::Append([_, x]) = body.node(chain.start).op {
            (chain.append, chain.start) = (Some(end), x);
        }
        if let Op::Rope([x, ..]) = body.node(chain.start).op
            && takes(&chain, chain.start)
        {
            (chain.rope, chain.start) = (Some(chain.start), x);
        }
        if let Op::HeadNorm([x, ..]) = body.node(chain.start).op
            && takes(&chain, chain.start)
        {
            (chain.norm, chain.start) = (Some(chain.start), x);
        }
        chain
    }

    /// The number of heads, as the graph has it, of each of its steps that has one.
    pub(super) fn heads(&self, body: &Graph) -> Vec<Id> {
        let count = |id: &Id| match body.node(*id).op {
            Op::HeadNorm([_, heads, ..]) | Op::Rope([_, _, _, heads, ..]) => Some(heads),
            _ => None,
        };
        self.norm.iter().chain(&self.rope).filter_map(count).collect()
    }

    /// The vectors that its steps read.
    pub(super) fn vectors(&self, body: &Graph) -> Vec<Id> {
        let read = |id: &Id| match body.node(*id).op {
            Op::HeadNorm([.., gain]) => Some(gain),
            Op::Rope([_, _, frequencies, ..]) => Some(frequencies),
            _ => None,
        };
        self.norm.iter().chain(&self.rope).filter_map(read).collect()
    }
}

impl Lowering<'_> {
    fn chain(&self, end: Id) -> Chain {
        Chain::of(self.body, &self.inlined, end)
    }

    /// Lowers the chain that ends in `id`, and with it those that read the same matrix, as far as buffers suffice. Only
    /// where something is cached: rows that are only turned keep a kernel each.
    pub(super) fn heads(&mut self, id: Id) -> Result<(), LowerError> {
        let chain = self.chain(id);
        let (source, _) = self.view(chain.start)?;
        let mut chains = vec![chain];
        let live = self.body.live();
        let later = self.body.ids().filter(|&other| {
            other > id && live[usize::from(other)] && is_prepared(self.body, other) && self.needs_call(other)
        });
        let mut best = self.prepare(&chains)?;
        let others: Vec<Chain> = later
            .map(|other| self.chain(other))
            .filter(|c| !self.known.contains_key(&c.end) && matches!(self.view(c.start), Ok((s, _)) if s == source))
            .collect();
        if chain.append.is_some() || others.iter().any(|c| c.append.is_some()) {
            for other in others {
                chains.push(other);
                let call = self.prepare(&chains)?;
                match fits(&call, self.bounds.storage_buffers) {
                    true => best = call,
                    false => drop(chains.pop()),
                }
            }
        }
        let mut values = Vec::new();
        for chain in chains {
            let width = self.width(chain.end)?;
            let place = self.place(&chain)?;
            let value = self.value(Value { width, rows: Rows::Tokens, place });
            self.known.insert(chain.end, value);
            values.push(value);
        }
        self.calls.push(Call { values, ..best });
        Ok(())
    }

    /// Where the rows of a chain's end lie.
    pub(super) fn place(&self, chain: &Chain) -> Result<Place, LowerError> {
        match chain.append.map(|a| &self.body.node(a).op) {
            Some(Op::Append([cache, _])) => self.cache(*cache),
            _ => Ok(Place::Step),
        }
    }

    fn cache(&self, id: Id) -> Result<Place, LowerError> {
        match self.body.node(id).op {
            Op::Cache(c) => Ok(Place::Cache(c.0 as usize)),
            _ => Err(self.error(id, "rows are appended to a cache")),
        }
    }

    /// One call for chains that read the same matrix.
    fn prepare(&self, chains: &[Chain]) -> Result<Call, LowerError> {
        let mut b = Parts::new(self, chains)?;
        let mut parts = Vec::new();
        for (i, chain) in chains.iter().enumerate() {
            let (part, meaning) = b.part(self, chain)?;
            parts.push(part);
            let name = if chains.len() == 1 { "out".to_owned() } else { format!("out{i}") };
            b.builder.meaning.add_output(name, meaning);
        }
        let vector = b.length();
        Ok(b.builder.finish_with(|_| Operation::Heads { parts, vector }))
    }
}

fn fits(call: &Call, limit: u32) -> bool {
    match &call.operation {
        Operation::Heads { parts, vector } => storage_buffers(parts, *vector) <= limit as usize,
        _ => false,
    }
}

/// Vectors that parts read, bound as one.
struct Vectors {
    /// Each with its first element and their number.
    all: Vec<(Id, u32, u32)>,
    length: u32,
}

impl Vectors {
    fn of(lowering: &Lowering<'_>, chains: &[Chain]) -> Result<Vectors, LowerError> {
        let mut vectors = Vectors { all: Vec::new(), length: 0 };
        for chain in chains {
            for id in chain.vectors(lowering.body) {
                if vectors.all.iter().any(|(known, ..)| *known == id) {
                    continue;
                }
                let count = lowering.size("a vector's length", lowering.tensor(id)?.shape[0])?;
                vectors.all.push((id, vectors.length, count));
                vectors.length += count;
            }
        }
        Ok(vectors)
    }
}

/// Parts of one call.
pub(super) struct Parts<'l> {
    pub(super) builder: CallBuilder<'l>,
    vectors: Vectors,
    /// The vectors in the meaning.
    vector: Option<Id>,
    /// The matrix in the meaning.
    x: Option<(Source, Id)>,
}

impl<'l> Parts<'l> {
    pub(super) fn new(lowering: &'l Lowering<'_>, chains: &[Chain]) -> Result<Parts<'l>, LowerError> {
        let vectors = Vectors::of(lowering, chains)?;
        let mut builder = CallBuilder::new(lowering);
        let ids: Vec<Id> = vectors.all.iter().map(|(id, ..)| *id).collect();
        let vector = match ids.is_empty() {
            true => None,
            false => Some(builder.vectors(Slot::Vectors, "vector", ids, vectors.length)?),
        };
        Ok(Parts { builder, vectors, vector, x: None })
    }

    /// Elements of all vectors.
    pub(super) fn length(&self) -> u32 {
        self.vectors.length
    }

    /// Where a vector begins, and its node in the meaning.
    fn vector(&mut self, id: Id) -> Result<(u32, Id), LowerError> {
        let known = self.vectors.all.iter().find(|(known, ..)| *known == id);
        let (Some(&(_, first, count)), Some(vector)) = (known, self.vector) else {
            return Err(self.builder.error(id, "a vector that its chain does not read"));
        };
        match count == self.vectors.length {
            true => Ok((first, vector)),
            false => Ok((first, self.builder.meaning.slice(vector, 0, first.into(), count.into())?)),
        }
    }

    /// What a chain comes to, and its node in the meaning. The heads are those of its steps, if any.
    pub(super) fn part(&mut self, lowering: &Lowering<'_>, chain: &Chain) -> Result<(HeadPart, Id), LowerError> {
        let (x, mut meaning) = self.builder.window(Slot::X, chain.start, &mut self.x)?;
        let mut heads = None;
        let mut norm = None;
        if let Some(Op::HeadNorm([_, n, eps, gain])) = chain.norm.map(|id| &lowering.body.node(id).op) {
            let (count, eps) = (lowering.int(*n)?, lowering.real(*eps)?);
            let (at, mg) = self.vector(*gain)?;
            heads = Some(count);
            norm = Some(HeadNorm { eps, gain: Some(at) });
            let graph = &mut self.builder.meaning;
            let (mn, me) = (graph.int(count.into())?, graph.real(eps)?);
            meaning = graph.add(Op::HeadNorm([meaning, mn, me, mg]))?;
        }
        let mut rotation = None;
        if let Some(Op::Rope([_, _, frequencies, n, interleaved, scale])) =
            chain.rope.map(|id| &lowering.body.node(id).op)
        {
            let pairs = lowering.size("a rope's frequencies", lowering.tensor(*frequencies)?.shape[0])?;
            let (count, interleaved) = (lowering.int(*n)?, lowering.int(*interleaved)? == 1);
            let scale = lowering.real(*scale)?;
            let (at, mf) = self.vector(*frequencies)?;
            heads = Some(count);
            rotation = Some(Rotation { rotary: 2 * pairs, interleaved, scale, frequencies: at });
            meaning = self.builder.meaning.rope(meaning, mf, count, interleaved, scale)?;
        }
        let mut to = Destination::Rows;
        if let Some(Op::Append([cache, _])) = chain.append.map(|id| &lowering.body.node(id).op) {
            let rows = caches::of(lowering.body, &lowering.caches, *cache);
            let rows = rows.ok_or_else(|| self.builder.error(chain.end, "rows are appended to a cache"))?;
            heads = Some(rows.heads);
            to = Destination::Cache(rows.format);
            let graph = &mut self.builder.meaning;
            let cache = graph.declare_cache(CacheDecl { width: x.width });
            let cache = graph.add(Op::Cache(cache))?;
            meaning = graph.add(Op::Append([cache, meaning]))?;
        }
        // Without a norm or rotation, any cut into pieces will do.
        let pieces = || (1..=x.width.div_ceil(PIECE)).rev().find(|n| x.width.is_multiple_of(*n)).unwrap_or(1);
        let heads = heads.unwrap_or_else(pieces);
        Ok((HeadPart { x, heads, norm, rotation, to }, meaning))
    }
}
