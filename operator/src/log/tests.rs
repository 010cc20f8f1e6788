use std::collections::BTreeMap;
use std::sync::OnceLock;

use muster_proof::key::SigningKey;
use muster_proof::merkle::verify_consistency;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::note::{Algorithm, KeyName};
use muster_proof::tlog::read::{TileSource, consistency, inclusion};

use super::admit::WellFormed;
use super::cosignatures::Witnesses;
use super::testing::{End, MemoryDisk};
use super::*;

const TYPE: &str = "application/vnd.muster.test.v1+json";

fn signer() -> SigningKey {
    SigningKey::generate([3; 32]).unwrap()
}

fn log_key() -> NoteKey {
    NoteKey::new(KeyName::new("hub.example/log").unwrap(), Algorithm::Ed25519, [5; 32])
}

fn submission(text: &str) -> Submission {
    let key = signer();
    let envelope = Envelope::sign(TYPE, text.as_bytes(), &key).unwrap();
    Submission { envelope, known: vec![key.public().clone()] }
}

/// The first records of all tests: to sign them is most of the time.
fn records(n: usize) -> Vec<Submission> {
    static ALL: OnceLock<Vec<Submission>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..264).map(|i| submission(&format!("{{\"n\":{i}}}"))).collect());
    all[..n].to_vec()
}

fn open(disk: &MemoryDisk) -> Result<Log, LogError> {
    Log::on(Arc::new(disk.clone()), log_key(), Box::new(WellFormed))
}

/// What readers and submitters were told before a crash.
#[derive(Debug, Default, Clone)]
struct Told {
    heads: Vec<Head>,
    indices: BTreeMap<Digest, u64>,
}

impl Told {
    /// Opens the log and appends these batches, until the disk stops.
    fn run(&mut self, disk: &MemoryDisk, batches: &[Vec<Submission>]) -> Result<(), LogError> {
        let view = LogView::default();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let opened = super::writer(&shared, log_key(), Box::new(WellFormed), &view);
        // Whoever asks while it takes over entries sees the heads that it publishes.
        self.heads.extend(view.published.newest());
        let mut writer = opened?;
        for batch in batches {
            let mut waiting = Vec::new();
            let mut told = Vec::new();
            for submission in batch {
                let (answer, receiver) = oneshot::channel();
                told.push((submission.envelope.record_id(), receiver));
                waiting.push(Waiting { submission: submission.clone(), since: Instant::now(), answer });
            }
            let written = writer.batch(waiting);
            self.heads.extend(view.published.newest());
            for (record, mut receiver) in told {
                if let Ok(Ok(index)) = receiver.try_recv() {
                    assert_eq!(*self.indices.entry(record).or_insert(index), index);
                }
            }
            written?;
        }
        Ok(())
    }

    /// All of it still holds.
    fn check(&self, disk: &MemoryDisk, log: &Log, what: &str) {
        let newest = log.view().published.newest().unwrap();
        for head in &self.heads {
            let mut tiles = Files(disk.clone());
            let proof = consistency(head.size, newest.size, Some(&newest.root), &mut tiles).expect(what);
            let holds = verify_consistency(head.size, &head.root, newest.size, &newest.root, &proof);
            assert!(holds, "{what}: {} to {}", head.size, newest.size);
        }
        for (record, index) in &self.indices {
            let (at, envelope) =
                log.entry(record).unwrap().unwrap_or_else(|| panic!("{what}: {record} is lost"));
            assert_eq!((at, envelope.record_id()), (*index, *record), "{what}");
        }
        let report = fsck::check(disk, log.key()).unwrap();
        assert_eq!(report.problems, Vec::<String>::new(), "{what}");
        assert_eq!(report.entries, newest.size, "{what}");
    }
}

/// The tiles of a disk, as the pure verifier reads them.
struct Files(MemoryDisk);

impl TileSource for Files {
    type Error = io::Error;

    fn tile(&mut self, tile: Tile) -> io::Result<Vec<u8>> {
        let read = |tile: Tile| self.0.read(&tile.to_string(), read::MAX_TILE);
        let found = match read(tile)? {
            Some(bytes) => Some(bytes),
            None => tile.full().map(read).transpose()?.flatten(),
        };
        found.ok_or_else(|| io::Error::other(format!("{tile} is missing")))
    }
}

fn ends(n: usize) -> [End; 5] {
    let seed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [End::Killed, End::Lost, End::Kept, End::Torn(seed), End::Torn(seed ^ 0x5555)]
}

