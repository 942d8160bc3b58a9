//! Rotary frequencies: the types that `rope_parameters` (or `rope_scaling`) of a config can name.

use candle_core::{Result as TensorResult, bail};
use savi_nn::ops::RopeTable;
use savi_nn::{Forest, Parent};

use crate::ModelError;
use crate::decoder::DecoderConfig;
use crate::reader::Reader;

/// Rotary positions of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    head_dim: usize,
    /// Elements of a head that are rotated: the first ones.
    rotary_dim: usize,
    theta: f64,
    /// Pairs that turn with time, row and column (M-RoPE); without it all turn with the first.
    sections: Option<[usize; 3]>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Default,
    /// Chen et al. 2023: all frequencies divided.
    Linear {
        factor: f64,
    },
    /// A base that grows with the sequence beyond `original` tokens.
    Dynamic {
        factor: f64,
        original: usize,
    },
    /// Peng et al. 2023: from `low` to `high` frequencies pass from their own to divided ones.
    Yarn {
        factor: f64,
        low: f64,
        high: f64,
        gain: f64,
    },
    /// Ding et al. 2024: own divisors for every frequency, others beyond `original` tokens.
    LongRope {
        short: Vec<f32>,
        long: Vec<f32>,
        original: usize,
        gain: f64,
    },
    /// Llama 3.1: frequencies are divided, kept or mixed by their wavelength.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: usize,
    },
}

/// What a family's layers have in common, for reading their rope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeShape {
    pub(crate) head_dim: usize,
    pub(crate) max_positions: usize,
    pub(crate) theta: f64,
    /// Whether a part of a head can stay unrotated.
    pub(crate) partial: bool,
    /// A training length beside the rope's own keys; it goes before theirs.
    pub(crate) original: Option<usize>,
    /// Whether every scaled rope is a LongRoPE, whatever older files call it.
    pub(crate) long_only: bool,
    /// Whether positions have three axes.
    pub(crate) axes: bool,
}

impl RopeShape {
    /// Of a decoder whose heads are rotated whole.
    pub(crate) fn of(decoder: &DecoderConfig, theta: f64) -> Self {
        Self {
            head_dim: decoder.head_dim,
            max_positions: decoder.max_position_embeddings,
            theta,
            partial: false,
            original: None,
            long_only: false,
            axes: false,
        }
    }
}

impl Rope {
    /// Reads the rope of a config that has one for all layers: `rope_scaling` or `rope_parameters`,
    /// and `rope_theta` and `partial_rotary_factor` within or beside.
    pub(crate) fn read(config: &Reader<'_>, shape: RopeShape) -> Result<Self, ModelError> {
        let theta = config.positive("rope_theta")?.unwrap_or(shape.theta);
        let partial = config.positive("partial_rotary_factor")?;
        // Older files have rope_scaling; where both stand, it is the one that counts.
        let parameters = config.object("rope_parameters")?;
        let keys = match config.object("rope_scaling")? {
            Some(scaling) => Some(scaling),
            None => parameters,
        };
        Self::of(keys, theta, partial, shape)
    }

