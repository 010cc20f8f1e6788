//! What a provider is worth right now: is its lease alive, how much may the hub send, what does `Ready` say.
//!
//! Freshness is judged by the hub's own monotonic clock at the moments it *saw* the lease change. The times written in
//! the lease are the agent's clock and are never compared with ours.
pub mod join;

use std::collections::BTreeMap;
use std::time::Duration;

/// When the hub last saw a lease change, on a monotonic clock (time since the hub started watching).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseWatch {
    /// The renewal mark last seen (`spec.renewTime` as text); `None` until an agent renewed for the first time.
    mark: Option<String>,
    /// When this hub first looked.
    since: Duration,
    /// When the mark last changed under our eyes.
    renewed: Option<Duration>,
}

/// How alive a provider's agent looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// Renewed within the lease's duration.
    Fresh,
    /// This hub has watched for less than one lease duration: what was said before still holds.
    TooEarly,
    /// Not renewed for longer than the lease's duration.
    Expired,
    /// Nobody ever renewed it.
    NeverSeen,
}

impl LeaseWatch {
    /// First look at a lease at time `now`.
    #[must_use]
    pub fn new(mark: Option<String>, now: Duration) -> Self {
        Self { mark, since: now, renewed: None }
    }

    /// Another look; whether it was renewed since the last one. A changed mark is a renewal, whatever time it names.
    pub fn saw(&mut self, mark: Option<String>, now: Duration) -> bool {
        let is_renewed = mark.is_some() && mark != self.mark;
        if is_renewed {
            self.mark = mark;
            self.renewed = Some(now);
        }
        is_renewed
    }

    /// This hub could not see until `now` (the API server was away): silence up to here says nothing, since agents could
    /// not renew either.
    pub fn blind_until(&mut self, now: Duration) {
        self.since = now;
        self.renewed = None;
    }

    /// The verdict at `now`, and how long it holds if nothing is seen until then.
    #[must_use]
    pub fn pulse(&self, duration: Duration, now: Duration) -> (Pulse, Option<Duration>) {
        let age = now.saturating_sub(self.renewed.unwrap_or(self.since));
        let left = duration.checked_sub(age).filter(|left| !left.is_zero());
        match (self.renewed.is_some(), self.mark.is_some(), left) {
            (true, _, Some(left)) => (Pulse::Fresh, Some(left)),
            (false, true, Some(left)) => (Pulse::TooEarly, Some(left)),
            (_, true, None) | (true, false, None) => (Pulse::Expired, None),
            (false, false, _) => (Pulse::NeverSeen, None),
        }
    }
}

/// `spec.scheduling` of a ComputeProvider, or its deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// Gets work.
    Enabled,
    /// Keeps what it has, gets nothing new.
    Cordoned,
    /// Leaves at the end of the interval.
    Drained,
    /// Leaves now, for good.
    Revoked,
    /// The ComputeProvider is being deleted.
    Deleting,
}

/// What the agent's report is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// None written yet.
    Missing,
    /// It says something that cannot be.
    Invalid(String),
    /// Usable.
    Valid,
}

/// What one condition of a ComputeProvider says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// True or False.
    pub holds: bool,
    /// CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Verdict {
    /// True.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: true, reason, message: message.into() }
    }

    /// False.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }
}

/// Whether the provider can be used, and if not, why; `None` = leave what Ready says now.
#[must_use]
pub fn ready(
    pulse: Pulse,
    report: &Report,
    scheduling: Scheduling,
    admission: &join::Admission,
) -> Option<Verdict> {
    let no = |reason, message: String| Some(Verdict::no(reason, message));
    match scheduling {
        Scheduling::Revoked => return no("Revoked", "revoked; delete the provider and join it again".into()),
        Scheduling::Deleting => return no("Draining", "being deleted; its units stop first".into()),
        _ => {}
    }
    if let Some(obstacle) = admission.obstacle() {
        return Some(obstacle.clone());
    }
    match pulse {
        Pulse::TooEarly => return None,
        Pulse::NeverSeen => {
            return no("NeverSeen", "its key is accepted, but no agent has renewed the lease yet".into());
        }
        Pulse::Expired => {
            return no("LeaseExpired", "the agent does not renew its lease: it is down or cut off".into());
        }
        Pulse::Fresh => {}
    }
    match report {
        Report::Missing => return no("ReportMissing", "the agent has not reported what it lends yet".into()),
        Report::Invalid(why) => return no("ReportInvalid", format!("report: {why}")),
        Report::Valid => {}
    }
    match scheduling {
        Scheduling::Cordoned => no("Cordoned", "spec.scheduling is Cordoned: nothing new is placed".into()),
        Scheduling::Drained => no("Draining", "spec.scheduling is Drained: units leave".into()),
        _ => Some(Verdict::yes("Connected", "lease renewed, report valid")),
    }
}

