//! The LLaVA-OneVision of transformers, number for number: tower, projector, pooling, logits,
//! log-probabilities, gradients and greedy tokens. The golden's `make.py` made the data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use savi_models::{Model, Pixels, Processors, Visual, VisualKind, read_directory};
use savi_nn::layers::Mode;
use savi_nn::{Forest, Weights, check};
use savi_schema::RgbImage;

/// f32 against f32 with another order of summation.
const TOLERANCE: f64 = 2e-4;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/llava-onevision")
}

fn load(dtype: DType) -> Model {
    let files = read_directory(&golden().join("model")).unwrap();
    let weights = Weights::Checkpoint(Box::new(files.tensors));
    Model::new(&files.config, &Processors::default(), weights, dtype, &Device::Cpu).unwrap()
}

/// Normalised frames as a clip.
fn frames(images: &Tensor, patch: usize) -> Result<Pixels> {
    Pixels::cut(VisualKind::Video, images, patch, (1, 1))
}

struct Io {
    ids: Vec<u32>,
    prompt: usize,
    tensors: std::collections::HashMap<String, Tensor>,
}

fn io() -> Result<Io> {
    let tensors = candle_core::safetensors::load(golden().join("io.safetensors"), &Device::Cpu)?;
    let ints = |name: &str| tensors[name].flatten_all()?.to_vec1::<i64>();
    let ids = ints("input_ids")?.into_iter().map(|id| id as u32).collect();
    let prompt = ints("prompt_length")?[0] as usize;
    Ok(Io { ids, prompt, tensors })
}

#[test]
fn features_and_logits_equal_the_reference() -> Result<()> {
    let (model, io) = (load(DType::F32), io()?);
    let pixels = frames(&io.tensors["pixel_values_videos"].i(0)?, 8)?;
    let clips = model.encode(&[pixels], Mode::INFER)?;
    check::close(&clips[0], &io.tensors["video_features"].i(0)?, TOLERANCE)?;
    assert_eq!(clips[0].dim(0)?, model.plan_of_count(4).unwrap().len());
    let embeds = model.embed(&io.ids, &clips, Mode::INFER)?;
    let forest = Arc::new(Forest::sequence(io.ids.len()));
    let hidden = model.hidden(&embeds, &forest, Mode::INFER)?;
    check::close(&model.logits(&hidden, Mode::INFER)?, &io.tensors["logits"].i(0)?, TOLERANCE)
}

#[test]
fn log_probabilities_and_gradients_equal_the_reference() -> Result<()> {
    let (model, io) = (load(DType::F32), io()?);
    model.params().set_trains(|_| true);
    let pixels = frames(&io.tensors["pixel_values_videos"].i(0)?, 8)?;
    let clips = model.encode(&[pixels], Mode::TRAIN)?;
    let embeds = model.embed(&io.ids, &clips, Mode::TRAIN)?;
    let n = io.ids.len();
    let hidden = model.hidden(&embeds, &Arc::new(Forest::sequence(n)), Mode::TRAIN)?;
    let logps = model.logps(&hidden.narrow(0, n - 7, 6)?, &io.ids[n - 6..], Mode::TRAIN)?;
    check::close(&logps, &io.tensors["logps"], TOLERANCE)?;
    let grads = logps.sum_all()?.backward()?;
    let mut compared = 0;
    for weight in model.params().weights() {
        if let Some(want) = io.tensors.get(&format!("grad.{}", weight.name())) {
            let value = weight.tensor(true);
            let Some(grad) = grads.get(&value) else { panic!("{} got no gradient", weight.name()) };
            let grad = weight.in_checkpoint_layout(grad)?;
            let scale = want.abs()?.max_all()?.to_scalar::<f32>()?.max(1e-3);
            check::close(&(grad / f64::from(scale))?, &(want / f64::from(scale))?, 5e-4)
                .unwrap_or_else(|e| panic!("{}: {e}", weight.name()));
            compared += 1;
        }
    }
    assert_eq!(compared, io.tensors.keys().filter(|k| k.starts_with("grad.")).count());
    Ok(())
}