    /// Reads the keys of one rope. `theta` and `partial` stand beside them.
    pub(crate) fn of(
        keys: Option<Reader<'_>>,
        theta: f64,
        partial: Option<f64>,
        shape: RopeShape,
    ) -> Result<Self, ModelError> {
        let Some(keys) = keys else {
            let rotary_dim = rotary(shape, partial.unwrap_or(1.0), "partial_rotary_factor")?;
            if shape.axes {
                return Err(ModelError::Malformed {
                    path: "config.json".into(),
                    reason: "rope_scaling.mrope_section is missing".to_owned(),
                });
            }
            let kind = Kind::Default;
            return Ok(Self { head_dim: shape.head_dim, rotary_dim, theta, sections: None, kind });
        };
        let theta = keys.positive("rope_theta")?.unwrap_or(theta);
        let partial = keys.positive("partial_rotary_factor")?.or(partial).unwrap_or(1.0);
        let rotary_dim = rotary(shape, partial, &keys.name("partial_rotary_factor"))?;
        let old: Option<String> = keys.get("type")?;
        let name = keys.get::<String>("rope_type")?.or(old).unwrap_or_else(|| "default".to_owned());
        let name = match name.as_str() {
            "default" | "longrope" | "su" | "yarn" if shape.long_only => {
                if name == "default" {
                    name
                } else {
                    "longrope".to_owned()
                }
            }
            _ if shape.long_only => {
                return Err(keys.unsupported("rope_type", name, "default and longrope"));
            }
            // Their frequencies follow from the length of a sequence, which is not its number of tokens
            // where pictures lie on a grid.
            "dynamic" | "longrope" if shape.axes => {
                let supported = "default, mrope, linear, yarn and llama3";
                return Err(keys.unsupported("rope_type", name, supported));
            }
            _ => name,
        };
        let original =
            match (shape.original, keys.get::<usize>("original_max_position_embeddings")?) {
                (Some(beside), _) => beside,
                (None, own) => own.unwrap_or(shape.max_positions),
            };
        let factor = || {
            let factor = keys.positive("factor")?;
            factor.ok_or_else(|| keys.unsupported("factor", "nothing", "a number"))
        };
        if original == 0 {
            let key = "original_max_position_embeddings";
            return Err(keys.unsupported(key, 0, "at least 1"));
        }
        let stretch = shape.max_positions as f64 / original as f64;
        let kind = match name.as_str() {
            "default" => Kind::Default,
            "mrope" if shape.axes => Kind::Default,
            "linear" => Kind::Linear { factor: factor()? },
            "dynamic" => Kind::Dynamic { factor: factor()?, original: shape.max_positions },
            "llama3" => Kind::Llama3 {
                factor: factor()?,
                low: keys.require("low_freq_factor")?,
                high: keys.require("high_freq_factor")?,
                original,
            },
            "yarn" => {
                let factor = keys.positive("factor")?.unwrap_or(stretch);
                yarn(&keys, factor, theta, rotary_dim, original)?
            }
            "longrope" => {
                let factors = |key: &str| -> Result<Vec<f32>, ModelError> {
                    let list: Vec<f32> = keys.require(key)?;
                    if list.len() != rotary_dim / 2 || list.iter().any(|x| x.is_nan() || *x <= 0.0)
                    {
                        let supported = format!("{} positive numbers", rotary_dim / 2);
                        return Err(keys.unsupported(key, format!("{list:?}"), supported));
                    }
                    Ok(list)
                };
                let factor = keys.positive("factor")?.unwrap_or(stretch);
                let usual = if factor <= 1.0 {
                    1.0
                } else {
                    (1.0 + factor.ln() / (original as f64).ln()).sqrt()
                };
                Kind::LongRope {
                    short: factors("short_factor")?,
                    long: factors("long_factor")?,
                    original,
                    gain: keys.positive("attention_factor")?.unwrap_or(usual),
                }
            }
            other => {
                let supported = "default, linear, dynamic, yarn, longrope and llama3";
                return Err(keys.unsupported("rope_type", other, supported));
            }
        };
        let sections = if shape.axes {
            let sections: [usize; 3] = keys.require("mrope_section")?;
            let sum = sections.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
            if sum != Some(rotary_dim / 2) {
                let supported = format!("three numbers that add up to {}", rotary_dim / 2);
                return Err(keys.unsupported("mrope_section", format!("{sections:?}"), supported));
            }
            Some(sections)
        } else {
            None
        };
        keys.finish()?;
        Ok(Self { head_dim: shape.head_dim, rotary_dim, theta, sections, kind })
    }