/// The least epoch that a provider's units may have from now on. It never goes down, is nowhere below what the hub as a
/// whole forbids (`floor`), and revoking a provider voids all that it has (`highest` epoch of its units).
#[must_use]
pub fn min_epoch(old: Option<i64>, floor: i64, scheduling: Scheduling, highest: Option<i64>) -> i64 {
    let void = match scheduling {
        Scheduling::Revoked => highest.unwrap_or(0).saturating_add(1),
        _ => 1,
    };
    old.unwrap_or(1).max(floor).max(void).max(1)
}

/// What a provider lends of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lent {
    /// In all.
    pub workers: u32,
    /// Free now.
    pub idle: u32,
}

/// Capacity of a provider after capping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// By device class.
    pub classes: BTreeMap<String, Lent>,
    /// Over all classes.
    pub workers: u32,
    /// Over all classes.
    pub idle: u32,
}

impl Capacity {
    /// "6/8 cpu, 1/2 nvidia-h100-80gb": idle of all, for the column (48 characters).
    #[must_use]
    pub fn text(&self) -> String {
        let parts: Vec<String> = self
            .classes
            .iter()
            .map(|(name, lent)| format!("{}/{} {name}", lent.idle, lent.workers))
            .collect();
        let text = parts.join(", ");
        if text.chars().count() <= 48 { text } else { format!("{}/{}", self.idle, self.workers) }
    }
}