/// At every operation of a run the disk stops, and comes back in each of the ways in which disks do.
#[test]
fn a_crash_anywhere_loses_nothing_that_was_told() {
    let all = records(7);
    let batches = [all[..2].to_vec(), all[2..3].to_vec(), all[3..7].to_vec()];
    let whole = MemoryDisk::default();
    Told::default().run(&whole, &batches).unwrap();
    let operations = whole.operations();
    assert!(operations > 60, "{operations}");
    for n in 0..operations {
        let (disk, mut told) = (MemoryDisk::default(), Told::default());
        disk.stop_after(n);
        told.run(&disk, &batches).unwrap_err();
        for end in ends(n) {
            let what = format!("operation {n}, {end:?}");
            let again = disk.restart(end);
            let log = open(&again).unwrap_or_else(|error| panic!("{what}: {error}"));
            told.check(&again, &log, &what);
            drop(log);
            // It goes on, and ends where the run without a crash did, whatever the order of what nobody was told.
            let mut told = told.clone();
            told.run(&again, &batches).unwrap();
            assert_eq!(told.heads.last().map(|head| head.size), Some(7), "{what}");
            told.check(&again, &open(&again).unwrap(), &what);
        }
    }
}

/// The process is killed, its successor shows what it finds, is stopped too, and then the power goes: what was shown must hold,
/// though the first had not made it durable.
#[test]
fn a_crash_of_the_start_loses_nothing_either() {
    let all = records(5);
    let batches = [all[..2].to_vec(), all[2..].to_vec()];
    let whole = MemoryDisk::default();
    Told::default().run(&whole, &batches).unwrap();
    for n in 0..whole.operations() {
        let (disk, mut told) = (MemoryDisk::default(), Told::default());
        disk.stop_after(n);
        told.run(&disk, &batches).unwrap_err();
        let second = disk.restart(End::Killed);
        let mut m = 0;
        loop {
            let (second, mut told) = (second.restart(End::Killed), told.clone());
            second.stop_after(m);
            let ended = told.run(&second, &[]);
            for end in [End::Lost, End::Torn(m as u64 + 1)] {
                let what = format!("operation {n}, then {m}, {end:?}");
                let third = second.restart(end);
                let log = open(&third).unwrap_or_else(|error| panic!("{what}: {error}"));
                told.check(&third, &log, &what);
            }
            if ended.is_ok() {
                break;
            }
            m += 1;
        }
    }
}

/// Where a tile becomes full its partial ones go; a sample of crashes there, since each start reads 256 entries.
#[test]
fn a_crash_where_tiles_become_full() {
    /// The partial tiles and the entries' that go.
    const REMOVED: usize = 2;
    let all = records(260);
    let base = MemoryDisk::default();
    let mut before = Told::default();
    before.run(&base, &[all[..254].to_vec()]).unwrap();
    let batches = [all[254..255].to_vec(), all[255..260].to_vec()];
    let whole = base.restart(End::Killed);
    before.clone().run(&whole, &batches).unwrap();
    assert!(!whole.files().keys().any(|path| path.contains("000.p/25")), "{:?}", whole.files().keys());
    let operations = whole.operations();
    for n in (0..operations).step_by(5).chain(operations.saturating_sub(8)..operations) {
        let (disk, mut told) = (base.restart(End::Killed), before.clone());
        disk.stop_after(n);
        // Only the removal of what a full tile made superfluous is given up without a word.
        assert!(
            told.run(&disk, &batches).is_err() || operations - n <= REMOVED,
            "operation {n} of {operations}"
        );
        let end = ends(n)[n % 5];
        let what = format!("operation {n}, {end:?}");
        let again = disk.restart(end);
        let log = open(&again).unwrap_or_else(|error| panic!("{what}: {error}"));
        told.check(&again, &log, &what);
    }
}

/// Records whose text says so are refused.
struct Picky(Vec<u64>);

