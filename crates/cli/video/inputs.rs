//! What a run works on: clips to learn from, held-out questions, and the labels of the ceiling.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rayon::prelude::*;
use savi_run::{Interrupt, Key, Progress, Record, RunFolder, Stage, file_hash};
use savi_schema::{
    Example, GenerateError, Media, MediaPolicy, Message, RgbImage, Role, SCHEMA_VERSION,
};
use savi_suites::stats::Bootstrap;
use savi_suites::{EvalOptions, QuestionRecord, read_questions};
use savi_video_ingest::{IngestOptions, plan_times, probe, read_clip};
use savi_videosavi::{ClipRecord, Config, Exam, Learn, Prompts, Subject};
use savi_worlds::WorldError;
use savi_worlds::moving_shapes::{self, Split, open_split};
use serde::{Deserialize, Serialize};

use super::config::{Answering, Evaluation, RunConfig, Unreadable, World};
use crate::exit::{BadInput, Interrupted};

/// Clips of which the report shows frames.
const SHOWN_CLIPS: usize = 24;

/// Everything a run works on.
pub(crate) struct Sources {
    pub(crate) clips: Vec<ClipRecord>,
    pub(crate) exam: Exam,
    pub(crate) labelled: Vec<Example>,
    /// The folder of the world, where there is one.
    pub(crate) world: Option<PathBuf>,
}

/// Makes or finds the clips, reads what their files say about themselves, and opens the questions.
pub(crate) fn gather(
    config: &RunConfig,
    policy: &MediaPolicy,
    folder: &mut RunFolder,
    interrupt: &Interrupt,
) -> anyhow::Result<Sources> {
    let hash = folder.manifest().config_hash.clone();
    let exam = |suite: String, root: PathBuf, questions: Vec<QuestionRecord>| Exam {
        suite,
        root,
        questions: first_clips(questions, config.evaluation.max_questions),
        options: eval_options(&config.evaluation, policy, config.seed, &config.ingest),
        self_correct: config.evaluation.answering == Answering::CritiqueRevise,
        bootstrap: Bootstrap { resamples: config.evaluation.resamples, seed: config.seed },
    };
    let Some(world) = &config.world else {
        let sources = expand(&config.videos).map_err(BadInput)?;
        let sources = name(sources);
        let sources = readable(sources, policy, config, folder, interrupt)?;
        let clips =
            describe(&sources, policy, config.captions.as_deref(), &config.ingest, interrupt)?;
        let exam = match &config.evaluation.questions {
            Some(path) => {
                if let Some(world) = moving_shapes::sealed(path) {
                    let message = format!(
                        "{}: the questions of a world's test split are opened by [world] with \
                         dir = {world:?} and evaluation.split = \"test\" only, which logs it",
                        path.display()
                    );
                    return Err(BadInput(anyhow::anyhow!(message)).into());
                }
                let questions = read_questions(path).map_err(|error| BadInput(error.into()))?;
                let beside = path.parent().unwrap_or(Path::new(".")).to_owned();
                let suite = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                exam(suite, config.evaluation.root.clone().unwrap_or(beside), questions)
            }
            None => exam("none".to_owned(), PathBuf::new(), Vec::new()),
        };
        return Ok(Sources { clips, exam, labelled: Vec::new(), world: None });
    };
    let dir = world.dir.clone().unwrap_or_else(|| folder.path("data"));
    make_world(world, &dir, folder, interrupt)?;
    let open = |split| open_split(&dir, split, &hash);
    let sources: Vec<Source> = match world.clips.get(&Split::Unlabelled) {
        Some(1..) => open(Split::Unlabelled)?.clips.into_iter().map(Source::from).collect(),
        _ => Vec::new(),
    };
    let labelled = match config.method.learn {
        Learn::SftLabelled => labelled(&open(Split::Train)?.questions, &dir, policy, config)?,
        _ => Vec::new(),
    };
    let questions = open(config.evaluation.split)?.questions;
    Ok(Sources {
        clips: describe(&name(sources), policy, None, &config.ingest, interrupt)?,
        exam: exam(world.name.clone(), dir.clone(), questions),
        labelled,
        world: Some(dir),
    })
}

