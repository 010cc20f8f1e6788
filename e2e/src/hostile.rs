//! What a hub that has been broken into may send: envelopes that are signed by the hub's own key and wrong in one way each.
//! Written against docs/spec/protocol.md section 6 and not with our own payload type, which cannot be built wrong.
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proof::dsse::Envelope;
use muster_proof::jcs;
use muster_proof::key::SigningKey;
use serde_json::{Value, json};

use crate::world::{EAST, EAST_NAMESPACE, WEST};

/// Payload type of a WorkUnit.
const KIND: &str = "application/vnd.muster.workunit.v1+json";
/// The first eight characters of the first job that does not exist, as a number.
const FIRST_JOB: u32 = 0x0bad_0000;
/// With what the names of all units begin that are made here.
pub const PREFIX: &str = "0bad";
/// On everything that is made here.
pub const LABEL: &str = "muster.dev/test=hostile-hub";

/// One object, and what must become of it.
pub struct Attempt {
    pub what: &'static str,
    pub unit: Value,
    pub fate: Fate,
}

/// Who turns it away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The agent, with this reason.
    Refused(&'static str),
    /// The hub's API server, whoever sends it.
    Invalid,
}

/// The hub's key in wrong hands.
pub struct Forge {
    key: SigningKey,
    stranger: SigningKey,
    base: Value,
    jobs: u32,
    /// What tells this forge's jobs from another one's.
    run: u128,
}

impl Forge {
    /// With the key of `state`, the hub's state directory, and the payload of a unit that an agent has run.
    pub fn new(state: &Path, honest: &Value) -> Result<Self> {
        let file = state.join("signing.key");
        let pem = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let payload = honest["spec"]["envelope"]["payload"].as_str().context("a unit without payload")?;
        // The gateway's store remembers the epochs of every job: another scenario's jobs must be others.
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(Self {
            key: SigningKey::from_pem(&pem)?,
            stranger: SigningKey::generate([99; 32])?,
            base: serde_json::from_slice(&STANDARD.decode(payload)?)?,
            jobs: FIRST_JOB,
            run: since.as_millis() & 0xffff,
        })
    }

    /// A payload that an agent would take: of a job of its own, from genesis.
    pub fn payload(&mut self) -> Value {
        self.jobs += 1;
        let mut payload = self.base.clone();
        payload["jobUID"] = json!(format!("{:08x}-{:04x}-4000-8000-000000000000", self.jobs, self.run));
        payload["island"] = json!(0);
        payload["start"] = Value::Null;
        at_epoch(&mut payload, 1);
        payload
    }

    /// The object of this payload, whatever it is, signed as it stands. The fields beside the envelope are those of `mirror`.
    pub fn unit(&self, mirror: &Value, payload: &Value) -> Result<Value> {
        Ok(object(mirror, &serde_json::to_value(Envelope::sign_json(KIND, payload, &self.key)?)?))
    }

    /// All of them. `ran` is a payload that the agent has taken, of an epoch above 1.
    pub fn attempts(&mut self, ran: &Value) -> Result<Vec<Attempt>> {
        let mut all = Vec::new();
        for (what, path, value, reason) in fields(&self.base) {
            let (good, mut payload) = self.two();
            set(&mut payload, path, value);
            all.push(Attempt { what, unit: self.unit(&good, &payload)?, fate: Fate::Refused(reason) });
        }
        self.with_their_mirror(ran, &mut all)?;
        self.misleading(&mut all)?;
        self.misspelt(&mut all)?;
        self.missigned(&mut all)?;
        Ok(all)
    }

    /// The same good payload twice: one to spoil, one for the mirror.
    fn two(&mut self) -> (Value, Value) {
        let payload = self.payload();
        (payload.clone(), payload)
    }

