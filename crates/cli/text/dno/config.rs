//! The config of `savi text dno`.

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail, ensure};
use savi_data::Data;
use savi_dno::{Mode, Opponent, Reference, Targets};
use savi_endpoint::EndpointOptions;
use savi_train::{DpoConfig, SftConfig};
use serde::{Deserialize, Serialize};

use crate::text::problems::{Files, World};

/// One complete run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// Seed of everything that is random.
    #[serde(default)]
    pub(crate) seed: u64,
    /// The model that learns.
    pub(crate) model: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "crate::run_args::auto")]
    pub(crate) device: String,
    /// `f32` or `bf16`.
    #[serde(default = "crate::run_args::f32")]
    pub(crate) dtype: String,
    /// The prompts to learn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<Files>,
    /// The prompts on which iterates are measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held_out: Option<Files>,
    /// Pairs to learn from, for `method.mode = "offline"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pairs: Option<Data>,
    /// For `pairs`: the least difference of scores, where pairs have them (the paper: 1 of 10 for UltraFeedback).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) least_difference: Option<f64>,
    /// A synthetic world in place of `prompts` and `held_out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) world: Option<World>,
    /// Who answers beside the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) teacher: Option<TeacherConfig>,
    /// Who judges; the model itself where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotator: Option<ModelConfig>,
    /// The method.
    #[serde(default)]
    pub(crate) method: savi_dno::Config,
    /// Learning pairs.
    #[serde(default)]
    pub(crate) dpo: DpoConfig,
    /// Learning what is chosen (`method.mode = "sft-on-positives"`).
    #[serde(default)]
    pub(crate) sft: SftConfig,
}

/// Where the teacher's answers come from: the prompts' own rows, a file or a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeacherConfig {
    /// A column of the prompts; word problems of the world have worked solutions in `solution`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<String>,
    /// A file of rows with `id` (the prompt's) and `answer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answers: Option<PathBuf>,
    /// A model of this process, which stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// An OpenAI-compatible server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<EndpointOptions>,
}

impl TeacherConfig {
    /// The model that is asked, if any.
    pub(crate) fn model(&self) -> Option<ModelConfig> {
        match (&self.model, &self.endpoint) {
            (None, None) => None,
            (model, endpoint) => {
                Some(ModelConfig { model: model.clone(), endpoint: endpoint.clone() })
            }
        }
    }
}

/// A model beside the one that learns: of this process or served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelConfig {
    /// A model of this process, which stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// An OpenAI-compatible server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<EndpointOptions>,
}

