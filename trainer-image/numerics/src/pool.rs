//! A fork-join pool owned by its executor: no globals, idle threads sleep, panics become errors.
//!
//! Work is handed out in pieces of disjoint output, so which thread runs which piece, and in what
//! order, cannot show in the bits.

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Polls before a waiting thread sleeps: a few microseconds. Pods share cores, so spinning longer
/// would take time from whom we wait for.
const SPINS: u32 = 400;

/// A piece of work panicked. The pool stays usable; the output is unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerPanicked;

type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// Threads that wait for jobs; the calling thread is number 0 and works too.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time: `!Sync` keeps a second thread, or a job itself, from starting another.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

struct Shared {
    /// Bumped for every job; workers compare it with the last one they saw.
    generation: AtomicU64,
    /// Workers that have not finished the current job.
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Job and leader. Written by the leader only while `running` is 0, before it bumps `generation`.
    job: UnsafeCell<Option<(*const Job<'static>, Thread)>>,
}

// SAFETY: `job` is written by the leader only while no worker is between its acquire-load of a new
// `generation` and its release-decrement of `running`, and read by workers only between those two.
// The pointee is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only dereferenced while the leader waits in `run`.
unsafe impl Send for Shared {}

impl Pool {
    /// `threads` counts the calling thread; 0 is taken as 1.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
        });
        // If a spawn fails, dropping this ends the threads that did start.
        let mut pool = Pool { shared, workers: vec![], _not_sync: PhantomData };
        for id in 1..threads {
            let shared = pool.shared.clone();
            let name = format!("numerics-{id}");
            pool.workers.push(std::thread::Builder::new().name(name).spawn(move || shared.serve(id))?);
        }
        Ok(pool)
    }

    /// Threads including the caller's.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(thread)` once on every thread and returns when all have finished.
    pub(crate) fn run(&self, job: &Job<'_>) -> Result<(), WorkerPanicked> {
        crate::float::normalize();
        let shared = &*self.shared;
        if !self.workers.is_empty() {
            // SAFETY: only the lifetime is erased. `run` does not return, nor unwind, before every
            // worker has released the job, so the reference outlives its uses.
            let erased = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
            // SAFETY: `running` is 0 here (every earlier `run` waited for it and `Pool` is not
            // `Sync`), so no worker reads the cell now.
            unsafe { *shared.job.get() = Some((erased, std::thread::current())) };
            shared.running.store(self.workers.len(), Ordering::Relaxed);
            shared.generation.fetch_add(1, Ordering::Release);
            for worker in &self.workers {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        wait(|| shared.running.load(Ordering::Acquire) == 0);
        let others = shared.panicked.swap(false, Ordering::Relaxed);
        if own.is_err() || others { Err(WorkerPanicked) } else { Ok(()) }
    }

    /// Hands out the pieces of `outputs` to the threads until none is left. `scratch` has one element
    /// per thread at least; each piece runs with the element of its thread.
    pub(crate) fn each<P: Pieces, S: Send>(
        &self,
        outputs: P,
        scratch: &mut [S],
        work: impl Fn(usize, P::Piece, &mut S) + Sync,
    ) -> Result<(), WorkerPanicked> {
        let count = outputs.count();
        let next = AtomicUsize::new(0);
        let slots = scratch.len();
        let scratch = Chunks::new(scratch, 1);
        self.run(&|thread| {
            assert!(thread < slots, "one scratch element per thread");
            // SAFETY: thread numbers are distinct, so each scratch element has one user.
            let Some(own) = (unsafe { scratch.piece(thread) }).first_mut() else { return };
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return;
                }
                // SAFETY: the counter gives every index to one thread once.
                work(i, unsafe { outputs.piece(i) }, own);
            }
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker cannot panic outside a job, and those panics are caught.
            let _: Result<(), Box<dyn Any + Send>> = worker.join();
        }
    }
}

impl Shared {
    fn serve(&self, id: usize) {
        let mut seen = 0;
        loop {
            wait(|| self.generation.load(Ordering::Acquire) != seen);
            seen += 1;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            crate::float::normalize();
            // SAFETY: between the acquire-load above and the decrement below the leader does not
            // write the cell.
            let Some((job, leader)) = (unsafe { (*self.job.get()).clone() }) else { return };
            // SAFETY: the leader keeps the job alive until `running` is 0.
            if catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(id) })).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            if self.running.fetch_sub(1, Ordering::Release) == 1 {
                leader.unpark();
            }
        }
    }
}

