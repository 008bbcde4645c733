//! The date, as templates ask for it: `strftime` in UTC.

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
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Now, formatted. Where there is no clock it is 1970.
pub(super) fn now(format: &str) -> String {
    #[cfg(not(target_arch = "wasm32"))]
    let seconds =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    #[cfg(target_arch = "wasm32")]
    let seconds = 0;
    strftime(seconds, format)
}

/// Seconds since 1970 as `format` wants them. Directives that are not known stay as they are.
fn strftime(seconds: u64, format: &str) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day, of_year) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days as usize + 4) % 7]);
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let (directive, padded) = match rest.next() {
            Some('-') => (rest.next(), false),
            other => (other, true),
        };
        let two = |n: u64| if padded { format!("{n:02}") } else { n.to_string() };
        text += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('j') => format!("{of_year:03}"),
            Some('H') => two(hour),
            Some('I') => two((hour + 11) % 12 + 1),
            Some('M') => two(minute),
            Some('S') => two(second % 60),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name[..3].into(),
            Some('A') => day_name.into(),
            Some('a') => day_name[..3].into(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('%') => "%".into(),
            Some(other) => format!("%{other}"),
            None => "%".into(),
        };
    }
    text
}

/// Year, month, day and day of the year of a day that is counted from 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = days + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, of_year)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_those_of_strftime() {
        assert_eq!(strftime(0, "%d %b %Y %A %H:%M:%S"), "01 Jan 1970 Thursday 00:00:00");
        assert_eq!(strftime(951_827_696, "%F %T %a %j"), "2000-02-29 12:34:56 Tue 060");
        assert_eq!(strftime(1_735_689_599, "%B %-d, %Y %I %p"), "December 31, 2024 11 PM");
        assert_eq!(strftime(4_102_444_800, "%y%%%e%q%"), "00% 1%q%");
    }
}
