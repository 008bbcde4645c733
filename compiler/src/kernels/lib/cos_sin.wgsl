// Cosine and sine to f32's precision: t is brought to [-π/4, π/4] by multiples of π/2 in three parts, exact for
// |t| < 100000; there both are short polynomials.
fn cos_sin(t: f32) -> vec2<f32> {
    let quarters = round(t * 0.63661975f);
    let a = fma(quarters, -1.5703125f, t);
    let b = fma(quarters, -4.8375129699707e-4f, a);
    let r = fma(quarters, -7.549789948768648e-8f, b);
    let z = r * r;
    let s = fma(r * z, fma(fma(-1.9515296e-4f, z, 8.3321609e-3f), z, -1.6666655e-1f), r);
    let c = fma(z * z, fma(fma(2.4433157e-5f, z, -1.3887316e-3f), z, 4.1666646e-2f), fma(z, -0.5f, 1.0f));
    let quadrant = i32(quarters) & 3;
    let swapped = select(vec2<f32>(c, s), vec2<f32>(s, c), (quadrant & 1) == 1);
    let negative = vec2<bool>(quadrant == 1 || quadrant == 2, quadrant >= 2);
    return select(swapped, -swapped, negative);
}
