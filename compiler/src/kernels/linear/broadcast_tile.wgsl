// Linear, tiles in registers: out[m, n] = epilogue(Σ_k x[m, k] · w[n, k])
//
// x [M, K], w [N, K], out [M, N]. A subgroup of S lanes makes R rows by 4·C4·S columns: a lane keeps all R rows of its
// own columns and reads their weights, quad words; the lanes read x together, a vec4 each, and hand it around.
// P is 2 where a second weight of the same shape is contracted too.

//# slot constants
const S: u32 = 8u; // lanes of a subgroup
const R: u32 = 8u; // rows of a tile
const C4: u32 = 2u; // vec4s of columns of a lane
const P: u32 = 1u; // weights
const H: u32 = 2u; // vec4s of x that a load of w meets
const W: u32 = 8u; // quad words of a load of w
const G: u32 = 1u; // groups of a load whose sums are scaled
const U: u32 = 1u; // loads of w along k in one iteration
const X: u32 = 2u; // vec4s of x that a lane reads in one iteration
const K8: u32 = 48u; // octets of k
const N4: u32 = 96u; // vec4s of columns
//# end
//# slot loads
const K: u32 = K8 * 2u / H; // loads of w along k
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn load_x(m: u32, k4: u32) -> vec4<f32> {
    return x[m * K8 * 2u + k4];
}

fn load_w(p: u32, n4: u32, i: u32) -> vec4<u32> {
    return w[n4 * (8u * K8) + i];
}

fn unpack(words: vec4<u32>, at: u32) -> vec4<f32> {
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

@compute @workgroup_size(S)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let m0 = group.y * R;
    let n4 = group.x * (C4 * S) + lane;
    // What stands behind the last row may be subnormal, which some processors multiply a hundred times slower.
    var ms: array<u32, X>;
    //# unroll
    for (var i = 0u; i < X; i++) {
        ms[i] = min(m0 + (i * S + lane) / (H * U) % R, last_row());
    }
    var quads: array<u32, C4>;
    //# unroll
    for (var c = 0u; c < C4; c++) {
        quads[c] = min(n4 + c * S, N4 - 1u);
    }
    var acc: array<vec4<f32>, P * C4 * R>;
    //# slot totals
    //# end
    //# slot factor
    //# end
    //# slot statistics
    //# end
    //# slot walk
    //# trips K / U
    for (var k = 0u; k < K; k += U) {
    //# end
        var xs: array<vec4<f32>, X>;
        //# unroll
        for (var i = 0u; i < X; i++) {
            let item = i * S + lane;
            //# slot x
            xs[i] = load_x(ms[i], k * H + item % (H * U));
            //# end
            //# slot xsums
            //# end
            //# slot lowered
            //# end
        }
        //# slot scales
        //# end
        //# unroll
        for (var u = 0u; u < U; u++) {
            var ws: array<vec4<u32>, P * C4 * W>;
            //# unroll
            for (var g = 0u; g < G; g++) {
                //# unroll
                for (var part = 0u; part < H / G; part++) {
                    let h = g * (H / G) + part;
                    // wt[4c + i]: the four columns c at k + i.
                    var wt: array<vec4<f32>, P * C4 * 4u>;
                    //# unroll
                    for (var c = 0u; c < P * C4; c++) {
                        // Each where it is needed: memory is read while what came before is contracted.
                        //# slot load
                        //# unroll
                        for (var i = 0u; i < 4u; i++) {
                            ws[c * W + h * 4u + i] = load_w(c / C4, quads[c % C4], (k + u) * W + h * 4u + i);
                        }
                        //# end
                        //# slot weights
                        wt[c * 4u] = unpack(ws[c * W + h * 4u], 0u);
                        wt[c * 4u + 1u] = unpack(ws[c * W + h * 4u + 1u], 0u);
                        wt[c * 4u + 2u] = unpack(ws[c * W + h * 4u + 2u], 0u);
                        wt[c * 4u + 3u] = unpack(ws[c * W + h * 4u + 3u], 0u);
                        //# end
                    }
                    //# unroll
                    for (var r = 0u; r < R; r++) {
                        let item = r * H * U + u * H + h;
                        let xr = subgroupShuffle(xs[item / S], item % S);
                        //# slot met
                        //# end
                        //# unroll
                        for (var c = 0u; c < P * C4; c++) {
                            let a = c * R + r;
                            acc[a] = fma(vec4<f32>(xr.x), wt[c * 4u], acc[a]);
                            acc[a] = fma(vec4<f32>(xr.y), wt[c * 4u + 1u], acc[a]);
                            acc[a] = fma(vec4<f32>(xr.z), wt[c * 4u + 2u], acc[a]);
                            acc[a] = fma(vec4<f32>(xr.w), wt[c * 4u + 3u], acc[a]);
                        }
                    }
                }
                //# slot group
                //# end
            }
        }
    }
    //# slot walked
    //# end
    //# slot sums
    //# end
    //# slot row_scales
    //# end
    //# slot scale
    //# end
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
                    //# slot result
                    store(m, column4, epilogue(m, column4, acc[c * R + r]));
                    //# end
                }
            }
        }
    }
    //# slot moments
    //# end
}
