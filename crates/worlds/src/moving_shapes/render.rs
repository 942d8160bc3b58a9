//! From a scene to pictures.

use std::sync::LazyLock;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use savi_schema::{MediaPolicy, RgbImage, resample};

use super::scene::{Background, Object, ObjectState, Scene};
use super::times::sample_indices;
use super::vocab::{Shape, Texture};

/// Samples along each side of a pixel that an outline runs through.
const SUBSAMPLES: usize = 4;
/// How much darker stripes and dots are.
const SHADE: f32 = 0.66;
/// Radius of a flash, in radii of the object.
const FLASH_RADIUS: f64 = 1.4;
const FLASH_COLOUR: [f32; 3] = [255.0, 255.0, 250.0];

/// The frames that `policy` takes from the file of this scene, without writing the file: the same
/// moments, up to the loss of the codec the same pixels.
///
/// A policy whose size cannot be reached (zero pixels) leaves the frames at their own size.
pub fn sample_frames(scene: &Scene, policy: &MediaPolicy) -> Vec<RgbImage> {
    let painter = Painter::new(scene);
    sample_indices(scene, policy)
        .into_iter()
        .map(|index| {
            let image = painter.frame(index);
            match policy.size {
                Some((w, h)) => resample(&image, w, h, policy.resampling).unwrap_or(image),
                None => image,
            }
        })
        .collect()
}

impl Scene {
    /// The picture that is shown at `time`, in seconds: that of the frame it falls on.
    pub fn render(&self, time: f64) -> RgbImage {
        let index = (time * f64::from(self.fps) + 1e-6).floor().max(0.0) as u32;
        Painter::new(self).frame(index.min(self.frame_count - 1))
    }
}

/// Paints the frames of one scene; what all frames share is computed once.
pub(super) struct Painter<'a> {
    scene: &'a Scene,
    background: Vec<u8>,
}

impl<'a> Painter<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        Self { scene, background: paint_background(scene) }
    }

    /// Frame number `index`.
    pub(super) fn frame(&self, index: u32) -> RgbImage {
        let scene = self.scene;
        let time = f64::from(index) / f64::from(scene.frame_count);
        let mut canvas = self.background.clone();
        let states: Vec<(&Object, ObjectState)> = scene
            .objects
            .iter()
            .filter_map(|object| object.state(time).map(|state| (object, state)))
            .collect();
        // Flashes are behind all objects, so that they never hide one.
        for (_, state) in states.iter().filter(|(_, state)| state.flashing) {
            let radius = state.diameter / 2.0 * FLASH_RADIUS;
            fill(scene, &mut canvas, state, radius, FLASH_COLOUR, |u, v| {
                if u * u + v * v <= 1.0 { 1.0 } else { 0.0 }
            });
        }
        for (object, state) in &states {
            let painted = shade_of(object.shape, object.texture, state.turn as f32);
            fill(scene, &mut canvas, state, state.diameter / 2.0, state.colour.rgb(), painted);
        }
        add_noise(scene, index, &mut canvas);
        RgbImage { width: scene.width, height: scene.height, data: canvas.into() }
    }
}

/// How bright the object is at a point in its own coordinates (1 is the radius): 0 outside of it.
fn shade_of(shape: Shape, texture: Texture, turn: f32) -> impl Fn(f32, f32) -> f32 {
    use std::f32::consts::{FRAC_PI_4, PI};
    let angle = turn * if shape == Shape::Triangle { PI } else { FRAC_PI_4 };
    let (sin, cos) = angle.sin_cos();
    move |x, y| {
        let (u, v) = (x * cos + y * sin, y * cos - x * sin);
        let square = u * u + v * v;
        let inside = match shape {
            Shape::Circle => square <= 1.0,
            Shape::Ring => (0.27..=1.0).contains(&square),
            Shape::Square => u.abs().max(v.abs()) <= 0.84,
            Shape::Cross => u.abs().min(v.abs()) <= 0.32 && u.abs().max(v.abs()) <= 1.0,
            Shape::Triangle => v <= 0.62 && u.abs() <= (v + 1.05) * 0.59,
        };
        if !inside {
            return 0.0;
        }
        let dark = match texture {
            Texture::Plain => false,
            Texture::Striped => ((u + v) * 1.6 + 16.25).rem_euclid(1.0) < 0.42,
            Texture::Dotted => {
                let near = |w: f32| (w * 1.7 + 0.5).rem_euclid(1.0) - 0.5;
                near(u).powi(2) + near(v).powi(2) < 0.085
            }
        };
        if dark { SHADE } else { 1.0 }
    }
}

