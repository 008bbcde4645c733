//! Attention whose keys and values are caches, with the heads before it where there is one row alone.
//!
//! Heads made ready by a kernel of their own cost a dispatch, and where a step has one row that is more than to make them
//! ready in every workgroup that attends to them.

use egg::{Id, Language};
use rustc_hash::FxHashMap;
use warpweft_plan::Dim;

use super::caches::{appended, given};
use super::call::CallBuilder;
use super::heads::{Chain, Parts, is_prepared};
use super::{Bounds, Call, LowerError, Lowering, Place, Source, Value};
use crate::graph::{Graph, Op};
use crate::kernels::Slot;
use crate::kernels::cached::split;
use crate::kernels::spec::{Attention, Fresh, HeadPart, Operation, Rows, Split, View};

/// Storage buffers of an attention that makes its rows ready, but for the vector: x, rows, sequences, pages, two caches
/// and the result.
const BUFFERS: u32 = 7;

/// The attentions over caches that make their queries, keys and values ready themselves, with the chains of these.
pub(super) fn fresh(body: &Graph, inlined: &[bool], bounds: Bounds) -> FxHashMap<Id, [Chain; 3]> {
    if bounds.rows.max != Some(1) {
        return FxHashMap::default();
    }
    let live = body.live();
    let attentions = body.ids().filter(|&id| live[usize::from(id)]);
    attentions.filter_map(|id| Some((id, chains(body, inlined, id, bounds.storage_buffers)?))).collect()
}

/// The chains of q, k and v: columns of one matrix, of which no other node needs what becomes of them, k and v appended
/// to a cache each.
fn chains(body: &Graph, inlined: &[bool], attention: Id, buffers: u32) -> Option<[Chain; 3]> {
    let Op::Attention([q, k, v, heads, kv_heads, _]) = body.node(attention).op else { return None };
    let live = body.live();
    let reads = |user: Id, id: Id| live[usize::from(user)] && body.node(user).op.children().contains(&id);
    let is_output = |id: Id| body.outputs().iter().any(|o| o.id == id);
    let own = |id: Id| !is_output(id) && body.ids().filter(|&user| reads(user, id)).all(|user| user == attention);
    let chains = [q, k, v].map(|id| Chain::of(body, inlined, id));
    let [of_q, of_k, of_v] = &chains;
    let cache = |chain: &Chain| match body.node(chain.end).op {
        Op::Append([cache, _]) => Some(&body.node(cache).op),
        _ => None,
    };
    let appended = cache(of_k)? != cache(of_v)? && of_q.append.is_none() && k != v;
    let own = own(k) && own(v) && (!is_prepared(body, q) || own(q)) && q != k && q != v;
    let counts =
        |chain: &Chain, count: Id| chain.heads(body).iter().all(|own| body.node(*own).fact == body.node(count).fact);
    let counts = counts(of_q, heads) && counts(of_k, kv_heads) && counts(of_v, kv_heads);
    let one = chains.iter().all(|chain| matrix(body, chain.start) == matrix(body, of_q.start));
    let vectors = u32::from(chains.iter().any(|chain| !chain.vectors(body).is_empty()));
    (appended && own && counts && one && BUFFERS + vectors <= buffers).then_some(chains)
}

/// The matrix that an activation is columns of.
fn matrix(body: &Graph, id: Id) -> Id {
    match body.node(id).op {
        Op::Slice([x, ..]) => matrix(body, x),
        _ => id,
    }
}

/// What an attention reads: its call as far as it is built, the views of q, k and v, and their nodes in the meaning.
struct Read<'l> {
    builder: CallBuilder<'l>,
    views: [View; 3],
    meanings: [Id; 3],
    fresh: Option<Fresh>,
}

