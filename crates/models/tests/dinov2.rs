//! DINOv2 towers of transformers, number for number: pixel values, vectors and gradients of the cases of
//! `tests/goldens/vision/dinov2`, whose `make.py` made the data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use savi_models::{Dinov2, Pixels, Processors};
use savi_nn::check::Drawn;
use savi_nn::layers::Mode;
use savi_nn::{TensorSource, Weights};
use savi_schema::RgbImage;
use serde_json::{Value, json};

/// f32 against f32 with another order of summation; of the largest value.
const FEATURES: f64 = 2e-5;
/// Where a picture was scaled here, a level of 255 here and there.
const OWN_FEATURES: f64 = 5e-3;
/// Of the largest element of a gradient.
const GRADIENTS: f64 = 1e-4;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/vision/dinov2")
}

/// As `picture` in `common.py` draws it.
fn picture(spec: &Value) -> RgbImage {
    let number = |key: &str| spec[key].as_u64().unwrap();
    let (width, height) = (number("width"), number("height"));
    let mut key = 0xcbf2_9ce4_8422_2325_u64;
    for byte in spec["name"].as_str().unwrap().bytes() {
        key = (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let value = |i: u64| {
        let x = key.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let noise = (x ^ (x >> 31)) >> 58;
        let (channel, column, row) = (i % 3, i / 3 % width, i / 3 / width);
        let ramp = (row * 3 + column * 2 + channel * 60 + (key & 127)) % 384;
        let ramp = if ramp < 192 { ramp } else { 383 - ramp };
        (ramp + noise) as u8
    };
    let data: Vec<u8> = (0..width * height * 3).map(value).collect();
    RgbImage::new(width as u32, height as u32, data).unwrap()
}

fn cases() -> BTreeMap<String, Value> {
    serde_json::from_slice(&std::fs::read(golden().join("cases.json")).unwrap()).unwrap()
}

fn build(case: &Value, source: impl TensorSource + 'static, dtype: DType) -> Dinov2 {
    let processors = Processors { image: case["preprocessor"].clone(), ..Processors::default() };
    let source = Weights::Checkpoint(Box::new(source));
    Dinov2::new(&case["config"], &processors, source, dtype, &Device::Cpu).unwrap()
}

fn spaced(values: &Tensor, step: usize) -> Result<Vec<f32>> {
    let flat = values.flatten_all()?.to_vec1::<f32>()?;
    Ok(flat.into_iter().step_by(step.max(1)).collect())
}

fn apart(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

#[test]
fn pixels_vectors_and_gradients_equal_the_reference() -> Result<()> {
    for (name, case) in cases() {
        let io = golden().join(format!("{name}.safetensors"));
        let io = candle_core::safetensors::load(io, &Device::Cpu)?;
        let model = build(&case, Drawn, DType::F32);
        let images: Vec<RgbImage> =
            case["pictures"].as_array().unwrap().iter().map(picture).collect();
        let pixels = model.pixels(&images).unwrap();

        let ([_, rows, columns], count) = (pixels.grids[0], pixels.grids.len());
        let want = &io["pixels"];
        let given = Pixels::cut(pixels.kind, want, want.dim(2)? / rows, pixels.size)?.patches;
        // One level of 255, in units of the smallest standard deviation, and a hundredth on average.
        let level = 1.01 / 255.0 / 0.22;
        let off = (&pixels.patches - &given)?.abs()?;
        let (worst, mean) = (off.max_all()?, off.mean_all()?.to_scalar::<f32>()?);
        assert!(f64::from(worst.to_scalar::<f32>()?) <= level, "{name}: pixels");
        assert!(f64::from(mean) < level / 100.0, "{name}: pixels differ by {mean} on average");
        let own = model.encode(&pixels, Mode::INFER)?;
        // What follows is of the reference's own pixel values.
        let pixels = Pixels { patches: given, ..pixels };

        model.params().set_trains(|_| true);
        let features = model.encode(&pixels, Mode::TRAIN)?;
        let want = io["features"].flatten_to(1)?;
        assert_eq!(features.dims(), want.dims(), "{name}");
        let size = want.abs()?.max_all()?.to_scalar::<f32>()?;
        for (got, tolerance) in [(&features, FEATURES), (&own, OWN_FEATURES)] {
            let off = (got - &want)?.abs()?.max_all()?.to_scalar::<f32>()? / size;
            assert!(f64::from(off) < tolerance, "{name}: vectors differ by {off}");
        }
        assert_eq!(features.dim(0)? / count, model.before_patches() + rows * columns, "{name}");

        let weight = Drawn.tensor("loss", features.dims())?.unwrap();
        let grads = (&features * weight)?.sum_all()?.backward()?;
        let mut compared = 0;
        for weight in model.params().weights() {
            let Some(want) = io.get(&format!("grad.{}", weight.name())) else { continue };
            let Some(grad) = grads.get(&weight.tensor(true)) else {
                panic!("{name}: {} got no gradient", weight.name());
            };
            let grad = weight.in_checkpoint_layout(grad)?;
            let got = spaced(&grad, grad.elem_count().div_ceil(48))?;
            let size = io[&format!("size.{}", weight.name())].to_vec1::<f32>()?[0];
            let off = apart(&got, &want.to_vec1()?) / f64::from(size);
            assert!(off < GRADIENTS, "{name}: gradient of {} differs by {off:e}", weight.name());
            compared += 1;
        }
        assert_eq!(compared, io.keys().filter(|key| key.starts_with("grad.")).count(), "{name}");

        // Each picture alone, and in another type.
        let alone = model.features(&images[..1]).unwrap().remove(0);
        let first = own.narrow(0, 0, alone.dim(0)?)?;
        assert_eq!(alone.to_vec2::<f32>()?, first.to_vec2::<f32>()?, "{name}");
        let narrow = build(&case, Drawn, DType::BF16).encode(&pixels, Mode::INFER)?;
        let off = (narrow.to_dtype(DType::F32)? - &want)?.abs()?.mean_all()?.to_scalar::<f32>()?;
        assert!(off < 0.03 * size, "{name}: bf16 differs by {off} of {size}");
    }
    Ok(())
}

/// The tensors of a file as transformers saves it: each has a place, and none is missing; those of a
/// classifier, too.
#[test]
fn names_of_saved_files_are_known() {
    #[derive(Debug)]
    struct Named(Vec<String>);
    impl TensorSource for Named {
        fn tensor(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
            if self.0.iter().any(|own| own == name) { Drawn.tensor(name, shape) } else { Ok(None) }
        }
        fn names(&self) -> Vec<String> {
            self.0.clone()
        }
    }
    for case in cases().values() {
        let saved: Vec<String> = serde_json::from_value(case["saved"].clone()).unwrap();
        let mut classifier: Vec<String> = saved.iter().map(|n| format!("dinov2.{n}")).collect();
        classifier.push("classifier.weight".to_owned());
        build(case, Named(saved), DType::F32);
        build(case, Named(classifier), DType::F32);
    }
}

#[test]
fn every_key_is_honoured_or_refused() {
    let read = |case: &Value, config: &Value| {
        let processors =
            Processors { image: case["preprocessor"].clone(), ..Processors::default() };
        let source = Weights::Checkpoint(Box::new(Drawn));
        let model = Dinov2::new(config, &processors, source, DType::F32, &Device::Cpu).ok()?;
        let images = [picture(&case["pictures"][0])];
        let pixels = model.pixels(&images).ok()?;
        model.encode(&pixels, Mode::INFER).ok()?.flatten_all().ok()?.to_vec1::<f32>().ok()
    };
    // What only training, files or other uses of the tower have a part in.
    let idle = [
        "apply_layernorm",
        "architectures",
        "chunk_size_feed_forward",
        "id2label",
        "initializer_range",
        "label2id",
        "layerscale_value",
        "out_features",
        "out_indices",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "reshape_hidden_states",
        "return_dict",
        "stage_names",
        "use_cache",
        "use_mask_token",
    ];
    for (name, case) in cases() {
        let usual = read(&case, &case["config"]);
        assert!(usual.is_some(), "{name}");
        for (key, value) in case["config"].as_object().unwrap() {
            // A gated MLP has an activation of its own.
            let gated = key == "hidden_act" && case["config"]["use_swiglu_ffn"] == true;
            if idle.contains(&key.as_str()) || value.is_null() || gated {
                continue;
            }
            let mut config = case["config"].clone();
            config[key] = match value {
                Value::Bool(flag) => json!(!flag),
                Value::Number(n) if n.is_i64() => json!(n.as_i64().unwrap() * 2 + 2),
                Value::Number(n) => json!(n.as_f64().unwrap() * 1.5 + 0.01),
                other => json!(format!("{other}x")),
            };
            assert!(read(&case, &config) != usual, "{name}: {key} is passed over");
        }
        let mut config = case["config"].clone();
        config["a_key_of_tomorrow"] = json!(1);
        assert!(read(&case, &config).is_none(), "{name}");
    }
}
