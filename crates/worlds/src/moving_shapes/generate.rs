//! Draws scenes.
//!
//! Each draw is made so that no single frame of the clip tells the answer to a question about
//! time: see the comments at each kind of object.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::SEGMENTS;
use super::events::{events, nearest};
use super::scene::{Background, Change, Object, Role, Scene, Track, Window};
use super::split::{Split, is_novel_look, is_novel_motion};
use super::vocab::{ChangeKind, Colour, Direction, Shape, Size, Texture};

/// Pictures are at least this far from the outline of an object.
const MARGIN: f64 = 0.14;
/// What a fast object covers while it is visible, as a fraction of the picture.
const FAST: f64 = 0.66;
/// What a slow one covers.
const SLOW: f64 = 0.34;
/// Segments in which movers and changers are visible.
const VISIBLE: i32 = 4;

/// The scene with this number. The same arguments give the same scene on every machine.
pub fn scene(split: Split, seed: u64, index: u64) -> Scene {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"moving-shapes 1");
    hasher.update(split.name().as_bytes());
    hasher.update(&seed.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    loop {
        let mut scene = empty_scene(&mut rng, split, seed, index);
        if let Some(objects) = draw_objects(&mut rng, &scene) {
            scene.objects = objects;
            scene.events = events(&scene);
            return scene;
        }
    }
}

fn empty_scene(rng: &mut ChaCha8Rng, split: Split, seed: u64, index: u64) -> Scene {
    const SIZES: [(u32, u32); 6] =
        [(128, 128), (160, 128), (160, 120), (144, 112), (176, 144), (192, 144)];
    const RATES: [u32; 7] = [8, 10, 12, 15, 24, 25, 30];
    // Enough frames that the middle of a segment, wherever a rule rounds it to, is inside of it.
    const FRAMES: (u32, u32) = (44, 120);
    let &(width, height) = SIZES.choose(rng).unwrap_or(&SIZES[0]);
    let &fps = RATES.choose(rng).unwrap_or(&RATES[0]);
    let (fewest, most) = (FRAMES.0.max(2 * fps), FRAMES.1.min(6 * fps));
    Scene {
        schema: savi_schema::SCHEMA_VERSION,
        id: format!("{}-{index:05}", split.name()),
        split,
        seed,
        index,
        width,
        height,
        fps,
        frame_count: rng.random_range(fewest..=most.max(fewest)),
        background: background(rng),
        pixel_noise: rng.random_range(1.0..5.0),
        noise_seed: rng.random(),
        objects: Vec::new(),
        events: Vec::new(),
    }
}

fn background(rng: &mut ChaCha8Rng) -> Background {
    // Tones are close to grey and neither near black nor near white.
    let tone = |rng: &mut ChaCha8Rng| {
        let grey = rng.random_range(45..150);
        [0; 3].map(|_: i32| (grey + rng.random_range(-10..=10)) as u8)
    };
    let near = |rng: &mut ChaCha8Rng, tone: [u8; 3]| {
        let step = rng.random_range(12..32) * if rng.random() { 1 } else { -1 };
        tone.map(|t| (i32::from(t) + step).clamp(25, 175) as u8)
    };
    let one = tone(rng);
    match rng.random_range(0..4) {
        0 => Background::Flat { tone: one },
        1 => Background::Gradient { from: one, to: tone(rng), across: rng.random() },
        2 => Background::Checker { one, other: near(rng, one), fields: rng.random_range(3..8) },
        _ => {
            let nearer = near(rng, one);
            Background::Clouds { one, other: near(rng, nearer) }
        }
    }
}

/// What a scene is made of.
#[derive(Clone, Copy)]
struct Plan {
    weight: u32,
    hit: bool,
    racers: bool,
    movers: usize,
    changer: bool,
    flashes: bool,
    stills: usize,
}

/// Every plan has a motion, a change or a hit, so that one can always ask why.
#[rustfmt::skip]
const PLANS: [Plan; 12] = [
    Plan { weight: 4, hit: false, racers: true,  movers: 0, changer: false, flashes: true,  stills: 0 },
    Plan { weight: 4, hit: false, racers: false, movers: 1, changer: true,  flashes: true,  stills: 0 },
    Plan { weight: 2, hit: false, racers: false, movers: 1, changer: false, flashes: true,  stills: 1 },
    Plan { weight: 1, hit: false, racers: false, movers: 0, changer: true,  flashes: true,  stills: 1 },
    Plan { weight: 2, hit: false, racers: false, movers: 1, changer: false, flashes: true,  stills: 0 },
    Plan { weight: 2, hit: false, racers: false, movers: 0, changer: true,  flashes: true,  stills: 0 },
    Plan { weight: 1, hit: false, racers: false, movers: 1, changer: false, flashes: false, stills: 1 },
    Plan { weight: 2, hit: false, racers: true,  movers: 0, changer: true,  flashes: false, stills: 0 },
    Plan { weight: 4, hit: true,  racers: false, movers: 0, changer: false, flashes: true,  stills: 0 },
    Plan { weight: 2, hit: true,  racers: false, movers: 1, changer: false, flashes: false, stills: 0 },
    Plan { weight: 3, hit: true,  racers: false, movers: 0, changer: true,  flashes: false, stills: 0 },
    Plan { weight: 1, hit: true,  racers: false, movers: 0, changer: false, flashes: false, stills: 1 },
];

