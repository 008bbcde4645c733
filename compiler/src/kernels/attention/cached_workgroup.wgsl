// Attention over a paged cache, scores in workgroup memory: out[i] = Σ_j p_ij v_j with p_i = softmax_j(logit(q_i · k_j))
//
// q [M, H·D], k and v: rows of caches, H/G·D and H/G·DV wide; j runs over the positions of i's sequence that its band
// sees, and pages say which row of the caches a position is. T invocations take the rows of one sequence in a tile of
// ROWS, HEADS heads of each that read the same keys, through these keys, B at a time, with the running maximum and sum
// of an online softmax. R is ROWS·HEADS or more, so that R·B/T is whole: an invocation computes as many scores, then A
// vec4s of out. A load of k gives HK vec4s as they are stored, one of v gives one; part_k and part_v are their numbers.

//# slot constants
const T: u32 = 64u; // invocations
const ROWS: u32 = 8u; // rows of a tile
const HEADS: u32 = 2u; // heads of a tile
const R: u32 = 16u; // of both
const B: u32 = 32u; // keys of a block
const A: u32 = 2u; // vec4s of out of an invocation
const U: u32 = 1u; // vec4s of columns of q and k in one iteration
const V: u32 = 16u; // keys in one iteration
const W: u32 = 4u; // of them, whose weights are found together
const D4: u32 = 8u; // vec4s of columns of a head of q and k, whole loads
const DV4: u32 = 8u; // vec4s of columns of a head of v
const HK: u32 = 1u; // vec4s of a load of k
const G: u32 = 2u; // heads of q for one of k and v
const BLOCKS: u32 = 32u; // the most blocks of keys
const CHUNK: u32 = 512u; // keys of a chunk of the context
//# end
const PAGE: u32 = 32u; // rows of a page
const NONE: f32 = -3.0e38;

//# slot bindings
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> pages: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(7) var<uniform> step: vec4<u32>;
//# end

var<workgroup> weights: array<f32, R * B>;
var<workgroup> places: array<u32, B>;
var<workgroup> top: array<f32, R>;
var<workgroup> total: array<f32, R>;
var<workgroup> factor: array<f32, R>;

//# slot scales
//# end

//# slot near
//# end

//# slot functions
fn load_q(m: u32, head: u32, d4: u32) -> vec4<f32> {
    return q[m * 4u * D4 + head * D4 + d4];
}

fn load_k(m: u32, head: u32, i: u32) -> vec4<f32> {
    return k[(m * 2u + head) * D4 + i];
}

fn part_k(p: vec4<f32>, h: u32) -> vec4<f32> {
    return p;
}

fn load_v(m: u32, head: u32, i: u32) -> vec4<f32> {
    return v[(m * 2u + head) * DV4 + i];
}

fn part_v(p: vec4<f32>, h: u32) -> vec4<f32> {
    return p;
}

fn first_key(m: u32) -> u32 {
    return 0u;
}

fn end_key(m: u32) -> u32 {
    return rows[m].x + 1u;
}

fn logit(acc: vec4<f32>) -> vec4<f32> {
    return acc;
}

fn store(m: u32, head: u32, d4: u32, value: vec4<f32>) {
    out[m * 4u * DV4 + head * DV4 + d4] = value;
}
//# end

fn cache_row(sequence: u32, key: u32) -> u32 {
    return pages[sequences[sequence].w + key / PAGE] * PAGE + key % PAGE;
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let head0 = group.y * HEADS;
    //# slot range
    let sequence = rows[group.x * ROWS].w + group.z;
    if (sequence >= step.y) {
        return;
    }
    let own = sequences[sequence];
    let m0 = max(group.x * ROWS, own.x);
    let after = min(min(group.x * ROWS + ROWS, step.x), own.x + own.y);
    if (m0 >= after) {
        return;
    }
    let last = after - 1u;
    let begin = first_key(m0);
    let end = end_key(last);
    //# end
    //# slot ready
    //# end
    let column = index % B;
    let row0 = index / B;
    if (index < R) {
        top[index] = NONE;
        total[index] = 0.0;
    }
    var acc: array<vec4<f32>, A>;
    //# trips BLOCKS
    for (var key0 = begin; key0 < end; key0 += B) {
        workgroupBarrier();
        let key = key0 + column;
        let keys = min(B, (end - key0 + V - 1u) / V * V);
        let place = cache_row(sequence, min(key, end - 1u));
        if (index < B) {
            places[index] = place;
            //# slot scale_v
            //# end
        }
        var score: array<f32, R * B / T>;
        //# trips D4 / U
        for (var d0 = 0u; d0 < D4; d0 += U) {
            //# unroll
            for (var u = 0u; u < U; u += HK) {
                let p = load_k(place, head0 / G, (d0 + u) / HK);
                //# unroll
                for (var h = 0u; h < HK; h++) {
                    let kd = part_k(p, h);
                    //# unroll
                    for (var i = 0u; i < R * B / T; i++) {
                        let r = min(row0 + i * (T / B), ROWS * HEADS - 1u);
                        score[i] += dot(load_q(min(m0 + r / HEADS, last), head0 + r % HEADS, d0 + u + h), kd);
                    }
                }
            }
        }
        //# slot scale_k
        //# end
        //# unroll
        for (var i = 0u; i < R * B / T; i++) {
            let row = row0 + i * (T / B);
            let m = min(m0 + row / HEADS, last);
            let seen = key >= first_key(m) && key < min(end_key(m), end);
            weights[row * B + column] = select(NONE, logit(vec4<f32>(score[i])).x, seen);
        }
        workgroupBarrier();
        // Before a row's first own key, top is NONE and weights are 1: what they add is multiplied by 0 later.
        if (index < R) {
            var next = top[index];
            //# trips B / W
            for (var j0 = 0u; j0 < keys; j0 += W) {
                //# unroll
                for (var j = 0u; j < W; j++) {
                    next = max(next, weights[index * B + j0 + j]);
                }
            }
            var sum = 0.0;
            //# trips B / W
            for (var j0 = 0u; j0 < keys; j0 += W) {
                //# unroll
                for (var j = 0u; j < W; j++) {
                    let p = exp(weights[index * B + j0 + j] - next);
                    sum += p;
                    //# slot weigh
                    weights[index * B + j0 + j] = p;
                    //# end
                }
            }
            factor[index] = exp(top[index] - next);
            total[index] = total[index] * factor[index] + sum;
            top[index] = next;
        }
        workgroupBarrier();
        //# unroll
        for (var a = 0u; a < A; a++) {
            acc[a] *= factor[min((a * T + index) / DV4, R - 1u)];
        }
        //# trips B / V
        for (var j0 = 0u; j0 < keys; j0 += V) {
            //# unroll
            for (var j = 0u; j < V; j++) {
                //# unroll
                for (var a = 0u; a < A; a++) {
                    let item = a * T + index;
                    let value = part_v(load_v(places[j0 + j], head0 / G, item % DV4), 0u);
                    acc[a] += weights[min(item / DV4, R - 1u) * B + j0 + j] * value;
                }
            }
        }
    }
    //# slot fresh
    //# end
    //# unroll
    for (var a = 0u; a < A; a++) {
        let item = a * T + index;
        let row = item / DV4;
        let m = m0 + row / HEADS;
        let head = head0 + row % HEADS;
        if (row < ROWS * HEADS && m <= last) {
            //# slot result
            store(m, head, item % DV4, acc[a] / total[row]);
            //# end
        }
    }
}
