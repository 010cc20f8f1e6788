//! A connection to every other worker: rank i calls every j < i and is called by every j > i.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use muster_proof::key::PublicKey;

use super::handshake::{self, Identity, PATIENCE, Proven, Refused};
use super::link::Link;
use super::tls::{Keys, WorkerKey};
use super::wire::Lengths;
use super::{Error, MEETING};
use crate::peers;
use crate::protocol::Peer;

/// Strangers shaken hands with at the same time; more are turned away.
const STRANGERS: usize = 64;

/// A bound port that nobody is admitted to yet, and this process's key, which the others must be told.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    key: WorkerKey,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one. Makes the key.
    ///
    /// # Errors
    /// [`Error::Listen`]; [`Error::Setup`] if no key can be made.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let key = WorkerKey::generate()?;
        let bound = TcpListener::bind(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        match bound {
            Ok((address, socket)) => Ok(Self { socket, address, key }),
            Err(source) => Err(Error::Listen { address: address.to_string(), source }),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key that this worker proves to hold.
    pub fn public_key(&self) -> &PublicKey {
        self.key.public()
    }
}

/// Connections to all other workers of a run, by rank.
#[derive(Debug)]
pub struct Mesh {
    me: Identity,
    links: BTreeMap<u32, Link>,
}

type Met = Result<Proven, Refused>;

impl Mesh {
    /// A run of one worker.
    pub fn alone(me: Identity) -> Self {
        Self { me, links: BTreeMap::new() }
    }

    /// Meets all other workers. `lengths` says how long the frames from a rank are; `stop` ends the waiting.
    /// Strangers without a key of the list are turned away and reported by `warn`; they do not disturb.
    pub(super) fn meet(
        listener: Listener,
        me: Identity,
        peers: &[Peer],
        lengths: &dyn Fn(u32) -> Lengths,
        stop: &AtomicBool,
        warn: &dyn Fn(String),
    ) -> Result<Self, Error> {
        let Listener { socket, key, .. } = listener;
        peers::check(peers, me.workers, me.rank, key.public().key_id())
            .map_err(|problem| Error::Setup(format!("the list of peers: {problem}")))?;
        let keys = Keys::new(key, me.rank, peers)
            .map_err(|error| Error::Setup(format!("TLS between the workers: {error}")))?;
        let keys = Arc::new(keys);
        let deadline = Instant::now() + MEETING;
        let (found, met) = channel();
        let done = Arc::new(AtomicBool::new(false));
        let accepting = accept(socket, me, keys.clone(), found.clone(), done.clone());
        for (rank, peer) in (0..me.rank).zip(peers) {
            call(rank, *peer, me, keys.clone(), found.clone(), done.clone(), deadline);
        }
        drop(found);
        let links = gather(me, &met, lengths, deadline, stop, warn);
        done.store(true, Ordering::Release);
        // The acceptor looks at `done` at least every few milliseconds; after it the port is closed.
        drop(accepting.map(thread::JoinHandle::join));
        Ok(Self { me, links: links? })
    }

    /// This worker and its run.
    pub fn identity(&self) -> &Identity {
        &self.me
    }

    /// The link to a peer.
    pub(super) fn link(&self, rank: u32) -> Result<&Link, Error> {
        self.links.get(&rank).ok_or_else(|| Error::Setup(format!("no link to worker {rank}")))
    }

    /// The other ranks, ascending.
    pub(super) fn peers(&self) -> impl Iterator<Item = u32> {
        self.links.keys().copied()
    }

    /// Ends all links after everything queued was sent. To be called when all workers are done with the same step.
    pub fn close(self) {
        // All at once: each waits for its peer's goodbye.
        thread::scope(|scope| {
            for link in self.links.into_values() {
                scope.spawn(|| link.close());
            }
        });
    }
}

fn gather(
    me: Identity,
    met: &Receiver<Met>,
    lengths: &dyn Fn(u32) -> Lengths,
    deadline: Instant,
    stop: &AtomicBool,
    warn: &dyn Fn(String),
) -> Result<BTreeMap<u32, Link>, Error> {
    let mut links = BTreeMap::new();
    while links.len() + 1 < me.workers as usize {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        if Instant::now() > deadline {
            let absent = (0..me.workers).filter(|rank| *rank != me.rank && !links.contains_key(rank));
            return Err(Error::Absent(absent.collect()));
        }
        let peer = match met.recv_timeout(Duration::from_millis(100)) {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(Duration::from_millis(50)); // all callers gave up; the deadline names the absent
                continue;
            }
        };
        match peer {
            Ok(peer) if links.contains_key(&peer.rank) => {
                warn(format!("worker {} came twice; the second connection is refused", peer.rank));
            }
            Ok(peer) => {
                let rank = peer.rank;
                let link = Link::start(peer, lengths(rank))
                    .map_err(|error| Error::Lost { rank, problem: error.to_string() })?;
                links.insert(rank, link);
            }
            Err(Refused::Differs(error)) => return Err(error),
            Err(Refused::NotProven(why)) => warn(format!("a connection was refused: {why}")),
            Err(Refused::Io(error)) => warn(format!("a connection came to nothing: {error}")),
        }
    }
    Ok(links)
}

/// Accepts strangers until `done`, each on a thread of its own, so that a silent one delays nobody.
fn accept(
    socket: TcpListener,
    me: Identity,
    keys: Arc<Keys>,
    found: Sender<Met>,
    done: Arc<AtomicBool>,
) -> io::Result<thread::JoinHandle<()>> {
    socket.set_nonblocking(true)?;
    let strangers = Arc::new(AtomicUsize::new(0));
    thread::Builder::new().name("accept".into()).spawn(move || {
        while !done.load(Ordering::Acquire) {
            let Ok((stream, _)) = socket.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            if strangers.fetch_add(1, Ordering::Relaxed) >= STRANGERS {
                strangers.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (keys, found, counter) = (keys.clone(), found.clone(), strangers.clone());
            let spawned = thread::Builder::new().name("stranger".into()).spawn(move || {
                let peer = handshake::answer(stream, &keys, &me);
                counter.fetch_sub(1, Ordering::Relaxed);
                drop(found.send(peer));
            });
            if spawned.is_err() {
                strangers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
}

/// Calls a peer until it answers, is proven to be somebody else, or time is up.
fn call(
    rank: u32,
    peer: Peer,
    me: Identity,
    keys: Arc<Keys>,
    found: Sender<Met>,
    done: Arc<AtomicBool>,
    deadline: Instant,
) {
    let attempt = move || {
        while !done.load(Ordering::Acquire) && Instant::now() < deadline {
            if let Ok(stream) = TcpStream::connect_timeout(&peer.address, PATIENCE) {
                let met = handshake::call(stream, &keys, &me, &peer);
                let again = matches!(met, Err(Refused::Io(_)));
                if found.send(met).is_err() || !again {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    };
    // If no thread can be had the peer is reported as absent.
    drop(thread::Builder::new().name(format!("call-{rank}")).spawn(attempt));
}