/// Spins briefly, then sleeps until unparked, until `ready`.
fn wait(ready: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if ready() {
            return;
        }
        std::hint::spin_loop();
    }
    while !ready() {
        std::thread::park();
    }
}

/// Output that can be cut into disjoint pieces.
///
/// # Safety
/// `piece(i)` and `piece(j)` must not overlap for i != j.
pub(crate) unsafe trait Pieces: Sync {
    /// What one call gets to write.
    type Piece;
    /// How many pieces there are.
    fn count(&self) -> usize;
    /// The `i`-th piece.
    ///
    /// # Safety
    /// Each index is asked for at most once while the others are in use.
    unsafe fn piece(&self, i: usize) -> Self::Piece;
}

/// A slice cut into equal chunks, the last one short.
pub(crate) struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    chunk: usize,
    _slice: PhantomData<&'a mut [T]>,
}

impl<'a, T> Chunks<'a, T> {
    /// `chunk` elements each; 0 is taken as 1.
    pub(crate) fn new(slice: &'a mut [T], chunk: usize) -> Chunks<'a, T> {
        Chunks { start: slice.as_mut_ptr(), len: slice.len(), chunk: chunk.max(1), _slice: PhantomData }
    }
}

// SAFETY: it stands for a `&mut [T]` whose pieces go to one thread each.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

// SAFETY: chunks of a slice do not overlap.
unsafe impl<'a, T: Send> Pieces for Chunks<'a, T> {
    type Piece = &'a mut [T];

    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    unsafe fn piece(&self, i: usize) -> &'a mut [T] {
        let from = (i.saturating_mul(self.chunk)).min(self.len);
        let to = from.saturating_add(self.chunk).min(self.len);
        // SAFETY: from <= to <= len; the caller asks for each index once, so nothing aliases it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), to - from) }
    }
}

// SAFETY: pieces of both parts are disjoint.
unsafe impl<A: Pieces, B: Pieces> Pieces for (A, B) {
    type Piece = (A::Piece, B::Piece);

    fn count(&self) -> usize {
        self.0.count().max(self.1.count())
    }

    unsafe fn piece(&self, i: usize) -> Self::Piece {
        // SAFETY: passed on to the caller.
        unsafe { (self.0.piece(i), self.1.piece(i)) }
    }
}

// SAFETY: pieces of all parts are disjoint.
unsafe impl<A: Pieces, B: Pieces, C: Pieces> Pieces for (A, B, C) {
    type Piece = (A::Piece, B::Piece, C::Piece);

    fn count(&self) -> usize {
        self.0.count().max(self.1.count()).max(self.2.count())
    }

    unsafe fn piece(&self, i: usize) -> Self::Piece {
        // SAFETY: passed on to the caller.
        unsafe { (self.0.piece(i), self.1.piece(i), self.2.piece(i)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            let mut scratch = vec![0usize; threads];
            for round in 0..200 {
                let mut out = vec![0u32; 1000];
                let mut tags = vec![0usize; 100];
                let pieces = (Chunks::new(&mut out, 10), Chunks::new(&mut tags, 1));
                pool.each(pieces, &mut scratch, |i, (out, tag), own| {
                    *own += 1;
                    tag[0] += i;
                    out.iter_mut().for_each(|x| *x += i as u32 + round);
                })
                .unwrap();
                assert!(out.iter().zip(0..).all(|(x, i)| *x == i / 10 + round));
                assert!(tags.iter().zip(0..).all(|(x, i)| *x == i));
            }
            assert_eq!(scratch.iter().sum::<usize>(), 200 * 100);
        }
    }

    #[test]
    fn a_panic_is_an_error_not_a_hang_and_the_pool_survives() {
        let pool = Pool::new(3).unwrap();
        for culprit in 0..3 {
            let result = pool.run(&|thread| assert_ne!(thread, culprit, "asked to panic"));
            assert_eq!(result, Err(WorkerPanicked));
            assert_eq!(pool.run(&|_| {}), Ok(()));
        }
    }

    #[test]
    fn sleeping_threads_wake_up() {
        let pool = Pool::new(2).unwrap();
        let hits = AtomicUsize::new(0);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            pool.run(&|_| {
                hits.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        }
        assert_eq!(hits.into_inner(), 6);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_thread_computes_in_the_required_environment() {
        let pool = Pool::new(2).unwrap();
        pool.run(&|_| crate::float::pollute()).unwrap();
        pool.run(&|_| assert_eq!(crate::float::read_mxcsr() & !0x3f, 0x1f80)).unwrap();
    }
}