impl Lowering<'_> {
    /// Whether its rows are those of a cache.
    pub(super) fn is_cached(&self, id: Id) -> Result<bool, LowerError> {
        Ok(self.tensor(id)?.shape.first() == Some(&Dim::CONTEXT))
    }

    /// Whether an attention does what the node does.
    pub(super) fn is_fresh(&self, id: Id) -> bool {
        is_prepared(self.body, id) && self.fresh.values().flatten().any(|chain| chain.end == id)
    }

    /// q, k and v as they are.
    fn read(&self, operands: [Id; 3]) -> Result<Read<'_>, LowerError> {
        let mut builder = CallBuilder::new(self);
        let mut read = |slot, id| builder.activation(slot, id);
        let ((q, mq), (k, mk), (v, mv)) =
            (read(Slot::Q, operands[0])?, read(Slot::K, operands[1])?, read(Slot::V, operands[2])?);
        Ok(Read { builder, views: [q, k, v], meanings: [mq, mk, mv], fresh: None })
    }

    /// Rows that become q, k and v; the latter two are results too.
    fn make_ready(&self, chains: &[Chain; 3], [heads, kv_heads]: [u32; 2]) -> Result<Read<'_>, LowerError> {
        let mut parts = Parts::new(self, chains)?;
        let mut part = |chain: &Chain, heads: u32| {
            let (part, meaning) = parts.part(self, chain)?;
            Ok::<_, LowerError>((HeadPart { heads, ..part }, meaning))
        };
        let ((q, mq), (k, mk), (v, mv)) =
            (part(&chains[0], heads)?, part(&chains[1], kv_heads)?, part(&chains[2], kv_heads)?);
        let fresh = Some(Fresh { q, k, v, vector: parts.length() });
        let mut builder = parts.builder;
        builder.meaning.add_output("k", mk);
        builder.meaning.add_output("v", mv);
        let views = [q, k, v].map(|part| View::whole(part.x.width));
        Ok(Read { builder, views, meanings: [mq, mk, mv], fresh })
    }

    /// One call, or where a program is for few rows and contexts can be long, one for the chunks and one for the whole.
    pub(super) fn cached_attention(&mut self, id: Id) -> Result<(), LowerError> {
        let Op::Attention([q, k, v, heads, kv_heads, term]) = self.body.node(id).op else {
            return Err(self.error(id, "an attention was expected"));
        };
        let max_context = self.bounds.max_context;
        let (h, g) = (self.int(heads)?, self.int(kv_heads)?);
        let rows = |id: Id| {
            let own = appended(self.body, id).and_then(|cache| self.caches.get(cache).copied());
            let other = || given(self.body, id, g, self.bounds.cache);
            own.or_else(other).ok_or_else(|| self.error(id, "its keys and values are no cache"))
        };
        let of_both = [rows(k)?, rows(v)?];
        let chains = self.fresh.get(&id).copied();
        let mut caches = Vec::new();
        for chain in chains.iter().flat_map(|chains| &chains[1..]) {
            let value = Value { width: self.width(chain.end)?, rows: Rows::Tokens, place: self.place(chain)? };
            caches.push((chain.end, self.value(value)));
        }
        let Read { builder: mut b, views: [q, k, v], meanings: [mq, mk, mv], fresh } = match &chains {
            Some(chains) => self.make_ready(chains, [h, g])?,
            None => self.read([q, k, v])?,
        };
        let (term, mt) = b.term(term)?;
        let (mh, mg) = (b.meaning.int(h.into())?, b.meaning.int(g.into())?);
        let meaning = b.meaning.add(Op::Attention([mq, mk, mv, mh, mg, mt]))?;
        let operation = |term, split| {
            let attention = Attention { q, k, v, heads: h, kv_heads: g, term, max_context, image: false };
            Operation::CachedAttention { attention, caches: of_both, fresh, split }
        };
        let value = self.matrix(id)?;
        let rows = self.bounds.rows.max;
        let (Some(rows), Some(chunks)) = (rows, split(&term, max_context, h, self.bounds.uncut)) else {
            let call = b.finish(|_| operation(term, None), meaning);
            self.push(id, value, vec![call]);
            self.also(&caches);
            return Ok(());
        };
        let value_dim = value.width / h;
        let of_row = u64::from(chunks.count) * u64::from(h) * u64::from(Split::part4(value_dim)) * 16;
        let first = b.finish_apart(|_| operation(term.clone(), Some(chunks)));
        let parts = Value { width: value.width, rows: Rows::Tokens, place: Place::Fixed(u64::from(rows) * of_row) };
        let parts = self.value(parts);
        self.calls.push(Call { values: vec![parts], ..first });
        self.also(&caches);
        let mut second = CallBuilder::new(self);
        second.bind(Slot::X, Source::Value(parts));
        let second = second.finish_apart(|_| Operation::CombineAttention {
            heads: h,
            value_dim,
            term,
            split: chunks,
            image: false,
        });
        self.push(id, value, vec![second]);
        Ok(())
    }

    /// The last call writes these too.
    fn also(&mut self, results: &[(Id, usize)]) {
        self.known.extend(results.iter().copied());
        if let Some(call) = self.calls.last_mut() {
            call.values.extend(results.iter().map(|(_, value)| value));
        }
    }
}
