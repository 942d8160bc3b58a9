//! Prompts on their way into the tree: what of them is computed next.

use std::ops::Range;
use std::sync::Arc;

use super::{At, Place, Tree, Unit};
use crate::Prompt;

/// A prompt of which a start is computed.
#[derive(Debug)]
pub(crate) struct Filling {
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) units: Arc<[Unit]>,
    pub(crate) place: Place,
    /// Tokens that were found computed.
    pub(crate) cached: usize,
}

impl Filling {
    /// Finds what of a prompt is computed already.
    pub(crate) fn new(tree: &Tree, prompt: Arc<Prompt>, units: Arc<[Unit]>) -> Self {
        let mut place = tree.find(&units);
        if place.len() == units.len() && place.hidden.is_none() {
            // What follows depends on the last token's state: it is computed again.
            place = tree.find(&units[..units.len().saturating_sub(1)]);
        }
        let cached = place.len();
        Self { prompt, units, place, cached }
    }

    /// Tokens that are not computed yet.
    pub(crate) fn missing(&self) -> usize {
        self.units.len() - self.place.len()
    }

    /// Whether all of it is computed.
    pub(crate) fn is_full(&self) -> bool {
        self.missing() == 0
    }
}

/// A run of tokens that a pass computes, for one prompt or for several that share it.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    /// Whose, the first one's tokens being taken.
    pub(crate) members: Vec<usize>,
    /// Tokens of the prompts.
    pub(crate) range: Range<usize>,
}

/// What a pass of at most `room` tokens computes next, prompts in their order. Where prompts share their
/// starts, those that stand at one place and go on with the same tokens go on together.
pub(crate) fn plan<'a>(
    fillings: impl Iterator<Item = &'a Filling>,
    shares: bool,
    mut room: usize,
) -> Vec<Piece> {
    let fillings: Vec<&Filling> = fillings.collect();
    let mut groups: Vec<(At, Piece)> = Vec::new();
    for (index, filling) in fillings.iter().enumerate() {
        let start = filling.place.len();
        let rest = &filling.units[start..];
        if rest.is_empty() {
            continue;
        }
        let at = filling.place.at;
        let joined = groups.iter_mut().find(|(of, piece)| {
            let first = &fillings[piece.members[0]].units;
            shares && *of == at && at != At::Outside && first.get(start) == rest.first()
        });
        match joined {
            None => {
                let piece = Piece { members: vec![index], range: start..filling.units.len() };
                groups.push((at, piece));
            }
            Some((_, piece)) => {
                let first = &fillings[piece.members[0]].units[piece.range.clone()];
                let same = first.iter().zip(rest).take_while(|(a, b)| a == b).count();
                piece.range.end = start + same;
                piece.members.push(index);
            }
        }
    }
    let mut pieces = Vec::with_capacity(groups.len());
    for (_, mut piece) in groups {
        if room == 0 {
            break;
        }
        piece.range.end = piece.range.end.min(piece.range.start + room);
        room -= piece.range.len();
        pieces.push(piece);
    }
    pieces
}
