// Attention over a paged cache, tiles in registers: out[i] = Σ_j p_ij v_j with p_i = softmax_j(logit(q_i · k_j))
//
// q [M, H·D], k and v: rows of caches, H/G·D and H/G·DV wide; j runs over the positions of i's sequence that its band
// sees, and pages say which row of the caches a position is. A subgroup of S lanes takes the rows of one sequence in a
// tile of ROWS, HEADS heads of each that read the same keys, through these keys, 4·B·S at a time, with the running
// maximum and sum of an online softmax. A lane keeps the scores of its own keys, then its own columns of out. A load of
// the caches gives HK vec4s of k, HV of v, as they are stored; part_k and part_v are the numbers of one of them.

//# slot constants
const S: u32 = 8u; // lanes of a subgroup
const ROWS: u32 = 4u; // rows of a tile
const HEADS: u32 = 2u; // heads of a tile
const B: u32 = 1u; // vec4s of keys of a lane
const U: u32 = 4u; // vec4s of columns of q and k in one iteration
const X: u32 = 4u; // vec4s of q that a lane reads in one iteration
const D4: u32 = 8u; // vec4s of columns of a head of q and k, whole loads
const DV4: u32 = 8u; // vec4s of columns of a head of v
const HK: u32 = 1u; // vec4s of a load of k
const HV: u32 = 1u; // vec4s of a load of v
const C4: u32 = 1u; // vec4s of columns of a lane
const L: u32 = 8u; // keys in one iteration
const G: u32 = 2u; // heads of q for one of k and v
const BLOCKS: u32 = 32u; // the most blocks of keys
const CHUNK: u32 = 512u; // keys of a chunk of the context
//# end
const R: u32 = ROWS * HEADS;
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

// The c-th vec4 of columns of out that a lane has: those of a load are neighbours.
fn column(lane: u32, c: u32) -> u32 {
    return (c / HV * S + lane) * HV + c % HV;
}

