// Quantize: out[m] = round(x[m] / s) as signed bytes, and behind them s = max |x[m]| / 127
//
// x [M, WIDTH], out [M, WORDS] words: four codes each, then at SCALE the scale; all others are zero. T invocations, a power
// of two, make a row. A row of zeros has the scale 1; a scale is never subnormal, and 128 times it is finite.

//# slot constants
const T: u32 = 64u; // invocations, a power of two
const N4: u32 = 96u; // vec4s of a row
const WIDTH: u32 = 384u; // columns
const SCALE: u32 = 96u; // the word that is the scale
const WORDS: u32 = 104u; // words of a row of codes
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

var<workgroup> parts: array<f32, T>;

//# slot functions
fn load_x(m: u32, n4: u32) -> vec4<f32> {
    return x[m * N4 + n4];
}

fn kept(m: u32) -> bool {
    return m < step.x;
}
//# end

fn inside(m: u32, n4: u32) -> vec4<f32> {
    let is_inside = 4u * n4 + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(WIDTH);
    return select(vec4<f32>(0.0), load_x(m, n4), is_inside);
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.x;
    var most4 = vec4<f32>(0.0);
    //# trips (N4 + T - 1) / T
    for (var n4 = index; n4 < N4; n4 += T) {
        most4 = max(most4, abs(inside(m, n4)));
    }
    parts[index] = max(max(most4.x, most4.y), max(most4.z, most4.w));
    workgroupBarrier();
    //# trips 8
    for (var o = 1u; o < T; o += o) {
        if (index % (2u * o) == 0u) {
            parts[index] = max(parts[index], parts[index + o]);
        }
        workgroupBarrier();
    }
    let most = parts[0];
    var scale = max(most / 127.0, 1.1754944e-38);
    if (scale > 2.6584559e36) {
        scale = most / 128.0;
    }
    if (most == 0.0) {
        scale = 1.0;
    }
    if (!kept(m)) {
        return;
    }
    //# trips (WORDS + T - 1) / T
    for (var word = index; word < WORDS; word += T) {
        var code = 0u;
        if (word < N4) {
            let nearest = round(clamp(inside(m, word) / scale, vec4<f32>(-127.0), vec4<f32>(127.0)));
            code = pack4xI8(vec4<i32>(nearest));
        } else if (word == SCALE) {
            code = bitcast<u32>(scale);
        }
        out[m * WORDS + word] = code;
    }
}
