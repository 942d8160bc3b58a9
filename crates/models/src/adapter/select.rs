//! Which layers an adapter is on, and which weights it copies: PEFT's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use fancy_regex::Regex;
use savi_nn::Weight;
use savi_nn::layers::{Linear, LoraShape};

use super::config::{LoraBias, LoraConfig, Modules, Patterns, refused};
use crate::{Model, ModelError};

/// What an adapter touches.
#[derive(Debug)]
pub(super) struct Selection {
    /// Layers, each with the shape of its adapter.
    pub(super) targets: Vec<(Arc<Linear>, LoraShape)>,
    /// Weights to copy.
    pub(super) copies: Vec<Arc<Weight>>,
}

/// How a module is called when options are held against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// As transformers, and so PEFT, calls it.
    Peft,
    /// That, or as checkpoints call it.
    Either,
}

/// Selects what `config` names among what `within` lets through. `path` stands in errors.
pub(super) fn select(
    model: &Model,
    config: &LoraConfig,
    path: &Path,
    naming: Naming,
    within: &dyn Fn(&str) -> bool,
) -> Result<Selection, ModelError> {
    config.validate(path)?;
    let options = &config.options;
    let rules = Rules::new(config, path)?;
    let names = |module: &str| -> Vec<String> {
        let mut names = vec![model.module_name(module)];
        if naming == Naming::Either && names[0] != module {
            names.push(module.to_owned());
        }
        names
    };
    let mut targets = Vec::new();
    let linears = model.params().linears();
    for linear in &linears {
        let names = names(linear.name());
        if within(linear.name()) && rules.targets(&names, true)? {
            targets.push((linear.clone(), rules.shape(config, &names)?));
        }
    }
    let is_linear: BTreeSet<&str> = linears.iter().map(|linear| linear.name()).collect();
    let weights = model.params().all();
    for module in modules(&weights) {
        if !is_linear.contains(module) && within(module) && rules.targets(&names(module), false)? {
            return Err(refused(path, "target_modules", module, "linear layers"));
        }
    }
    if targets.is_empty() {
        let targets = format!("{:?}", options.target_modules);
        return Err(refused(path, "target_modules", targets, "names of the model's layers"));
    }
    let mut copies = Vec::new();
    let saved = options.modules_to_save.as_deref().unwrap_or_default();
    let mut found: BTreeMap<&str, bool> = saved.iter().map(|key| (key.as_str(), false)).collect();
    let on: BTreeSet<&str> = targets.iter().map(|(linear, _)| linear.name()).collect();
    for weight in &weights {
        if !within(weight.name()) {
            continue;
        }
        let mut hit = false;
        for name in ancestors(weight.name()).flat_map(names) {
            for (key, found) in found.iter_mut().filter(|(key, _)| name.ends_with(**key)) {
                (hit, *found) = (true, true);
                if ancestors(weight.name()).any(|module| on.contains(module)) {
                    return Err(refused(path, "modules_to_save", key, "modules without adapters"));
                }
            }
        }
        let bias = weight.name().ends_with(".bias")
            && match options.bias {
                LoraBias::None => false,
                LoraBias::All => true,
                LoraBias::LoraOnly => ancestors(weight.name()).any(|module| on.contains(module)),
            };
        if hit || bias {
            copies.push(weight.clone());
        }
    }
    if let Some((key, _)) = found.into_iter().find(|(_, found)| !found) {
        return Err(refused(path, "modules_to_save", key, "names of the model's modules"));
    }
    Ok(Selection { targets, copies })
}

/// The modules around a weight, from its own up.
pub(super) fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(name), |name| parent(name))
}

fn parent(name: &str) -> Option<&str> {
    name.rsplit_once('.').map(|(parent, _)| parent)
}

fn modules(weights: &[Arc<Weight>]) -> BTreeSet<&str> {
    weights.iter().flat_map(|weight| ancestors(weight.name())).collect()
}

/// The options, ready to be held against names.
struct Rules {
    target: Matcher,
    exclude: Option<Matcher>,
    /// Modules that are copied whole: nothing of them is a target.
    saved: Vec<Rule>,
    /// The first group of the first that fits is the number of the layer.
    counted: Vec<Rule>,
    layers: Vec<usize>,
    ranks: Vec<(Rule, String, usize)>,
    alphas: Vec<(Rule, String, f64)>,
}

enum Matcher {
    AllLinear,
    Whole(Rule),
    Names(Vec<String>),
}

