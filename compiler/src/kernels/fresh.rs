//! Attention over caches that makes queries and new rows ready itself: no kernel of heads before it.
//!
//! A workgroup has one row. It takes the queries of its heads, then each key that the caches did not hold before the step,
//! from the columns that a contraction left, and never reads what another workgroup writes. The row's own key and value
//! are written by the workgroup that has the first of the heads that share them, in the chunk where they stand.

use std::fmt::Write as _;

use warpweft_plan::Access;

use super::KernelError;
use super::attention::load_head;
use super::compose::Slot;
use super::heads::{Unit, unit_of};
use super::interface::{Interface, store_columns, view_type};
use super::spec::{Attention, Fresh, HeadPart, View};
use super::term::literal;

/// Invocations that add up the squares, or the products, of one head where there are no subgroups.
pub(super) const ADDING: u32 = 8;

/// The slot `near`: what a workgroup made ready.
const NEAR: &str = "var<workgroup> near_q: array<vec4<f32>, HEADS * D4>;
var<workgroup> near_k: array<vec4<f32>, D4>;
var<workgroup> near_v: array<vec4<f32>, DV4>;
";

/// The slot `ready` in `cached_broadcast.wgsl`.
const BROADCAST_READY: &str = "//# trips HEADS
for (var r = 0u; r < HEADS; r++) {
    let scale_q = {norm};
    //# unroll
    for (var i = 0u; i < L4; i++) {
        if (lane + i * S < D4) {
            near_q[r * D4 + lane + i * S] = ready_q(m0, head0 + r, lane + i * S, scale_q);
        }
    }
}
workgroupBarrier();
";

/// The slot `fresh` in `cached_broadcast.wgsl`, which comes after the keys of the caches.
const BROADCAST_FRESH: &str = "//# trips BLOCKS * B * 4u * S
for (var key = max(begin, own.z); key < stop; key++) {
    let row = own.x + (key - own.z);
    let scale_k = {norm_k};
    let scale_v = {norm_v};
    //# unroll
    for (var i = 0u; i < L4; i++) {
        if (lane + i * S < D4) {
            near_k[lane + i * S] = ready_k(row, head0 / G, lane + i * S, scale_k);
        }
    }
    //# unroll
    for (var i = 0u; i < C4; i++) {
        if (lane + i * S < DV4) {
            near_v[lane + i * S] = ready_v(row, head0 / G, lane + i * S, scale_v);
        }
    }
    workgroupBarrier();
    if (key == rows[m0].x && head0 % G == 0u) {
        let to = cache_row(sequence, key);
        //# unroll
        for (var i = 0u; i < L4; i++) {
            if (lane + i * S < D4) {
                put_k(to, head0 / G, lane + i * S, near_k[lane + i * S]);
            }
        }
        //# unroll
        for (var i = 0u; i < C4; i++) {
            if (lane + i * S < DV4) {
                put_v(to, head0 / G, lane + i * S, near_v[lane + i * S]);
            }
        }
    }
    //# unroll
    for (var r = 0u; r < R; r++) {
        var product = 0.0;
        //# unroll
        for (var i = 0u; i < L4; i++) {
            if (lane + i * S < D4) {
                product += dot(near_q[r * D4 + lane + i * S], near_k[lane + i * S]);
            }
        }
        //# unroll
        for (var o = 1u; o < S; o *= 2) {
            product += subgroupShuffleXor(product, o);
        }
        let score_of_new = logit(vec4<f32>(product)).x;
        let next = max(top[r], score_of_new);
        let factor = exp(top[r] - next);
        let p = exp(score_of_new - next);
        top[r] = next;
        // Lanes' totals are added up in the end.
        total[r] = total[r] * factor + select(0.0, p, lane == 0u);
        //# unroll
        for (var c = 0u; c < C4; c++) {
            acc[r * C4 + c] = acc[r * C4 + c] * factor + p * near_v[min(lane + c * S, DV4 - 1u)];
        }
    }
    workgroupBarrier();
}
";

