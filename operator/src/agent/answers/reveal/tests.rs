use std::collections::BTreeMap;
use std::sync::Mutex;

use muster_proof::key::SigningKey;
use muster_proof::records::Record;
use muster_proof::records::fields::Nonce;

use super::*;
use crate::agent::units::locked;

/// What is due, and what the log says to a record; nothing else is due once it was taken.
#[derive(Debug, Default)]
struct Fake {
    due: Mutex<AuditsAnswer>,
    refuses: Mutex<BTreeMap<Digest, &'static str>>,
    taken: Mutex<Vec<(&'static str, Digest)>>,
    down: Mutex<bool>,
}

impl Desk for Arc<Fake> {
    fn due(&self) -> BoxFuture<'_, Result<AuditsAnswer, GatewayError>> {
        Box::pin(async move {
            match *locked(&self.down) {
                true => Err(GatewayError::Unreachable("taken down".to_owned())),
                false => Ok(locked(&self.due).clone()),
            }
        })
    }

    fn submit<'a>(&'a self, record: &'a Envelope) -> BoxFuture<'a, Result<u64, ClientError>> {
        Box::pin(async move {
            let (kind, of) = match Record::parse(record).unwrap() {
                Record::Opening(it) => ("opening", it.commit),
                Record::AuditOpening(it) => ("audit-opening", it.audit),
                other => panic!("{other:?}"),
            };
            if let Some(reason) = locked(&self.refuses).get(&of) {
                let (reason, message) = ((*reason).to_owned(), String::new());
                return Err(ClientError::Refused { status: 409, reason, message, retry_after: None });
            }
            let mut due = locked(&self.due);
            due.openings.retain(|one| *one != of);
            due.answers.retain(|one| *one != of);
            locked(&self.taken).push((kind, of));
            Ok(7)
        })
    }
}

fn of(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

struct World {
    _dir: tempfile::TempDir,
    desk: Arc<Fake>,
    answers: Arc<Answers>,
}

impl World {
    /// Two commits and a replay of ours are due, and one of each that nothing is known of.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::open(dir.path(), SigningKey::generate([3; 32]).unwrap()).unwrap();
        for name in ["c1", "c2", "c3"] {
            answers.keep_commit(&of(name), of("records"), Nonce::new([1; 32])).unwrap();
        }
        answers.keep_replay(&of("a1"), of("state"), of("records")).unwrap();
        let desk = Arc::new(Fake::default());
        let openings = ["c1", "lost", "c2"].map(of).to_vec();
        *locked(&desk.due) = AuditsAnswer { openings, answers: vec![of("a1"), of("gone")] };
        Self { _dir: dir, desk, answers: Arc::new(answers) }
    }

    fn revealer(&self) -> Revealer<Arc<Fake>> {
        Revealer::new(self.desk.clone(), self.answers.clone())
    }

    fn taken(&self) -> Vec<(&'static str, Digest)> {
        locked(&self.desk.taken).clone()
    }
}

#[tokio::test]
async fn what_is_due_is_shown_once_and_forgotten() {
    let world = World::new();
    let mut revealer = world.revealer();
    revealer.reveal().await.unwrap();
    let want = [("opening", of("c1")), ("opening", of("c2")), ("audit-opening", of("a1"))];
    assert_eq!(world.taken(), want);
    assert_eq!(revealer.missing, ["lost", "gone"].map(of).into());
    assert!(matches!(world.answers.opening(&of("c1")), Err(AnswerError::Nothing(_))));
    assert!(world.answers.opening(&of("c3")).is_ok(), "nobody has asked for it");
    revealer.reveal().await.unwrap();
    assert_eq!(world.taken().len(), 3);
}

/// A crash between the log's answer and the forgetting, an audit that has ended meanwhile, a log that is busy.
#[tokio::test]
async fn what_the_log_refuses_does_not_keep_the_rest_back() {
    let world = World::new();
    *locked(&world.desk.refuses) = BTreeMap::from([(of("c1"), "Known"), (of("c2"), "Decided")]);
    let mut revealer = world.revealer();
    revealer.reveal().await.unwrap();
    assert_eq!(world.taken(), [("audit-opening", of("a1"))]);
    assert!(matches!(world.answers.opening(&of("c1")), Err(AnswerError::Nothing(_))), "the log has it");
    locked(&world.desk.refuses).insert(of("c2"), "TooEarly");
    assert!(matches!(revealer.reveal().await, Err(RevealError::Log(_))));
    assert!(world.answers.opening(&of("c2")).is_ok(), "it is shown later");
    locked(&world.desk.refuses).remove(&of("c2"));
    revealer.reveal().await.unwrap();
    assert_eq!(world.taken()[1], ("opening", of("c2")));
}

#[tokio::test]
async fn asks_at_the_start_when_the_log_grows_and_after_trouble() {
    let world = World::new();
    *locked(&world.desk.down) = true;
    let (size, shutdown) = (watch::Sender::new(0), Shutdown::manual());
    let revealer = Revealer { again: Duration::from_millis(20), ..world.revealer() };
    let running = tokio::spawn(revealer.run(size.subscribe(), shutdown.clone()));
    let shown = async |count: usize| {
        for _ in 0..500 {
            if world.taken().len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", world.taken());
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    *locked(&world.desk.down) = false;
    shown(3).await;
    locked(&world.desk.due).openings.push(of("c3"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.taken().len(), 3, "the log has not grown");
    size.send_replace(9);
    shown(4).await;
    shutdown.trigger();
    running.await.unwrap();
}
