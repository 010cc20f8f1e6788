//! attention: causal, per head softmax(q k^T / sqrt(hd)) v (spec 4.5; Vaswani et al., 2017).
//!
//! The input holds, per row, the queries of all heads, then keys, then values, heads contiguous. Query
//! head h reads key/value head h div (heads / kv_heads). Probabilities are not kept: backward makes the
//! same bits again from each row's maximum and 1 / sum. Rows go in blocks of 64, and keys beyond a
//! block are skipped: their terms are zeros that no chain and no sum notices.

mod kernel;

use super::{Backward, Forward, Needs, Operator, Rows, cut, one_input, operand};
use crate::env::{Env, Failed, Scratch, grown};
use crate::graph::{Json, Tensor};
use crate::isa::Level;
use crate::kernel::gemm::{Matrix, NR, Packed, Size, Start, block, pack_right};
use crate::kernel::reduction::rows_dot;
use crate::pool::Chunks;

/// Causal attention over the sequences of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// H: query heads.
    pub heads: usize,
    /// KV: key/value heads, dividing H; equal to H in GPT-2.
    pub kv_heads: usize,
}

/// Query rows that are computed together.
const BLOCK: usize = 64;

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Shape {
    rows: Rows,
    /// Query heads per key/value head.
    group: usize,
    kv_heads: usize,
    /// hd: width of a head.
    head: usize,
    /// Width of a row of the input: (H + 2 KV) hd.
    qkv: usize,
    /// Width of a row of the output: H hd.
    out: usize,
}

/// One sequence and key/value head of a call: what one thread does at a time.
#[derive(Clone, Copy)]
struct Task<'a> {
    shape: Shape,
    level: Level,
    sequence: usize,
    kv: usize,
    qkv: &'a [f32],
}

impl<'a> Task<'a> {
    fn new(shape: Shape, level: Level, index: usize, qkv: &'a [f32]) -> Task<'a> {
        Task { shape, level, sequence: index / shape.kv_heads, kv: index % shape.kv_heads, qkv }
    }

    /// Head columns `column ..` of this sequence, rows from `row` on.
    fn matrix(&self, data: &'a [f32], width: usize, column: usize, row: usize) -> Matrix<'a> {
        let first = self.sequence * self.shape.rows.length + row;
        Matrix { data: &data[first * width + column..], row: width, col: 1 }
    }

    fn query(&self, h: usize, row: usize) -> Matrix<'a> {
        let column = (self.kv * self.shape.group + h) * self.shape.head;
        self.matrix(self.qkv, self.shape.qkv, column, row)
    }

    fn key(&self) -> Matrix<'a> {
        let heads = self.shape.group * self.shape.kv_heads;
        self.matrix(self.qkv, self.shape.qkv, (heads + self.kv) * self.shape.head, 0)
    }

