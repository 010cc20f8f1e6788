//! Windows of the week. Offsets are fixed: a lender who wants summer time writes two files, and nobody's time zone database
//! decides what is lent.

use jiff::Timestamp;
use serde::Deserialize;

use super::Error;

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
/// 1970-01-01 was a Thursday; weeks begin on Monday here.
const EPOCH_IN_WEEK: i64 = 3 * DAY;
/// Most windows.
const MAX_WINDOWS: usize = 64;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWindow {
    days: Vec<Day>,
    from: String,
    to: String,
    #[serde(default = "utc")]
    timezone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// When new units are welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    spans: Vec<Span>,
}

/// A part of every week, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// Second of the week at which it begins.
    start: i64,
    /// Seconds, 1 to a day.
    length: i64,
}

impl Calendar {
    pub(super) fn check(windows: Vec<RawWindow>) -> Result<Self, Error> {
        if windows.is_empty() || windows.len() > MAX_WINDOWS {
            let problem = format!(
                "has 1 to {MAX_WINDOWS} windows, not {}; leave it out to lend always, say stop: true to lend never",
                windows.len()
            );
            return Err(Error::field("offer.calendar", problem));
        }
        let mut spans = Vec::new();
        for (at, window) in windows.into_iter().enumerate() {
            let field = |name: &str| format!("offer.calendar[{at}].{name}");
            if window.days.is_empty() {
                return Err(Error::field(
                    field("days"),
                    "name at least one of Mon, Tue, Wed, Thu, Fri, Sat, Sun",
                ));
            }
            let from = clock(&window.from, &field("from"))?;
            let to = clock(&window.to, &field("to"))?;
            if from == DAY {
                return Err(Error::field(field("from"), "is 00:00 to 23:59; 24:00 is the next day's 00:00"));
            }
            let offset = offset(&window.timezone, &field("timezone"))?;
            // Up to or beyond midnight; equal times are a whole day.
            let length = if to > from { to - from } else { to - from + DAY };
            spans.extend(
                window
                    .days
                    .iter()
                    .map(|day| Span { start: (*day as i64 * DAY + from - offset).rem_euclid(WEEK), length }),
            );
        }
        Ok(Self { spans })
    }

    /// Whether `now` is in one of the windows. The end of a window is not.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        let second = second_of_week(now);
        self.spans.iter().any(|span| (second - span.start).rem_euclid(WEEK) < span.length)
    }

    /// When it is open next, from `now` on.
    #[must_use]
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_open(now) {
            return Some(now);
        }
        let second = second_of_week(now);
        let wait = self.spans.iter().map(|span| (span.start - second).rem_euclid(WEEK)).min()?;
        Timestamp::from_second(now.as_second().checked_add(wait)?).ok()
    }
}

fn second_of_week(now: Timestamp) -> i64 {
    // Toward the past for times before 1970, whose seconds jiff rounds toward zero.
    let second = now.as_second() - i64::from(now.subsec_nanosecond() < 0);
    (second + EPOCH_IN_WEEK).rem_euclid(WEEK)
}

/// `HH:MM` as seconds, 00:00 to 24:00.
fn clock(text: &str, field: &str) -> Result<i64, Error> {
    let wrong = || {
        Error::field(field, format!("{text:?} is not a time such as \"18:00\" (00:00 to 24:00, in quotes)"))
    };
    let seconds = hours_and_minutes(text).ok_or_else(wrong)?;
    if seconds <= DAY { Ok(seconds) } else { Err(wrong()) }
}

/// `UTC`, or a fixed offset `+HH:MM` or `-HH:MM`, as seconds.
fn offset(text: &str, field: &str) -> Result<i64, Error> {
    let wrong = || {
        let problem =
            format!("{text:?} is neither UTC nor a fixed offset such as \"+01:00\" (at most 14:00)");
        Error::field(field, problem)
    };
    if text == "UTC" {
        return Ok(0);
    }
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(wrong()),
    };
    let seconds = hours_and_minutes(rest).filter(|seconds| *seconds <= 14 * 60 * MINUTE).ok_or_else(wrong)?;
    Ok(sign * seconds)
}

fn hours_and_minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| {
        let good = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|_| good)
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60).then_some((hours * 60 + minutes) * MINUTE)
}
