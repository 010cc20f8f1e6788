//! The ops once more, straight from docs/spec/numerics.md: one loop per sentence, no blocks, no skipped
//! zeros, no threads. Slow and obvious; the kernels must give the same bits.

use crate::isa::{Arith, Emulated};
use crate::math;

pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    Emulated::fma(a, b, c)
}

pub(crate) fn exp(x: f32) -> f32 {
    math::exp::<Emulated>(x)
}

/// Spec 2.1 for C = A B with `a(i, k)`, `b(k, j)`.
pub(crate) fn mm(
    (m, n, k): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut c = vec![];
    for i in 0..m {
        for j in 0..n {
            let mut acc = bias.map_or(0.0, |bias| bias[j]);
            for k in 0..k {
                acc = fma(a(i, k), b(k, j), acc);
            }
            c.push(acc + 0.0);
        }
    }
    c
}

/// Spec 2.4: a line's integers and 2^e; NaN for e if a number is not finite.
fn integers(line: &[f32]) -> (Vec<i64>, f64) {
    let m = line.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap();
    if m >= 0x7f80_0000 {
        return (vec![0; line.len()], f64::NAN);
    }
    let e = match m {
        0 => 0,
        _ => (m >> 23).max(14) as i32 - 141 + i32::from((m & 0x7f_ffff) > 0x7e_8000),
    };
    let q = line.iter().map(|x| (x * 2f32.powi(-e)).round_ties_even() as i64);
    (q.collect(), 2f64.powi(e))
}

/// Spec 2.4 for C = A B.
pub(crate) fn exact_mm(
    (m, n, k): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let columns: Vec<_> = (0..n).map(|j| integers(&(0..k).map(|k| b(k, j)).collect::<Vec<_>>())).collect();
    let mut c = vec![];
    for i in 0..m {
        let (row, scale) = integers(&(0..k).map(|k| a(i, k)).collect::<Vec<_>>());
        for (j, (column, other)) in columns.iter().enumerate() {
            let sum: i64 = row.iter().zip(column).map(|(a, b)| a * b).sum();
            let v = (sum as f64 * (scale * other)) as f32 + 0.0;
            c.push(bias.map_or(v, |bias| bias[j] + v));
        }
    }
    c
}

fn halve(mut a: [f32; 32]) -> f32 {
    for s in [16, 8, 4, 2, 1] {
        for l in 0..s {
            a[l] += a[l + s];
        }
    }
    a[0] + 0.0
}

pub(crate) fn rows(x: &[f32]) -> f32 {
    let mut a = [0.0; 32];
    for (i, x) in x.iter().enumerate() {
        a[i % 32] += x;
    }
    halve(a)
}

pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut a = [0.0; 32];
    for i in 0..x.len() {
        a[i % 32] = fma(x[i], y[i], a[i % 32]);
    }
    halve(a)
}

/// Column sums of a matrix given row by row; with `y`, of the products.
pub(crate) fn cols(x: &[f32], y: Option<&[f32]>, width: usize) -> Vec<f32> {
    let n = x.len() / width;
    (0..width)
        .map(|j| {
            let mut out = 0.0;
            for first in (0..n).step_by(64) {
                let mut a = 0.0;
                for r in first..n.min(first + 64) {
                    let x = x[r * width + j];
                    a = match y {
                        Some(y) => fma(x, y[r * width + j], a),
                        None => a + x,
                    };
                }
                out += a;
            }
            out
        })
        .collect()
}

/// Spec 4.3: y, then dx, dw, db for a gradient `dy`.
pub(crate) fn layer_norm(x: &[f32], w: &[f32], b: &[f32], dy: &[f32]) -> [Vec<f32>; 4] {
    let d = w.len();
    let i = 1.0 / d as f32;
    let eps = f32::from_bits(0x3727c5ac);
    let (mut y, mut dx, mut normed) = (vec![], vec![], vec![]);
    for (x, dy) in x.chunks(d).zip(dy.chunks(d)) {
        let mean = rows(x) * i;
        let c: Vec<f32> = x.iter().map(|x| x - mean).collect();
        let var = dot(&c, &c) * i;
        let rs = 1.0 / (var + eps).sqrt();
        let n: Vec<f32> = c.iter().map(|c| c * rs).collect();
        y.extend((0..d).map(|j| fma(n[j], w[j], b[j])));
        let dn: Vec<f32> = (0..d).map(|j| dy[j] * w[j]).collect();
        let (ga, gb) = (rows(&dn) * i, dot(&dn, &n) * i);
        dx.extend((0..d).map(|j| fma(-n[j], gb, dn[j] - ga) * rs));
        normed.extend(n);
    }
    [y, dx, cols(dy, Some(&normed), d), cols(dy, None, d)]
}