/// The squares of one head and what they make of it, where a workgroup is a subgroup.
const BROADCAST_NORM: &str = "var squares_{name} = 0.0;
//# unroll
for (var i = 0u; i < {count}; i++) {
    if (lane + i * S < {width}) {
        squares_{name} += squares_of_{name}({row}, {head}, lane + i * S);
    }
}
//# unroll
for (var o = 1u; o < S; o *= 2) {
    squares_{name} += subgroupShuffleXor(squares_{name}, o);
}
";

/// The slot `ready` in `cached_workgroup.wgsl`.
const WORKGROUP_READY: &str = "//# trips Q4
for (var item = index; item < HEADS * D4; item += T) {
    near_q[item] = ready_q(m0, head0 + item / D4, item % D4, {norm});
}
workgroupBarrier();
";

/// Squares of the heads of q, where there are no subgroups.
const WORKGROUP_NORM_Q: &str = "var squares_q = 0.0;
//# unroll
for (var i = 0u; i < L4; i++) {
    if (index / EACH < HEADS && i * EACH + index % EACH < D4) {
        squares_q += squares_of_q(m0, head0 + index / EACH, i * EACH + index % EACH);
    }
}
sums[index] = squares_q;
workgroupBarrier();
";

/// The same of a key and a value: the first invocations have the key's, the next ones the value's.
const WORKGROUP_NORM_KV: &str = "    var squares_kv = 0.0;
    //# unroll
    for (var i = 0u; i < {count}; i++) {
        if (index / EACH == {at} && i * EACH + index % EACH < {width}) {
            squares_kv += squares_of_{name}(row, head0 / G, i * EACH + index % EACH);
        }
    }
";

/// The slot `fresh` in `cached_workgroup.wgsl`, which comes after the keys of the caches.
const WORKGROUP_FRESH: &str = "//# trips BLOCKS * B
for (var key = max(begin, own.z); key < stop; key++) {
    let row = own.x + (key - own.z);
    workgroupBarrier();
{norm}    //# unroll
    for (var i = 0u; i < K4; i++) {
        if (index + i * T < D4) {
            near_k[index + i * T] = ready_k(row, head0 / G, index + i * T, {norm_k});
        }
    }
    //# unroll
    for (var i = 0u; i < V4; i++) {
        if (index + i * T < DV4) {
            near_v[index + i * T] = ready_v(row, head0 / G, index + i * T, {norm_v});
        }
    }
    workgroupBarrier();
    if (key == rows[m0].x && head0 % G == 0u) {
        let to = cache_row(sequence, key);
        //# unroll
        for (var i = 0u; i < K4; i++) {
            if (index + i * T < D4) {
                put_k(to, head0 / G, index + i * T, near_k[index + i * T]);
            }
        }
        //# unroll
        for (var i = 0u; i < V4; i++) {
            if (index + i * T < DV4) {
                put_v(to, head0 / G, index + i * T, near_v[index + i * T]);
            }
        }
    }
    var product = 0.0;
    //# unroll
    for (var i = 0u; i < L4; i++) {
        if (index / EACH < HEADS && i * EACH + index % EACH < D4) {
            product += dot(near_q[index / EACH * D4 + i * EACH + index % EACH], near_k[i * EACH + index % EACH]);
        }
    }
    sums[index] = product;
    workgroupBarrier();
    if (index < HEADS) {
        let score_of_new = logit(vec4<f32>(sum_of(index))).x;
        let next = max(top[index], score_of_new);
        let p = exp(score_of_new - next);
        factor[index] = exp(top[index] - next);
        total[index] = total[index] * factor[index] + p;
        top[index] = next;
        weights[index * B] = p;
    }
    workgroupBarrier();
    //# unroll
    for (var a = 0u; a < A; a++) {
        let item = a * T + index;
        let r = min(item / DV4, HEADS - 1u);
        acc[a] = acc[a] * factor[r] + weights[r * B] * near_v[item % DV4];
    }
}
";

