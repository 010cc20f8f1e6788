//! `muster data push`, `data list`, the same of `model`, and `download` against the gateway's real routes over real TLS. Only who may do what
//! is said by a fake.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use muster::gateway::access::{Authorizer, Refusal, User, Wanted};
use muster::gateway::door::Door;
use muster::gateway::records;
use muster::gateway::urls::Urls;
use muster::gateway::users::{Jobs, router};
use muster::log::admit::WellFormed;
use muster::log::cosignatures::Witnesses;
use muster::log::{Log, Submission};
use muster::runtime::tls::Authority;
use muster::store::{Entry, Namespace, Noted, Recorded, Store};
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Epoch, Interval, Island, Step};
use muster_proof::records::{Commit, JobId, Payload as _};
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey, VerifierKey};
use muster_trainer::checkpoint::{read_manifest, sign_files};
use support::{Ran, Site, run};

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";

struct Fake;

impl Authorizer for Fake {
    async fn may(&self, _: &User, wanted: &Wanted<'_>) -> Result<(), Refusal> {
        match wanted.namespace {
            "team-a" => Ok(()),
            _ => Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", "you may not; ask the hub's admin")),
        }
    }
}

impl Jobs for Fake {
    async fn uid(&self, _: &str, name: &str) -> Result<Option<String>, Refusal> {
        Ok((name == "kjv-gpt").then(|| JOB.to_owned()))
    }

    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, Refusal> {
        Ok(Namespace::new(name, "11111111-0000-4000-8000-000000000000").ok())
    }
}

