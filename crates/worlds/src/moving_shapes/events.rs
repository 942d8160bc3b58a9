//! What happens in a scene, read off its objects, and who comes near whom.

use super::scene::{Event, EventKind, Object, Role, Scene};
use super::vocab::ChangeKind;

/// Smallest distance between the outlines of two objects while both are visible, flashes
/// included; `None` if they never are.
pub(super) fn nearest(scene: &Scene, one: &Object, other: &Object) -> Option<f64> {
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
pub(super) fn events(scene: &Scene) -> Vec<Event> {
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
