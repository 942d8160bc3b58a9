//! What happens around every request: keys, other origins, counting, and panics that end a request and nothing else.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::refusal::{Refusal, RefusedFor};
use crate::server::App;
use crate::{auth, body, cors};

/// The path that is open to all: whoever starts servers asks there.
pub(crate) const HEALTH: &str = "/health";

/// Lets a request through, and counts what comes of it.
pub(crate) async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let endpoint = matched.map_or("other", MatchedPath::as_str).to_owned();
    let origin = cors::allowed(&app.options.origins, request.headers());
    let mut response =
        if origin.is_some() && cors::is_preflight(request.method(), request.headers()) {
            cors::preflight()
        } else if endpoint == HEALTH {
            caught(next, request).await
        } else {
            match auth::check(&app.options.keys, request.headers()) {
                Ok(()) => caught(next, request).await,
                Err(refusal) => {
                    body::discard(request.into_body()).await;
                    refusal.into_response()
                }
            }
        };
    if let Some(origin) = origin {
        cors::mark(response.headers_mut(), origin);
    }
    app.metrics.answered(&endpoint, response.status().as_u16());
    if let Some(RefusedFor(reason)) = response.extensions().get() {
        app.metrics.refused(reason);
    }
    response
}

/// Carries a request out; a panic on the way is an answer.
async fn caught(next: Next, request: Request) -> Response {
    let mut answer = Box::pin(next.run(request));
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
        polled.unwrap_or_else(|_| {
            tracing::error!("a handler panicked");
            let refusal = Refusal::internal("the server failed; its log says more");
            Poll::Ready(refusal.into_response())
        })
    })
    .await
}
