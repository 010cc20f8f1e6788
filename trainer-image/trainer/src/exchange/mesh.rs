//! A connection to every other worker: rank i calls every j < i and is called by every j > i.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::handshake::{Identity, Key, Peer, Refused, shake};
use super::link::Link;
use super::wire::Lengths;
use super::{Error, MEETING};

/// How long a stranger may take for its handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// Strangers shaken hands with at the same time; more are turned away.
const STRANGERS: usize = 64;

/// A bound port that nobody is admitted to yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bound = TcpListener::bind(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        match bound {
            Ok((address, socket)) => Ok(Self { socket, address }),
            Err(source) => Err(Error::Listen { address: address.to_string(), source }),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Connections to all other workers of a run, by rank.
#[derive(Debug)]
pub struct Mesh {
    me: Identity,
    links: BTreeMap<u32, Link>,
}

type Proven = (TcpStream, Result<Peer, Refused>);

impl Mesh {
    /// A run of one worker.
    pub fn alone(me: Identity) -> Self {
        Self { me, links: BTreeMap::new() }
    }

    /// Meets all other workers. `lengths` says how long the frames from a rank are; `stop` ends the waiting.
    /// Strangers without the key are turned away and reported by `warn`; they do not disturb.
    pub(super) fn meet(
        listener: Listener,
        me: Identity,
        addresses: &[SocketAddr],
        key: &Key,
        lengths: &dyn Fn(u32) -> Lengths,
        stop: &AtomicBool,
        warn: &dyn Fn(String),
    ) -> Result<Self, Error> {
        if addresses.len() != me.workers as usize {
            let problem = format!("{} addresses of peers for {} workers", addresses.len(), me.workers);
            return Err(Error::Setup(problem));
        }
        let deadline = Instant::now() + MEETING;
        let (found, proven) = channel();
        let done = Arc::new(AtomicBool::new(false));
        let accepting = accept(listener, me, key.clone(), found.clone(), done.clone());
        for (rank, address) in (0..me.rank).zip(addresses) {
            call(*address, me, rank, key.clone(), found.clone(), done.clone(), deadline);
        }
        drop(found);
        let links = gather(me, &proven, lengths, deadline, stop, warn);
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
    proven: &Receiver<Proven>,
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
        let (stream, peer) = match proven.recv_timeout(Duration::from_millis(100)) {
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
                let link = Link::start(stream, me.rank, rank, &peer.session, lengths(rank))
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
    listener: Listener,
    me: Identity,
    key: Key,
    found: Sender<Proven>,
    done: Arc<AtomicBool>,
) -> io::Result<thread::JoinHandle<()>> {
    listener.socket.set_nonblocking(true)?;
    let strangers = Arc::new(AtomicUsize::new(0));
    thread::Builder::new().name("accept".into()).spawn(move || {
        while !done.load(Ordering::Acquire) {
            let Ok((mut stream, _)) = listener.socket.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            if strangers.fetch_add(1, Ordering::Relaxed) >= STRANGERS {
                strangers.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (key, found, counter) = (key.clone(), found.clone(), strangers.clone());
            let spawned = thread::Builder::new().name("stranger".into()).spawn(move || {
                let peer =
                    ready(&stream).map_err(Refused::Io).and_then(|()| shake(&mut stream, &key, &me, None));
                counter.fetch_sub(1, Ordering::Relaxed);
                drop(found.send((stream, peer)));
            });
            if spawned.is_err() {
                strangers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
}

/// Calls a peer until it answers, is proven to be somebody else, or time is up.
fn call(
    address: SocketAddr,
    me: Identity,
    rank: u32,
    key: Key,
    found: Sender<Proven>,
    done: Arc<AtomicBool>,
    deadline: Instant,
) {
    let attempt = move || {
        while !done.load(Ordering::Acquire) && Instant::now() < deadline {
            let connected = TcpStream::connect_timeout(&address, PATIENCE);
            if let Ok(mut stream) = connected {
                let peer = ready(&stream)
                    .map_err(Refused::Io)
                    .and_then(|()| shake(&mut stream, &key, &me, Some(rank)));
                let again = matches!(peer, Err(Refused::Io(_)));
                if found.send((stream, peer)).is_err() || !again {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    };
    // If no thread can be had the peer is reported as absent.
    drop(thread::Builder::new().name(format!("call-{rank}")).spawn(attempt));
}

fn ready(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}
