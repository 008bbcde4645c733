//! Attention over caches that makes queries and new rows ready itself: no kernel of heads before it.
//!
//! A workgroup has one row. It takes the queries of its heads, then each key that the caches did not hold before the step,
//! from the columns that a contraction left, and never reads what another workgroup writes. The row's own key and value
//! are written by the workgroup that has the first of the heads that share them, in the chunk where they stand.

mod slots;

use std::slice;

use warpweft_plan::{Access, CacheRows};

use super::KernelError;
use super::compose::Slot;
use super::heads::Heads;
use super::interface::Interface;
use super::spec::{Attention, Destination, Fresh, HeadPart, View};
use super::stored::Stored;
use super::term::literal;
use slots::{
    BROADCAST_FRESH, BROADCAST_NORM, BROADCAST_READY, BROADCAST_SCALING, NEAR, PUT_SCALES, SUM_OF, WORKGROUP_FRESH,
    WORKGROUP_NORM_KV, WORKGROUP_NORM_Q, WORKGROUP_READY, WORKGROUP_SCALING,
};

/// Invocations that add up the squares, or the products, of one head where there are no subgroups.
pub(super) const ADDING: u32 = 8;

/// The slots of an algorithm and its file.
pub(super) type Slots = Vec<(&'static str, String)>;

impl Fresh {
    fn parts(&self) -> [(&'static str, &HeadPart); 3] {
        [("q", &self.q), ("k", &self.k), ("v", &self.v)]
    }

    /// An error where the parts are not those of the attention.
    pub(super) fn check(&self, attention: &Attention, caches: [CacheRows; 2]) -> Result<(), KernelError> {
        for (_, part) in self.parts() {
            part.check(self.vector)?;
        }
        let Attention { q, k, v, heads, kv_heads, .. } = attention;
        let fits = |part: &HeadPart, view: &View, heads: u32| part.heads == heads && part.x.width == view.width;
        let whole = |view: &View, rows: CacheRows| {
            *view == View::whole(view.width) && rows.heads == *kv_heads && rows.columns == view.width / *kv_heads
        };
        let to = |part: &HeadPart, rows: CacheRows| part.to == Destination::Cache(rows.format);
        let kept = to(&self.k, caches[0]) && to(&self.v, caches[1]);
        let one_stride = self.q.x.stride == self.k.x.stride && self.k.x.stride == self.v.x.stride;
        let parts = fits(&self.q, q, *heads) && fits(&self.k, k, *kv_heads) && fits(&self.v, v, *kv_heads);
        match parts && kept && whole(k, caches[0]) && whole(v, caches[1]) && one_stride {
            true => Ok(()),
            false => Err(KernelError::Shape(format!("{self:?} for {attention:?} of {caches:?}"))),
        }
    }

    /// x, vector, rows, sequences, pages, k, v; the caches are read and written.
    pub(super) fn bind(&self, [k, v]: [Stored; 2], interface: &mut Interface) -> Result<(), KernelError> {
        let all = [self.q, self.k, self.v];
        let all = Heads::new(&all, "");
        all.bind(self.vector, interface);
        interface.rows_table();
        interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
        interface.bind(Slot::Pages, "pages", Access::Read, "array<u32>");
        let parts = [("_q", &self.q, k.vectors()), ("_k", &self.k, k.vectors()), ("_v", &self.v, v.vectors())];
        for (name, part, vectors) in parts {
            let heads = Heads::new(slice::from_ref(part), name).by(all.unit);
            interface.function(heads.functions(vectors, interface)?);
            if let Some(norm) = part.norm {
                interface.function(heads.squares());
                interface.function(format!(
                    "fn normal{name}(squares: f32) -> f32 {{\n    return 1.0 / sqrt(squares / {}.0 + {});\n}}\n",
                    part.dim(),
                    literal(norm.eps)?
                ));
            }
        }
        let longs = interface.longs();
        for (slot, name, cache) in [(Slot::Part(1), "k", k), (Slot::Part(2), "v", v)] {
            cache.bind(slot, name, Access::ReadWrite, interface);
            interface.function(cache.load(name, longs));
            interface.function(cache.put(name, longs));
        }
        interface.function(
            "fn load_q(m: u32, head: u32, d4: u32) -> vec4<f32> {\n    return near_q[head % HEADS * D4 + d4];\n}\n"
                .to_owned(),
        );
        Ok(())
    }

    /// Slots of `cached_broadcast.wgsl`, where a load gives so many vec4s of k and v.
    pub(super) fn broadcast(&self, scaled: bool, [hk, hv]: [u32; 2]) -> Slots {
        let squares = |name: &str, part: &HeadPart, row: &str, head: &str| match part.norm {
            None => String::new(),
            Some(_) => {
                let (count, width) = if name == "v" { ("LV", "DV4") } else { ("LK", "X4") };
                let pairs =
                    [("{name}", name), ("{count}", count), ("{width}", width), ("{row}", row), ("{head}", head)];
                pairs.iter().fold(BROADCAST_NORM.to_owned(), |text, (from, to)| text.replace(from, to))
            }
        };
        let put = |text: &str, line: &str, squares: String| text.replace(line, &(squares + line));
        let ready = put(BROADCAST_READY, "    let scale_q", squares("q", &self.q, "m0", "head0 + r"));
        let fresh = put(BROADCAST_FRESH, "    let scale_k", squares("k", &self.k, "row", "head0 / G"));
        let fresh = put(&fresh, "    let scale_v", squares("v", &self.v, "row", "head0 / G"));
        let scale = |part: &HeadPart, name: &str| match part.norm {
            Some(_) => format!("normal_{name}(squares_{name})"),
            None => "1.0".to_owned(),
        };
        let fresh = as_stored(&fresh, scaled.then_some(BROADCAST_SCALING), "lane == 0u");
        let fresh = fresh.replace("{near_k}", &near("k", "lane", "S", "HK", hk));
        let fresh = fresh.replace("{near_v}", &near("v", "lane", "S", "HV", hv));
        vec![
            ("near", NEAR.to_owned()),
            ("ready", ready.replace("{norm}", &scale(&self.q, "q"))),
            ("fresh", fresh.replace("{norm_k}", &scale(&self.k, "k")).replace("{norm_v}", &scale(&self.v, "v"))),
        ]
    }

    /// Slots of `cached_workgroup.wgsl`, where a load gives so many vec4s of k.
    pub(super) fn workgroup(&self, scaled: bool, hk: u32) -> Slots {
        let scale = |part: &HeadPart, name: &str, at: &str| match part.norm {
            Some(_) => format!("normal_{name}(sum_of({at}))"),
            None => "1.0".to_owned(),
        };
        let norm_q = if self.q.norm.is_some() { WORKGROUP_NORM_Q } else { "" };
        let mut norm = String::new();
        for (name, part, at, count, width) in [("k", &self.k, "0u", "L4", "X4"), ("v", &self.v, "1u", "LV4", "DV4")] {
            if part.norm.is_some() {
                let pairs = [("{name}", name), ("{at}", at), ("{count}", count), ("{width}", width)];
                let text = pairs.iter().fold(WORKGROUP_NORM_KV.to_owned(), |text, (from, to)| text.replace(from, to));
                let again = if norm.is_empty() { text } else { text.replace("    var squares_kv = 0.0;\n", "") };
                norm += &again;
            }
        }
        if !norm.is_empty() {
            norm += "    sums[index] = squares_kv;\n    workgroupBarrier();\n";
        }
        let near_memory = format!("{NEAR}var<workgroup> sums: array<f32, T>;\n\n{SUM_OF}");
        let fresh = as_stored(WORKGROUP_FRESH, scaled.then_some(WORKGROUP_SCALING), "index == 0u");
        let fresh = fresh.replace("{near_k}", &near("k", "index", "T", "HK", hk));
        let fresh = fresh.replace("{norm_k}", &scale(&self.k, "k", "0u"));
        let fresh = fresh.replace("{norm_v}", &scale(&self.v, "v", "1u")).replace("{norm}", &norm);
        vec![
            ("near", near_memory),
            ("ready", norm_q.to_owned() + &WORKGROUP_READY.replace("{norm}", &scale(&self.q, "q", "item / D4"))),
            ("fresh", fresh),
        ]
    }
}

/// What a load's vec4s are put from: the i-th of invocation `index`.
fn near(name: &str, index: &str, count: &str, load: &str, vectors: u32) -> String {
    let one = |h: u32| format!("near_{name}[({index} + i / {load} * {count}) * {load} + {h}u]");
    (0..vectors).map(one).collect::<Vec<_>>().join(", ")
}

/// The text with what scales need, if there are any.
fn as_stored(text: &str, scaling: Option<&str>, first: &str) -> String {
    let (kept, scales, times) = match scaling {
        Some(_) => ("", PUT_SCALES.replace("{first}", first), [" * unit_k", " * unit_v"]),
        None => ("kept", String::new(), ["", ""]),
    };
    let text = text.replace("{kept}", kept).replace("{scaling}", scaling.unwrap_or(""));
    text.replace("{put_scales}", &scales).replace("{times_k}", times[0]).replace("{times_v}", times[1])
}
