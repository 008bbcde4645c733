// Cosine and sine to f32's precision: t is brought to [-π/4, π/4] by multiples of π/2 in three parts, exact for
// |t| < 100000; there both are short polynomials.
struct Turn {
    cos: vec4<f32>,
    sin: vec4<f32>,
}

fn cos_sin(t: vec4<f32>) -> Turn {
    let quarters = round(t * 0.63661975f);
    let a = fma(quarters, vec4<f32>(-1.5703125f), t);
    let b = fma(quarters, vec4<f32>(-4.8375129699707e-4f), a);
    let r = fma(quarters, vec4<f32>(-7.549789948768648e-8f), b);
    let z = r * r;
    let s3 = fma(fma(vec4<f32>(-1.9515296e-4f), z, vec4<f32>(8.3321609e-3f)), z, vec4<f32>(-1.6666655e-1f));
    let c4 = fma(fma(vec4<f32>(2.4433157e-5f), z, vec4<f32>(-1.3887316e-3f)), z, vec4<f32>(4.1666646e-2f));
    let s = fma(r * z, s3, r);
    let c = fma(z * z, c4, fma(z, vec4<f32>(-0.5f), vec4<f32>(1.0f)));
    let quadrant = vec4<i32>(quarters) & vec4<i32>(3);
    let odd = (quadrant & vec4<i32>(1)) == vec4<i32>(1);
    let cosine = select(c, s, odd);
    let sine = select(s, c, odd);
    let left = quadrant == vec4<i32>(1) | quadrant == vec4<i32>(2);
    return Turn(select(cosine, -cosine, left), select(sine, -sine, quadrant >= vec4<i32>(2)));
}
