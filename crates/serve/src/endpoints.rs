//! What can be asked for.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::body::Read;
use crate::fields::Fields;
use crate::generation::{Place, Run};
use crate::layers::{HEALTH, around};
use crate::options::ServeOptions;
use crate::refusal::Refusal;
use crate::reply::{Voice, stream, whole};
use crate::request::{Asked, chat, completion};
use crate::server::App;
use crate::{body, metrics};

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chats))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tokenize", post(tokenize))
        .route(HEALTH, get(health))
        .route("/metrics", get(counted))
        .fallback(async |request: Request| {
            Refusal::route(request.method().as_str(), request.uri().path())
        })
        .method_not_allowed_fallback(async |request: Request| {
            Refusal::method(request.method().as_str(), request.uri().path())
        })
        .layer(middleware::from_fn_with_state(app.clone(), around))
        .with_state(app)
}

type Parser = fn(Value, &ServeOptions) -> Result<Asked, Refusal>;

async fn chats(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    generate(&app, request, chat).await
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    generate(&app, request, completion).await
}

async fn generate(app: &Arc<App>, request: Request, parse: Parser) -> Result<Response, Refusal> {
    let (place, read) = read(app, request).await?;
    let asked = parse(read.value, &app.options)?;
    let voice = Voice::new(&asked, &app.options);
    let streams = asked.stream;
    let run = Run::start(app, place, asked, read.held).await?;
    if streams {
        stream(run, voice, &app.options).await
    } else {
        Ok(json_of(&whole(run, &voice).await?))
    }
}

/// A place among the requests, and the body of one.
async fn read(app: &App, request: Request) -> Result<(Place, Read), Refusal> {
    let (head, body) = request.into_parts();
    match Place::take(app) {
        Ok(place) => Ok((place, body::read(&head.headers, body, &app.memory, &app.options).await?)),
        Err(refusal) => {
            body::discard(body).await;
            Err(refusal)
        }
    }
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let data: Vec<Value> = app.options.models.iter().map(|name| described(&app, name)).collect();
    json_of(&json!({"object": "list", "data": data}))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, Refusal> {
    match app.options.models.contains(&name) {
        true => Ok(json_of(&described(&app, &name))),
        false => Err(Refusal::model(&name, &app.options.models)),
    }
}

fn described(app: &App, name: &str) -> Value {
    json!({"id": name, "object": "model", "created": app.started, "owned_by": "savi"})
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    if app.is_ending() { Err(Refusal::ending()) } else { Ok(json_of(&json!({"status": "ok"}))) }
}

async fn counted(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let load = app.backend.load();
    let text = app.metrics.text(load).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// `{"prompt": "..."}` becomes `{"tokens": [...], "count": N}`, as in vLLM.
async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let (_place, read) = read(&app, request).await?;
    let mut fields = Fields::new(read.value, "")?;
    if let Some(name) = fields.text("model")?
        && !app.options.models.contains(&name)
    {
        return Err(Refusal::model(&name, &app.options.models));
    }
    let Some(prompt) = fields.text("prompt")? else {
        return Err(Refusal::missing("prompt", "is not there"));
    };
    let special = "prompts are tokenised as the model's own";
    fields.only("add_special_tokens", &[json!(true)], special)?;
    fields.finish()?;
    let backend = app.backend.clone();
    let tokens = tokio::task::spawn_blocking(move || backend.tokenize(&prompt)).await;
    let tokens = tokens.map_err(|error| {
        tracing::error!("a text could not be tokenised: {error}");
        Refusal::internal("the server failed; its log says more")
    })?;
    let tokens = tokens.map_err(Refusal::from_backend)?;
    Ok(json_of(&json!({"count": tokens.len(), "tokens": tokens})))
}

fn json_of(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
