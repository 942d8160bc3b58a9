//! Settings of preference training as files hold them: names, defaults, what is refused.

use savi_objectives::PreferenceLoss;
use savi_train::DpoConfig;
use serde_json::{Value, json};

fn read(value: Value) -> Result<DpoConfig, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// The keys that a resolved config had before there were several losses.
#[test]
fn configs_that_name_no_loss_stay_as_they_are() {
    let written = serde_json::to_value(DpoConfig::default()).unwrap();
    let keys: Vec<&String> = written.as_object().unwrap().keys().collect();
    let before = ["beta", "label_smoothing", "rpo_alpha", "lora_r", "lora_alpha", "optim"];
    assert_eq!(keys, before);
    assert_eq!(read(written).unwrap(), DpoConfig::default());
    assert_eq!(read(json!({"loss_type": "sigmoid"})).unwrap(), DpoConfig::default());
}

#[test]
fn losses_are_named_alone_or_in_a_list() {
    let several = json!({
        "loss_type": ["bco_pair", "sft"], "loss_weights": [1.0, 0.5], "beta": 0.2,
        "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.25, "ld_alpha": 0.5,
        "use_weighting": true, "reference_free": true, "simpo_gamma": 1.0, "discopop_tau": 0.1,
        "cpo_alpha": 0.0,
    });
    let config = read(several).unwrap();
    config.validate().unwrap();
    assert_eq!(config.loss_type, [PreferenceLoss::BcoPair, PreferenceLoss::Sft]);
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["loss_type"], json!(["bco_pair", "sft"]));
    assert_eq!(read(written).unwrap(), config);
    let one = read(json!({"loss_type": "hinge", "f_divergence_type": "forward_kl"})).unwrap();
    let written = serde_json::to_value(&one).unwrap();
    assert_eq!(written["loss_type"], "hinge");
    assert_eq!(read(written).unwrap(), one);
}

#[test]
fn unknown_names_are_refused_with_those_there_are() {
    for value in [json!({"loss_type": "kto_pair"}), json!({"loss_type": ["sigmoid", "kto_pair"]})] {
        let error = read(value).unwrap_err();
        for word in ["kto_pair", "sigmoid, ", "aot_unpaired", "dno", "inpo", "simpo", "sft"] {
            assert!(error.contains(word), "{error}");
        }
    }
    let error = read(json!({"f_divergence_type": "kl"})).unwrap_err();
    assert!(error.contains("js_divergence"), "{error}");
    assert!(read(json!({"loss_type": 3})).unwrap_err().contains("name of a loss"));
}

#[test]
fn what_cannot_be_carried_out_names_key_and_value() {
    for (value, words) in [
        (json!({"loss_type": "inpo"}), ["loss_type = inpo", "ipo_sum"]),
        (json!({"dno_scale": 0.0}), ["dno_scale is 0", "positive"]),
        (json!({"mixture_ratio": -0.5}), ["mixture_ratio is -0.5", "from 0 to 1"]),
        (json!({"loss_type": []}), ["loss_type", "at least one"]),
        (json!({"loss_type": "exo_pair"}), ["label_smoothing is 0", "exo_pair"]),
        (json!({"loss_type": "aot", "use_weighting": true}), ["use_weighting", "aot"]),
        (json!({"loss_type": "nca_pair", "label_smoothing": 0.1}), ["label_smoothing", "nca_pair"]),
        (json!({"loss_type": ["simpo", "bco_pair"]}), ["loss_type = simpo", "bco_pair"]),
        (json!({"loss_weights": [1.0, 2.0]}), ["loss_weights", "[2]"]),
        (json!({"ld_alpha": 1.5}), ["ld_alpha is 1.5", "from 0 to 1"]),
        (json!({"sync_ref_model": true}), ["sync_ref_model = true", "lora_r = 0"]),
        (
            json!({"sync_ref_model": true, "lora_r": 0, "precompute_ref_log_probs": true}),
            ["sync_ref_model = true", "precompute_ref_log_probs"],
        ),
        (
            json!({"sync_ref_model": true, "lora_r": 0, "loss_type": "simpo"}),
            ["sync_ref_model = true", "no reference"],
        ),
        (json!({"ref_model_sync_steps": 0}), ["ref_model_sync_steps = 0", "at least 1"]),
        (json!({"ref_model_mixup_alpha": 1.5}), ["ref_model_mixup_alpha = 1.5", "from 0 to 1"]),
        (json!({"discopop_tau": 0.0}), ["discopop_tau is 0", "above 0"]),
        (
            json!({"loss_type": "apo_zero", "f_divergence_type": "js_divergence"}),
            ["js_divergence", "apo_zero"],
        ),
    ] {
        let error = read(value.clone()).unwrap().validate().unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{value}: {error}");
        }
    }
}