fn draw_objects(rng: &mut ChaCha8Rng, scene: &Scene) -> Option<Vec<Object>> {
    let plan = PLANS.choose_weighted(rng, |plan| plan.weight).ok()?;
    // What is asked for is drawn before there is any question of room, so that answers which leave
    // less room do not become rare.
    let ways = [direction(rng), direction(rng), direction(rng), direction(rng)];
    let hits = rng.random();
    let kind = ChangeKind::ALL[rng.random_range(0..ChangeKind::ALL.len())];
    for _ in 0..300 {
        let mut looks = Looks::new(rng, scene.split);
        let mut objects = Vec::new();
        if plan.hit {
            objects.extend(hit_pair(rng, scene, &mut looks, ways[0], hits)?);
        }
        if plan.racers {
            objects.extend(racers(rng, scene, &mut looks, [ways[1], ways[2]])?);
        }
        for _ in 0..plan.movers {
            objects.push(mover(rng, scene, &mut looks, ways[3])?);
        }
        if plan.changer {
            objects.push(changer(rng, &mut looks, kind)?);
        }
        let flashes = plan.flashes.then(|| flash_pair(rng));
        for i in 0..plan.stills + if plan.flashes { 2 } else { 0 } {
            let mut object = still(rng, &mut looks)?;
            object.flash = flashes.and_then(|pair| pair.get(i).copied());
            objects.push(object);
        }
        objects.shuffle(rng);
        let crossing = rng.random_bool(0.15);
        if shapes_are_clear(&objects) && places_are_clear(scene, &objects, crossing) {
            return Some(objects);
        }
    }
    None
}

/// Hands out colours that differ within the scene, and shapes.
struct Looks {
    colours: Vec<Colour>,
    split: Split,
}

impl Looks {
    fn new(rng: &mut ChaCha8Rng, split: Split) -> Self {
        let mut colours = Colour::ALL.to_vec();
        colours.shuffle(rng);
        Self { colours, split }
    }

    /// A new object with a look of its own; its motion is filled in by the caller. `None` when
    /// the draw is of a combination that this part of the data must not hold.
    fn object(
        &mut self,
        rng: &mut ChaCha8Rng,
        role: Role,
        shapes: &[Shape],
        way: Option<Direction>,
    ) -> Option<Object> {
        // Drawing the shape first keeps shapes equally frequent whatever is left out.
        let &shape = shapes.choose(rng)?;
        let fits = |colour: &Colour| {
            self.split.has_novel()
                || !(is_novel_look(*colour, shape)
                    || way.is_some_and(|way| is_novel_motion(*colour, way)))
        };
        let at = self.colours.iter().position(fits)?;
        Some(Object {
            role,
            colour: self.colours.remove(at),
            shape,
            texture: *Texture::ALL.choose(rng)?,
            diameter: rng.random_range(0.22..0.28),
            turned: false,
            track: Track::still(0.5, 0.5),
            visible: Window::ALWAYS,
            change: None,
            flash: None,
        })
    }
}

fn direction(rng: &mut ChaCha8Rng) -> Direction {
    Direction::ALL[rng.random_range(0..Direction::ALL.len())]
}

/// A coordinate well inside one of the three bands of the grid, each equally likely.
fn banded(rng: &mut ChaCha8Rng) -> f64 {
    match rng.random_range(0..3) {
        0 => rng.random_range(0.17..0.28),
        1 => rng.random_range(0.40..0.60),
        _ => rng.random_range(0.72..0.83),
    }
}

fn still(rng: &mut ChaCha8Rng, looks: &mut Looks) -> Option<Object> {
    let mut object = looks.object(rng, Role::Still, Shape::ALL, None)?;
    object.track = Track::still(banded(rng), banded(rng));
    Some(object)
}

