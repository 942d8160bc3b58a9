//! Models and data sets by their names on a hub: downloaded with a bar before they are opened.

use std::path::{Path, PathBuf};

use savi_data::hub::{Hub, HubEvent, HubName};
use savi_run::Progress;

use crate::exit::BadInput;

/// Sees to it that a model which is named as on the hub lies in the cache. Any other name is left to
/// whoever opens it.
pub(crate) fn fetch(model: &str) -> anyhow::Result<()> {
    let Some(name) = HubName::of_model(model) else { return Ok(()) };
    let hub = Hub::from_env().map_err(|e| BadInput(e.into()))?;
    hub.model(&name, &mut bars()).map_err(|e| BadInput(e.into()))?;
    Ok(())
}

/// The folder of a data set's files, downloaded where they are not in the cache.
pub(crate) fn dataset(
    name: &str,
    whole: &dyn Fn(&Path) -> bool,
    wanted: &dyn Fn(&[String]) -> Vec<String>,
) -> anyhow::Result<PathBuf> {
    let bad_name = || BadInput(anyhow::anyhow!("{name:?} is no name on a hub"));
    let name = HubName::dataset(name).ok_or_else(bad_name)?;
    let hub = Hub::from_env().map_err(|e| BadInput(e.into()))?;
    Ok(hub.dataset(&name, whole, wanted, &mut bars()).map_err(|e| BadInput(e.into()))?)
}

/// A bar for every file.
fn bars() -> impl FnMut(HubEvent<'_>) {
    let mut progress: Option<Progress> = None;
    move |event| match event {
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
    }
}