/// `sum_of(i)`: what the i-th group of invocations left.
const SUM_OF: &str = "fn sum_of(i: u32) -> f32 {
    let at = i * EACH;
    return ((sums[at] + sums[at + 1u]) + (sums[at + 2u] + sums[at + 3u]))
        + ((sums[at + 4u] + sums[at + 5u]) + (sums[at + 6u] + sums[at + 7u]));
}
";

/// The slots of an algorithm and its file.
pub(super) type Slots = Vec<(&'static str, String)>;

impl Fresh {
    fn parts(&self) -> [(&'static str, &HeadPart); 3] {
        [("q", &self.q), ("k", &self.k), ("v", &self.v)]
    }

    /// An error where the parts are not those of the attention.
    pub(super) fn check(&self, attention: &Attention) -> Result<(), KernelError> {
        for (_, part) in self.parts() {
            part.check(self.vector)?;
        }
        let Attention { q, k, v, heads, kv_heads, .. } = attention;
        let fits = |part: &HeadPart, view: &View, heads: u32| part.heads == heads && part.x.width == view.width;
        let whole = |view: &View| *view == View::whole(view.width);
        let one_stride = self.q.x.stride == self.k.x.stride && self.k.x.stride == self.v.x.stride;
        let parts = fits(&self.q, q, *heads) && fits(&self.k, k, *kv_heads) && fits(&self.v, v, *kv_heads);
        match parts && whole(k) && whole(v) && one_stride {
            true => Ok(()),
            false => Err(KernelError::Shape(format!("{self:?} for {attention:?}"))),
        }
    }

    /// x, vector, rows, sequences, pages, k, v; the caches are read and written.
    pub(super) fn bind(&self, [k, v]: [View; 2], interface: &mut Interface) -> Result<(), KernelError> {
        let parts = self.parts();
        let unit = unit_of(&parts.map(|(_, part)| *part));
        let array = format!("array<{}>", unit.kind());
        interface.bind(Slot::X, "x", Access::Read, &array);
        if self.vector > 0 {
            interface.bind(Slot::Vectors, "vector", Access::Read, &array);
        }
        interface.rows_table();
        interface.bind(Slot::Sequences, "sequences", Access::Read, "array<vec4<u32>>");
        interface.bind(Slot::Pages, "pages", Access::Read, "array<u32>");
        if parts.iter().any(|(_, part)| part.rotation.is_some()) {
            interface.function(include_str!("lib/cos_sin.wgsl").to_owned());
        }
        for (name, part) in parts {
            interface.function(part.turned(name, unit)?);
            interface.function(ready(name, part, unit)?);
        }
        for (slot, name, view, dim) in [(Slot::Part(1), "k", k, self.k.dim()), (Slot::Part(2), "v", v, self.v.dim())] {
            let four = dim.is_multiple_of(4);
            interface.bind(slot, name, Access::ReadWrite, if four { view_type(view) } else { "array<f32>" });
            interface.function(load_head(name, view, dim, false));
            let head = format!("fn put_{name}(m: u32, head: u32, d4: u32, value: vec4<f32>) {{\n");
            let body = match four {
                true => format!("    {name}[m * {}u + head * {}u + d4] = value;\n", view.stride / 4, dim / 4),
                false => store_columns(name, view.stride, dim),
            };
            interface.function(head + &body + "}\n");
        }
        interface.function(
            "fn load_q(m: u32, head: u32, d4: u32) -> vec4<f32> {\n    return near_q[head % HEADS * D4 + d4];\n}\n"
                .to_owned(),
        );
        Ok(())
    }

    /// Slots of `cached_broadcast.wgsl`.
    pub(super) fn broadcast(&self) -> Slots {
        let squares = |name: &str, part: &HeadPart, row: &str, head: &str| match part.norm {
            None => String::new(),
            Some(_) => {
                let (count, width) = if name == "v" { ("C4", "DV4") } else { ("L4", "D4") };
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
        vec![
            ("near", NEAR.to_owned()),
            ("ready", ready.replace("{norm}", &scale(&self.q, "q"))),
            ("fresh", fresh.replace("{norm_k}", &scale(&self.k, "k")).replace("{norm_v}", &scale(&self.v, "v"))),
        ]
    }

    /// Slots of `cached_workgroup.wgsl`.
    pub(super) fn workgroup(&self) -> Slots {
        let scale = |part: &HeadPart, name: &str, at: &str| match part.norm {
            Some(_) => format!("normal_{name}(sum_of({at}))"),
            None => "1.0".to_owned(),
        };
        let norm_q = if self.q.norm.is_some() { WORKGROUP_NORM_Q } else { "" };
        let mut norm = String::new();
        for (name, part, at, count, width) in [("k", &self.k, "0u", "L4", "D4"), ("v", &self.v, "1u", "LV4", "DV4")] {
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
        let near = format!("{NEAR}var<workgroup> sums: array<f32, T>;\n\n{SUM_OF}");
        let fresh = WORKGROUP_FRESH.replace("{norm_k}", &scale(&self.k, "k", "0u"));
        let fresh = fresh.replace("{norm_v}", &scale(&self.v, "v", "1u")).replace("{norm}", &norm);
        vec![
            ("near", near),
            ("ready", norm_q.to_owned() + &WORKGROUP_READY.replace("{norm}", &scale(&self.q, "q", "item / D4"))),
            ("fresh", fresh),
        ]
    }
}

/// `ready_name(m, head, d4, scale)`: four columns of a head as attention reads them, zeros beyond its width. With a norm,
/// `squares_of_name(m, head, d4)` of what it is of, and `normal_name(squares)`.
fn ready(name: &str, part: &HeadPart, unit: Unit) -> Result<String, KernelError> {
    let dim = part.dim();
    let position = if part.rotation.is_some() { "f32(rows[m].x)" } else { "0.0" };
    let mut text = format!("fn ready_{name}(m: u32, head: u32, d4: u32, scale: f32) -> vec4<f32> {{\n");
    let four = |value: &dyn Fn(&str) -> String| {
        format!("vec4<f32>({}, {}, {}, {})", value("at.x"), value("at.y"), value("at.z"), value("at.w"))
    };
    let bounds = format!(
        "    let d = 4u * d4 + vec4<u32>(0u, 1u, 2u, 3u);
    let at = min(d, vec4<u32>({}u));\n",
        dim - 1
    );
    let exact = |value: String| format!("select(vec4<f32>(0.0), {value}, d < vec4<u32>({dim}u))");
    let _ = match unit {
        Unit::Four => writeln!(text, "    return turned_{name}(m, {position}, head, d4, scale);\n}}\n"),
        Unit::Column => {
            let value = four(&|at| format!("turned_{name}(m, {position}, head, {at}, scale)"));
            writeln!(text, "{bounds}    return {};\n}}\n", exact(value))
        }
    };
    let Some(norm) = part.norm else { return Ok(text) };
    let columns = unit.columns();
    let (stride, offset, of_head) = (part.x.stride / columns, part.x.offset / columns, dim / columns);
    let raw = |at: &str| format!("x[m * {stride}u + {offset}u + head * {of_head}u + {at}]");
    let (bounds, value) = match unit {
        Unit::Four => (String::new(), raw("d4")),
        Unit::Column => (bounds.clone(), exact(four(&raw))),
    };
    let _ = writeln!(
        text,
        "fn squares_of_{name}(m: u32, head: u32, d4: u32) -> f32 {{\n{bounds}    let value = {value};
    return dot(value, value);\n}}

fn normal_{name}(squares: f32) -> f32 {{\n    return 1.0 / sqrt(squares / {dim}.0 + {});\n}}\n",
        literal(norm.eps)?
    );
    Ok(text)
}