/// Spec 4.11: y, dx and dw.
pub(crate) fn rms_norm(x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
    let d = w.len();
    let i = 1.0 / d as f32;
    let eps = f32::from_bits(0x3727c5ac);
    let (mut y, mut dx, mut normed) = (vec![], vec![], vec![]);
    for (x, dy) in x.chunks(d).zip(dy.chunks(d)) {
        let rs = 1.0 / (dot(x, x) * i + eps).sqrt();
        let n: Vec<f32> = x.iter().map(|x| x * rs).collect();
        y.extend((0..d).map(|j| n[j] * w[j]));
        let dn: Vec<f32> = (0..d).map(|j| dy[j] * w[j]).collect();
        let b = dot(&dn, &n) * i;
        dx.extend((0..d).map(|j| fma(-n[j], b, dn[j]) * rs));
        normed.extend(n);
    }
    [y, dx, cols(dy, Some(&normed), d)]
}

/// Spec 4.12: y and dx, for rows of `turned` heads that turn and others that do not.
pub(crate) fn rotary(shape: Heads, base: u64, x: &[f32], dy: &[f32]) -> [Vec<f32>; 2] {
    let Heads { length, heads, kv_heads, head, .. } = shape;
    let (width, half) = ((heads + 2 * kv_heads) * head, head / 2);
    let (mut y, mut dx) = (x.to_vec(), dy.to_vec());
    for r in 0..x.len() / width {
        for h in 0..heads + kv_heads {
            for j in 0..half {
                let w = math::exp64(-(((2 * j) as f64 / head as f64) * math::ln64(base as f64)));
                let (sin, cos) = math::sincos64((r % length) as f64 * w);
                let (s, c) = (sin as f32, cos as f32);
                let (at, other) = (r * width + h * head + j, r * width + h * head + j + half);
                y[at] = fma(x[at], c, -(x[other] * s));
                y[other] = fma(x[other], c, x[at] * s);
                dx[at] = fma(dy[at], c, dy[other] * s);
                dx[other] = fma(dy[other], c, -(dy[at] * s));
            }
        }
    }
    [y, dx]
}

/// Spec 4.13: h and dx, for rows of `f` gates and `f` values.
pub(crate) fn swiglu(f: usize, x: &[f32], dh: &[f32]) -> [Vec<f32>; 2] {
    let (mut h, mut dx) = (vec![], vec![0.0; x.len()]);
    for (r, x) in x.chunks(2 * f).enumerate() {
        for j in 0..f {
            let (g, u, dh) = (x[j], x[f + j], dh[r * f + j]);
            let den = 1.0 + exp(-g);
            let s = 1.0 / den;
            h.push((g / den) * u);
            dx[r * 2 * f + f + j] = dh * (g / den);
            dx[r * 2 * f + j] = (dh * u) * fma(g * s, 1.0 - s, s);
        }
    }
    [h, dx]
}

/// Spec 4.6: y and dx.
pub(crate) fn gelu(x: &[f32], dy: &[f32]) -> [Vec<f32>; 2] {
    let (k0, k1) = (f32::from_bits(0x3f4c422a), f32::from_bits(0x3d372713));
    let u = |x: f32| (k0 * x) * fma(k1, x * x, 1.0);
    let y = x.iter().map(|&x| x / (1.0 + exp(-2.0 * u(x)))).collect();
    let dx = x.iter().zip(dy).map(|(&x, &dy)| {
        let s = 1.0 / (1.0 + exp(-2.0 * u(x)));
        let du = k0 * fma(3.0 * k1, x * x, 1.0);
        dy * fma((x * s) * (1.0 - s), 2.0 * du, s)
    });
    [y, dx.collect()]
}

