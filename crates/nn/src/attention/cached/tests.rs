//! Cached attention against the packed pass and against every query alone.

use rand::Rng;

use super::*;
use crate::attention::kernel::{Span, attend};
use crate::attention::tiles::tiled;
use crate::{attention::tree, check};

/// Prefill in chunks, fork, decode token by token: the bits of one packed pass.
#[test]
fn decoding_after_a_fork_equals_the_packed_pass_bit_for_bit() -> Result<()> {
    let plain = Heads::new(4, 2, 32);
    for heads in [plain, Heads { window: Some(7), softcap: Some(2.0), ..plain }] {
        decoding_equals_packed(heads)?;
    }
    Ok(())
}

fn decoding_equals_packed(heads: Heads) -> Result<()> {
    let mut packed = Forest::new();
    let prompt = packed.push(Parent::Root, 21);
    packed.push(Parent::Segment(prompt), 6);
    packed.push(Parent::Segment(prompt), 9);
    let q = check::normal(&[36, 128], "q", DType::F32)?;
    let k = check::normal(&[36, 64], "k", DType::F32)?;
    let v = check::normal(&[36, 64], "v", DType::F32)?;
    let want = tree(&q, &k, &v, heads, &Arc::new(packed))?.to_vec2::<f32>()?;

    let part = |x: &Tensor, rows: &[u32]| {
        x.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?.contiguous()
    };
    let pass = |nodes: &mut [&mut KvNode], rows: &[Vec<u32>]| -> Result<Vec<Vec<f32>>> {
        let mut forest = Forest::new();
        for (node, rows) in nodes.iter().zip(rows) {
            forest.push(node.after(), rows.len());
        }
        let flat: Vec<u32> = rows.concat();
        let out = cached(
            &part(&q, &flat)?,
            &part(&k, &flat)?,
            &part(&v, &flat)?,
            heads,
            &forest,
            0,
            nodes,
        )?;
        for (index, node) in nodes.iter_mut().enumerate() {
            node.commit(&forest, index);
        }
        out.to_vec2()
    };
    let mut root = KvNode::new(None, 1, 8, &Device::Cpu);
    for chunk in [0..9u32, 9..21] {
        let got = pass(&mut [&mut root], &[chunk.clone().collect()])?;
        assert_eq!(got, want[chunk.start as usize..chunk.end as usize]);
    }
    let root = KvPrefix::whole(Arc::new(root));
    let mut a = KvNode::new(Some(root.clone()), 1, 2, &Device::Cpu);
    let mut b = KvNode::new(Some(root), 1, 2, &Device::Cpu);
    for step in 0..6u32 {
        let got = pass(&mut [&mut a, &mut b], &[vec![21 + step], vec![27 + step]])?;
        assert_eq!(got[0], want[21 + step as usize]);
        assert_eq!(got[1], want[27 + step as usize]);
    }
    let got = pass(&mut [&mut b], &[vec![33, 34, 35]])?;
    assert_eq!(got, want[33..36]);
    assert_eq!((a.total(), b.total()), (27, 30));

    // From the middle of a node: its later tokens are another branch's.
    let fork = KvPrefix::first(Arc::new(b), 4);
    assert_eq!((fork.total(), fork.position()), (25, 25));
    let mut c = KvNode::new(Some(fork), 1, 2, &Device::Cpu);
    assert_eq!(c.after(), Parent::Cached { tokens: 25, position: 25 });
    let got = pass(&mut [&mut c], &[vec![31, 32]])?;
    assert_eq!(got, want[31..33]);
    Ok(())
}

/// Keys and values of a row's tokens so far, `[tokens, kv_heads * head_dim]` each.
type Past = (Vec<f32>, Vec<f32>);

fn draw(rng: &mut impl Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// One query over one run of keys, as if there were no other rows, no nodes and no tiles.
fn alone(heads: Heads, query: &[f32], g: usize, (k, v): (&[f32], &[f32])) -> Vec<f32> {
    let (dim, width) = (heads.head_dim, heads.kv_heads * heads.head_dim);
    let total = k.len() / width;
    let kept = heads.window.map_or(total, |window| window.min(total));
    let mut keys = vec![0f32; dim * kept];
    for j in 0..kept {
        for d in 0..dim {
            keys[d * kept + j] = k[(total - kept + j) * width + g * dim + d];
        }
    }
    let values = &v[(total - kept) * width + g * dim..];
    let span = Span { keys: &keys, k_stride: kept, values, v_stride: width, len: kept };
    let (mut scores, mut out) = (vec![0f32; kept], vec![0f32; dim]);
    let cap = heads.softcap.map(|cap| cap as f32);
    attend(query, &[span], heads.scale as f32, cap, &mut scores, &mut out);
    out
}

/// Appends `lens[i]` tokens to row i in one pass; what comes out is what every token gives alone.
fn pass(
    rng: &mut impl Rng,
    heads: Heads,
    rows: &mut [&mut KvNode],
    pasts: &mut [&mut Past],
    lens: &[usize],
) -> Result<()> {
    let mut forest = Forest::new();
    for (row, &len) in rows.iter().zip(lens) {
        forest.push(row.after(), len);
    }
    let width = heads.kv_heads * heads.head_dim;
    let q = draw(rng, forest.len() * heads.heads * heads.head_dim);
    for ((row, past), &len) in rows.iter_mut().zip(pasts.iter_mut()).zip(lens) {
        let (k, v) = (draw(rng, len * width), draw(rng, len * width));
        row.append_host(0, heads, &k, &v)?;
        past.0.extend(k);
        past.1.extend(v);
    }
    let mut want = Vec::new();
    for ((segment, past), &len) in forest.segments().iter().zip(pasts.iter()).zip(lens) {
        for i in 0..len {
            let end = (segment.offset + i + 1) * width;
            for h in 0..heads.heads {
                let at = ((segment.range.start + i) * heads.heads + h) * heads.head_dim;
                let query = &q[at..at + heads.head_dim];
                let g = h / (heads.heads / heads.kv_heads);
                want.extend(alone(heads, query, g, (&past.0[..end], &past.1[..end])));
            }
        }
    }
    let want: Vec<u32> = want.into_iter().map(f32::to_bits).collect();
    {
        let rows: Vec<&KvNode> = rows.iter().map(|row| &**row).collect();
        let of = |level, threads| -> Result<Vec<u32>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let out = pool.install(|| host(level, &q, heads, &forest, 0, &rows))?;
            Ok(out.into_iter().map(f32::to_bits).collect())
        };
        for threads in [1, 2, 3] {
            assert_eq!(of(level(), threads)?, want, "{heads:?}, {threads} threads");
        }
        assert_eq!(of(Level::Base, 2)?, want, "{heads:?}, query by query");
        if level() == Level::Avx512 {
            assert_eq!(of(Level::Avx2, 2)?, want, "{heads:?}, AVX2");
        }
    }
    for (index, row) in rows.iter_mut().enumerate() {
        row.commit(&forest, index);
    }
    Ok(())
}

