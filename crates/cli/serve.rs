//! `savi serve`: a model behind an OpenAI-compatible HTTP server.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use savi_engine::{Serving, ServingOptions};
use savi_run::Interrupt;
use savi_schema::Generate;
use savi_serve::{ApiKey, ServeError, ServeOptions, serve_blocking};

use crate::Global;
use crate::exit::BadInput;
use crate::generate::EngineArgs;

/// Serve a model to clients of OpenAI's API.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Where to listen. Others than this machine need an address that they can reach, and should need
    /// a key.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "HOST:PORT")]
    addr: String,
    /// A name that requests give the model; may be given several times. Without it, what --model says.
    #[arg(long, value_name = "NAME")]
    served_model_name: Vec<String>,
    /// A file with keys, one a line, of which clients have to show one.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The same, as one key; best said by the environment, where other users do not see it.
    #[arg(long, env = "SAVI_API_KEY", hide_env_values = true, value_name = "KEY", value_parser = key)]
    api_key: Option<ApiKey>,
    /// An origin whose pages may ask from a browser, or *; may be given several times.
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// A folder whose files requests may show by file://; may be given several times.
    #[arg(long, value_name = "DIR")]
    allow_files: Vec<PathBuf>,
    /// Requests may show pictures and clips by http(s):// from the public internet.
    #[arg(long)]
    allow_http: bool,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Requests that may wait for their turn; more are refused.
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_waiting: usize,
    /// Requests that are read, wait or are served at once; more are refused.
    #[arg(long, default_value_t = 2048, value_name = "N")]
    max_requests: usize,
    /// Connections; more wait to be accepted.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_connections: usize,
    /// Longest body of a request, in MiB.
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    max_body: usize,
    /// Choices of a request, over all its prompts.
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_choices: usize,
    /// Longest continuation that may be asked for, in tokens.
    #[arg(long, default_value_t = 1 << 20, value_name = "N")]
    max_tokens: usize,
    /// Pictures of a request.
    #[arg(long, default_value_t = 32, value_name = "N")]
    max_images: usize,
    /// Clips of a request.
    #[arg(long, default_value_t = 4, value_name = "N")]
    max_videos: usize,
    /// Frames that a request may want of a clip.
    #[arg(long, default_value_t = 768, value_name = "N")]
    max_frames: usize,
    /// Time for a request to come whole, in seconds.
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    read_timeout: Duration,
    /// A client that takes nothing for so long is gone, in seconds.
    #[arg(long, default_value = "30", value_parser = seconds, value_name = "SECONDS")]
    write_timeout: Duration,
    /// Time for what was taken up to end when the server is stopped, in seconds.
    #[arg(long, default_value = "30", value_parser = seconds, value_name = "SECONDS")]
    drain: Duration,
}

fn key(text: &str) -> Result<ApiKey, std::convert::Infallible> {
    Ok(ApiKey::new(text))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

pub(crate) fn run(args: Args, _: &Global) -> anyhow::Result<()> {
    let keys = keys(&args)?;
    if keys.is_empty() && !is_loopback(&args.addr) {
        tracing::warn!(
            "{} can be reached from other machines, and no key is asked for: set SAVI_API_KEY or \
             --api-key-file",
            args.addr
        );
    }
    let engine = args.engine.load(&args.engine.options()?)?;
    let fingerprint = Some(engine.fingerprint());
    let serving = ServingOptions { max_waiting: args.limits.max_waiting };
    let serving = Arc::new(Serving::start(engine, serving)?);
    let interrupt = Interrupt::on_signals()?;
    let addr = args.addr.clone();
    let options = ServeOptions { fingerprint, keys, ..options_of(args) };
    let models = options.models.join(", ");
    let listening = |address| eprintln!("{models} listens on http://{address}/v1");
    let served = serve_blocking(&addr, serving, options, listening, move || interrupt.is_set());
    served.map_err(|error| match error {
        error @ ServeError::Io(_) => error.into(),
        error => BadInput(error.into()).into(),
    })
}

fn options_of(args: Args) -> ServeOptions {
    let limits = args.limits;
    let names = args.served_model_name;
    let max_body_bytes = limits.max_body.saturating_mul(1 << 20);
    let base = ServeOptions::default();
    ServeOptions {
        models: if names.is_empty() { vec![args.engine.model] } else { names },
        origins: args.allow_origin,
        max_body_bytes,
        max_bodies_bytes: base.max_bodies_bytes.max(max_body_bytes),
        read_timeout: limits.read_timeout,
        write_timeout: limits.write_timeout,
        max_connections: limits.max_connections,
        max_requests: limits.max_requests,
        max_choices: limits.max_choices,
        max_tokens: limits.max_tokens,
        drain: limits.drain,
        max_images: limits.max_images,
        max_videos: limits.max_videos,
        max_frames: limits.max_frames,
        allow_files: args.allow_files,
        allow_http: args.allow_http,
        ..base
    }
}

fn keys(args: &Args) -> anyhow::Result<Vec<ApiKey>> {
    let mut keys: Vec<ApiKey> = args.api_key.iter().cloned().collect();
    if let Some(path) = &args.api_key_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| path.display().to_string())
            .map_err(BadInput)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let before = keys.len();
        keys.extend(lines.map(ApiKey::new));
        if keys.len() == before {
            return Err(BadInput(anyhow!("{}: holds no key", path.display())).into());
        }
    }
    Ok(keys)
}

/// Whether nobody but this machine reaches an address. One that cannot be resolved is refused when it is
/// listened on.
fn is_loopback(address: &str) -> bool {
    let Ok(mut found) = address.to_socket_addrs() else { return true };
    found.all(|address| match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    })
}
