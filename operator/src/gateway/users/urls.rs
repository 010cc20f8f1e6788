//! URLs at which a user's other programs read a blob of his job.
use super::*;
use crate::gateway::urls::{Holder, VALID, direct};
use crate::wire::urls::{JobUrlRequest, UrlAnswer, UrlMethod};

pub(super) async fn url<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, job)): Path<(String, String)>,
    body: Body,
) -> Result<Json<UrlAnswer>, Refusal> {
    let JobUrlRequest { digest } = json(body).await?;
    users.may_read(&user, &namespace, &job, &digest).await?;
    let url = users.store.url_to_get(&digest, VALID).await.map_err(|error| store_refusal(&error))?;
    let holder = Holder::User { name: user.name };
    let answer = match url {
        Some(url) => direct(url, UrlMethod::Get, None),
        None => users.urls.own(UrlMethod::Get, digest, None, holder)?,
    };
    Ok(Json(answer))
}
