"""The kernels of trainer-image/cuda on this GPU against tests/vectors and the definitions: every bit. Exits 1 if one differs.
With `--portable` it is the PTX of compute capability 8.0, without Hopper's instructions, compiled by the driver."""

import hashlib
import pathlib
import re
import sys
import tempfile

import cupy
import numpy as np

import cases
from device import Device, F, I, L, build, ceil
from job import Run
from shard import Shard, grouped
from step import Run as Reference

VECTORS = pathlib.Path(__file__).resolve().parent.parent / "vectors"
passed = failed = 0


def check(what, ours, wanted):
    """Arrays of f32 bits, or values."""
    global passed, failed
    if isinstance(wanted, np.ndarray):
        ours, wanted = (np.where(np.isnan(x), F(np.nan), x).view(np.uint32) for x in (np.ravel(ours).astype(F), np.ravel(wanted)))
        wrong = np.flatnonzero(ours != wanted) if ours.shape == wanted.shape else np.arange(len(wanted))
        good = len(wrong) == 0
        detail = "" if good else f": {len(wrong)} of {len(wanted)}, first at {wrong[0]}: {ours[wrong[0]]:08x}, not {wanted[wrong[0]]:08x}"
    else:
        good, detail = ours == wanted, "" if ours == wanted else f": {ours}, not {wanted}"
    passed, failed = passed + good, failed + (not good)
    if not good:
        print(f"FAIL {what}{detail}", flush=True)


