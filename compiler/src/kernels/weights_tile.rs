//! Slots of the kernels of contractions: how they read weights and what scales them.

use super::weights::{Scaling, Weights};

/// Where a kernel file keeps what weights are about.
#[derive(Clone, Copy)]
pub(super) struct WeightsTile<'t> {
    /// How many vec4s of columns an invocation has, of all weights.
    pub(super) columns: &'t str,
    /// The weight of vec4 c.
    pub(super) weight: &'t str,
    /// Its four rows.
    pub(super) quad: &'t str,
    /// The load along k.
    pub(super) load: &'t str,
    /// Quad words are loaded where they are needed, and not all of a load at once.
    pub(super) in_parts: bool,
    /// The first load that scales are read for, and how many there are.
    pub(super) first: &'t str,
    pub(super) loads: u32,
    /// Each weight is scaled, and not a sum.
    pub(super) scaled: bool,
    /// The vec4 of x that is met, among those of all loads.
    pub(super) within: &'t str,
}

impl WeightsTile<'_> {
    /// The slots that read weights, and scales, and multiply with them.
    pub(super) fn slots(self, stored: Weights) -> Vec<(&'static str, String)> {
        let WeightsTile { columns, weight, quad, load, in_parts, first, loads, scaled, within } = self;
        let groups = stored.groups_in(loads);
        let scale = format!("c * {groups}u + ({within}) * {groups}u / {}u", stored.fours * loads);
        let value = |i: u32| {
            let value = stored.unpacked("c * W", load, "h", i);
            if scaled && stored.scaling() == Scaling::Unpacked { stored.scaled(&value, &scale) } else { value }
        };
        let weights = (0..4).map(|i| format!("wt[c * 4u + {i}u] = {};\n", value(i))).collect();
        let load = match in_parts {
            true => stored.load_part([weight, quad, load], "c * W", "h"),
            false => stored.load([weight, "quad", load], "c * W"),
        };
        let mut slots = vec![("load", load), ("weights", weights)];
        match stored.scaling() {
            Scaling::None => {}
            Scaling::Unpacked => {
                let read = stored.load_scales(loads, [weight, "quad", first], &format!("c * {groups}u"));
                let biases = format!("var bs: array<vec4<f32>, {columns} * {groups}u>;\n");
                slots.push((
                    "scales",
                    format!(
                        "var ss: array<vec4<f32>, {columns} * {groups}u>;
{}//# unroll
for (var c = 0u; c < {columns}; c++) {{
let quad = {quad};
{read}}}
",
                        if stored.is_biased() { &biases } else { "" }
                    ),
                ));
            }
            Scaling::Afterwards => slots.push(("row_scales", afterwards(columns, weight, quad))),
        }
        slots
    }
}

/// What multiplies finished sums with the scales of their rows.
pub(super) fn afterwards(columns: &str, weight: &str, quad: &str) -> String {
    format!(
        "//# unroll
for (var c = 0u; c < {columns}; c++) {{
let scales = scale_of(load_parameters({weight}, {quad}, 0u));
//# unroll
for (var r = 0u; r < R; r++) {{
acc[c * R + r] *= scales;
}}
}}
"
    )
}

/// The slots for few rows of `linear/broadcast_tile.wgsl`: the sum over a group, or the part of it that is in a load, is
/// scaled instead of each weight, and what zero points take off is the sum of x times one number.
pub(super) fn sums(stored: Weights, loads: u32) -> Vec<(&'static str, String)> {
    let groups = stored.groups_in(loads);
    let at = format!("c * {groups}u + u * {groups}u / {loads}u + g");
    let biased = stored.is_biased();
    let taken_off = if biased { format!(" + bs[{at}] * xsum[r]") } else { String::new() };
    let again = if biased { "//# unroll\nfor (var r = 0u; r < R; r++) {\nxsum[r] = 0.0;\n}\n" } else { "" };
    let group = format!(
        "//# unroll
for (var c = 0u; c < P * C4; c++) {{
//# unroll
for (var r = 0u; r < R; r++) {{
total[c * R + r] += acc[c * R + r] * ss[{at}]{taken_off};
acc[c * R + r] = vec4<f32>(0.0);
}}
}}
{again}"
    );
    let xsum = if biased { "var xsum: array<f32, R>;\nvar sums: array<f32, X>;\n" } else { "" };
    let sums = "//# unroll\nfor (var i = 0u; i < P * C4 * R; i++) {\nacc[i] = total[i];\n}\n";
    let mut slots = vec![
        ("group", group),
        ("totals", format!("var total: array<vec4<f32>, P * C4 * R>;\n{xsum}")),
        ("sums", sums.to_owned()),
    ];
    if biased {
        slots.push(("xsums", "sums[i] = (xs[i].x + xs[i].y) + (xs[i].z + xs[i].w);".to_owned()));
        slots.push(("met", "xsum[r] += subgroupShuffle(sums[item / S], item % S);".to_owned()));
    }
    slots
}

/// Puts what reads scales around the iterations that share them: `span` of `steps` of all the loads along k. A loop of its own and
/// no `if`, which driver compilers on CPUs make a mask of, not a branch.
pub(super) fn nest(slots: &mut Vec<(&'static str, String)>, loads: u32, span: u32, steps: u32) {
    let at = slots.iter().position(|(slot, _)| *slot == "scales");
    let scales = at.map_or(String::new(), |at| slots.remove(at).1);
    let all = span * steps;
    let end = if loads.is_multiple_of(all) { format!("g0 + {all}u") } else { format!("min(g0 + {all}u, K)") };
    let walk = format!(
        "//# trips {}
for (var g0 = 0u; g0 < K; g0 += {all}u) {{
{scales}//# trips {span}
for (var k = g0; k < {end}; k += U) {{
",
        loads.div_ceil(all)
    );
    slots.push(("walk", walk));
    slots.push(("walked", "}\n".to_owned()));
}