    /// Wrong in envelope and mirror alike: only the agent's own knowledge tells.
    fn with_their_mirror(&mut self, ran: &Value, all: &mut Vec<Attempt>) -> Result<()> {
        let mut many = self.payload();
        many["workers"] = json!(200);
        let mut old = ran.clone();
        at_epoch(&mut old, 1);
        let mut elsewhere = self.payload();
        elsewhere["provider"] = json!(WEST);
        for (what, payload, reason) in [
            ("more workers than are offered", many, "OverQuota"),
            ("an epoch below one that has run", old, "OldEpoch"),
            ("signed for west, sent to east", elsewhere, "MirrorMismatch"),
        ] {
            all.push(Attempt { what, unit: self.unit(&payload, &payload)?, fate: Fate::Refused(reason) });
        }
        let here = self.payload();
        let mut unit = self.unit(&here, &here)?;
        unit["metadata"]["namespace"] = json!(format!("muster-p-{WEST}"));
        let what = "signed for east, sent to west";
        all.push(Attempt { what, unit, fate: Fate::Refused("MirrorMismatch") });
        Ok(())
    }

    /// What a person reads beside the envelope is not what was signed.
    fn misleading(&mut self, all: &mut Vec<Attempt>) -> Result<()> {
        for (what, field, value) in [
            ("mirror with other workers", "workers", json!(3)),
            ("mirror with another epoch", "epoch", json!(2)),
            ("mirror with another island", "island", json!(1)),
            ("mirror with another job", "jobUID", json!("0bad0000-ffff-4000-8000-000000000000")),
            ("mirror of an audit", "kind", json!("Audit")),
        ] {
            let (mut mirror, payload) = self.two();
            set(&mut mirror, field, value);
            rename(&mut mirror);
            all.push(Attempt {
                what,
                unit: self.unit(&mirror, &payload)?,
                fate: Fate::Refused("MirrorMismatch"),
            });
        }
        Ok(())
    }

    /// Bytes that are signed and are no payload.
    fn misspelt(&mut self, all: &mut Vec<Attempt>) -> Result<()> {
        for (what, spoil) in SPELLINGS {
            let (mirror, payload) = self.two();
            let spelt = spoil(&String::from_utf8(jcs::serialize(&payload)?)?);
            // More than the API server takes in base64.
            let fate = if spelt.len() > 6144 { Fate::Invalid } else { Fate::Refused("BadPayload") };
            let envelope = serde_json::to_value(Envelope::sign(KIND, &spelt, &self.key)?)?;
            all.push(Attempt { what, unit: object(&mirror, &envelope), fate });
        }
        Ok(())
    }

    /// A good payload in an envelope that does not vouch for it.
    fn missigned(&mut self, all: &mut Vec<Attempt>) -> Result<()> {
        let (key, stranger) = (self.key.clone(), self.stranger.clone());
        let sign = |payload: &Value, key: &SigningKey, kind: &str| -> Result<Value> {
            Ok(serde_json::to_value(Envelope::sign_json(kind, payload, key)?)?)
        };
        let mut add = |what, spoil: &dyn Fn(&Value) -> Result<Value>, fate| -> Result<()> {
            let payload = self.payload();
            all.push(Attempt { what, unit: object(&payload, &spoil(&payload)?), fate });
            Ok(())
        };
        let bad = Fate::Refused("BadSignature");
        add("another payload type", &|payload| sign(payload, &key, "application/json"), bad)?;
        add("a key that is not the hub's", &|payload| sign(payload, &stranger, KIND), bad)?;
        let two = |payload: &Value| -> Result<Value> {
            let (mut envelope, other) = (sign(payload, &key, KIND)?, sign(payload, &stranger, KIND)?);
            envelope["signatures"] = json!([envelope["signatures"][0], other["signatures"][0]]);
            Ok(envelope)
        };
        add("the hub's signature and another one", &two, bad)?;
        let borrowed = |payload: &Value| -> Result<Value> {
            let mut envelope = sign(payload, &stranger, KIND)?;
            envelope["signatures"][0]["keyid"] = json!(key.key_id());
            Ok(envelope)
        };
        add("another one's signature under the hub's name", &borrowed, bad)?;
        let swapped = |payload: &Value| -> Result<Value> {
            let mut envelope = sign(payload, &key, KIND)?;
            envelope["signatures"] = sign(&json!({"another": "payload"}), &key, KIND)?["signatures"].clone();
            Ok(envelope)
        };
        add("the hub's signature of another payload", &swapped, bad)?;
        let long = |payload: &Value| -> Result<Value> {
            let mut envelope = sign(payload, &key, KIND)?;
            envelope["signatures"][0]["sig"] = json!(STANDARD.encode([0x30; 90]));
            Ok(envelope)
        };
        add("a signature of 90 bytes", &long, bad)?;
        let five = |payload: &Value| -> Result<Value> {
            let mut envelope = sign(payload, &key, KIND)?;
            let one = envelope["signatures"][0].clone();
            envelope["signatures"] = json!([one, one, one, one, one]);
            Ok(envelope)
        };
        add("five signatures", &five, Fate::Invalid)
    }
}

