//! What attention that makes its rows ready has in the slots of the kernels over caches.

/// The slot `near`: what a workgroup made ready.
pub(super) const NEAR: &str = "var<workgroup> near_q: array<vec4<f32>, HEADS * D4>;
var<workgroup> near_k: array<vec4<f32>, NK>;
var<workgroup> near_v: array<vec4<f32>, NV>;
";

/// The slot `ready` in `cached_broadcast.wgsl`.
pub(super) const BROADCAST_READY: &str = "let position = f32(rows[m0].x);
//# trips HEADS
for (var r = 0u; r < HEADS; r++) {
    let scale_q = {norm};
    //# trips LK
    for (var d4 = lane; d4 < D4; d4 += S) {
        near_q[r * D4 + d4] = ready_q(m0, position, head0 + r, d4, scale_q);
    }
}
workgroupBarrier();
";

/// The slot `fresh` in `cached_broadcast.wgsl`, which comes after the keys of the caches.
pub(super) const BROADCAST_FRESH: &str = "//# trips NEW
for (var key = max(begin, own.z); key < stop; key++) {
    let row = own.x + (key - own.z);
    let position = f32(key);
    let scale_k = {norm_k};
    let scale_v = {norm_v};
    //# trips LK
    for (var d4 = lane; d4 < NK; d4 += S) {
        near_k[d4] = {kept}(ready_k(row, position, head0 / G, d4, scale_k));
    }
    //# trips LV
    for (var d4 = lane; d4 < NV; d4 += S) {
        near_v[d4] = {kept}(ready_v(row, position, head0 / G, d4, scale_v));
    }
{scaling}    workgroupBarrier();
    if (key == rows[m0].x && head0 % G == 0u) {
        let to = cache_row(sequence, key);
        //# unroll
        for (var i = 0u; i < LK; i += HK) {
            if (lane + i / HK * S < NK / HK) {
                put_k(to, head0 / G, lane + i / HK * S, {near_k});
            }
        }
        //# unroll
        for (var i = 0u; i < LV; i += HV) {
            if (lane + i / HV * S < NV / HV) {
                put_v(to, head0 / G, lane + i / HV * S, {near_v});
            }
        }
{put_scales}    }
    //# unroll
    for (var r = 0u; r < R; r++) {
        var product = 0.0;
        //# unroll
        for (var i = 0u; i < LK; i++) {
            if (lane + i * S < D4) {
                product += dot(near_q[r * D4 + lane + i * S], near_k[lane + i * S]);
            }
        }
        //# unroll
        for (var o = 1u; o < S; o *= 2) {
            product += subgroupShuffleXor(product, o);
        }
        let score_of_new = logit(vec4<f32>(product{times_k})).x;
        let next = max(top[r], score_of_new);
        let factor = exp(top[r] - next);
        let p = exp(score_of_new - next);
        top[r] = next;
        // Lanes' totals are added up in the end.
        total[r] = total[r] * factor + select(0.0, p, lane == 0u);
        //# unroll
        for (var c = 0u; c < C4; c++) {
            acc[r * C4 + c] = acc[r * C4 + c] * factor + p{times_v} * near_v[min(column(lane, c), NV - 1u)];
        }
    }
    workgroupBarrier();
}
";

/// The squares of one head and what they make of it, where a workgroup is a subgroup.
pub(super) const BROADCAST_NORM: &str = "var squares_{name} = 0.0;
//# trips {count}
for (var d4 = lane; d4 < {width}; d4 += S) {
    squares_{name} += squares_of_{name}({row}, {head}, d4);
}
//# unroll
for (var o = 1u; o < S; o *= 2) {
    squares_{name} += subgroupShuffleXor(squares_{name}, o);
}
";

/// The slot `ready` in `cached_workgroup.wgsl`.
pub(super) const WORKGROUP_READY: &str = "let position = f32(rows[m0].x);
//# trips Q4
for (var item = index; item < HEADS * D4; item += T) {
    near_q[item] = ready_q(m0, position, head0 + item / D4, item % D4, {norm});
}
workgroupBarrier();
";

/// Squares of the heads of q, where there are no subgroups.
pub(super) const WORKGROUP_NORM_Q: &str = "var squares_q = 0.0;
//# unroll
for (var i = 0u; i < L4; i++) {
    if (index / EACH < HEADS && i * EACH + index % EACH < X4) {
        squares_q += squares_of_q(m0, head0 + index / EACH, i * EACH + index % EACH);
    }
}
sums[index] = squares_q;
workgroupBarrier();
";

/// The same of a key and a value: the first invocations have the key's, the next ones the value's.
pub(super) const WORKGROUP_NORM_KV: &str = "    var squares_kv = 0.0;
    //# unroll
    for (var i = 0u; i < {count}; i++) {
        if (index / EACH == {at} && i * EACH + index % EACH < {width}) {
            squares_kv += squares_of_{name}(row, head0 / G, i * EACH + index % EACH);
        }
    }
";

