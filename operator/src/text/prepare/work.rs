//! Threads that make tokens of pieces, whose order stays. Queues are short: memory is bounded by the number of threads.
use super::input::{Inputs, Piece};
use super::{Error, Job};
use crate::text::Tokenizer;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

type Made = Result<(Piece, Vec<u32>), Error>;
/// A piece, and where its tokens go.
type Task = (Piece, SyncSender<Made>);

/// Calls `write` with every piece of the inputs and its tokens, in order.
pub fn in_order(
    job: &Job,
    inputs: &mut Inputs<'_>,
    mut write: impl FnMut(&Piece, Vec<u32>) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads = job.threads.max(1);
    let (give, tasks) = sync_channel::<Task>(threads);
    let (line_up, queue) = sync_channel::<Result<Receiver<Made>, Error>>(2 * threads);
    let tasks = Mutex::new(tasks);
    std::thread::scope(|scope| {
        // Taken into the closures: when one side is gone, the other's call returns, and so on until all have ended.
        let queue = queue;
        for _ in 0..threads {
            scope.spawn(|| make_tokens(job, &tasks));
        }
        scope.spawn(move || {
            let error = read(inputs, &give, &line_up);
            // If nobody listens, there is another error already.
            error.map_or_else(|error| drop(line_up.send(Err(error))), |()| ());
        });
        let result = queue.iter().try_for_each(|made| {
            let (piece, tokens) = made?.recv().map_err(|_| Error::Worker)??;
            write(&piece, tokens)
        });
        drop(queue);
        result
    })
}

fn read(
    inputs: &mut Inputs<'_>,
    give: &SyncSender<Task>,
    line_up: &SyncSender<Result<Receiver<Made>, Error>>,
) -> Result<(), Error> {
    while let Some(piece) = inputs.next()? {
        let (answer, made) = sync_channel(1);
        if line_up.send(Ok(made)).is_err() || give.send((piece, answer)).is_err() {
            break;
        }
    }
    Ok(())
}

fn make_tokens(job: &Job, tasks: &Mutex<Receiver<Task>>) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((piece, answer)) = task else { return };
        let made = tokens(job.tokenizer, &piece).map_err(|error| Error::Text {
            path: job.inputs.get(piece.input).map(|path| path.display().to_string()).unwrap_or_default(),
            error: error.after(piece.offset),
        });
        drop(answer.send(made.map(|tokens| (piece, tokens))));
    }
}

fn tokens(tokenizer: &Tokenizer, piece: &Piece) -> Result<Vec<u32>, crate::text::EncodeError> {
    let mut tokens = Vec::with_capacity(piece.bytes.len() / 3);
    let mut start = 0;
    for (n, &end) in piece.cuts.ends.iter().enumerate() {
        let encoded = tokenizer.encode(&piece.bytes[start..end], &mut tokens);
        encoded.map_err(|error| error.after(start as u64))?;
        let ends_document = piece.cuts.whole || n + 1 < piece.cuts.ends.len();
        tokens.extend(tokenizer.end().filter(|_| ends_document));
        start = end;
    }
    Ok(tokens)
}