def parse(text):
    """Cases of ops.txt: name, members, operands."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("#"):
            continue
        if words[0] == "case":
            pairs = [word for word in words[2:] if word not in ("f32-chain", "i16-exact")]
            members = {key: int(value) for key, value in zip(pairs[::2], pairs[1::2])}
            members["exact"] = "i16-exact" in words
            found.append((words[1], members, {}))
        elif words[0] in ("tokens", "targets"):
            found[-1][2][words[0]] = np.array(words[2:], np.int64)
        else:
            found[-1][2][words[0]] = np.array([int(word, 16) for word in words[2:]], np.uint32).view(F)
    return found


def op(device, name, members, x):
    """Runs a case; gives back what it says of `y` and of gradients."""
    if name in ("exp", "log"):
        y = cupy.empty(len(x["x"]), cupy.float32)
        device.each(f"{name}_each", len(y), L(len(y)), cupy.asarray(x["x"]), y)
        return {"y": y}
    if name == "rows_and_dot":
        a, b, n = cupy.asarray(x["x"]), cupy.asarray(x["z"]), len(x["x"])
        rows, dot = cupy.empty(1, cupy.float32), cupy.empty(1, cupy.float32)
        device.rows("sum_rows", 1, I(1), I(n), a, L(n), F(0), rows)
        device.rows("dot_rows", 1, I(1), I(n), a, b, dot)
        return {"rows": rows, "dot": dot}
    if name == "tree":
        y, n = cupy.empty(1, cupy.float32), len(x["x"])
        device.tree(cupy.asarray(np.array([0, n], np.int32)), cupy.asarray(x["x"].copy()), y)
        return {"y": y}
    rows = members["sequences"] * members["length"]
    matrix = lambda key: cupy.asarray(x[key].reshape(rows, -1))
    if name == "add":
        a, b, dy = matrix("a"), matrix("b"), matrix("dy")
        y = cupy.empty_like(a)
        device.add(a, b, y)
        return {"y": y, "da": dy, "db": dy}
    model = {"kv_heads": 1, **members}
    spec = {
        "model": {"architecture": "gpt2", "layers": 1, "llama": {"ropeBase": model.get("base", 1), "kvHeads": model["kv_heads"]}},
        "training": {"arithmetic": "i16-exact" if members["exact"] else "f32-chain"},
    }
    ids = lambda key: x.get(key, np.zeros(rows, np.int64)).reshape(members["sequences"], members["length"])
    weights, names = {}, {"weight": "p.weight", "bias": "p.bias", "table": "table", "positions": "positions"}
    shapes = {"linear": {"weight": (members.get("out"), members.get("in"))}, "embedding": {
        "table": (members.get("vocabulary"), members.get("width")), "positions": (members["length"], members.get("width")),
    }}.get(name, {})
    for key in names:
        if key in x:
            weights[names[key]] = cupy.asarray(x[key].reshape(shapes.get(key, -1)))
    grads = {key: cupy.zeros_like(w) for key, w in weights.items()}
    shard = Shard(device, spec, weights, ids("tokens"), ids("targets"), grads)
    if name == "cross_entropy":
        width = members["width"]
        wide = cupy.full((rows, ceil(width, 4) * 4), np.nan, cupy.float32)
        wide[:, :width] = matrix("x")
        _, dx = shard.cross_entropy(wide[:, :width])
        return {"y": shard.losses, "dx": cupy.ascontiguousarray(dx)}
    run = {
        "embedding": lambda: shard.embedding("table", "positions" if "positions" in x else None),
        "layer_norm": lambda: shard.layer_norm("p", matrix("x")),
        "rms_norm": lambda: shard.rms_norm("p", matrix("x")),
        "linear": lambda: shard.linear("p", matrix("x")),
        "rotary": lambda: shard.rotary(matrix("x"), members["heads"], members["kv_heads"]),
        "attention": lambda: shard.attention(matrix("x"), members["heads"], members["kv_heads"]),
        "gelu": lambda: shard.gelu(matrix("x")),
        "swiglu": lambda: shard.swiglu(matrix("x")),
    }
    y = cupy.ascontiguousarray(run[name]())
    dy = cupy.asarray(x["dy"].reshape(y.shape))
    if name == "linear":
        wide = cupy.full((rows, ceil(y.shape[1], 4) * 4), np.nan, cupy.float32)
        wide[:, : y.shape[1]] = dy
        dy = wide[:, : y.shape[1]]
    dx = shard.tape[0](dy)
    out = {"y": y, "dx": dx}
    out.update({f"d{key}": grads[names[key]] for key in names if key in x})
    return {key: value for key, value in out.items() if value is not None}


def vectors(device):
    for number, (name, members, operands) in enumerate(parse((VECTORS / "ops.txt").read_text())):
        got = op(device, name, members, operands)
        compared = [key for key in operands if key in got]
        if not compared:
            check(f"ops.txt case {number}, {name}: outputs", [], sorted(got))
        for key in compared:
            check(f"ops.txt case {number}, {name} {members}: {key}", got[key].get(), operands[key])


def digest(tensors):
    sha = hashlib.sha256()
    for x in tensors:
        sha.update(np.ascontiguousarray(x.get()).astype("<f4").tobytes())
    return sha.hexdigest()[:16]


def value(text, key):
    return re.search(rf"{key} [^ ]+ \(([0-9a-f]{{8}})\)", text)[1]


def hex_of(x):
    return f"{int(np.asarray(x, F).reshape(()).view(np.uint32)):08x}"


def jobs(device):
    """Whole steps: losses, norms, gradients, parameters, states, evaluations of vectors.txt."""
    text = (VECTORS / "vectors.txt").read_text()
    for case in cases.NAMES:
        for arithmetic, long in (("f32", "f32-chain"), ("i16", "i16-exact")):
            for shards in cases.SHARDS[case]:
                spec, stream, weights = cases.case(case, long, shards)
                head = f"{case} {arithmetic} S={shards}"
                lines = [line for line in text.splitlines() if line.startswith(head + " ")]
                run = Run(device, spec, stream, weights)
                before = failed
                while lines:
                    line = lines.pop(0)
                    kind, number = line[len(head) + 1 :].split()[:2]
                    if kind == "step":
                        loss, norm = run.step()
                        check(f"{line[:40]} loss", hex_of(loss.get()), value(line, "loss"))
                        check(f"{line[:40]} norm", hex_of(norm.get()), value(line, "norm"))
                        check(f"{line[:40]} grads", digest(run.grad.views.values()), re.search("grads ([0-9a-f]+)", line)[1])
                        check(f"{line[:40]} params", digest(run.w.values()), re.search("params ([0-9a-f]+)", line)[1])
                        states = [other for other in text.splitlines() if other.startswith(f"{head} state {number} ")]
                        for state in states:
                            check(state[:40], root(run), state.split()[-1])
                    elif kind == "eval":
                        check(line[:40], hex_of(run.evaluation(stream, int(number))), value(line, "loss"))
                print(f"{'ok  ' if failed == before else 'FAIL'} {head}: {run.t} steps", flush=True)


def root(run):
    """formats.md section 4, by the reference."""
    host = Reference.__new__(Reference)
    host.t, host.b1p, host.b2p = run.t, run.b1p, run.b2p
    host.w, host.m, host.v = ({name: x.get() for name, x in one.items()} for one in (run.w, run.m, run.v))
    return host.state_root()


def chains(device, rng):
    """Every tile and layout, at sizes with edges, against chains of the definition at 500 places."""
    for m, n, k in ((300, 520, 1000), (4100, 1290, 77), (1000, 61, 333), (257, 129, 1)):
        for layout, tile in ((layout, tile) for layout in ("nt", "nn", "tn") for tile in ("256", "128", "64", "few")):
            if layout == "nt" and tile in ("64", "few"):
                continue
            for pad in (0, 3):
                a = rng.standard_normal((k, m + pad) if layout == "tn" else (m, k + pad), F)
                b = rng.standard_normal((n, k + pad) if layout == "nt" else (k, n + pad), F)
                bias = rng.standard_normal(n, F)
                c = cupy.full((m, n + pad), np.nan, cupy.float32)
                device.chain(layout, m, n, k, cupy.asarray(a), a.shape[1], cupy.asarray(b), b.shape[1], c, n + pad, cupy.asarray(bias), tile=tile)
                c = c.get()[:, :n]
                check(f"chain {layout} {tile} {m}x{n}x{k}: an element was not written", int(np.isnan(c).sum()), 0)
                i, j = rng.integers(0, m, 500), rng.integers(0, n, 500)
                i[:2], j[:2] = (0, m - 1), (0, n - 1)
                at = a[:, i].T if layout == "tn" else a[i, :k]
                bt = b[j, :k] if layout == "nt" else b[:, j].T
                acc = bias[j]
                for x in range(k):
                    acc = cases.fma(at[:, x], bt[:, x], acc)
                check(f"chain {layout} {tile} {m}x{n}x{k} pad {pad}", c[i, j], acc + F(0))


def exacts(device, rng):
    """Both units, all layouts, against integers in float64, all elements."""
    units = ["mma", "wgmma"] if device.unit == "wgmma" else ["mma"]
    for m, n, k in ((300, 520, 1000), (129, 127, 5000), (1024, 768, 3072), (5, 7, 3)):
        x = rng.standard_normal((m, k), F) * np.exp2(rng.integers(-30, 30, (m, 1))).astype(F)
        y = rng.standard_normal((n, k), F) * np.exp2(rng.integers(-30, 30, (n, 1))).astype(F)
        x[0], y[1] = 0, np.abs(y[1]).max()
        lines = [cases.lines(x), cases.lines(y)]
        wanted = ((lines[0][0] @ lines[1][0].T) * (lines[0][1][:, None] * lines[1][1][None, :])).astype(F) + F(0)
        x, y = cupy.asarray(x), cupy.asarray(y)
        rows = device.row_lines(x, m, k, k), device.row_lines(y, n, k, k)
        xt, yt = cupy.ascontiguousarray(x.T), cupy.ascontiguousarray(y.T)
        columns = device.column_lines(xt, k, m, m), device.column_lines(yt, k, n, n)
        for way, (a, b) in (("rows", rows), ("columns", columns)):
            for unit in units:
                c = cupy.full((m, n), np.nan, cupy.float32)
                device.exact(a, b, c, n, unit=unit)
                check(f"exact {m}x{n}x{k} of {way} by {unit}", c.get(), wanted)


def main():
    portable = "--portable" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        device = Device(build(directory, portable))
        rng = np.random.default_rng(1)
        for part in (lambda: vectors(device), lambda: chains(device, rng), lambda: exacts(device, rng), lambda: jobs(device)):
            before = passed, failed
            part()
            print(f"     {passed - before[0]} passed, {failed - before[1]} failed", flush=True)
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}{', PTX of 8.0' if portable else ''}: {passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


np.seterr(all="ignore")
main()
