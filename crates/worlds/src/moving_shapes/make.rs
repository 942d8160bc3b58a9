//! Writes a data set: clips as video files, scene graphs, questions, and a manifest.
//!
//! ```text
//! DIR/manifest.json                       written last: the data set is whole
//! DIR/<split>/clips/<id>.mp4
//! DIR/<split>/scenes.jsonl                the truth; for the unlabelled split it lies in
//! DIR/audit/unlabelled-scenes.jsonl       and is read by audits only
//! DIR/<split>/questions.jsonl             not for the unlabelled split
//! ```
//!
//! Clips appear whole or not at all, and a command that was stopped goes on where it was. The same
//! configuration gives the same bytes, whatever the number of threads.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use savi_data::RowWriter;
use savi_run::{Interrupt, write_json_atomic};
use savi_schema::SCHEMA_VERSION;
use savi_suites::{Format, QuestionRecord};
use serde::{Deserialize, Serialize};

use super::floors::{self, Floor};
use super::questions::{Qa, questions};
use super::scene::Scene;
use super::split::Split;
use crate::WorldError;

/// Name of the world in manifests and commands.
pub const NAME: &str = "moving-shapes";
/// Raised whenever the same seed gives other scenes, questions or pixels.
pub const VERSION: u32 = 2;

/// What a data set is made from; equal configurations give equal data sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// Always [`NAME`].
    pub world: String,
    /// [`VERSION`] of the world.
    pub version: u32,
    /// Seed of all scenes.
    pub seed: u64,
    /// Number of clips of each split.
    pub clips: BTreeMap<Split, u64>,
}

impl DatasetConfig {
    /// A data set with these numbers of clips; splits that are not named have none.
    pub fn new(seed: u64, clips: BTreeMap<Split, u64>) -> Self {
        Self { world: NAME.to_owned(), version: VERSION, seed, clips }
    }

    /// `total` clips, of which dev and test get a tenth each, unlabelled three tenths and train the
    /// rest.
    pub fn shared(seed: u64, total: u64) -> Self {
        let (tenth, unlabelled) = (total / 10, total * 3 / 10);
        let train = total - unlabelled - 2 * tenth;
        let shares = [train, unlabelled, tenth, tenth];
        Self::new(seed, Split::ALL.into_iter().zip(shares).collect())
    }

    /// Number of clips of all splits.
    pub fn total(&self) -> u64 {
        self.clips.values().fold(0, |sum: u64, &clips| sum.saturating_add(clips))
    }

    fn splits(&self) -> impl Iterator<Item = (Split, u64)> + '_ {
        self.clips.iter().map(|(&split, &clips)| (split, clips)).filter(|(_, clips)| *clips > 0)
    }
}

/// `DIR/manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetManifest {
    /// Record version.
    pub schema: u32,
    /// What it was made from.
    pub config: DatasetConfig,
    /// BLAKE3 of the configuration.
    pub hash: String,
    /// What each split holds.
    pub splits: BTreeMap<Split, SplitSummary>,
    /// How often each family is answered blindly, on scenes like those of dev and test.
    pub floors: Vec<Floor>,
    /// The most that a temporal family's floors may exceed chance.
    pub margin: f64,
}

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// Number of clips.
    pub clips: u64,
    /// Number of questions.
    pub questions: u64,
    /// Of these, those about combinations that train and unlabelled do not hold.
    pub novel: u64,
    /// Seconds of video.
    pub seconds: f64,
}

