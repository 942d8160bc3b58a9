//! When the next call may be made: at most so many at once, none while the server asks for rest, and a
//! failed one after a wait with full jitter.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest sleep in one piece, so that an interruption is soon seen.
const SLICE: Duration = Duration::from_millis(50);

/// What all calls of an endpoint share.
#[derive(Debug)]
pub(crate) struct Pace {
    most: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    not_before: Option<Instant>,
}

/// A place among the calls under way, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Pace);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.freed.notify_one();
    }
}

impl Pace {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default(), freed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place and for the end of a pause; `None` once `stop` says so.
    pub(crate) fn place(&self, stop: &dyn Fn() -> bool) -> Option<Place<'_>> {
        let mut state = self.state();
        loop {
            if stop() {
                return None;
            }
            let now = Instant::now();
            let rest = state.not_before.and_then(|until| until.checked_duration_since(now));
            let wait = match rest.filter(|rest| !rest.is_zero()) {
                Some(rest) => rest.min(SLICE),
                None if state.under_way < self.most => {
                    state.under_way += 1;
                    return Some(Place(self));
                }
                None => SLICE,
            };
            let waited = self.freed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// No call begins for so long.
    pub(crate) fn pause(&self, rest: Duration) {
        let Some(until) = Instant::now().checked_add(rest) else { return };
        let mut state = self.state();
        state.not_before = Some(state.not_before.map_or(until, |before| before.max(until)));
    }
}

/// Sleeps; false once `stop` says so.
pub(crate) fn sleep(rest: Duration, stop: &dyn Fn() -> bool) -> bool {
    let begin = Instant::now();
    while let Some(left) = rest.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        if stop() {
            return false;
        }
        std::thread::sleep(left.min(SLICE));
    }
    !stop()
}

/// The wait before further try `attempt` (from 1): uniform between 0 and `base` doubled with each try,
/// at most `most`. It is drawn from (name, attempt) alone.
pub(crate) fn jitter(name: &[u8], attempt: u32, base: Duration, most: Duration) -> Duration {
    let doubled = base.saturating_mul(1 << (attempt - 1).min(30)).min(most);
    let mut hash = blake3::Hasher::new();
    hash.update(b"savi-endpoint wait\0").update(&attempt.to_le_bytes()).update(name);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    // The upper 53 bits are a uniform f64.
    doubled.mul_f64((u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64)
}

/// How long a server asks to wait, by its headers: `retry-after-ms`, `retry-after` (seconds or a date).
pub(crate) fn retry_after<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    if let Some(wait) = header("retry-after-ms").and_then(|text| text.trim().parse().ok()) {
        return Duration::try_from_secs_f64(f64::max(wait, 0.0) / 1e3).ok();
    }
    let text = header("retry-after")?.trim();
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds.max(0.0)).ok(),
        Err(_) => Some(until(http_date(text)?)),
    }
}

/// How long nothing more is allowed, by `x-ratelimit-remaining-*` and `x-ratelimit-reset-*`.
pub(crate) fn used_up<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    let rest = |kind: &str| {
        let left: f64 = header(&format!("x-ratelimit-remaining{kind}"))?.trim().parse().ok()?;
        let reset = header(&format!("x-ratelimit-reset{kind}"))?;
        (left <= 0.0).then(|| reset_time(reset.trim())).flatten()
    };
    ["", "-requests", "-tokens"].into_iter().filter_map(rest).max()
}

/// `6m0s`, `1.5s`, `20ms`; a number is seconds, or a moment since 1970 in seconds or milliseconds where it
/// is as large as that.
fn reset_time(text: &str) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        return match number {
            n if n > 1e11 => Some(until(Duration::try_from_secs_f64(n / 1e3).ok()?)),
            n if n > 1e9 => Some(until(Duration::try_from_secs_f64(n).ok()?)),
            n => Duration::try_from_secs_f64(n).ok(),
        };
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// From now to a moment since 1970.
fn until(moment: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    moment.saturating_sub(now)
}

/// `Wed, 21 Oct 2015 07:28:00 GMT` since 1970.
fn http_date(text: &str) -> Option<Duration> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = MONTHS.find(words.next().filter(|month| month.len() == 3)?)? as i64 / 3 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let clock: Vec<i64> = words.next()?.split(':').map_while(|part| part.parse().ok()).collect();
    let [hour, minute, second] = clock[..] else { return None };
    // Days since 1970 in the Gregorian calendar; years begin in March, so that leap days come last.
    let years = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = years * 365 + years / 4 - years / 100 + years / 400 + day_of_year - 719_468;
    u64::try_from(days * 86400 + hour * 3600 + minute * 60 + second).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_rate_limits() {
        let check = |pairs: &[(&str, &str)], after: Option<f64>, used: Option<f64>| {
            let header = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1);
            assert_eq!(retry_after(header).map(|d| d.as_secs_f64()), after, "{pairs:?}");
            assert_eq!(used_up(header).map(|d| d.as_secs_f64()), used, "{pairs:?}");
        };
        check(&[], None, None);
        check(&[("retry-after", "2")], Some(2.0), None);
        check(&[("retry-after", "0.5")], Some(0.5), None);
        check(&[("retry-after-ms", "250"), ("retry-after", "2")], Some(0.25), None);
        check(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], Some(0.0), None);
        check(&[("retry-after", "soon")], None, None);
        let requests = "x-ratelimit-remaining-requests";
        let reset = "x-ratelimit-reset-requests";
        check(&[(requests, "3"), (reset, "1s")], None, None);
        check(&[(requests, "0"), (reset, "6m0s")], None, Some(360.0));
        check(&[(requests, "0"), (reset, "1h1.5s")], None, Some(3601.5));
        check(&[(requests, "0"), (reset, "20ms")], None, Some(0.02));
        check(&[(requests, "0"), (reset, "7")], None, Some(7.0));
        check(&[(requests, "0"), (reset, "1000000000000")], None, Some(0.0));
        check(&[(requests, "0"), (reset, "a while")], None, None);
        check(
            &[
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "3s"),
                (requests, "0"),
                (reset, "1s"),
            ],
            None,
            Some(3.0),
        );
    }

    #[test]
    fn dates_are_counted_from_1970() {
        let seconds = |text| http_date(text).map(|moment| moment.as_secs());
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(seconds("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(seconds("Thu, 01 Jan 1970"), None);
    }

    #[test]
    fn waits_are_drawn_between_nothing_and_a_bound_that_doubles() {
        let (base, most) = (Duration::from_secs(1), Duration::from_secs(5));
        for (attempt, bound) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (90, 5.0)] {
            let waits: Vec<f64> = (0..200u32)
                .map(|name| jitter(&name.to_le_bytes(), attempt, base, most).as_secs_f64())
                .collect();
            let mean = waits.iter().sum::<f64>() / 200.0;
            assert!(waits.iter().all(|wait| (0.0..=bound).contains(wait)));
            assert!((mean / bound - 0.5).abs() < 0.1, "{mean} of {bound}");
        }
        assert_eq!(jitter(b"a", 1, base, most), jitter(b"a", 1, base, most));
        assert_ne!(jitter(b"a", 1, base, most), jitter(b"b", 1, base, most));
    }

    #[test]
    fn a_pause_holds_for_all() {
        let pace = Pace::new(2);
        let begin = Instant::now();
        pace.pause(Duration::from_millis(120));
        pace.pause(Duration::from_millis(10));
        let place = pace.place(&|| false);
        assert!(place.is_some() && begin.elapsed() >= Duration::from_millis(120));
        assert!(pace.place(&|| true).is_none());
    }
}
