//! One request for many who want the same answer at once, and none of them an older one.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Answers by key. Whoever asks gets what was asked for after they came: those who come while a request is on its way share the next.
#[derive(Debug)]
pub struct Joint<V> {
    answers: Mutex<HashMap<String, Arc<Answer<V>>>>,
}

#[derive(Debug)]
struct Answer<V> {
    /// How many have asked, how many of them the newest value is for, and that.
    state: Mutex<(u64, u64, Option<V>)>,
    asking: tokio::sync::Mutex<()>,
}

impl<V> Default for Joint<V> {
    fn default() -> Self {
        Self { answers: Mutex::default() }
    }
}

impl<V: Clone> Joint<V> {
    /// What `request` answers for `key`, be it this one or that of somebody else who began it after this call. A failure is
    /// an answer, too: else each would wait in turn for a server that is away.
    pub async fn ask(&self, key: &str, request: impl AsyncFnOnce() -> V) -> V {
        let answer = self.of(key);
        let mine = {
            let mut state = answer.state();
            state.0 += 1;
            state.0
        };
        let _one = answer.asking.lock().await;
        let all = {
            let state = answer.state();
            if let (_, includes, Some(value)) = &*state
                && *includes >= mine
            {
                return value.clone();
            }
            state.0
        };
        let value = request().await;
        let mut state = answer.state();
        (state.1, state.2) = (all, Some(value.clone()));
        value
    }

    fn of(&self, key: &str) -> Arc<Answer<V>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer that nobody waits for is too old for whoever comes.
        answers.retain(|_, answer| Arc::strong_count(answer) > 1);
        answers.entry(key.to_owned()).or_default().clone()
    }
}

impl<V> Default for Answer<V> {
    fn default() -> Self {
        Self { state: Mutex::new((0, 0, None)), asking: tokio::sync::Mutex::default() }
    }
}

impl<V> Answer<V> {
    fn state(&self) -> MutexGuard<'_, (u64, u64, Option<V>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures::future::join_all;

    #[tokio::test(start_paused = true)]
    async fn those_who_come_during_a_request_share_the_next() {
        let (joint, requests) = (Joint::default(), AtomicU32::new(0));
        let ask = async |key: &str, wait: u64| {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let request = async || {
                let number = requests.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                number
            };
            joint.ask(key, request).await
        };
        let seen = join_all([ask("a", 0), ask("a", 10), ask("a", 50), ask("a", 90), ask("a", 150)]).await;
        assert_eq!(seen, [0, 1, 1, 1, 2], "nobody is given what was asked for before they came");
        assert_eq!(ask("a", 0).await, 3, "nor what was asked for long ago");
        assert_eq!(join_all([ask("b", 0), ask("c", 0)]).await, [4, 5], "each key has its own");
        assert_eq!(
            joint.answers.lock().unwrap().len(),
            2,
            "of the past nothing is kept but what the last ask found"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_waited_for_once() {
        let joint = Joint::default();
        let ask = async |result: Result<u32, u32>| {
            let request = async || {
                tokio::time::sleep(Duration::from_secs(10)).await;
                result
            };
            joint.ask("a", request).await
        };
        let began = tokio::time::Instant::now();
        let seen = join_all([ask(Err(1)), ask(Err(2)), ask(Ok(3)), ask(Err(4))]).await;
        assert_eq!(seen, [Err(1), Err(2), Err(2), Err(2)]);
        assert_eq!(began.elapsed().as_secs(), 20);
        assert_eq!(ask(Ok(5)).await, Ok(5), "and is no answer to those who come later");
    }
}
