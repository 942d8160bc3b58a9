//! Memory while models are read and written: the weights and one tensor more, counted at the allocator.
//! Mapped files are not counted: their pages go when others need the room. Measured for a model of
//! 211.9 MiB in f32 whose largest tensor has 16.0: 228.0 to read it from f32, f16, bf16, Q8_0 or F32 of GGUF,
//! 114.0 to 122.0 to read it as bf16; 19.5 beyond it to save it, 18.5 to 19.6 in all to convert it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use savi_engine::{
    Engine, EngineOptions, GgmlType, SaveOptions, StoredDType, convert, convert_to_gguf,
    train_tokenizer,
};
use savi_models::{Entry, NewFolder, write_checkpoint};
use serde_json::json;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tokenizer, config, pieces of tensors on their way, and what the test itself holds.
const BESIDE: usize = 6 << 20;
const WIDTH: usize = 512;
/// The largest tensors are the last that are read: a second copy of one would show.
const INNER: usize = 8192;
const LAYERS: usize = 4;
const VOCAB: usize = 1000;

fn entries(dtype: DType) -> Vec<Entry> {
    let entry = |name: String, shape: &[usize]| Entry { name, dtype, shape: shape.to_vec() };
    let mut all = vec![
        entry("model.embed_tokens.weight".into(), &[VOCAB, WIDTH]),
        entry("lm_head.weight".into(), &[VOCAB, WIDTH]),
        entry("model.norm.weight".into(), &[WIDTH]),
    ];
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("input_layernorm", &[WIDTH] as &[usize]),
            ("post_attention_layernorm", &[WIDTH]),
            ("self_attn.q_proj", &[WIDTH, WIDTH]),
            ("self_attn.k_proj", &[WIDTH, WIDTH]),
            ("self_attn.v_proj", &[WIDTH, WIDTH]),
            ("self_attn.o_proj", &[WIDTH, WIDTH]),
            ("mlp.gate_proj", &[INNER, WIDTH]),
            ("mlp.up_proj", &[INNER, WIDTH]),
            ("mlp.down_proj", &[WIDTH, INNER]),
        ] {
            all.push(entry(format!("model.layers.{layer}.{part}.weight"), shape));
        }
    }
    all
}

fn write(dir: &Path) {
    let entries = entries(DType::F32);
    let shapes: BTreeMap<_, _> =
        entries.iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
    let folder = NewFolder::begin(dir, false).unwrap();
    write_checkpoint(&folder, &entries, 50_000_000, |name| {
        let shape = shapes[name].as_slice();
        let count: usize = shape.iter().product();
        let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 1023) as f32 / 1024.0 - 0.5;
        Ok(Tensor::from_vec((0..count).map(value).collect::<Vec<f32>>(), shape, &Device::Cpu)?)
    })
    .unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 8, "vocab_size": VOCAB,
        "max_position_embeddings": 64,
    });
    folder.write("config.json", config.to_string().as_bytes()).unwrap();
    let words = train_tokenizer(["left right".to_owned()].into_iter(), 270).unwrap();
    folder.write("tokenizer.json", &words).unwrap();
    folder.finish().unwrap();
}

/// Bytes that `job` needs at its peak beyond what there was before.
fn most<T>(job: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let done = job();
    (MOST.load(Ordering::Relaxed) - before, done)
}

fn within(what: &str, got: usize, model: usize, tensor: usize) {
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let told = format!(
        "{what}: {:.1} MiB at the peak, the model {:.1}, one tensor {:.1}",
        mib(got),
        mib(model),
        mib(tensor)
    );
    assert!(got <= model + tensor + BESIDE, "{told}");
    // Less would mean that something was not counted.
    assert!(got >= model, "{told}");
}

#[test]
fn never_more_than_the_weights_and_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).to_string_lossy().into_owned();
    let values: usize = entries(DType::F32).iter().map(|e| e.shape.iter().product::<usize>()).sum();
    let largest = 4 * INNER * WIDTH;
    let (got, ()) = most(|| write(&at("f32")));
    within("a checkpoint is written", got, 0, largest);
    for (name, dtype) in [("f16", StoredDType::F16), ("bf16", StoredDType::BF16)] {
        let options = SaveOptions { dtype: Some(dtype), ..SaveOptions::default() };
        let (got, done) = most(|| convert(&text("f32"), &at(name), &options));
        done.unwrap();
        within(&format!("converted to {name}"), got, 0, largest);
    }
    for (name, kind) in [("f32.gguf", GgmlType::F32), ("q8.gguf", GgmlType::Q8_0)] {
        let (got, done) = most(|| convert_to_gguf(&text("f32"), &at(name), Some(kind), false));
        done.unwrap();
        within(&format!("converted to {name}"), got, 0, largest);
    }
    for compute in ["f32", "bf16"] {
        let model = values * if compute == "f32" { 4 } else { 2 };
        let options = EngineOptions {
            device: "cpu".into(),
            dtype: compute.into(),
            ..EngineOptions::default()
        };
        let all = ["f32", "bf16", "q8.gguf", "f16", "f32.gguf"];
        for name in if compute == "f32" { &all[..] } else { &all[..3] } {
            let (got, engine) = most(|| Engine::load(&text(name), &options).unwrap());
            within(&format!("{name} is read as {compute}"), got, model, largest);
            if *name == "bf16" {
                for (stored, dtype) in [("f32", StoredDType::F32), ("bf16", StoredDType::BF16)] {
                    let (got, saved) = most(|| engine.save(&at("saved"), dtype));
                    saved.unwrap();
                    within(&format!("{compute} is saved as {stored}"), got, 0, largest);
                }
            }
        }
    }
}
