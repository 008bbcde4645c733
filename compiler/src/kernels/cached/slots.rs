//! Slots of the kernels of attention over caches.

use crate::kernels::attention::Band;

/// The slot `scales` in `cached_broadcast.wgsl`, where heads of keys and values have scales.
pub(super) const BROADCAST_SCALES: &str = "var value_scales: array<vec4<f32>, B>;
//# unroll
for (var b = 0u; b < B; b++) {
    let scales = vec4<f32>(
        scale_k(place[b].x, head0 / G), scale_k(place[b].y, head0 / G),
        scale_k(place[b].z, head0 / G), scale_k(place[b].w, head0 / G));
    value_scales[b] = vec4<f32>(
        scale_v(place[b].x, head0 / G), scale_v(place[b].y, head0 / G),
        scale_v(place[b].z, head0 / G), scale_v(place[b].w, head0 / G));
    //# unroll
    for (var r = 0u; r < R; r++) {
        score[r * B + b] *= scales;
    }
}
";

/// The slot `weigh` there: a value's scale is one of its weight.
pub(super) const BROADCAST_WEIGH: &str = "score[r * B + b] *= value_scales[b];\n";

/// The same in `cached_workgroup.wgsl`.
pub(super) const WORKGROUP_SCALES: [(&str, &str); 4] = [
    ("scales", "var<workgroup> value_scales: array<f32, B>;\n"),
    ("scale_v", "value_scales[index] = scale_v(place, head0 / G);\n"),
    (
        "scale_k",
        "let scale = scale_k(place, head0 / G);
//# unroll
for (var i = 0u; i < R * B / T; i++) {
    score[i] *= scale;
}
",
    ),
    ("weigh", "weights[index * B + j0 + j] = p * value_scales[j0 + j];\n"),
];

/// `first_key(m)` and `end_key(m)`, positions in the row's own sequence.
pub(super) fn key_range(band: Band) -> String {
    let first = match band.before {
        Some(before) => format!("rows[m].x - min(rows[m].x, {before}u)"),
        None => "0u".to_owned(),
    };
    let all = "sequences[rows[m].w].z + sequences[rows[m].w].y";
    let end = match band.after.filter(|&after| after < 1 << 30) {
        Some(0) => "rows[m].x + 1u".to_owned(),
        Some(after) => format!("min({all}, rows[m].x + {}u)", after + 1),
        None => all.to_owned(),
    };
    format!(
        "fn first_key(m: u32) -> u32 {{\n    return {first};\n}}\n\nfn end_key(m: u32) -> u32 {{\n    return {end};\n}}\n"
    )
}
