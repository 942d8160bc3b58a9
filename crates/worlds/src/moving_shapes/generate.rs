//! Draws scenes.
//!
//! Each draw is made so that no single frame of the clip tells the answer to a question about
//! time: see the comments at each kind of object.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::SEGMENTS;
use super::scene::{Background, Change, Event, EventKind, Object, Role, Scene, Track, Window};
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
    for _ in 0..200 {
        let mut looks = Looks::new(rng, scene.split);
        let mut objects = Vec::new();
        if plan.hit {
            objects.extend(hit_pair(rng, scene, &mut looks)?);
        }
        if plan.racers {
            objects.extend(racers(rng, &mut looks)?);
        }
        for _ in 0..plan.movers {
            objects.push(mover(rng, &mut looks)?);
        }
        if plan.changer {
            objects.push(changer(rng, &mut looks)?);
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
    way: Direction,
    from: f64,
    travel: f64,
    first: i32,
) -> (Track, Window) {
    let across = banded(rng);
    let (dx, dy) = way.step();
    let along = |v: f64| if dx + dy > 0.0 { v } else { 1.0 - v };
    let point = |v: f64| if dx != 0.0 { (along(v), across) } else { (across, along(v)) };
    let time = |segment: i32| f64::from(segment) / f64::from(SEGMENTS);
    let (start, end) = (time(first), time(first + VISIBLE));
    let track = Track { from: point(from), to: point(from + travel), start, end };
    (track, Window { from: start.max(0.0), to: end.min(1.0) })
}

/// A single frame shows a mover at one of four stages of its way. Which one cannot be told,
/// because it starts at a random time: before the clip, in it, or so late that the clip ends
/// first. So a place on the way fits a motion in one direction as well as in the other.
fn mover(rng: &mut ChaCha8Rng, looks: &mut Looks) -> Option<Object> {
    let way = direction(rng);
    let mut object = looks.object(rng, Role::Mover, Shape::ALL, Some(way))?;
    let from = rng.random_range(MARGIN..1.0 - MARGIN - FAST);
    let first = rng.random_range(-2..=6);
    (object.track, object.visible) = track(rng, way, from, FAST, first);
    Some(object)
}

/// A fast and a slow object, each seen on its whole way. The slow one's ways cover the same parts
/// of the picture as the fast one's.
fn racers(rng: &mut ChaCha8Rng, looks: &mut Looks) -> Option<[Object; 2]> {
    let mut racer = |travel: f64| {
        let way = direction(rng);
        let mut object = looks.object(rng, Role::Racer, Shape::ALL, Some(way))?;
        let from = if travel == FAST {
            rng.random_range(MARGIN..1.0 - MARGIN - FAST)
        } else {
            // Half of the slow way is on either side of a line of the grid.
            let line = f64::from(rng.random_range(1..=2)) / 3.0;
            line - SLOW / 2.0 + rng.random_range(-0.008..0.008)
        };
        let first = rng.random_range(0..=4);
        (object.track, object.visible) = track(rng, way, from, travel, first);
        Some(object)
    };
    Some([racer(FAST)?, racer(SLOW)?])
}

/// Seen for two segments before the change and for two after it, at a random time; sizes, colours
/// and attitudes are such that a single look says neither what it was nor what it will be.
fn changer(rng: &mut ChaCha8Rng, looks: &mut Looks) -> Option<Object> {
    const TURNABLE: [Shape; 3] = [Shape::Square, Shape::Triangle, Shape::Cross];
    let mut object = looks.object(rng, Role::Changer, &TURNABLE, None)?;
    let kind = ChangeKind::ALL[rng.random_range(0..ChangeKind::ALL.len())];
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

/// Two flashes of one segment, two or three segments apart. A frame that shows one of them says
/// only for the first and the last segments which was earlier.
fn flash_pair(rng: &mut ChaCha8Rng) -> [Window; 2] {
    let gap = if rng.random_bool(0.75) { 2 } else { 3 };
    let first = rng.random_range(0..SEGMENTS - gap);
    let window = |segment: u32| Window {
        from: f64::from(segment) / f64::from(SEGMENTS),
        to: f64::from(segment + 1) / f64::from(SEGMENTS),
    };
    [window(first), window(first + gap)]
}

/// A target that starts to move, and a second object that either comes up and hits it or, with
/// the same pictures in the opposite order, stands beside it and goes away before.
fn hit_pair(rng: &mut ChaCha8Rng, scene: &Scene, looks: &mut Looks) -> Option<[Object; 2]> {
    const APPROACH: f64 = 0.224;
    const PUSH: f64 = 0.24;
    let way = direction(rng);
    let hits = rng.random_bool(0.5);
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
    let segment = f64::from(rng.random_range(1..=6));
    let time = |s: f64| s / f64::from(SEGMENTS);
    let moment = time(segment + 0.8);
    let window = (segment - 2.0, segment + 1.0);
    let (far, near, place) =
        (point(from), point(from + APPROACH), point(from + APPROACH + contact));
    hitter.track = if hits {
        Track { from: far, to: near, start: time(window.0), end: moment }
    } else {
        Track { from: near, to: far, start: time(window.0 + 0.2), end: time(window.1) }
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

/// Smallest distance between the outlines of two objects while both are visible, flashes
/// included; `None` if they never are.
fn nearest(scene: &Scene, one: &Object, other: &Object) -> Option<f64> {
    const STEPS: u32 = 64;
    let radius = |object: &Object, diameter: f64| {
        diameter / 2.0 * if object.flash.is_some() { 1.4 } else { 1.08 }
    };
    (0..=STEPS)
        .filter_map(|step| {
            let time = f64::from(step) / f64::from(STEPS);
            let (a, b) = (one.state(time)?, other.state(time)?);
            let reach = radius(one, a.diameter) + radius(other, b.diameter);
            Some(scene.distance((a.x, a.y), (b.x, b.y)) - reach)
        })
        .reduce(f64::min)
}

/// What happens, read off the objects.
fn events(scene: &Scene) -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |time: f64, kind, object, other| {
        if time > 0.0 && time < 1.0 {
            events.push(Event { time: time * scene.duration(), kind, object, other });
        }
    };
    for (i, object) in scene.objects.iter().enumerate() {
        add(object.visible.from, EventKind::Appears, i, None);
        add(object.visible.to, EventKind::Disappears, i, None);
        if object.track.direction().is_some() {
            add(object.track.start, EventKind::StartsToMove, i, None);
            add(object.track.end, EventKind::Stops, i, None);
        }
        if let Some(flash) = object.flash {
            add(flash.from.max(f64::EPSILON), EventKind::Flashes, i, None);
        }
        if let Some(change) = object.change {
            let kind = match change.kind {
                ChangeKind::Grows => EventKind::Grows,
                ChangeKind::Shrinks => EventKind::Shrinks,
                ChangeKind::ChangesColour => EventKind::ChangesColour,
                ChangeKind::Turns => EventKind::Turns,
            };
            add(change.at, kind, i, None);
        }
        for (j, other) in scene.objects.iter().enumerate() {
            if object.role == Role::Target
                && other.role == Role::Hitter
                && other.track.direction() == object.track.direction()
            {
                add(object.track.start, EventKind::IsHit, i, Some(j));
            }
            let moves = matches!(object.role, Role::Mover | Role::Racer);
            let apart = ![Role::Hitter, Role::Target].contains(&other.role);
            if i != j && moves && apart && nearest(scene, object, other).is_some_and(|g| g < 0.0) {
                let time = crossing_time(scene, object, other);
                add(time, EventKind::Crosses, i, Some(j));
            }
        }
    }
    events.sort_by(|a, b| a.time.total_cmp(&b.time).then(a.object.cmp(&b.object)));
    events
}

/// When two objects are closest.
fn crossing_time(scene: &Scene, one: &Object, other: &Object) -> f64 {
    let distance = |time: f64| match (one.state(time), other.state(time)) {
        (Some(a), Some(b)) => scene.distance((a.x, a.y), (b.x, b.y)),
        _ => f64::INFINITY,
    };
    (1..64)
        .map(|step| f64::from(step) / 64.0)
        .min_by(|a, b| distance(*a).total_cmp(&distance(*b)))
        .unwrap_or(0.5)
}
