// Rope: in each head, columns (a, b) of a pair i become (a·cos t - b·sin t, b·cos t + a·sin t), t = position · f[i]
//
// x [M, H·D], frequencies [ROTARY/2], out [M, H·D]. The first ROTARY columns of a head rotate, the rest passes through.
// An invocation computes one column.

//# slot constants
const T: u32 = 64u; // invocations
const N: u32 = 768u; // columns of a row
const D: u32 = 64u; // columns of a head
const ROTARY: u32 = 64u; // of which rotate
const STRIDE: u32 = 768u; // of x
const OFFSET: u32 = 0u; // of x
const OUT_STRIDE: u32 = 768u;
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> frequencies: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<uniform> step: vec4<u32>;
//# end

//# slot functions
// Cosine and sine of t >= 0 to f32's precision: t is brought to [-π/4, π/4] by π/2 in three parts.
fn cos_sin(t: f32) -> vec2<f32> {
    return vec2<f32>(cos(t), sin(t));
}

fn scaled(turn: vec2<f32>) -> vec2<f32> {
    return turn;
}
//# end

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    let n = group.x * T + index;
    if (m >= step.x || n >= N) {
        return;
    }
    let d = n % D;
    let at = m * STRIDE + OFFSET + n;
    if (d >= ROTARY) {
        out[m * OUT_STRIDE + n] = x[at];
        return;
    }
    //# slot pair
    let second = d >= ROTARY / 2u;
    let pair = d % (ROTARY / 2u);
    let distance = ROTARY / 2u;
    //# end
    let turn = scaled(cos_sin(f32(rows[m].x) * frequencies[pair]));
    if (second) {
        out[m * OUT_STRIDE + n] = x[at] * turn.x + x[at - distance] * turn.y;
    } else {
        out[m * OUT_STRIDE + n] = x[at] * turn.x - x[at + distance] * turn.y;
    }
}