/// A straight track from `from` (measured along the direction of motion) over `travel`, during
/// segments `first` to `first + VISIBLE`, and when the object on it can be seen.
fn track(
    rng: &mut ChaCha8Rng,
    scene: &Scene,
    way: Direction,
    from: f64,
    travel: f64,
    first: i32,
) -> (Track, Window) {
    // Across the direction of motion, a place as frames show it along that of a fast mover: so a
    // single place does not say which axis the motion is on.
    let across = rng.random_range(MARGIN..1.0 - MARGIN - FAST)
        + FAST * (f64::from(rng.random_range(0..VISIBLE)) + 0.5) / f64::from(VISIBLE);
    let (dx, dy) = way.step();
    let along = |v: f64| if dx + dy > 0.0 { v } else { 1.0 - v };
    let point = |v: f64| if dx != 0.0 { (along(v), across) } else { (across, along(v)) };
    let time = |segment: i32| f64::from(segment) / f64::from(SEGMENTS);
    let (start, end) = (time(first), time(first + VISIBLE));
    let early = earliness(scene);
    let track = Track {
        from: point(from),
        to: point(from + travel),
        start: start - early,
        end: end - early,
    };
    (track, Window { from: start.max(0.0), to: end.min(1.0) })
}

/// How much earlier than the middle of a segment its frame is shown, on average: one frame, by
/// the rounding of the mid-segment rule. Motions are that much earlier too, so that, on average, the frames show stages that lie
/// evenly about the middle of the way.
fn earliness(scene: &Scene) -> f64 {
    1.0 / f64::from(scene.frame_count)
}

/// A single frame shows a mover at one of four stages of its way. Which one cannot be told,
/// because it starts at a random time: before the clip, in it, or so late that the clip ends
/// first. So a place on the way fits a motion in one direction as well as in the other.
fn mover(rng: &mut ChaCha8Rng, scene: &Scene, looks: &mut Looks, way: Direction) -> Option<Object> {
    let mut object = looks.object(rng, Role::Mover, Shape::ALL, Some(way))?;
    let from = rng.random_range(MARGIN..1.0 - MARGIN - FAST);
    let first = rng.random_range(-2..=6);
    (object.track, object.visible) = track(rng, scene, way, from, FAST, first);
    Some(object)
}

/// A fast and a slow object, each seen on its whole way. The slow one's ways cover the same parts
/// of the picture as the fast one's.
fn racers(
    rng: &mut ChaCha8Rng,
    scene: &Scene,
    looks: &mut Looks,
    ways: [Direction; 2],
) -> Option<[Object; 2]> {
    let mut racer = |travel: f64, way: Direction| {
        let mut object = looks.object(rng, Role::Racer, Shape::ALL, Some(way))?;
        let from = if travel == FAST {
            rng.random_range(MARGIN..1.0 - MARGIN - FAST)
        } else {
            // Half of the slow way is on either side of a line of the grid.
            let line = f64::from(rng.random_range(1..=2)) / 3.0;
            line - SLOW / 2.0 + rng.random_range(-0.008..0.008)
        };
        // A way that starts or ends with the clip is rarer: its first or last place tells most.
        let first = *[0, 1, 1, 2, 2, 3, 3, 4].choose(rng)?;
        (object.track, object.visible) = track(rng, scene, way, from, travel, first);
        Some(object)
    };
    Some([racer(FAST, ways[0])?, racer(SLOW, ways[1])?])
}

/// Seen for two segments before the change and for two after it, at a random time; sizes, colours
/// and attitudes are such that a single look says neither what it was nor what it will be.
fn changer(rng: &mut ChaCha8Rng, looks: &mut Looks, kind: ChangeKind) -> Option<Object> {
    const TURNABLE: [Shape; 3] = [Shape::Square, Shape::Triangle, Shape::Cross];
    let mut object = looks.object(rng, Role::Changer, &TURNABLE, None)?;
    let sizes = [Size::Small, Size::Medium, Size::Large];
    let lower = rng.random_range(0..2);
    let upper = lower + rng.random_range(0..2);
    let (before, after) = match kind {
        ChangeKind::Grows => (lower, lower + 1),
        ChangeKind::Shrinks => (lower + 1, lower),
        // Small, medium and large in the shares 1 : 2 : 1 that growing and shrinking make.
        ChangeKind::ChangesColour | ChangeKind::Turns => (upper, upper),
    };
    let part = rng.random_range(0.0..1.0);
    let diameter = |size: Size| match size {
        Size::Small => 0.155 + 0.02 * part,
        Size::Medium => 0.225 + 0.025 * part,
        Size::Large => 0.32 + 0.03 * part,
    };
    object.diameter = diameter(sizes[before]);
    object.turned = rng.random();
    object.track = Track::still(banded(rng), banded(rng));
    let first = rng.random_range(-1..=5);
    let time = |segment: i32| f64::from(segment) / f64::from(SEGMENTS);
    object.visible = Window { from: time(first).max(0.0), to: time(first + VISIBLE).min(1.0) };
    let colour = if kind == ChangeKind::ChangesColour {
        let shape = object.shape;
        let fits = |c: &Colour| looks.split.has_novel() || !is_novel_look(*c, shape);
        let at = looks.colours.iter().position(fits)?;
        looks.colours.remove(at)
    } else {
        object.colour
    };
    object.change = Some(Change {
        kind,
        at: time(first + VISIBLE / 2),
        diameter: diameter(sizes[after]),
        colour,
        turned: object.turned ^ (kind == ChangeKind::Turns),
    });
    Some(object)
}

