//! `--tensorboard DIR`: scalars as TensorBoard reads them. Files are TFRecords
//! (<https://www.tensorflow.org/tutorials/load_data/tfrecord>), each record a protobuf `tensorflow.Event`
//! (tensorflow/core/util/event.proto), of which five fields are written here by hand.
use super::curve::{self, MEASURES, Point};
use jiff::Timestamp;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The first record of every file: the version of the format that has sessions.
const FILE_VERSION: &str = "brain.Event:2";

/// An open file of events. Each start of a run has its own; TensorBoard joins those of a directory.
#[derive(Debug)]
pub(super) struct Board {
    dir: PathBuf,
    /// The job directory, for the steps before the first file.
    out: PathBuf,
    file: Option<File>,
}

impl Board {
    pub fn new(dir: &Path, out: &Path) -> Self {
        Self { dir: dir.to_owned(), out: out.to_owned(), file: None }
    }

    /// A run begins with state `from`: steps after it, if there are some from an earlier run, are taken back.
    pub fn start(&mut self, from: u64) -> io::Result<()> {
        let now = Timestamp::now();
        let mut records = Vec::new();
        let mut earlier = Vec::new();
        if self.file.is_none() {
            fs::create_dir_all(&self.dir)?;
            if !has_events(&self.dir)? {
                earlier = curve::read(&self.out)?;
            }
            let name = format!("events.out.tfevents.{:010}.muster.{}", now.as_second(), std::process::id());
            self.file = Some(File::create_new(self.dir.join(name))?);
            records.extend(record(&event(now, 0, |event| bytes(event, 3, FILE_VERSION.as_bytes()))));
        }
        earlier
            .iter()
            .filter(|point| point.step <= from)
            .for_each(|point| records.extend(scalars(now, point)));
        if from > 0 {
            // SessionLog { status: START } purges what has this step or a later one.
            records.extend(record(&event(now, from + 1, |event| bytes(event, 7, &[0x08, 0x01]))));
        }
        self.write(&records)
    }

    /// A step is done.
    pub fn step(&mut self, point: &Point) -> io::Result<()> {
        self.write(&scalars(Timestamp::now(), point))
    }

    /// In one piece, so that a reader that follows sees whole records.
    fn write(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(records))
    }
}