impl Admit for Picky {
    fn admit(&mut self, index: u64, envelope: &Envelope) -> Result<(), Refusal> {
        if envelope.unverified_payload().starts_with(b"bad") {
            return Err(Refusal::conflict("TooBad", "not this one; send a good one"));
        }
        assert_eq!(index, self.0.len() as u64, "in order, and without a gap");
        self.0.push(index);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_append_at_once() {
    const TASKS: usize = 64;
    const EACH: usize = 50;
    let disk = MemoryDisk::default();
    let log = Arc::new(Log::on(Arc::new(disk.clone()), log_key(), Box::new(Picky(Vec::new()))).unwrap());
    let tasks = (0..TASKS).map(|task| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut got = Vec::new();
            for i in 0..EACH {
                // Every fifth is refused, every seventh is everybody's.
                let text = match (i % 5, i % 7) {
                    (0, _) => format!("bad {task} {i}"),
                    (_, 0) => format!("common {i}"),
                    _ => format!("own {task} {i}"),
                };
                let submission = submission(&text);
                let record = submission.envelope.record_id();
                match log.append(submission).await {
                    Ok(index) => {
                        assert!(!text.starts_with("bad"));
                        assert_eq!(
                            log.view().published.index(&record),
                            Some(index),
                            "answered when published"
                        );
                        got.push((record, index));
                    }
                    Err(AppendError::Refused(refusal)) => {
                        assert!(text.starts_with("bad") && refusal.reason == "TooBad", "{text}: {refusal}");
                    }
                    Err(other) => panic!("{text}: {other}"),
                }
            }
            got
        })
    });
    let mut indices = BTreeMap::new();
    for task in tasks.collect::<Vec<_>>() {
        for (record, index) in task.await.unwrap() {
            assert_eq!(*indices.entry(record).or_insert(index), index, "one record, one index");
        }
    }
    let common = (0..EACH).filter(|i| i % 5 != 0 && i % 7 == 0).count();
    let own = (0..EACH).filter(|i| i % 5 != 0 && i % 7 != 0).count();
    let size = u64::try_from(common + own * TASKS).unwrap();
    assert_eq!(log.view().published.size(), size);
    let mut all: Vec<_> = indices.values().copied().collect();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..size), "refusals and duplicates leave no gap");
    let told = Told { heads: log.view().published.head(0).into_iter().collect(), indices };
    drop(Arc::into_inner(log).unwrap());
    let log = Log::on(Arc::new(disk.clone()), log_key(), Box::new(Picky(Vec::new()))).unwrap();
    told.check(&disk, &log, "again");
    let text = log.view().published.newest().unwrap().note;
    let head = SignedCheckpoint::open(text.as_bytes(), std::slice::from_ref(log.key())).unwrap();
    let root = head.checkpoint().root();
    let (leaf, path) = inclusion(77, size, Some(root), &mut Files(disk)).unwrap();
    assert!(muster_proof::merkle::verify(root, 77, size, &leaf, &path));
}

#[tokio::test]
async fn what_is_no_good_gets_no_index() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    let good = submission("one");
    let stranger = SigningKey::generate([4; 32]).unwrap();
    let unknown = Submission { known: vec![stranger.public().clone()], ..good.clone() };
    let reason = |told: Result<u64, AppendError>| match told {
        Err(AppendError::Refused(refusal)) => refusal.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(log.append(unknown).await), "UnknownSigner");
    // A signature of another record, in a good key's name.
    let json = String::from_utf8(good.envelope.to_json().unwrap()).unwrap();
    let other = String::from_utf8(submission("two").envelope.to_json().unwrap()).unwrap();
    let payload = |json: &str| json.split('"').nth(3).unwrap().to_owned();
    let forged = json.replace(&payload(&json), &payload(&other));
    let forged = Envelope::parse(forged.as_bytes(), 4096).unwrap();
    let told = log.append(Submission { envelope: forged, ..good.clone() }).await;
    assert_eq!(reason(told), "BadSignature");
    assert_eq!(log.append(good.clone()).await, Ok(0));
    assert_eq!(log.append(good).await, Ok(0), "the same record, the same index");
    assert_eq!(log.append(submission("two")).await, Ok(1));
    let (metrics, path) = (&log.view().metrics, |text: &str| text.parse::<Resource>().unwrap());
    assert_eq!((metrics.appends.get(), metrics.duplicates.get(), metrics.refusals.get()), (2, 1, 2));
    assert_eq!(log.tile(&path("tile/0/000.p/2")).unwrap().map(|bytes| bytes.len()), Some(64));
    assert!(log.tile(&path("tile/entries/000.p/1")).unwrap().is_some(), "of the head before");
    for absent in ["tile/0/000.p/3", "tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1"] {
        assert_eq!(log.tile(&path(absent)).unwrap(), None, "{absent}");
    }
    // The disk fails: nobody is told anything good any more.
    disk.stop_after(3);
    assert!(matches!(log.append(submission("three")).await, Err(AppendError::Stopped(_))));
    assert!(log.view().published.until_stopped().await.contains("stopped"));
    assert!(matches!(log.append(submission("four")).await, Err(AppendError::Stopped(_))));
    assert_eq!(log.view().published.size(), 2);
}