fn make_world(
    world: &World,
    dir: &Path,
    folder: &mut RunFolder,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let dataset = world.dataset();
    let progress = std::sync::Mutex::new(Progress::new("making clips", dataset.total()));
    let made = moving_shapes::make(&dataset, dir, false, interrupt, &|done| {
        if let Ok(mut progress) = progress.lock() {
            progress.reach(done);
        }
    });
    let manifest = made.map_err(|error| match error {
        WorldError::Interrupted(_) => Interrupted.into(),
        error @ WorldError::Occupied { .. } => anyhow::Error::from(BadInput(error.into())),
        error => error.into(),
    })?;
    if let Ok(progress) = progress.into_inner() {
        progress.finish();
    }
    folder.record_input(&world.name, &manifest.hash)?;
    Ok(())
}

/// A clip as it was asked for: a path, and perhaps a part of it.
struct Source {
    path: PathBuf,
    part: Option<(Option<f64>, Option<f64>)>,
}

impl Source {
    fn policy(&self, policy: &MediaPolicy) -> MediaPolicy {
        match self.part {
            Some((start, end)) => MediaPolicy { start, end, ..policy.clone() },
            None => policy.clone(),
        }
    }
}

/// Whether a clip's frames can be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Readable {
    id: String,
    source: String,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Record for Readable {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.id
    }
}

/// Clips read between two looks at Ctrl-C.
const READ_AT_ONCE: usize = 16;

/// Leaves out the clips whose frames cannot be read, or refuses them. They are read once, at the
/// first start; what was found is stage `00-readable`.
fn readable(
    sources: Vec<(String, Source)>,
    policy: &MediaPolicy,
    config: &RunConfig,
    folder: &RunFolder,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<(String, Source)>> {
    let paths: Vec<String> = sources.iter().map(|(_, s)| s.path.display().to_string()).collect();
    let policies: Vec<MediaPolicy> = sources.iter().map(|(_, s)| s.policy(policy)).collect();
    // A file that was mended is read again.
    let states: Vec<_> = sources.iter().map(|(_, source)| state(&source.path)).collect();
    let key = Key::new("readable")
        .with("sources", &paths)
        .with("policies", &policies)
        .with("states", &states)
        .with("ingest", &config.ingest)
        .finish();
    let mut stage: Stage<Readable> = Stage::open(folder, "00-readable", &key)?;
    let mut progress = Progress::new("reading clips", sources.len() as u64);
    let places: Vec<usize> = (0..sources.len()).collect();
    for chunk in places.chunks(READ_AT_ONCE) {
        if interrupt.is_set() {
            return Err(Interrupted.into());
        }
        let ids: Vec<&str> = chunk.iter().map(|&at| sources[at].0.as_str()).collect();
        stage.run(&ids, |missing| {
            let read = |&place: &usize| {
                let at = chunk[place];
                let read = read_clip(&paths[at], &policies[at], &config.ingest);
                let (id, source) = (sources[at].0.clone(), paths[at].clone());
                vec![Readable { id, source, error: read.err().map(|error| error.to_string()) }]
            };
            Ok::<_, anyhow::Error>(missing.par_iter().map(read).collect())
        })?;
        progress.add(chunk.len() as u64);
    }
    progress.finish();
    let records = stage.finish(|records| {
        let bad = records.iter().filter(|record| record.error.is_some()).count() as u64;
        [("clips".to_owned(), records.len() as u64), ("unreadable".to_owned(), bad)].into()
    })?;
    let bad: Vec<(&str, &str)> = records
        .iter()
        .filter_map(|record| Some((record.id.as_str(), record.error.as_deref()?)))
        .collect();
    if let (Unreadable::Fail, Some((_, error))) = (config.unreadable, bad.first()) {
        let advice = "mend or remove the file, or set unreadable = \"skip\"";
        return Err(BadInput(anyhow::anyhow!("{error}; {advice}")).into());
    }
    for (id, error) in &bad {
        tracing::warn!("clip {id} is left out: {error}");
    }
    if bad.len() == sources.len() {
        return Err(BadInput(anyhow::anyhow!("videos: none of the clips can be read")).into());
    }
    let bad: HashSet<&str> = bad.into_iter().map(|(id, _)| id).collect();
    Ok(sources.into_iter().filter(|(id, _)| !bad.contains(id.as_str())).collect())
}

/// Size of a file or folder and when it was last written, in nanoseconds.
fn state(path: &Path) -> Option<(u64, u128)> {
    let metadata = path.metadata().ok()?;
    let written = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some((metadata.len(), written.as_nanos()))
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self { path, part: None }
    }
}

