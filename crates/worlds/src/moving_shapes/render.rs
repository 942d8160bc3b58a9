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
            let disc = Figure::new(Shape::Circle, Texture::Plain, 0.0);
            fill(scene, &mut canvas, state, radius, FLASH_COLOUR, disc);
        }
        for (object, state) in &states {
            let figure = Figure::new(object.shape, object.texture, state.turn);
            fill(scene, &mut canvas, state, state.diameter / 2.0, state.colour.rgb(), figure);
        }
        add_noise(scene, index, &mut canvas);
        RgbImage { width: scene.width, height: scene.height, data: canvas.into() }
    }
}

/// An outline and a surface in an object's own coordinates, where 1 is the radius.
#[derive(Clone, Copy)]
struct Figure {
    shape: Shape,
    texture: Texture,
    sin: f32,
    cos: f32,
}

impl Figure {
    fn new(shape: Shape, texture: Texture, turn: f64) -> Self {
        use std::f32::consts::{FRAC_PI_4, PI};
        let angle = turn as f32 * if shape == Shape::Triangle { PI } else { FRAC_PI_4 };
        let (sin, cos) = angle.sin_cos();
        Self { shape, texture, sin, cos }
    }

    fn turned(&self, x: f32, y: f32) -> (f32, f32) {
        (x * self.cos + y * self.sin, y * self.cos - x * self.sin)
    }

    fn holds(&self, x: f32, y: f32) -> bool {
        let (u, v) = self.turned(x, y);
        match self.shape {
            Shape::Circle => u * u + v * v <= 1.0,
            Shape::Ring => (0.27..=1.0).contains(&(u * u + v * v)),
            Shape::Square => u.abs().max(v.abs()) <= 0.84,
            Shape::Cross => u.abs().min(v.abs()) <= 0.32 && u.abs().max(v.abs()) <= 1.0,
            Shape::Triangle => v <= 0.62 && u.abs() <= (v + 1.05) * 0.59,
        }
    }

    /// How bright the surface is at a point of it.
    fn light(&self, x: f32, y: f32) -> f32 {
        // The part behind the point of a number that is not below -16.
        let part = |w: f32| (w + 16.0) - ((w + 16.0) as i32) as f32;
        let (u, v) = self.turned(x, y);
        let dark = match self.texture {
            Texture::Plain => false,
            Texture::Striped => part((u + v) * 1.6 + 0.25) < 0.42,
            Texture::Dotted => {
                let (u, v) = (part(u * 1.7 + 0.5) - 0.5, part(v * 1.7 + 0.5) - 0.5);
                u * u + v * v < 0.085
            }
        };
        if dark { SHADE } else { 1.0 }
    }
}

/// Blends a figure into the canvas. Pixels that an outline runs through are sampled `SUBSAMPLES`
/// times in each direction, the others at their corners.
fn fill(
    scene: &Scene,
    canvas: &mut [u8],
    state: &ObjectState,
    radius: f64,
    colour: [f32; 3],
    figure: Figure,
) {
    const NEAR: f32 = 0.5 / SUBSAMPLES as f32;
    const CORNERS: [(f32, f32); 4] =
        [(NEAR, NEAR), (1.0 - NEAR, NEAR), (NEAR, 1.0 - NEAR), (1.0 - NEAR, 1.0 - NEAR)];
    let (width, height) = (scene.width as usize, scene.height as usize);
    let radius = (radius * f64::from(scene.shorter_side())) as f32;
    let scale = 1.0 / radius;
    let (cx, cy) = ((state.x * width as f64) as f32, (state.y * height as f64) as f32);
    // The corners of a triangle are further out than the radius.
    let reach = radius * 1.25;
    let range = |centre: f32, most: usize| {
        let from = (centre - reach).max(0.0) as usize;
        from.min(most)..((centre + reach).max(0.0) as usize + 1).min(most)
    };
    for y in range(cy, height) {
        for x in range(cx, width) {
            let point =
                |dx: f32, dy: f32| ((x as f32 + dx - cx) * scale, (y as f32 + dy - cy) * scale);
            let sample = |dx: f32, dy: f32| {
                let (u, v) = point(dx, dy);
                if figure.holds(u, v) { (1.0, figure.light(u, v)) } else { (0.0, 0.0) }
            };
            let held = CORNERS.map(|(dx, dy)| {
                let (u, v) = point(dx, dy);
                figure.holds(u, v)
            });
            let add = |sum: (f32, f32), (c, l): (f32, f32)| (sum.0 + c, sum.1 + l);
            let (covered, light) = if held == [false; 4] {
                continue;
            } else if held == [true; 4] {
                if figure.texture == Texture::Plain {
                    (1.0, 1.0)
                } else {
                    let sum = CORNERS.iter().fold((0.0, 0.0), |s, &(x, y)| add(s, sample(x, y)));
                    (sum.0 / 4.0, sum.1 / 4.0)
                }
            } else {
                let offset = |i: usize| (i as f32 + 0.5) / SUBSAMPLES as f32;
                let count = SUBSAMPLES * SUBSAMPLES;
                let sum = (0..count).fold((0.0, 0.0), |s, i| {
                    add(s, sample(offset(i % SUBSAMPLES), offset(i / SUBSAMPLES)))
                });
                (sum.0 / count as f32, sum.1 / count as f32)
            };
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