/// A gateway that cuts off the bodies of the first answers to GET of a blob.
struct Gateway {
    store: Arc<Store>,
    log: Arc<Log>,
    flags: Vec<String>,
    cuts: Arc<AtomicUsize>,
    puts: Arc<AtomicUsize>,
    ranges: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Gateway {
    fn start(dir: &Path) -> Self {
        muster::runtime::client::install_crypto();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let authority = Authority::open(&dir.join("gateway"), "test").unwrap();
        let store = Arc::new(runtime.block_on(Store::open(dir.join("store").as_path())).unwrap());
        let [cuts, puts, ranges]: [Arc<AtomicUsize>; 3] = Default::default();
        let (cut, put, range) = (cuts.clone(), puts.clone(), ranges.clone());
        let urls = Arc::new(Urls::open(&dir.join("gateway"), "https://127.0.0.1").unwrap());
        let log = Log::open(&dir.join("log"), "hub.example/log", Box::new(WellFormed)).unwrap();
        let log = Arc::new(log);
        let door = Door::new(Arc::new(Fake), Arc::new(Fake));
        let records = records::router(store.clone(), door.clone(), log.clone());
        let routes: Router = router(store.clone(), door, urls, 1 << 30).merge(records).layer(from_fn(
            move |mut request: Request, next: Next| {
                let (cut, put, range) = (cut.clone(), put.clone(), range.clone());
                async move {
                    if request
                        .headers()
                        .get(header::AUTHORIZATION)
                        .is_none_or(|value| value != "Bearer secret")
                    {
                        return Refusal::new(StatusCode::UNAUTHORIZED, "BadToken", "get another")
                            .into_response();
                    }
                    let is_blob = request.uri().path().contains("/blobs/");
                    let method = request.method().clone();
                    put.fetch_add(usize::from(is_blob && method == "PUT"), Ordering::SeqCst);
                    range.fetch_add(
                        usize::from(request.headers().contains_key(header::RANGE)),
                        Ordering::SeqCst,
                    );
                    request.extensions_mut().insert(User::default());
                    let answer = next.run(request).await;
                    let one_less = |left: usize| left.checked_sub(1);
                    let is_cut = is_blob
                        && method == "GET"
                        && cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
                    if is_cut { cut_off(answer).await } else { answer }
                }
            },
        ));
        let routes = routes.merge(muster::gateway::log::anyone(log.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let tls = authority.server(&["127.0.0.1".into()]).unwrap();
        runtime.spawn(async move {
            axum_server::from_tcp_rustls(listener, tls).unwrap().serve(routes.into_make_service()).await
        });
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        std::fs::write(at("ca.pem"), authority.pem()).unwrap();
        std::fs::write(at("token"), "secret\n").unwrap();
        let flags = ["--gateway", &url, "--gateway-ca", &at("ca.pem"), "--token-file", &at("token")];
        let flags = flags.map(str::to_owned).to_vec();
        Self { store, log, flags, cuts, puts, ranges, _runtime: runtime }
    }

    fn muster(&self, arguments: &[&str]) -> Ran {
        let flags = self.flags.iter().map(String::as_str);
        run(&arguments.iter().copied().chain(flags).collect::<Vec<_>>())
    }
}

/// Half of the body, then a broken connection.
async fn cut_off(answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 26).await.unwrap();
    let half = bytes.slice(..bytes.len() / 2);
    let pieces = futures::stream::unfold((half, 0), |(half, at)| async move {
        match at {
            0 => Some((Ok(half), (axum::body::Bytes::new(), 1))),
            _ => {
                // A reset overtakes what is not sent yet.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Some((Err(std::io::Error::other("cut")), (half, 2)))
            }
        }
    });
    Response::from_parts(parts, axum::body::Body::from_stream(pieces))
}

#[test]
fn a_dataset_is_pushed_once_and_replaced_only_when_asked() {
    let site = Site::new();
    let gateway = Gateway::start(&site.path(""));
    let made = run(&["data", "prepare", &site.at("text"), "--out", &site.at("set")]).succeeded();
    let pushed = gateway.muster(&["data", "push", "team-a/tiny", &site.at("set")]).succeeded();
    assert_eq!(pushed.stdout, made.stdout);
    let puts = gateway.puts.load(Ordering::SeqCst);
    assert_eq!(puts, 2, "one shard and the manifest");
    gateway.muster(&["data", "push", "team-a/tiny", &site.at("set")]).succeeded();
    assert_eq!(gateway.puts.load(Ordering::SeqCst), puts + 1, "the shard is there");
    let listed = gateway.muster(&["data", "list", "-n", "team-a"]).succeeded().stdout;
    assert!(listed.contains("team-a     tiny") && listed.contains(made.stdout.trim()), "{listed}");

    std::fs::write(site.path("other.txt"), "something else").unwrap();
    run(&["data", "prepare", &site.at("other.txt"), "--out", &site.at("other")]).succeeded();
    gateway.muster(&["data", "push", "team-a/tiny", &site.at("other")]).failed(1, &["--replace"]);
    gateway.muster(&["data", "push", "team-a/tiny", &site.at("other"), "--replace"]).succeeded();

    gateway
        .muster(&["data", "push", "team-b/tiny", &site.at("other")])
        .failed(1, &["403", "ask the hub's admin"]);
    gateway.muster(&["data", "push", "team-a/Tiny", &site.at("other")]).failed(2, &["DNS label"]);
    let shard = site.path("set/tokens-00000.bin");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    // Sent before, in its right form: nobody looks at the file again. Under its own digest it is not there.
    std::fs::remove_dir_all(site.path("store/blobs/sha256")).unwrap();
    std::fs::create_dir(site.path("store/blobs/sha256")).unwrap();
    gateway
        .muster(&["data", "push", "team-a/new", &site.at("set")])
        .failed(1, &["tokens-00000.bin", "corrupt"]);
}

/// Weights are pushed as the files that they are, from a directory of others or a run of ours.
#[test]
fn a_model_is_pushed_once_and_replaced_only_when_asked() {
    let site = Site::new();
    let gateway = Gateway::start(&site.path(""));
    site.train("job.yaml", "run", &[]).succeeded();
    run(&["export", &site.at("run"), "--out", &site.at("hf")]).succeeded();
    let push = |name: &str, dir: &str, more: &[&str]| {
        gateway.muster(&[&["model", "push", name, &site.at(dir)], more].concat())
    };
    let pushed = push("team-a/base", "hf", &[]).succeeded();
    assert!(pushed.stderr.contains("team-a/base: gpt2 ") && pushed.stderr.contains("StateRoot sha256:"));
    let puts = gateway.puts.load(Ordering::SeqCst);
    assert_eq!(puts, 3, "the manifest, config.json and the tensors");
    assert_eq!(push("team-a/base", "run", &[]).succeeded().stdout, pushed.stdout, "the same weights");
    assert_eq!(gateway.puts.load(Ordering::SeqCst), puts + 1, "the files are there");
    let listed = gateway.muster(&["model", "list", "-n", "team-a"]).succeeded().stdout;
    assert!(listed.contains("team-a     base  gpt2 ") && listed.contains(pushed.stdout.trim()), "{listed}");
    assert!(!gateway.muster(&["data", "list", "-n", "team-a"]).succeeded().stdout.contains("base"));

    let more = ["--dtype", "bf16", "--max-shard-size", "10kB"];
    run(&[&["export", &site.at("run"), "--out", &site.at("halves")][..], &more].concat()).succeeded();
    push("team-a/base", "halves", &[]).failed(1, &["team-a/base is another model", "--replace"]);
    assert_ne!(push("team-a/base", "halves", &["--replace"]).succeeded().stdout, pushed.stdout);

    push("team-b/base", "hf", &[]).failed(1, &["403", "ask the hub's admin"]);
    push("team-a/Base", "hf", &[]).failed(2, &["DNS label"]);
    push("team-a/base", "nowhere", &[]).failed(67, &["nowhere/config.json"]);
    let tensors = site.path("hf/model.safetensors");
    let bytes = std::fs::read(&tensors).unwrap();
    std::fs::write(&tensors, &bytes[..bytes.len() - 1]).unwrap();
    push("team-a/base", "hf", &[]).failed(67, &["model.safetensors"]);
}

#[test]
fn a_checkpoint_comes_back_through_broken_connections() {
    let site = Site::new();
    let root = site.train("job.yaml", "run", &[]).succeeded().state_root();
    let gateway = Gateway::start(&site.path(""));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        for step in [20, 24] {
            let dir = site.path(&format!("run/checkpoints/step-{step:08}"));
            let (_, manifest) = muster_trainer::checkpoint::read_manifest(&dir).unwrap();
            for file in std::fs::read_dir(&dir).unwrap() {
                gateway.store.put_bytes(std::fs::read(file.unwrap().path()).unwrap()).await.unwrap();
            }
            let recorded = gateway.store.record_checkpoint(JOB, step, &manifest).await.unwrap();
            assert_eq!(recorded, Recorded::New);
        }
    });
    gateway.cuts.store(3, Ordering::SeqCst);
    let get = |out: &str, more: &[&str]| {
        let out = site.at(out);
        let mut all = vec!["download", "team-a/kjv-gpt", "--out", &out];
        all.extend(more);
        gateway.muster(&all)
    };
    assert_eq!(get("newest", &[]).succeeded().state_root(), root);
    assert!(gateway.ranges.load(Ordering::SeqCst) > 0, "what had arrived was not fetched again");
    assert_eq!(get("newest", &[]).succeeded().state_root(), root, "it is there already");
    let leftovers: Vec<_> =
        std::fs::read_dir(site.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(leftovers.iter().all(|name| !name.to_string_lossy().ends_with(".partial")), "{leftovers:?}");

    // Cut off for good, with litter of another checkpoint and damage in what had arrived; then the same command again.
    let (_, manifest) =
        muster_trainer::checkpoint::read_manifest(&site.path("run/checkpoints/step-00000020")).unwrap();
    let partial = site.path(".older.partial");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("litter.part"), "of another step").unwrap();
    std::fs::write(partial.join(format!("{}.part", manifest.to_hex())), "not the manifest").unwrap();
    assert_ne!(get("older", &["--step", "20"]).succeeded().state_root(), root);
    let same =
        |a: &str, b: &str| std::fs::read(site.path(a)).unwrap() == std::fs::read(site.path(b)).unwrap();
    assert!(same("older/model.safetensors", "run/checkpoints/step-00000020/model.safetensors"));