type Spoil = fn(&str) -> Vec<u8>;

/// From the one good spelling of a payload with two workers to a bad one.
const SPELLINGS: [(&str, Spoil); 16] = [
    ("a key twice", |good| good.replacen("\"workers\":2", "\"workers\":2,\"workers\":2", 1).into_bytes()),
    ("keys in another order", |good| {
        good.replacen(",\"workers\":2", "", 1).replacen('{', "{\"workers\":2,", 1).into_bytes()
    }),
    ("a key that is missing", |good| good.replacen(",\"start\":null", "", 1).into_bytes()),
    ("white space", |good| good.replacen(':', ": ", 1).into_bytes()),
    ("an exponent for an integer", |good| good.replacen("\"island\":0", "\"island\":0e0", 1).into_bytes()),
    ("a fraction for an integer", |good| good.replacen("\"island\":0", "\"island\":0.0", 1).into_bytes()),
    ("an integer without end", |good| {
        good.replacen("\"island\":0", &format!("\"island\":{}", "9".repeat(400)), 1).into_bytes()
    }),
    ("not JSON", |_| b"kind: Train\nworkers: 2\n".to_vec()),
    ("a list", |good| format!("[{good}]").into_bytes()),
    ("two payloads", |good| good.repeat(2).into_bytes()),
    ("nothing", |_| Vec::new()),
    ("not UTF-8", |good| [good.trim_end_matches('}').as_bytes(), b"\xff\xfe}"].concat()),
    ("a byte order mark", |good| format!("\u{feff}{good}").into_bytes()),
    ("1500 brackets deep", |_| [b"[".repeat(1500), b"]".repeat(1500)].concat()),
    ("padded to 6144 bytes", |good| format!("{good:6144}").into_bytes()),
    ("padded to 6145 bytes", |good| format!("{good:6145}").into_bytes()),
];

