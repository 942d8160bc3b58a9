//! One seed, many independent streams: a stream depends on the seed and on names (stage, record,
//! sample index), never on order, batch size or thread count.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The stream that `names` select under `seed`.
pub fn stream(seed: u64, names: &[&str]) -> ChaCha8Rng {
    // FNV-1a over length-prefixed names, four lanes with different offsets: stable across versions.
    let mut key = [0u8; 32];
    for (lane, out) in key.chunks_exact_mut(8).enumerate() {
        let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ (lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut eat = |byte: u8| {
            hash ^= u64::from(byte);
            hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        };
        seed.to_le_bytes().into_iter().for_each(&mut eat);
        for name in names {
            (name.len() as u64).to_le_bytes().into_iter().for_each(&mut eat);
            name.bytes().for_each(&mut eat);
        }
        out.copy_from_slice(&hash.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    #[test]
    fn names_select_streams() {
        let draw = |seed, names: &[&str]| super::stream(seed, names).random::<u64>();
        assert_eq!(draw(1, &["a", "b"]), draw(1, &["a", "b"]));
        assert_ne!(draw(1, &["a", "b"]), draw(1, &["ab"]));
        assert_ne!(draw(1, &["a", "b"]), draw(2, &["a", "b"]));
        assert_ne!(draw(1, &["a", "b"]), draw(1, &["b", "a"]));
    }
}