    get("older", &[]).failed(1, &["holds something else"]);
    get("none", &["--step", "7"]).failed(1, &["it has 20, 24"]);
    let missing = gateway.muster(&["download", "team-a/other", "--out", &site.at("x")]);
    missing.failed(1, &["404", "team-a/other"]);
    std::fs::write(site.path("token"), "wrong").unwrap();
    get("x", &[]).failed(1, &["401 BadToken", "get another"]);
    assert_eq!(Digest::of(&std::fs::read(site.path("older/manifest.json")).unwrap()), manifest);
}

struct One(VerifierKey);

impl Witnesses for One {
    fn witness_keys(&self) -> Vec<(String, VerifierKey)> {
        vec![("east".to_owned(), self.0.clone())]
    }
}

/// Puts the newest state of the run, logs its commit by this key and leaves what it says of the files, as the gateway does.
async fn commit(gateway: &Gateway, dir: &Path, key: &SigningKey) {
    let (manifest, digest) = read_manifest(dir).unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        gateway.store.put_bytes(std::fs::read(file.unwrap().path()).unwrap()).await.unwrap();
    }
    gateway.store.record_checkpoint(JOB, manifest.step(), &digest).await.unwrap();
    let commit = Commit {
        job: JobId(Digest::of(b"job")),
        island: Island::new(0).unwrap(),
        epoch: Epoch::new(1).unwrap(),
        interval: Interval::new(0).unwrap(),
        first_step: Step::new(1).unwrap(),
        last_step: Step::new(manifest.step()).unwrap(),
        previous: Digest::of(b"before"),
        state_root: manifest.state_root(),
        record_seal: Digest::of(b"seal"),
        manifest: digest,
        ends: false,
    };
    let envelope = commit.sign(key).unwrap();
    let record = envelope.record_id();
    let submission = Submission { envelope, known: vec![key.public().clone()] };
    let index = gateway.log.append(submission).await.unwrap();
    let noted = Noted::Logged(Entry { record, index });
    gateway.store.note_commit(JOB, manifest.step(), &noted).await.unwrap();
    let model = sign_files(&manifest, &digest, key).unwrap();
    gateway.store.leave_model(JOB, manifest.step(), &model).await.unwrap();
}