/// Sums a report up. The quota of workers bounds each class: it is what the hub will send at most, whatever the report
/// says. An agent cannot make the hub believe in more idle workers than it has workers.
#[must_use]
pub fn capacity(devices: &[(String, Lent)], quota_workers: Option<u32>) -> Capacity {
    let cap = quota_workers.unwrap_or(u32::MAX);
    let mut capacity = Capacity::default();
    for (class, lent) in devices {
        let workers = lent.workers.min(cap);
        let lent = Lent { workers, idle: lent.idle.min(workers) };
        capacity.workers = capacity.workers.saturating_add(lent.workers).min(cap);
        capacity.idle = capacity.idle.saturating_add(lent.idle).min(cap);
        capacity.classes.insert(class.clone(), lent);
    }
    capacity
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn mark(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn only_changes_seen_by_the_hub_count() {
        let mut lease = LeaseWatch::new(mark("10:00"), s(100));
        assert_eq!(lease.pulse(s(15), s(100)), (Pulse::TooEarly, Some(s(15))));
        lease.saw(mark("10:00"), s(105));
        assert_eq!(lease.pulse(s(15), s(114)), (Pulse::TooEarly, Some(s(1))), "the same mark is no renewal");
        assert_eq!(lease.pulse(s(15), s(115)), (Pulse::Expired, None));
        lease.saw(mark("09:00"), s(120));
        assert_eq!(lease.pulse(s(15), s(120)), (Pulse::Fresh, Some(s(15))), "a clock set back is a renewal");
        assert_eq!(lease.pulse(s(15), s(135)), (Pulse::Expired, None));
    }

    #[test]
    fn an_outage_of_the_hubs_own_server_is_nobodys_silence() {
        let mut lease = LeaseWatch::new(mark("10:00"), s(0));
        lease.saw(mark("10:05"), s(5));
        lease.blind_until(s(60));
        assert_eq!(lease.pulse(s(15), s(61)), (Pulse::TooEarly, Some(s(14))));
        assert_eq!(lease.pulse(s(15), s(75)), (Pulse::Expired, None));
        lease.saw(mark("10:06"), s(76));
        assert_eq!(lease.pulse(s(15), s(76)).0, Pulse::Fresh);
    }

    #[test]
    fn a_lease_nobody_renewed_was_never_seen() {
        let mut lease = LeaseWatch::new(None, s(0));
        assert_eq!(lease.pulse(s(15), s(0)).0, Pulse::NeverSeen);
        assert_eq!(lease.pulse(s(15), s(99)).0, Pulse::NeverSeen);
        lease.saw(mark("10:00"), s(100));
        assert_eq!(lease.pulse(s(15), s(101)).0, Pulse::Fresh);
    }

    #[test]
    fn ready_names_the_first_thing_in_the_way() {
        use Scheduling::*;
        let admitted = admission("KeyPresented", true, "KeyPinned", true);
        let reason =
            |pulse, report, scheduling| ready(pulse, &report, scheduling, &admitted).map(|r| r.reason);
        let bad = || Report::Invalid("devices[0].idle".into());
        let cases = [
            (Pulse::Fresh, Report::Valid, Enabled, Some("Connected")),
            (Pulse::Fresh, Report::Valid, Cordoned, Some("Cordoned")),
            (Pulse::Fresh, Report::Valid, Drained, Some("Draining")),
            (Pulse::Fresh, Report::Valid, Revoked, Some("Revoked")),
            (Pulse::Fresh, Report::Valid, Deleting, Some("Draining")),
            (Pulse::Fresh, Report::Missing, Enabled, Some("ReportMissing")),
            (Pulse::Fresh, bad(), Enabled, Some("ReportInvalid")),
            (Pulse::Expired, Report::Valid, Cordoned, Some("LeaseExpired")),
            (Pulse::NeverSeen, Report::Missing, Enabled, Some("NeverSeen")),
            (Pulse::TooEarly, Report::Valid, Enabled, None),
        ];
        for (pulse, report, scheduling, expected) in cases {
            assert_eq!(
                reason(pulse, report.clone(), scheduling),
                expected,
                "{pulse:?} {report:?} {scheduling:?}"
            );
        }
    }

    fn admission(joined: &'static str, has: bool, accepted: &'static str, is: bool) -> join::Admission {
        let verdict = |holds, reason| Verdict { holds, reason, message: String::new() };
        let (joined, accepted) = (verdict(has, joined), verdict(is, accepted));
        join::Admission { presented: None, joined, accepted, pin: None, holds_until: None }
    }

    #[test]
    fn nobody_is_ready_who_is_not_let_in() {
        for (joined, accepted, expected) in [
            (("TokenIssued", false), ("KeyNotPinned", false), "TokenIssued"),
            (("NoToken", false), ("KeyExpired", false), "KeyExpired"),
            (("KeyPresented", true), ("WaitingForAdmin", false), "WaitingForAdmin"),
            (("KeyPresented", true), ("KeyNotPinned", false), "KeyNotPinned"),
            (("NoToken", false), ("KeyPinned", true), "Connected"),
        ] {
            let admission = admission(joined.0, joined.1, accepted.0, accepted.1);
            let ready = ready(Pulse::Fresh, &Report::Valid, Scheduling::Enabled, &admission);
            assert_eq!(ready.map(|r| r.reason), Some(expected));
        }
        let out = admission("KeyPresented", true, "WaitingForAdmin", false);
        let ready = ready(Pulse::TooEarly, &Report::Missing, Scheduling::Enabled, &out);
        assert_eq!(ready.map(|r| r.reason), Some("WaitingForAdmin"), "known without any heartbeat");
    }

    #[test]
    fn min_epoch_never_goes_down_and_revoking_voids_all() {
        use Scheduling::*;
        for (old, floor, scheduling, highest, expected) in [
            (None, 1, Enabled, None, 1),
            (Some(4), 1, Enabled, Some(9), 4),
            (Some(4), 1, Revoked, Some(9), 10),
            (Some(40), 1, Revoked, Some(9), 40),
            (Some(10), 1, Revoked, None, 10),
            (Some(4), 1007, Cordoned, Some(9), 1007),
            (None, 1, Revoked, Some(i64::MAX), i64::MAX),
        ] {
            assert_eq!(min_epoch(old, floor, scheduling, highest), expected, "{old:?} {scheduling:?}");
        }
    }

    #[test]
    fn capacity_is_capped_by_quota_and_by_itself() {
        let lent = |workers, idle| Lent { workers, idle };
        let devices = [("cpu".to_string(), lent(8, 6)), ("gpu".to_string(), lent(2, 5))];
        let free = capacity(&devices, None);
        assert_eq!((free.workers, free.idle, free.text().as_str()), (10, 8, "6/8 cpu, 2/2 gpu"));
        let capped = capacity(&devices, Some(4));
        assert_eq!((capped.workers, capped.idle, capped.text().as_str()), (4, 4, "4/4 cpu, 2/2 gpu"));
        assert_eq!(capacity(&[], None).text(), "");
    }
}