    fn value(&self) -> Matrix<'a> {
        let heads = (self.shape.group + 1) * self.shape.kv_heads;
        self.matrix(self.qkv, self.shape.qkv, (heads + self.kv) * self.shape.head, 0)
    }

    /// A right operand of `k` rows and `n` columns, packed into scratch.
    fn pack<'s>(&self, b: Matrix<'_>, n: usize, k: usize, scratch: &'s mut Vec<f32>) -> Packed<'s> {
        let data = grown(scratch, n.div_ceil(NR) * NR * k);
        pack_right(self.level, b, n, k, data);
        Packed { data, depth: k }
    }

    /// `out` holds the group's heads one after the other, `[length, head]` each; `stats` likewise
    /// `[length, 2]`.
    fn forward(&self, out: &mut [f32], stats: &mut [f32], scratch: &mut Scratch) {
        let Shape { head, group, rows: Rows { length, .. }, .. } = self.shape;
        let scale = self.shape.scale();
        let Scratch { a, b: [keys, values, ..], rows: [z, _], .. } = scratch;
        let keys = self.pack(self.key().transposed(), length, head, keys);
        let values = self.pack(self.value(), head, length, values);
        let z = grown(z, BLOCK * length);
        for h in 0..group {
            for first in (0..length).step_by(BLOCK) {
                let m = BLOCK.min(length - first);
                let n = first + m;
                let size = Size { m, n, k: head };
                block(self.level, size, self.query(h, first), keys, Start::Zero, z, n, a);
                let row = h * length + first;
                kernel::softmax(self.level, z, n, first, m, scale, &mut stats[2 * row..2 * (row + m)]);
                let size = Size { m, n: head, k: n };
                let out = &mut out[row * head..];
                block(self.level, size, Matrix::row_major(z, n), values, Start::Zero, out, head, a);
            }
        }
    }

    /// `grads` gets dq of the group's heads, then dk, then dv, `[length, head]` each. `o`, `d_o`: output
    /// and its gradient, whole rows.
    fn backward(&self, o: &[f32], d_o: &[f32], stats: &[f32], grads: &mut [f32], scratch: &mut Scratch) {
        let Shape { head, group, out: width, rows: Rows { length, .. }, .. } = self.shape;
        let scale = self.shape.scale();
        let Scratch { a, b: [keys_t, values_t, keys, rows], rows: [p, ds], .. } = scratch;
        let keys_t = self.pack(self.key().transposed(), length, head, keys_t);
        let values_t = self.pack(self.value().transposed(), length, head, values_t);
        let keys = self.pack(self.key(), head, length, keys);
        let (p, ds) = (grown(p, BLOCK * length), grown(ds, BLOCK * length));
        let (dq, dkv) = grads.split_at_mut(group * length * head);
        let (dk, dv) = dkv.split_at_mut(length * head);
        // dk and dv are chains over (head of the group, row): from +0, resumed block after block.
        dk.fill(0.0);
        dv.fill(0.0);
        for h in 0..group {
            let column = (self.kv * group + h) * head;
            for first in (0..length).step_by(BLOCK) {
                let m = BLOCK.min(length - first);
                let n = first + m;
                let row = h * length + first;
                let stats = &stats[2 * row..2 * (row + m)];
                let query = self.query(h, first);
                let d_out = self.output(d_o, width, column, first);
                let out = self.output(o, width, column, first);

                let size = Size { m, n, k: head };
                block(self.level, size, query, keys_t, Start::Zero, p, n, a);
                kernel::probabilities(self.level, p, n, first, m, scale, stats);
                block(self.level, size, d_out, values_t, Start::Zero, ds, n, a);
                for i in 0..m {
                    let (d_out, out) = (&d_out.data[i * width..][..head], &out.data[i * width..][..head]);
                    let dot = rows_dot(self.level, d_out, out);
                    let live = first + i + 1;
                    let (p, ds) = (&p[i * n..][..n], &mut ds[i * n..][..n]);
                    kernel::score_gradient(self.level, &p[..live], dot, scale, &mut ds[..live]);
                    ds[live..].fill(0.0);
                }

                let size = Size { m, n: head, k: n };
                let ds = Matrix::row_major(ds, n);
                block(self.level, size, ds, keys, Start::Zero, &mut dq[row * head..], head, a);
                let size = Size { m: n, n: head, k: m };
                let query = self.pack(query, head, m, rows);
                block(self.level, size, ds.transposed(), query, Start::Resume, dk, head, a);
                let p = Matrix::row_major(p, n).transposed();
                let d_out = self.pack(d_out, head, m, rows);
                block(self.level, size, p, d_out, Start::Resume, dv, head, a);
            }
        }
    }

    fn output<'o>(&self, data: &'o [f32], width: usize, column: usize, row: usize) -> Matrix<'o> {
        let first = self.sequence * self.shape.rows.length + row;
        Matrix { data: &data[first * width + column..], row: width, col: 1 }
    }
}

impl Shape {
    /// 1 / sqrt(hd), two operations.
    fn scale(self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }

    /// Elements of one head of one sequence.
    fn plane(self) -> usize {
        self.rows.length * self.head
    }
}

impl Attention {
    fn shape(&self, rows: Rows, qkv: usize) -> Shape {
        let head = qkv / (self.heads + 2 * self.kv_heads);
        let group = self.heads / self.kv_heads;
        Shape { rows, group, kv_heads: self.kv_heads, head, qkv, out: self.heads * head }
    }
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn fields(&self) -> Vec<(&'static str, Json)> {
        vec![("heads", Json::index(self.heads)), ("kv_heads", Json::index(self.kv_heads))]
    }

