//! What audits wait for from an agent (docs/spec/gateway.md section 11): it alone has what opens its commits and seals, and asks
//! here which of them the log would take now.
use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json, Router};
use muster_proof::history::Due;
use muster_proof::records::fields::ProviderName;

use super::access::{Agent, Refusal};
use super::history::Shown;
use crate::wire::gateway::AuditsAnswer;

/// Whoever knows what is due. A trait, so that the route can be tested without a log.
pub trait Audits: Clone + Send + Sync + 'static {
    /// What this provider may log now.
    fn due(&self, provider: &ProviderName) -> Due;
}

impl Audits for Shown {
    fn due(&self, provider: &ProviderName) -> Due {
        Shown::due(self, provider)
    }
}

/// The route. Whoever layers it puts an [`Agent`] into the extensions first.
pub fn router<A: Audits>(audits: A) -> Router {
    Router::new().route("/v1/audits", get(due::<A>)).with_state(audits)
}

async fn due<A: Audits>(
    State(audits): State<A>,
    Extension(agent): Extension<Agent>,
) -> Result<Json<AuditsAnswer>, Refusal> {
    let provider: ProviderName = agent.provider.parse().map_err(|error| {
        tracing::error!(provider = agent.provider, %error, "a provider has a name that no record can have");
        Refusal::bad_request("the log can have no record of this provider")
    })?;
    // It waits while the log takes a record: off the runtime's threads.
    let due = tokio::task::spawn_blocking(move || audits.due(&provider)).await;
    let Due { openings, answers, .. } = due.map_err(|error| {
        tracing::error!(%error, "what is due cannot be said");
        Refusal::unavailable("what is due cannot be said now; try again")
    })?;
    Ok(Json(AuditsAnswer { openings, answers }))
}

#[cfg(test)]
mod tests {
    use muster_proof::Digest;
    use serde_json::json;

    use super::*;
    use crate::gateway::Rooms;
    use crate::gateway::testing::Running;

    /// East has something to open, and something to replay, which is no matter of this route.
    #[derive(Clone)]
    struct Fake;

    impl Audits for Fake {
        fn due(&self, provider: &ProviderName) -> Due {
            match provider.as_str() {
                "east" => Due {
                    openings: vec![Digest::of(b"commit")],
                    answers: vec![Digest::of(b"assignment")],
                    replays: vec![Digest::of(b"secret")],
                },
                _ => Due::default(),
            }
        }
    }

    #[tokio::test]
    async fn each_agent_hears_of_its_own() {
        let running = Running::start_with(|_| Rooms { agents: router(Fake), ..Rooms::default() }).await;
        let (east, west) = (running.client(2), running.client(3));
        for (name, client, openings, answers) in [
            ("east", &east, vec![Digest::of(b"commit")], vec![Digest::of(b"assignment")]),
            ("west", &west, vec![], vec![]),
        ] {
            running.accept(name, client).await;
            let token = client.tokens().await.gateway_token;
            let ask = client.http.get(format!("{}/v1/audits", client.url));
            let said = ask.bearer_auth(token).send().await.unwrap();
            assert_eq!(said.status().as_u16(), 200);
            let said: serde_json::Value = said.json().await.unwrap();
            assert_eq!(said, json!({"openings": openings, "answers": answers}));
        }
        let nobody = running.nobody();
        let said = nobody.http.get(format!("{}/v1/audits", nobody.url)).send().await.unwrap();
        assert_eq!(said.status().as_u16(), 401);
    }
}
