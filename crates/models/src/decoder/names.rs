//! What a family calls the weights of a decoder.

/// Names of a family's weights, relative to the layer where they belong to one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    pub(crate) layers: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) head: &'static str,
    pub(crate) q: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) qkv: &'static str,
    pub(crate) o: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) gate_up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) input_norm: &'static str,
    /// Of what attention gives, in a sandwich; else before the MLP.
    pub(crate) attention_norm: &'static str,
    pub(crate) mlp_norm: &'static str,
    pub(crate) after_mlp_norm: &'static str,
}

impl Names {
    /// Those of most families.
    pub(crate) const USUAL: Self = Self {
        embedding: "model.embed_tokens",
        layers: "model.layers",
        norm: "model.norm",
        head: "lm_head",
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
        qkv: "self_attn.qkv_proj",
        o: "self_attn.o_proj",
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
        gate_up: "mlp.gate_up_proj",
        down: "mlp.down_proj",
        input_norm: "input_layernorm",
        attention_norm: "post_attention_layernorm",
        mlp_norm: "pre_feedforward_layernorm",
        after_mlp_norm: "post_feedforward_layernorm",
    };
}
