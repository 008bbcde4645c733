// Linear, tiles in workgroup memory: out[m, n] = epilogue(Σ_k x[m, k] · w[n, k])
//
// x [M, K], w [N, K], out [M, N]. TY·TX invocations make TY·R rows by 4·TX·C4 columns. They bring KO octets of k of x
// and w into workgroup memory, then each contracts R rows with 4·C4 columns of its own.
// P is 2 where a second weight of the same shape is contracted too.

//# slot constants
const TX: u32 = 8u; // invocations along columns
const TY: u32 = 8u; // invocations along rows
const R: u32 = 4u; // rows of an invocation
const C4: u32 = 1u; // vec4s of columns of an invocation
const P: u32 = 1u; // weights
const KO: u32 = 2u; // octets of k at a time
const V: u32 = 1u; // values of a word of w
const K8: u32 = 48u; // octets of k
const N4: u32 = 96u; // vec4s of columns
//# end
const T: u32 = TX * TY;
const X_ITEMS: u32 = TY * R * 2 * KO;
const COLUMNS4: u32 = P * C4 * TX;
const W_ITEMS: u32 = COLUMNS4 * 4 * KO; // two k of four columns each

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

var<workgroup> xs: array<vec4<f32>, X_ITEMS>;
// ws[k * COLUMNS4 + c]: the four columns c at k.
var<workgroup> ws: array<vec4<f32>, W_ITEMS * 2>;
//# slot memory
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

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let tx = index % TX;
    let ty = index / TX;
    let m0 = group.y * (TY * R);
    let n0 = group.x * (TX * C4);
    //# slot statistics
    //# end
    var acc: array<vec4<f32>, P * C4 * R>;
    //# trips K8 / KO
    for (var k8 = 0u; k8 < K8; k8 += KO) {
        //# unroll
        for (var i = 0u; i < X_ITEMS; i += T) {
            let item = i + index;
            if (item < X_ITEMS) {
                //# slot x
                xs[item] = load_x(min(m0 + item / (2u * KO), last_row()), k8 * 2u + item % (2u * KO));
                //# end
            }
        }
        //# unroll
        for (var i = 0u; i < W_ITEMS; i += T) {
            let item = i + index;
            if (item < W_ITEMS) {
                let c = item / (4u * KO);
                let p = c / (C4 * TX);
                let quad = min(n0 + c % (C4 * TX), N4 - 1u);
                let at = 2u * (item % (4u * KO));
                let k = k8 * 8u + at;
                let words0 = load_w(p, quad, k / V);
                //# slot second
                let words1 = load_w(p, quad, (k + 1u) / V);
                //# end
                //# slot unpacked
                ws[at * COLUMNS4 + c] = unpack(words0, k % V);
                ws[(at + 1u) * COLUMNS4 + c] = unpack(words1, (k + 1u) % V);
                //# end
            }
        }
        workgroupBarrier();
        //# trips 2 * KO
        for (var k4 = 0u; k4 < 2u * KO; k4++) {
            var xr: array<vec4<f32>, R>;
            //# unroll
            for (var r = 0u; r < R; r++) {
                xr[r] = xs[(ty + r * TY) * (2u * KO) + k4];
            }
            //# unroll
            for (var c = 0u; c < P * C4; c++) {
                let column = k4 * 4u * COLUMNS4 + c / C4 * (TX * C4) + tx + c % C4 * TX;
                let w0 = ws[column];
                let w1 = ws[column + COLUMNS4];
                let w2 = ws[column + 2u * COLUMNS4];
                let w3 = ws[column + 3u * COLUMNS4];
                //# unroll
                for (var r = 0u; r < R; r++) {
                    acc[c * R + r] = fma(vec4<f32>(xr[r].x), w0, acc[c * R + r]);
                    acc[c * R + r] = fma(vec4<f32>(xr[r].y), w1, acc[c * R + r]);
                    acc[c * R + r] = fma(vec4<f32>(xr[r].z), w2, acc[c * R + r]);
                    acc[c * R + r] = fma(vec4<f32>(xr[r].w), w3, acc[c * R + r]);
                }
            }
        }
        workgroupBarrier();
    }
    //# slot row_scales
    //# end
    //# unroll
    for (var c = 0u; c < C4; c++) {
        let column4 = n0 + tx + c * TX;
        if (column4 < N4) {
            //# slot columns
            //# end
            //# unroll
            for (var r = 0u; r < R; r++) {
                let m = m0 + ty + r * TY;
                if (kept(m)) {
                    //# slot result
                    store(m, column4, epilogue(m, column4, acc[c * R + r]));
                    //# end
                }
            }
        }
    }
}
