"""OpenSSF Model Signing verifies our checkpoint directories, and refuses what was changed. Argument: the directory that
the example interop_sigstore wrote. Each case is tried by the API and by the command, with their defaults."""

import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import model_signing

STEP = "step-00000020"
# The API raises InvalidSignature, which has no text for the command to print.
NOT_SIGNED = r"^InvalidSignature|failed with error:\s*$"
made = pathlib.Path(sys.argv[1]).resolve()
failed = 0


def by_api(model, key):
    """None, or what it says against the directory."""
    try:
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(model, model / "model.sig")
    except Exception as error:  # The verifier raises what the libraries below it raise.
        return f"{type(error).__name__}: {error}"
    return None


def by_command(model, key):
    """As a person would: in the directory that holds the checkpoint, with relative paths."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", model.name]
    command += ["--signature", f"{model.name}/model.sig", "--public_key", str(key)]
    done = subprocess.run(command, cwd=model.parent, capture_output=True, text=True)
    if done.returncode == 0:
        assert "Verification succeeded" in done.stdout, done.stdout
        return None
    return done.stdout + done.stderr


def case(name, source, want=None, change=None, key="key.pem"):
    """Copies a checkpoint, changes it, and asks. `want` is a pattern of the refusal, None where it must be accepted."""
    global failed
    for how, verify in [("api", by_api), ("command", by_command)]:
        with tempfile.TemporaryDirectory() as scratch:
            model = pathlib.Path(scratch) / STEP
            shutil.copytree(made / source / STEP, model)
            if change is not None:
                change(model)
            got = verify(model, made / key)
        good = got is None if want is None else got is not None and re.search(want, got)
        failed += not good
        print(f"ok {name}, {how}" if good else f"not ok {name}, {how}: want {want or 'acceptance'}, got {got}")


def flip(file, at):
    def change(model):
        data = bytearray((model / file).read_bytes())
        data[at] ^= 1
        (model / file).write_bytes(data)

    return change


def edit(change):
    """Changes the bundle's JSON."""

    def apply(model):
        bundle = json.loads((model / "model.sig").read_bytes())
        change(bundle)
        (model / "model.sig").write_text(json.dumps(bundle))

    return apply


def other_digest(bundle):
    """The statement of a forger: what is on the disk, signed by nobody."""
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"][2]["digest"] = "0" * 64
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


def other_signature(bundle):
    signature = bundle["dsseEnvelope"]["signatures"][0]
    der = bytearray(base64.b64decode(signature["sig"]))
    der[-1] ^= 1
    signature["sig"] = base64.b64encode(der).decode()


def no_hint(bundle):
    del bundle["verificationMaterial"]["publicKey"]["hint"]


def add(file):
    def change(model):
        (model / file).parent.mkdir(exist_ok=True)
        (model / file).write_text("x")

    return change


case("a signed checkpoint", "signed")
case("a logged checkpoint with proofs beside it", "logged")
case("a checkpoint that is alone in its log", "first")
case("flipped byte", "logged", "Hash mismatch for 'model.safetensors'", flip("model.safetensors", 1000))
case("flipped byte of the manifest", "logged", "Hash mismatch for 'manifest.json'", flip("manifest.json", 3))
case("removed file", "logged", "Missing files.*config.json", lambda model: (model / "config.json").unlink())
case("added file", "logged", "Extra files.*pytorch_model.bin", add("pytorch_model.bin"))
case("added directory", "logged", "Extra files.*code/x.py", add("code/x.py"))
case("a proof of another name", "logged", "Extra files.*other.tlog-proof", add("other.tlog-proof"))
case("wrong key", "logged", "Key mismatch", key="other.pem")
case("wrong key without a hint", "logged", NOT_SIGNED, edit(no_hint), key="other.pem")
case("tampered payload", "logged", NOT_SIGNED, edit(other_digest))
case("tampered signature", "logged", NOT_SIGNED, edit(other_signature))
case("no bundle", "logged", "No such file|does not exist", lambda model: (model / "model.sig").unlink())
sys.exit(1 if failed else 0)