/// One member of the payload, of which the mirror says nothing or is right.
fn fields(base: &Value) -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let image = base["image"].as_str().unwrap_or("");
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let other = format!("sha256:{}", "ab".repeat(32));
    let manifest = |step: i64| json!({"step": step, "manifest": other});
    let (bad, mirror) = ("BadPayload", "MirrorMismatch");
    vec![
        ("an image by tag", "image", json!(format!("{name}:latest")), bad),
        ("another image", "image", json!(format!("evil/miner@{digest}")), "ImageNotAllowed"),
        (
            "the image's name with another digest",
            "image",
            json!(format!("{name}@{other}")),
            "ImageNotAllowed",
        ),
        ("an image with more behind it", "image", json!(format!("{image} --privileged")), bad),
        ("a name that is a path", "name", json!("../../etc/passwd"), bad),
        ("a name that is a label selector", "name", json!("x,muster.dev/unit=y"), bad),
        ("a name of 300 characters", "name", json!("a".repeat(300)), bad),
        ("a name in another script", "name", json!("\u{435}ast-0-1"), bad),
        ("a name with a zero byte", "name", json!("a\u{0}b"), bad),
        ("another unit's name", "name", json!("0bad0000-0-1"), mirror),
        ("another provider", "provider", json!(WEST), mirror),
        ("a provider that is a path", "provider", json!(format!("{EAST}/../{WEST}")), bad),
        ("a job that is no uid", "jobUID", json!("x\nmuster.dev/job-uid: y"), bad),
        ("an island of -1", "island", json!(-1), bad),
        ("an epoch of 0", "epoch", json!(0), bad),
        ("-1 workers", "workers", json!(-1), bad),
        ("no workers", "workers", json!(0), bad),
        ("a billion workers", "workers", json!(1_000_000_000), bad),
        ("cpu below nothing", "resources.cpu", json!("-1"), bad),
        ("cpu with an exponent", "resources.cpu", json!("1e9"), bad),
        ("cpu without end", "resources.cpu", json!("999999999999999"), bad),
        ("cpu with more behind it", "resources.cpu", json!("1\", \"hostNetwork\": \"true"), bad),
        ("memory below nothing", "resources.memory", json!("-1Gi"), bad),
        ("memory with an exponent", "resources.memory", json!("1e9"), bad),
        ("memory without end", "resources.memory", json!("999999999999999Ti"), bad),
        ("memory with more behind it", "resources.memory", json!("1Gi\n  privileged: true"), bad),
        ("another resource", "resources.nvidia.com/gpu", json!("8"), bad),
        ("a command", "command", json!(["/bin/sh", "-c", "id"]), bad),
        ("volumes", "volumes", json!([{"name": "root", "hostPath": {"path": "/"}}]), bad),
        ("a host path", "hostPath", json!("/"), bad),
        ("privileges", "privileged", json!(true), bad),
        ("a service account", "serviceAccountName", json!("muster-agent"), bad),
        ("an environment", "env", json!([{"name": "LD_PRELOAD", "value": "/x.so"}]), bad),
        ("a node", "nodeName", json!("control-plane"), bad),
        ("another kind", "kind", json!("Audit"), bad),
        ("another format", "format", json!("muster.workunit/2"), bad),
        ("another arithmetic", "arithmetic", json!("bf16"), "ArithmeticUnsupported"),
        ("another device class", "deviceClass", json!("nvidia-h100-80gb"), "OverQuota"),
        ("a spec that is no digest", "spec", json!("../../spec.json"), bad),
        ("-1 steps", "steps", json!(-1), bad),
        ("an interval of 0 steps", "intervalSteps", json!(0), bad),
        ("an interval longer than the job", "intervalSteps", json!(1_000_000_000), bad),
        ("no checkpoint kept", "keepLast", json!(0), bad),
        ("a start from step 0", "start", manifest(0), bad),
        ("a start beyond the end", "start", manifest(1_000_000), bad),
        ("a start without manifest", "start", json!({"step": 20}), bad),
        ("-1 restarts", "maxRestarts", json!(-1), bad),
        ("no time to schedule", "scheduleTimeoutSeconds", json!(0), bad),
        ("a grace below nothing", "disconnectGraceSeconds", json!(-1), bad),
        ("a grace of a year", "disconnectGraceSeconds", json!(366 * 86_400), bad),
        ("an incarnation before a restore", "incarnation", json!(0), "OldEpoch"),
        ("an envelope that has expired", "notAfter", json!("2020-01-01T00:00:00Z"), "Expired"),
        ("a time in another spelling", "notAfter", json!("2099-01-01T00:00:00+00:00"), bad),
    ]
}

/// Sets a member of the payload, or of one of its objects; one that it does not have is added.
fn set(payload: &mut Value, path: &str, value: Value) {
    match path.split_once('.') {
        Some((outer, inner)) => payload[outer][inner] = value,
        None => payload[path] = value,
    }
}

/// Another epoch, and the name that goes with it.
pub fn at_epoch(payload: &mut Value, epoch: i64) {
    payload["epoch"] = json!(epoch);
    rename(payload);
}

fn rename(payload: &mut Value) {
    let job = payload["jobUID"].as_str().and_then(|uid| uid.get(..8)).unwrap_or("");
    // The API server wants an audit's name to say that it is one.
    let place = if payload["kind"] == "Audit" { "a1".to_owned() } else { payload["island"].to_string() };
    payload["name"] = json!(format!("{job}-{place}-{}", payload["epoch"]));
}

fn object(mirror: &Value, envelope: &Value) -> Value {
    let (label, value) = LABEL.split_once('=').unwrap_or((LABEL, ""));
    json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit",
        "metadata": {"name": mirror["name"], "namespace": EAST_NAMESPACE, "labels": {label: value}},
        "spec": {
            "kind": mirror["kind"], "jobUID": mirror["jobUID"], "island": mirror["island"], "epoch": mirror["epoch"],
            "workers": mirror["workers"], "envelope": envelope, "desired": "Run",
        },
    })
}
