"""Sections 5 and 6 of docs/spec/numerics.md on a GPU: a job from genesis on."""

import math

import cupy
import numpy as np

import step as reference
from device import F, I, L
from shard import Shard

CHUNK = 4096


class Flat:
    """A value for each parameter in one buffer, with a view for each tensor."""

    def __init__(self, shapes):
        self.buffer = cupy.zeros(sum(math.prod(shape) for shape in shapes.values()), cupy.float32)
        self.views, at = {}, 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            self.views[name] = self.buffer[at : at + size].reshape(shape)
            at += size


class Run(reference.Run):
    """`weights` are NumPy arrays or functions of a shape, by name; without them genesis."""

    def __init__(self, device, spec, stream, weights=None):
        self.device, self.spec, self.stream = device, spec, stream
        weights = reference.genesis(spec) if weights is None else weights
        self.shapes = {name: w.shape for name, w in weights.items()}
        self.flat = [Flat(self.shapes) for _ in range(3)]
        self.w, self.m, self.v = (flat.views for flat in self.flat)
        for name, w in weights.items():
            self.w[name][...] = cupy.asarray(w)
        self.t, self.b1p, self.b2p = 0, 1.0, 1.0
        self.chunks()

    def chunks(self):
        """6.2: where chunks begin, their lengths, and each tensor's first chunk."""
        first, length, starts, at = [], [], [0], 0
        for shape in self.shapes.values():
            size = math.prod(shape)
            first += [at + i for i in range(0, size, CHUNK)]
            length += [min(CHUNK, size - i) for i in range(0, size, CHUNK)]
            starts.append(len(first))
            at += size
        self.first, self.lengths = cupy.asarray(np.array(first, np.int64)), cupy.asarray(np.array(length, np.int32))
        self.starts = cupy.asarray(np.array(starts, np.int32))
        self.tensors = cupy.asarray(np.array([0, len(self.shapes)], np.int32))

    def step(self):
        """Loss and gradient norm, as arrays of the device; `self.grad` has the gradient until the next step."""
        self.t += 1
        training = self.spec["training"]
        shards = training["shards"]
        losses, begun = cupy.empty(shards, cupy.float32), []
        for shard, (tokens, targets) in enumerate(self.shards()):
            grad = Flat(self.shapes)
            loss, _ = Shard(self.device, self.spec, self.w, tokens, targets, grad.views).run()
            losses[shard : shard + 1] = loss
            begun.append((1, grad))
            # 2.3: of equal width, and whatever is left at the end.
            while len(begun) > 1 and (begun[-1][0] == begun[-2][0] or shard == shards - 1):
                width, last = begun.pop()
                left = begun[-1][1]
                self.device.add(left.buffer, last.buffer, left.buffer)
                begun[-1] = (begun[-1][0] + width, left)
        self.grad = begun[0][1]
        scale, n = F(1 / shards), self.grad.buffer.size
        self.device.each("scale_each", n, L(n), scale, self.grad.buffer)
        loss, sum_, norm = (cupy.empty(size, cupy.float32) for size in (1, 1, 2))
        self.device.tree(cupy.asarray(np.array([0, shards], np.int32)), losses, loss)
        self.device.each("scale_each", 1, L(1), scale, loss)
        partial, of_tensors = (cupy.empty(size, cupy.float32) for size in (len(self.first), len(self.shapes)))
        self.device.rows("squares_rows", len(self.first), I(len(self.first)), self.first, self.lengths, self.grad.buffer, partial)
        self.device.tree(self.starts, partial, of_tensors)
        self.device.tree(self.tensors, of_tensors, sum_)
        self.device.launch("clip_factor", (1,), 1, F(float(training["optimizer"]["clipNorm"])), sum_, norm)
        self.adamw(norm)
        return loss, norm[:1]

    def adamw(self, norm):
        o = {name: float(value) for name, value in self.spec["training"]["optimizer"].items() if name != "name"}
        b1, b2 = o["beta1"], o["beta2"]
        self.b1p, self.b2p = self.b1p * b1, self.b2p * b2
        factors = [reference.rate(self.spec, self.t), b1, b2, 1 - b1, 1 - b2, 1 / (1 - self.b1p), 1 / (1 - self.b2p), o["epsilon"]]
        factors = [F(x) for x in factors]
        for name, p in self.w.items():
            decay = F(o["weightDecay"]) if p.ndim == 2 else F(0)
            self.device.each(
                "adamw", p.size, L(p.size), *factors, decay, norm, self.grad.views[name], p, self.m[name], self.v[name]
            )

    def evaluation(self, stream, samples):
        """6.5 of the state as it is."""
        length = self.spec["model"]["context"]
        losses, loss = cupy.empty(samples, cupy.float32), cupy.empty(1, cupy.float32)
        for k in range(samples):
            tokens, targets = (stream[None, k * length + i : (k + 1) * length + i] for i in (0, 1))
            losses[k : k + 1] = Shard(self.device, self.spec, self.w, tokens, targets).forward()[0]
        self.device.tree(cupy.asarray(np.array([0, samples], np.int32)), losses, loss)
        return F(loss.get()[0]) / F(samples)
