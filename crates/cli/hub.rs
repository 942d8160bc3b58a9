//! Models by their names on a hub: downloaded with a bar before they are opened.

use savi_data::hub::{Hub, HubEvent, HubName};
use savi_run::Progress;

use crate::exit::BadInput;

/// Sees to it that a model which is named as on the hub lies in the cache. Any other name is left to
/// whoever opens it.
pub(crate) fn fetch(model: &str) -> anyhow::Result<()> {
    let Some(name) = HubName::of_model(model) else { return Ok(()) };
    let hub = Hub::from_env().map_err(|e| BadInput(e.into()))?;
    let mut progress: Option<Progress> = None;
    let fetched = hub.model(&name, &mut |event| match event {
        HubEvent::File { name, bytes, there } => {
            let mut new = Progress::new(format!("{name}, KiB"), bytes >> 10);
            new.resume_at(there >> 10);
            progress = Some(new);
        }
        HubEvent::Bytes(there) => {
            if let Some(progress) = &mut progress {
                progress.set(there >> 10);
            }
        }
        HubEvent::Done => {
            if let Some(progress) = progress.take() {
                progress.finish();
            }
        }
    });
    fetched.map_err(|e| BadInput(e.into()))?;
    Ok(())
}
