//! What goes into the last projection of a block's MLP.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use savi_nn::Params;
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::{gated_linear, swiglu, swiglu_owned};

use super::{Activation, DecoderConfig, Projections};

#[derive(Debug)]
pub(super) enum GateUp {
    Separate { gate: Arc<Linear>, up: Arc<Linear> },
    Fused(Arc<Linear>),
}

impl GateUp {
    pub(super) fn new(
        params: &Params,
        config: &DecoderConfig,
        at: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let (width, inner, names) = (config.hidden_size, config.intermediate_size, config.names);
        let bias = config.bias.mlp;
        Ok(match config.projections {
            Projections::Fused => {
                Self::Fused(params.linear(&at(names.gate_up), width, 2 * inner, bias)?)
            }
            Projections::Separate | Projections::Grouped => Self::Separate {
                gate: params.linear(&at(names.gate), width, inner, bias)?,
                up: params.linear(&at(names.up), width, inner, bias)?,
            },
        })
    }

    pub(super) fn forward(&self, x: &Tensor, config: &DecoderConfig, mode: Mode) -> Result<Tensor> {
        let silu = config.activation == Activation::Silu;
        match self {
            Self::Separate { gate, up } => {
                if silu
                    && mode.train
                    && let (Some(gate), Some(up)) = (gate.alone(mode)?, up.alone(mode)?)
                {
                    return gated_linear(x, &gate, &up);
                }
                let (gate, up) = (gate.forward(x, mode)?, up.forward(x, mode)?);
                if silu { swiglu_owned(gate, &up) } else { config.activation.forward(&gate)? * up }
            }
            Self::Fused(both) => {
                let (y, inner) = (both.forward(x, mode)?, config.intermediate_size);
                let (gate, up) = (y.narrow(1, 0, inner)?, y.narrow(1, inner, inner)?);
                if silu { swiglu(&gate, &up) } else { config.activation.forward(&gate)? * up }
            }
        }
    }
}
