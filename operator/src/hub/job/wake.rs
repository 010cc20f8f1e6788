//! Jobs whose audits have come further: the log is read by somebody else, so no watch tells.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use muster_core::audits::JobAudits;

use super::{Guarded, Jobs};
use crate::hub::context::Context;

/// The book is in memory; asking it costs nothing.
const EVERY: Duration = Duration::from_secs(1);

/// What was seen of each job.
#[derive(Default)]
struct Seen(HashMap<String, Arc<JobAudits>>);

impl Seen {
    /// Whether there is something new about a job; that the log has grown alone is not.
    fn is_news(&mut self, uid: &str, now: Option<Arc<JobAudits>>) -> bool {
        let Some(now) = now else { return self.0.remove(uid).is_some() };
        let before = self.0.insert(uid.to_owned(), now.clone());
        before.is_none_or(|before| {
            !Arc::ptr_eq(&before, &now) && *before != JobAudits { seen_log: before.seen_log, ..(*now).clone() }
        })
    }
}

/// The jobs that are to be looked at, as long as the process runs.
pub fn news(ctx: Arc<Context>, jobs: Jobs) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static {
    let ticks = stream::unfold((ctx, jobs, Seen::default()), |(ctx, jobs, mut seen)| async move {
        tokio::time::sleep(EVERY).await;
        let mut found = Vec::new();
        for job in jobs.state() {
            let Some(uid) = job.uid() else { continue };
            if seen.is_news(&uid, ctx.audits.of(&uid)) {
                found.push(ObjectRef::from_obj(job.as_ref()));
            }
        }
        let alive: std::collections::HashSet<_> = jobs.state().iter().filter_map(|job| job.uid()).collect();
        seen.0.retain(|uid, _| alive.contains(uid));
        Some((stream::iter(found), (ctx, jobs, seen)))
    });
    ticks.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_log_alone_wakes_nobody() {
        let mut seen = Seen::default();
        let audits = |seen_log, open| Some(Arc::new(JobAudits { seen_log, open, ..JobAudits::default() }));
        assert!(!seen.is_news("job", None), "not looked at yet");
        assert!(seen.is_news("job", audits(3, 0)));
        assert!(!seen.is_news("job", audits(4, 0)));
        assert!(seen.is_news("job", audits(5, 1)) && !seen.is_news("job", audits(5, 1)));
        assert!(seen.is_news("other", audits(5, 1)));
        assert!(seen.is_news("job", None) && !seen.is_news("job", None));
    }
}
