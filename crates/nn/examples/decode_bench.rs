//! Times products and cached attention at the shapes of a decoder of 135M parameters (width 576, nine query and
//! three key heads of 64, MLP 1536, vocabulary 49152). The fastest of many runs counts.
//!
//! `cargo run --release -p savi-nn --example decode_bench [-- avx2]`
#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use savi_nn::attention::{Heads, KvNode, KvPrefix, cached};
use savi_nn::gemm::{Mat, product};
use savi_nn::{Forest, awake, simd};

fn fastest(runs: usize, mut f: impl FnMut(usize)) -> f64 {
    let mut best = f64::INFINITY;
    for run in 0..runs {
        let start = Instant::now();
        f(run);
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn products(weights: &[f32]) {
    for m in [1, 2, 4, 8, 16, 32, 64, 2048] {
        for (k, n, turned) in [
            (576, 576, false),
            (576, 192, false),
            (576, 1536, false),
            (1536, 576, false),
            (576, 49152, true),
        ] {
            if m > 64 && turned {
                continue;
            }
            let x = vec![0.1f32; m * k];
            let runs = if m > 64 { 10 } else { (1 << 28) / (m * k * n) + 10 };
            // Another matrix in every run: a pass reads each weight once, from memory.
            let time = fastest(runs, |run| {
                let at = run % (weights.len() / (k * n)) * k * n;
                let w = &weights[at..at + k * n];
                let w =
                    if turned { Mat::row_major(w, k).transposed() } else { Mat::row_major(w, n) };
                black_box(product(m, n, k, Mat::row_major(&x, k), w));
            });
            let (bytes, flops) = ((4 * k * n) as f64, (2 * m * k * n) as f64);
            println!(
                "product {m:4} x {k:4} x {n:5}: {:8.0} us {:6.1} GB/s {:6.1} GFLOP/s",
                time * 1e6,
                bytes / time / 1e9,
                flops / time / 1e9
            );
        }
    }
}

/// `rows` rows of `new` tokens each after a shared prefix of `past` tokens; a cache of its own for every run.
fn attention(rows: usize, past: usize, new: usize) -> Result<()> {
    let (heads, device) = (Heads::new(9, 3, 64), Device::Cpu);
    let draw = |tokens: usize, width: usize| Tensor::rand(-1f32, 1f32, (tokens, width), &device);
    let mut root = KvNode::new(None, 1, past.max(1), &device);
    if past > 0 {
        let forest = Forest::sequence(past);
        let (q, k, v) = (draw(past, 576)?, draw(past, 192)?, draw(past, 192)?);
        cached(&q, &k, &v, heads, &forest, 0, &mut [&mut root])?;
        root.commit(&forest, 0);
    }
    let root = KvPrefix::whole(Arc::new(root));
    let tokens = rows * new;
    let (q, k, v) = (draw(tokens, 576)?, draw(tokens, 192)?, draw(tokens, 192)?);
    assert_eq!(q.dtype(), DType::F32);
    let mut best = f64::INFINITY;
    for _ in 0..(if tokens > 1000 { 5 } else { 200 }) {
        let mut nodes: Vec<KvNode> =
            (0..rows).map(|_| KvNode::new(Some(root.clone()), 1, new, &device)).collect();
        let mut nodes: Vec<&mut KvNode> = nodes.iter_mut().collect();
        let mut forest = Forest::new();
        nodes.iter().for_each(|node| {
            forest.push(node.after(), new);
        });
        let start = Instant::now();
        black_box(cached(&q, &k, &v, heads, &forest, 0, &mut nodes)?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let seen = (rows * new) as f64 * (past as f64 + (new + 1) as f64 / 2.0);
    println!(
        "attention of {rows:2} x {new:4} after {past:4}: {:8.0} us {:6.1} GFLOP/s",
        best * 1e6,
        seen * 9.0 * 64.0 * 4.0 / best / 1e9
    );
    Ok(())
}

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "avx2") {
        simd::at_most_avx2();
    }
    println!("{:?}, {} threads", simd::level(), rayon::current_num_threads());
    let weights = vec![0.01f32; 96 << 20];
    awake(|| {
        for (rows, past, new) in [(1, 512, 1), (16, 512, 1), (1, 4096, 1), (1, 0, 2048)] {
            attention(rows, past, new)?;
        }
        products(&weights);
        Ok(())
    })
}