@compute @workgroup_size(S)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
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
    var first: array<u32, R>;
    var count: array<u32, R>;
    var top: array<f32, R>;
    var total: array<f32, R>;
    //# unroll
    for (var r = 0u; r < R; r++) {
        let m = min(m0 + r / HEADS, last);
        first[r] = first_key(m);
        count[r] = end_key(m) - first[r];
        top[r] = NONE;
    }
    var acc: array<vec4<f32>, R * C4>;
    //# trips BLOCKS
    for (var key0 = begin; key0 < end; key0 += 4u * B * S) {
        var place: array<vec4<u32>, B>;
        var score: array<vec4<f32>, R * B>;
        //# unroll
        for (var b = 0u; b < B; b++) {
            let key = key0 + b * 4u * S + lane;
            place[b] = vec4<u32>(
                cache_row(sequence, min(key, end - 1u)), cache_row(sequence, min(key + S, end - 1u)),
                cache_row(sequence, min(key + 2u * S, end - 1u)), cache_row(sequence, min(key + 3u * S, end - 1u)));
        }
        //# trips D4 / U
        for (var d0 = 0u; d0 < D4; d0 += U) {
            var qs: array<vec4<f32>, X>;
            //# unroll
            for (var i = 0u; i < X; i++) {
                let item = (i * S + lane) % (R * U);
                let r = item / U;
                qs[i] = load_q(min(m0 + r / HEADS, last), head0 + r % HEADS, d0 + item % U);
            }
            //# unroll
            for (var u = 0u; u < U / HK; u++) {
                //# unroll
                for (var b = 0u; b < B; b++) {
                    let p0 = load_k(place[b].x, head0 / G, d0 / HK + u);
                    let p1 = load_k(place[b].y, head0 / G, d0 / HK + u);
                    let p2 = load_k(place[b].z, head0 / G, d0 / HK + u);
                    let p3 = load_k(place[b].w, head0 / G, d0 / HK + u);
                    //# unroll
                    for (var h = 0u; h < HK; h++) {
                        let k0 = part_k(p0, h);
                        let k1 = part_k(p1, h);
                        let k2 = part_k(p2, h);
                        let k3 = part_k(p3, h);
                        let kx = vec4<f32>(k0.x, k1.x, k2.x, k3.x);
                        let ky = vec4<f32>(k0.y, k1.y, k2.y, k3.y);
                        let kz = vec4<f32>(k0.z, k1.z, k2.z, k3.z);
                        let kw = vec4<f32>(k0.w, k1.w, k2.w, k3.w);
                        //# unroll
                        for (var r = 0u; r < R; r++) {
                            let item = r * U + u * HK + h;
                            let qr = subgroupShuffle(qs[item / S], item % S);
                            score[r * B + b] = fma(vec4<f32>(qr.x), kx, score[r * B + b]);
                            score[r * B + b] = fma(vec4<f32>(qr.y), ky, score[r * B + b]);
                            score[r * B + b] = fma(vec4<f32>(qr.z), kz, score[r * B + b]);
                            score[r * B + b] = fma(vec4<f32>(qr.w), kw, score[r * B + b]);
                        }
                    }
                }
            }
        }
        //# slot scales
        //# end
        //# unroll
        for (var r = 0u; r < R; r++) {
            var best = NONE;
            //# unroll
            for (var b = 0u; b < B; b++) {
                let key = vec4<u32>(key0 + b * 4u * S + lane) + vec4<u32>(0u, S, 2u * S, 3u * S);
                let seen = key - first[r] < vec4<u32>(count[r]) & key < vec4<u32>(end);
                let s = select(vec4<f32>(NONE), logit(score[r * B + b]), seen);
                score[r * B + b] = s;
                best = max(best, max(max(s.x, s.y), max(s.z, s.w)));
            }
            //# unroll
            for (var o = 1u; o < S; o *= 2) {
                best = max(best, subgroupShuffleXor(best, o));
            }
            // Before a row's first own key, top is NONE and weights are 1: what they add is multiplied by 0 later.
            let next = max(top[r], best);
            let factor = exp(top[r] - next);
            top[r] = next;
            total[r] *= factor;
            //# unroll
            for (var b = 0u; b < B; b++) {
                score[r * B + b] = exp(score[r * B + b] - next);
                total[r] += dot(score[r * B + b], vec4<f32>(1.0));
                //# slot weigh
                //# end
            }
            //# unroll
            for (var c = 0u; c < C4; c++) {
                acc[r * C4 + c] *= factor;
            }
        }
        //# slot keys
        //# trips 4
        for (var j = 0u; j < 4u && key0 + j * S < end; j++) {
        //# end
            //# slot lanes
            //# unroll
            //# end
            for (var l0 = 0u; l0 < S; l0 += L) {
                //# unroll
                for (var i = 0u; i < L; i++) {
                    let l = l0 + i;
                    //# unroll
                    for (var b = 0u; b < B; b++) {
                        let key = subgroupShuffle(place[b].x, l);
                        //# unroll
                        for (var c = 0u; c < C4; c += HV) {
                            let value = load_v(key, head0 / G, min(lane + c / HV * S, (DV4 - 1u) / HV));
                            //# unroll
                            for (var h = 0u; h < HV; h++) {
                                let part = part_v(value, h);
                                //# unroll
                                for (var r = 0u; r < R; r++) {
                                    let p = subgroupShuffle(score[r * B + b].x, l);
                                    acc[r * C4 + c + h] = fma(vec4<f32>(p), part, acc[r * C4 + c + h]);
                                }
                            }
                        }
                    }
                }
            }
            // The next S keys of each vec4.
            //# unroll
            for (var b = 0u; b < B; b++) {
                place[b] = place[b].yzwx;
                //# unroll
                for (var r = 0u; r < R; r++) {
                    score[r * B + b] = score[r * B + b].yzwx;
                }
            }
        }
    }
    //# slot fresh
    //# end
    //# unroll
    for (var r = 0u; r < R; r++) {
        let m = m0 + r / HEADS;
        let head = head0 + r % HEADS;
        var sum = total[r];
        //# unroll
        for (var o = 1u; o < S; o *= 2) {
            sum += subgroupShuffleXor(sum, o);
        }
        if (m <= last) {
            //# slot result
            //# unroll
            for (var c = 0u; c < C4; c++) {
                if (column(lane, c) < DV4) {
                    store(m, head, column(lane, c), acc[r * C4 + c] / sum);
                }
            }
            //# end
        }
    }
}
