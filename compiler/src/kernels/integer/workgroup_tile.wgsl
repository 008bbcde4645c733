// Linear over integers, tiles in workgroup memory: out[m, n] = epilogue(s[m] · Σ_g t[n, g] · Σ_{k in g} x[m, k] · w[n, k])
//
// x [M, K] and w [N, K] are signed bytes, sixteen to a load, s and t their scales, out [M, N]. TY·TX invocations make TY·R
// rows by 4·TX columns. They bring U loads along k of x and w into workgroup memory, then each contracts R rows with four
// columns of its own. Sums over a group are integers. P is 2 where a second weight of the same shape is contracted too.

//# slot constants
const TX: u32 = 8u; // invocations along columns
const TY: u32 = 8u; // invocations along rows
const R: u32 = 4u; // rows of an invocation
const P: u32 = 1u; // weights
const U: u32 = 2u; // loads along k at a time
const G: u32 = 24u; // loads of a group
const GROUPS: u32 = 1u; // groups of a row
const K: u32 = 24u; // loads along k, of sixteen codes
const N4: u32 = 96u; // vec4s of columns
//# end
const T: u32 = TX * TY;
const X_ITEMS: u32 = TY * R * U;
const W_ITEMS: u32 = P * 4 * TX * U;

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

var<workgroup> xs: array<vec4<u32>, X_ITEMS>;
// ws[i * (P * TX) + c]: quad word i of the four columns c.
var<workgroup> ws: array<vec4<u32>, W_ITEMS>;

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

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let tx = index % TX;
    let ty = index / TX;
    let m0 = group.y * (TY * R);
    let n0 = group.x * TX;
    let column4 = n0 + tx;
    var total: array<vec4<f32>, P * R>;
    //# trips GROUPS
    for (var g = 0u; g < GROUPS; g++) {
        var acc: array<vec4<i32>, P * R>;
        //# unroll
        for (var i = 0u; i < P * R; i++) {
            acc[i] = vec4<i32>(0);
        }
        //# trips G / U
        for (var k = g * G; k < min(g * G + G, K); k += U) {
            //# unroll
            for (var i = 0u; i < X_ITEMS; i += T) {
                let item = i + index;
                if (item < X_ITEMS) {
                    xs[item] = load_x(min(m0 + item / U, last_row()), k + item % U);
                }
            }
            //# unroll
            for (var i = 0u; i < W_ITEMS; i += T) {
                let item = i + index;
                if (item < W_ITEMS) {
                    let c = item / (4u * U);
                    let at = item % (4u * U);
                    ws[at * (P * TX) + c] = load_w(c / TX, min(n0 + c % TX, N4 - 1u), k * 4u + at);
                }
            }
            workgroupBarrier();
            //# trips U
            for (var u = 0u; u < U; u++) {
                var xr: array<vec4<u32>, R>;
                //# unroll
                for (var r = 0u; r < R; r++) {
                    xr[r] = xs[(ty + r * TY) * U + u];
                }
                //# unroll
                for (var c = 0u; c < P; c++) {
                    let column = u * (4u * P * TX) + c * TX + tx;
                    let w0 = ws[column];
                    let w1 = ws[column + P * TX];
                    let w2 = ws[column + 2u * P * TX];
                    let w3 = ws[column + 3u * P * TX];
                    //# unroll
                    for (var r = 0u; r < R; r++) {
                        let low = dots(xr[r].x, w0) + dots(xr[r].y, w1);
                        acc[c * R + r] += low + dots(xr[r].z, w2) + dots(xr[r].w, w3);
                    }
                }
            }
            workgroupBarrier();
        }
        let quad = min(column4, N4 - 1u);
        //# unroll
        for (var c = 0u; c < P; c++) {
            let scales = scale_of(load_parameters(c, quad, g));
            //# unroll
            for (var r = 0u; r < R; r++) {
                total[c * R + r] = fma(vec4<f32>(acc[c * R + r]), scales, total[c * R + r]);
            }
        }
    }
    if (column4 < N4) {
        //# slot columns
        //# end
        //# unroll
        for (var r = 0u; r < R; r++) {
            let m = m0 + ty + r * TY;
            if (kept(m)) {
                let s = scale_x(m);
                //# slot result
                store(m, column4, epilogue(m, column4, total[r] * s));
                //# end
            }
        }
    }
}
