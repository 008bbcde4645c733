//! The rows of a body's caches.

use egg::Id;
use warpweft_plan::{CacheFormat, CacheRows};

use super::LowerError;
use crate::graph::{CacheDecl, Fact, Graph, Op};

/// The rows of each cache: its heads are those of the attentions that read it, one if there is none.
pub(super) fn rows(body: &Graph, format: CacheFormat) -> Result<Vec<CacheRows>, LowerError> {
    let live = body.live();
    let mut heads: Vec<Option<u32>> = vec![None; body.declarations().caches.len()];
    for id in body.ids().filter(|&id| live[usize::from(id)]) {
        let Op::Attention([_, k, v, _, kv_heads, _]) = body.node(id).op else { continue };
        let Fact::Int(count) = body.node(kv_heads).fact else { continue };
        let count = u32::try_from(count).unwrap_or(0);
        for cache in [k, v].into_iter().filter_map(|id| appended(body, id)) {
            if heads[cache].is_some_and(|known| known != count) {
                let problem =
                    format!("it reads {count} heads of a cache of which another one reads {:?}", heads[cache]);
                return Err(LowerError::Op { op: body.node(id).op.to_string(), problem });
            }
            heads[cache] = Some(count);
        }
    }
    let row = |(cache, heads): (&CacheDecl, Option<u32>)| {
        let heads = heads.unwrap_or(1);
        match cache.width.checked_div(heads).filter(|columns| columns * heads == cache.width) {
            Some(columns) => Ok(CacheRows { format, heads, columns }),
            None => Err(LowerError::Op {
                op: "attention".into(),
                problem: format!("{heads} heads of a cache of {} columns", cache.width),
            }),
        }
    };
    body.declarations().caches.iter().zip(heads).map(row).collect()
}

/// The cache of which a node is the rows, or columns of them.
pub(super) fn appended(body: &Graph, id: Id) -> Option<usize> {
    match body.node(id).op {
        Op::Append([cache, _]) => index(body, cache),
        Op::Slice([x, ..]) => appended(body, x),
        _ => None,
    }
}

/// The rows of a cache that a body is given, of which a node is rows or columns: as attention with so many heads has them.
pub(super) fn given(body: &Graph, id: Id, heads: u32, format: CacheFormat) -> Option<CacheRows> {
    match body.node(id).op {
        Op::Slice([x, ..]) => given(body, x, heads, format),
        Op::Arg(_) => {
            let width = body.node(id).fact.tensor()?.shape.last()?.as_constant()?;
            let columns = u32::try_from(width).ok()?.checked_div(heads)?;
            Some(CacheRows { format, heads, columns })
        }
        _ => None,
    }
}

fn index(body: &Graph, cache: Id) -> Option<usize> {
    match body.node(cache).op {
        Op::Cache(cache) => Some(cache.0 as usize),
        _ => None,
    }
}

/// The rows of the cache that a node is.
pub(super) fn of(body: &Graph, caches: &[CacheRows], cache: Id) -> Option<CacheRows> {
    caches.get(index(body, cache)?).copied()
}