/// Spec 4.8: token losses and dlogits.
pub(crate) fn cross_entropy(x: &[f32], targets: &[u32]) -> [Vec<f32>; 2] {
    let width = x.len() / targets.len();
    let inv = 1.0 / targets.len() as f32;
    let (mut losses, mut dx) = (vec![], vec![]);
    for (x, &target) in x.chunks(width).zip(targets) {
        let m = x.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
        let d: Vec<f32> = x.iter().map(|x| x - m).collect();
        let e: Vec<f32> = d.iter().map(|d| exp(*d)).collect();
        let s = rows(&e);
        losses.push(math::log::<Emulated>(s) - d[target as usize]);
        let mut g: Vec<f32> = e.iter().map(|e| e * (inv / s)).collect();
        g[target as usize] -= inv;
        dx.extend(g);
    }
    [losses, dx]
}

/// Sizes of an attention call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub sequences: usize,
    pub length: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head: usize,
}

/// Spec 4.5: o and dqkv, with every masked term computed as a zero.
pub(crate) fn attention(shape: Heads, qkv: &[f32], d_o: &[f32]) -> [Vec<f32>; 2] {
    let Heads { sequences, length: t, heads, kv_heads, head: hd } = shape;
    let (width, out) = ((heads + 2 * kv_heads) * hd, heads * hd);
    let group = heads / kv_heads;
    let scale = 1.0 / (hd as f32).sqrt();
    let mut o = vec![0.0; sequences * t * out];
    let mut d_qkv = vec![0.0; sequences * t * width];
    for s in 0..sequences {
        for kv in 0..kv_heads {
            let at = |r: usize, head: usize, c: usize| (s * t + r) * width + head * hd + c;
            let (key, value) = (heads + kv, heads + kv_heads + kv);
            // The whole group's probabilities and score gradients, rows in chain order.
            let (mut p_all, mut ds_all) = (vec![], vec![]);
            for h in kv * group..(kv + 1) * group {
                let d_out = |r: usize, c: usize| d_o[(s * t + r) * out + h * hd + c];
                let mut z = mm((t, t, hd), |i, c| qkv[at(i, h, c)], |c, j| qkv[at(j, key, c)], None);
                for (i, z) in z.chunks_mut(t).enumerate() {
                    z.iter_mut().for_each(|z| *z *= scale);
                    let m = z[..=i].iter().fold(f32::NEG_INFINITY, |m, &z| if z > m { z } else { m });
                    let e: Vec<f32> = z[..=i].iter().map(|z| exp(z - m)).collect();
                    let inv = 1.0 / rows(&e);
                    z.fill(0.0);
                    z.iter_mut().zip(e).for_each(|(z, e)| *z = e * inv);
                }
                let p = z;
                let oh = mm((t, hd, t), |i, j| p[i * t + j], |j, c| qkv[at(j, value, c)], None);
                let dp = mm((t, t, hd), d_out, |c, j| qkv[at(j, value, c)], None);
                let mut ds = vec![0.0; t * t];
                for i in 0..t {
                    let row: Vec<f32> = (0..hd).map(|c| d_out(i, c)).collect();
                    let d = dot(&row, &oh[i * hd..(i + 1) * hd]);
                    for j in 0..=i {
                        ds[i * t + j] = (p[i * t + j] * (dp[i * t + j] - d)) * scale;
                    }
                    for c in 0..hd {
                        o[(s * t + i) * out + h * hd + c] = oh[i * hd + c];
                    }
                }
                let dq = mm((t, hd, t), |i, j| ds[i * t + j], |j, c| qkv[at(j, key, c)], None);
                for i in 0..t {
                    for c in 0..hd {
                        d_qkv[at(i, h, c)] = dq[i * hd + c];
                    }
                }
                p_all.extend(p);
                ds_all.extend(ds);
            }
            let query = |r: usize, c: usize| qkv[at(r % t, kv * group + r / t, c)];
            let d_out = |r: usize, c: usize| d_o[(s * t + r % t) * out + (kv * group + r / t) * hd + c];
            let dk = mm((t, hd, group * t), |j, r| ds_all[r * t + j], query, None);
            let dv = mm((t, hd, group * t), |j, r| p_all[r * t + j], d_out, None);
            for j in 0..t {
                for c in 0..hd {
                    d_qkv[at(j, key, c)] = dk[j * hd + c];
                    d_qkv[at(j, value, c)] = dv[j * hd + c];
                }
            }
        }
    }
    [o, d_qkv]
}