fn has_events(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if entry?.file_name().to_string_lossy().contains("tfevents") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The record of a step: Summary { value: [Value { tag, simple_value }] }.
fn scalars(now: Timestamp, point: &Point) -> Vec<u8> {
    let mut summary = Vec::new();
    for ((_, tag), value) in MEASURES.iter().zip(point.values) {
        if let Some(value) = value {
            let mut one = Vec::new();
            bytes(&mut one, 1, tag.as_bytes());
            one.push(2 << 3 | 5);
            one.extend((value as f32).to_le_bytes());
            bytes(&mut summary, 1, &one);
        }
    }
    record(&event(now, point.step, |event| bytes(event, 5, &summary)))
}

/// Event { wall_time, step, and what `rest` adds }.
fn event(now: Timestamp, step: u64, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend((now.as_microsecond() as f64 / 1e6).to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    rest(&mut event);
    event
}

/// A field with a length: text or a message.
fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Length, its checksum, the bytes, theirs.
fn record(data: &[u8]) -> Vec<u8> {
    let mut record = (data.len() as u64).to_le_bytes().to_vec();
    record.extend(masked(&record).to_le_bytes());
    record.extend(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// A checksum that may itself lie in what is summed.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (RFC 3720 appendix B.4), bit by bit: a step has a few hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of RFC 3720, and the check value that catalogues give.
    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        // The rule of the format, the other way round.
        let unmask = |masked: u32| masked.wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmask(masked(b"123456789")), 0xe306_9283);
    }

    fn point(step: u64, loss: f64) -> Point {
        Point { step, values: [Some(loss), None, Some(0.5), Some(3e-4), Some(1234.0)] }
    }

    /// A reader of protobuf's wire format that knows no message: fields with their numbers.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        let read = |message: &mut &[u8]| {
            let mut value = 0u64;
            for shift in (0..).step_by(7) {
                let (byte, rest) = message.split_first().unwrap();
                *message = rest;
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
            unreachable!()
        };
        while !message.is_empty() {
            let key = read(&mut message);
            let length = match key & 7 {
                0 => {
                    let value = read(&mut message);
                    all.push((key >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => read(&mut message) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (value, rest) = message.split_at(length);
            all.push((key >> 3, value.to_vec()));
            message = rest;
        }
        all
    }

    /// (step, what): a version, a start, or tags with values.
    fn read(dir: &Path) -> Vec<(u64, String)> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let mut all = Vec::new();
        for file in files {
            let data = fs::read(file).unwrap();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let n = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                assert_eq!(rest[8..12], masked(&rest[..8]).to_le_bytes());
                assert_eq!(rest[12 + n..16 + n], masked(&rest[12..12 + n]).to_le_bytes());
                let event = fields(&rest[12..12 + n]);
                rest = &rest[16 + n..];
                assert_eq!((event[0].0, event[1].0, event.len()), (1, 2, 3));
                let wall = f64::from_le_bytes(event[0].1[..].try_into().unwrap());
                assert!((wall - Timestamp::now().as_second() as f64).abs() < 100.0);
                let step = u64::from_le_bytes(event[1].1[..].try_into().unwrap());
                all.push((step, said(&event[2])));
            }
        }
        all
    }

    fn said((field, value): &(u64, Vec<u8>)) -> String {
        match field {
            3 => String::from_utf8(value.clone()).unwrap(),
            7 => format!("start {value:?}"),
            5 => {
                let values = fields(value).into_iter().map(|(field, value)| {
                    let value = fields(&value);
                    assert_eq!((field, value[0].0, value[1].0), (1, 1, 2));
                    let number = f32::from_le_bytes(value[1].1[..].try_into().unwrap());
                    format!("{}={number}", String::from_utf8_lossy(&value[0].1))
                });
                values.collect::<Vec<_>>().join(" ")
            }
            other => panic!("field {other}"),
        }
    }

    #[test]
    fn a_run_that_goes_on_takes_back_what_it_does_again() {
        let dir = tempfile::tempdir().unwrap();
        let (out, logs) = (dir.path().join("out"), dir.path().join("logs"));
        fs::create_dir(&out).unwrap();
        let metrics: String =
            (1..=9).map(|step| format!("{{\"loss\":\"{step}.5\",\"step\":{step}}}\n")).collect();
        fs::write(out.join("metrics.jsonl"), metrics).unwrap();

        let mut board = Board::new(&logs, &out);
        board.start(2).unwrap();
        board.step(&point(3, 2.25)).unwrap();
        board.step(&point(300, 2.0)).unwrap();
        // The workers died and begin again, in the same process.
        board.start(3).unwrap();
        board.step(&point(4, 1.75)).unwrap();
        let step = "grad_norm=0.5 learning_rate=0.0003 tokens_per_second=1234";
        let mut want = vec![
            (0, FILE_VERSION.to_owned()),
            (1, "loss=1.5".into()),
            (2, "loss=2.5".into()),
            (3, "start [8, 1]".into()),
            (3, format!("loss=2.25 {step}")),
            (300, format!("loss=2 {step}")),
            (4, "start [8, 1]".into()),
            (4, format!("loss=1.75 {step}")),
        ];
        assert_eq!(read(&logs), want);

        // Another process has another file; what is there is not written again.
        let first = fs::read_dir(&logs).unwrap().next().unwrap().unwrap().path();
        fs::rename(&first, logs.join("events.out.tfevents.0000000001.muster.1")).unwrap();
        let mut board = Board::new(&logs, &out);
        board.start(0).unwrap();
        want.push((0, FILE_VERSION.into()));
        assert_eq!(read(&logs), want);
    }
}