/// The slot `fresh` in `cached_workgroup.wgsl`, which comes after the keys of the caches.
pub(super) const WORKGROUP_FRESH: &str = "//# trips NEW
for (var key = max(begin, own.z); key < stop; key++) {
    let row = own.x + (key - own.z);
    let position = f32(key);
    workgroupBarrier();
{norm}    //# unroll
    for (var i = 0u; i < K4; i++) {
        if (index + i * T < NK) {
            near_k[index + i * T] = {kept}(ready_k(row, position, head0 / G, index + i * T, {norm_k}));
        }
    }
    //# unroll
    for (var i = 0u; i < V4; i++) {
        if (index + i * T < NV) {
            near_v[index + i * T] = {kept}(ready_v(row, position, head0 / G, index + i * T, {norm_v}));
        }
    }
    workgroupBarrier();
{scaling}    if (key == rows[m0].x && head0 % G == 0u) {
        let to = cache_row(sequence, key);
        //# unroll
        for (var i = 0u; i < K4; i += HK) {
            if (index + i / HK * T < NK / HK) {
                put_k(to, head0 / G, index + i / HK * T, {near_k});
            }
        }
        //# unroll
        for (var i = 0u; i < V4; i++) {
            if (index + i * T < NV) {
                put_v(to, head0 / G, index + i * T, near_v[index + i * T]);
            }
        }
{put_scales}    }
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
        let score_of_new = logit(vec4<f32>(sum_of(index){times_k})).x;
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
        acc[a] = acc[a] * factor[r] + weights[r * B]{times_v} * near_v[item % DV4];
    }
}
";

/// `{scaling}` in `BROADCAST_FRESH`, where heads have scales: near are then what is stored, over the scales.
pub(super) const BROADCAST_SCALING: &str = "    var most_k = 0.0;
    var most_v = 0.0;
    //# unroll
    for (var i = 0u; i < LK; i++) {
        if (lane + i * S < NK) {
            most_k = max(most_k, greatest(near_k[lane + i * S]));
        }
    }
    //# unroll
    for (var i = 0u; i < LV; i++) {
        if (lane + i * S < NV) {
            most_v = max(most_v, greatest(near_v[lane + i * S]));
        }
    }
    //# unroll
    for (var o = 1u; o < S; o *= 2) {
        most_k = max(most_k, subgroupShuffleXor(most_k, o));
        most_v = max(most_v, subgroupShuffleXor(most_v, o));
    }
    let unit_k = scale_of(most_k);
    let unit_v = scale_of(most_v);
    //# unroll
    for (var i = 0u; i < LK; i++) {
        if (lane + i * S < NK) {
            near_k[lane + i * S] = kept(near_k[lane + i * S] / unit_k);
        }
    }
    //# unroll
    for (var i = 0u; i < LV; i++) {
        if (lane + i * S < NV) {
            near_v[lane + i * S] = kept(near_v[lane + i * S] / unit_v);
        }
    }
";

/// The same in `WORKGROUP_FRESH`: the first half of the invocations looks at the key, the second one at the value.
pub(super) const WORKGROUP_SCALING: &str = "    var most = 0.0;
    //# unroll
    for (var i = 0u; i < H4; i++) {
        let at = index % (T / 2u) + i * (T / 2u);
        if (index < T / 2u && at < NK) {
            most = max(most, greatest(near_k[at]));
        }
        if (index >= T / 2u && at < NV) {
            most = max(most, greatest(near_v[at]));
        }
    }
    sums[index] = most;
    workgroupBarrier();
    //# unroll
    for (var o = 1u; o < T / 2u; o *= 2) {
        if (index % (2u * o) == 0u) {
            sums[index] = max(sums[index], sums[index + o]);
        }
        workgroupBarrier();
    }
    let unit_k = scale_of(sums[0]);
    let unit_v = scale_of(sums[T / 2u]);
    //# unroll
    for (var i = 0u; i < K4; i++) {
        if (index + i * T < NK) {
            near_k[index + i * T] = kept(near_k[index + i * T] / unit_k);
        }
    }
    //# unroll
    for (var i = 0u; i < V4; i++) {
        if (index + i * T < NV) {
            near_v[index + i * T] = kept(near_v[index + i * T] / unit_v);
        }
    }
    workgroupBarrier();
";

/// `{put_scales}`; `{first}` is true in one invocation.
pub(super) const PUT_SCALES: &str = "        if ({first}) {
            put_scale_k(to, head0 / G, unit_k);
            put_scale_v(to, head0 / G, unit_v);
        }
";

/// `sum_of(i)`: what the i-th group of invocations left.
pub(super) const SUM_OF: &str = "fn sum_of(i: u32) -> f32 {
    let at = i * EACH;
    return ((sums[at] + sums[at + 1u]) + (sums[at + 2u] + sums[at + 3u]))
        + ((sums[at + 4u] + sums[at + 5u]) + (sums[at + 6u] + sums[at + 7u]));
}
";
