//! What one worker gets of its node. A payload has one narrow spelling of a quantity, so that nothing a hub writes there can
//! mean something else to a cluster; a job's own spellings (`1.5`, `2G`) are turned into it.

use serde::{Deserialize, Serialize};

/// No worker gets more cores: no machine has them.
pub const MAX_CORES: u64 = 10_000;
/// No worker gets more memory, in bytes: 64 TiB.
pub const MAX_MEMORY: u64 = 64 << 40;

/// CPU and memory of one worker, as Kubernetes quantities; requests = limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Such as `600m` or `2`.
    pub cpu: String,
    /// Such as `1Gi`.
    pub memory: String,
}

const CPU: &str = "a number of cores such as 600m or 2, at most 10000";
const MEMORY: &str = "a number of bytes such as 1Gi, at most 64Ti";
/// Suffixes of memory in a payload.
const BINARY: [(&str, u64); 5] =
    [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("", 1)];
/// And those that a job may use beside.
const DECIMAL: [(&str, u64); 4] =
    [("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)];

impl Resources {
    /// From the quantities of a job, in the payload's spelling.
    ///
    /// # Errors
    /// Which field is not a quantity within the bounds, and what it must be.
    pub fn of(cpu: &str, memory: &str) -> Result<Self, String> {
        let spelt = Self { cpu: cpu.to_owned(), memory: memory.to_owned() };
        if spelt.check().is_ok() {
            return Ok(spelt);
        }
        let millis = match cpu.strip_suffix('m') {
            Some(millis) => decimal(millis, 1),
            None => decimal(cpu, 1000),
        };
        let digits = |b: u8| b.is_ascii_digit() || b == b'.';
        let (number, suffix) = memory.split_at(memory.bytes().take_while(|b| digits(*b)).count());
        let unit = BINARY.iter().chain(&DECIMAL).find(|(known, _)| *known == suffix);
        let bytes = unit.and_then(|(_, unit)| decimal(number, *unit));
        let millis = millis.ok_or_else(|| wrong("cpu", CPU))?;
        let bytes = bytes.ok_or_else(|| wrong("memory", MEMORY))?;
        let narrow = Self { cpu: format!("{millis}m"), memory: bytes.to_string() };
        narrow.check().map(|()| narrow)
    }

    /// Whether both are within the bounds, in the payload's spelling.
    pub(super) fn check(&self) -> Result<(), String> {
        let (cpu, unit) = match self.cpu.strip_suffix('m') {
            Some(millis) => (millis, 1),
            None => (self.cpu.as_str(), 1000),
        };
        if !within(cpu, unit, MAX_CORES * 1000) {
            return Err(wrong("cpu", CPU));
        }
        let known = BINARY.iter().find_map(|(suffix, unit)| Some((self.memory.strip_suffix(suffix)?, *unit)));
        if !known.is_some_and(|(number, unit)| within(number, unit, MAX_MEMORY)) {
            return Err(wrong("memory", MEMORY));
        }
        Ok(())
    }
}

fn wrong(field: &str, want: &str) -> String {
    format!("resources.{field} must be {want}")
}

/// A positive integer of at most 15 digits, so many times `unit`, and no more than `max`.
fn within(number: &str, unit: u64, max: u64) -> bool {
    let plain = (1..=15).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let value = number.parse::<u64>().ok().filter(|_| plain).and_then(|number| number.checked_mul(unit));
    value.is_some_and(|value| (1..=max).contains(&value))
}

/// `12` or `1.25`, so many times `unit`, rounded up as Kubernetes does.
fn decimal(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let plain =
        |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole, 15) || !plain(fraction, 3) {
        return None;
    }
    let thousandths: u128 = format!("{whole}{fraction:0<3}").parse().ok()?;
    u64::try_from((thousandths * u128::from(unit)).div_ceil(1000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_spellings_become_the_payloads() {
        for (cpu, memory, want) in [
            ("600m", "1Gi", ("600m", "1Gi")),
            ("2", "1024", ("2", "1024")),
            ("1.5", "1Gi", ("1500m", "1073741824")),
            ("0.001", "1.5Ki", ("1m", "1536")),
            ("1", "2G", ("1000m", "2000000000")),
            ("1", "1.001Ki", ("1000m", "1026")),
        ] {
            let got = Resources::of(cpu, memory).unwrap();
            assert_eq!((got.cpu.as_str(), got.memory.as_str()), want);
            assert_eq!(got.check(), Ok(()));
        }
    }

    #[test]
    fn what_no_machine_has_is_no_quantity() {
        for cpu in
            ["", "m", "0", "0m", "-1", "+1", "1e3", "1.5.1", "10001", "10000001m", "1 ", "1\n", "٣", "1,5"]
        {
            let text = Resources::of(cpu, "1Gi").unwrap_err();
            assert!(text.starts_with("resources.cpu must be"), "{cpu:?}: {text}");
        }
        for memory in
            ["", "Gi", "0", "-1Gi", "1e9", "65Ti", "9999999999999999", "1Pi", "1gi", "1Gi;", "1m", "1Gi\0"]
        {
            let text = Resources::of("1", memory).unwrap_err();
            assert!(text.starts_with("resources.memory must be"), "{memory:?}: {text}");
        }
        for (cpu, memory) in [("10000", "64Ti"), ("10000000m", "65536Gi")] {
            Resources::of(cpu, memory).unwrap();
        }
    }
}
