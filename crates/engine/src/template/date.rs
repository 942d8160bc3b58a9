//! The date that templates write into prompts: Python's `strftime`, in UTC and in English.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Seconds since 1970: those of `SOURCE_DATE_EPOCH`, by which builds and runs become repeatable, or the clock's.
pub(super) fn now() -> i64 {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    fixed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        i64::try_from(since).unwrap_or(0)
    })
}

/// The time in words.
pub(super) fn written(seconds: i64, format: &str) -> Result<String, String> {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, date) = civil(day);
    let weekday = (day + 3).rem_euclid(7);
    let of_year = day - days(year, 1, 1) + 1;
    let name = |names: &[&'static str], i: i64| names.get(i as usize).copied().unwrap_or("");
    let (of_week, of_months) = (name(&DAYS, weekday), name(&MONTHS, month - 1));
    let half = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let code = letters.next();
        // A dash leaves out leading zeros.
        let (bare, code) = if code == Some('-') { (true, letters.next()) } else { (false, code) };
        let number = |value: i64, width: usize| {
            if bare { value.to_string() } else { format!("{value:0width$}") }
        };
        let piece = match code {
            Some('d') => number(date, 2),
            Some('m') => number(month, 2),
            Some('H') => number(hour, 2),
            Some('I') => number(half, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('j') => number(of_year, 3),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('Y') => number(year, 4),
            Some(code) if bare => return Err(format!("strftime_now does not know %-{code}")),
            Some('e') => format!("{date:2}"),
            Some('f') => "000000".to_owned(),
            Some('B') => of_months.to_owned(),
            Some('b' | 'h') => of_months.get(..3).unwrap_or("").to_owned(),
            Some('A') => of_week.to_owned(),
            Some('a') => of_week.get(..3).unwrap_or("").to_owned(),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('u') => (weekday + 1).to_string(),
            Some('w') => ((weekday + 1) % 7).to_string(),
            Some('s') => seconds.to_string(),
            // Python's own clock has no zone here.
            Some('z' | 'Z') => String::new(),
            Some('n') => "\n".to_owned(),
            Some('t') => "\t".to_owned(),
            Some('%') => "%".to_owned(),
            Some('F') => written(seconds, "%Y-%m-%d")?,
            Some('T' | 'X') => written(seconds, "%H:%M:%S")?,
            Some('R') => written(seconds, "%H:%M")?,
            Some('D' | 'x') => written(seconds, "%m/%d/%y")?,
            Some('c') => written(seconds, "%a %b %e %H:%M:%S %Y")?,
            Some(code) => return Err(format!("strftime_now does not know %{code}")),
            None => return Err("strftime_now got a format that ends in %".to_owned()),
        };
        out.push_str(&piece);
    }
    Ok(out)
}

/// Year, month and day of a day counted from 1970, in the Gregorian calendar.
fn civil(day: i64) -> (i64, i64, i64) {
    let mut year = 1970 + day.div_euclid(366);
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|&month| days(year, month, 1) <= day).unwrap_or(1);
    (year, month, day - days(year, month, 1) + 1)
}

/// Days from 1970 to a date.
fn days(year: i64, month: i64, date: i64) -> i64 {
    // Years that start in March have their leap day at the end; their months follow one formula.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leaps + (153 * month + 2) / 5 + date - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, told) in [
            (0, "Thu Jan  1 00:00:00 1970 001"),
            (951_782_399, "Mon Feb 28 23:59:59 2000 059"),
            (951_782_400, "Tue Feb 29 00:00:00 2000 060"),
            (1_721_952_000, "Fri Jul 26 00:00:00 2024 208"),
            (1_735_689_599, "Tue Dec 31 23:59:59 2024 366"),
            (-1, "Wed Dec 31 23:59:59 1969 365"),
            (253_402_300_799, "Fri Dec 31 23:59:59 9999 365"),
        ] {
            assert_eq!(written(seconds, "%c %j").unwrap(), told);
        }
        assert_eq!(
            written(1_725_192_300, "%-d.%-m.%y %-I:%M %p, %A %B %%").unwrap(),
            "1.9.24 12:05 PM, Sunday September %"
        );
        assert!(written(0, "%Q").unwrap_err().contains("%Q"));
        assert!(written(0, "a%").is_err());
    }
}