/// The files behind paths with wildcards, each pattern's in order of their names.
fn expand(patterns: &[String]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for given in patterns {
        let (pattern, part) = match given.split_once("#t=") {
            Some((pattern, part)) => {
                let part = parse_part(part)
                    .with_context(|| format!("videos: {given:?}: expected #t=START,END"))?;
                (pattern, Some(part))
            }
            None => (given.as_str(), None),
        };
        let paths = glob::glob(pattern).with_context(|| format!("videos: {given:?}"))?;
        let mut found: Vec<PathBuf> =
            paths.collect::<Result<_, _>>().with_context(|| format!("videos: {given:?}"))?;
        found.sort();
        if found.is_empty() {
            bail!("videos: {given:?} fits no file");
        }
        sources.extend(found.into_iter().map(|path| Source { path, part }));
    }
    Ok(sources)
}

fn parse_part(text: &str) -> Option<(Option<f64>, Option<f64>)> {
    let (start, end) = text.split_once(',').unwrap_or((text, ""));
    let bound = |text: &str| match text.trim() {
        "" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some((bound(start)?, bound(end)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Caption {
    clip: String,
    caption: String,
}

/// Reads what each clip's file says about itself, and plans which moments are looked at.
fn describe(
    sources: &[(String, Source)],
    policy: &MediaPolicy,
    captions: Option<&Path>,
    ingest: &IngestOptions,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<ClipRecord>> {
    let captions: HashMap<String, String> = match captions {
        Some(path) => savi_run::read_records::<Caption>(path)
            .map_err(|error| BadInput(error.into()))?
            .into_iter()
            .map(|entry| (entry.clip, entry.caption))
            .collect(),
        None => HashMap::new(),
    };
    let mut progress = Progress::new("looking at clips", sources.len() as u64);
    let mut clips = Vec::with_capacity(sources.len());
    for (id, source) in sources {
        if interrupt.is_set() {
            return Err(Interrupted.into());
        }
        let path = source.path.display().to_string();
        let policy = source.policy(policy);
        let metadata = probe(&path, ingest).map_err(|error| BadInput(error.into()))?;
        let frame_times =
            plan_times(&metadata, &policy).with_context(|| path.clone()).map_err(BadInput)?;
        clips.push(ClipRecord {
            schema: SCHEMA_VERSION,
            id: id.clone(),
            caption: captions.get(&path).cloned(),
            hash: content_hash(&source.path)?,
            source: path,
            policy,
            frame_times,
        });
        progress.add(1);
    }
    progress.finish();
    Ok(clips)
}

/// Gives every clip an id: its file's name without the ending where these tell the clips apart,
/// else a number before it.
fn name(sources: Vec<Source>) -> Vec<(String, Source)> {
    let stems: Vec<String> = sources
        .iter()
        .map(|source| {
            let name = source.path.file_stem().unwrap_or_default().to_string_lossy();
            name.chars()
                .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' })
                .collect()
        })
        .collect();
    let clear = stems.iter().collect::<HashSet<_>>().len() == stems.len();
    let id = |(number, stem): (usize, String)| {
        if clear { stem } else { format!("{number:05}-{stem}") }
    };
    stems.into_iter().enumerate().map(id).zip(sources).collect()
}

/// Hash of a file, or of the files of a frame folder in order of their names.
fn content_hash(path: &Path) -> anyhow::Result<String> {
    if !path.is_dir() {
        return Ok(file_hash(path)?);
    }
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| path.display().to_string())?;
    files.sort();
    let mut key = savi_run::Key::new("frames");
    for file in files.iter().filter(|file| file.is_file()) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        key = key.with(&name, &file_hash(file)?);
    }
    Ok(key.finish())
}

/// Labelled questions as examples, for the ceiling control.
fn labelled(
    questions: &[QuestionRecord],
    root: &Path,
    policy: &MediaPolicy,
    config: &RunConfig,
) -> anyhow::Result<Vec<Example>> {
    let prompts = Prompts::load(&config.method.prompts).map_err(|error| BadInput(error.into()))?;
    questions
        .iter()
        .map(|question| {
            let source = root.join(&question.clip).display().to_string();
            let subject = Subject::video(Media { source, policy: Some(policy.clone()) });
            let options = question.options.as_deref();
            let mut conversation = prompts.answer(&subject, &question.question, options)?;
            conversation.push(Message::text(Role::Assistant, question.answer.clone()));
            let (schema, id) = (SCHEMA_VERSION, question.id.clone());
            Ok(Example { schema, id, conversations: vec![conversation] })
        })
        .collect()
}

fn eval_options(
    config: &Evaluation,
    policy: &MediaPolicy,
    seed: u64,
    ingest: &IngestOptions,
) -> EvalOptions {
    EvalOptions {
        view: config.view,
        max_tokens: config.max_tokens,
        seed,
        chunk: config.clips_at_once,
        ingest: ingest.clone(),
        majority: (config.answering == Answering::Majority).then_some(config.votes),
        ..EvalOptions::new(policy.clone())
    }
}

/// Whole clips until `most` questions are reached; 0 keeps all.
fn first_clips(questions: Vec<QuestionRecord>, most: usize) -> Vec<QuestionRecord> {
    if most == 0 {
        return questions;
    }
    let mut kept: Vec<QuestionRecord> = Vec::new();
    let of_clips: Vec<Vec<QuestionRecord>> = savi_suites::by_clip(&questions)
        .into_iter()
        .map(|(_, of_clip)| of_clip.into_iter().cloned().collect())
        .collect();
    for of_clip in of_clips {
        if kept.len() >= most {
            break;
        }
        kept.extend(of_clip);
    }
    kept
}

/// The frames of a clip under its policy.
pub(crate) fn frames(
    clip: &ClipRecord,
    ingest: &IngestOptions,
) -> Result<Vec<RgbImage>, GenerateError> {
    let read = read_clip(&clip.source, &clip.policy, ingest);
    let clip = read.map_err(|error| GenerateError::Media {
        id: clip.id.clone(),
        media: clip.source.clone(),
        reason: error.to_string(),
    })?;
    Ok(clip.frames.into_iter().map(|frame| frame.image).collect())
}

/// Keeps small pictures of the first clips that gave pairs, for the report.
pub(crate) fn store_thumbnails(
    run_dir: &Path,
    clips: &[ClipRecord],
    config: &Config,
    ingest: &IngestOptions,
) -> anyhow::Result<()> {
    let mut shown: Vec<String> = Vec::new();
    for round in 1..=config.rounds {
        for decision in
            savi_videosavi::read_decisions(run_dir, round, config.form).unwrap_or_default()
        {
            if shown.len() < SHOWN_CLIPS
                && decision.pair.is_some()
                && !shown.contains(&decision.clip)
            {
                shown.push(decision.clip);
            }
        }
    }
    for clip in clips.iter().filter(|clip| shown.contains(&clip.id)) {
        let read = read_clip(&clip.source, &clip.policy, ingest)?;
        savi_report::store_thumbnails(run_dir, &clip.id, &read.frames)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_named_by_their_files_while_these_differ() {
        let ids = |paths: &[&str]| -> Vec<String> {
            let sources = paths.iter().map(|path| Source::from(PathBuf::from(path))).collect();
            name(sources).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(ids(&["a/x 1.mp4", "b/y.mp4"]), ["x_1", "y"]);
        assert_eq!(ids(&["a/x.mp4", "b/x.mp4"]), ["00000-x", "00001-x"]);
    }

    #[test]
    fn wildcards_and_parts() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.mp4", "a.mp4", "c.txt"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let given = |name: &str| vec![format!("{}/{name}", dir.path().display())];
        let names = |given: &[String]| -> Vec<String> {
            let name = |s: &Source| s.path.file_name().unwrap().to_string_lossy().into_owned();
            expand(given).unwrap().iter().map(name).collect()
        };
        assert_eq!(names(&given("*.mp4")), ["a.mp4", "b.mp4"]);
        let part = &expand(&given("a.mp4#t=1.5,")).unwrap()[0].part;
        assert_eq!(*part, Some((Some(1.5), None)));
        assert!(expand(&given("*.mkv")).is_err());
        assert!(expand(&given("a.mp4#t=x")).is_err());
    }
}