/// Two flashes of one segment, one or two segments apart. A frame that shows one of them says
/// only for the first and the last segments which was earlier.
fn flash_pair(rng: &mut ChaCha8Rng) -> [Window; 2] {
    let gap = if rng.random_bool(0.75) { 2 } else { 1 };
    let first = rng.random_range(0..SEGMENTS - gap);
    let window = |segment: u32| Window {
        from: f64::from(segment) / f64::from(SEGMENTS),
        to: f64::from(segment + 1) / f64::from(SEGMENTS),
    };
    [window(first), window(first + gap)]
}

/// A target that starts to move, and a second object that either comes up and hits it or, with
/// the same pictures in the opposite order, stands beside it and goes away before.
fn hit_pair(
    rng: &mut ChaCha8Rng,
    scene: &Scene,
    looks: &mut Looks,
    way: Direction,
    hits: bool,
) -> Option<[Object; 2]> {
    const APPROACH: f64 = 0.224;
    const PUSH: f64 = 0.24;
    let hitter_way = if hits { way } else { opposite(way) };
    let mut hitter = looks.object(rng, Role::Hitter, Shape::ALL, Some(hitter_way))?;
    let mut target = looks.object(rng, Role::Target, Shape::ALL, Some(way))?;
    hitter.diameter = rng.random_range(0.205..0.22);
    target.diameter = rng.random_range(0.205..0.22);
    let (dx, dy) = way.step();
    let side = if dx != 0.0 { scene.width } else { scene.height };
    let unit = f64::from(scene.shorter_side()) / f64::from(side);
    let contact = (hitter.diameter + target.diameter) / 2.0 * unit;
    let room = 1.0 - 2.0 * MARGIN - APPROACH - contact - PUSH;
    let from = MARGIN + rng.random_range(0.0..=room.max(0.0));
    let across = banded(rng);
    let point = |v: f64| {
        let v = if dx + dy > 0.0 { v } else { 1.0 - v };
        if dx != 0.0 { (v, across) } else { (across, v) }
    };
    // The hit comes late in segment `segment` (counted from 0), so that the middle of that
    // segment still sees both at rest beside each other.
    // Weights that keep early and late stages of the approach balanced in most frames.
    let segment = f64::from(*[1, 1, 2, 3, 3, 4, 4, 5, 6].choose(rng)?);
    let time = |s: f64| s / f64::from(SEGMENTS);
    let moment = time(segment + rng.random_range(0.7..0.9));
    let window = (segment - 2.0, segment + 1.0);
    let (far, near, place) =
        (point(from), point(from + APPROACH), point(from + APPROACH + contact));
    hitter.track = if hits {
        Track { from: far, to: near, start: time(window.0), end: moment }
    } else {
        let mirrored = |t: f64| 2.0 * (time(segment - 0.5) - earliness(scene)) - t;
        Track { from: near, to: far, start: mirrored(moment), end: mirrored(time(window.0)) }
    };
    hitter.visible = Window { from: time(window.0).max(0.0), to: time(window.1).min(1.0) };
    target.track = Track {
        from: place,
        to: point(from + APPROACH + contact + PUSH),
        start: moment,
        end: moment + time(1.2),
    };
    Some([hitter, target])
}

fn opposite(way: Direction) -> Direction {
    match way {
        Direction::Left => Direction::Right,
        Direction::Right => Direction::Left,
        Direction::Up => Direction::Down,
        Direction::Down => Direction::Up,
    }
}

/// A changer is named by its shape alone, so nothing else may have it.
fn shapes_are_clear(objects: &[Object]) -> bool {
    objects
        .iter()
        .filter(|object| object.role == Role::Changer)
        .all(|changer| objects.iter().filter(|other| other.shape == changer.shape).count() == 1)
}

/// No two objects touch while both are visible, but for a hit, and for crossings where allowed.
fn places_are_clear(scene: &Scene, objects: &[Object], crossing: bool) -> bool {
    let passes = |o: &Object| matches!(o.role, Role::Mover | Role::Racer);
    for (i, one) in objects.iter().enumerate() {
        for other in &objects[..i] {
            let roles = [one.role, other.role];
            if roles.contains(&Role::Hitter) && roles.contains(&Role::Target) {
                continue;
            }
            let lonely = roles
                .iter()
                .any(|role| matches!(role, Role::Hitter | Role::Target | Role::Changer));
            if crossing && (passes(one) || passes(other)) && !lonely {
                continue;
            }
            if nearest(scene, one, other).is_some_and(|gap| gap < 0.01) {
                return false;
            }
        }
    }
    true
}
