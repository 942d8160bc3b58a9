//! What `savi eval run` is told.

use std::path::{Path, PathBuf};

use anyhow::Context;
use savi_run::{FolderOptions, RunFolder};
use savi_suites::{PLACE, View};

use super::config::Config;
use super::run::open_folder;
use super::worlds;
use crate::exit::BadInput;

/// Ask a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A Hugging Face folder, a name on the hub, a GGUF file, builtin:tiny, or floor:majority-class for the floor
    /// that answers with the train split's most frequent answer (of moving-shapes and arithmetic).
    #[arg(long, required_unless_present = "endpoint", conflicts_with = "endpoint")]
    pub(super) model: Option<String>,
    /// Address of an OpenAI-compatible server to ask in place of a model here.
    #[arg(long, value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// Name of its model, where it serves several.
    #[arg(long, value_name = "NAME", requires = "endpoint", default_value = "")]
    pub(super) endpoint_model: String,
    /// Environment variable with its key; without one, no key is sent.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(super) endpoint_key_env: Option<String>,
    /// Frames of each clip, in place of the model's own number (a server is sent 8).
    #[arg(long, visible_alias = "endpoint-frames", value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) frames: Option<u16>,
    /// The suite: see `savi eval list`.
    #[arg(long, default_value = "moving-shapes")]
    pub(super) suite: String,
    /// The folder of the suite's annotation files (of moving-shapes: as `savi data make` wrote it), where they are not
    /// to come from the hub; arithmetic has none.
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// The folder of its clips, searched for their names, where it is another.
    #[arg(long, value_name = "DIR")]
    pub(super) videos: Option<PathBuf>,
    /// Which part of it, in place of the suite's own. Of moving-shapes and arithmetic: train, dev (the default) or
    /// test; each use of test is logged in the data set.
    #[arg(long)]
    pub(super) split: Option<String>,
    /// What of each clip is shown; several are rows of one table. By default the clip and every floor: the question
    /// alone, the middle frame, the frames shuffled, the frames backwards.
    #[arg(long = "view", value_enum, value_name = "VIEW")]
    views: Vec<ViewName>,
    /// Draw K replies to each question and let them vote.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) majority: Option<u64>,
    /// Ask about the first N clips only; of suites without clips the first N items, of arithmetic N problems of each
    /// level (default: 100).
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    /// Ask a part only, for several machines: I/N, from 1/N to N/N. `savi eval merge` puts them together.
    #[arg(long, value_name = "I/N")]
    pub(super) shard: Option<String>,
    /// Longest reply, in tokens, in place of the suite's.
    #[arg(long, value_name = "N")]
    pub(super) max_tokens: Option<usize>,
    /// Answer choice questions by the likeliest letter in place of a written reply.
    #[arg(long)]
    pub(super) letters: bool,
    /// Prompts are plain texts without the chat template, for base models.
    #[arg(long)]
    pub(super) plain: bool,
    /// What ends a reply to a plain prompt; repeatable.
    #[arg(long, value_name = "TEXT", requires = "plain")]
    pub(super) stop: Vec<String>,
    /// The system turn.
    #[arg(long, value_name = "TEXT", conflicts_with = "plain")]
    pub(super) system: Option<String>,
    /// A file whose text stands before every prompt.
    #[arg(long, value_name = "FILE")]
    pub(super) before: Option<PathBuf>,
    /// A file whose text stands around every item's words, which go where it says {question}; where options are scored
    /// it is the question alone, and they follow the text.
    #[arg(long, value_name = "FILE")]
    pub(super) template: Option<PathBuf>,
    /// What is said in a clip stands before its questions (Video-MME, LongVideoBench), from files in the folder of clips.
    #[arg(long)]
    subtitles: bool,
    /// Worked examples before every prompt: the first N of the training split.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) shots: usize,
    /// Take rows that are not the published ones; results say so.
    #[arg(long)]
    pub(super) any_rows: bool,
    /// Leave out items whose clips are missing, and count them, in place of stopping.
    #[arg(long)]
    pub(super) skip_missing: bool,
    /// Clips asked about together; it changes the speed and nothing else.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(super) chunk: usize,
    /// Seed of sampling, shuffled views, guesses and intervals.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub(super) device: String,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    pub(super) dtype: String,
    /// A folder of an earlier run of the same items: its row and the paired difference stand in the table.
    #[arg(long, value_name = "DIR")]
    pub(super) baseline: Option<PathBuf>,
    /// Folder for replies, samples and results.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Discard what an earlier start left in the folder.
    #[arg(long)]
    pub(super) fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum ViewName {
    /// The clip as it is.
    Normal,
    /// The question alone.
    Blind,
    /// The middle frame.
    OneFrame,
    /// The frames in a random order.
    Shuffled,
    /// The frames backwards.
    Reversed,
}

impl From<ViewName> for View {
    fn from(name: ViewName) -> Self {
        match name {
            ViewName::Normal => Self::Normal,
            ViewName::Blind => Self::Blind,
            ViewName::OneFrame => Self::OneFrame,
            ViewName::Shuffled => Self::Shuffled,
            ViewName::Reversed => Self::Reversed,
        }
    }
}

impl Args {
    /// What the answers depend on. Views are settled once it is known whether there are clips.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        let of_world = worlds::NAMES.contains(&self.suite.as_str());
        let default_split = if of_world { "dev" } else { "" };
        let data = match &self.data {
            None if self.suite == worlds::ARITHMETIC.name => PathBuf::new(),
            None => super::bench::of_hub(&self.suite, self.split.as_deref())?,
            Some(data) => whole(data)?,
        };
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)
        };
        let template = self.template.as_ref().map(read).transpose()?;
        if template.as_ref().is_some_and(|text| !text.contains(PLACE)) {
            let message = format!("--template: it does not say where {PLACE} goes");
            return Err(BadInput(anyhow::anyhow!(message)).into());
        }
        Ok(Config {
            model: self.model.clone().unwrap_or_else(|| self.endpoint_model.clone()),
            endpoint: self.endpoint.clone(),
            suite: self.suite.clone(),
            data,
            videos: self.videos.as_deref().map(whole).transpose()?,
            split: self.split.clone().unwrap_or_else(|| default_split.to_owned()),
            views: self.views.iter().map(|&view| view.into()).collect(),
            limit: self.limit,
            shard: self.shard.clone(),
            frames: self.frames.or(self.endpoint.as_ref().map(|_| 8)),
            majority: self.majority.map(|k| k as usize),
            max_tokens: self.max_tokens,
            letters: self.letters,
            plain: self.plain.then(|| self.stop.clone()),
            system: self.system.clone(),
            before: self.before.as_ref().map(read).transpose()?.unwrap_or_default(),
            template,
            subtitles: self.subtitles,
            shots: self.shots,
            any_rows: self.any_rows,
            skip_missing: self.skip_missing,
            seed: self.seed,
            dtype: self.dtype.clone(),
        })
    }

    pub(super) fn open_folder(&self, config: &Config) -> anyhow::Result<RunFolder> {
        let options = FolderOptions {
            command: "eval run".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fresh: self.fresh,
            seed: self.seed,
            device: self.device.clone(),
            dtype: self.dtype.clone(),
        };
        open_folder(&self.out, config, &options)
    }
}

fn whole(path: &Path) -> anyhow::Result<PathBuf> {
    let whole = path.canonicalize().with_context(|| path.display().to_string());
    Ok(whole.map_err(BadInput)?)
}
