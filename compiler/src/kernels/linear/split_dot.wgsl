// Linear, one or a few rows: out[m, n] = epilogue(Σ_k x[m, k] · w[n, k])
//
// x [M, K], w [N, K], out [M, N]. KS invocations share four columns: each contracts every KS-th load of w, the first of them
// adds up. Neighbours have neighbouring columns of the same load, so that together they read adjacent bytes. R rows use
// each weight that was read.
// P is 2 where a second weight of the same shape is contracted too.

//# slot constants
const KS: u32 = 8u; // invocations that share columns
const T: u32 = 64u; // invocations
const R: u32 = 1u; // rows
const P: u32 = 1u; // weights
const NORMS: u32 = 0u; // norms of x
const H: u32 = 2u; // vec4s of x that a load of w meets
const W: u32 = 8u; // quad words of a load of w
const K: u32 = 48u; // loads of w along k
const K8: u32 = 48u; // octets of k
const N4: u32 = 96u; // vec4s of columns
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

var<workgroup> parts: array<vec4<f32>, (P * R + NORMS) * T>;

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
    let share = index / (T / KS);
    let column4 = group.x * (T / KS) + index % (T / KS);
    let m0 = group.y * R;
    let quad = min(column4, N4 - 1u);
    var acc: array<vec4<f32>, P * R>;
    //# slot statistics
    //# end
    //# trips (K + KS - 1) / KS
    for (var k = share; k < K; k += KS) {
        var ws: array<vec4<u32>, P * W>;
        //# unroll
        for (var c = 0u; c < P; c++) {
            //# slot load
            //# unroll
            for (var i = 0u; i < W; i++) {
                ws[c * W + i] = load_w(c, quad, k * W + i);
            }
            //# end
        }
        //# slot scales
        //# end
        //# unroll
        for (var r = 0u; r < R; r++) {
            //# unroll
            for (var h = 0u; h < H; h++) {
                //# slot x
                let xr = load_x(min(m0 + r, last_row()), k * H + h);
                //# end
                //# unroll
                for (var c = 0u; c < P; c++) {
                    // wt[4c + i]: the four columns of weight c at k + i.
                    var wt: array<vec4<f32>, P * 4u>;
                    //# slot weights
                    wt[c * 4u] = unpack(ws[c * W + h * 4u], 0u);
                    wt[c * 4u + 1u] = unpack(ws[c * W + h * 4u + 1u], 0u);
                    wt[c * 4u + 2u] = unpack(ws[c * W + h * 4u + 2u], 0u);
                    wt[c * 4u + 3u] = unpack(ws[c * W + h * 4u + 3u], 0u);
                    //# end
                    acc[c * R + r] = fma(vec4<f32>(xr.x), wt[c * 4u], acc[c * R + r]);
                    acc[c * R + r] = fma(vec4<f32>(xr.y), wt[c * 4u + 1u], acc[c * R + r]);
                    acc[c * R + r] = fma(vec4<f32>(xr.z), wt[c * 4u + 2u], acc[c * R + r]);
                    acc[c * R + r] = fma(vec4<f32>(xr.w), wt[c * 4u + 3u], acc[c * R + r]);
                }
            }
        }
    }
    //# unroll
    for (var i = 0u; i < P * R; i++) {
        parts[i * T + index] = acc[i];
    }
    //# slot share
    //# end
    workgroupBarrier();
    if (share != 0u || column4 >= N4) {
        return;
    }
    //# trips KS - 1
    for (var other = share + 1u; other < KS; other++) {
        //# unroll
        for (var i = 0u; i < P * R; i++) {
            acc[i] += parts[i * T + index + other * (T / KS)];
        }
        //# slot shares
        //# end
    }
    //# slot row_scales
    //# end
    //# slot scale
    //# end
    //# slot columns
    //# end
    //# unroll
    for (var r = 0u; r < R; r++) {
        let m = m0 + r;
        if (kept(m)) {
            //# slot result
            store(m, column4, epilogue(m, column4, acc[r]));
            //# end
        }
    }
}
