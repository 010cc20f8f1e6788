use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::isa::Isa;
use muster_numerics::optim::Optimizer;
use muster_numerics::reduce::SubtreeAccumulator;
use muster_numerics::spec::{
    Architecture, Arithmetic, HyperParameters, ModelSpec, ScheduleName, TiedEmbeddings,
};
use muster_proof::Digest;

use super::duplex::Outgoing;
use super::handshake::{self, Proven};
use super::tls::{Keys, WorkerKey};
use super::wire::{self, Frame, Kind};
use super::*;
use crate::failure::Failure;
use crate::protocol::{ExitCode, Peer};

mod strangers;

const SHARDS: u64 = 8;

/// About `width * 3000` parameters; 16 is small, larger ones make frames that exceed the sockets' buffers.
fn graph(width: u64) -> Graph {
    let model = ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 1,
        width,
        heads: 2,
        context: 8,
        vocabulary: 2000,
        tied_embeddings: TiedEmbeddings::Tied,
        llama: None,
    };
    Graph::build(&model, StepShape { batch: SHARDS, shards: SHARDS }, Arithmetic::F32Chain).unwrap()
}

fn identity(rank: u32, workers: u32) -> Identity {
    Identity { rank, workers, step: 3, training_digest: Digest::of(b"job") }
}

fn hyper() -> HyperParameters {
    HyperParameters {
        steps: 20,
        warmup_steps: 0,
        schedule: ScheduleName::Constant,
        peak: 1e-3,
        floor: 0.0,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip_norm: None,
    }
}

fn gradient(shard: u64, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as u64 * 31 + shard * 17) % 1013) as f32 * 1e-3 - 0.4).collect()
}

/// One worker's part of a step: its shards' gradients in, the mean out.
fn step(
    reducer: &Reducer,
    graph: &Graph,
    number: u64,
    votes: StepVotes,
) -> Result<(Vec<f32>, Vec<f32>, StepVotes), Error> {
    let n = graph.parameters();
    let mut sums = SubtreeAccumulator::new(SHARDS, reducer.my_shards(), n).unwrap();
    let mut losses = Vec::new();
    for shard in reducer.my_shards() {
        sums.push(&gradient(shard, n)).unwrap();
        losses.push(shard as f32 + number as f32);
    }
    let (losses, votes) = reducer.exchange(number, votes, &losses, &mut sums)?;
    Ok((sums.mean().to_vec(), losses, votes))
}

fn meet(graph: &Graph, me: Identity, listener: Listener, peers: &[Peer]) -> Result<Reducer, Error> {
    Reducer::meet(graph, me, listener, peers, &AtomicBool::new(false), &|_| ())
}

fn listeners(workers: u32) -> (Vec<Listener>, Vec<Peer>) {
    let all: Vec<_> = (0..workers).map(|_| Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap()).collect();
    let peers = all.iter().map(|l| Peer { address: l.address(), key: l.public_key().key_id() }).collect();
    (all, peers)
}

/// Worker 0 to be met, and the key with which somebody may pretend to be worker 1.
fn against_a_fake() -> (Listener, WorkerKey, Vec<Peer>) {
    let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let key = WorkerKey::generate().unwrap();
    let peers = vec![
        Peer { address: first.address(), key: first.public_key().key_id() },
        Peer { address: "127.0.0.1:9".parse().unwrap(), key: key.public().key_id() },
    ];
    (first, key, peers)
}

/// Calls worker 0 with this key as `me` says.
fn call(key: WorkerKey, peers: &[Peer], me: Identity) -> Result<Proven, String> {
    let stream = TcpStream::connect(peers[0].address).unwrap();
    let keys = Keys::new(key, me.rank, peers).unwrap();
    handshake::call(stream, &keys, &me, &peers[0]).map_err(|refused| format!("{refused:?}"))
}

