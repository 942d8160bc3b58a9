use candle_core::Device;
use savi_nn::Forest;

use super::*;
use crate::Prompt;

/// A node of so many tokens in one empty layer.
fn node(parent: Option<KvPrefix>, tokens: usize) -> Arc<KvNode> {
    let mut node = KvNode::new(parent, 1, tokens, &Device::Cpu);
    let mut forest = Forest::new();
    forest.push(node.after(), tokens);
    node.commit(&forest, 0);
    Arc::new(node)
}

fn filled(tree: &Tree, text: &[Unit]) -> Place {
    let place = tree.find(text);
    let rest = &text[place.len()..];
    if rest.is_empty() {
        return place;
    }
    tree.insert(&place, rest, node(place.prefix.clone(), rest.len()), None)
}

#[test]
fn texts_share_what_they_have_in_common() {
    let tree = Tree::new(1 << 20, true);
    assert_eq!(filled(&tree, &[1, 2, 3, 4, 5]).len(), 5);
    assert_eq!(tree.find(&[1, 2, 3, 4, 5, 6]).len(), 5);
    assert_eq!(tree.find(&[1, 2, 3, 9]).len(), 3);
    assert_eq!(tree.find(&[2]).len(), 0);
    // A fork in the middle, and one from the fork's middle.
    assert_eq!(filled(&tree, &[1, 2, 3, 7, 8, 9]).len(), 6);
    assert_eq!(filled(&tree, &[1, 2, 3, 7, 8, 1]).len(), 6);
    for (text, found) in [
        (vec![1, 2, 3, 7, 8, 9, 9], 6),
        (vec![1, 2, 3, 7, 8, 1], 6),
        (vec![1, 2, 3, 7, 7], 4),
        (vec![1, 2, 3, 4, 5], 5),
    ] {
        assert_eq!(tree.find(&text).len(), found, "{text:?}");
    }
    tree.clear();
    assert_eq!(tree.find(&[1, 2, 3]).len(), 0);
}

#[test]
fn a_tree_that_does_not_share_finds_nothing() {
    let tree = Tree::new(1 << 20, false);
    assert_eq!(filled(&tree, &[1, 2, 3]).len(), 3);
    assert_eq!(tree.find(&[1, 2, 3]).len(), 0);
}

/// Nodes of one layer whose bytes count.
fn heavy(parent: Option<KvPrefix>, tokens: usize) -> Arc<KvNode> {
    use candle_core::{DType, Tensor};
    use savi_nn::attention::{Heads, cached};
    let mut node = KvNode::new(parent, 1, tokens, &Device::Cpu);
    let mut forest = Forest::new();
    forest.push(node.after(), tokens);
    let x = Tensor::zeros((tokens, 8), DType::F32, &Device::Cpu).unwrap();
    cached(&x, &x, &x, Heads::new(1, 1, 8), &forest, 0, &mut [&mut node]).unwrap();
    node.commit(&forest, 0);
    Arc::new(node)
}

#[test]
fn what_was_used_longest_ago_goes_first_and_nobody_loses_what_they_stand_on() {
    let token = heavy(None, 1).bytes();
    let tree = Tree::new(10 * token, true);
    let fill = |text: &[Unit]| {
        let place = tree.find(text);
        let rest = &text[place.len()..];
        tree.insert(&place, rest, heavy(place.prefix.clone(), rest.len()), None)
    };
    fill(&[1, 1, 1, 1]);
    fill(&[2, 2, 2, 2]);
    assert_eq!(tree.find(&[1, 1, 1, 1]).len(), 4);
    let held = fill(&[3, 3, 3, 3]);
    // The second was used longest ago.
    assert_eq!(tree.find(&[2, 2, 2, 2]).len(), 0);
    assert_eq!(tree.find(&[1, 1, 1, 1]).len(), 4);
    // The third is in use, the first is not.
    fill(&[4, 4, 4, 4]);
    assert_eq!(tree.find(&[1, 1]).len(), 0);
    assert_eq!(tree.find(&[3, 3, 3, 3]).len(), 4);
    assert!(!tree.make_room(7 * token));
    assert_eq!(tree.usage().0, 4 * token);
    drop(held);
    assert!(tree.make_room(7 * token));
    assert_eq!(tree.usage().0, 0);
    // Leaves go before what they stand on.
    tree.clear();
    fill(&[5, 5]);
    fill(&[5, 5, 6]);
    fill(&[5, 5, 7]);
    tree.find(&[5, 5, 6]);
    assert!(tree.make_room(7 * token));
    assert_eq!((tree.find(&[5, 5, 6]).len(), tree.find(&[5, 5, 7]).len()), (3, 2));
}

#[test]
fn prompts_that_share_a_start_are_computed_together_level_by_level() {
    let tree = Tree::new(1 << 20, true);
    let filling = |text: &[Unit]| Filling::new(&tree, Arc::new(Prompt::default()), text.into());
    let mut all = [filling(&[1, 2, 3, 4]), filling(&[9, 9]), filling(&[1, 2, 5]), filling(&[1, 2])];
    let piece = |members: &[usize], range| Piece { members: members.to_vec(), range };
    let pieces = plan(all.iter(), true, 100);
    assert_eq!(pieces, [piece(&[0, 2, 3], 0..2), piece(&[1], 0..2)]);
    for Piece { members, range } in pieces {
        let first = &all[members[0]];
        let kv = node(None, range.len());
        let place = tree.insert(&first.place, &first.units[range], kv, None);
        members.iter().for_each(|&member| all[member].place = place.clone());
    }
    assert!(all[1].is_full() && all[3].is_full());
    assert_eq!(plan(all.iter(), true, 100), [piece(&[0], 2..4), piece(&[2], 2..3)]);
    // Chunks: what does not fit waits.
    assert_eq!(plan(all.iter(), true, 1), [piece(&[0], 2..3)]);
    // Without sharing everyone computes their own.
    let apart = [filling(&[7, 7]), filling(&[7, 7])];
    assert_eq!(plan(apart.iter(), false, 3), [piece(&[0], 0..2), piece(&[1], 0..1)]);
}
