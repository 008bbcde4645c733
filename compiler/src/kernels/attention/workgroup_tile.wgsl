// Attention, scores in workgroup memory: out[i] = Σ_j p_ij v_j with p_i = softmax_j(logit(q_i · k_j)), for each head
//
// q [M, H·D], k [M, H/G·D], v [M, H/G·DV], out [M, H·DV]; j runs over the rows of i's own sequence that its band sees.
// T invocations take R rows of one head through the keys that any of them sees, B at a time, with the running maximum
// and sum of an online softmax. An invocation computes R·B/T scores, then A vec4s of out.

//# slot constants
const T: u32 = 64u; // invocations
const R: u32 = 16u; // rows
const B: u32 = 32u; // keys of a block
const A: u32 = 2u; // vec4s of out of an invocation
const D4: u32 = 8u; // vec4s of columns of a head of q and k
const DV4: u32 = 8u; // vec4s of columns of a head of v
const G: u32 = 1u; // heads of q for one of k and v
const BLOCKS: u32 = 32u; // the most blocks of keys
//# end
const NONE: f32 = -3.0e38;

//# slot bindings
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> step: vec4<u32>;
//# end

var<workgroup> weights: array<f32, R * B>;
var<workgroup> top: array<f32, R>;
var<workgroup> total: array<f32, R>;
var<workgroup> factor: array<f32, R>;

//# slot functions
fn load_q(m: u32, head: u32, d4: u32) -> vec4<f32> {
    return q[m * 12u * D4 + head * D4 + d4];
}

fn load_k(m: u32, head: u32, d4: u32) -> vec4<f32> {
    return k[m * 12u * D4 + head * D4 + d4];
}

fn load_v(m: u32, head: u32, d4: u32) -> vec4<f32> {
    return v[m * 12u * DV4 + head * DV4 + d4];
}

fn first_key(m: u32) -> u32 {
    return rows[m].y;
}

fn end_key(m: u32) -> u32 {
    return rows[m].y + rows[m].z;
}

fn logit(acc: vec4<f32>) -> vec4<f32> {
    return acc;
}

fn store(m: u32, head: u32, d4: u32, value: vec4<f32>) {
    out[m * 12u * DV4 + head * DV4 + d4] = value;
}
//# end

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m0 = group.x * R;
    let head = group.y;
    let last = min(m0 + R, step.x) - 1u;
    let begin = first_key(m0);
    let end = end_key(last);
    let column = index % B;
    let row0 = index / B;
    if (index < R) {
        top[index] = NONE;
        total[index] = 0.0;
    }
    workgroupBarrier();
    var acc: array<vec4<f32>, A>;
    //# trips BLOCKS
    for (var key0 = begin; key0 < end; key0 += B) {
        let key = key0 + column;
        let keys = min(B, end - key0);
        var score: array<f32, R * B / T>;
        //# trips D4
        for (var d4 = 0u; d4 < D4; d4++) {
            let kd = load_k(min(key, end - 1u), head / G, d4);
            //# unroll
            for (var i = 0u; i < R * B / T; i++) {
                score[i] += dot(load_q(m0 + row0 + i * (T / B), head, d4), kd);
            }
        }
        //# unroll
        for (var i = 0u; i < R * B / T; i++) {
            let row = row0 + i * (T / B);
            let m = min(m0 + row, last);
            let seen = key >= first_key(m) && key < end_key(m);
            weights[row * B + column] = select(NONE, logit(vec4<f32>(score[i])).x, seen);
        }
        workgroupBarrier();
        // Before a row's first own key, top is NONE and weights are 1: what they add is multiplied by 0 later.
        if (index < R) {
            var next = top[index];
            //# trips B
            for (var j = 0u; j < keys; j++) {
                next = max(next, weights[index * B + j]);
            }
            var sum = 0.0;
            //# trips B
            for (var j = 0u; j < keys; j++) {
                let p = exp(weights[index * B + j] - next);
                weights[index * B + j] = p;
                sum += p;
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
        //# trips B
        for (var j = 0u; j < keys; j++) {
            //# unroll
            for (var a = 0u; a < A; a++) {
                let item = a * T + index;
                let value = load_v(min(key0 + j, end - 1u), head / G, item % DV4);
                acc[a] += weights[min(item / DV4, R - 1u) * B + j] * value;
            }
        }
        workgroupBarrier();
    }
    //# unroll
    for (var a = 0u; a < A; a++) {
        let item = a * T + index;
        let row = item / DV4;
        if (row < R && m0 + row < step.x) {
            store(m0 + row, head, item % DV4, acc[a] / total[row]);
        }
    }
}
