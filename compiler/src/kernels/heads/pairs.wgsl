// Heads ready for attention, as `ready.wgsl` makes them, where an invocation has both units of each pair that turns
//
// A workgroup of T invocations, a subgroup, takes one head of one row. An invocation keeps every T-th unit of four columns:
// each is read once, and unit i turns with unit i + C / 2 by one angle. Parts that do not turn keep what they are.

//# slot constants
const T: u32 = 8u; // invocations
const C: u32 = 2u; // the most units of an invocation
//# end
const PAGE: u32 = 32u; // rows of a page

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> vector: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> step: vec4<u32>;
//# end

//# slot functions
struct Pair {
    first: vec4<f32>,
    second: vec4<f32>,
}

fn position_of(m: u32) -> f32 {
    return f32(rows[m].x);
}

fn cache_row(m: u32) -> u32 {
    let row = rows[m];
    return pages[sequences[row.w].w + row.x / PAGE] * PAGE + row.x % PAGE;
}

fn raw(m: u32, head: u32, d: u32) -> vec4<f32> {
    return x[m * 64u + head * 16u + d];
}

fn squared(v: vec4<f32>) -> f32 {
    return dot(v, v);
}

fn normal(item: u32, squares: f32) -> f32 {
    return 1.0 / sqrt(squares / 64.0 + 1e-6);
}

fn normed(head: u32, d: u32, value: vec4<f32>, scale: f32) -> vec4<f32> {
    return value * scale;
}

fn pair(position: f32, head: u32, d: u32, first: vec4<f32>, second: vec4<f32>) -> Pair {
    let angle = position * vector[d];
    return Pair(first * cos(angle) - second * sin(angle), second * cos(angle) + first * sin(angle));
}

fn put_value(m: u32, to: u32, item: u32, d: u32, value: vec4<f32>, unit: f32) {
    out[to * 64u + item * 16u + d] = value;
}
//# end

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let item = group.x;
    let m = group.y;
    if (m >= step.x) {
        return;
    }
    let to = cache_row(m);
    let position = position_of(m);
    var values: array<vec4<f32>, C>;
    //# unroll
    for (var i = 0u; i < C; i++) {
        values[i] = raw(m, item, index + i * T);
    }
    //# slot norm
    var squares = 0.0;
    //# unroll
    for (var i = 0u; i < C; i++) {
        squares += squared(values[i]);
    }
    //# unroll
    for (var o = 1u; o < T; o *= 2) {
        squares += subgroupShuffleXor(squares, o);
    }
    let scale = normal(item, squares);
    //# unroll
    for (var i = 0u; i < C; i++) {
        values[i] = normed(item, index + i * T, values[i], scale);
    }
    //# end
    //# unroll
    for (var i = 0u; i < C / 2; i++) {
        let turned = pair(position, item, index + i * T, values[i], values[i + C / 2u]);
        values[i] = turned.first;
        values[i + C / 2u] = turned.second;
    }
    var unit = 1.0;
    //# slot unit
    //# end
    //# unroll
    for (var i = 0u; i < C; i++) {
        put_value(m, to, item, index + i * T, values[i], unit);
    }
    //# slot put_unit
    //# end
}