#[test]
fn what_is_signed_comes_with_the_checkpoint_and_is_verified() {
    let site = Site::new();
    site.train("job.yaml", "run", &[]).succeeded();
    let gateway = Gateway::start(&site.path(""));
    let (key, other) = (SigningKey::generate([3; 32]).unwrap(), SigningKey::generate([4; 32]).unwrap());
    let trained = site.path("run/checkpoints/step-00000024");
    tokio::runtime::Runtime::new().unwrap().block_on(commit(&gateway, &trained, &key));
    let out = site.at("taken");
    let get = || gateway.muster(&["download", "team-a/kjv-gpt", "--out", &out, "--wait", "0"]).succeeded();
    let said = get().stderr;
    assert!(said.contains("no witness has cosigned") && said.contains("signed the files"), "{said}");

    // A witness comes later; the same command brings its cosignature.
    let name =
        |name: &str, seed| NoteKey::new(KeyName::new(name).unwrap(), Algorithm::CosignatureV1, [seed; 32]);
    let (witness, stranger) = (name("muster-agent/east", 5), name("muster-agent/west", 6));
    let head = gateway.log.view().published.newest().unwrap().note.to_string();
    let signed = SignedCheckpoint::open(head.as_bytes(), &[gateway.log.key().clone()]).unwrap();
    let line = signed.cosign(&witness, 5).unwrap().to_string();
    gateway
        .log
        .cosign(1, format!("{}\n", line.trim_end()).as_bytes(), &One(witness.public().clone()))
        .unwrap();
    let policy =
        |witness: &NoteKey| format!("log {}\nwitness W {}\nquorum W\n", gateway.log.key(), witness.public());
    std::fs::write(site.path("policy"), policy(&witness)).unwrap();
    std::fs::write(site.path("strict"), policy(&stranger)).unwrap();
    std::fs::write(site.path("key.pem"), key.public().to_pem().unwrap()).unwrap();
    std::fs::write(site.path("other.pem"), other.public().to_pem().unwrap()).unwrap();
    let (policy, strict, key, other) =
        (site.at("policy"), site.at("strict"), site.at("key.pem"), site.at("other.pem"));
    let verify = |more: &[&str]| run(&[&["verify", "checkpoint", &out], more].concat());
    verify(&["--policy", &policy]).failed(3, &[]);
    assert!(get().stderr.contains("cosigned 1 times"));

    let ran = verify(&["--policy", &policy]).succeeded();
    for want in ["entry 0 of hub.example/log", "with which the log has the commit, signed all files"] {
        assert!(ran.stdout.contains(want), "{ran:?}");
    }
    verify(&["--key", &key]).succeeded();
    verify(&["--key", &key, "--policy", &policy]).succeeded();
    let ran = verify(&[]).failed(3, &[]);
    assert!(ran.stdout.contains("give --key"), "{ran:?}");
    verify(&["--key", &other]).failed(1, &[]);
    verify(&["--key", &other, "--policy", &policy]).failed(1, &[]);
    verify(&["--policy", &strict]).failed(3, &[]);

    // Another state's proof, a file that is not signed for, and none of them.
    let proof = site.path("taken/commit.tlog-proof");
    let good = std::fs::read_to_string(&proof).unwrap();
    std::fs::write(&proof, good.replace("index 0", "index 1")).unwrap();
    verify(&["--policy", &policy]).failed(1, &[]);
    std::fs::remove_file(&proof).unwrap();
    let ran = verify(&["--key", &key, "--policy", &policy]).failed(3, &[]);
    assert!(ran.stdout.contains("commit.tlog-proof"), "{ran:?}");
    std::fs::write(site.path("taken/model.sig"), "{}").unwrap();
    verify(&["--key", &key]).failed(1, &[]);
    std::fs::remove_file(site.path("taken/model.sig")).unwrap();
    verify(&["--key", &key]).failed(3, &[]);
    verify(&[]).succeeded();
    get();
    verify(&["--policy", &policy]).succeeded();
}

#[test]
fn without_a_token_the_remedy_is_named() {
    let site = Site::new();
    let config = "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n\
                  contexts: [{name: a, context: {cluster: c, user: u}}]\ncurrent-context: a\n";
    std::fs::write(site.path("config"), config).unwrap();
    std::fs::write(site.path("ca.pem"), "").unwrap();
    let out = [
        "--kubeconfig",
        &site.at("config"),
        "--gateway",
        "https://127.0.0.1:1",
        "--gateway-ca",
        &site.at("ca.pem"),
    ];
    let ask = |user: &str| {
        std::fs::write(site.path("config"), config.replace("user: {}", &format!("user: {user}"))).unwrap();
        run(&[&["data", "list", "-n", "team-a"], &out[..]].concat())
    };
    ask("{}").failed(1, &["kubectl create token", "--token-file"]);
    ask("{username: a, password: b}").failed(1, &["kubectl create token"]);
    ask("{exec: {apiVersion: client.authentication.k8s.io/v1, command: 'false', interactiveMode: Never}}")
        .failed(1, &["false", "--token-file"]);
}