impl Rules {
    fn new(config: &LoraConfig, path: &Path) -> Result<Self, ModelError> {
        let options = &config.options;
        let matcher = |key: &'static str, modules: &Modules| -> Result<Matcher, ModelError> {
            Ok(match modules {
                Modules::Names(names) => Matcher::Names(names.clone()),
                Modules::Text(text) => {
                    Matcher::Whole(Rule::new(path, key, text, |text| format!(r"\A(?:{text})\z"))?)
                }
            })
        };
        let target = match &options.target_modules {
            None => Matcher::AllLinear,
            Some(modules) if modules.is_all_linear() => Matcher::AllLinear,
            Some(modules) => matcher("target_modules", modules)?,
        };
        let exclude = options.exclude_modules.as_ref();
        let exclude = exclude.map(|modules| matcher("exclude_modules", modules)).transpose()?;
        let saved = options.modules_to_save.iter().flatten().map(|module| {
            Rule::new(path, "modules_to_save", module, |m| format!(r"\A(^|.*\.){m}($|\..*)"))
        });
        let counted = match &options.layers_pattern {
            None => vec![Rule::new(path, "layers_pattern", "", |_| {
                r"\A.*?\.[^.]*\.(\d+)\.".to_owned()
            })?],
            Some(patterns) => {
                let rule = |pattern: &String| {
                    Rule::new(path, "layers_pattern", pattern, |p| {
                        format!(r"\A(?:^|.*?\.){p}\.(\d+)\.")
                    })
                };
                patterns.values().iter().map(rule).collect::<Result<_, _>>()?
            }
        };
        Ok(Self {
            target,
            exclude,
            saved: saved.collect::<Result<_, _>>()?,
            counted,
            layers: options.layers_to_transform.iter().flat_map(|l| l.values().to_vec()).collect(),
            ranks: patterns(path, "rank_pattern", &options.rank_pattern)?,
            alphas: patterns(path, "alpha_pattern", &options.alpha_pattern)?,
        })
    }

    /// Whether the module of these names is a target.
    fn targets(&self, names: &[String], linear: bool) -> Result<bool, ModelError> {
        for name in names {
            let excluded = match &self.exclude {
                None => false,
                Some(exclude) => exclude.matches(name)?,
            };
            let mut saved = false;
            for rule in &self.saved {
                saved |= rule.matches(name)?;
            }
            if excluded || saved {
                return Ok(false);
            }
        }
        for name in names {
            let hit = match &self.target {
                Matcher::AllLinear => linear,
                Matcher::Whole(rule) => rule.matches(name)?,
                Matcher::Names(targets) if targets.contains(name) => true,
                names => names.matches(name)? && self.in_layers(name)?,
            };
            if hit {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn in_layers(&self, name: &str) -> Result<bool, ModelError> {
        if self.layers.is_empty() {
            return Ok(true);
        }
        for rule in &self.counted {
            if let Some(number) = rule.number(name)? {
                return Ok(self.layers.contains(&number));
            }
        }
        Ok(false)
    }

    fn shape(&self, config: &LoraConfig, names: &[String]) -> Result<LoraShape, ModelError> {
        let r = lookup(&self.ranks, names)?.unwrap_or(config.r);
        let alpha = lookup(&self.alphas, names)?.unwrap_or(config.lora_alpha);
        let options = &config.options;
        let divisor = if options.use_rslora { (r as f64).sqrt() } else { r as f64 };
        Ok(LoraShape {
            r,
            scale: alpha / divisor,
            dropout: options.lora_dropout,
            init: options.init_lora_weights.0,
        })
    }
}

impl Matcher {
    fn matches(&self, name: &str) -> Result<bool, ModelError> {
        match self {
            Self::AllLinear => Ok(true),
            Self::Whole(rule) => rule.matches(name),
            Self::Names(names) => Ok(names.iter().any(|end| {
                name == end || name.strip_suffix(end.as_str()).is_some_and(|s| s.ends_with('.'))
            })),
        }
    }
}

/// A regular expression as the user gave it, and as it is used.
struct Rule {
    key: &'static str,
    given: String,
    path: std::path::PathBuf,
    regex: Regex,
}

impl Rule {
    fn new(
        path: &Path,
        key: &'static str,
        given: &str,
        whole: impl Fn(&str) -> String,
    ) -> Result<Self, ModelError> {
        let regex = Regex::new(&whole(given)).map_err(|error| refused(path, key, given, error))?;
        Ok(Self { key, given: given.to_owned(), path: path.to_owned(), regex })
    }

    fn failed(&self, error: fancy_regex::Error) -> ModelError {
        refused(&self.path, self.key, &self.given, error)
    }

    fn matches(&self, name: &str) -> Result<bool, ModelError> {
        self.regex.is_match(name).map_err(|error| self.failed(error))
    }

    fn number(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let captures = self.regex.captures(name).map_err(|error| self.failed(error))?;
        // The pattern may have groups of its own: the number's is the last.
        let last = captures.and_then(|captures| captures.get(captures.len() - 1));
        Ok(last.and_then(|digits| digits.as_str().parse().ok()))
    }
}

fn patterns<T: Copy>(
    path: &Path,
    key: &'static str,
    patterns: &Patterns<T>,
) -> Result<Vec<(Rule, String, T)>, ModelError> {
    let rule = |(pattern, value): &(String, T)| {
        let rule = Rule::new(path, key, pattern, |p| format!(r"\A(.*\.)?({p})\z"))?;
        Ok((rule, pattern.clone(), *value))
    };
    patterns.0.iter().map(rule).collect()
}

/// The value of the first pattern that fits, or whose text is the name.
fn lookup<T: Copy>(
    patterns: &[(Rule, String, T)],
    names: &[String],
) -> Result<Option<T>, ModelError> {
    for name in names {
        for (rule, _, value) in patterns {
            if rule.matches(name)? {
                return Ok(Some(*value));
            }
        }
        if let Some((.., value)) = patterns.iter().find(|(_, pattern, _)| pattern == name) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