fn run(graph: &Graph, workers: u32) -> Vec<(Vec<f32>, Vec<f32>, StepVotes)> {
    let (listeners, peers) = listeners(workers);
    thread::scope(|scope| {
        let handles: Vec<_> = listeners
            .into_iter()
            .zip(0..)
            .map(|(listener, rank)| {
                let peers = &peers;
                scope.spawn(move || {
                    let reducer = meet(graph, identity(rank, workers), listener, peers).unwrap();
                    step(&reducer, graph, 4, StepVotes::default()).unwrap();
                    let votes = StepVotes { drain: rank + 1 == workers, stop: false };
                    let last = step(&reducer, graph, 5, votes).unwrap();
                    reducer.close();
                    last
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

#[test]
fn every_number_of_workers_gives_the_same_mean_on_every_worker() {
    let graph = graph(16);
    let alone = Reducer::alone(&graph, identity(0, 1)).unwrap();
    let (want, losses, _) = step(&alone, &graph, 5, StepVotes::default()).unwrap();
    assert_eq!(losses, (0..SHARDS).map(|s| s as f32 + 5.0).collect::<Vec<_>>());
    for workers in [2, 3, 5, 8] {
        for (rank, (mean, got, votes)) in run(&graph, workers).into_iter().enumerate() {
            assert!(
                mean.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{workers} workers, rank {rank}"
            );
            assert_eq!(got, losses);
            assert_eq!(votes, StepVotes { drain: true, stop: false }, "one vote is everyone's");
        }
    }
}

/// Where each worker keeps a slice: all get the sums of squares of all, hear of any that is not finite, and end with the same
/// parameters; rank 0 gets the moments.
#[test]
fn slices_of_the_state_come_together() {
    let graph = graph(16);
    let n = graph.parameters();
    let alone = Reducer::alone(&graph, identity(0, 1)).unwrap();
    let (want, losses, _) = step(&alone, &graph, 5, StepVotes::default()).unwrap();
    let squares = {
        let mut optimizer = Optimizer::new(&graph, &hyper(), Isa::detect(), 1).unwrap();
        optimizer.squares(&(0..n), &want).unwrap()
    };
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for workers in [1, 2, 3, 7] {
        let (listeners, peers) = listeners(workers);
        thread::scope(|scope| {
            for (listener, rank) in listeners.into_iter().zip(0..) {
                let (graph, peers, want, losses, squares) = (&graph, &peers, &want, &losses, &squares);
                scope.spawn(move || {
                    let me = identity(rank, workers);
                    let reducer = match workers {
                        1 => Reducer::alone(graph, me).unwrap(),
                        _ => meet(graph, me, listener, peers).unwrap(),
                    };
                    let mut sums = SubtreeAccumulator::new(SHARDS, reducer.my_shards(), n).unwrap();
                    let mut own = Vec::new();
                    for shard in reducer.my_shards() {
                        sums.push(&gradient(shard, n)).unwrap();
                        own.push(shard as f32 + 5.0);
                    }
                    let (all, _) = reducer.reduce(5, StepVotes::default(), &own, &mut sums).unwrap();
                    assert_eq!(&all, losses);
                    let slice = reducer.my_slice();
                    let mean = &sums.mean()[slice.clone()];
                    assert_eq!(bits(mean), bits(&want[slice.clone()]), "{workers} workers, rank {rank}");

                    let mut optimizer = Optimizer::new(graph, &hyper(), Isa::detect(), 1).unwrap();
                    let mine = optimizer.squares(&slice, mean).unwrap();
                    assert_eq!(bits(&reducer.exchange_squares(5, &mine).unwrap()), bits(squares));
                    assert!(reducer.all_finite(5, true).unwrap());
                    assert!(!reducer.all_finite(6, rank + 1 != workers).unwrap(), "one speaks for all");

                    let mut parameters = vec![f32::NAN; n];
                    parameters[slice.clone()].copy_from_slice(mean);
                    reducer.exchange_parameters(5, &mut parameters).unwrap();
                    assert_eq!(bits(&parameters), bits(want));
                    let moments = (&parameters[slice.clone()], &want[slice]);
                    // Whatever was in the buffers.
                    let (mut m, mut v) = (vec![1.0; 3], vec![2.0; 2 * n]);
                    reducer.collect_moments(5, moments, (&mut m, &mut v)).unwrap();
                    if rank == 0 {
                        assert_eq!((bits(&m), bits(&v)), (bits(want), bits(want)));
                    }
                    reducer.close();
                });
            }
        });
    }
}

/// 8 MB each way at once: more than the sockets hold, so a worker that sent before it received would hang.
#[test]
fn large_frames_in_both_directions_do_not_wait_for_each_other() {
    let graph = graph(1024);
    assert!(graph.parameters() > 10_000_000);
    let results = run(&graph, 2);
    assert_eq!(results[0].0, results[1].0);
}

#[test]
fn more_workers_than_shards_are_refused() {
    let (mut listeners, peers) = listeners(9);
    let error = meet(&graph(16), identity(0, 9), listeners.remove(0), &peers).unwrap_err().to_string();
    assert!(error.contains("9 workers for 8 shards"), "{error}");
}

/// A proven peer that then misbehaves ends the run with an error that names it.
#[test]
fn a_peer_that_sends_nonsense_is_an_error() {
    let graph = graph(16);
    type Misdeed = fn(&mut Outgoing, &TcpStream);
    let misdeeds: [(&str, Misdeed); 8] = [
        ("it closed the connection", |out, _| out.goodbye().unwrap()),
        ("without a goodbye", |_, stream| stream.shutdown(Shutdown::Write).unwrap()),
        // In the middle of a frame.
        ("without a goodbye", |out, stream| {
            out.write_all(&[&[1][..], &4u64.to_le_bytes(), &17u64.to_le_bytes(), &[0; 5]].concat()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }),
        ("kind 200", |out, _| out.write_all(&[200; 33]).unwrap()),
        ("must be", |out, _| {
            out.write_all(&[&[1][..], &4u64.to_le_bytes(), &u64::MAX.to_le_bytes()].concat()).unwrap();
        }),
        ("changed on the way", |_, mut stream| {
            stream.write_all(&[&[23, 3, 3, 0, 40][..], &[0; 40]].concat()).unwrap();
        }),
        ("where Losses of step 4", |out, _| {
            wire::send(out, &Frame { kind: Kind::Losses, step: 9, payload: vec![0; 17] }).unwrap();
        }),
        ("must be", |out, _| {
            wire::send(out, &Frame { kind: Kind::Losses, step: 4, payload: vec![0; 18] }).unwrap();
        }),
    ];
    for (what, misdeed) in misdeeds {
        let (first, key, peers) = against_a_fake();
        let (met, has_met) = mpsc::channel();
        thread::scope(|scope| {
            let (graph, peers) = (&graph, &peers);
            let zero = scope.spawn(move || {
                let reducer = meet(graph, identity(0, 2), first, peers).unwrap();
                met.send(()).unwrap();
                step(&reducer, graph, 4, StepVotes::default()).unwrap_err()
            });
            let Proven { stream, mut outgoing, .. } = call(key, peers, identity(1, 2)).unwrap();
            // Who leaves before is absent, not lost.
            has_met.recv().unwrap();
            misdeed(&mut outgoing, &stream);
            let error = zero.join().unwrap();
            let text = error.to_string();
            assert!(text.contains("lost worker 1") && text.contains(what), "{what}: {text}");
            assert_eq!(Failure::from(error).code, ExitCode::PeerLost);
        });
    }
}

/// The TLS keys may be renewed in the middle of a frame; each end answers the other's wish.
#[test]
fn keys_are_renewed_while_frames_go_both_ways() {
    let (_, key, peers) = against_a_fake();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let zero = WorkerKey::generate().unwrap();
    let peers = vec![Peer { address: listener.local_addr().unwrap(), key: zero.public().key_id() }, peers[1]];
    let bytes = 5_000_000;
    let lengths = wire::Lengths { losses: 17, subtrees: bytes, slice: 4, evaluation: 0, squares: 4 };
    let payload = |seed: u8| (0..bytes).map(|i| (i % 251) as u8 ^ seed).collect::<Vec<_>>();
    let exchange = |peer: Proven, seed: u8| {
        let Proven { mut incoming, mut outgoing, .. } = peer;
        thread::scope(|scope| {
            scope.spawn(move || {
                let frame = Frame { kind: Kind::Subtrees, step: 1, payload: payload(seed) };
                for _ in 0..3 {
                    wire::send(&mut outgoing, &frame).unwrap();
                    outgoing.renew_keys().unwrap();
                }
                outgoing.goodbye().unwrap();
            });
            for _ in 0..3 {
                let got = wire::receive(&mut incoming, &lengths).unwrap();
                assert!(got.payload == payload(seed ^ 1));
            }
            assert_eq!(incoming.read(&mut [0]).unwrap(), 0, "goodbye");
        });
    };
    thread::scope(|scope| {
        let peers = &peers;
        scope.spawn(move || {
            let keys = Keys::new(zero, 0, peers).unwrap();
            let (stream, _) = listener.accept().unwrap();
            exchange(handshake::answer(stream, &keys, &identity(0, 2)).ok().unwrap(), 0);
        });
        exchange(call(key, peers, identity(1, 2)).unwrap(), 1);
    });
}

/// Carries one connection on to `target`, and changes the byte of this number that the caller sends.
fn flipping_proxy(target: std::net::SocketAddr, at: usize) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (caller, _) = listener.accept().unwrap();
        let called = TcpStream::connect(target).unwrap();
        let (mut back, mut to) = (called.try_clone().unwrap(), caller.try_clone().unwrap());
        thread::spawn(move || drop(std::io::copy(&mut back, &mut to)));
        let (mut from, mut to, mut seen, mut buffer) = (caller, called, 0, vec![0; 1 << 16]);
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if (seen..seen + read).contains(&at) {
                buffer[at - seen] ^= 4;
            }
            seen += read;
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Write));
    });
    address
}

/// One bit of the ciphertext changes on the way: an error that says so, on both ends, and no wrong number.
#[test]
fn a_changed_byte_ends_the_run() {
    let graph = graph(64);
    for at in [5_000, 60_000, 123_456, 300_001] {
        let (mut listeners, mut peers) = listeners(2);
        let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
        peers[0].address = flipping_proxy(peers[0].address, at);
        thread::scope(|scope| {
            let (graph, peers) = (&graph, &peers);
            let worker = |rank: u32, listener: Listener| {
                scope.spawn(move || {
                    let reducer = meet(graph, identity(rank, 2), listener, peers).unwrap();
                    let mut number = 4;
                    loop {
                        if let Err(error) = step(&reducer, graph, number, StepVotes::default()) {
                            return (number, error.to_string());
                        }
                        number += 1;
                    }
                })
            };
            let (zero, one) = (worker(0, first), worker(1, second));
            let (zero, one) = (zero.join().unwrap(), one.join().unwrap());
            assert!(zero.0 < 8, "{zero:?}");
            assert!(zero.1.contains("lost worker 1: it sent bytes that were changed on the way"), "{zero:?}");
            assert!(one.1.contains("lost worker 0"), "{one:?}");
        });
    }
}

#[test]
fn a_silent_peer_is_lost_and_waiting_can_be_stopped() {
    let graph = graph(16);
    let (first, key, peers) = against_a_fake();
    let started = std::time::Instant::now();
    thread::scope(|scope| {
        let (graph, peers) = (&graph, &peers);
        let zero = scope.spawn(move || {
            let reducer = meet(graph, identity(0, 2), first, peers).unwrap();
            step(&reducer, graph, 4, StepVotes::default()).unwrap_err()
        });
        let _silent = call(key, peers, identity(1, 2)).unwrap();
        let text = zero.join().unwrap().to_string();
        assert!(text.contains("silent for 10s"), "{text}");
    });
    assert!(started.elapsed() < SILENCE * 2);

    let (first, _, peers) = against_a_fake();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (graph, peers, stop) = (&graph, &peers, &stop);
        let zero = scope
            .spawn(move || Reducer::meet(graph, identity(0, 2), first, peers, stop, &|_| ()).unwrap_err());
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(zero.join().unwrap(), Error::Stopped));
    });
}