/// Makes a data set in `dir`. A folder that already holds it is left as it is; one that holds
/// anything else is refused, unless `fresh`, which removes an older data set of this world first.
/// `progress` is told how many clips are written.
pub fn make(
    config: &DatasetConfig,
    dir: &Path,
    fresh: bool,
    interrupt: &Interrupt,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<DatasetManifest, WorldError> {
    if let Some(manifest) = prepare(config, dir, fresh)? {
        progress(config.total());
        return Ok(manifest);
    }
    let floors = sound_floors()?;
    let mut known = HashMap::new();
    let mut splits = BTreeMap::new();
    let done = AtomicU64::new(0);
    for (split, clips) in config.splits() {
        let scenes: Vec<Scene> =
            (0..clips).into_par_iter().map(|i| super::scene(split, config.seed, i)).collect();
        for scene in &scenes {
            if let Some(one) = known.insert(content_hash(scene), scene.id.clone()) {
                return Err(WorldError::SameScene { one, other: scene.id.clone() });
            }
        }
        let folder = dir.join(split.name()).join("clips");
        std::fs::create_dir_all(&folder).map_err(WorldError::io(&folder))?;
        scenes.par_iter().try_for_each(|scene| {
            interrupt.check()?;
            let path = folder.join(format!("{}.mp4", scene.id));
            if !path.exists() {
                super::clip::write_clip(scene, &path)?;
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok::<_, WorldError>(())
        })?;
        splits.insert(split, write_rows(split, &scenes, dir)?);
    }
    let manifest = DatasetManifest {
        schema: SCHEMA_VERSION,
        config: config.clone(),
        hash: config_hash(config),
        splits,
        floors,
        margin: floors::MARGIN,
    };
    write_json_atomic(&dir.join(MANIFEST), &manifest)?;
    let making = dir.join(MAKING);
    std::fs::remove_file(&making).map_err(WorldError::io(&making))?;
    Ok(manifest)
}

const MANIFEST: &str = "manifest.json";
/// Says, until the manifest is there, what the folder is becoming.
const MAKING: &str = "making.json";

/// Reads `dir/manifest.json`.
pub fn read_manifest(dir: &Path) -> Result<DatasetManifest, WorldError> {
    read_json(&dir.join(MANIFEST))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, WorldError> {
    let text = std::fs::read_to_string(path).map_err(WorldError::io(path))?;
    serde_json::from_str(&text)
        .map_err(|error| WorldError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

/// Makes the folder ready; the manifest if nothing is left to do.
fn prepare(
    config: &DatasetConfig,
    dir: &Path,
    fresh: bool,
) -> Result<Option<DatasetManifest>, WorldError> {
    std::fs::create_dir_all(dir).map_err(WorldError::io(dir))?;
    let (manifest, making) = (dir.join(MANIFEST), dir.join(MAKING));
    let ours = manifest.exists() || making.exists();
    if fresh && ours {
        // The manifest goes first: a folder without it is not whole.
        for file in [&manifest, &making] {
            if file.exists() {
                std::fs::remove_file(file).map_err(WorldError::io(file))?;
            }
        }
        for name in Split::ALL.iter().map(|split| split.name()).chain(["audit"]) {
            let folder = dir.join(name);
            if folder.exists() {
                std::fs::remove_dir_all(&folder).map_err(WorldError::io(&folder))?;
            }
        }
    }
    let occupied = |reason: String| WorldError::Occupied { path: dir.to_owned(), reason };
    if manifest.exists() {
        let found = read_manifest(dir)?;
        if found.config == *config {
            return Ok(Some(found));
        }
        return Err(occupied(difference(&found.config, config)));
    }
    if making.exists() {
        let found: DatasetConfig = read_json(&making)?;
        if found != *config {
            return Err(occupied(difference(&found, config)));
        }
        return Ok(None);
    }
    let mut entries = std::fs::read_dir(dir).map_err(WorldError::io(dir))?;
    if entries.next().is_some() {
        return Err(occupied("the folder is not empty and holds no such data set".to_owned()));
    }
    write_json_atomic(&making, config)?;
    Ok(None)
}

fn difference(found: &DatasetConfig, wanted: &DatasetConfig) -> String {
    let mut keys = Vec::new();
    if (&found.world, found.version) != (&wanted.world, wanted.version) {
        keys.push(format!("version {} instead of {}", found.version, wanted.version));
    }
    if found.seed != wanted.seed {
        keys.push(format!("seed {} instead of {}", found.seed, wanted.seed));
    }
    for split in Split::ALL {
        let clips = |config: &DatasetConfig| config.clips.get(&split).copied().unwrap_or(0);
        if clips(found) != clips(wanted) {
            let name = split.name();
            keys.push(format!("{} {name} clips instead of {}", clips(found), clips(wanted)));
        }
    }
    format!("it holds a data set with {}; --fresh replaces it", keys.join(", "))
}

/// The floors of the world; they do not depend on the data set's seed.
fn sound_floors() -> Result<Vec<Floor>, WorldError> {
    let floors = floors::measure(Split::Dev, 0, floors::SCENES);
    match floors.iter().find(|floor| !floor.is_sound()) {
        None => Ok(floors),
        Some(floor) => Err(WorldError::Unsound {
            family: floor.family.name(),
            accuracy: floor.one_frame.max(floor.question_only),
            chance: floor.chance,
        }),
    }
}

fn config_hash(config: &DatasetConfig) -> String {
    let text = serde_json::to_string(config).unwrap_or_default();
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// A hash of what a scene shows, without its name and number.
fn content_hash(scene: &Scene) -> blake3::Hash {
    let nameless =
        Scene { id: String::new(), split: Split::Train, seed: 0, index: 0, ..scene.clone() };
    blake3::hash(serde_json::to_string(&nameless).unwrap_or_default().as_bytes())
}

/// The questions of one clip as records; the same each time.
pub fn question_records(scene: &Scene) -> Vec<QuestionRecord> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"moving-shapes questions 1");
    hasher.update(scene.id.as_bytes());
    hasher.update(&scene.seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    let asked = questions(scene, &mut rng);
    asked.into_iter().enumerate().map(|(number, qa)| record(scene, number, qa)).collect()
}

fn record(scene: &Scene, number: usize, qa: Qa) -> QuestionRecord {
    QuestionRecord {
        schema: SCHEMA_VERSION,
        id: format!("{}-q{number}", scene.id),
        clip_id: scene.id.clone(),
        clip: format!("{}/clips/{}.mp4", scene.split.name(), scene.id),
        family: qa.family.name().to_owned(),
        format: if qa.options.is_some() { Format::Choice } else { Format::Open },
        question: qa.question,
        options: qa.options,
        answer: qa.answer,
        temporal: qa.temporal,
        novel: qa.novel,
    }
}

fn write_rows(split: Split, scenes: &[Scene], dir: &Path) -> Result<SplitSummary, WorldError> {
    let folder = dir.join(split.name());
    let mut summary =
        SplitSummary { clips: scenes.len() as u64, questions: 0, novel: 0, seconds: 0.0 };
    let truth = if split == Split::Unlabelled {
        dir.join("audit").join("unlabelled-scenes.jsonl")
    } else {
        folder.join("scenes.jsonl")
    };
    let mut rows = RowWriter::create(&truth)?;
    for scene in scenes {
        rows.write(scene)?;
        summary.seconds += scene.duration();
    }
    rows.finish()?;
    if split != Split::Unlabelled {
        let mut rows = RowWriter::create(&folder.join("questions.jsonl"))?;
        for record in scenes.iter().flat_map(question_records) {
            summary.questions += 1;
            summary.novel += u64::from(record.novel);
            rows.write(&record)?;
        }
        rows.finish()?;
    }
    Ok(summary)
}