/// Blends a shape into the canvas. Pixels that an outline may run through are sampled
/// `SUBSAMPLES` times in each direction, the others once.
fn fill(
    scene: &Scene,
    canvas: &mut [u8],
    state: &ObjectState,
    radius: f64,
    colour: [f32; 3],
    shade: impl Fn(f32, f32) -> f32,
) {
    let (width, height) = (scene.width as usize, scene.height as usize);
    let radius = (radius * f64::from(scene.shorter_side())) as f32;
    let (cx, cy) = ((state.x * width as f64) as f32, (state.y * height as f64) as f32);
    let reach = radius * 1.25;
    let range = |centre: f32, most: usize| {
        let from = (centre - reach).floor().max(0.0) as usize;
        from.min(most)..((centre + reach).ceil().max(0.0) as usize).min(most)
    };
    let offset = |i: usize| (i as f32 + 0.5) / SUBSAMPLES as f32;
    let (near, far) = (offset(0), offset(SUBSAMPLES - 1));
    for y in range(cy, height) {
        for x in range(cx, width) {
            let sample = |dx: f32, dy: f32| {
                shade((x as f32 + dx - cx) / radius, (y as f32 + dy - cy) / radius)
            };
            let corner = sample(near, near);
            let uniform = [(near, far), (far, near), (far, far)]
                .into_iter()
                .all(|(dx, dy)| sample(dx, dy) == corner);
            let (mut covered, mut light) = (corner.signum().max(0.0), corner);
            if corner == 0.0 {
                covered = 0.0;
            }
            if !uniform {
                (covered, light) = (0.0, 0.0);
                for i in 0..SUBSAMPLES * SUBSAMPLES {
                    let part = sample(offset(i % SUBSAMPLES), offset(i / SUBSAMPLES));
                    light += part;
                    covered += f32::from(u8::from(part > 0.0));
                }
                let count = (SUBSAMPLES * SUBSAMPLES) as f32;
                (covered, light) = (covered / count, light / count);
            }
            if covered == 0.0 {
                continue;
            }
            let at = (y * width + x) * 3;
            for (pixel, tone) in canvas[at..at + 3].iter_mut().zip(colour) {
                *pixel = (f32::from(*pixel) * (1.0 - covered) + tone * light + 0.5) as u8;
            }
        }
    }
}

fn paint_background(scene: &Scene) -> Vec<u8> {
    let (width, height) = (scene.width as usize, scene.height as usize);
    let mut canvas = vec![0u8; width * height * 3];
    let mix = |one: [u8; 3], other: [u8; 3], part: f32| {
        let mut tone = [0u8; 3];
        for i in 0..3 {
            tone[i] = (f32::from(one[i]) * (1.0 - part) + f32::from(other[i]) * part + 0.5) as u8;
        }
        tone
    };
    let mut paint = |tone: &dyn Fn(usize, usize) -> [u8; 3]| {
        for (i, pixel) in canvas.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&tone(i % width, i / width));
        }
    };
    match scene.background {
        Background::Flat { tone } => paint(&|_, _| tone),
        Background::Gradient { from, to, across } => paint(&|x, y| {
            let part = if across { x as f32 / width as f32 } else { y as f32 / height as f32 };
            mix(from, to, part)
        }),
        Background::Checker { one, other, fields } => {
            let field = (scene.shorter_side() / fields.max(1)).max(1) as usize;
            paint(&|x, y| if (x / field + y / field).is_multiple_of(2) { one } else { other });
        }
        Background::Clouds { one, other } => {
            let clouds = Clouds::new(scene.noise_seed);
            let scale = 5.0 / scene.shorter_side() as f32;
            paint(&|x, y| mix(one, other, clouds.at(x as f32 * scale, y as f32 * scale)));
        }
    }
    canvas
}

/// Value noise on a small lattice.
struct Clouds {
    lattice: Vec<f32>,
}

impl Clouds {
    const SIDE: usize = 12;

    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self { lattice: (0..Self::SIDE * Self::SIDE).map(|_| rng.random::<f32>()).collect() }
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let point =
            |i: usize, j: usize| self.lattice[(j % Self::SIDE) * Self::SIDE + i % Self::SIDE];
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (i, j) = (x as usize, y as usize);
        let (u, v) = (ease(x.fract()), ease(y.fract()));
        let row = |j: usize| point(i, j) * (1.0 - u) + point(i + 1, j) * u;
        row(j) * (1.0 - v) + row(j + 1) * v
    }
}

const TILE: usize = 1 << 16;

/// Noise of unit variance in sixteenths, close to normal, drawn once.
static NOISE: LazyLock<Vec<i8>> = LazyLock::new(|| {
    let mut rng = ChaCha8Rng::seed_from_u64(0x006e_6f69_7365);
    (0..TILE)
        .map(|_| {
            // Twelve uniform numbers have variance 1.
            let sum: f32 = (0..12).map(|_| rng.random::<f32>()).sum();
            ((sum - 6.0) * 16.0).round() as i8
        })
        .collect()
});

fn add_noise(scene: &Scene, index: u32, canvas: &mut [u8]) {
    let strength = (scene.pixel_noise * 16.0).round() as i32;
    if strength == 0 {
        return;
    }
    let tile: &[i8] = &NOISE;
    for (y, row) in canvas.chunks_exact_mut(scene.width as usize * 3).enumerate() {
        // Each row of each frame starts elsewhere in the tile.
        let place = mix64(scene.noise_seed ^ (u64::from(index) << 32) ^ y as u64) as usize;
        let start = place % (TILE - scene.width as usize);
        for (pixel, &noise) in row.chunks_exact_mut(3).zip(&tile[start..]) {
            let add = ((i32::from(noise) * strength) >> 8) as i16;
            for value in pixel {
                *value = (i16::from(*value) + add).clamp(0, 255) as u8;
            }
        }
    }
}

/// The finaliser of SplitMix64.
fn mix64(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
