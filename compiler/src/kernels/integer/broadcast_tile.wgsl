// Linear over integers, tiles in registers: out[m, n] = epilogue(s[m] · Σ_g t[n, g] · Σ_{k in g} x[m, k] · w[n, k])
//
// x [M, K] and w [N, K] are signed bytes, sixteen to a load, s and t their scales, out [M, N]. A subgroup of S lanes makes R
// rows by 4·C4·S columns: a lane keeps all R rows of its own columns and reads their weights; the lanes read x together, a
// load each, and hand it around. Sums over a group are integers. P is 2 where a second weight of the same shape is
// contracted too.

//# slot constants
const S: u32 = 8u; // lanes of a subgroup
const R: u32 = 8u; // rows of a tile
const C4: u32 = 1u; // vec4s of columns of a lane
const X: u32 = 2u; // loads of x of a lane in one iteration
const P: u32 = 1u; // weights
const U: u32 = 2u; // loads along k at a time
const G: u32 = 24u; // loads of a group
const GROUPS: u32 = 1u; // groups of a row
const K: u32 = 24u; // loads along k, of sixteen codes
const N4: u32 = 96u; // vec4s of columns
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn load_x(m: u32, k: u32) -> vec4<u32> {
    return x[m * (K + 2u) + k];
}

fn scale_x(m: u32) -> f32 {
    return bitcast<f32>(x[m * (K + 2u) + K].x);
}

fn load_w(p: u32, n4: u32, i: u32) -> vec4<u32> {
    return w[n4 * (4u * K + 4u) + i];
}

fn load_parameters(p: u32, n4: u32, i: u32) -> vec4<u32> {
    return w[n4 * (4u * K + 4u) + 4u * K + i];
}

fn scale_of(words: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(words);
}

fn epilogue(m: u32, n4: u32, acc: vec4<f32>) -> vec4<f32> {
    return acc;
}

fn last_row() -> u32 {
    return step.x - 1u;
}

fn kept(m: u32) -> bool {
    return m < step.x;
}

fn store(m: u32, n4: u32, value: vec4<f32>) {
    out[m * N4 + n4] = value;
}
//# end

// Four products with each of four columns.
fn dots(x: u32, w: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(dot4I8Packed(x, w.x), dot4I8Packed(x, w.y), dot4I8Packed(x, w.z), dot4I8Packed(x, w.w));
}

@compute @workgroup_size(S)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let m0 = group.y * R;
    let n4 = group.x * (C4 * S) + lane;
    var total: array<vec4<f32>, P * C4 * R>;
    //# trips GROUPS
    for (var g = 0u; g < GROUPS; g++) {
        var acc: array<vec4<i32>, P * C4 * R>;
        //# unroll
        for (var i = 0u; i < P * C4 * R; i++) {
            acc[i] = vec4<i32>(0);
        }
        //# trips G / U
        for (var k = g * G; k < min(g * G + G, K); k += U) {
            var xs: array<vec4<u32>, X>;
            //# unroll
            for (var i = 0u; i < X; i++) {
                let item = i * S + lane;
                xs[i] = load_x(min(m0 + item / U % R, last_row()), k + item % U);
            }
            //# unroll
            for (var u = 0u; u < U; u++) {
                var ws: array<vec4<u32>, P * C4 * 4u>;
                //# unroll
                for (var c = 0u; c < P * C4; c++) {
                    let quad = min(n4 + (c % C4) * S, N4 - 1u);
                    //# unroll
                    for (var j = 0u; j < 4u; j++) {
                        ws[c * 4u + j] = load_w(c / C4, quad, (k + u) * 4u + j);
                    }
                }
                //# unroll
                for (var r = 0u; r < R; r++) {
                    let item = r * U + u;
                    let xr = subgroupShuffle(xs[item / S], item % S);
                    //# unroll
                    for (var c = 0u; c < P * C4; c++) {
                        let low = dots(xr.x, ws[c * 4u]) + dots(xr.y, ws[c * 4u + 1u]);
                        let high = dots(xr.z, ws[c * 4u + 2u]) + dots(xr.w, ws[c * 4u + 3u]);
                        acc[c * R + r] += low + high;
                    }
                }
            }
        }
        //# unroll
        for (var c = 0u; c < P * C4; c++) {
            let scales = scale_of(load_parameters(c / C4, min(n4 + (c % C4) * S, N4 - 1u), g));
            //# unroll
            for (var r = 0u; r < R; r++) {
                total[c * R + r] = fma(vec4<f32>(acc[c * R + r]), scales, total[c * R + r]);
            }
        }
    }
    //# unroll
    for (var c = 0u; c < C4; c++) {
        let column4 = n4 + c * S;
        if (column4 < N4) {
            //# slot columns
            //# end
            //# unroll
            for (var r = 0u; r < R; r++) {
                let m = m0 + r;
                if (kept(m)) {
                    let s = scale_x(m);
                    //# slot result
                    store(m, column4, epilogue(m, column4, total[c * R + r] * s));
                    //# end
                }
            }
        }
    }
}