#[test]
fn greedy_decoding_from_the_cache_equals_generate() -> Result<()> {
    let (model, io) = (load(DType::F32), io()?);
    let pixels = frames(&io.tensors["pixel_values_videos"].i(0)?, 8)?;
    let clips = model.encode(&[pixels], Mode::INFER)?;
    let mut node = model.cache_node(None, 16);
    let mut ids = io.ids[..io.prompt].to_vec();
    let want: Vec<u32> =
        io.tensors["generated"].to_vec1::<i64>()?.into_iter().map(|id| id as u32).collect();
    let mut got = Vec::new();
    for _ in 0..want.len() {
        let clips = if got.is_empty() { clips.as_slice() } else { &[] };
        let embeds = model.embed(&ids, clips, Mode::INFER)?;
        let mut forest = Forest::new();
        forest.push(node.after(), ids.len());
        let hidden =
            model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut [&mut node])?;
        let last = hidden.narrow(0, ids.len() - 1, 1)?;
        let next = model.logits(&last, Mode::INFER)?.argmax(D::Minus1)?.to_vec1::<u32>()?[0];
        got.push(next);
        ids = vec![next];
    }
    assert_eq!(got, want);
    Ok(())
}

#[test]
fn bf16_is_close_to_f32() -> Result<()> {
    let io = io()?;
    let logits = |dtype| {
        let model = load(dtype);
        let pixels = frames(&io.tensors["pixel_values_videos"].i(0)?, 8)?;
        let clips = model.encode(&[pixels], Mode::INFER)?;
        let embeds = model.embed(&io.ids, &clips, Mode::INFER)?;
        let forest = Arc::new(Forest::sequence(io.ids.len()));
        model
            .logits(&model.hidden(&embeds, &forest, Mode::INFER)?, Mode::INFER)?
            .to_dtype(DType::F32)
    };
    let (narrow, wide) = (logits(DType::BF16)?, logits(DType::F32)?);
    let error = (&narrow - &wide)?.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
    let size = wide.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
    assert!(error < 0.05 * size, "{error} against {size}");
    Ok(())
}

#[test]
fn export_gives_back_the_checkpoint() -> Result<()> {
    let model = load(DType::F32);
    let files = read_directory(&golden().join("model")).unwrap();
    let exported = model.export(DType::F32)?;
    assert_eq!(exported.len(), files.tensors.names().count());
    for name in files.tensors.names() {
        let want = &files.tensors.load(name).unwrap().unwrap();
        let bits = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        assert_eq!(exported[name].dims(), want.dims(), "{name}");
        assert_eq!(bits(&exported[name])?, bits(want)?, "{name}");
    }
    Ok(())
}

#[test]
fn frames_become_the_pixels_of_the_reference_processor() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("tests/goldens/preprocess/frames.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu)?;
    let given = &golden["frames"];
    let (count, height, width, _) = given.dims4()?;
    let images: Vec<RgbImage> = (0..count)
        .map(|i| {
            let data = given.i(i)?.flatten_all()?.to_vec1::<u8>()?;
            Ok(RgbImage::new(width as u32, height as u32, data).unwrap())
        })
        .collect::<Result<_>>()?;
    // The built-in model's tower takes pictures of the golden's size.
    let files = read_directory(&root.join("datasets/builtin-tiny")).unwrap();
    let weights = Weights::Checkpoint(Box::new(files.tensors));
    let model =
        Model::new(&files.config, &Processors::default(), weights, DType::F32, &Device::Cpu)
            .unwrap();
    let pixels = model.pixels(&Visual::frames(images)).unwrap();
    assert_eq!(pixels.grids.len(), count);
    // The reference rounds to 8 bits as we do; a pixel may fall on the other side of a half.
    let level = 2.0 / 255.0;
    for (name, tolerance) in [("pixels", 1.01 * level), ("processor", 1.01 * level)] {
        check::close(&pixels.patches, &frames(&golden[name], 8)?.patches, tolerance)?;
        let apart = (&pixels.patches - &frames(&golden[name], 8)?.patches)?;
        let mean = apart.abs()?.mean_all()?.to_scalar::<f32>()?;
        assert!(mean < 1e-4, "{name}: {mean} on average");
    }
    Ok(())
}