    fn output_width(&self, inputs: &[usize], _: &[Tensor]) -> Result<usize, String> {
        let width = one_input(inputs)?;
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err("kv_heads must divide heads".into());
        }
        let parts = self.heads + 2 * self.kv_heads;
        if !width.is_multiple_of(parts) {
            return Err(format!("an input of width {width} has not {parts} heads"));
        }
        Ok(width / parts * self.heads)
    }

    /// (maximum, 1 / sum) of each row of each head.
    fn saved_width(&self) -> usize {
        2 * self.heads
    }

    fn needs(&self) -> Needs {
        Needs { inputs: true, output: true }
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let [qkv, out, stats] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output, &call.saved])?;
        let shape = self.shape(call.rows, qkv.len() / call.rows.count());
        let (level, qkv) = (env.level, &*qkv);
        // Heads are made one after the other, then put side by side.
        let planes = grown(&mut env.shared, out.len());
        let pieces = (
            Chunks::new(&mut *planes, shape.group * shape.plane()),
            Chunks::new(stats, shape.group * shape.rows.length * 2),
        );
        env.pool.each(pieces, &mut env.scratch, |i, (out, stats), scratch| {
            Task::new(shape, level, i, qkv).forward(out, stats, scratch);
        })?;
        let planes = &*planes;
        Ok(env.pool.each(Chunks::new(out, BLOCK * shape.out), &mut env.scratch, |i, out, _| {
            for (r, out) in (i * BLOCK..).zip(out.chunks_exact_mut(shape.out)) {
                let (sequence, position) = (r / shape.rows.length, r % shape.rows.length);
                for (h, out) in out.chunks_exact_mut(shape.head).enumerate() {
                    let plane = sequence * self.heads + h;
                    out.copy_from_slice(
                        &planes[plane * shape.plane() + position * shape.head..][..shape.head],
                    );
                }
            }
        })?)
    }

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let places =
            [operand(call.inputs, 0)?, &call.output, &call.saved, &call.d_output, operand(call.d_inputs, 0)?];
        let [qkv, o, stats, d_o, d_qkv] = cut(call.buffer, places)?;
        let shape = self.shape(call.rows, qkv.len() / call.rows.count());
        let (level, qkv, o, stats, d_o) = (env.level, &*qkv, &*o, &*stats, &*d_o);
        let planes = grown(&mut env.shared, d_qkv.len());
        // Per key/value head: dq of its group, dk, dv.
        let set = (shape.group + 2) * shape.plane();
        let stats_set = shape.group * shape.rows.length * 2;
        env.pool.each(Chunks::new(&mut *planes, set), &mut env.scratch, |i, grads, scratch| {
            let stats = &stats[i * stats_set..][..stats_set];
            Task::new(shape, level, i, qkv).backward(o, d_o, stats, grads, scratch);
        })?;
        let planes = &*planes;
        Ok(env.pool.each(Chunks::new(d_qkv, BLOCK * shape.qkv), &mut env.scratch, |i, out, _| {
            for (r, out) in (i * BLOCK..).zip(out.chunks_exact_mut(shape.qkv)) {
                let (sequence, position) = (r / shape.rows.length, r % shape.rows.length);
                for (column, out) in out.chunks_exact_mut(shape.head).enumerate() {
                    let (kv, part) = self.part(column, shape.group);
                    let from = (sequence * self.kv_heads + kv) * set + part * shape.plane();
                    out.copy_from_slice(&planes[from + position * shape.head..][..shape.head]);
                }
            }
        })?)
    }
}

impl Attention {
    /// Which key/value head, and which plane of its set, head column `column` of a row belongs to.
    fn part(&self, column: usize, group: usize) -> (usize, usize) {
        if column < self.heads {
            (column / group, column % group)
        } else {
            let column = column - self.heads;
            (column % self.kv_heads, group + column / self.kv_heads)
        }
    }
}
