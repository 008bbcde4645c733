// Heads ready for attention: each normalised, turned by its row's position, put into a matrix or a cache
//
// x: rows in which the heads of all parts stand side by side. A workgroup of T invocations takes one head of one row;
// it is a subgroup where the target has any. A unit is a column, or four where all sizes are multiples of four; what goes
// to a cache is four columns in any case. A cache's row is where the sequence's pages have the row's position.

//# slot constants
const T: u32 = 64u; // invocations
const C: u32 = 1u; // the most units of an invocation
const P: u32 = 1u; // the most units that an invocation puts
//# end
const PAGE: u32 = 32u; // rows of a page

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> vector: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<uniform> step: vec4<u32>;
//# end

//# slot sums
var<workgroup> sums: array<f32, T>;
//# end

//# slot functions
struct Turn {
    cos: vec4<f32>,
    sin: vec4<f32>,
}

fn cos_sin(t: vec4<f32>) -> Turn {
    return Turn(cos(t), sin(t));
}

fn position_of(m: u32) -> f32 {
    return f32(rows[m].x);
}

fn cache_row(m: u32) -> u32 {
    let row = rows[m];
    return pages[sequences[row.w].w + row.x / PAGE] * PAGE + row.x % PAGE;
}

fn raw(m: u32, item: u32, d: u32) -> f32 {
    return x[m * 256u + item * 64u + d];
}

fn squared(v: f32) -> f32 {
    return v * v;
}

fn width(item: u32) -> u32 {
    return 64u;
}

fn puts(item: u32) -> u32 {
    return 64u;
}

fn normal(item: u32, squares: f32) -> f32 {
    return 1.0 / sqrt(squares / 64.0 + 1e-6);
}

fn put(m: u32, to: u32, position: f32, item: u32, d: u32, scale: f32, unit: f32) {
    let second = d >= 32u;
    let partner = raw(m, item, select(d + 32u, d - 32u, second)) * scale;
    let turn = cos_sin(vec4<f32>(position * vector[d % 32u]));
    out[to * 256u + item * 64u + d] =
        raw(m, item, d) * scale * turn.cos.x + select(-partner, partner, second) * turn.sin.x;
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
    var scale = 1.0;
    //# slot norm
    var squares = 0.0;
    //# trips C
    for (var d = index; d < width(item); d += T) {
        squares += squared(raw(m, item, d));
    }
    sums[index] = squares;
    workgroupBarrier();
    if (index < 8u) {
        //# unroll
        for (var i = 8u; i < T; i += 8) {
            squares += sums[index + i];
        }
    }
    workgroupBarrier();
    if (index < 8u) {
        sums[index] = squares;
    }
    workgroupBarrier();
    squares = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    scale = normal(item, squares);
    //# end
    var unit = 1.0;
    //# slot unit
    //# end
    //# trips P
    for (var d = index; d < puts(item); d += T) {
        put(m, to, position, item, d, scale, unit);
    }
    //# slot put_unit
    //# end
}