fn shapes() -> Vec<Heads> {
    let mut shapes = Vec::new();
    for (group, kv_heads, dim) in
        [(1, 2, 64), (3, 3, 64), (2, 1, 32), (4, 2, 80), (8, 1, 128), (7, 1, 64), (3, 1, 256)]
    {
        let plain = Heads::new(group * kv_heads, kv_heads, dim);
        shapes.push(plain);
        shapes.push(Heads { window: Some(90), softcap: Some(1.5), ..plain });
    }
    shapes
}

#[test]
fn rows_of_one_prefix_have_the_bits_that_each_has_alone() -> Result<()> {
    let mut rng = crate::rng::stream(1, &["cached"]);
    for heads in shapes() {
        let (mut root, mut past) = (KvNode::new(None, 1, 4, &Device::Cpu), Past::default());
        for len in [70, 1, 63] {
            pass(&mut rng, heads, &mut [&mut root], &mut [&mut past], &[len])?;
        }
        let width = heads.kv_heads * heads.head_dim;
        let (root, total) = (Arc::new(root), 134);
        // Most go on from the end, some from places of their own.
        let cuts = [total, total, 40, total, total, 100, total, total, 97];
        let mut pasts: Vec<Past> = cuts
            .iter()
            .map(|cut| (past.0[..cut * width].to_vec(), past.1[..cut * width].to_vec()))
            .collect();
        let mut rows: Vec<KvNode> = cuts
            .iter()
            .map(|&cut| KvNode::new(Some(KvPrefix::first(root.clone(), cut)), 1, 2, &Device::Cpu))
            .collect();
        for lens in [[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 3, 2, 1, 30, 1, 1, 5, 1], [1; 9]] {
            let mut rows: Vec<&mut KvNode> = rows.iter_mut().collect();
            let mut pasts: Vec<&mut Past> = pasts.iter_mut().collect();
            pass(&mut rng, heads, &mut rows, &mut pasts, &lens)?;
        }
    }
    Ok(())
}

#[test]
fn deep_chains_of_small_nodes_are_one_past() -> Result<()> {
    let mut rng = crate::rng::stream(2, &["cached"]);
    for heads in [Heads::new(6, 2, 64), Heads { window: Some(50), ..Heads::new(2, 1, 32) }] {
        let (mut above, mut past) = (None, Past::default());
        for depth in 0..120 {
            let mut node = KvNode::new(above.take(), 1, 1, &Device::Cpu);
            let len = 1 + depth % 5;
            pass(&mut rng, heads, &mut [&mut node], &mut [&mut past], &[len])?;
            above = Some(KvPrefix::whole(Arc::new(node)));
        }
        let mut rows: Vec<KvNode> =
            (0..5).map(|_| KvNode::new(above.clone(), 1, 1, &Device::Cpu)).collect();
        let mut pasts = vec![past; 5];
        let mut rows: Vec<&mut KvNode> = rows.iter_mut().collect();
        let mut pasts: Vec<&mut Past> = pasts.iter_mut().collect();
        pass(&mut rng, heads, &mut rows, &mut pasts, &[1, 1, 2, 1, 1])?;
    }
    Ok(())
}

#[test]
fn a_shared_prefix_is_read_once_for_a_tile() {
    // Sixteen rows, in turns of two prompts, three query heads to a key head.
    let mut forest = Forest::new();
    let mut chains = Vec::new();
    for row in 0..32 {
        forest.push(Parent::Cached { tokens: 512, position: 512 }, 1);
        chains.push(vec![(row % 2, 512), (2 + row, 1)]);
    }
    let (tiles, singles) = tiled(Level::Avx2, &forest, &chains, 3, None);
    assert!(singles.is_empty());
    assert_eq!(tiles.len(), 2);
    for (prompt, tile) in tiles.iter().enumerate() {
        assert_eq!(tile.readers(prompt), [16], "one read for sixteen rows");
        assert_eq!(tile.readers(1 - prompt), [0; 0]);
    }
}