impl RunConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        let offline = self.method.mode == Mode::Offline;
        match &self.world {
            Some(world) => {
                world.validate()?;
                ensure!(
                    self.prompts.is_none() && self.held_out.is_none(),
                    "prompts, held_out and world exclude each other"
                );
            }
            None if self.prompts.is_none() && !offline => {
                bail!("give the prompts to learn from: [prompts] or [world]");
            }
            None => {}
        }
        ensure!(
            offline == self.pairs.is_some(),
            "pairs go with method.mode = \"offline\": give both or neither"
        );
        for (key, files) in [("prompts", &self.prompts), ("held_out", &self.held_out)] {
            files.as_ref().map_or(Ok(()), |files| files.validate(key))?;
        }
        let checked = self.pairs.as_ref().map_or(Ok(()), Data::validate);
        checked.map_err(|reason| anyhow!("pairs: {reason}"))?;
        if let Some(teacher) = &self.teacher {
            let given = [
                teacher.column.is_some(),
                teacher.answers.is_some(),
                teacher.model.is_some(),
                teacher.endpoint.is_some(),
            ];
            let given = given.into_iter().filter(|given| *given).count();
            ensure!(given == 1, "teacher: give one of column, answers, model and endpoint");
        }
        if let Some(annotator) = &self.annotator {
            ensure!(
                annotator.model.is_some() != annotator.endpoint.is_some(),
                "annotator: give one of model and endpoint"
            );
        }
        let endpoints = [
            ("teacher", self.teacher.as_ref().and_then(|teacher| teacher.endpoint.as_ref())),
            (
                "annotator",
                self.annotator.as_ref().and_then(|annotator| annotator.endpoint.as_ref()),
            ),
        ];
        for (key, endpoint) in endpoints {
            endpoint.map_or(Ok(()), EndpointOptions::validate).context(key)?;
        }
        self.method.validate().map_err(|problem| anyhow!("method.{problem}"))?;
        self.dpo.validate().context("dpo")?;
        self.sft.validate().context("sft")?;
        ensure!(self.dpo.lora_r > 0, "dpo: lora_r = 0: iterations need an adapter, at least 1");
        self.check_losses()
    }

    /// Losses learn from what pairs hold, and a mixture needs two models.
    fn check_losses(&self) -> anyhow::Result<()> {
        let rates = self.dpo.loss_type.iter().find(|loss| loss.reads_win_rates());
        let sft = self.method.mode == Mode::SftOnPositives;
        if let Some(loss) = rates.filter(|_| !sft) {
            let given = match self.method.mode {
                // The file's pairs hold what they hold.
                Mode::Offline => true,
                _ => self.method.targets == Targets::WinRates,
            };
            let name = loss.name();
            ensure!(
                given,
                "dpo.loss_type = {name:?} learns from win rates: set method.targets = \"win-rates\""
            );
        }
        ensure!(
            self.dpo.mixture_ratio >= 1.0 || self.method.reference == Reference::Initial,
            "dpo.mixture_ratio = {} mixes the start with the current iterate: set method.reference = \"initial\"",
            self.dpo.mixture_ratio
        );
        Ok(())
    }

    /// Whom iterates are compared with, in words.
    pub(crate) fn opponent(&self) -> &'static str {
        match self.method.evaluation.against {
            Opponent::Teacher => "teacher",
            Opponent::Start | Opponent::Nobody => "start",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(text: &str) -> anyhow::Result<RunConfig> {
        let config: RunConfig = savi_run::load_str(text, Path::new("x.toml"), &[])?.value;
        config.validate()?;
        Ok(config)
    }

    #[test]
    fn contradictions_are_refused_by_key() {
        let world = "[world]\nname = 'arithmetic'\ntrain = 8\nheld_out = 2\n";
        let files = "prompts = { data = 'p.jsonl' }\n";
        let cases = [
            (String::new(), "give the prompts"),
            (format!("{files}{world}"), "exclude each other"),
            (world.replace("arithmetic", "geometry"), "world.name"),
            (format!("{world}levels = [0]"), "world.levels"),
            (format!("{world}split = 'train'"), "world.split"),
            (format!("{files}pairs = 'q.jsonl'"), "offline"),
            ("method = { mode = 'offline', iterations = 1 }".to_owned(), "offline"),
            ("prompts = { data = [] }".to_owned(), "prompts"),
            (format!("{world}[teacher]"), "teacher: give one of"),
            (format!("{world}[teacher]\ncolumn = 'c'\nmodel = 'm'"), "teacher: give one of"),
            (format!("{world}[annotator]"), "annotator: give one of"),
            (format!("{world}[annotator.endpoint]\nbase_url = 'h'"), "annotator"),
            (format!("{world}[dpo]\nlora_r = 0"), "lora_r = 0"),
            (format!("{world}[dpo]\nloss_type = 'dno'"), "method.targets"),
            (format!("{world}[dpo]\nloss_type = 'inpo'\nmixture_ratio = 0.5"), "method.reference"),
            (format!("{world}[method]\niteration = 2"), "did you mean `iterations`?"),
            (format!("{world}[method]\nmode = 'offlin'"), "did you mean `offline`?"),
        ];
        for (text, expected) in cases {
            let text = format!("model = 'm'\n{text}");
            let message = format!("{:#}", check(&text).unwrap_err());
            assert!(message.contains(expected), "{text}: {message}");
        }
        check(&format!("model = 'm'\n{world}")).unwrap();
        let soft = "[method]\ntargets = 'win-rates'\nreference = 'initial'\n[method.pairs]\nrule = 'all'\n\
                    [dpo]\nloss_type = 'dno'\nmixture_ratio = 0.5";
        check(&format!("model = 'm'\n{world}{soft}")).unwrap();
    }
}
