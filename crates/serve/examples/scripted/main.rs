//! Serves a back end without a model, for checks of the wire: `scripted [ADDRESS [KEY]]`.

mod fake;

use std::sync::Arc;

use savi_serve::{ApiKey, ServeError, ServeOptions, serve_blocking};

use fake::{Limits, Scripted};

#[allow(clippy::print_stdout, reason = "whoever starts it reads the address there")]
fn main() -> Result<(), ServeError> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let keys = arguments.next().iter().map(|key| ApiKey::new(key)).collect();
    let options = ServeOptions {
        models: vec!["scripted".to_owned(), "org/scripted".to_owned()],
        fingerprint: Some("fp_scripted".to_owned()),
        keys,
        ..ServeOptions::default()
    };
    let backend = Arc::new(Scripted::new(Limits { running: 32, waiting: 64 }));
    let listening = |address| println!("http://{address}");
    serve_blocking(&address, backend, options, listening, || false)
}