#[test]
fn damage_is_named_refused_and_tiles_are_made_anew() {
    let disk = MemoryDisk::default();
    let mut told = Told::default();
    told.run(&disk, &[records(3)]).unwrap();
    let files = disk.files();
    let key = log_key();
    let problems = |disk: &MemoryDisk| fsck::check(disk, key.public()).unwrap().problems;
    assert!(problems(&disk).is_empty());
    let envelope = layout::envelope(&records(1)[0].envelope.record_id());
    for path in files.keys() {
        let broken = disk.restart(End::Kept);
        broken.damage(path, |bytes| bytes[20] ^= 1);
        let found = problems(&broken);
        assert!(found.iter().any(|problem| problem.contains(path.as_str())), "{path}: {found:?}");
        let error = open(&broken).unwrap_err().to_string();
        assert!(error.contains("fsck"), "{path}: {error}");
        let rebuilt = fsck::rebuild(&broken, &key);
        if path.starts_with("tile/0/") {
            assert_eq!(rebuilt.unwrap(), 3);
            told.check(&broken, &open(&broken).unwrap(), path);
        } else {
            rebuilt.unwrap_err();
        }
        let gone = disk.restart(End::Kept);
        gone.remove(path).unwrap();
        assert!(!problems(&gone).is_empty(), "{path}");
        assert!(open(&gone).is_err(), "{path}");
    }
    assert!(files.contains_key(&envelope));
    // Without a head all that is there is taken, and it is the same head.
    disk.remove(layout::CHECKPOINT).unwrap();
    assert!(matches!(open(&disk), Err(LogError::Recover(RecoverError::NoCheckpoint))));
    assert_eq!(fsck::rebuild(&disk, &key).unwrap(), 3);
    assert_eq!(disk.files(), files);
}

struct Known(VerifierKey);

impl Witnesses for Known {
    fn witness_keys(&self) -> Vec<(String, VerifierKey)> {
        vec![("east".to_owned(), self.0.clone())]
    }
}

#[tokio::test]
async fn cosignatures_are_checked_and_kept() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    log.append(submission("one")).await.unwrap();
    let head = log.view().published.newest().unwrap();
    let opened = SignedCheckpoint::open(head.note.as_bytes(), std::slice::from_ref(log.key())).unwrap();
    let witness = |seed: u8| {
        let name = KeyName::new(&format!("witness.example/{seed}")).unwrap();
        NoteKey::new(name, Algorithm::CosignatureV1, [seed; 32])
    };
    let (east, stranger) = (witness(1), witness(2));
    let known = Known(east.public().clone());
    let line = opened.cosign(&east, 1000).unwrap().to_string();
    assert!(log.cosignatures().newest(1).is_none());
    let add = |size: u64, line: &str| log.cosign(size, line.as_bytes(), &known);
    let foreign = opened.cosign(&stranger, 1000).unwrap().to_string();
    assert!(matches!(add(1, &foreign), Err(CosignError::UnknownWitness { line: 1, .. })));
    assert!(matches!(add(0, &line), Err(CosignError::Bad { size: 0, .. })), "of another head");
    assert!(matches!(add(2, &line), Err(CosignError::UnknownHead(2))));
    assert!(matches!(add(1, "nonsense\n"), Err(CosignError::Lines(_))));
    assert_eq!(add(1, &line).unwrap(), 1);
    assert_eq!(add(1, &line).unwrap(), 0, "the same again");
    log.append(submission("two")).await.unwrap();
    let newest = log.cosignatures().newest(1).unwrap();
    assert_eq!(newest.checkpoint().size(), 1);
    assert_eq!(newest.cosigned_by(east.public()).unwrap(), Some(1000));
    assert!(log.cosignatures().newest(2).is_none());
    drop(log);
    // They survive a power cut, and a log that is older than what was cosigned does not start.
    let again = disk.restart(End::Lost);
    let log = open(&again).unwrap();
    assert_eq!(log.cosignatures().newest(1), Some(newest));
    drop(log);
    assert!(fsck::check(&again, log_key().public()).unwrap().problems.is_empty());
    let (empty, note) = (MemoryDisk::default(), again.files()["cosignatures/1"].clone());
    drop(open(&empty).unwrap());
    empty.make_folder("cosignatures").unwrap();
    empty.write("cosignatures/1", &note).unwrap();
    let error = open(&empty).unwrap_err().to_string();
    assert!(error.contains("went back") && error.contains("cosignatures/1"), "{error}");
    assert!(fsck::check(&empty, log_key().public()).unwrap().problems[0].contains("went back"));
}

#[tokio::test]
async fn a_directory_is_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = Log::open(&path, "hub.example/log", Box::new(WellFormed)).unwrap();
    assert_eq!(log.append(submission("one")).await, Ok(0));
    assert!(matches!(
        Log::open(&path, "hub.example/log", Box::new(WellFormed)),
        Err(LogError::Home(HomeError::Locked(_)))
    ));
    drop(log);
    let log = Log::open(&path, "hub.example/log", Box::new(WellFormed)).unwrap();
    let (one, two) = (log.append(submission("one")), log.append(submission("two")));
    assert_eq!(tokio::join!(one, two), (Ok(0), Ok(1)));
    let (disk, key) = Home::look(&path).unwrap();
    let report = fsck::check(&disk, key.public()).unwrap();
    assert_eq!((report.problems, report.entries, report.orphans), (vec![], 2, 0));
    assert!(path.join("tile/entries/000.p/2").exists());
}