    /// Frequencies of the rotated pairs in a sequence of `len` tokens, and the factor on cosines and
    /// sines. In f32 and in the order of operations of the reference.
    pub(crate) fn frequencies(&self, len: usize) -> (Vec<f32>, f32) {
        let dim = self.rotary_dim;
        let pairs = dim / 2;
        let powers = |base: f32| -> Vec<f32> {
            (0..pairs).map(|i| base.powf(2.0 * i as f32 / dim as f32)).collect()
        };
        let inverse = |base: f32| powers(base).into_iter().map(|p| 1.0 / p).collect::<Vec<f32>>();
        let theta = self.theta as f32;
        match &self.kind {
            Kind::Default => (inverse(theta), 1.0),
            Kind::Linear { factor } => {
                (inverse(theta).into_iter().map(|f| f / *factor as f32).collect(), 1.0)
            }
            Kind::Dynamic { factor, original } => {
                let ratio = len.max(*original) as f64 / *original as f64;
                let grown = (factor * ratio - (factor - 1.0)).powf(dim as f64 / (dim as f64 - 2.0));
                (inverse((self.theta * grown) as f32), 1.0)
            }
            Kind::Yarn { factor, low, high, gain } => {
                let high = if low == high { high + 0.001 } else { *high };
                let mixed = powers(theta).into_iter().enumerate().map(|(i, power)| {
                    let ramp = ((i as f32 - *low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let own = 1.0 - ramp;
                    (1.0 / (*factor as f32 * power)) * (1.0 - own) + (1.0 / power) * own
                });
                (mixed.collect(), *gain as f32)
            }
            Kind::LongRope { short, long, original, gain } => {
                let divisors = if len > *original { long } else { short };
                let divided = powers(theta).into_iter().zip(divisors).map(|(p, d)| 1.0 / (d * p));
                (divided.collect(), *gain as f32)
            }
            Kind::Llama3 { factor, low, high, original } => {
                let original = *original as f64;
                let kept = inverse(theta).into_iter().map(|f| {
                    let wave = 2.0 * std::f64::consts::PI / f64::from(f);
                    if wave > original / low {
                        f / *factor as f32
                    } else if wave < original / high {
                        f
                    } else {
                        let smooth = ((original / wave - low) / (high - low)) as f32;
                        (1.0 - smooth) * f / *factor as f32 + smooth * f
                    }
                });
                (kept.collect(), 1.0)
            }
        }
    }

    /// What the frequencies of a sequence of `len` tokens depend on; equal regimes, equal frequencies.
    pub(crate) fn regime(&self, len: usize) -> usize {
        match &self.kind {
            Kind::Dynamic { original, .. } => len.max(*original),
            Kind::LongRope { original, .. } => usize::from(len > *original),
            _ => 0,
        }
    }

    /// Whether positions have three axes.
    pub(crate) fn has_axes(&self) -> bool {
        self.sections.is_some()
    }

    /// Appends the angles of a token: position times frequency, in f32 as the reference has it.
    fn turn(&self, at: &[u32; 3], inverse: &[f32], angles: &mut Vec<f32>) {
        let [time, row, _] = self.sections.unwrap_or([inverse.len(), 0, 0]);
        angles.extend(inverse.iter().enumerate().map(|(pair, frequency)| {
            let axis = usize::from(pair >= time) + usize::from(pair >= time + row);
            at[axis] as f32 * frequency
        }));
    }

    /// Rotations of a pass. Frequencies that depend on a sequence's length have to be the same for
    /// all branches that share a prompt, and those with which cached tokens were rotated.
    pub(crate) fn table(&self, forest: &Forest) -> TensorResult<RopeTable> {
        if matches!(self.regime(0), 0) && self.regime(usize::MAX) == 0 {
            let (inverse, gain) = self.frequencies(0);
            let mut angles = Vec::with_capacity(forest.len() * inverse.len());
            for at in forest.coordinates() {
                self.turn(at, &inverse, &mut angles);
            }
            return Ok(RopeTable::of_angles(&angles, inverse.len(), self.head_dim, gain));
        }
        let segments = forest.segments();
        let mut has_child = vec![false; segments.len()];
        for segment in segments {
            if let Parent::Segment(above) = segment.parent {
                has_child[above] = true;
            }
        }
        let mut regimes: Vec<Option<(usize, usize)>> = vec![None; segments.len()];
        for (index, segment) in segments.iter().enumerate() {
            let total = segment.offset + segment.range.len();
            let regime = self.regime(total);
            if let Parent::Cached { tokens: past, .. } = segment.parent
                && past > 0
                && self.regime(past) != regime
            {
                bail!(
                    "rope: {past} cached tokens were rotated for shorter sequences than {total} \
                     tokens; the sequence has to be computed anew"
                );
            }
            if has_child[index] {
                continue;
            }
            match regimes[segment.root] {
                Some((other, of)) if other != regime => bail!(
                    "rope: branches of {of} and {total} tokens are rotated differently and cannot \
                     share a prompt"
                ),
                _ => regimes[segment.root] = Some((regime, total)),
            }
        }
        let mut angles = Vec::with_capacity(forest.len() * self.rotary_dim / 2);
        let mut gain = 1.0;
        for segment in segments {
            let total = regimes[segment.root].map_or(0, |(_, total)| total);
            let (inverse, factor) = self.frequencies(total);
            gain = factor;
            for token in segment.range.clone() {
                self.turn(&forest.coordinates()[token], &inverse, &mut angles);
            }
        }
        Ok(RopeTable::of_angles(&angles, self.rotary_dim / 2, self.head_dim, gain))
    }
}

/// Rotated elements of a head.
fn rotary(shape: RopeShape, partial: f64, key: &str) -> Result<usize, ModelError> {
    let rotary = (shape.head_dim as f64 * partial) as usize;
    let fits = if shape.partial { partial <= 1.0 } else { partial == 1.0 };
    if !fits || rotary == 0 || !rotary.is_multiple_of(2) {
        return Err(ModelError::Unsupported {
            key: if fits { "head_dim".to_owned() } else { key.to_owned() },
            value: if fits { rotary.to_string() } else { partial.to_string() },
            supported: if shape.partial {
                "at most 1, and an even number of rotated elements".to_owned()
            } else {
                "1, and an even number of rotated elements".to_owned()
            },
        });
    }
    Ok(rotary)
}

/// YaRN, section 3.4: the range of pairs between those that turn often and those that hardly turn.
fn yarn(
    keys: &Reader<'_>,
    factor: f64,
    theta: f64,
    dim: usize,
    original: usize,
) -> Result<Kind, ModelError> {
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let (mscale, all) = (keys.get::<f64>("mscale")?, keys.get::<f64>("mscale_all_dim")?);
    let usual = match (mscale.filter(|&m| m != 0.0), all.filter(|&m| m != 0.0)) {
        (Some(mscale), Some(all)) => scale(mscale) / scale(all),
        _ => scale(1.0),
    };
    let gain = keys.positive("attention_factor")?.unwrap_or(usual);
    let fast = keys.positive("beta_fast")?.unwrap_or(32.0);
    let slow = keys.positive("beta_slow")?.unwrap_or(1.0);
    let truncate = keys.get("truncate")?.unwrap_or(true);
    let turn = |rotations: f64| {
        dim as f64 * (original as f64 / (rotations * 2.0 * std::f64::consts::PI)).ln()
            / (2.0 * theta.ln())
    };
    let (low, high) = (turn(fast), turn(slow));
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    Ok(Kind::Yarn { factor, low: low.max(0.0), high: high.min(dim as f64 - 1.0), gain })
}
